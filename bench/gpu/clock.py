"""Times on a GPU, by its own events: of CuPy's work, and of PyTorch's."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

Call = Callable[[], Any]
SLOW = 50.0  # milliseconds: what takes longer is timed once
LAUNCHES = 200.0  # milliseconds of launches between two events at most


class CupyClock:
    """Events and graphs of CuPy, in a stream of its own, which becomes the current one."""

    def __init__(self, cupy: Any) -> None:
        self.cuda = cupy.cuda
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.stream.use()

    def ms(self, work: Call) -> float:
        """Of all that `work` starts."""
        start, end = self.cuda.Event(), self.cuda.Event()
        start.record(self.stream)
        work()
        end.record(self.stream)
        end.synchronize()
        return self.cuda.get_elapsed_time(start, end)

    def captured(self, calls: Sequence[Call]) -> Call:
        """One launch that does what the calls do."""
        self.stream.begin_capture()
        try:
            kept = [call() for call in calls]
        except BaseException:
            with suppress(Exception):  # the capture is broken, and why is what matters
                self.stream.end_capture()
            raise
        graph = self.stream.end_capture()

        def replay() -> list[Any]:
            graph.launch(self.stream)
            return kept  # results stay where the graph writes them

        return replay


class TorchClock:
    """The same of PyTorch, in its current stream."""

    def __init__(self, torch: Any) -> None:
        self.cuda = torch.cuda

    def ms(self, work: Call) -> float:
        """Of all that `work` starts."""
        start, end = (self.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def captured(self, calls: Sequence[Call]) -> Call:
        """One launch that does what the calls do."""
        graph = self.cuda.CUDAGraph()
        with self.cuda.graph(graph):
            kept = [call() for call in calls]

        def replay() -> list[Any]:
            graph.replay()
            return kept

        return replay


def timed(clock: Any, calls: Sequence[Call], seconds: float) -> dict[str, Any]:
    """Milliseconds of one of the calls, which do the same to different arrays: median, quartiles, and how many times.

    All are captured as one graph, so that Python's time is not in it, and each finds its arrays out of the cache.
    """
    gc.collect()
    clock.ms(calls[0])  # compiles, and chooses algorithms
    once = clock.ms(calls[0])
    if once > SLOW:
        return {"ms": once, "quartiles": [once, once], "times": 1}
    calls = calls[: max(2, int(LAUNCHES / max(once, 1e-3)))]
    for call in calls:  # what they copy to the device for their arrays cannot be captured
        call()
    replay = clock.captured(calls)
    clock.ms(replay)
    first = clock.ms(replay)
    repeats = max(1, round(1 / max(first, 1e-3)))  # an event's own time is some microseconds

    def work() -> None:
        for _ in range(repeats):
            replay()

    count = min(max(int(seconds * 1e3 / first / repeats), 3), 50)
    times = [clock.ms(work) / repeats / len(calls) for _ in range(count)]
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return {"ms": median, "quartiles": [low, high], "times": count * repeats * len(calls)}

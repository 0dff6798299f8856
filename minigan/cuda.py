"""The part of `torch.cuda` that scripts call, with or without a GPU. CuPy is imported on first need only.

The types `cuda.FloatTensor`, `cuda.LongTensor`, … are here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from minigan import random
from minigan.backend import Backend, get_backend
from minigan.graphs import CaptureError, GraphedStep
from minigan.kernels.cuda.memory import OutOfMemoryError
from minigan.legacy import CUDA_TYPES as _CUDA_TYPES

__all__ = [
    "CaptureError", "Event", "OutOfMemoryError", "Stream", "current_device", "current_stream", "device_count",
    "empty_cache", "get_device_name", "graph", "is_available", "manual_seed", "manual_seed_all",
    "max_memory_allocated", "memory_allocated", "memory_reserved", "reset_peak_memory_stats", "stream", "synchronize",
]  # fmt: skip

globals().update(_CUDA_TYPES)


def is_available() -> bool:
    """Whether tensors can be put on a GPU: CuPy, the driver and a device are there.

    >>> device = "cuda" if is_available() else "cpu"
    """
    if find_spec("cupy") is None:
        return False
    try:
        get_backend("cuda")
    except RuntimeError:
        return False
    return True


def device_count() -> int:
    """The number of GPUs that tensors can be put on: 1, or 0 where there is none, or no CuPy."""
    return int(is_available())


def current_device() -> int:
    """The index of the GPU that 'cuda' means."""
    index = get_backend("cuda").device.index
    assert index is not None
    return index


def _backend(device: Any = None) -> Backend:
    return get_backend("cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else device)


def get_device_name(device: Any = None) -> str:
    """What the GPU's maker calls it."""
    B = _backend(device)
    return str(B.xp.cuda.runtime.getDeviceProperties(B.device.index)["name"].decode())


def manual_seed(seed: int) -> None:
    """Seed all random numbers: there is one seed for all devices. Without a GPU, as in PyTorch, nothing happens."""
    if is_available():
        random.manual_seed(seed)


manual_seed_all = manual_seed


def synchronize(device: Any = None) -> None:
    """Wait until the GPU has done everything asked of it."""
    B = _backend(device)
    if B.device.type == "cuda":
        B.xp.cuda.Device(B.device.index).synchronize()


# Graphs ---------------------------------------------------------------------------------------------------------------


def graph(step: Callable[..., Any], *, device: Any = "cuda", warmup: int = 3) -> Callable[..., Any]:
    """A function that does what `step` does, without its cost on the host: captured once, and replayed.

    The first `warmup` calls run `step` as it is. The next one captures it: it runs once more, and its kernels become a
    graph, which this call and all later ones launch. What a replay computes is what the step would, bit for bit. Give
    it a whole training step: passes of both networks, their optimisers' steps, averages of weights, random numbers.

    - Arguments that are tensors or arrays, on any device, are copied into memory that the graph reads. Other arguments
      must be equal: for others, and for other shapes and dtypes, the step is warmed up and captured on its own.
    - What it returns is the same tensors each time, and the next replay writes over them: clone what is to be kept.
    - Learning rates and other options of an optimiser, its step counts, schedules that are stepped within, random
      states and `state_dict`s are as if the step had run. Any other Python in the step is run while capturing alone.
    - Values on the way are not known: `item()`, `float()`, `if` on a tensor, indices by masks, and tensors made from
      lists raise a CaptureError. Change nothing else than tensors' values between calls: not `train()` or `eval()`.

    >>> from minigan import optim, randn, tensor
    >>> w = tensor([1.0], device="cuda", requires_grad=True)         # doctest: +SKIP
    >>> adam = optim.Adam([w])                                       # doctest: +SKIP
    >>> def step(x):
    ...     adam.zero_grad()
    ...     loss = ((w - x) ** 2).mean()
    ...     loss.backward()
    ...     adam.step()
    ...     return loss
    >>> fast = graph(step)                                           # doctest: +SKIP
    >>> losses = [fast(randn(8)).item() for _ in range(100)]         # doctest: +SKIP
    """
    B = get_backend(device)
    if not hasattr(getattr(B.kernels, "device", None), "capture"):
        raise RuntimeError(f"graph: device '{B.device}' cannot capture steps, expected a GPU; call the step as it is")
    return GraphedStep(step, B, warmup)


# Precision ------------------------------------------------------------------------------------------------------------


def set_float32_matmul_precision(precision: str) -> None:
    """How GPUs multiply matrices and convolve in float32: "highest" in float32, "high" in TF32, "medium" in bfloat16.

    Of each factor TF32 keeps 10 bits behind the point and bfloat16 keeps 7; sums are made in float32 always. No effect
    on the CPU, nor on a step that is captured already.

    >>> set_float32_matmul_precision("high")
    >>> get_float32_matmul_precision()
    'high'
    >>> set_float32_matmul_precision("highest")
    """
    if precision not in ("highest", "high", "medium"):
        raise RuntimeError(f"float32 matmul precision: got {precision!r}, expected 'highest', 'high' or 'medium'")
    from minigan.kernels.cuda.kernels import Kernels

    Kernels.precision = precision


def get_float32_matmul_precision() -> str:
    """What `set_float32_matmul_precision` was given last; "highest" at first."""
    from minigan.kernels.cuda.kernels import Kernels

    return Kernels.precision


# Memory ---------------------------------------------------------------------------------------------------------------


def _pools() -> Any:
    return get_backend("cuda").kernels.device.pools


def memory_allocated(device: Any = None) -> int:
    """Bytes of the GPU that tensors have, and captured steps; 0 without a GPU."""
    return int(_pools().used()) if is_available() else 0


def memory_reserved(device: Any = None) -> int:
    """Bytes that were taken from the GPU, also for tensors to come; 0 without a GPU."""
    return int(_pools().reserved()) if is_available() else 0


def max_memory_allocated(device: Any = None) -> int:
    """The most bytes that tensors had since `reset_peak_memory_stats`; before its first call, `memory_reserved`."""
    return int(_pools().most_used()) if is_available() else 0


def reset_peak_memory_stats(device: Any = None) -> None:
    """Begin to count what `max_memory_allocated` tells, from what is allocated now; without a GPU, nothing happens."""
    if is_available():
        _pools().count()


def empty_cache() -> None:
    """Give unused GPU memory back; without a GPU, nothing happens."""
    if is_available():
        get_backend("cuda").xp.get_default_memory_pool().free_all_blocks()


# Streams --------------------------------------------------------------------------------------------------------------


class Stream:
    """A queue of work on the GPU, beside others. `with stream(s):` what follows goes into it.

    >>> side = Stream()                                              # doctest: +SKIP
    >>> side.wait_stream(current_stream())                           # doctest: +SKIP
    >>> with stream(side):                                           # doctest: +SKIP
    ...     y = x @ x
    >>> current_stream().wait_stream(side)                           # doctest: +SKIP
    """

    def __init__(self, device: Any = None, priority: int = 0, *, queue: Any = None) -> None:
        self._queue = queue or _backend(device).xp.cuda.Stream(non_blocking=True, priority=priority)

    def synchronize(self) -> None:
        """Wait until all of its work is done."""
        self._queue.synchronize()

    def query(self) -> bool:
        """Whether all of its work is done."""
        return bool(self._queue.done)

    def record_event(self, event: Event | None = None) -> Event:
        """An event that happens when the work so far is done."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Have further work wait for an event."""
        self._queue.wait_event(event._event)

    def wait_stream(self, other: Stream) -> None:
        """Have further work wait for what another stream has been given so far."""
        self.wait_event(other.record_event())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self._queue == other._queue

    def __hash__(self) -> int:
        return hash(self._queue)


def current_stream(device: Any = None) -> Stream:
    """The stream that work goes into now."""
    return Stream(queue=_backend(device).xp.cuda.get_current_stream())


@contextmanager
def stream(stream: Stream | None) -> Iterator[None]:
    """Within: work goes into that stream; None changes nothing."""
    if stream is None:
        yield
        return
    with stream._queue:
        yield


class Event:
    """A point in a stream's work, to wait for, or to measure times by.

    >>> start, end = Event(enable_timing=True), Event(enable_timing=True)       # doctest: +SKIP
    >>> start.record(); y = x @ x; end.record(); end.synchronize()              # doctest: +SKIP
    >>> milliseconds = start.elapsed_time(end)                                  # doctest: +SKIP
    """

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        events = get_backend("cuda").xp.cuda
        self._event = events.Event(block=blocking, disable_timing=not enable_timing, interprocess=interprocess)
        self._timed, self._elapsed = enable_timing, events.get_elapsed_time

    def record(self, stream: Stream | None = None) -> None:
        """Let it happen when the stream, by default the current one, has done its work so far."""
        (stream or current_stream())._queue.record(self._event)

    def synchronize(self) -> None:
        """Wait until it has happened."""
        self._event.synchronize()

    def query(self) -> bool:
        """Whether it has happened."""
        return bool(self._event.done)

    def wait(self, stream: Stream | None = None) -> None:
        """Have the stream's further work, by default the current one's, wait for it."""
        (stream or current_stream()).wait_event(self)

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds from this event to another; both must have happened."""
        if not (self._timed and end_event._timed):
            raise RuntimeError("elapsed_time: both events need Event(enable_timing=True)")
        return float(self._elapsed(self._event, end_event._event))

"""One contender in a process of its own: `bench.contest` starts it, and asks for one measurement at a time.

    python -m bench.child '{"way": "minigan", "threads": 2, "what": "step", "step": "mlp", "batch": 64, "seconds": 0}'

A line of JSON says that it is ready. Then for each name that comes as a line, one with its milliseconds goes back;
after the last, when its input ends, one with its memory in MB (after the import alone, and at its peak), and, of a
step of minigan, where its time goes.
"""

from __future__ import annotations

import gc
import importlib
import json
import signal
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from bench import layers
from bench.steps import WAYS

Prepare = Callable[[], Callable[[], Any]]
MOST = 50  # calls in one measurement


def memory_mb(field: str) -> float:
    """A field of this process's status: VmRSS (now) or VmHWM (the most so far)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024


def measures(job: dict[str, Any]) -> dict[str, Prepare]:
    """What there is to time, by name: each prepares a call, and returns it."""
    if job["what"] == "layers":
        return layers.measures(job["way"], job["batch"])
    step = WAYS[job["way"]].step(job["step"], job["batch"])
    return {job["step"]: lambda: step}


def profiled(step: Callable[[], Any]) -> dict[str, Any]:
    """One more step by operation, and its floating-point operations by the direct algorithm."""
    from minigan.profiler import profile

    with profile() as p:
        step()
    return {"profile": p.table(12), "flops": sum(row.flops for row in p.rows())}


def milliseconds(prepare: Prepare) -> float:
    """Of one call. What it returns is dropped after the clock has stopped."""
    call = prepare()
    start = time.perf_counter()
    result = call()
    elapsed = time.perf_counter() - start
    del result
    return elapsed * 1e3


def measurement(prepare: Prepare, calls: int) -> float:
    """The median of so many calls; if they are short, after one that fetches what others put out of the caches."""
    if calls > 1:
        milliseconds(prepare)
    return statistics.median(milliseconds(prepare) for _ in range(calls))


def say(**facts: Any) -> None:
    """A line to the parent."""
    print(json.dumps(facts), flush=True)


def main(job: dict[str, Any]) -> None:
    """Make ready, answer, and sum up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes this one's input
    lib: Any = importlib.import_module(WAYS[job["way"]].library)
    lib.set_num_threads(job["threads"])
    imported = memory_mb("VmRSS")
    found = measures(job)
    warm = {name: [milliseconds(prepare) for _ in range(2)][-1] for name, prepare in found.items()}
    calls = {name: min(max(int(job["seconds"] * 1e3 / ms), 1), MOST) for name, ms in warm.items()}
    gc.collect()
    say(ready=True)
    for line in sys.stdin:
        name = line.strip()
        say(ms=measurement(found[name], calls[name]))
    memory = {"imported": imported, "peak": memory_mb("VmHWM")}
    say(**memory, **(profiled(found[job["step"]]()) if job["what"] == "step" and lib.__name__ == "minigan" else {}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

"""What `bench.gpu.worker` starts: a process that checks kernels, times rungs or PyTorch's operations, or takes steps.

    python -m bench.gpu.child '{"role": "checks"}'

Says that it is ready, then answers each line, the name of a check, of a case and its rung, or of a figure of a step.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

Answer = Callable[[str], dict[str, Any]]
RANDOM = 1 << 26  # values to cut arrays from
CACHES = 4  # arrays take so many times the L2


def checking(job: dict[str, Any]) -> Answer:
    """Answers the name of a check."""
    from bench.gpu.checks import checks
    from minigan.kernels.cuda.device import CudaDevice

    device, known = CudaDevice(), checks()
    return lambda name: known[name](device, int.from_bytes(os.urandom(4), "little"))


def rungs(job: dict[str, Any]) -> Answer:
    """Answers "card", or the name of a case and a rung of ours."""
    import cupy

    from bench.gpu import card
    from bench.gpu.cases import Values, cases
    from bench.gpu.clock import CupyClock, timed
    from minigan.kernels.cuda.device import CudaDevice

    device, clock, known = CudaDevice(), CupyClock(cupy), cases(job["batch"])
    values = Values(cupy.asarray(random_values()))
    l2 = cupy.cuda.runtime.getDeviceProperties(0)["l2CacheSize"]

    def answer(name: str) -> dict[str, Any]:
        if name == "card":
            return card.measured(cupy, clock)
        case, _, rung = name.partition("|")
        _, maker = known[case].ours[rung]
        calls = [maker(device, values) for _ in range(sets(known[case].bytes, l2))]
        return timed(clock, calls, job["seconds"])

    return answer


def operations(job: dict[str, Any]) -> Answer:
    """Answers the name of a case and a way of PyTorch."""
    import torch

    from bench.gpu.cases import Values, cases
    from bench.gpu.clock import TorchClock, timed

    torch.backends.cudnn.benchmark = True
    clock, known, flat = TorchClock(torch), cases(job["batch"]), torch.from_numpy(random_values()).cuda()
    values = {"fp32": Values(flat), "bf16": Values(flat.bfloat16())}
    l2 = torch.cuda.get_device_properties(0).L2_cache_size

    def answer(name: str) -> dict[str, Any]:
        case, _, way = name.partition("|")
        _, maker = known[case].theirs[way]
        with torch.no_grad():
            calls = [maker(torch, values) for _ in range(sets(known[case].bytes, l2))]
            return timed(clock, calls, job["seconds"])

    return answer


def steps(job: dict[str, Any]) -> Answer:
    """Answers "ms", of a step, and "memory", in MB; before it is ready it has compiled, and captured its graph."""
    from bench.gpu.ways import WAYS

    contender = WAYS[job["way"]].prepare(job["step"], job["batch"])
    contender.losses()
    losses = contender.losses()
    if not all(map(math.isfinite, losses)):
        raise FloatingPointError(f"losses are {losses}")
    calls = min(max(round(job["seconds"] * 1e3 / contender.ms(3)), 1), 1000)

    def answer(name: str) -> dict[str, Any]:
        if name == "memory":
            return {"mb": contender.peak_memory() / 2**20, "losses": contender.losses()}
        start = time.perf_counter()
        ms = contender.ms(calls)
        host = (time.perf_counter() - start) * 1e3 / calls
        if ms < 0.8 * host and calls > 1:
            raise RuntimeError(f"events saw {ms:.3f} ms a step, the host {host:.3f}: work is not in the timed stream")
        return {"ms": ms, "host": host}

    return answer


def random_values() -> np.ndarray[Any, Any]:
    """Normal ones."""
    return np.random.default_rng().standard_normal(RANDOM, np.float32)


def sets(bytes: int, l2: int) -> int:
    """How many sets of arrays of so many bytes there are to be, so that the cache does not hold them."""
    return min(max(-(-CACHES * l2 // bytes), 2), 64)


ROLES = {"checks": checking, "rungs": rungs, "operations": operations, "steps": steps}


def failed(error: Exception) -> dict[str, Any]:
    """What to say of an error; it ends the process if the GPU's context is broken, as it is after a wrong address."""
    traceback.print_exc()
    said = f"{type(error).__name__}: {error}".strip().split("\n")[0]
    return {"error": said[:300], "ended": context_is_broken()}


def context_is_broken() -> bool:
    """Whether CUDA has nothing but errors from here on."""
    try:
        if "cupy" in sys.modules:
            sys.modules["cupy"].cuda.runtime.deviceSynchronize()
        if "torch" in sys.modules:
            sys.modules["torch"].cuda.synchronize()
    except Exception:  # either library's own error: whatever it is, nothing on this context can be trusted any more
        return True
    return False


def main(job: dict[str, Any]) -> None:
    """Make ready, and answer. Standard output is for answers alone: what libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(facts: dict[str, Any]) -> None:
        print(json.dumps(facts), file=out, flush=True)

    try:
        answer = ROLES[job["role"]](job)
    except Exception as error:
        say(failed(error) | {"ended": True})
        return
    say({"ready": True})
    for line in sys.stdin:
        try:
            reply = answer(line.strip())
        except Exception as error:
            reply = failed(error)
        say(reply)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

"""The machine that figures are from: what it is, and what its matrix products reach.

    python -m bench.machine SECONDS SIZE ...

prints the GFLOP/s of the fastest of the products of square matrices of these sizes, as many as fit in the time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni")
ROOT = Path(__file__).resolve().parent.parent
SIZES = (1024, 1536, 2048)


def machine() -> str:
    """The processor, which of the instructions that matter here it has, and the versions."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    facts = {key.strip(): value.strip() for key, _, value in lines}
    said = [f"{facts.get('model name', '?')} ({len(os.sched_getaffinity(0))} cores)"]
    said += [name if name in facts.get("flags", "").split() else f"no {name}" for name in INSTRUCTIONS]
    said += [f"{name} {version(name)}" for name in ("numpy", "onnxruntime", "torch") if find_spec(name)]
    return ", ".join(said)


def with_threads(threads: int) -> dict[str, str]:
    """The environment of a process whose libraries are to use so many threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return os.environ | dict.fromkeys(names, str(threads))


def sgemm_peak(threads: int, seconds: float = 4.0, sizes: tuple[int, ...] = SIZES) -> float:
    """GFLOP/s of the best product of matrices of single precision in NumPy, measured in a process of its own."""
    command = [sys.executable, "-m", "bench.machine", *map(str, (seconds, *sizes))]
    run = subprocess.run(command, env=with_threads(threads), cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return float(run.stdout)


def best_product(seconds: float, sizes: list[int]) -> float:
    """GFLOP/s of the fastest of as many products as fit in the time, and two of each size at least."""
    import numpy as np

    best = 0.0
    for size in sizes:
        a, b = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
        out, end, calls = np.empty_like(a), time.perf_counter() + seconds / len(sizes), 0
        while calls < 2 or time.perf_counter() < end:
            start = time.perf_counter()
            np.matmul(a, b, out=out)
            best, calls = max(best, 2 * size**3 / (time.perf_counter() - start) / 1e9), calls + 1
    return best


if __name__ == "__main__":
    print(best_product(float(sys.argv[1]), [int(size) for size in sys.argv[2:]]))

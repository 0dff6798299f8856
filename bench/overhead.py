"""What minigan costs beyond NumPy: its import, and one small operation.

    python -m bench.overhead

Import: fresh interpreters in turn, `import numpy` against `import minigan`, medians of 15.
Operation: adding two tensors of three values that require gradients (so that a node is recorded)
against NumPy's own add of such arrays, the least of 20 repeats of 20,000 calls each, in turn.
Launch: what Python does before CUDA's driver is asked to start a kernel of a convolution, which has 20 arguments.
A step of DCGAN-64 has 227 launches.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import timeit

import numpy as np

import minigan as mg
from minigan.kernels.cuda.launch import checked, packed
from minigan.kernels.cuda.source import kernels_in, read

_TIMED_IMPORT = "import time; t = time.perf_counter(); import {0}; print(time.perf_counter() - t)"


def import_seconds(module: str) -> float:
    """The time of one import in a fresh interpreter."""
    code = _TIMED_IMPORT.format(module)
    return float(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout)


def import_cost(repeats: int = 15) -> tuple[float, float]:
    """Median seconds of importing NumPy, and of importing minigan (which imports NumPy)."""
    pairs = [(import_seconds("numpy"), import_seconds("minigan")) for _ in range(repeats)]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


def add_cost(repeats: int = 20, calls: int = 20_000) -> tuple[float, float]:
    """Least microseconds of NumPy's add, and of a recorded minigan add, of three values."""
    a, b = np.ones(3, np.float32), np.ones(3, np.float32)
    x, y = mg.ones(3, requires_grad=True), mg.ones(3, requires_grad=True)
    raw, recorded = [], []
    for _ in range(repeats):
        raw.append(timeit.timeit(lambda: a + b, number=calls))
        recorded.append(timeit.timeit(lambda: x + y, number=calls))
    return min(raw) / calls * 1e6, min(recorded) / calls * 1e6


def launch_cost(repeats: int = 20, calls: int = 2_000) -> float:
    """Least microseconds to check a launch's sizes and arguments, and to make them what a kernel takes."""
    kernel = kernels_in(read("conv_hopper"))["conv_forward_wgmma"]
    arrays, sizes = [np.ones(1024, np.float32)] * 3, (128, 64, 128, 1, 32, 32, 4, 4, 16, 16, 2, 2, 1, 1, 1, 1, 1)

    def launch() -> None:
        checked(kernel, (256, 1, 1), (256,), 99328)
        packed(kernel, [*arrays, *sizes], lambda array: 1024)

    return min(timeit.timeit(launch, number=calls) for _ in range(repeats)) / calls * 1e6


if __name__ == "__main__":
    numpy_import, minigan_import = import_cost()
    print(
        f"import: numpy {numpy_import * 1e3:.0f} ms, minigan {minigan_import * 1e3:.0f} ms: "
        f"{(minigan_import - numpy_import) * 1e3:.0f} ms beyond NumPy (bar: 150)"
    )
    numpy_add, minigan_add = add_cost()
    print(
        f"add: numpy {numpy_add:.2f} µs, minigan with gradients {minigan_add:.2f} µs: "
        f"{minigan_add - numpy_add:.2f} µs over NumPy (bar: 5)"
    )
    print(f"launch: {launch_cost():.1f} µs of Python for a kernel with 20 arguments")

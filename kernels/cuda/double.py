"""The kernels in float64: the same text, in which float is read as double, and a device on which they are launched.

Checks of gradients compute in float64, and should run the code that trains in float32. Speed is no concern here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from .compile import architectures
from .source import read

__all__ = ["Doubled", "doubled", "has_twin", "real"]

# CUDA's own double4 is aligned to 16 bytes in some versions and to 32 in others; memory of the emulator is to 16.
PROLOGUE = """
struct __align__(16) Double4 {
  double x, y, z, w;
};
__device__ __forceinline__ Double4 make_double4_of(double x, double y, double z, double w) { return {x, y, z, w}; }
__device__ __forceinline__ Double4 __ldg(const Double4 *p) { return *p; }
__device__ __forceinline__ double quotient(double x, double y) { return x / y; }
"""
_MATH = "a?(?:sin|cos|tan)h?|exp|exp2|expm1|log|log2|log10|log1p|r?sqrt|fabs|fmax|fmin|fma|pow|erf|floor|ceil|trunc"
REPLACED = [
    (r"(?s)// Tensor cores .*?(?=\n#line)", ""),  # of common.cuh: assembly, which would not take a double
    (r"\bfloat\b", "double"),
    (r"\bfloat4\b", "Double4"),
    (r"\bmake_float4\b", "make_double4_of"),
    (r"\b__fdividef\b", "quotient"),
    (r"\b__fmul_rn\b", "__dmul_rn"),
    (rf"\b({_MATH})f(?=\()", r"\1"),
    (r"\b(\d+\.\d*(?:e[+-]?\d+)?|0x[\da-f.]+p[+-]?\d+)f\b", r"\1"),  # literals; 0xff has no point and no exponent
    (r"(__launch_bounds__\(\d+), \d+\)", r"\1)"),  # twice the registers: fewer blocks share a multiprocessor
]  # fmt: skip


def has_twin(file: str) -> bool:
    """Tensor cores and asynchronous copies have none, whose values are of 4 bytes; nor random.cu, whose uniforms have
    24 bits; nor conv_thin.cu, whose sums would not fit into registers.

    >>> has_twin("gemm"), has_twin("gemm_tensor")
    (True, False)
    """
    return file not in ("conv_thin", "random") and architectures(read(file))[0] < 80


def doubled(text: str) -> str:
    """The text of kernels, with its includes inlined, in float64.

    >>> doubled("float x = 0.5f * sqrtf(y[0xff]);").splitlines()[-1]
    'double x = 0.5 * sqrt(y[0xff]);'
    """
    for pattern, replacement in REPLACED:
        text = re.sub(pattern, replacement, text)
    return PROLOGUE + text


@cache
def _twin(file: str) -> str:
    if not has_twin(file):
        raise ValueError(f"kernels in float64: got the file {file!r}, which has none; choose another rung")
    return doubled(read(file))


class Doubled:
    """A device on which kernels of files, and the memory for their results, have float64 where launchers say float32.

    Text that is launched stays as it is: `elementwise` writes it for the dtypes of its arrays.

    >>> from minigan.kernels.cuda.norm import add_bias
    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> add_bias(Doubled(EmulatedDevice()), np.array([[1.0]]), np.array([1e-15]), None).tolist()
    [[1.000000000000001]]
    """

    arch = 75  # without tensor cores: any precision is the highest

    def __init__(self, device: Any) -> None:
        self.device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self.device, name)

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """Memory that a kernel is to fill."""
        return self.device.empty(shape, _wide(dtype))

    def zeros(self, shape: Sequence[int], dtype: Any) -> Any:
        """Memory of zeros."""
        return self.device.zeros(shape, _wide(dtype))

    def launch(
        self, file: str, kernel: str, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any],
        shared: int = 0,
    ) -> None:  # fmt: skip
        """Run the twin of a kernel of a file, or a kernel of CUDA C as it is."""
        text = file if "__global__" in file else _twin(file)
        self.device.launch(text, kernel, grid, block, arguments, shared)


def _wide(dtype: Any) -> np.dtype:
    return np.dtype(np.float64) if dtype == np.float32 else np.dtype(dtype)


def real(device: Any) -> np.dtype:
    """The dtype in which kernels of files compute on a device."""
    return np.dtype(np.float64 if isinstance(device, Doubled) else np.float32)

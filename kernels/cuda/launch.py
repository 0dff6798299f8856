"""What a launch needs, and its arguments checked: a kernel reads whatever bytes it is given, in silence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from .source import Kernel, Parameter

__all__ = ["Launch", "checked", "packed"]

MOST_BLOCKS = 65535  # along the second and third axis of a grid, on every GPU


@dataclass(frozen=True)
class Launch:
    """How a kernel is started: blocks, threads of a block, bytes of dynamic shared memory, and what it runs on."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int = 0
    minimum_arch: int = 75  # compute capability, times 10


def checked(
    kernel: Kernel, grid: Sequence[int], block: Sequence[int], shared: int = 0, minimum_arch: int = 75
) -> Launch:
    """A launch of sizes that a GPU accepts; `grid` and `block` may have fewer than three sizes.

    >>> from minigan.kernels.cuda.source import kernels_in
    >>> kernel = kernels_in('extern "C" __global__ void __launch_bounds__(64) f(float *x) {}')["f"]
    >>> checked(kernel, (7,), (64,)).block
    (64, 1, 1)
    """
    for given in (grid, block):
        if not 0 < len(given) <= 3 or min(given) < 1:
            raise ValueError(f"kernel {kernel.name}: got grid {grid} and block {block}, expected 1 to 3 positive sizes")
    threads, most = prod(block), kernel.threads or 1024
    if threads > most:
        raise ValueError(f"kernel {kernel.name}: got a block of {threads} threads, expected at most {most}")
    if max(grid[1:], default=1) > MOST_BLOCKS:
        raise ValueError(f"kernel {kernel.name}: got grid {grid}, expected at most {MOST_BLOCKS} along y and z")
    x, y, z = (*grid, 1, 1)[:3]
    width, height, depth = (*block, 1, 1)[:3]
    return Launch(kernel.name, (x, y, z), (width, height, depth), shared, minimum_arch)


def packed(kernel: Kernel, arguments: Sequence[Any], address: Callable[[Any], int]) -> list[np.ndarray]:
    """The arguments as arrays of one value each, of the parameters' types; `address` tells where an array lies.

    >>> from minigan.kernels.cuda.source import kernels_in
    >>> kernel = kernels_in('extern "C" __global__ void f(const float *x, float a, int n) {}')["f"]
    >>> packed(kernel, [np.ones(3, np.float32), 2, 3], lambda array: array.ctypes.data)[1]
    array(2., dtype=float32)
    >>> packed(kernel, [np.ones(3), 2, 3], lambda array: array.ctypes.data)
    Traceback (most recent call last):
    TypeError: kernel f: argument 'const float *x' got an array of float64, expected float32
    """
    if len(arguments) != len(kernel.parameters):
        names = ", ".join(map(str, kernel.parameters))
        raise TypeError(
            f"kernel {kernel.name}: got {len(arguments)} arguments, expected {len(kernel.parameters)}: {names}"
        )
    return [
        _pointer(kernel, parameter, given, address) if parameter.pointer else _number(kernel, parameter, given)
        for parameter, given in zip(kernel.parameters, arguments, strict=True)
    ]


def _pointer(kernel: Kernel, parameter: Parameter, array: Any, address: Callable[[Any], int]) -> np.ndarray:
    where = f"kernel {kernel.name}: argument '{parameter}'"
    if array is None:
        return np.array(0, np.uint64)
    if not hasattr(array, "dtype") or not hasattr(array, "flags"):
        raise TypeError(f"{where} got {type(array).__name__}, expected an array of {parameter.dtype}")
    if array.dtype != parameter.dtype:
        raise TypeError(f"{where} got an array of {array.dtype}, expected {parameter.dtype}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{where} got strides {array.strides} for shape {array.shape}, expected C order without gaps")
    if array.size > np.iinfo(np.int32).max:
        raise ValueError(f"{where} got {array.size} values, expected at most 2³¹ - 1: kernels count in 32 bits")
    bytes = parameter.dtype.itemsize * parameter.values
    if array.size % parameter.values or address(array) % bytes:
        raise ValueError(
            f"{where} got {array.size} values at address {address(array):#x}, expected multiples of {parameter.values} "
            f"values and of {bytes} bytes"
        )
    return np.array(address(array), np.uint64)


def _number(kernel: Kernel, parameter: Parameter, given: Any) -> np.ndarray:
    where = f"kernel {kernel.name}: argument '{parameter}'"
    if not isinstance(given, (int, float, np.integer, np.floating, np.bool_)):
        raise TypeError(f"{where} got {type(given).__name__}, expected a number")
    if parameter.dtype.kind == "f":
        return np.array(given, parameter.dtype)
    if isinstance(given, (float, np.floating)):
        raise TypeError(f"{where} got {given!r}, expected an integer")
    try:
        return np.array(int(given), parameter.dtype)
    except OverflowError:
        raise OverflowError(f"{where} got {given!r}, which {parameter.dtype} cannot hold") from None

"""What a launch needs, and its arguments checked: a kernel reads whatever bytes it is given, in silence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from .source import Kernel, Parameter

__all__ = ["Launch", "checked", "packed"]

MOST_VALUES = 2**31 - 1
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


def packed(kernel: Kernel, arguments: Sequence[Any], address: Callable[[Any], int]) -> list[np.generic]:
    """The arguments as scalars of the parameters' types; `address` tells where an array lies.

    >>> from minigan.kernels.cuda.source import kernels_in
    >>> kernel = kernels_in('extern "C" __global__ void f(const float *x, float a, int n) {}')["f"]
    >>> packed(kernel, [np.ones(3, np.float32), 2, 3], lambda array: array.ctypes.data)[1:]
    [np.float32(2.0), np.int32(3)]
    >>> packed(kernel, [np.ones(3), 2, 3], lambda array: array.ctypes.data)
    Traceback (most recent call last):
    TypeError: kernel f: argument 'const float *x' got an array of float64, expected float32
    """
    if len(arguments) != len(kernel.parameters):
        names = ", ".join(map(str, kernel.parameters))
        raise TypeError(
            f"kernel {kernel.name}: got {len(arguments)} arguments, expected {len(kernel.parameters)}: {names}"
        )
    try:
        return [
            _pointer(parameter, given, address) if parameter.pointer else _number(parameter, given)
            for parameter, given in zip(kernel.parameters, arguments, strict=True)
        ]
    except (TypeError, ValueError, OverflowError) as error:
        raise type(error)(f"kernel {kernel.name}: {error}") from None


# Hundreds of launches make a training step: these two take some hundred nanoseconds each, and make no text in vain.


def _pointer(parameter: Parameter, array: Any, address: Callable[[Any], int]) -> np.uint64:
    if array is None:
        return np.uint64(0)
    if not hasattr(array, "flags"):
        raise TypeError(f"argument '{parameter}' got {type(array).__name__}, expected an array of {parameter.dtype}")
    if array.dtype != parameter.dtype:
        raise TypeError(f"argument '{parameter}' got an array of {array.dtype}, expected {parameter.dtype}")
    if not array.flags.c_contiguous:
        raise ValueError(
            f"argument '{parameter}' got strides {array.strides} for shape {array.shape}, expected C order without gaps"
        )
    size, values, place = array.size, parameter.values, address(array)
    if size > MOST_VALUES:
        raise ValueError(
            f"argument '{parameter}' got {size} values, expected at most 2³¹ - 1: kernels count in 32 bits"
        )
    bytes = parameter.dtype.itemsize * values
    if size % values or place % bytes:
        raise ValueError(
            f"argument '{parameter}' got {size} values at address {place:#x}, expected multiples of {values} values "
            f"and of {bytes} bytes"
        )
    return np.uint64(place)


def _number(parameter: Parameter, given: Any) -> np.generic:
    if not isinstance(given, (int, float, np.integer, np.floating, np.bool_)):
        raise TypeError(f"argument '{parameter}' got {type(given).__name__}, expected a number")
    if parameter.dtype.kind == "f":
        return parameter.dtype.type(given)
    if isinstance(given, (float, np.floating)):
        raise TypeError(f"argument '{parameter}' got {given!r}, expected an integer")
    try:
        return parameter.dtype.type(int(given))
    except OverflowError:
        raise OverflowError(f"argument '{parameter}' got {given!r}, which {parameter.dtype} cannot hold") from None

"""What a launch needs, and its arguments checked: a kernel reads whatever bytes it is given, in silence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
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
    return _checked(kernel, tuple(grid), tuple(block), shared, minimum_arch)


# Hundreds of launches make a training step, and the next step has the same sizes and integers: their checks are made
# once. Addresses and floats are new each time (and -0.0 == 0.0), some hundred nanoseconds each.


@lru_cache(maxsize=4096)
def _checked(
    kernel: Kernel, grid: tuple[int, ...], block: tuple[int, ...], shared: int, minimum_arch: int
) -> Launch:  # fmt: skip
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
        numbers = [given for p, given in zip(kernel.parameters, arguments, strict=True) if p.integer]
        try:
            integers = iter(_integers(kernel, *numbers))
        except TypeError:  # of what has no hash: said again by what looks at it
            integers = iter(_integers.__wrapped__(kernel, *numbers))
        return [
            _pointer(p, given, address) if p.pointer else next(integers) if p.integer else _float(p, given)
            for p, given in zip(kernel.parameters, arguments, strict=True)
        ]
    except (TypeError, ValueError, OverflowError) as error:
        raise type(error)(f"kernel {kernel.name}: {error}") from None


def _pointer(parameter: Parameter, array: Any, address: Callable[[Any], int]) -> np.uint64:
    if array is None:
        return np.uint64(0)
    try:
        dtype, size, contiguous = array.dtype, array.size, array.flags.c_contiguous
    except AttributeError:
        raise TypeError(
            f"argument '{parameter}' got {type(array).__name__}, expected an array of {parameter.dtype}"
        ) from None
    if dtype != parameter.dtype:
        raise TypeError(f"argument '{parameter}' got an array of {dtype}, expected {parameter.dtype}")
    if not contiguous:
        raise ValueError(
            f"argument '{parameter}' got strides {array.strides} for shape {array.shape}, expected C order without gaps"
        )
    if size > MOST_VALUES:
        raise ValueError(
            f"argument '{parameter}' got {size} values, expected at most 2³¹ - 1: kernels count in 32 bits"
        )
    place = address(array)
    if size % parameter.values or place % parameter.bytes:
        raise ValueError(
            f"argument '{parameter}' got {size} values at address {place:#x}, expected multiples of {parameter.values} "
            f"values and of {parameter.bytes} bytes"
        )
    return np.uint64(place)


@lru_cache(maxsize=4096, typed=True)  # 1.0, which is refused, is not 1
def _integers(kernel: Kernel, *numbers: Any) -> list[np.generic]:
    parameters = [p for p in kernel.parameters if p.integer]
    return [_integer(p, given) for p, given in zip(parameters, numbers, strict=True)]


def _integer(parameter: Parameter, given: Any) -> np.generic:
    _expect_number(parameter, given)
    if isinstance(given, (float, np.floating)):
        raise TypeError(f"argument '{parameter}' got {given!r}, expected an integer")
    try:
        return parameter.dtype.type(int(given))
    except OverflowError:
        raise OverflowError(f"argument '{parameter}' got {given!r}, which {parameter.dtype} cannot hold") from None


def _float(parameter: Parameter, given: Any) -> np.generic:
    _expect_number(parameter, given)
    return parameter.dtype.type(given)


def _expect_number(parameter: Parameter, given: Any) -> None:
    if not isinstance(given, (int, float, np.integer, np.floating, np.bool_)):
        raise TypeError(f"argument '{parameter}' got {type(given).__name__}, expected a number")

"""Arrays as kernels take them: values without gaps, with axes in a chosen order, laid over blocks of threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ..cpu.rows import in_memory_order

__all__ = ["THREADS", "Blocks", "blocks_over", "gathered", "in_memory_order", "merged", "stored", "strided_arguments"]

Array = Any  # numpy.ndarray or cupy.ndarray
Axis = tuple[int, int]  # a size, and a stride in values

THREADS = 256  # of a block
BLOCKS = 1056  # are enough to keep a large GPU busy: eight on each of 132 multiprocessors
MOST_PARTS = 256  # of an array's rows: what comes of them is read again
ROWS = 8  # for a thread at least
AXES = 6  # that kernels count in


# Rows of channels (rows.cuh) ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blocks:
    """A grid over [groups, rows, channels], whose blocks take a part of the rows of some channels of a group."""

    grid: tuple[int, int]
    block: tuple[int, int]

    @property
    def parts(self) -> int:
        """Of the rows."""
        return self.grid[1]

    @property
    def whole(self) -> Blocks:
        """The same without parts."""
        return Blocks((self.grid[0], 1), self.block)


def blocks_over(groups: int, rows: int, channels: int) -> Blocks:
    """Blocks of as many channels as a warp has threads, or all, and enough parts for a GPU; by sizes alone.

    >>> blocks_over(1, 131072, 64)
    Blocks(grid=(2, 256), block=(32, 8))
    >>> blocks_over(128, 16, 3)
    Blocks(grid=(128, 1), block=(3, 85))
    """
    width = min(channels, 32)
    height = THREADS // width
    columns = groups * -(-channels // width)
    parts = max(1, min(MOST_PARTS, BLOCKS // columns, -(-rows // (height * ROWS))))
    return Blocks((columns, parts), (width, height))


# Orders in memory ---------------------------------------------------------------------------------------------


def stored(device: Any, x: Array) -> tuple[Array, int, tuple[int, ...]]:
    """The memory of x as a flat array, where in it x begins, and x's strides, in values; of an x that is not empty.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> stored(EmulatedDevice(), np.arange(6.0).reshape(2, 3)[:, ::-2])
    (array([0., 1., 2., 3., 4., 5.]), 2, (3, -2))
    """
    values, first = device.memory(x)
    pairs = zip(x.shape, x.strides, strict=True)
    return values.reshape(-1), first, tuple(stride // x.dtype.itemsize if size > 1 else 0 for size, stride in pairs)


def merged(axes: Sequence[Axis]) -> list[Axis]:
    """The same sequence of values with as few axes as it takes.

    >>> merged([(2, 12), (1, 7), (3, 4), (4, 1), (5, 0)])
    [(24, 1), (5, 0)]
    """
    found: list[Axis] = []
    for size, stride in axes:
        if size == 1:
            continue
        if found and found[-1][1] == size * stride:
            found[-1] = (found[-1][0] * size, stride)
        else:
            found.append((size, stride))
    return found


def strided_arguments(axes: Sequence[Axis], first: int) -> list[int]:
    """What a kernel's `Strided` takes, for at most six merged axes and the place where the first value is."""
    if len(axes) > AXES:
        raise ValueError(f"got values with {len(axes)} independent strides in memory, expected at most {AXES}")
    padded = [(1, 0)] * (AXES - len(axes)) + list(axes)
    return [size for size, _ in padded[1:]] + [stride for _, stride in padded] + [first]


def gathered(device: Any, x: Array, order: Sequence[int], shape: Sequence[int] | None = None) -> Array:
    """x, broadcast to a shape if one is given, with its axes in an order and without gaps: its own memory, or a copy.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
    >>> gathered(EmulatedDevice(), x, (1, 0)).tolist()
    [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]
    """
    if shape is None and x.ndim:  # what has no axes may be a scalar of NumPy, which becomes an array below
        turned = x.transpose(order)
        if turned.flags.c_contiguous:
            return turned
    shape = x.shape if shape is None else tuple(shape)
    sizes = [shape[axis] for axis in order]
    if not prod(sizes):
        return device.empty(sizes, x.dtype)
    values, first, strides = stored(device, x.reshape((1,) * (len(shape) - x.ndim) + x.shape))
    axes = merged([(shape[axis], strides[axis]) for axis in order])
    if axes in ([], [(values.size, 1)]):
        return values.reshape(sizes)
    out, bits = device.empty(sizes, x.dtype), _BITS[x.dtype.itemsize]
    n = prod(sizes)
    device.launch(
        "reduce", f"reduce_copy_{x.dtype.itemsize}", (-(-n // THREADS),), (THREADS,),
        [values.view(bits), out.view(bits), n, *strided_arguments(axes, first)],
    )  # fmt: skip
    return out


_BITS = {1: np.uint8, 4: np.uint32, 8: np.uint64}

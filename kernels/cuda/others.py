"""What has no kernel of ours, by CuPy's: products of integers, sums over any subscripts, entries by any index.

The names are those of every backend's kernels (`minigan.kernels.cpu`). No training step of a GAN comes here.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import conv

__all__ = [
    "Kept", "add_at", "add_rows", "einsum", "erf", "floor_divide", "leaky_relu", "matmul", "matmuls", "put_at",
    "take_rows",
]  # fmt: skip

Array = Any  # of CuPy

Kept = conv.Kept


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """a·b over the last two axes, the others broadcast."""
    return importlib.import_module("cupy").matmul(a, b, out=out)


def matmuls(factors: Sequence[tuple[Array, Array]], outs: Sequence[Array | None] | None = None) -> list[Array]:
    """Several products."""
    return [matmul(a, b, out) for (a, b), out in zip(factors, outs or [None] * len(factors), strict=True)]


def einsum(subscripts: str, *arrays: Array) -> Array:
    """Σ over the subscripts that the result lacks."""
    return importlib.import_module("cupy").einsum(subscripts, *arrays, optimize=True)


def add_at(x: Array, index: Any, y: Array) -> None:
    """x[index] += y, with entries that come up twice counted twice; in no fixed order, so last bits may differ."""
    wide = x.astype(np.int64) if x.dtype.itemsize < 4 and x.dtype.kind in "iu" else x  # it adds no short integers
    importlib.import_module("cupy").add.at(wide, index, y.astype(wide.dtype, copy=False))
    if wide is not x:
        x[...] = wide


def take_rows(x: Array, rows: Array) -> Array:
    """x[rows] of the first axis."""
    return x[rows]


def add_rows(y: Array, rows: Array, count: int) -> Array:
    """x, of `count` rows, that are sums of those of y whose numbers they are; in no fixed order."""
    x = importlib.import_module("cupy").zeros((count, *y.shape[rows.ndim :]), y.dtype)
    add_at(x, rows, y)
    return x


def put_at(x: Array, index: Any, y: Array) -> None:
    """x[index] = y; where an entry comes up twice, the last one counts.

    Which of them a GPU would write last is chance. So each entry looks up the last place of y that is meant for it.
    """
    cupy = importlib.import_module("cupy")
    entries = cupy.arange(x.size).reshape(x.shape)[index]
    values = cupy.broadcast_to(cupy.asarray(y, x.dtype), entries.shape).ravel()
    last = cupy.zeros(x.size, np.uint64)
    cupy.maximum.at(last, entries.ravel(), cupy.arange(values.size, dtype=np.uint64))
    x[index] = values[last[entries]]


def floor_divide(x: Array, y: Array) -> Array:
    """⌊x / y⌋ by the exact remainder, as NumPy has it: 1 // 0.1 is 9. CuPy's own floors the rounded quotient, 10."""
    cupy = importlib.import_module("cupy")
    rest = cupy.fmod(x, y)
    whole = cupy.rint((x - rest) / y) - ((rest != 0) & ((rest < 0) != (y < 0)))
    return cupy.where(cupy.equal(y, 0), x / y, whole)


def leaky_relu(x: Array, slope: float) -> Array:
    """x where x > 0, slope·x elsewhere, of integers."""
    return importlib.import_module("cupy").where(x > 0, x, x * slope)


def erf(x: Array) -> Array:
    """2/√π ∫₀ˣ e^(-t²) dt"""
    return importlib.import_module("cupyx.scipy.special").erf(x)

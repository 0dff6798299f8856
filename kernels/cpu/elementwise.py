"""Leaky ReLU, alone and after a bias or a given scale, in pieces on the workers.

    leaky(z) = max(z, s·z),  leaky'(z) = max([z > 0], s)  for a slope 0 ≤ s ≤ 1, which is 0 for ReLU

NumPy's `where`, and `maximum` with a number, are several times slower than these products and maxima of arrays.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from . import rows as layout
from .memory import empty, scratch
from .rows import in_memory_order, rows_of
from .workers import each

__all__ = [
    "add_bias", "add_bias_backward", "leaky_relu", "leaky_relu_backward", "leaky_relu_into", "masked", "scale_shift",
]  # fmt: skip

Array = np.ndarray[Any, Any]
Axes = tuple[int, ...]
BOOL = np.dtype(np.bool_)


# Of one piece: arrays without gaps, of one dtype --------------------------------------------------------------


def leaky_relu_into(z: Array, slope: float, out: Array) -> None:
    """out = leaky(z); out may be z."""
    if slope == 0:
        np.maximum(z.reshape(-1), _constant(0.0, z.dtype, z.size), out=out.reshape(-1))
        return
    lower = scratch("leaky_relu", z.shape, z.dtype) if out is z else out
    np.multiply(z, slope, out=lower)
    np.maximum(z, lower, out=out)


def masked(g: Array, z: Array, slope: float, out: Array, edge: Array | float = 0.0) -> None:
    """out = g·leaky'(z - edge); out may be z, but not g."""
    positive = scratch("positive", z.shape, BOOL)
    np.greater(z, edge, out=positive)
    np.copyto(out, positive)
    if slope:
        factor = out.reshape(-1)
        np.maximum(factor, _constant(slope, out.dtype, out.size), out=factor)
    np.multiply(out, g, out=out)


def _constant(value: float, dtype: np.dtype[Any], size: int) -> Array:
    return _full(value, dtype, layout.PIECE)[:size] if size <= layout.PIECE else np.full(size, value, dtype)


@lru_cache(maxsize=16)
def _full(value: float, dtype: np.dtype[Any], size: int) -> Array:
    full = np.full(size, value, dtype)
    full.flags.writeable = False
    return full


# Leaky ReLU ---------------------------------------------------------------------------------------------------


def leaky_relu(x: Array, slope: float) -> Array:
    """x where x > 0, slope·x elsewhere.

    >>> leaky_relu(np.array([-2.0, 3.0]), 0.5).tolist()
    [-1.0, 3.0]
    """
    if not 0 <= slope <= 1 or x.dtype.kind != "f":
        return np.where(x > 0, x, x * slope)
    flat, order = _flat(x)
    y = empty(flat.shape, flat.dtype)
    _in_pieces(lambda at: leaky_relu_into(flat[at], slope, y[at]), flat.size)
    return _shaped(y, x.shape, order)


def leaky_relu_backward(gy: Array, y: Array, slope: float) -> Array:
    """gy where y > 0, slope·gy elsewhere.

    >>> leaky_relu_backward(np.array([1.0, 1.0]), np.array([-1.0, 3.0]), 0.5).tolist()
    [0.5, 1.0]
    """
    if not 0 <= slope <= 1:
        return np.where(y > 0, gy, gy * slope)
    flat, order = _flat(y)
    given = np.ascontiguousarray(gy.transpose(order)).reshape(-1)
    gx = empty(given.shape, given.dtype)
    _in_pieces(lambda at: masked(given[at], flat[at], slope, gx[at]), flat.size)
    return _shaped(gx, y.shape, order)


def _flat(x: Array) -> tuple[Array, Axes]:
    """The values in the order of memory, and that order of the axes."""
    if x.flags.c_contiguous:
        return x.reshape(-1), tuple(range(x.ndim))
    order = in_memory_order(x.strides, x.shape)
    return np.ascontiguousarray(x.transpose(order)).reshape(-1), order


def _shaped(flat: Array, shape: tuple[int, ...], order: Axes) -> Array:
    inverse = tuple(map(order.index, range(len(order))))
    return flat.reshape([shape[axis] for axis in order]).transpose(inverse)


def _in_pieces(task: Any, size: int) -> None:
    """task(slice) for pieces of a flat array."""
    if size < layout.WHOLE:
        task(slice(0, size))
        return
    step = layout.piece_size(size)
    each(lambda i: task(slice(i * step, min(i * step + step, size))), -(-size // step), size)


# One value for each channel (axis 1) --------------------------------------------------------------------------


def add_bias(x: Array, b: Array | None, slope: float | None) -> Array:
    """leaky(x + b), without a slope x + b, written over x.

    >>> add_bias(np.array([[1.0, 2.0]]), np.array([-3.0, 1.0]), 0.0).tolist()
    [[0.0, 3.0]]
    """
    rows = rows_of(x, _over(x))
    if rows is None:
        if b is not None:
            x += b.reshape(_column(x))
        if slope is not None and 0 <= slope <= 1 and x.flags.c_contiguous and x.dtype.kind == "f":
            leaky_relu_into(x, slope, x)
        elif slope is not None:
            x[...] = leaky_relu(x, slope)
        return x
    values, shift = rows.of(x), None if b is None else rows.tiled(b[None])

    def task(i: int) -> None:
        piece = rows.pieces[i]
        part = rows.part(values, piece)
        if shift is not None:
            np.add(part, rows.beside(shift, piece), out=part)
        if slope is not None:
            leaky_relu_into(part, slope, part)

    each(task, len(rows.pieces), prod(rows.shape))
    return x


def add_bias_backward(
    gy: Array, y: Array | None, slope: float | None, needs_bias: bool
) -> tuple[Array, Array | None]:  # fmt: skip
    """Gradients of x and of b, if that is needed: gx = gy·leaky'(y), gb = Σ gx; without a slope y may be None.

    >>> gx, gb = add_bias_backward(np.ones((2, 1)), np.array([[0.0], [3.0]]), 0.5, True)
    >>> gx.tolist(), gb.tolist()
    ([[0.5], [1.0]], [1.5])
    """
    like = gy if y is None else y
    rows = rows_of(like, _over(like)) if needs_bias else None
    if rows is None:
        gx = gy if y is None or slope is None else leaky_relu_backward(gy, y, slope)
        if not needs_bias:
            return gx, None
        precise = np.promote_types(gx.dtype, np.float32)
        return gx, gx.sum(axis=_over(gx), dtype=precise).astype(gx.dtype, copy=False)
    given, outputs = rows.of(gy), None if y is None else rows.of(y)
    grads = given if y is None else rows.empty(gy.dtype)
    sums = rows.partial(gy.dtype)

    def task(i: int) -> None:
        piece = rows.pieces[i]
        part = rows.part(grads, piece)
        if outputs is not None and slope is not None:
            masked(rows.part(given, piece), rows.part(outputs, piece), slope, part)
        np.add.reduce(part, axis=1, out=rows.beside_of(sums, piece))

    each(task, len(rows.pieces), prod(rows.shape))
    return (gy if y is None else rows.back(grads)), rows.total(sums)[0].astype(gy.dtype)


def scale_shift(x: Array, scale: Array, shift: Array, slope: float | None) -> Array:
    """leaky(x·scale + shift), without a slope x·scale + shift.

    >>> scale_shift(np.array([[1.0, 2.0]]), np.array([2.0, -1.0]), np.array([1.0, 1.0]), 0.0).tolist()
    [[3.0, 0.0]]
    """
    rows = rows_of(x, _over(x))
    if rows is None:
        y = x * scale.reshape(_column(x))
        y += shift.reshape(_column(x))
        return y if slope is None else leaky_relu(y, slope)
    values, scales, shifts, out = rows.of(x), rows.tiled(scale[None]), rows.tiled(shift[None]), rows.empty(x.dtype)

    def task(i: int) -> None:
        piece = rows.pieces[i]
        y = rows.part(out, piece)
        np.multiply(rows.part(values, piece), rows.beside(scales, piece), out=y)
        np.add(y, rows.beside(shifts, piece), out=y)
        if slope is not None:
            leaky_relu_into(y, slope, y)

    each(task, len(rows.pieces), prod(rows.shape))
    return rows.back(out)


def _over(x: Array) -> Axes:
    return (0, *range(2, x.ndim))


def _column(x: Array) -> tuple[int, ...]:
    return (-1, *[1] * (x.ndim - 2))

"""Normalisation over axes of an array, forward and backward, with a leaky ReLU behind it if wanted.

Statistics are those of the centred values: E[x²] - E[x]² would cancel where the mean is large. Arrays that are rows
of channels (`rows.py`) are worked on in pieces: each is read once for the statistics and once for the result, as
many times for the gradient. Others, and small ones, are worked on as a whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .elementwise import leaky_relu, leaky_relu_backward, leaky_relu_into, masked
from .memory import scratch
from .rows import Piece, Rows, rows_of
from .workers import each

__all__ = ["normalize", "normalize_backward"]

Array = np.ndarray[Any, Any]
Axes = tuple[int, ...]
SHIFT_ROWS = 4  # their mean is at most √(n / 4) deviations of n rows from that of all n: little is cancelled

Gradients = tuple[Array | None, Array | None, Array | None]


def normalize(
    x: Array, w: Array | None, b: Array | None, axes: Axes, eps: float, slope: float | None = None
) -> tuple[Array, Array, Array, Array]:
    """y = leaky((x - m)·r·w + b) with m = mean x, v = var x, r = 1 / √(v + eps); returns y, m, v, r.

    >>> y, m, v, r = normalize(np.array([[1.0, 3.0]]), None, None, (1,), 0.0)
    >>> y.tolist(), m.tolist(), v.tolist()
    ([[-1.0, 1.0]], [[2.0]], [[1.0]])
    """
    rows = rows_of(x, axes)
    vectors = None if rows is None else _vectors(rows, w, b)
    if rows is None or vectors is None:
        y, m, v, r = _whole(x, w, b, axes, eps)
        return y if slope is None else leaky_relu(y, slope), m, v, r
    values, out = rows.of(x), rows.empty(x.dtype)
    m, v = (moment.astype(x.dtype) for moment in _moments(values, rows))
    r = 1 / np.sqrt(v + np.asarray(eps, v.dtype))
    means, scale, shift = _tiled(rows, m, r, *vectors)

    def task(i: int) -> None:
        piece = rows.pieces[-1 - i]  # the last that was read may still be in the cache
        y = rows.part(out, piece)
        _normalized(rows, piece, rows.part(values, piece), means, scale, shift, y)
        if slope is not None:
            leaky_relu_into(y, slope, y)

    each(task, len(rows.pieces), values.size)
    return rows.back(out), rows.statistic(m), rows.statistic(v), rows.statistic(r)


def normalize_backward(
    gy: Array,
    x: Array,
    w: Array | None,
    b: Array | None,
    m: Array,
    r: Array,
    axes: Axes,
    slope: float | None,
    needs: tuple[bool, ...],
    shapes: list[tuple[int, ...]],
) -> Gradients:
    """Gradients of x, w and b (those that `needs` asks for), from saved m and r.

    With x̂ = (x - m)·r, g = gy·leaky'(x̂·w + b) and h = g·w:
    gx = r·(h - mean h - x̂·mean(h·x̂)),  gw = Σ g·x̂,  gb = Σ g.
    """
    rows = rows_of(x, axes)
    vectors = None if rows is None else _vectors(rows, w, b)
    if rows is None or vectors is None:
        if slope is not None:
            gy = leaky_relu_backward(gy, _affine(x, w, b, m, r), slope)
        return _whole_backward(gy, x, w, m, r, axes, needs, shapes)
    return _rows_backward(gy, x, m, r, vectors, rows, slope, needs, shapes)


# As rows of channels, in pieces -------------------------------------------------------------------------------

Vectors = tuple[Array | None, Array | None]


def _vectors(rows: Rows, w: Array | None, b: Array | None) -> Vectors | None:
    """Weight and bias as [groups, channels]; None if they differ along a group's rows."""
    found = [None if given is None else rows.vector(given) for given in (w, b)]
    if any(v is None and given is not None for v, given in zip(found, (w, b), strict=True)):
        return None
    return found[0], found[1]


def _tiled(
    rows: Rows, m: Array, r: Array, w: Array | None, b: Array | None
) -> tuple[Array, Array, Array | None]:  # fmt: skip
    """m, r·w and b, each as long as rows are together."""
    return rows.tiled(m), rows.tiled(r if w is None else r * w), None if b is None else rows.tiled(b)


def _normalized(
    rows: Rows, piece: Piece, x: Array, means: Array, scale: Array, shift: Array | None, out: Array
) -> None:  # fmt: skip
    """out = (x - m)·r·w + b of a piece"""
    np.subtract(x, rows.beside(means, piece), out=out)
    np.multiply(out, rows.beside(scale, piece), out=out)
    if shift is not None:
        np.add(out, rows.beside(shift, piece), out=out)


def _moments(values: Array, rows: Rows) -> tuple[Array, Array]:
    """Mean and variance as [groups, channels], in float64, in one pass over the values.

    The rows of a piece are shifted by c, the mean of the first few of them, which is near their own mean. With n rows,
    S = Σ(x - c) and Q = Σ(x - c)² these have the mean c + S/n, and Σ(x - m)² is the sum over all of
    Q - S²/n + n·(c + S/n - m)² (Chan, Golub and LeVeque, 1979).
    """
    shifts, sums, squares = (rows.partial(values.dtype) for _ in range(3))

    def task(i: int) -> None:
        piece = rows.pieces[i]
        part, shift = rows.part(values, piece), rows.beside_of(shifts, piece)
        first = part[:, :SHIFT_ROWS]
        np.add.reduce(first, axis=1, out=shift)
        np.multiply(shift, 1 / first.shape[1], out=shift)
        near = scratch("centred", part.shape, part.dtype)
        np.subtract(part, shift[:, None], out=near)
        np.add.reduce(near, axis=1, out=rows.beside_of(sums, piece))
        np.einsum("grc,grc->gc", near, near, out=rows.beside_of(squares, piece))

    each(task, len(rows.pieces), values.size)
    n = rows.counts
    means = sums.reshape(rows.groups, -1, rows.channels) / np.maximum(n, 1)
    lost = (n * means**2).sum(axis=1)
    means += shifts.reshape(means.shape)
    m = (n * means).sum(axis=1) / rows.rows
    means -= m[:, None]
    v = (rows.total(squares) - lost + (n * means**2).sum(axis=1)) / rows.rows
    return m, np.maximum(v, 0)


def _rows_backward(
    gy: Array,
    x: Array,
    m: Array,
    r: Array,
    vectors: Vectors,
    rows: Rows,
    slope: float | None,
    needs: tuple[bool, ...],
    shapes: list[tuple[int, ...]],
) -> Gradients:
    values, given = rows.of(x), rows.of(gy)
    m, r = (v.transpose(rows.order).reshape(rows.groups, rows.channels) for v in (m, r))
    means, scale, shift = _tiled(rows, m, r, *vectors)
    edge = rows.tiled(np.zeros_like(m)) if shift is None else -shift  # x̂·w + b > 0, to the bit, where x̂·w > -b
    through = given if slope is None else rows.empty(x.dtype)  # g
    sums, moments = rows.partial(x.dtype), rows.partial(x.dtype)

    def add_up(i: int) -> None:
        piece = rows.pieces[i]
        part, g = rows.part(values, piece), rows.part(through, piece)
        centred = scratch("centred", part.shape, part.dtype)
        np.subtract(part, rows.beside(means, piece), out=centred)
        if slope is not None:
            np.multiply(centred, rows.beside(scale, piece), out=g)
            masked(rows.part(given, piece), g, slope, g, rows.beside(edge, piece))
        np.add.reduce(g, axis=1, out=rows.beside_of(sums, piece))
        np.einsum("grc,grc->gc", centred, g, out=rows.beside_of(moments, piece))

    each(add_up, len(rows.pieces), values.size)
    total, moment = rows.total(sums), rows.total(moments)  # Σ g and Σ g·(x - m)
    gw = _sum_to(rows.statistic(moment * r), shapes[1]).astype(x.dtype) if needs[1] else None
    gb = _sum_to(rows.statistic(total), shapes[2]).astype(x.dtype) if needs[2] else None
    if not needs[0]:
        return None, gw, gb
    # gx = r·w·(g - (Σ g / n + (x - m)·r²·Σ g·(x - m) / n))
    mean = rows.tiled((total / rows.rows).astype(x.dtype))
    lean = rows.tiled((moment * r.astype(np.float64) ** 2 / rows.rows).astype(x.dtype))
    out = rows.empty(x.dtype) if slope is None else through

    def task(i: int) -> None:
        piece = rows.pieces[-1 - i]
        part, gx = rows.part(values, piece), rows.part(out, piece)
        centred = scratch("centred", part.shape, part.dtype)
        np.subtract(part, rows.beside(means, piece), out=centred)
        np.multiply(centred, rows.beside(lean, piece), out=centred)
        np.add(centred, rows.beside(mean, piece), out=centred)
        np.subtract(rows.part(through, piece), centred, out=gx)
        np.multiply(gx, rows.beside(scale, piece), out=gx)

    each(task, len(rows.pieces), values.size)
    return rows.back(out), gw, gb


# As a whole ---------------------------------------------------------------------------------------------------


def _whole(
    x: Array, w: Array | None, b: Array | None, axes: Axes, eps: float
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    precise = np.promote_types(x.dtype, np.float32)
    m = x.mean(axis=axes, keepdims=True, dtype=precise)
    y = x - m
    v = np.square(y).mean(axis=axes, keepdims=True)
    r = 1 / np.sqrt(v + np.asarray(eps, v.dtype))
    y *= r if w is None else r * w
    if b is not None:
        y += b
    return y.astype(x.dtype, copy=False), m.astype(x.dtype, copy=False), v.astype(x.dtype, copy=False), r


def _affine(x: Array, w: Array | None, b: Array | None, m: Array, r: Array) -> Array:
    """(x - m)·r·w + b, the same bits as in `_whole`."""
    y = x - m
    y = y * (r if w is None else r * w)
    if b is not None:
        y += b
    return y.astype(x.dtype, copy=False)


def _whole_backward(
    gy: Array, x: Array, w: Array | None, m: Array, r: Array, axes: Axes, needs: tuple[bool, ...],
    shapes: list[tuple[int, ...]],
) -> Gradients:  # fmt: skip
    x_hat = x - m
    x_hat *= r
    gw = _sum_to(gy * x_hat, shapes[1]) if needs[1] else None
    gb = _sum_to(gy, shapes[2]) if needs[2] else None
    gx = None
    if needs[0]:
        gx = np.array(gy) if w is None else gy * w
        slope = (gx * x_hat).mean(axis=axes, keepdims=True)
        gx -= gx.mean(axis=axes, keepdims=True)
        x_hat *= slope
        gx -= x_hat
        gx *= r
    return None if gx is None else gx.astype(x.dtype, copy=False), gw, gb


def _sum_to(g: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which something of `shape` was broadcast."""
    extra = g.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(i + extra for i, size in enumerate(shape) if size == 1)
    return g.sum(axis=axes).reshape(shape)

"""Normalisation over axes of an array, forward and backward, with a leaky ReLU behind it if wanted.

E[x²] - E[x]² and the like cancel where the mean is large: then, statistics are those of centred values. Arrays that are
rows of channels (`rows.py`) are worked on in pieces: each is read once for the statistics and once for the result,
as many times for the gradient. Others, and small ones, are worked on as a whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .elementwise import leaky_relu, leaky_relu_backward, leaky_relu_into, masked
from .memory import scratch
from .rows import Piece, Rows, rows_of
from .workers import each

__all__ = ["normalize", "normalize_backward", "update_running"]

Array = np.ndarray[Any, Any]
Axes = tuple[int, ...]
NEAR = 4.0  # |m| in deviations: up to this, what cancels in E[x²] - E[x]² costs four of 24 bits
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
    affine = _Affine(rows, m, r, *vectors)

    def task(i: int) -> None:
        piece = rows.pieces[-1 - i]  # the last that was read may still be in the cache
        y = rows.part(out, piece)
        affine.apply(piece, rows.part(values, piece), y)
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


def update_running(
    running_mean: Array, running_var: Array, mean: Array, var: Array, momentum: float, count: int,
    tracked: Array | None = None,
) -> None:  # fmt: skip
    """running ← (1 - momentum)·running + momentum·new, in place; `var` is of `count` values, and biased.

    `tracked`, one integer, becomes larger by one.

    >>> running, new = np.zeros((2, 1)), np.ones((2, 1))
    >>> update_running(*running, *new, 0.5, 2)
    >>> running.tolist()
    [[0.5], [1.0]]
    """
    if tracked is not None:
        tracked += 1
    running_mean[...] = running_mean * (1 - momentum) + mean.reshape(-1) * momentum
    running_var[...] = running_var * (1 - momentum) + var.reshape(-1) * (momentum * count / (count - 1))


# As rows of channels, in pieces -------------------------------------------------------------------------------

Vectors = tuple[Array | None, Array | None]


def _vectors(rows: Rows, w: Array | None, b: Array | None) -> Vectors | None:
    """Weight and bias as [groups, channels]; None if they differ along a group's rows."""
    found = [None if given is None else rows.vector(given) for given in (w, b)]
    if any(v is None and given is not None for v, given in zip(found, (w, b), strict=True)):
        return None
    return found[0], found[1]


class _Affine:
    """(x - m)·r·w + b as (x - c)·scale, with c = m - b / scale.

    Where c would be rounded more than x - m is, because m is large, or is no number, because the scale is 0, b is
    added instead.
    """

    def __init__(self, rows: Rows, m: Array, r: Array, w: Array | None, b: Array | None) -> None:
        scale = r if w is None else r * w
        with np.errstate(all="ignore"):
            c = m if b is None else m - b / scale
        folded = b is None or (_near(m, r) and bool(np.isfinite(c).all()))
        self.rows = rows
        self.scale, self.c = rows.tiled(scale), rows.tiled(c if folded else m)
        self.shift = None if folded or b is None else rows.tiled(b)
        self.rising = folded and bool((scale > 0).all())

    def apply(self, piece: Piece, x: Array, out: Array) -> None:
        """The result for a piece"""
        np.subtract(x, self.rows.beside(self.c, piece), out=out)
        np.multiply(out, self.rows.beside(self.scale, piece), out=out)
        if self.shift is not None:
            np.add(out, self.rows.beside(self.shift, piece), out=out)

    def mask(self, piece: Piece, gy: Array, x: Array, slope: float, out: Array) -> None:
        """gy·leaky'(the result) of a piece"""
        if self.rising:
            masked(gy, x, slope, out, self.rows.beside(self.c, piece))
        else:
            self.apply(piece, x, out)
            masked(gy, out, slope, out)


def _moments(values: Array, rows: Rows) -> tuple[Array, Array]:
    """Mean and variance as [groups, channels], in float64, in one pass over the values if no mean is large."""
    sums, squares = rows.partial(values.dtype), rows.partial(values.dtype)

    def task(i: int) -> None:
        piece = rows.pieces[i]
        part = rows.part(values, piece)
        np.add.reduce(part, axis=1, out=rows.beside_of(sums, piece))
        np.einsum("grc,grc->gc", part, part, out=rows.beside_of(squares, piece))

    with np.errstate(all="ignore"):  # squares may overflow where centred ones would not
        each(task, len(rows.pieces), values.size)
        m = rows.total(sums) / rows.rows
        v = np.maximum(rows.total(squares) / rows.rows - m * m, 0)
        near = bool(np.isfinite(v).all()) and _near(m, 1 / np.sqrt(v))
    return (m, v) if near else _shifted_moments(values, rows)


def _near(m: Array, r: Array) -> bool:
    """Whether all means are near 0, in deviations of 1 / r."""
    with np.errstate(all="ignore"):
        return bool((np.abs(m * r) <= NEAR).all())


def _shifted_moments(values: Array, rows: Rows) -> tuple[Array, Array]:
    """The same, where they would cancel.

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
    affine, near = _Affine(rows, m, r, *vectors), _near(m, r)
    through = given if slope is None else rows.empty(x.dtype)  # g
    sums, moments, means = rows.partial(x.dtype), rows.partial(x.dtype), rows.tiled(m)

    def add_up(i: int) -> None:
        piece = rows.pieces[i]
        part, g = rows.part(values, piece), rows.part(through, piece)
        if slope is not None:
            affine.mask(piece, rows.part(given, piece), part, slope, g)
        if not near:
            part = np.subtract(part, rows.beside(means, piece), out=scratch("centred", part.shape, part.dtype))
        np.add.reduce(g, axis=1, out=rows.beside_of(sums, piece))
        np.einsum("grc,grc->gc", part, g, out=rows.beside_of(moments, piece))

    each(add_up, len(rows.pieces), values.size)
    total, moment = rows.total(sums), rows.total(moments)  # Σ g and Σ g·(x - m)
    if near:
        moment -= m * total
    gw = _sum_to(rows.statistic(moment * r), shapes[1]).astype(x.dtype) if needs[1] else None
    gb = _sum_to(rows.statistic(total), shapes[2]).astype(x.dtype) if needs[2] else None
    if not needs[0]:
        return None, gw, gb
    # gx = scale·(g - (Σ g / n + (x - m)·r²·Σ g·(x - m) / n)) = scale·g - (x·lean + rest)
    scale = affine.scale[:, 0, : rows.channels].astype(np.float64)
    slant = scale * moment * r.astype(np.float64) ** 2 / rows.rows
    lean = rows.tiled(slant.astype(x.dtype))
    rest = rows.tiled((scale * total / rows.rows - (m * slant if near else 0)).astype(x.dtype))
    out = rows.empty(x.dtype) if slope is None else through

    def task(i: int) -> None:
        piece = rows.pieces[-1 - i]
        part, gx = rows.part(values, piece), rows.part(out, piece)
        along = scratch("centred", part.shape, part.dtype)
        if not near:
            part = np.subtract(part, rows.beside(means, piece), out=along)
        np.multiply(part, rows.beside(lean, piece), out=along)
        np.add(along, rows.beside(rest, piece), out=along)
        np.multiply(rows.part(through, piece), rows.beside(affine.scale, piece), out=gx)
        np.subtract(gx, along, out=gx)

    each(task, len(rows.pieces), values.size)
    return rows.back(out), gw, gb


# As a whole ---------------------------------------------------------------------------------------------------


def _whole(
    x: Array, w: Array | None, b: Array | None, axes: Axes, eps: float
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    precise = np.promote_types(x.dtype, np.float32)
    if not x.size:  # there is nothing to take a mean of
        none = np.zeros([1 if axis in axes else size for axis, size in enumerate(x.shape)], x.dtype)
        return x.copy(), none, none, none.astype(precise)
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
    along = gy * x_hat
    gw = _sum_to(along, shapes[1]) if needs[1] else None
    gb = _sum_to(gy, shapes[2]) if needs[2] else None
    if not needs[0] or not x.size:
        return x.copy() if needs[0] else None, gw, gb
    h, scale = gy, r if w is None else r * w
    if w is not None and any(size != 1 and at - w.ndim + x.ndim in axes for at, size in enumerate(w.shape)):
        h, along, scale = gy * w, along * w, r  # w differs along what is averaged
    x_hat *= along.mean(axis=axes, keepdims=True)
    x_hat += h.mean(axis=axes, keepdims=True)
    gx = h - x_hat
    gx *= scale
    return gx.astype(x.dtype, copy=False), gw, gb


def _sum_to(g: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which something of `shape` was broadcast."""
    extra = g.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(i + extra for i, size in enumerate(shape) if size == 1)
    return g.sum(axis=axes).reshape(shape)

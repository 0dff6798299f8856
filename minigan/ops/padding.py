"""Padding: a border of one value, or of values of the tensor itself (reflect, replicate, circular).

Index arrays would give the latter too, but their adjoint adds value by value; rows are copied and added whole
here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minigan.check import shape_of
from minigan.graph import Op, apply

if TYPE_CHECKING:
    from minigan.tensor import Tensor

Widths = tuple[tuple[int, int], ...]  # (before, after) of each axis


def _row(axis: int, at: int) -> tuple:
    return (*(slice(None),) * axis, at)


def _inside(widths: Widths, array: Any) -> tuple:
    return tuple(slice(before, size - after) for (before, after), size in zip(widths, array.shape, strict=True))


class Border(Op):
    """y is x with a border of `widths`; then y[to] = y[source] along an axis, for each of `copies` in turn"""

    @staticmethod
    def forward(ctx, B, x, *, widths, copies):
        shape = tuple(before + size + after for (before, after), size in zip(widths, x.shape, strict=True))
        y = B.xp.empty_like(x, shape=shape)  # keeps the memory order
        y[_inside(widths, y)] = x
        for axis, to, source in copies:
            y[_row(axis, to)] = y[_row(axis, source)]
        return y

    @staticmethod
    def vjp(ctx, gy):
        return apply(BorderAdjoint, gy, widths=ctx.widths, copies=ctx.copies)


class BorderAdjoint(Op):
    """The adjoint of Border: y[source] += y[to], from the last of `copies` to the first, and then the inside of y"""

    @staticmethod
    def forward(ctx, B, y, *, widths, copies):
        y = B.xp.array(y)
        for axis, to, source in reversed(copies):
            y[_row(axis, source)] += y[_row(axis, to)]
        return B.xp.array(y[_inside(widths, y)])

    @staticmethod
    def vjp(ctx, gx):
        return apply(Border, gx, widths=ctx.widths, copies=ctx.copies)


class Pad(Op):
    """A border of one value around x; `widths` is ((before, after), …) per axis"""

    @staticmethod
    def forward(ctx, B, x, *, widths, value):
        shape = tuple(before + size + after for (before, after), size in zip(widths, x.shape, strict=True))
        y = B.xp.full_like(x, value, shape=shape)  # keeps the memory order, channels-last too
        y[tuple(slice(b, b + size) for (b, _), size in zip(widths, x.shape, strict=True))] = x
        return y

    @staticmethod
    def vjp(ctx, gy):
        return gy[tuple(slice(b, b + size) for (b, _), size in zip(ctx.widths, ctx.shapes[0], strict=True))]


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """A border around the last axes: `pad` is (before, after) of the last axis, then of the one before it, …

    Modes: constant, reflect, replicate, circular. Negative widths crop.
    """
    x, widths = input, list(shape_of((pad,), "pad"))
    if len(widths) % 2 or len(widths) // 2 > x.ndim:
        raise RuntimeError(
            f"pad: got {widths} for a tensor with {x.ndim} axes, expected a (before, after) pair per axis"
        )
    pairs = [(widths[i], widths[i + 1]) for i in range(0, len(widths), 2)][::-1]
    pairs = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    if any(size + b + a < 0 for (b, a), size in zip(pairs, x.array.shape, strict=True)):
        raise RuntimeError(f"pad: widths {widths} take more away than shape {tuple(x.shape)} has")
    grow = tuple((max(b, 0), max(a, 0)) for b, a in pairs)
    if grow != tuple(pairs):
        crop = zip(pairs, x.array.shape, strict=True)
        x = x[tuple(slice(max(0, -b), size - max(0, -a)) for (b, a), size in crop)]
    if mode == "constant":
        return apply(Pad, x, widths=grow, value=0 if value is None else value)
    return apply(Border, x, widths=grow, copies=border_copies(x.array.shape, grow, mode))


def border_copies(shape: Sequence[Any], widths: Widths, mode: str) -> tuple[tuple[int, int, int], ...]:
    """(axis, to, source) for each row of the border that a mode fills with another row."""
    copies: list[tuple[int, int, int]] = []
    for i, ((before, after), size) in enumerate(zip(widths, shape, strict=True)):
        if before or after:
            outside = (*range(-before, 0), *range(size, size + after))
            copies += [(i, j + before, _source(j, size, mode, before, after) + before) for j in outside]
    return tuple(copies)


def _source(j: int, size: int, mode: str, before: int, after: int) -> int:
    """The index inside 0 … size-1 whose value stands at position j of the padded axis."""
    limits = {"reflect": size - 1, "circular": size, "replicate": math.inf if size else 0}
    if mode not in limits:
        raise NotImplementedError(f"pad: mode {mode!r} is unknown: expected constant, reflect, replicate or circular")
    if max(before, after) > limits[mode]:
        raise RuntimeError(
            f"pad: {mode} padding ({before}, {after}) of an axis of size {size}: at most {limits[mode]} is possible"
        )
    if mode == "circular":
        return j % size
    if mode == "replicate":
        return min(max(j, 0), size - 1)
    j = abs(j)
    return 2 * (size - 1) - j if j >= size else j

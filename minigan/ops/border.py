"""Padding by values of the tensor itself: `pad` of `minigan.ops.shape` in modes reflect, replicate and circular.

Index arrays would do the same, but their adjoint adds value by value; rows are copied and added whole here.
"""

from __future__ import annotations

from typing import Any

from minigan.graph import Op, apply

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

"""The same values elsewhere: in another dtype, in memory of their own, on another device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minigan import dtypes
from minigan.backend import Backend
from minigan.check import check_tensors
from minigan.graph import Op, apply, plain_result, wrap
from minigan.graphs import refuse

if TYPE_CHECKING:
    from minigan.tensor import Tensor


class Cast(Op):
    """The same values in another dtype; the gradient goes back to the input's dtype"""

    @staticmethod
    def forward(ctx, B, x, *, dtype, source):
        return x.astype(dtype)

    @staticmethod
    def vjp(ctx, gy):
        return gy.to(ctx.source)


class Clone(Op):
    """A copy in memory of its own; `layout` "K" keeps the memory order, "C" makes it C-contiguous"""

    @staticmethod
    def forward(ctx, B, x, *, layout):
        return B.xp.array(x, order=layout)

    @staticmethod
    def vjp(ctx, gy):
        return gy


class Move(Op):
    """The same values on another device"""

    moves = True

    @staticmethod
    def forward(ctx, B, x, *, target, source):
        for side in (B, target):
            refuse(side, "a copy to or from another device")
        return target.asarray(B.to_numpy(x))

    @staticmethod
    def vjp(ctx, gy):
        return move(gy, ctx.source)


def cast(x: Tensor, dtype: Any) -> Tensor:
    """The same values in another dtype; x itself if it has that already"""
    target = dtypes.checked_dtype("to", dtype)
    if x.array.dtype == target:
        return x
    source = x.array.dtype
    if target.kind != "f" or source.kind != "f":  # nothing to differentiate on one side of it
        return plain_result("cast", (x,), x.array.astype(target), x.B, dtype=target)
    return apply(Cast, x, dtype=target, source=source)


def clone(x: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy in memory of its own; gradients flow through"""
    return apply(Clone, x, layout="K")


def contiguous(x: Tensor, *, memory_format: Any = None) -> Tensor:
    """x in C order in memory: itself where it is so already, else a copy.

    A channels-last `memory_format` is accepted and needs nothing done: image activations are so anyway.
    """
    if x.array.flags.c_contiguous or str(memory_format) == "channels_last":
        return x
    return apply(Clone, x, layout="C")


def move(x: Tensor, target: Backend) -> Tensor:
    """The same values on another backend; x itself if it is there already."""
    if x.B is target:
        return x
    y = apply(Move, x, target=target, source=x.B)
    y.B = target
    return y


def zeros_like(x: Tensor) -> Tensor:
    """Zeros in x's shape and memory order."""
    return wrap(x.B.xp.zeros_like(x.array), x.B, None)


def as_floating(x: Tensor) -> Tensor:
    """Integers and booleans in the default floating dtype."""
    check_tensors("an elementwise function", x)
    return x if x.array.dtype.kind in "fc" else x.to(dtypes.get_default_dtype())

"""Piecewise linear functions and selection: the slope is a constant almost everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minigan import dtypes
from minigan.check import check_tensors, number, plain
from minigan.dtypes import operands
from minigan.graph import Op, apply, wrap
from minigan.ops.memory import as_floating, zeros_like
from minigan.ops.shape import sum_to

if TYPE_CHECKING:
    from minigan.tensor import Tensor

Operand = Any  # a Tensor or a Python number


class Abs(Op):
    """y = |x|, y' = sign x"""

    @staticmethod
    def forward(ctx, B, x):
        ctx.save_inputs(True)
        return B.xp.abs(x)

    @staticmethod
    def vjp(ctx, gy):
        return gy * sign(ctx.inputs[0].detach())


class LeakyRelu(Op):
    """y = x where x > 0, slope·x elsewhere. Saves the output, whose sign is the input's."""

    @staticmethod
    def forward(ctx, B, x, *, slope):
        ctx.save_output()
        return B.kernels.leaky_relu(x, slope)

    @staticmethod
    def vjp(ctx, gy):
        return through_leaky_relu(gy, ctx.output, ctx.slope)

    @staticmethod
    def vjp_fast(ctx, B, gy):
        return B.kernels.leaky_relu_backward(gy, ctx.output_array, ctx.slope)


class LeakyReluGrad(Op):
    """gx = gy where y > 0, slope·gy elsewhere: linear in gy, and constant in y"""

    @staticmethod
    def forward(ctx, B, gy, y, *, slope):
        ctx.save_inputs(False, True)
        return B.kernels.leaky_relu_backward(gy, y, slope)

    @staticmethod
    def vjp(ctx, ggx):
        return through_leaky_relu(ggx, ctx.inputs[1], ctx.slope), None


def through_leaky_relu(gy: Tensor, y: Tensor, slope: float) -> Tensor:
    """gy times the derivative of the leaky ReLU that gave y."""
    return apply(LeakyReluGrad, gy, y.detach(), slope=slope)


class LeakyReluFromInput(Op):
    """As LeakyRelu for a negative slope, where the output's sign does not tell the input's."""

    @staticmethod
    def forward(ctx, B, x, *, slope):
        ctx.save_inputs(True)
        return B.xp.where(x > 0, x, x * slope)

    @staticmethod
    def vjp(ctx, gy):
        return through_leaky_relu(gy, ctx.inputs[0], ctx.slope)


class Clamp(Op):
    """y = x limited to [low, high]; the slope is 1 inside and on the edges"""

    @staticmethod
    def forward(ctx, B, x, *, low, high):
        ctx.save_inputs(True)
        whole = x.astype(np.int64) if x.dtype.kind == "b" else x  # CuPy has no clip of bools with one limit
        return B.xp.clip(whole, low, high)

    @staticmethod
    def vjp(ctx, gy):
        x = ctx.inputs[0].detach()
        inside = True
        if ctx.low is not None:
            inside = x >= ctx.low
        if ctx.high is not None:
            inside = (x <= ctx.high) & inside if ctx.low is not None else x <= ctx.high
        return gy * inside


class Step(Op):
    """A piecewise constant function (sign, floor, …), named in NumPy's terms; y' = 0"""

    @staticmethod
    def forward(ctx, B, x, *, function):
        return getattr(B.xp, function)(x)

    @staticmethod
    def vjp(ctx, gy):
        return zeros_like(gy)


class Maximum(Op):
    """z = max(x, y); equal values share the gradient"""

    @staticmethod
    def forward(ctx, B, x, y):
        ctx.save_inputs(True, True)
        return B.xp.maximum(x, y)

    @staticmethod
    def vjp(ctx, gz):
        x, y = (t.detach() if hasattr(t, "detach") else t for t in ctx.inputs)
        return _shares(ctx, gz, x > y, x == y)


class Minimum(Op):
    """z = min(x, y); equal values share the gradient"""

    @staticmethod
    def forward(ctx, B, x, y):
        ctx.save_inputs(True, True)
        return B.xp.minimum(x, y)

    @staticmethod
    def vjp(ctx, gz):
        x, y = (t.detach() if hasattr(t, "detach") else t for t in ctx.inputs)
        return _shares(ctx, gz, x < y, x == y)


def _shares(ctx: Any, gz: Tensor, first: Tensor, tie: Tensor) -> tuple[Tensor | None, Tensor | None]:
    share = where(tie, 0.5, first.to(gz.dtype))
    return (
        sum_to(gz * share, ctx.shapes[0]) if ctx.needs[0] else None,
        sum_to(gz * (1 - share), ctx.shapes[1]) if ctx.needs[1] else None,
    )


class Where(Op):
    """z = x where the condition holds, y elsewhere"""

    @staticmethod
    def forward(ctx, B, condition, x, y):
        ctx.save_inputs(True, False, False)
        return B.xp.where(condition, x, y)

    @staticmethod
    def vjp(ctx, gz):
        condition = ctx.inputs[0]
        return (
            None,
            sum_to(where(condition, gz, 0.0), ctx.shapes[1]) if ctx.needs[1] else None,
            sum_to(where(condition, 0.0, gz), ctx.shapes[2]) if ctx.needs[2] else None,
        )


# The functions -------------------------------------------------------------------------------------------


def abs(x: Tensor) -> Tensor:
    """|x|"""
    return apply(Abs, x)


def relu(x: Tensor) -> Tensor:
    """max(x, 0)"""
    return apply(LeakyRelu, x, slope=0)


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x where x > 0, negative_slope·x elsewhere"""
    return apply(LeakyRelu if negative_slope >= 0 else LeakyReluFromInput, x, slope=plain(negative_slope))


def clamp(x: Tensor, min: Operand | None = None, max: Operand | None = None) -> Tensor:
    """x limited to [min, max], each a number or a Tensor"""
    if min is None and max is None:
        raise RuntimeError("clamp: at least one of 'min' or 'max' must not be None")
    if hasattr(min, "array") or hasattr(max, "array"):
        low = x if min is None else where(x < min, min, x)
        return low if max is None else where(low > max, max, low)
    min, max = (None if limit is None else number("clamp", limit) for limit in (min, max))
    if x.array.dtype.kind != "f" and any(isinstance(limit, float) for limit in (min, max)):
        x = as_floating(x)
    return apply(Clamp, x, low=min, high=max)


def clamp_min(x: Tensor, min: Operand) -> Tensor:
    """The larger of x and min"""
    return clamp(x, min=min)


def clamp_max(x: Tensor, max: Operand) -> Tensor:
    """The smaller of x and max"""
    return clamp(x, max=max)


def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1"""
    return x.clone() if x.dtype.kind == "b" else apply(Step, x, function="sign")


def floor(x: Tensor) -> Tensor:
    """The largest integer not above x"""
    return apply(Step, x, function="floor")


def ceil(x: Tensor) -> Tensor:
    """The smallest integer not below x"""
    return apply(Step, x, function="ceil")


def round(x: Tensor) -> Tensor:
    """The nearest integer, halves to even"""
    return apply(Step, x, function="rint") if x.array.dtype.kind == "f" else x.clone()


def trunc(x: Tensor) -> Tensor:
    """The integer part"""
    return apply(Step, x, function="trunc")


def maximum(x: Operand, y: Operand) -> Tensor:
    """The larger of two, elementwise; equal values share the gradient"""
    return apply(Maximum, *operands("maximum", x, y))


def minimum(x: Operand, y: Operand) -> Tensor:
    """The smaller of two, elementwise; equal values share the gradient"""
    return apply(Minimum, *operands("minimum", x, y))


def where(condition: Tensor, x: Operand = None, y: Operand = None) -> Any:
    """x where the condition holds, y elsewhere; with the condition alone, the indices where it holds"""
    if x is None and y is None:
        return condition.nonzero(as_tuple=True)
    check_tensors("where", condition)
    if condition.array.dtype.kind != "b":
        raise RuntimeError(f"where: expected a bool condition, got {condition.dtype}")
    if hasattr(x, "array") or hasattr(y, "array"):
        x, y = operands("where", x, y)
    else:
        kind = type(x + y) if type(x) is not type(y) else type(x)
        dtype = {float: dtypes.get_default_dtype(), bool: dtypes.bool}.get(kind, dtypes.int64)
        x = wrap(condition.B.xp.asarray(x, dtype=dtype), condition.B, None)
    return apply(Where, condition, x, y)


def masked_fill(x: Tensor, mask: Tensor, value: Operand) -> Tensor:
    """x with `value` where the mask holds"""
    from minigan.creation import as_operand

    return where(mask, as_operand(value, x), x)

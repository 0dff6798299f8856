"""Sums, products, quotients and powers with broadcasting, each derivative one line beside its function."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minigan import dtypes, graphs
from minigan.dtypes import operands
from minigan.graph import Op, apply, plain_result
from minigan.ops.memory import zeros_like
from minigan.ops.piecewise import Step, where
from minigan.ops.shape import sum_to

if TYPE_CHECKING:
    from minigan.tensor import Tensor

Number = float | int | bool
Operand = Any  # a Tensor or a Number


class Add(Op):
    """z = x + y"""

    @staticmethod
    def forward(ctx, B, x, y):
        return x + y

    @staticmethod
    def vjp(ctx, gz):
        return (
            sum_to(gz, ctx.shapes[0]) if ctx.needs[0] else None,
            sum_to(gz, ctx.shapes[1]) if ctx.needs[1] else None,
        )


class Sub(Op):
    """z = x - y"""

    @staticmethod
    def forward(ctx, B, x, y):
        return x - y

    @staticmethod
    def vjp(ctx, gz):
        return (
            sum_to(gz, ctx.shapes[0]) if ctx.needs[0] else None,
            sum_to(-gz, ctx.shapes[1]) if ctx.needs[1] else None,
        )


class Mul(Op):
    """z = x·y"""

    @staticmethod
    def forward(ctx, B, x, y):
        ctx.save_inputs(ctx.needs[1], ctx.needs[0])
        return x * y

    @staticmethod
    def vjp(ctx, gz):
        x, y = ctx.inputs
        return (
            sum_to(gz * y, ctx.shapes[0]) if ctx.needs[0] else None,
            sum_to(gz * x, ctx.shapes[1]) if ctx.needs[1] else None,
        )


class Div(Op):
    """z = x / y"""

    quiet = True

    @staticmethod
    def forward(ctx, B, x, y):
        ctx.save_inputs(ctx.needs[1], True)
        return x / y

    @staticmethod
    def vjp(ctx, gz):
        x, y = ctx.inputs
        return (
            sum_to(gz / y, ctx.shapes[0]) if ctx.needs[0] else None,
            sum_to(-gz * (x / y / y), ctx.shapes[1]) if ctx.needs[1] else None,
        )


def _is_whole(x: Any) -> bool:
    return hasattr(x, "dtype") and x.dtype.kind in "iu"


class Pow(Op):
    """z = xʸ, ∂z/∂x = y·xʸ⁻¹, ∂z/∂y = xʸ·log x (0 where x = 0 and y ≥ 0)"""

    quiet = True

    @staticmethod
    def forward(ctx, B, x, y):
        ctx.save_inputs(True, True)
        if isinstance(y, int):
            refused = y < 0 and x.dtype.kind in "iu"
        else:
            whole = _is_whole(y) and (isinstance(x, int) or _is_whole(x))
            refused = whole and not graphs.capturing(B) and (y < 0).any()
        if refused:
            raise ValueError("Integers to negative integer powers are not allowed.")  # NumPy says so, CuPy gives 0
        return x**y

    @staticmethod
    def vjp(ctx, gz):
        x, y = ctx.inputs
        gx = gy = None
        if ctx.needs[0]:
            if isinstance(y, (int, float)):
                gx = gz * (y * x ** (y - 1)) if y != 0 else zeros_like(gz)
            else:
                gx = gz * where(y == 0, 0.0, y * x ** (y - 1))
            gx = sum_to(gx, ctx.shapes[0])
        if ctx.needs[1]:
            if isinstance(x, (int, float)):
                slope = (x**y) * (math.log(x) if x > 0 else (0.0 if x == 0 else math.nan))
            else:
                slope = where((x == 0) & (y >= 0), 0.0, x**y * where(x == 0, 1.0, x).log())
            gy = sum_to(gz * slope, ctx.shapes[1])
        return gx, gy


class FloorDivide(Op):
    """z = ⌊x / y⌋, from the exact remainder and not from the rounded quotient; ∂z/∂x = ∂z/∂y = 0"""

    quiet = True

    @staticmethod
    def forward(ctx, B, x, y):
        return B.kernels.floor_divide(x, y)

    @staticmethod
    def vjp(ctx, gz):
        return tuple(gz.new_zeros(shape) if need else None for shape, need in zip(ctx.shapes, ctx.needs, strict=True))


class Neg(Op):
    """y = -x"""

    @staticmethod
    def forward(ctx, B, x):
        return -x

    @staticmethod
    def vjp(ctx, gy):
        return -gy


# The functions -------------------------------------------------------------------------------------------


def add(x: Operand, y: Operand, *last: Operand, alpha: Number = 1) -> Tensor:
    """x + alpha·y; in older scripts also `add(x, alpha, y)`"""
    if last:
        alpha, (y,) = y, last
    return apply(Add, *operands("add", x, y if alpha == 1 else y * alpha))


def sub(x: Operand, y: Operand, *, alpha: Number = 1) -> Tensor:
    """x - alpha·y"""
    return apply(Sub, *operands("sub", x, y if alpha == 1 else y * alpha))


def mul(x: Operand, y: Operand) -> Tensor:
    """x·y"""
    return apply(Mul, *operands("mul", x, y))


def addcmul(x: Tensor, y: Operand, z: Tensor, *last: Tensor, value: Number = 1) -> Tensor:
    """x + value·y·z; in older scripts also `addcmul(x, value, y, z)`"""
    if last:
        value, y, (z,) = y, z, last
    return add(x, mul(y, z), alpha=value)


def addcdiv(x: Tensor, y: Operand, z: Tensor, *last: Tensor, value: Number = 1) -> Tensor:
    """x + value·y/z; in older scripts also `addcdiv(x, value, y, z)`"""
    if last:
        value, y, (z,) = y, z, last
    return add(x, div(y, z), alpha=value)


def div(x: Operand, y: Operand, *, rounding_mode: str | None = None) -> Tensor:
    """x / y, of integers too; `rounding_mode` 'floor' or 'trunc' rounds the quotient."""
    if rounding_mode not in (None, "floor", "trunc"):
        raise RuntimeError(f"div: got rounding_mode {rounding_mode!r}, expected None, 'floor' or 'trunc'")
    x, y = operands("div", x, y)
    kinds = [t.dtype for t in (x, y) if hasattr(t, "array")]
    if all(kind.kind not in "fc" for kind in kinds):
        if rounding_mode:
            return _whole_quotient(x, y, rounding_mode)
        x, y = (t.to(dtypes.get_default_dtype()) if hasattr(t, "array") else t for t in (x, y))
    if rounding_mode == "floor":
        return apply(FloorDivide, x, y)
    quotient = apply(Div, x, y)
    return apply(Step, quotient, function="trunc") if rounding_mode else quotient


def _whole_quotient(x: Operand, y: Operand, rounding_mode: str) -> Tensor:
    """Of integers, exact where a float would not be."""
    B, given = x.B if hasattr(x, "array") else y.B, (x, y)
    x, y = (getattr(t, "array", t) for t in (x, y))
    if bool(B.xp.any(B.xp.asarray(y == 0))):
        raise RuntimeError("div: an integer was divided by 0; convert to a floating dtype to get infinities")
    quotient = B.xp.asarray(B.xp.floor_divide(x, y))
    if rounding_mode == "trunc":  # one more where the quotient is negative and not whole
        quotient = quotient + ((quotient < 0) & (quotient * y != x)).astype(quotient.dtype)
    return plain_result("whole_quotient", given, quotient, B)


def floor_divide(x: Operand, y: Operand) -> Tensor:
    """⌊x / y⌋"""
    return div(x, y, rounding_mode="floor")


def remainder(x: Operand, y: Operand) -> Tensor:
    """x - y·⌊x / y⌋, whose sign is y's"""
    return x - floor_divide(x, y) * y


def pow(x: Operand, exponent: Operand) -> Tensor:
    """xʸ; either may be a number"""
    return apply(Pow, *operands("pow", x, exponent))


def neg(x: Tensor) -> Tensor:
    """-x"""
    return apply(Neg, x)


def lerp(x: Tensor, end: Tensor, weight: Operand) -> Tensor:
    """x + weight·(end - x)"""
    return x + weight * (end - x)

"""Smooth functions of one variable, each derivative one line beside its function."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from minigan.check import plain
from minigan.graph import Op, apply
from minigan.ops.arithmetic import Pow
from minigan.ops.memory import as_floating
from minigan.ops.piecewise import where

if TYPE_CHECKING:
    from minigan.tensor import Tensor


# Functions whose derivative is best written in their output --------------------------------------------


class Exp(Op):
    """y = eˣ, y' = y"""

    quiet = True

    @staticmethod
    def forward(ctx, B, x):
        ctx.save_output()
        return B.xp.exp(x)

    @staticmethod
    def vjp(ctx, gy):
        return gy * ctx.output


class Expm1(Op):
    """y = eˣ - 1, y' = y + 1"""

    quiet = True

    @staticmethod
    def forward(ctx, B, x):
        ctx.save_output()
        return B.xp.expm1(x)

    @staticmethod
    def vjp(ctx, gy):
        return gy * (ctx.output + 1)


class Sqrt(Op):
    """y = √x, y' = 1 / 2y"""

    quiet = True

    @staticmethod
    def forward(ctx, B, x):
        ctx.save_output()
        return B.xp.sqrt(x)

    @staticmethod
    def vjp(ctx, gy):
        return gy / (2 * ctx.output)


class Tanh(Op):
    """y = tanh x, y' = 1 - y²"""

    @staticmethod
    def forward(ctx, B, x):
        ctx.save_output()
        return B.xp.tanh(x)

    @staticmethod
    def vjp(ctx, gy):
        y = ctx.output
        return gy * (1 - y * y)

    @staticmethod
    def vjp_fast(ctx, B, gy):
        slope = B.xp.square(ctx.output_array)
        slope *= -1
        slope += 1
        slope *= gy
        return slope


class Sigmoid(Op):
    """y = 1 / (1 + e⁻ˣ), y' = y(1 - y)"""

    quiet = True

    @staticmethod
    def forward(ctx, B, x):
        ctx.save_output()
        y = B.xp.exp(-x)  # e⁻ˣ may overflow to ∞, and 1 / ∞ is the right 0
        y += 1
        return B.xp.reciprocal(y, out=y) if y.ndim else 1 / y

    @staticmethod
    def vjp(ctx, gy):
        y = ctx.output
        return gy * (y * (1 - y))

    @staticmethod
    def vjp_fast(ctx, B, gy):
        y = ctx.output_array
        slope = 1 - y
        slope *= y
        slope *= gy
        return slope


# Functions whose derivative is best written in their input ---------------------------------------------


class Log(Op):
    """y = log x, y' = 1 / x"""

    quiet = True

    @staticmethod
    def forward(ctx, B, x):
        ctx.save_inputs(True)
        return B.xp.log(x)

    @staticmethod
    def vjp(ctx, gy):
        return gy / ctx.inputs[0]


class Log1p(Op):
    """y = log(1 + x), y' = 1 / (1 + x)"""

    quiet = True

    @staticmethod
    def forward(ctx, B, x):
        ctx.save_inputs(True)
        return B.xp.log1p(x)

    @staticmethod
    def vjp(ctx, gy):
        return gy / (1 + ctx.inputs[0])


class Square(Op):
    """y = x², y' = 2x"""

    @staticmethod
    def forward(ctx, B, x):
        ctx.save_inputs(True)
        return B.xp.square(x)

    @staticmethod
    def vjp(ctx, gy):
        return gy * (2 * ctx.inputs[0])


class Sin(Op):
    """y = sin x, y' = cos x"""

    quiet = True

    @staticmethod
    def forward(ctx, B, x):
        ctx.save_inputs(True)
        return B.xp.sin(x)

    @staticmethod
    def vjp(ctx, gy):
        return gy * cos(ctx.inputs[0])


class Cos(Op):
    """y = cos x, y' = -sin x"""

    quiet = True

    @staticmethod
    def forward(ctx, B, x):
        ctx.save_inputs(True)
        return B.xp.cos(x)

    @staticmethod
    def vjp(ctx, gy):
        return -gy * sin(ctx.inputs[0])


class Erf(Op):
    """y = erf x, y' = 2/√π · e^(-x²)"""

    @staticmethod
    def forward(ctx, B, x):
        ctx.save_inputs(True)
        return B.kernels.erf(x)

    @staticmethod
    def vjp(ctx, gy):
        x = ctx.inputs[0]
        return gy * (2 / math.sqrt(math.pi) * exp(-x * x))


class Softplus(Op):
    """y = log(1 + e^βx) / β, and x itself where βx > threshold; y' = σ(βx), or 1"""

    quiet = True

    @staticmethod
    def forward(ctx, B, x, *, beta, threshold):
        ctx.save_inputs(True)
        scaled = beta * x
        return B.xp.where(scaled > threshold, x, B.xp.log1p(B.xp.exp(scaled)) / beta)

    @staticmethod
    def vjp(ctx, gy):
        scaled = ctx.beta * ctx.inputs[0]
        return gy * where(scaled > ctx.threshold, 1.0, sigmoid(scaled))


class LogSigmoid(Op):
    """y = log σ(x) = min(x, 0) - log(1 + e^-|x|), y' = σ(-x)"""

    @staticmethod
    def forward(ctx, B, x):
        ctx.save_inputs(True)
        y = B.xp.log1p(B.xp.exp(-B.xp.abs(x)))
        return B.xp.minimum(x, 0) - y

    @staticmethod
    def vjp(ctx, gy):
        return gy * sigmoid(-ctx.inputs[0])


# The functions -------------------------------------------------------------------------------------------


def exp(x: Tensor) -> Tensor:
    """eˣ"""
    return apply(Exp, as_floating(x))


def expm1(x: Tensor) -> Tensor:
    """eˣ - 1, exact for small x"""
    return apply(Expm1, as_floating(x))


def log(x: Tensor) -> Tensor:
    """Natural logarithm"""
    return apply(Log, as_floating(x))


def log1p(x: Tensor) -> Tensor:
    """log(1 + x), exact for small x"""
    return apply(Log1p, as_floating(x))


def log2(x: Tensor) -> Tensor:
    """Logarithm to base 2"""
    return log(x) * (1 / math.log(2))


def log10(x: Tensor) -> Tensor:
    """Logarithm to base 10"""
    return log(x) * (1 / math.log(10))


def sqrt(x: Tensor) -> Tensor:
    """√x"""
    return apply(Sqrt, as_floating(x))


def rsqrt(x: Tensor) -> Tensor:
    """1 / √x"""
    return apply(Pow, as_floating(x), -0.5)


def reciprocal(x: Tensor) -> Tensor:
    """1 / x"""
    return 1 / x


def square(x: Tensor) -> Tensor:
    """x²"""
    return apply(Square, x)


def sin(x: Tensor) -> Tensor:
    """sin x"""
    return apply(Sin, as_floating(x))


def cos(x: Tensor) -> Tensor:
    """cos x"""
    return apply(Cos, as_floating(x))


def tanh(x: Tensor) -> Tensor:
    """tanh x"""
    return apply(Tanh, as_floating(x))


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e⁻ˣ)"""
    return apply(Sigmoid, as_floating(x))


def erf(x: Tensor) -> Tensor:
    """The error function"""
    return apply(Erf, as_floating(x))


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + e^βx) / β, and x itself where βx > threshold"""
    return apply(Softplus, x, beta=plain(beta), threshold=plain(threshold))


def logsigmoid(x: Tensor) -> Tensor:
    """log σ(x), exact for large |x|"""
    return apply(LogSigmoid, x)

"""Elementwise operations with broadcasting, each derivative one line beside its function."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from minigan import dtypes
from minigan.backend import Backend
from minigan.dtypes import operands
from minigan.graph import Op, apply, wrap
from minigan.ops.shape import sum_to

if TYPE_CHECKING:
    from minigan.tensor import Tensor

Number = float | int | bool
Operand = Any  # a Tensor or a Number


# Arithmetic ------------------------------------------------------------------------------------------


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
            sum_to(-gz * x / (y * y), ctx.shapes[1]) if ctx.needs[1] else None,
        )


class Pow(Op):
    """z = xʸ, ∂z/∂x = y·xʸ⁻¹, ∂z/∂y = xʸ·log x (0 where x = 0 and y ≥ 0)"""

    quiet = True

    @staticmethod
    def forward(ctx, B, x, y):
        ctx.save_inputs(True, True)
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
                slope = where((x == 0) & (y >= 0), 0.0, x**y * log(where(x == 0, 1.0, x)))
            gy = sum_to(gz * slope, ctx.shapes[1])
        return gx, gy


class Neg(Op):
    """y = -x"""

    @staticmethod
    def forward(ctx, B, x):
        return -x

    @staticmethod
    def vjp(ctx, gy):
        return -gy


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
        B.xp.subtract(1, slope, out=slope)
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


# Piecewise linear: the slope is a constant almost everywhere ---------------------------------------------


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
        if slope == 0:
            return B.xp.maximum(x, 0)
        y = x * slope
        # For 0 < slope < 1 the larger of the two is the right one.
        return B.xp.maximum(x, y) if 0 < slope <= 1 else B.xp.where(x > 0, x, y)

    @staticmethod
    def vjp(ctx, gy):
        return gy * where(ctx.output.detach() > 0, 1.0, ctx.slope)

    @staticmethod
    def vjp_fast(ctx, B, gy):
        positive = ctx.output_array > 0
        if ctx.slope == 0:
            return gy * positive
        # slope + (1 - slope)·[y > 0], without `where`, which is slow
        factor = positive.astype(gy.dtype)
        factor *= 1 - ctx.slope
        factor += ctx.slope
        factor *= gy
        return factor


class LeakyReluFromInput(Op):
    """As LeakyRelu for a negative slope, where the output's sign does not tell the input's."""

    @staticmethod
    def forward(ctx, B, x, *, slope):
        ctx.save_inputs(True)
        return B.xp.where(x > 0, x, x * slope)

    @staticmethod
    def vjp(ctx, gy):
        return gy * where(ctx.inputs[0].detach() > 0, 1.0, ctx.slope)


class Clamp(Op):
    """y = x limited to [low, high]; the slope is 1 inside and on the edges"""

    @staticmethod
    def forward(ctx, B, x, *, low, high):
        ctx.save_inputs(True)
        return B.xp.clip(x, low, high)

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


class Cast(Op):
    """The same values in another dtype; the gradient goes back to the input's dtype"""

    @staticmethod
    def forward(ctx, B, x, *, dtype, source):
        return x.astype(dtype)

    @staticmethod
    def vjp(ctx, gy):
        return gy.to(ctx.source)


class Clone(Op):
    """A copy in memory of its own; `order` "K" keeps the memory order, "C" makes it C-contiguous"""

    @staticmethod
    def forward(ctx, B, x, *, order):
        return B.xp.array(x, order=order)

    @staticmethod
    def vjp(ctx, gy):
        return gy


# The functions -------------------------------------------------------------------------------------------


def add(x: Operand, y: Operand, *, alpha: Number = 1) -> Tensor:
    """x + alpha·y"""
    return apply(Add, *operands("add", x, y if alpha == 1 else y * alpha))


def sub(x: Operand, y: Operand, *, alpha: Number = 1) -> Tensor:
    """x - alpha·y"""
    return apply(Sub, *operands("sub", x, y if alpha == 1 else y * alpha))


def mul(x: Operand, y: Operand) -> Tensor:
    """x·y"""
    return apply(Mul, *operands("mul", x, y))


def _rounded(mode: str, x: Tensor) -> Tensor:
    return apply(Step, x, function=mode)


def div(x: Operand, y: Operand, *, rounding_mode: str | None = None) -> Tensor:
    """x / y, of integers too; `rounding_mode` 'floor' or 'trunc' rounds the quotient."""
    if rounding_mode not in (None, "floor", "trunc"):
        raise RuntimeError(f"div: got rounding_mode {rounding_mode!r}, expected None, 'floor' or 'trunc'")
    x, y = operands("div", x, y)
    kinds = [t.dtype for t in (x, y) if hasattr(t, "array")]
    if all(kind.kind != "f" for kind in kinds):
        whole = kinds[0] if rounding_mode else None
        exact = dtypes.float64 if rounding_mode else dtypes.get_default_dtype()
        x, y = (t.to(exact) if hasattr(t, "array") else t for t in (x, y))
        quotient = apply(Div, x, y)
        return _rounded(rounding_mode, quotient).to(whole) if rounding_mode else quotient
    quotient = apply(Div, x, y)
    return _rounded(rounding_mode, quotient) if rounding_mode else quotient


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


def _floating(x: Tensor) -> Tensor:
    return x if x.array.dtype.kind == "f" else x.to(dtypes.get_default_dtype())


def exp(x: Tensor) -> Tensor:
    """eˣ"""
    return apply(Exp, _floating(x))


def expm1(x: Tensor) -> Tensor:
    """eˣ - 1, exact for small x"""
    return apply(Expm1, _floating(x))


def log(x: Tensor) -> Tensor:
    """Natural logarithm"""
    return apply(Log, _floating(x))


def log1p(x: Tensor) -> Tensor:
    """log(1 + x), exact for small x"""
    return apply(Log1p, _floating(x))


def log2(x: Tensor) -> Tensor:
    """Logarithm to base 2"""
    return log(x) * (1 / math.log(2))


def log10(x: Tensor) -> Tensor:
    """Logarithm to base 10"""
    return log(x) * (1 / math.log(10))


def sqrt(x: Tensor) -> Tensor:
    """√x"""
    return apply(Sqrt, _floating(x))


def rsqrt(x: Tensor) -> Tensor:
    """1 / √x"""
    return apply(Pow, _floating(x), -0.5)


def reciprocal(x: Tensor) -> Tensor:
    """1 / x"""
    return 1 / x


def square(x: Tensor) -> Tensor:
    """x²"""
    return apply(Square, x)


def abs(x: Tensor) -> Tensor:
    """|x|"""
    return apply(Abs, x)


def sin(x: Tensor) -> Tensor:
    """sin x"""
    return apply(Sin, _floating(x))


def cos(x: Tensor) -> Tensor:
    """cos x"""
    return apply(Cos, _floating(x))


def tanh(x: Tensor) -> Tensor:
    """tanh x"""
    return apply(Tanh, _floating(x))


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e⁻ˣ)"""
    return apply(Sigmoid, _floating(x))


def erf(x: Tensor) -> Tensor:
    """The error function"""
    return apply(Erf, _floating(x))


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + e^βx) / β, and x itself where βx > threshold"""
    return apply(Softplus, x, beta=beta, threshold=threshold)


def logsigmoid(x: Tensor) -> Tensor:
    """log σ(x), exact for large |x|"""
    return apply(LogSigmoid, x)


def relu(x: Tensor) -> Tensor:
    """max(x, 0)"""
    return apply(LeakyRelu, x, slope=0)


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x where x > 0, negative_slope·x elsewhere"""
    return apply(LeakyRelu if negative_slope >= 0 else LeakyReluFromInput, x, slope=negative_slope)


def clamp(x: Tensor, min: Operand | None = None, max: Operand | None = None) -> Tensor:
    """x limited to [min, max], each a number or a Tensor"""
    if min is None and max is None:
        raise RuntimeError("clamp: at least one of 'min' or 'max' must not be None")
    if hasattr(min, "array") or hasattr(max, "array"):
        low = x if min is None else maximum(x, min)
        return low if max is None else minimum(low, max)
    if x.array.dtype.kind != "f" and any(isinstance(limit, float) for limit in (min, max)):
        x = _floating(x)
    return apply(Clamp, x, low=min, high=max)


def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1"""
    return apply(Step, x, function="sign")


def floor(x: Tensor) -> Tensor:
    """The largest integer not above x"""
    return apply(Step, x, function="floor")


def ceil(x: Tensor) -> Tensor:
    """The smallest integer not below x"""
    return apply(Step, x, function="ceil")


def round(x: Tensor) -> Tensor:
    """The nearest integer, halves to even"""
    return apply(Step, x, function="rint")


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
    if condition.array.dtype.kind != "b":
        raise RuntimeError(f"where: expected a bool condition, got {condition.dtype}")
    if hasattr(x, "array") or hasattr(y, "array"):
        x, y = operands("where", x, y)
    else:
        dtype = dtypes.get_default_dtype() if isinstance(x, float) or isinstance(y, float) else dtypes.int64
        x = wrap(condition.B.xp.asarray(x, dtype=dtype), condition.B, None)
    return apply(Where, condition, x, y)


def masked_fill(x: Tensor, mask: Tensor, value: Operand) -> Tensor:
    """x with `value` where the mask holds"""
    return where(mask, value if hasattr(value, "array") else x.dtype.type(value).item(), x)


def lerp(x: Tensor, end: Tensor, weight: Operand) -> Tensor:
    """x + weight·(end - x)"""
    return x + weight * (end - x)


def cast(x: Tensor, dtype: Any) -> Tensor:
    """The same values in another dtype; x itself if it has that already"""
    target = np.dtype(dtype)
    if x.array.dtype == target:
        return x
    source = x.array.dtype
    if target.kind != "f" or source.kind != "f":  # nothing to differentiate on one side of it
        return wrap(x.array.astype(target), x.B, None)
    return apply(Cast, x, dtype=target, source=source)


def clone(x: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy in memory of its own; gradients flow through"""
    return apply(Clone, x, order="K")


def contiguous(x: Tensor, *, memory_format: Any = None) -> Tensor:
    """x in C order in memory: itself where it is so already, else a copy.

    A channels-last `memory_format` is accepted and needs nothing done: image activations are so anyway.
    """
    if x.array.flags.c_contiguous or str(memory_format) == "channels_last":
        return x
    return apply(Clone, x, order="C")


class Move(Op):
    """The same values on another device"""

    moves = True

    @staticmethod
    def forward(ctx, B, x, *, target, source):
        return target.asarray(B.to_numpy(x))

    @staticmethod
    def vjp(ctx, gy):
        return move(gy, ctx.source)


def move(x: Tensor, target: Backend) -> Tensor:
    """The same values on another backend; x itself if it is there already."""
    if x.B is target:
        return x
    y = apply(Move, x, target=target, source=x.B)
    y.B = target
    return y


def zeros_like(x: Tensor) -> Tensor:
    return wrap(x.B.xp.zeros_like(x.array), x.B, None)


# Comparisons and logic: plain functions of arrays, nothing to differentiate --------------------------------


def _compare(name: str, symbol: str) -> Any:
    def compare(x: Operand, y: Operand) -> Tensor:
        x, y = operands(name, x, y)
        first = x if hasattr(x, "array") else y
        if hasattr(y, "array") and first.B is not y.B:
            raise RuntimeError(f"{name}: expected all tensors on one device, got {first.device} and {y.device}")
        arrays = [getattr(t, "array", t) for t in (x, y)]
        try:
            return wrap(first.B.xp.asarray(getattr(first.B.xp, symbol)(*arrays)), first.B, None)
        except ValueError as error:
            shapes = " and ".join(str(getattr(a, "shape", ())) for a in arrays)
            raise RuntimeError(f"{name} of shapes {shapes}: {error}") from error

    compare.__name__ = compare.__qualname__ = name
    compare.__doc__ = f"Elementwise {symbol.replace('_', ' ')}, as a bool tensor"
    return compare


eq = _compare("eq", "equal")
ne = _compare("ne", "not_equal")
lt = _compare("lt", "less")
le = _compare("le", "less_equal")
gt = _compare("gt", "greater")
ge = _compare("ge", "greater_equal")
logical_and = _compare("logical_and", "logical_and")
logical_or = _compare("logical_or", "logical_or")
logical_xor = _compare("logical_xor", "logical_xor")
bitwise_and = _compare("bitwise_and", "bitwise_and")
bitwise_or = _compare("bitwise_or", "bitwise_or")
bitwise_xor = _compare("bitwise_xor", "bitwise_xor")


def _test(name: str, symbol: str) -> Any:
    def test(x: Tensor) -> Tensor:
        return wrap(x.B.xp.asarray(getattr(x.B.xp, symbol)(x.array)), x.B, None)

    test.__name__ = test.__qualname__ = name
    test.__doc__ = f"Elementwise {symbol.replace('_', ' ')}, as a bool tensor"
    return test


isnan = _test("isnan", "isnan")
isinf = _test("isinf", "isinf")
isfinite = _test("isfinite", "isfinite")
logical_not = _test("logical_not", "logical_not")
bitwise_not = _test("bitwise_not", "invert")

"""What generated kernels can compute: expressions in CUDA C, and the dtypes that NumPy has for them.

Dtypes come from `resolve_dtypes` of NumPy's functions; Python numbers are weak, as in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["C_TYPES", "OPERATIONS", "Operation", "result_types"]

C_TYPES = {
    np.dtype(np.float32): "float", np.dtype(np.float64): "double", np.dtype(np.int32): "int",
    np.dtype(np.int64): "long long", np.dtype(np.bool_): "bool", np.dtype(np.uint8): "unsigned char",
}  # fmt: skip


@dataclass(frozen=True)
class Operation:
    """An expression in x, y, z, the operands, and how it is typed.

    `{f}` in it is f for float and nothing for double. `whole` is the expression of integers and bools: where it is
    None, there is none. `like` is a function of NumPy with the same dtypes, or what finds them.
    """

    expression: str
    whole: str | None = None
    like: str | Callable[..., tuple[np.dtype, ...]] = ""


def _alike(*given: Any) -> tuple[np.dtype, ...]:
    """All operands and the result of one dtype."""
    return (np.result_type(*given),) * (len(given) + 1)


def _after_condition(condition: Any, *given: Any) -> tuple[np.dtype, ...]:
    """Of `where`."""
    return np.dtype(np.bool_), *_alike(*given)


def _same(expression: str, **more: Any) -> Operation:
    """One expression for all dtypes."""
    return Operation(expression, expression, **more)


OPERATIONS = {
    "positive": _same("x"),
    "negative": _same("-x"),
    "absolute": Operation("fabs{f}(x)", "x < 0 ? -x : x"),
    "sign": Operation("x > 0 ? 1 : x < 0 ? -1 : x == 0 ? 0 : x", "(x > 0) - (x < 0)"),
    "square": _same("x * x"),
    "reciprocal": Operation("1 / x"),
    "sqrt": Operation("sqrt{f}(x)"),
    "rsqrt": Operation("1 / sqrt{f}(x)", like="sqrt"),
    "exp": Operation("exp{f}(x)"),
    "expm1": Operation("expm1{f}(x)"),
    "log": Operation("log{f}(x)"),
    "log1p": Operation("log1p{f}(x)"),
    "log2": Operation("log2{f}(x)"),
    "log10": Operation("log10{f}(x)"),
    "sin": Operation("sin{f}(x)"),
    "cos": Operation("cos{f}(x)"),
    "tanh": Operation("tanh{f}(x)"),
    "erf": Operation("erf{f}(x)", like="exp"),
    "sigmoid": Operation("1 / (1 + exp{f}(-x))", like="exp"),  # e⁻ˣ may be ∞, and 1 / ∞ is the right 0
    "logsigmoid": Operation("(x < 0 ? x : 0) - log1p{f}(exp{f}(-fabs{f}(x)))", like="exp"),
    "floor": Operation("floor{f}(x)", "x"),
    "ceil": Operation("ceil{f}(x)", "x"),
    "trunc": Operation("trunc{f}(x)", "x"),
    "rint": Operation("rint{f}(x)"),
    "isnan": _same("x != x"),
    "isinf": _same("x == x && x - x != 0"),  # ∞ - ∞ is NaN, which differs from all
    "isfinite": _same("x - x == 0"),
    "logical_not": _same("!x"),
    "invert": Operation("", "inverted(x)"),
    "tanh_backward": Operation("x * (1 - y * y)", like="multiply"),  # of gy and y
    "sigmoid_backward": Operation("x * (y * (1 - y))", like="multiply"),
    # x and the slope; with slope 0, of -∞, which 0·∞ = NaN would be wrong for
    "leaky_relu": _same("x > 0 ? x : y == 0 && x == x ? 0 : y * x", like="multiply"),
    "leaky_relu_backward": _same("y > 0 ? x : z * x", like=_alike),  # of gy, y and the slope
    "softplus": Operation("y * x > z ? x : log1p{f}(exp{f}(y * x)) / y", like=_alike),  # x, β and the threshold
    "add": _same("x + y"),
    "subtract": _same("x - y"),
    "multiply": _same("x * y"),
    "divide": Operation("x / y"),
    "power": Operation("pow{f}(x, y)", "integer_power(x, y)"),
    "maximum": _same("maximum(x, y)"),
    "minimum": _same("minimum(x, y)"),
    "equal": _same("x == y"),
    "not_equal": _same("x != y"),
    "less": _same("x < y"),
    "less_equal": _same("x <= y"),
    "greater": _same("x > y"),
    "greater_equal": _same("x >= y"),
    "logical_and": _same("x && y"),
    "logical_or": _same("x || y"),
    "logical_xor": _same("!x != !y"),
    "bitwise_and": Operation("", "x & y"),
    "bitwise_or": Operation("", "x | y"),
    "bitwise_xor": Operation("", "x ^ y"),
    "where": _same("x ? y : z", like=_after_condition),
    "clip": _same("minimum(maximum(x, y), z)", like=_alike),
}


def result_types(name: str, operands: Sequence[Any]) -> tuple[np.dtype, ...]:
    """The dtypes that operands are cast to, and the result's, as NumPy has them; raises TypeError where there are none.

    >>> result_types("add", [np.ones(2, np.int32), np.ones(2, np.float32)])[-1]
    dtype('float64')
    >>> result_types("multiply", [np.ones(2, np.float32), 2])
    (dtype('float32'), dtype('float32'), dtype('float32'))
    """
    if name not in OPERATIONS:
        raise ValueError(f"operation {name!r} is unknown: expected one of {[*OPERATIONS]}")
    like = OPERATIONS[name].like or name
    if callable(like):
        types = like(*(getattr(operand, "dtype", operand) for operand in operands))
    else:
        function = getattr(np, like)
        if function.nin != len(operands):
            raise TypeError(f"{name}: got {len(operands)} operands, expected {function.nin}")
        types = function.resolve_dtypes((*map(_dtype_or_type, operands), None))
    given = [np.dtype(operand.dtype) for operand in operands if hasattr(operand, "dtype")]
    missing = [str(dtype) for dtype in (*given, *types) if dtype not in C_TYPES]
    if missing or (types[0].kind != "f" and types[-1].kind != "f" and OPERATIONS[name].whole is None):
        kinds = ", ".join(str(getattr(operand, "dtype", type(operand).__name__)) for operand in operands)
        raise TypeError(f"{name} of {kinds}: there is no kernel for {missing[0] if missing else types[0]}")
    return types


def _dtype_or_type(operand: Any) -> Any:
    if isinstance(operand, bool):
        return np.dtype(np.bool_)
    return np.dtype(operand.dtype) if hasattr(operand, "dtype") else type(operand)

"""Comparisons and logic: plain functions of arrays, with nothing to differentiate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minigan.check import check_tensors
from minigan.dtypes import operands
from minigan.graph import plain_result

if TYPE_CHECKING:
    from minigan.tensor import Tensor

Operand = Any  # a Tensor or a Python number


def _compare(name: str, symbol: str) -> Any:
    def compare(x: Operand, y: Operand) -> Tensor:
        x, y = operands(name, x, y)
        first = x if hasattr(x, "array") else y
        if hasattr(y, "array") and first.B is not y.B:
            raise RuntimeError(f"{name}: expected all tensors on one device, got {first.device} and {y.device}")
        arrays = [getattr(t, "array", t) for t in (x, y)]
        try:
            return plain_result(symbol, (x, y), getattr(first.B.xp, symbol)(*arrays), first.B)
        except (ValueError, TypeError) as error:
            what = " and ".join(str(getattr(a, "shape", a)) for a in arrays)
            raise RuntimeError(f"{name} of {what}, dtype {first.dtype}: {error}") from error

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
        check_tensors(name, x)
        try:
            return plain_result(symbol, (x,), getattr(x.B.xp, symbol)(x.array), x.B)
        except TypeError as error:
            raise TypeError(f"{name} of dtype {x.dtype}: {error}") from error

    test.__name__ = test.__qualname__ = name
    test.__doc__ = f"Elementwise {symbol.replace('_', ' ')}, as a bool tensor"
    return test


def isclose(x: Tensor, y: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """Whether |x - y| ≤ atol + rtol·|y|, elementwise"""
    x, y = operands("isclose", x, y)
    try:
        close = x.B.xp.isclose(x.array, getattr(y, "array", y), rtol=rtol, atol=atol, equal_nan=equal_nan)
    except ValueError as error:
        raise RuntimeError(f"isclose of {tuple(x.shape)} and {tuple(y.shape)}: {error}") from error
    return plain_result("isclose", (x, y), close, x.B)


isnan = _test("isnan", "isnan")
isinf = _test("isinf", "isinf")
isfinite = _test("isfinite", "isfinite")
logical_not = _test("logical_not", "logical_not")
bitwise_not = _test("bitwise_not", "invert")

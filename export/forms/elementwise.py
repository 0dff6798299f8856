"""Forms of what is done value by value: arithmetic, functions, comparisons, casts."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from minigan.export.forms.register import form
from minigan.export.trace import ExportError

if TYPE_CHECKING:
    from minigan.export.emit import Emit
    from minigan.export.trace import Call

DTYPES = {
    "float32": 1, "uint8": 2, "int8": 3, "int16": 5, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11,
}  # fmt: skip  # ONNX's numbers

UNARY = {
    "Abs": "Abs", "Cos": "Cos", "Erf": "Erf", "Exp": "Exp", "Log": "Log", "Neg": "Neg", "Sigmoid": "Sigmoid",
    "Sin": "Sin", "Sqrt": "Sqrt", "Tanh": "Tanh", "isnan": "IsNaN", "isinf": "IsInf",
}  # fmt: skip
BINARY = {
    "Add": "Add", "Sub": "Sub", "Mul": "Mul", "Div": "Div", "Maximum": "Max", "Minimum": "Min", "Pow": "Pow",
    "equal": "Equal", "less": "Less", "less_equal": "LessOrEqual", "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
}  # fmt: skip
LOGIC = {"logical_and": "And", "logical_or": "Or", "logical_xor": "Xor"}
LOGIC |= {f"bitwise_{name}": LOGIC[f"logical_{name}"] for name in ("and", "or", "xor")}
STEPS = {"sign": "Sign", "floor": "Floor", "ceil": "Ceil", "rint": "Round"}


@form(*UNARY)
def unary(e: Emit, call: Call) -> str:
    return e.node(UNARY[call.op], *e.values(call, "x"))


@form(*BINARY)
def binary(e: Emit, call: Call) -> str:
    return e.node(BINARY[call.op], *e.values(call, "x", "y"))


@form("not_equal")
def not_equal(e: Emit, call: Call) -> str:
    return e.node("Not", binary(e, dataclasses.replace(call, op="equal")))


@form(*LOGIC)
def logic(e: Emit, call: Call) -> str:
    _booleans(e, call)
    return e.node(LOGIC[call.op], *e.values(call, "x", "y"))


@form("logical_not", "invert")
def logical_not(e: Emit, call: Call) -> str:
    _booleans(e, call)
    return e.node("Not", *e.values(call, "x"))


def _booleans(e: Emit, call: Call) -> None:
    if e.dtype(call) != np.bool_:
        raise ExportError(f"{call.place}: {call.op} of {e.dtype(call)}: ONNX has it for bool only; use .bool()")


@form("Expm1")
def expm1(e: Emit, call: Call) -> str:
    """eˣ - 1"""
    return e.node("Sub", e.node("Exp", *e.values(call, "x")), e.constant(1, call.dtype, "Sub/y"))


@form("Log1p")
def log1p(e: Emit, call: Call) -> str:
    """log(x + 1)"""
    return e.node("Log", e.node("Add", *e.values(call, "x"), e.constant(1, call.dtype, "Add/y")))


@form("Square")
def square(e: Emit, call: Call) -> str:
    (x,) = e.values(call, "x")
    return e.node("Mul", x, x)


@form("isfinite")
def isfinite(e: Emit, call: Call) -> str:
    (x,) = e.values(call, "x")
    return e.node("Not", e.node("Or", e.node("IsNaN", x), e.node("IsInf", x)))


@form("Softplus")
def softplus(e: Emit, call: Call) -> str:
    """log(1 + e^βx) / β, which is x to rounding beyond the threshold"""
    beta, threshold = call.params["beta"], call.params["threshold"]
    if threshold < 15:  # there, the two differ by more than 3e-7
        raise ExportError(f"{call.place}: Softplus with threshold {threshold}, expected at least 15")
    (x,) = e.values(call, "x")
    if beta == 1:
        return e.node("Softplus", x)
    y = e.node("Softplus", e.node("Mul", x, e.constant(beta, call.dtype, "Mul/y")))
    return e.node("Div", y, e.constant(beta, call.dtype, "Div/y"))


@form("LogSigmoid")
def log_sigmoid(e: Emit, call: Call) -> str:
    """-softplus(-x)"""
    return e.node("Neg", e.node("Softplus", e.node("Neg", *e.values(call, "x"))))


@form("LeakyRelu", "LeakyReluFromInput")
def leaky_relu(e: Emit, call: Call) -> str:
    return activated(e, call, *e.values(call, "x"))


def activated(e: Emit, call: Call, x: str) -> str:
    """x, through a leaky ReLU if the call has a slope"""
    slope = call.params["slope"]
    if slope is None:
        return x
    return e.node("Relu", x) if slope == 0 else e.node("LeakyRelu", x, alpha=float(slope))


@form("Clamp")
def clamp(e: Emit, call: Call) -> str:
    limits = [call.params[name] for name in ("low", "high")]
    names = [
        "" if limit is None else e.constant(limit, call.dtype, f"Clip/{name}")
        for limit, name in zip(limits, ("min", "max"), strict=True)
    ]
    return e.node("Clip", *e.values(call, "x"), *(names if names[1] else names[:1]))


@form("Step")
def step(e: Emit, call: Call) -> str:
    (x,) = e.values(call, "x")
    if call.params["function"] == "trunc":
        return e.node("Mul", e.node("Sign", x), e.node("Floor", e.node("Abs", x)))
    return e.node(STEPS[call.params["function"]], x)


@form("Where")
def where(e: Emit, call: Call) -> str:
    condition = e.value(call, 0, "condition")
    return e.node("Where", condition, *(e.value(call, i, role, call.dtype) for i, role in ((1, "x"), (2, "y"))))


@form("Cast", "cast")
def cast(e: Emit, call: Call) -> str:
    return e.node("Cast", *e.values(call, "x"), to=DTYPES[call.dtype.name])

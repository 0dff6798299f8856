"""Where forms are entered: `FORMS`, and `REASONS` for operations that have none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minigan.export.emit import Emit
    from minigan.export.trace import Call

Form = Callable[["Emit", "Call"], str]
FORMS: dict[str, Form] = {}

_ADJOINT = "it only comes up in derivatives: a generator that differentiates something as it runs cannot be exported"
_LOSS = "it is a loss: a generator has none"
_BOOL = "its result steers Python code, which a file cannot hold"
REASONS = {
    "AddAt": "ONNX Runtime has no addition at repeated places that is the same on every device",
    "all": _BOOL,
    "any": _BOOL,
    "argsort": "ONNX sorts with TopK, which does not keep equal values in order",
    "BinaryCrossEntropy": _LOSS,
    "BinaryCrossEntropyWithLogits": _LOSS,
    "BorderAdjoint": _ADJOINT,
    "ConvWeightGrad": _ADJOINT,
    "FloorDivide": "ONNX has no exact one; where the quotient rounds up to a whole number, floor(x / y) is off by one",
    "isclose": _BOOL,
    "LeakyReluGrad": _ADJOINT,
    "LogOdds": _LOSS,
    "Unslice": _ADJOINT,
    "whole_quotient": "ONNX rounds the quotient of whole numbers towards zero; divide floats, and round them",
    "ViewAssign": "writes in place into a part of a tensor; use cat, where or scatter, which make a new one",
}


def form(*names: str) -> Callable[[Any], Any]:
    """Enter the decorated function as the form of these operations."""

    def enter(function: Form) -> Form:
        for name in names:
            FORMS[name] = function
        return function

    return enter

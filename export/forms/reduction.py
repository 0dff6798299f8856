"""Forms of reductions: sums, extremes, norms, softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minigan.export.forms.register import form
from minigan.export.trace import ExportError

if TYPE_CHECKING:
    from minigan.export.emit import Emit
    from minigan.export.trace import Call


def reduce(e: Emit, op: str, x: str, axes: tuple[int, ...], keepdims: bool) -> str:
    """A reduction. Its axes are an attribute, or from opset 18 on an input, as they always are of ReduceSum."""
    if not axes:
        return x
    if op == "ReduceSum" or e.opset >= 18:
        return e.node(op, x, e.integers(axes, f"{op}/axes"), keepdims=int(keepdims))
    return e.node(op, x, axes=list(axes), keepdims=int(keepdims))


@form("Sum")
def add_up(e: Emit, call: Call) -> str:
    return reduce(e, "ReduceSum", e.value(call, 0, "x"), call.params["axes"], call.params["keepdim"])


@form("SumTo")
def sum_to(e: Emit, call: Call) -> str:
    """The sum over the axes that are missing, or of size 1, in the result"""
    old, new = e.shape(call.inputs[0]), call.shape
    extra = len(old) - len(new)
    axes = (*range(extra), *(i + extra for i, size in enumerate(new) if size != old[i + extra]))
    kept = tuple(1 if i in axes else size for i, size in enumerate(old))
    return e.reshape(reduce(e, "ReduceSum", e.value(call, 0, "x"), axes, True), kept, new, call)


@form("Amax")
def extreme(e: Emit, call: Call) -> str:
    op = "ReduceMax" if call.params["sign"] > 0 else "ReduceMin"
    return reduce(e, op, e.value(call, 0, "x"), call.params["axes"], call.params["keepdim"])


@form("Norm2")
def norm2(e: Emit, call: Call) -> str:
    (x,) = e.values(call, "x")
    axes = call.params["axes"]
    return reduce(e, "ReduceL2", x, axes, call.params["keepdim"]) if axes else e.node("Abs", x)


@form("Cumsum")
def cumsum(e: Emit, call: Call) -> str:
    return e.node("CumSum", *e.values(call, "x"), e.constant(call.params["dim"], "int64", "CumSum/axis"))


@form("Softmax", "LogSoftmax")
def softmax(e: Emit, call: Call) -> str:
    return e.node(call.op, *e.values(call, "x"), axis=call.params["dim"])


@form("argmax", "argmin")
def arg_extreme(e: Emit, call: Call) -> str:
    dim = call.params["dim"]
    if dim is None:
        raise ExportError(f"{call.place}: {call.op} over all axes, the batch's too; give dim")
    op = "ArgMax" if call.op == "argmax" else "ArgMin"
    return e.node(op, *e.values(call, "x"), axis=dim, keepdims=int(call.params["keepdim"]))

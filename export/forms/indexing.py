"""Forms of selecting and writing by integer arrays: embeddings, gather, scatter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minigan.export.forms.register import form
from minigan.export.trace import Baked, Batch, Constant, Dim, ExportError, Traced

if TYPE_CHECKING:
    from minigan.export.emit import Emit
    from minigan.export.trace import Call


@form("Take")
def take(e: Emit, call: Call) -> str:
    """One array among full slices: Gather. An array for every axis, all but one counting up: GatherElements."""
    arrays, pattern = call.inputs[1:], call.params["pattern"]
    x = e.value(call, 0, "x")
    if len(arrays) == 1:
        axis = next(i for i, part in enumerate(pattern) if not isinstance(part, slice) and part is not ...)
        if axis >= 0 and all(part == slice(None) or part is ... for i, part in enumerate(pattern) if i != axis):
            if ... in pattern[:axis]:
                axis = len(e.shape(call.inputs[0])) - (len(pattern) - axis)
            return e.node("Gather", x, _index(e, call, 1), axis=axis)
    axis = _only_axis(e, call, 1)
    return e.node("GatherElements", x, _index(e, call, 1 + axis), axis=axis)


@form("PutAt")
def put_at(e: Emit, call: Call) -> str:
    """As `scatter` does it: ScatterElements, whose updates have the shape of the indices"""
    axis = _only_axis(e, call, 2)
    x, index = e.value(call, 0, "x"), _index(e, call, 2 + axis)
    shape = e.shape(call.inputs[2 + axis])
    values = _filled(e, call, shape) if e.shape(call.inputs[1]) == () else e.value(call, 1, "values")
    return e.node("ScatterElements", x, index, values, axis=axis)


def _filled(e: Emit, call: Call, shape: tuple[Dim, ...]) -> str:
    """One number in every place of a shape."""
    given = call.inputs[1]
    if isinstance(given, Traced):
        return e.node("Expand", e.names[given.number], e.sizes(shape, "Expand/shape"))
    number = given.array if isinstance(given, Constant) else given
    along = [(axis, size) for axis, size in enumerate(shape) if isinstance(size, Batch)]
    array = np.full([1 if isinstance(size, Batch) else size for size in shape], number, call.dtype)
    return e.tensor(call, Constant(array, repeated=along[0] if along else None), "values")


def _index(e: Emit, call: Call, i: int) -> str:
    name, argument = e.value(call, i, "index"), call.inputs[i]
    dtype = argument.array.dtype if isinstance(argument, Constant) else e.trace.dtypes[argument.number]
    return name if dtype in (np.int64, np.int32) else e.node("Cast", name, to=7)


def _only_axis(e: Emit, call: Call, first: int) -> int:
    """The axis along which the arrays choose; along all others they count up, as `gather` and `scatter` have them."""
    arrays = call.inputs[first:]
    if len(arrays) != len(e.shape(call.inputs[0])):
        raise _too_general(call)
    chosen = [i for i, array in enumerate(arrays) if not _counts_up(array, i, len(arrays))]
    if len(chosen) > 1:
        raise _too_general(call)
    if chosen:
        return chosen[0]
    return max(range(len(arrays)), key=lambda i: _size(arrays[i]))  # the one that has the result's shape


def _counts_up(argument: Any, axis: int, ndim: int) -> bool:
    if isinstance(argument, Traced):
        return False
    arrays = (argument.few, argument.more) if isinstance(argument, Baked) else (argument.array,)
    shape = [1] * ndim
    shape[axis] = -1
    return all(np.array_equal(array, np.arange(array.size).reshape(shape)) for array in arrays)


def _size(argument: Any) -> int:
    return argument.few.size if isinstance(argument, Baked) else argument.array.size


def _too_general(call: Call) -> ExportError:
    return ExportError(
        f"{call.place}: {call.op} with several index arrays; use one index array, gather or scatter along an axis, or "
        "where and masked_fill for masks"
    )

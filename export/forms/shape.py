"""Forms of what moves values without changing them: shapes, order, joining, slices, padding."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from minigan.export.emit import LAST
from minigan.export.forms.register import form
from minigan.export.trace import Batch, Dim, ExportError
from minigan.ops.padding import border_copies

if TYPE_CHECKING:
    from minigan.export.emit import Emit
    from minigan.export.trace import Call

MODES = {"reflect": "reflect", "replicate": "edge"}  # of Pad up to opset 18; circular came with 19


@form("Expand")
def expand(e: Emit, call: Call) -> str:
    """Axes that stay are 1 in ONNX's shape, which only grows: so the batch's size need not be known."""
    old = e.shape(call.inputs[0])
    if old == call.shape:
        return e.value(call, 0, "x")
    aligned = zip_longest(reversed(call.shape), reversed(old))
    wanted: list[Dim] = [1 if new == there else new for new, there in aligned][::-1]
    return e.node("Expand", *e.values(call, "x"), e.sizes(wanted, "Expand/shape"))


@form("Reshape")
def reshape(e: Emit, call: Call) -> str:
    return e.reshape(e.value(call, 0, "x"), e.shape(call.inputs[0]), call.shape, call)


@form("Permute")
def permute(e: Emit, call: Call) -> str:
    dims = list(call.params["dims"])
    (x,) = e.values(call, "x")
    return x if dims == sorted(dims) else e.node("Transpose", x, perm=dims)


@form("Flip")
def flip(e: Emit, call: Call) -> str:
    (x,) = e.values(call, "x")
    dims = call.params["dims"]
    n = len(dims)
    return slice_node(e, x, [-1] * n, [-LAST] * n, dims, [-1] * n) if n else x


@form("Roll")
def roll(e: Emit, call: Call) -> str:
    (x,) = e.values(call, "x")
    for shift, axis in zip(call.params["shifts"], call.params["dims"], strict=True):
        size = call.shape[axis]
        if isinstance(size, Batch):
            raise ExportError(f"{call.place}: Roll along the batch: a sample would depend on the others of its batch")
        if size and shift % size:
            cut = size - shift % size
            parts = (slice_node(e, x, [cut], [LAST], [axis], [1]), slice_node(e, x, [0], [cut], [axis], [1]))
            x = e.node("Concat", *parts, axis=axis)
    return x


@form("Cat")
def cat(e: Emit, call: Call) -> str:
    parts = [e.value(call, i, f"x{i}") for i in range(len(call.inputs))]
    return e.node("Concat", *parts, axis=call.params["dim"])


@form("Slice")
def slices(e: Emit, call: Call) -> str:
    """Slices first; then new and dropped axes are a Reshape."""
    old = e.shape(call.inputs[0])
    parts = _parts(call.params["pattern"], len(old))
    own = [part for part in parts if part is not None]
    cut = [(axis, *_ends(part)) for axis, (part, size) in enumerate(zip(own, old, strict=True)) if not _all(part, size)]
    x = e.value(call, 0, "x")
    if cut:
        axes, starts, ends, steps = zip(*cut, strict=True)
        x = slice_node(e, x, starts, ends, axes, steps)
    sizes = iter(call.shape)
    given = [(part, None if isinstance(part, int) else next(sizes)) for part in parts]
    sliced = [1 if size is None else size for part, size in given if part is not None]
    return e.reshape(x, sliced, call.shape, call)


def _parts(pattern: tuple, ndim: int) -> list[Any]:
    """The pattern with full slices for `...` and for the axes it does not reach."""
    at = pattern.index(...) if ... in pattern else len(pattern)
    before, after = pattern[:at], pattern[at + 1 :]
    missing = ndim - sum(part is not None for part in (*before, *after))
    return [*before, *[slice(None)] * missing, *after]


def _ends(part: Any) -> tuple[Any, Any, int]:
    """Start, end and step; an end of LAST reaches the last entry."""
    if isinstance(part, int):
        return part, part + 1 or LAST, 1  # -1 is the last entry
    return part.start or 0, LAST if part.stop is None else part.stop, part.step or 1


def _all(part: Any, size: Dim) -> bool:
    """Whether a slice, or a number, takes the whole axis."""
    if isinstance(part, int):
        return size == 1
    if part.step not in (None, 1) or part.start not in (None, 0):
        return False
    return part.stop is None or part.stop == size


def slice_node(e: Emit, x: str, starts: Any, ends: Any, axes: Any, steps: Any) -> str:
    """x[start:end:step] along each of the axes."""
    names = [e.sizes(starts, "Slice/starts"), e.sizes(ends, "Slice/ends"), e.integers(axes, "Slice/axes")]
    if any(step != 1 for step in steps):
        names.append(e.integers(steps, "Slice/steps"))
    return e.node("Slice", x, *names)


@form("Pad")
def pad(e: Emit, call: Call) -> str:
    value = e.constant(call.params["value"], call.dtype, "Pad/value")
    return pad_node(e, e.value(call, 0, "x"), call.params["widths"], value)


def pad_node(e: Emit, x: str, widths: tuple, *value: str, **attributes: Any) -> str:
    """x with so much before and after on each axis."""
    before, after = zip(*widths, strict=True)
    return e.node("Pad", x, e.integers([*before, *after], "Pad/pads"), *value, **attributes)


@form("Border")
def border(e: Emit, call: Call) -> str:
    """Pad where it has the mode; else the rows are gathered, one axis after the other."""
    x, widths, shape = e.value(call, 0, "x"), call.params["widths"], e.shape(call.inputs[0])
    for mode, name in MODES.items():
        if _fits(mode, shape, widths) and border_copies(shape, widths, mode) == call.params["copies"]:
            return pad_node(e, x, widths, mode=name)
    for axis, (before, after) in enumerate(widths):
        if before or after:
            rows = [0] * before + list(range(int(shape[axis]))) + [0] * after  # type: ignore[arg-type]  # not the batch
            for along, to, source in call.params["copies"]:
                if along == axis:
                    rows[to] = rows[source]
            x = e.node("Gather", x, e.integers(rows, "Take/index"), axis=axis)
    return x


def _fits(mode: str, shape: tuple[Dim, ...], widths: tuple) -> bool:
    """Whether a mode has rows enough: reflect needs more than it adds."""
    padded = [(size, max(width)) for size, width in zip(shape, widths, strict=True) if max(width)]
    return mode != "reflect" or all(isinstance(size, int) and width < size for size, width in padded)


@form("Diagonal")
def diagonal(e: Emit, call: Call) -> str:
    """Σⱼ xᵢⱼ·δᵢⱼ"""
    n = int(call.shape[-1])  # type: ignore[arg-type]  # square, so not the batch's
    x = e.node("Mul", *e.values(call, "x"), e.constant(np.eye(n), call.dtype, "Mul/y"))
    return e.node("ReduceSum", x, e.integers([len(call.shape)], "ReduceSum/axes"), keepdims=0)


@form("Undiagonal")
def undiagonal(e: Emit, call: Call) -> str:
    """yᵢ·δᵢⱼ"""
    old = e.shape(call.inputs[0])
    column = e.reshape(e.value(call, 0, "y"), old, (*old, 1), call)
    n = int(old[-1])  # type: ignore[arg-type]  # square, so not the batch's
    return e.node("Mul", column, e.constant(np.eye(n), call.dtype, "Mul/y"))

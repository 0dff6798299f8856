"""Changing tensors in place, and keeping the graph true.

An in-place operation computes its result, writes it over the tensor's memory, and makes the tensor stand
for the result in the graph. A tensor that views another's memory passes the change on to its base: the
base becomes `ViewAssign(base, result)`, and every other view takes its place in the graph anew when it is
next used (`Tensor._fresh`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minigan.grad_mode import mode
from minigan.graph import Node, Op, Version, apply, place, wrap
from minigan.observe import observers

if TYPE_CHECKING:
    from minigan.tensor import Tensor


class ViewAssign(Op):
    """x after `new` was written through the view that `steps` makes of it (already done in memory)."""

    @staticmethod
    def forward(ctx, B, x, new, *rest, steps, layout):
        return x

    @staticmethod
    def vjp(ctx, gx):
        from minigan.ops.memory import Clone, zeros_like

        if not ctx.needs[0]:
            return None, follow(gx, ctx.steps)
        if not ctx.steps:
            return zeros_like(gx), gx
        # A copy in x's memory order, so that the same steps give a view of it and not a copy.
        inverse = sorted(range(len(ctx.layout)), key=ctx.layout.__getitem__)
        g_old = apply(Clone, gx.permute(ctx.layout), layout="C").permute(inverse)
        hole = follow(g_old, ctx.steps)
        assert hole.version is g_old.version or not hole.numel(), "the steps made a copy"
        g_new = hole.clone() if ctx.needs[1] else None
        assign(hole, 0.0, "the gradient of an in-place operation")
        return g_old, g_new


def follow(x: Tensor, steps: tuple) -> Tensor:
    """The view of x made by a chain of view operations."""
    for op, rest, params in steps:
        x = apply(op, x, *rest, **params)
    return x


def keep_saved(x: Tensor, new: Tensor, before: int) -> None:
    """A copy of x's values for those nodes of `new`, recorded after `before`, that saved x: it is about to change."""
    stack: list[Any] = [new.node]
    copy = None
    while stack:
        node = stack.pop()
        if type(node) is Node and node.order > before:
            stack += node.parents
            for i, record in enumerate(node.saved_inputs or ()):
                if type(record) is tuple and record[0] is x.array:
                    copy = copy or (x.B.xp.array(x.array), Version(), 0)
                    node.saved_inputs[i] = copy


def assign(x: Tensor, new: Any, by: str, made: bool = False) -> Tensor:
    """Write `new`, broadcast to x's shape, over x; `by` says what did it.

    `made`: `new` was computed for this alone, so that x may take its place in the graph.
    """
    from minigan.creation import as_operand
    from minigan.ops.shape import broadcast_to

    value = as_operand(new, x)
    if value.array.shape != x.array.shape:
        value = _fit(broadcast_to, value, x, by)
    x._fresh()
    root = x
    while root.base is not None:
        root = root.base
    recorded = mode.enabled and (root.tracked or value.requires_grad)
    if recorded:
        _refuse_leaf(x, by)
    array = x.array
    expanded = array.size and any(step == 0 < size - 1 for step, size in zip(array.strides, array.shape, strict=True))
    if expanded or not getattr(array.flags, "writeable", True):  # CuPy has no flag for it
        raise RuntimeError(
            f"{by}: this tensor is expanded or read-only, several of its values share memory; .clone() it"
        )
    written = value.array
    if value.version is x.version and written is not array:  # a GPU would copy to where it has yet to read
        written = x.B.xp.array(written)
    try:
        x.array[...] = written
    except ValueError as error:
        raise RuntimeError(f"{by} on shape {tuple(x.shape)}: {error}") from error
    x._bump(by)
    for observer in observers:
        observer.assigned(x, value)
    if recorded:
        _record(x, root, value, made)
    return x


def _fit(broadcast_to: Any, value: Tensor, x: Tensor, by: str) -> Tensor:
    while value.ndim > x.ndim and value.shape[0] == 1:
        value = value[0]
    try:
        return broadcast_to(value, x.array.shape)
    except RuntimeError as error:
        raise RuntimeError(
            f"{by}: a result of shape {tuple(value.shape)} does not fit into a tensor of shape {tuple(x.shape)}"
        ) from error


def _refuse_leaf(x: Tensor, by: str) -> None:
    tensor: Tensor | None = x
    while tensor is not None:
        if tensor.node is None and tensor.tracked:
            what = "a leaf tensor" if tensor is x else "a view of a leaf tensor"
            raise RuntimeError(
                f"{by}: {what} that requires grad is being used in an in-place operation; wrap it in "
                "minigan.no_grad(), or change a .clone()"
            )
        tensor = tensor.base


def _record(x: Tensor, root: Tensor, value: Tensor, made: bool) -> None:
    """Make x stand for `value` in the graph, or its base for the base with the value written into it."""
    node = value.node
    if root is x and made and node is not None:
        place(x, node)
        if node.saved_output is not None and node.saved_output[0] is value.array:
            # Same values in both memories: keep one of them.
            node.saved_output = (x.array, x.version, x.version.count)
    else:
        steps: list[tuple] = []
        view = x
        while view.base is not None:
            steps.append(view.made_by)
            view = view.base
        strides = root.array.strides
        layout = tuple(sorted(range(root.ndim), key=lambda d: -abs(strides[d])))
        old = wrap(root.array, root.B, root.node)
        place(root, apply(ViewAssign, old, value, steps=tuple(steps[::-1]), layout=layout).node)
    root.version.recorded += 1  # other views of this memory now stand for something old

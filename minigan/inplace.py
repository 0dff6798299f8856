"""Changing tensors in place, and keeping the graph true.

An in-place operation computes its result, writes it over the tensor's memory, and makes the tensor stand
for the result in the graph. A tensor that views another's memory passes the change on to its base: the
base becomes `ViewAssign(base, result)`, and every other view takes its place in the graph anew when it is
next used (`Tensor._replay`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minigan.grad_mode import mode
from minigan.graph import Node, Op, Version, apply, wrap

if TYPE_CHECKING:
    from minigan.tensor import Tensor


class ViewAssign(Op):
    """x after `new` was written through the view that `steps` makes of it (already done in memory)."""

    @staticmethod
    def forward(ctx, B, x, new, *rest, steps, layout):
        return x

    @staticmethod
    def vjp(ctx, gx):
        from minigan.ops.memory import Clone

        # A copy in x's memory order, so that the same steps give a view of it and not a copy.
        inverse = sorted(range(len(ctx.layout)), key=ctx.layout.__getitem__)
        g_old = apply(Clone, gx.permute(ctx.layout), layout="C").permute(inverse)
        hole = follow(g_old, ctx.steps)
        g_new = hole.clone()
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


def assign(x: Tensor, new: Any, by: str) -> Tensor:
    """Write `new`, broadcast to x's shape, over x; `by` says what did it."""
    from minigan.creation import as_operand
    from minigan.ops.shape import broadcast_to

    value = as_operand(new, x)
    if value.array.shape != x.array.shape:
        value = _fit(broadcast_to, value, x, by)
    x._fresh()
    root = x
    while root.base is not None:
        root = root.base
    recorded = mode.enabled and (root.requires_grad or value.requires_grad)
    if recorded:
        _refuse_leaf(x, root, by)
    array = x.array
    expanded = array.size and any(step == 0 < size - 1 for step, size in zip(array.strides, array.shape, strict=True))
    if expanded or not getattr(array.flags, "writeable", True):  # CuPy has no flag for it
        raise RuntimeError(
            f"{by}: this tensor is expanded or read-only, several of its values share memory; .clone() it"
        )
    try:
        x.array[...] = value.array
    except ValueError as error:
        raise RuntimeError(f"{by} on shape {tuple(x.shape)}: {error}") from error
    x._bump(by)
    if recorded:
        _record(x, value)
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


def _refuse_leaf(x: Tensor, root: Tensor, by: str) -> None:
    if root.node is None and root.requires_grad:
        what = "a leaf tensor" if root is x else "a view of a leaf tensor"
        raise RuntimeError(
            f"{by}: {what} that requires grad is being used in an in-place operation; wrap it in minigan.no_grad(), "
            "or change a .clone()"
        )


def _record(x: Tensor, value: Tensor) -> None:
    """Make x stand for `value` in the graph, and its base for the base with the value written into it."""
    if value.requires_grad and value.node is None:
        value = value.clone()  # x must not become a leaf in the leaf's stead
    root = x
    steps: list[tuple] = []
    while root.base is not None:
        steps.insert(0, root.made_by)
        root = root.base
    if root is x:
        x.node = value.node
        x.requires_grad = value.requires_grad
        node = value.node
        if node is not None and node.saved_output is not None and node.saved_output[0] is value.array:
            # Same values in both memories: keep one of them.
            node.saved_output = (x.array, x.version, x.version.count)
    else:
        strides = root.array.strides
        layout = tuple(sorted(range(root.ndim), key=lambda d: -abs(strides[d])))
        old = wrap(root.array, root.B, root.node)
        whole = apply(ViewAssign, old, value, steps=tuple(steps), layout=layout)
        root.node, root.requires_grad = whole.node, True
    root.version.recorded += 1
    x.seen = root.version.recorded if root is x else -1

"""Sweeping back through the graph: `backward`, `grad`, and the switches of recording.

The sweep visits nodes in falling order of their making, through a heap: no recursion, so depth is
limited by memory alone, and each node's saved values are dropped as soon as they were used.
"""

from __future__ import annotations

import heapq
import time
import traceback
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minigan import graph
from minigan.backend import Array
from minigan.function import Function
from minigan.grad_mode import (
    detect_anomaly,
    enable_grad,
    inference_mode,
    is_grad_enabled,
    mode,
    no_grad,
    set_detect_anomaly,
    set_grad_enabled,
)
from minigan.graph import Node, Op, apply, wrap
from minigan.kernels.cpu.memory import owns_memory
from minigan.kernels.cpu.workers import single_threaded_blas
from minigan.observe import observers

if TYPE_CHECKING:
    from minigan.tensor import Tensor

__all__ = [
    "Function", "Node", "Op", "Variable", "apply", "backward", "detect_anomaly", "enable_grad", "grad",
    "inference_mode", "is_grad_enabled", "no_grad", "set_detect_anomaly", "set_grad_enabled",
]  # fmt: skip


# The sweep -----------------------------------------------------------------------------------------


def _reach(roots: Iterable[Tensor], targets: set[int]) -> set[int]:
    """ids of the nodes and leaves through which a gradient can flow from `roots` to a target."""
    found: dict[int, Node] = {}
    stack = [root.node for root in roots if root.node is not None]
    while stack:
        node = stack.pop()
        if id(node) not in found:
            found[id(node)] = node
            stack += [parent for parent in node.parents if type(parent) is Node]
    useful = set(targets)
    for node in sorted(found.values(), key=lambda node: node.order):
        if any(id(parent) in useful for parent in node.parents if parent is not None):
            useful.add(id(node))
    return useful


def _sweep(
    roots: Sequence[Tensor],
    seeds: Sequence[Tensor],
    targets: Sequence[Tensor] | None,
    retain_graph: bool,
    create_graph: bool,
) -> dict[int, tuple[Any, Tensor]]:
    """Gradients of Σ⟨root, seed⟩, by id of the leaf or node they belong to.

    With `targets` only what they need is computed; without, every leaf gets its gradient.
    """
    wanted = None if targets is None else {id(t.node or t) for t in targets}
    useful = None if targets is None else _reach(roots, wanted or set())
    total: dict[int, tuple[Any, Tensor]] = {}  # finished gradients of leaves and targets
    pending: dict[Node, Tensor] = {}
    heap: list[tuple[int, Node]] = []  # orders are unique, so nodes are never compared

    def send(to: Any, g: Tensor) -> None:
        if type(to) is Node:
            if to in pending:
                pending[to] = pending[to] + g
            else:
                pending[to] = g
                heapq.heappush(heap, (-to.order, to))
        else:
            total[id(to)] = (to, total[id(to)][1] + g if id(to) in total else g)

    previous = mode.enabled
    mode.enabled = create_graph
    try:
        for root, seed in zip(roots, seeds, strict=True):
            to = root.node or root
            if useful is None or id(to) in useful:
                send(to, seed if create_graph else seed.detach())
        with single_threaded_blas():  # once, and not by each operation
            while heap:
                node = heapq.heappop(heap)[1]
                gy = _run_hooks(node, pending.pop(node))
                if wanted is not None and id(node) in wanted:
                    total[id(node)] = (node, gy)
                    if not any(id(parent) in useful for parent in node.parents if parent is not None):  # type: ignore[operator]  # set with `wanted`
                        continue
                for parent, g in zip(*_vjp(node, gy, useful, create_graph), strict=True):
                    if parent is not None and g is not None:
                        send(parent, g)
                if not retain_graph:
                    node.release()
    finally:
        mode.enabled = previous
    return total


def _vjp(node: Node, gy: Tensor, useful: set[int] | None, create_graph: bool) -> tuple[list, Sequence[Any]]:
    """One node's step of the sweep: its parents and their gradients."""
    if node.freed:
        raise RuntimeError(
            f"{node.op.__name__}: its saved values were freed by an earlier backward. Call .detach() on what "
            "should not be differentiated again (a fake batch in the discriminator's step, say), or pass "
            "retain_graph=True to the first backward"
        )
    began = time.perf_counter() if observers else 0.0
    parents, all_needs = node.parents, node.needs
    if useful is not None:
        node.needs = [parent is not None and id(parent) in useful for parent in parents]
        parents = [parent if need else None for parent, need in zip(parents, node.needs, strict=True)]
    try:
        if create_graph or node.op.vjp_fast is None:
            gxs = node.op.vjp(node, gy)
            gxs = gxs if type(gxs) is tuple else (gxs,)
        else:
            node._reading = False
            gxs = node.op.vjp_fast(node, node.B, gy.array)
            gxs = gxs if type(gxs) is tuple else (gxs,)
            xp = node.B.xp  # whose 0-d results may be scalars
            gxs = [None if g is None else wrap(xp.asarray(g), node.B, None) for g in gxs]
    finally:
        node.needs = all_needs
        node._reading = True
    if mode.anomaly:
        _check_finite(node, gxs)
    for observer in observers:
        observer.derivative(node, gy, gxs, began)
    return parents, gxs


def _run_hooks(owner: Any, g: Tensor) -> Tensor:
    """Call the hooks of a node or leaf; each may return a gradient to use instead."""
    if owner.hooks:
        for hook in list(owner.hooks.values()):
            replaced = hook(g)
            if replaced is not None:
                _check_like(g, replaced, "what a gradient hook returns")
                g = replaced
    if type(owner) is Node and owner.retained is not None:
        tensor = owner.retained()
        if tensor is not None:
            tensor.grad = g.detach().clone() if tensor.grad is None else tensor.grad + g.detach()
    return g


def _check_like(expected: Tensor, given: Any, what: str) -> None:
    if not isinstance(given, graph.tensor_type):
        raise TypeError(f"{what} must be a Tensor, got {type(given).__name__}")
    if (given.shape, given.dtype, given.B) != (expected.shape, expected.dtype, expected.B):
        raise RuntimeError(
            f"{what} must be like its tensor, of shape {tuple(expected.shape)} and dtype {expected.dtype} on "
            f"{expected.device}; got shape {tuple(given.shape)} and dtype {given.dtype} on {given.device}"
        )


def _owned(gradients: Sequence[Tensor | None], seeds: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients, copied where two of them, or one and a seed, would share memory or be read-only."""
    handed = {id(part) for seed in seeds for part in (seed.array, seed.version)}
    out: list[Tensor | None] = []
    for g in gradients:
        if g is not None:
            array, version = g.array, g.version
            shared = id(array) in handed or id(version) in handed
            if g.requires_grad and shared:
                with enable_grad():
                    g = g.clone()
            elif not g.requires_grad and (shared or not owns_memory(array) or not _writeable(array)):
                g = wrap(g.B.xp.array(array), g.B, None)
            handed |= {id(array), id(version)}
        out.append(g)
    return out


def _writeable(array: Array) -> bool:
    return bool(getattr(array.flags, "writeable", True))  # CuPy's flags have no such entry: all are


def _seeds(outputs: Sequence[Tensor], given: Sequence[Tensor | None], caller: str) -> list[Tensor]:
    """The cotangents to start from: those given, or 1 for a scalar output."""
    seeds = []
    if len(outputs) != len(given):
        raise RuntimeError(f"{caller}: got {len(outputs)} outputs and {len(given)} gradients for them")
    for output, seed in zip(outputs, given, strict=True):
        if not output.requires_grad:
            raise RuntimeError(
                f"{caller}: the tensor of shape {tuple(output.shape)} does not require grad and does not have a "
                "grad_fn: nothing that requires gradients led to it, or it was made under no_grad or detached"
            )
        if seed is None:
            if output.array.size != 1:
                raise RuntimeError(
                    f"{caller}: grad can be implicitly created only for scalar outputs, and this one has shape "
                    f"{tuple(output.shape)}; reduce it with .sum() or .mean(), or pass the gradient to start from"
                )
            seed = wrap(output.B.xp.ones_like(output.array), output.B, None)
        else:
            _check_like(output, seed, f"{caller}: the gradient given for an output")
        seeds.append(seed)
    return seeds


def backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool = False,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Add the gradients of `tensors` to the `.grad` of the leaves (or of `inputs` only).

    With `inputs`, nothing is computed that they do not need.
    """
    if create_graph:
        raise RuntimeError(
            "backward(create_graph=True) would store a graph in .grad, a reference cycle that leaks memory; use "
            "minigan.autograd.grad(loss, inputs, create_graph=True), which returns the gradients instead"
        )
    roots = _as_list(tensors, "backward")
    given = [None] * len(roots) if grad_tensors is None else _as_list(grad_tensors, "backward", or_none=True)
    seeds = _seeds(roots, given, "backward")
    targets = None if inputs is None else _targets(inputs, "backward")
    if targets is not None and not targets:
        raise RuntimeError("backward: `inputs` is empty; leave it out to reach every leaf")
    found = _sweep(roots, seeds, targets, bool(retain_graph), False)
    by_node = {id(t.node): t for t in targets or () if t.node is not None}
    owners = [by_node.get(key, owner) for key, (owner, _) in found.items()]
    gradients = [g for _, g in found.values()]
    with_hooks = [g if o.node is not None else _run_hooks(o, g) for o, g in zip(owners, gradients, strict=True)]
    for observer in observers:
        observer.swept(roots, owners, with_hooks, kept=True)
    for owner, g in zip(owners, _owned(with_hooks, seeds), strict=True):
        assert g is not None
        if owner.node is not None and owner.node.retained is not None and owner.node.retained() is owner:
            continue  # retain_grad has seen to it
        if owner.grad is None:
            owner.grad = g.detach()
        else:
            owner.grad.array += g.array
            owner.grad._bump("backward")


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """Gradients of Σ⟨output, grad_output⟩ with respect to `inputs`; with `create_graph`, differentiable again.

    >>> import minigan as mg
    >>> x = mg.tensor(3.0, requires_grad=True)
    >>> (g,) = grad(x**3, x, create_graph=True)
    >>> grad(g, x)
    (tensor(18.),)
    """
    if not only_inputs or is_grads_batched:
        raise RuntimeError("grad: only_inputs=False and is_grads_batched=True are not supported")
    roots, targets = _as_list(outputs, "grad"), _targets(inputs, "grad")
    given = [None] * len(roots) if grad_outputs is None else _as_list(grad_outputs, "grad", or_none=True)
    seeds = _seeds(roots, given, "grad")
    retain = create_graph if retain_graph is None else retain_graph
    found = _sweep(roots, seeds, targets, retain, create_graph)
    gradients: list[Tensor | None] = []
    for i, target in enumerate(targets):
        owner = target.node or target
        g = found[id(owner)][1] if id(owner) in found else None
        if g is None and materialize_grads:
            g = wrap(target.B.xp.zeros_like(target.array), target.B, None)
        if g is None and not allow_unused:
            raise RuntimeError(
                f"grad: input {i}, of shape {tuple(target.shape)}, was not used in the graph of the outputs; pass "
                "allow_unused=True to get None for it"
            )
        gradients.append(_run_hooks(target, g) if g is not None and target.node is None else g)
    owned = _owned(gradients, seeds)
    for observer in observers:
        observer.swept(roots, targets, owned, kept=False)
    return tuple(owned)


def _as_list(given: Any, caller: str, or_none: bool = False) -> list:
    """One Tensor, or several, as a list of Tensors whose place in the graph is up to date."""
    tensors = list(given) if isinstance(given, Iterable) and not isinstance(given, graph.tensor_type) else [given]
    for tensor in tensors:
        if isinstance(tensor, graph.tensor_type):
            tensor._fresh()
        elif tensor is not None or not or_none:
            raise TypeError(f"{caller}: expected a Tensor or a sequence of Tensors, got {type(tensor).__name__}")
    return tensors


def _targets(inputs: Any, caller: str) -> list:
    targets = _as_list(inputs, caller)
    for i, target in enumerate(targets):
        if not target.requires_grad:
            raise RuntimeError(
                f"{caller}: input {i}, of shape {tuple(target.shape)}, does not require grad; call .requires_grad_() "
                "on it before the forward pass"
            )
    return targets


def _check_finite(node: Node, gxs: Sequence[Tensor | None]) -> None:
    for i, g in enumerate(gxs):
        if g is not None and not bool(g.B.xp.isfinite(g.array).all()):
            array = g.B.to_numpy(g.array)
            kind = "NaN" if np.isnan(array).any() else "infinite"
            where = node.where
            lines = "".join(traceback.format_list(_outside(where))) if where else "  (made outside detect_anomaly)\n"
            raise RuntimeError(
                f"{node.op.__name__}: the gradient of input {i}, of shape {tuple(g.shape)}, has {kind} values. "
                f"The forward call was:\n{lines}"
            )


def _outside(stack: Sequence[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """The last few frames of the caller's own code."""
    here = __file__.rsplit("/", 1)[0]
    own = [frame for frame in stack if not frame.filename.startswith(here)]
    return own[-3:] or list(stack[-3:])


def Variable(data: Tensor, requires_grad: bool = False, volatile: bool = False) -> Tensor:
    """The old name for a tensor in the graph: today any tensor is one."""
    return data.detach().requires_grad_() if requires_grad else data

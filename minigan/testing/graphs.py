"""Looking at the graph: which operations were recorded, and which nodes are still alive."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from typing import Any

from minigan.graph import Node
from minigan.tensor import Tensor


def recorded_ops(*tensors: Tensor) -> set[str]:
    """The names of the ops that led to these tensors.

    >>> import minigan as mg
    >>> x = mg.ones(3, requires_grad=True)
    >>> sorted(recorded_ops((x * x).sum()))
    ['Mul', 'Sum']
    """
    found: set[Node] = set()
    stack = [tensor.grad_fn for tensor in tensors]
    while stack:
        node = stack.pop()
        if isinstance(node, Node) and node not in found:
            found.add(node)
            stack += node.parents
    return {node.name() for node in found}


def live_nodes() -> list[Node]:
    """Every node of any graph that is in memory now."""
    return [thing for thing in gc.get_objects() if type(thing) is Node]


def check_no_leaks(f: Callable[[], Any], repeat: int = 3) -> None:
    """Assert that calling f leaves no node behind, with the garbage collector off, and name those it leaves.

    >>> import minigan as mg
    >>> x = mg.ones(3, requires_grad=True)
    >>> check_no_leaks(lambda: (x * x).sum().backward())
    """
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        before = {id(node): node for node in live_nodes()}  # holding them keeps their ids from being used again
        for _ in range(repeat):
            f()
        left = Counter(node.name() for node in live_nodes() if id(node) not in before)
    finally:
        if was_enabled:
            gc.enable()
    if left:
        names = ", ".join(f"{count} {name}" for name, count in left.most_common())
        raise AssertionError(
            f"{sum(left.values())} nodes are alive after {repeat} calls ({names}): something holds their outputs, "
            "or a reference cycle does"
        )

"""From a trace to a graph: each call is written by the form of its operation (`minigan.export.forms`).

`Emit` is what a form writes with: it names nodes after the module they are called in, constants after the state
dict, and says sizes that depend on the batch in nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minigan.export.graph import BATCH, Graph, Node, Size, Value
from minigan.export.trace import Baked, Batch, Call, Constant, Dim, ExportError, Trace, Traced

LAST = np.iinfo(np.int64).max  # as the end of a slice: to the end


def emit(trace: Trace, inputs: Sequence[str], output: str, opset: int) -> Graph:
    """The graph of a trace, with these names of inputs and output."""
    e = Emit(trace, inputs, output, opset)
    for call in trace.calls:
        e.write(call)
    shape = trace.shapes[trace.output]
    if shape[:1] != (Batch(1),) or any(isinstance(size, Batch) for size in shape[1:]):
        raise ExportError(f"what the generator returns has shape {sizes(shape)}: expected the batch as its first axis")
    e.finish()
    return e.graph


class Emit:
    """The graph as it grows. `names`: of the value of each number in the trace."""

    def __init__(self, trace: Trace, inputs: Sequence[str], output: str, opset: int) -> None:
        self.trace, self.output, self.opset = trace, output, opset
        values = [
            Value(name, trace.dtypes[number], sizes(trace.shapes[number]))
            for name, number in zip(inputs, trace.inputs, strict=True)
        ]
        self.graph = Graph(values, [], [], {}, opset=opset)
        self.names = dict(zip(trace.inputs, inputs, strict=True))
        self._used: set[str] = {*inputs, output}
        self._path = ""
        self._batches: dict[int, str] = {}  # so many times the batch's size: what holds it

    def write(self, call: Call) -> None:
        """Add a call by its operation's form."""
        from minigan.export.forms import FORMS, REASONS

        if call.op not in FORMS:
            reason = REASONS.get(call.op, "it has no ONNX form")
            raise ExportError(f"{call.place}: {call.op} cannot be exported: {reason}")
        self._path = "/" + "".join(f"{part}/" for part in call.path.split(".") if part)
        self.names[call.number] = FORMS[call.op](self, call)

    def finish(self) -> None:
        """Name the output, and drop what it does not need."""
        number = self.trace.output
        name = self.names[number]
        if any(name == value.name for value in self.graph.inputs):
            self._path = "/"
            name = self.node("Identity", name)
        self.graph.shapes = {self.names[i]: sizes(s) for i, s in self.trace.shapes.items() if i in self.names}
        self.graph.rename(name, self.output)
        self.graph.outputs = [Value(self.output, self.trace.dtypes[number], sizes(self.trace.shapes[number]))]
        self.graph.prune()

    # Nodes ----------------------------------------------------------------------------------------------

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output, which has the node's name; the value's name is returned."""
        name = self._unique(self._path + op)
        self.graph.nodes.append(Node(op, name, list(inputs), [name], attributes))
        return name

    def constant(self, value: Any, dtype: Any, role: str) -> str:
        """A constant that the node to come needs: a number, sizes, an array."""
        return self._place(np.asarray(value, dtype), f"{self._path}{role}")

    def integers(self, values: Sequence[int], role: str) -> str:
        """Sizes, axes or positions, as ONNX wants them."""
        return self.constant(list(values), np.int64, role)

    # Arguments of a call --------------------------------------------------------------------------------

    def value(self, call: Call, i: int, role: str, like: np.dtype | None = None) -> str:
        """The name of argument i. A Python number becomes a constant of dtype `like`, or of the other tensors'."""
        argument = call.inputs[i]
        if argument is None:
            return ""
        if isinstance(argument, Traced):
            return self.names[argument.number]
        if isinstance(argument, Constant):
            return self.tensor(call, argument, role)
        if isinstance(argument, Baked):
            raise argument.error(call.op)
        return self.constant(argument, like or self.dtype(call), f"{call.op}/{role}")

    def values(self, call: Call, *roles: str) -> list[str]:
        """The names of the first arguments."""
        return [self.value(call, i, role) for i, role in enumerate(roles)]

    def tensor(self, call: Call, constant: Constant, role: str) -> str:
        """A constant tensor; one that repeats for every sample is expanded to the batch's size."""
        name = self.weight(call, constant, role)
        if constant.repeated is None:
            return name
        return self.node("Expand", name, self.sizes(self.shape(constant), "Expand/shape"))

    def weight(self, call: Call, constant: Constant, role: str) -> str:
        """A constant tensor, under its name in the state dict if its values are those, else after its layer."""
        if constant.name is not None and constant.exact:
            return self._place(constant.array, constant.name)
        if constant.name is not None and call.path:
            return self._place(constant.array, f"{call.path}.{role}")
        return self._place(constant.array, f"{self._path}{call.op}/{role}")

    def dtype(self, call: Call) -> np.dtype:
        """Of the tensors among a call's arguments."""
        for argument in call.inputs:
            if isinstance(argument, Traced):
                return self.trace.dtypes[argument.number]
        raise AssertionError("a call without a traced argument is not recorded")

    def shape(self, argument: Any) -> tuple[Dim, ...]:
        """Of an argument; a number has none."""
        if isinstance(argument, Traced):
            return self.trace.shapes[argument.number]
        if isinstance(argument, Constant):
            shape: list[Dim] = list(argument.array.shape)
            if argument.repeated is not None:
                shape[argument.repeated[0]] = argument.repeated[1]
            return tuple(shape)
        return ()

    # Sizes ----------------------------------------------------------------------------------------------

    def sizes(self, dims: Sequence[Dim], role: str) -> str:
        """A vector of sizes: a constant, or made from the batch's size where it is among them."""
        if not any(isinstance(size, Batch) for size in dims):
            return self.integers([size for size in dims if isinstance(size, int)], role)
        parts: list[str] = []
        for size in dims:
            parts.append(self._batch(size.times) if isinstance(size, Batch) else self.integers([size], role))
        return parts[0] if len(parts) == 1 else self.node("Concat", *parts, axis=0)

    def reshape(self, x: str, old: Sequence[Dim], new: Sequence[Dim], call: Call) -> str:
        """x under another shape. The batch's axis is written as 0 where it stays, else as -1."""
        if tuple(old) == tuple(new):
            return x
        moved = [i for i, size in enumerate(new) if isinstance(size, Batch) and tuple(old[i : i + 1]) != (size,)]
        if len(moved) > 1 or (moved and 0 in new):
            raise ExportError(f"{call.place}: {call.op} to {sizes(new)}: several axes depend on the batch's size")
        kept = any(isinstance(size, Batch) for i, size in enumerate(new) if i not in moved)
        if kept and 0 in new:
            raise ExportError(f"{call.place}: {call.op} to {sizes(new)}: an axis of size 0")
        written = [(-1 if i in moved else 0) if isinstance(size, Batch) else size for i, size in enumerate(new)]
        more = {"allowzero": 1} if 0 in new else {}
        return self.node("Reshape", x, self.integers(written, "Reshape/shape"), **more)

    def _batch(self, times: int) -> str:
        """So many times the batch's size, in a vector of one."""
        path, self._path = self._path, "/batch/"
        if 1 not in self._batches:
            first = self.integers([0], "Gather/indices")
            self._batches[1] = self.node("Gather", self.node("Shape", self.graph.inputs[0].name), first, axis=0)
        if times not in self._batches:
            self._batches[times] = self.node("Mul", self._batches[1], self.integers([times], f"times{times}"))
        self._path = path
        return self._batches[times]

    # Names ----------------------------------------------------------------------------------------------

    def _place(self, array: np.ndarray, name: str) -> str:
        """Enter a constant; the name of an equal one of that name, or a name that is free."""
        array = np.array(array, order="C")
        there = self.graph.constants.get(name)
        if there is not None and (there.dtype, there.shape, there.tobytes()) == (
            array.dtype, array.shape, array.tobytes()
        ):  # fmt: skip
            return name
        name = self._unique(name)
        self.graph.constants[name] = array
        return name

    def _unique(self, name: str) -> str:
        candidate, i = name, 0
        while candidate in self._used:
            i += 1
            candidate = f"{name}_{i}"
        self._used.add(candidate)
        return candidate


def sizes(dims: Sequence[Dim]) -> tuple[Size, ...]:
    """As they stand in a file: the batch by name.

    >>> sizes((Batch(1), 3, Batch(2)))
    ('batch', 3, '2*batch')
    """
    return tuple(
        size if not isinstance(size, Batch) else BATCH if size.times == 1 else f"{size.times}*{BATCH}" for size in dims
    )

"""Transposed convolutions as convolutions, exactly: what int8 arithmetic exists for, and no multiplication by zero.

A transposed convolution of stride s gives, at s·j + r, a sum over x at j + f, j + f - 1, … with the taps (r + p) mod s,
(r + p) mod s + s, … of the kernel, where p is the padding and f = ⌊(r + p) / s⌋. For each r that is a convolution of
stride 1, with the taps in reverse: a phase. So there are s² convolutions of x (k4 s2 p1: four of 2×2), and their
channels are put side by side and dealt out as DepthToSpace would. That is done on (batch, height, width, channels),
by Reshape and Transpose: int8 convolutions of ONNX Runtime work in this order, so that its own transposes cancel.
(DepthToSpace is slower, and 1.20 and older have none for uint8.)

The same as one convolution (k2 p1, four times the channels) with a Slice behind computes a row and a column of phases
more than it needs (of 4×4 pixels 25/16): DCGAN-64 takes a quarter longer.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigan.export.graph import Graph, Node


@dataclass(frozen=True)
class Axis:
    """One axis of a transposed convolution: for each phase its taps, in reverse, and the padding before and behind."""

    taps: tuple[range, ...]
    pads: tuple[tuple[int, int], ...]
    count: int  # of outputs of a phase
    size: int  # of the result

    @classmethod
    def of(cls, size: int, out: int, kernel: int, stride: int, pad: int) -> Axis | None:
        """None where a phase has no taps, or would leave out some of x."""
        if size == 1 and pad == 0 and out == kernel:
            stride = kernel  # from one pixel: each output has one tap, whatever the stride
        count = -(-out // stride)
        taps = tuple(range((r + pad) % stride, kernel, stride) for r in range(stride))
        ahead = [(r + pad) // stride for r in range(stride)]
        pads = tuple((len(t) - 1 - f, count - size + f) for t, f in zip(taps, ahead, strict=True))
        if not all(taps) or min(map(min, pads)) < 0:
            return None
        return cls(tuple(t[::-1] for t in taps), pads, count, out)


def subpixel(graph: Graph, kept: Collection[str] = ()) -> Graph | None:
    """The same function with each ConvTranspose written as convolutions, or None where there is none that can be.

    It must be 2-D with a constant weight, one group and no dilation. `kept` names nodes to be left as they are.

    >>> from minigan.export.graph import Value
    >>> z, y = (Value(n, np.dtype("float32"), ("batch", c, s, s)) for n, c, s in (("z", 3, 4), ("samples", 5, 8)))
    >>> up = Node("ConvTranspose", "/up", ["z", "up.weight"], ["samples"], {"strides": [2, 2], "pads": [1, 1, 1, 1]})
    >>> graph = Graph([z], [y], [up], {"up.weight": np.ones((3, 5, 4, 4), np.float32)})
    >>> graph.shapes = {value.name: value.shape for value in (z, y)}
    >>> [node.op for node in subpixel(graph).nodes if node.op != "Transpose"]
    ['Conv', 'Conv', 'Conv', 'Conv', 'Concat', 'Reshape', 'Reshape']
    """
    new = graph.copy()
    new.nodes, found = [], False
    for node in graph.nodes:
        axes = None if node.name in kept else _axes(graph, node)
        new.nodes += [node] if axes is None else _Phases(new, node, *axes).nodes
        found |= axes is not None
    new.prune()
    return new if found else None


def _axes(graph: Graph, node: Node) -> tuple[Axis, Axis] | None:
    """Of a node that can be rewritten."""
    weight = graph.constants.get(node.inputs[1]) if node.op == "ConvTranspose" else None
    sizes = [graph.shapes.get(name, ())[2:] for name in (node.inputs[0], node.outputs[0])]
    if weight is None or any(len(s) != 2 or not all(isinstance(n, int) for n in s) for s in (*sizes, weight.shape[2:])):
        return None
    given: dict[str, Any] = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1} | node.attributes
    if given["group"] != 1 or list(given["dilations"]) != [1, 1]:
        return None
    rows, columns = map(Axis.of, *sizes, weight.shape[2:], given["strides"], given["pads"][:2])
    return None if rows is None or columns is None else (rows, columns)


class _Phases:
    """The nodes that stand for one ConvTranspose."""

    def __init__(self, graph: Graph, node: Node, rows: Axis, columns: Axis) -> None:
        self.graph, self.node = graph, node
        self.nodes: list[Node] = []
        parts = self._convolve(rows, columns)
        if len(rows.taps) == len(columns.taps) == 1:
            self.nodes[-1].outputs = list(node.outputs)
        else:
            self._shuffle(parts, rows, columns)

    def _convolve(self, rows: Axis, columns: Axis) -> list[str]:
        """The phases, row by row; as one convolution where all look at the same pixels."""
        x, w, *bias = self.node.inputs
        weight = self.graph.constants[w].swapaxes(0, 1)
        phases = [weight[:, :, r][..., c] for r in rows.taps for c in columns.taps]
        pads = [[*np.transpose((r, c)).ravel().tolist()] for r in rows.pads for c in columns.pads]
        if len(set(map(tuple, pads))) == 1 and len({p.shape for p in phases}) == 1:
            if bias:
                bias = [self._constant(f"{bias[0]}/phases", np.tile(self.graph.constants[bias[0]], len(phases)))]
            phases, pads = [np.concatenate(phases)], pads[:1]
        parts = []
        for i, (phase, around) in enumerate(zip(phases, pads, strict=True)):
            name = self._constant(f"{w}/phase{i}", np.ascontiguousarray(phase))
            kernel = list(phase.shape[2:])
            parts.append(self._add("Conv", [x, name, *bias], str(i), kernel_shape=kernel, pads=around))
        return parts

    def _shuffle(self, parts: list[str], rows: Axis, columns: Axis) -> None:
        """(batch, j, i, phases · channels) → (batch, rows, columns, channels) → channels first again"""
        parts = [self._add("Transpose", [part], str(i), perm=[0, 2, 3, 1]) for i, part in enumerate(parts)]
        x = self._add("Concat", parts, axis=3) if len(parts) > 1 else parts[0]
        high, wide = len(rows.taps), len(columns.taps)
        channels = self.graph.constants[self.node.inputs[1]].shape[1]
        x = self._sized("Reshape", x, "apart", shape=[0, rows.count, columns.count, high, wide * channels])
        x = self._add("Transpose", [x], "rows", perm=[0, 1, 3, 2, 4])
        x = self._sized("Reshape", x, "together", shape=[0, rows.count * high, columns.count * wide, channels])
        if (rows.count * high, columns.count * wide) != (rows.size, columns.size):
            x = self._sized("Slice", x, "", starts=[0, 0], ends=[rows.size, columns.size], axes=[1, 2])
        self._add("Transpose", [x], perm=[0, 3, 1, 2])
        self.nodes[-1].outputs = list(self.node.outputs)

    def _sized(self, op: str, x: str, part: str, **sizes: list[int]) -> str:
        """A node with constant sizes as its further inputs."""
        name = "/".join(filter(None, (self.node.name, op, part)))
        return self._add(
            op, [x, *(self._constant(f"{name}/{k}", np.array(v, np.int64)) for k, v in sizes.items())], part
        )

    def _add(self, op: str, inputs: list[str], part: str = "", **attributes: Any) -> str:
        name = "/".join(filter(None, (self.node.name, op, part)))
        self.nodes.append(Node(op, name, inputs, [name], attributes))
        return name

    def _constant(self, name: str, array: np.ndarray) -> str:
        name = self.graph.free_name(name)  # a weight that two layers share has phases of its own for each
        self.graph.constants[name] = array
        return name

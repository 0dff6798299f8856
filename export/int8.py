"""The int8 variant: weights in int8, and arithmetic on integers in the layers between the first and the last.

Post-training quantisation in ONNX's form: x is kept as an integer q with x ≈ scale · (q - zero point), and
QuantizeLinear and DequantizeLinear stand at the borders of what is integer; ONNX Runtime makes one integer layer of
DequantizeLinear → Conv → QuantizeLinear. Activations are uint8 with one scale for the whole tensor, from the smallest
and the largest value that calibration saw, and a little more; weights are symmetric int8 with a scale for each output.

Weights use ±64, not ±127. Without VNNI, x86 multiplies bytes by `vpmaddubsw`, which adds two products in 16 bits and
saturates: 2 · 255 · 127 does not fit, 2 · 255 · 64 does. So a file gives the same samples on every CPU. (int8
activations would be no way out: with those, ONNX Runtime leaves the layers in float on x86.)

The last layer is computed in float: its output is the picture, in which 256 levels before tanh are seen. So is a small
first layer: 256 levels of a latent are seen too, and in a large one they are worth it, for it is bound by memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from minigan.export.fold import LINEAR
from minigan.export.graph import Graph, Node, OnnxError, Value
from minigan.export.subpixel import subpixel

LIMIT = 64  # the largest weight that integers are multiplied by
FULL = 127  # the largest of those that are made float again
LEVELS = 255  # of an activation, above the lowest
MARGIN = 1.1  # ranges are so much larger than what calibration saw: one value cut off harms more than coarser steps
SMALL = 1 << 17  # weights of a first layer which is left in float
SMALLEST = 1e-12  # of a scale: no division by 0 where all is 0
BIAS_LIMIT = 1 << 30  # leaves room in int32 for the products
MOVERS = ("Concat", "Expand", "Flatten", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")  # compute nothing

Ranges = dict[str, tuple[float, float]]


def quantize(
    graph: Graph, feeds: Sequence[dict[str, np.ndarray]], keep_edges: bool = False, optimize: str = "speed"
) -> Graph:
    """The int8 variant of a float32 graph with folded BatchNorm, its ranges taken from a run on `feeds`.

    `keep_edges`: the first and the last layer stay in float32, weights too. `optimize`: of layers that compute in
    float, "speed" leaves the weights in float32, "size" keeps them in int8.

    >>> from minigan.export.exporter import Subject, Variant, build
    >>> import minigan as mg
    >>> G = mg.nn.Sequential(*(mg.nn.Linear(n, 2 * n) for n in (8, 16, 32))).eval()
    >>> subject = Subject.of(G, latent=8)
    >>> small = quantize(build(subject, Variant(), verified=False), [subject.draw(64, "calibration")])
    >>> [(name, str(array.dtype)) for name, array in small.constants.items() if array.ndim == 2]
    [('0.weight', 'float32'), ('1.weight/int8', 'int8'), ('2.weight', 'float32')]
    """
    if not feeds:
        raise OnnxError("int8 needs latents to calibrate on: got none, expected at least one batch")
    graph.infer_shapes()
    first, last = _edges(graph)
    kept = last | {n.name for n in graph.nodes if n.name in first and (keep_edges or _is_small(graph, n.inputs[1]))}
    target = subpixel(graph, kept) or graph
    users = target.users()
    layers = {n.name: n for n in target.nodes if n.name not in kept and _can_be_integer(target, users, n)}
    if not layers and optimize == "speed":
        raise OnnxError("no layer would compute in int8 (the last, and a small first one, do not): use fp16-storage")
    settled = {n.outputs[0]: _settled(target, users, n.outputs[0]) for n in layers.values()}
    watched = {n.inputs[0] for n in layers.values()} | set(settled.values())
    ranges = observe(graph, feeds, watched) if watched else {}
    writer = _Writer(target, ranges, settled)
    exact = kept if keep_edges else set()
    for node in target.nodes:
        if node.name in layers:
            writer.layer(node)
        else:
            writer.other(node, optimize == "size" and node.name not in exact and _has_weight(target, users, node))
    writer.graph.prune()
    return writer.graph


def observe(graph: Graph, feeds: Iterable[dict[str, np.ndarray]], names: Iterable[str]) -> Ranges:
    """The smallest and the largest of each named value, as ONNX Runtime computes them from these inputs."""
    import onnxruntime

    inner = sorted(set(names) - {value.name for value in graph.inputs})
    watched = graph.copy()
    watched.outputs = [Value(name, np.dtype(np.float32), graph.shapes[name]) for name in inner]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, and need not be printed as well
    session = onnxruntime.InferenceSession(watched.to_bytes(), options, providers=["CPUExecutionProvider"])
    ranges: Ranges = {}
    for feed in feeds:
        for name, array in (feed | dict(zip(inner, session.run(inner, feed), strict=True))).items():
            low, high = float(array.min()), float(array.max())
            if not np.isfinite(low) or not np.isfinite(high):
                raise OnnxError(f"int8 cannot be calibrated: {name} holds values that are not finite")
            before = ranges.get(name, (low, high))
            ranges[name] = min(before[0], low), max(before[1], high)
    return ranges


def _edges(graph: Graph) -> tuple[set[str], set[str]]:
    """The names of the layers that no layer comes before, and of those that none comes after."""
    layers = [node for node in graph.nodes if node.op in LINEAR]
    behind: set[str] = set()  # values that a layer goes into
    for node in graph.nodes:
        if node.op in LINEAR or not behind.isdisjoint(node.inputs):
            behind.update(node.outputs)
    ahead: set[str] = set()  # values that go into a layer
    for node in reversed(graph.nodes):
        if node.op in LINEAR or not ahead.isdisjoint(node.outputs):
            ahead.update(node.inputs)
    first = {node.name for node in layers if behind.isdisjoint(node.inputs)}
    return first, {node.name for node in layers if ahead.isdisjoint(node.outputs)}


def _is_small(graph: Graph, weight: str) -> bool:
    return weight in graph.constants and graph.constants[weight].size < SMALL


def _has_weight(graph: Graph, users: dict[str, list[Node]], node: Node) -> bool:
    """Whether it is a layer whose weight is a constant of its own, with its outputs on the axis that is expected."""
    if node.op not in LINEAR or node.inputs[1] not in graph.constants or len(users[node.inputs[1]]) > 1:
        return False
    return node.op != "Gemm" or node.attributes.get("transB", 0) == 1


def _can_be_integer(graph: Graph, users: dict[str, list[Node]], node: Node) -> bool:
    """Whether ONNX Runtime has an integer form of it, with a constant bias."""
    x, _, *bias = node.inputs if node.op in LINEAR else ("", "")
    plain = all(node.attributes.get(name, usual) == usual for name, usual in (("alpha", 1), ("beta", 1), ("transA", 0)))
    own = _has_weight(graph, users, node) and x not in graph.constants and set(bias) <= set(graph.constants)
    return node.op != "ConvTranspose" and own and plain


def _settled(graph: Graph, users: dict[str, list[Node]], name: str) -> str:
    """Where a layer's output is after the nodes that only move it, and ReLU: the range there is the one needed.

    Rounding to 0 … 255 is a ReLU if the zero point is 0; and the phases of one layer have one range.
    """
    while len(users[name]) == 1 and users[name][0].op in (*MOVERS, "Relu"):
        name = users[name][0].outputs[0]
    return name


class _Writer:
    """The new graph as it grows: the nodes of the old one are added in their order."""

    def __init__(self, graph: Graph, ranges: Ranges, settled: dict[str, str]) -> None:
        self.graph, self._ranges, self._settled = graph.copy(), ranges, settled
        self.graph.nodes = []
        self._integers: dict[str, tuple[str, str, str]] = {}  # of a value: its integers, their scale and zero point
        self._dequantized: dict[str, str] = {}  # of a value: what its integers stand for
        self._only: set[str] = set()  # values for which their integers are taken everywhere

    def layer(self, node: Node) -> None:
        """A layer in integers."""
        x, y, bias = node.inputs[0], node.outputs[0], node.inputs[2:]
        self._quantize(x)
        step = float(self.graph.constants[self._integers[x][1]])
        b = self.graph.constants[bias[0]].astype(np.float64) if bias else np.zeros(1)
        weight, scale = self._weight(node, np.abs(b) / step / BIAS_LIMIT)
        inputs = [self._dequantize(x), weight]
        if bias:
            integers = np.rint(b / (scale * step)).astype(np.int32)
            inputs.append(self._constant(f"{node.name}/bias", integers, scale * step, 0))
        self._put(node, inputs)
        self._quantize(y)
        self._only.add(y)

    def other(self, node: Node, light: bool) -> None:
        """Any other node: on integers if it only moves them, else in float; `light`: with its weight in int8."""
        data = node.inputs if node.op == "Concat" else node.inputs[:1]
        kinds = {self._integers[x][1:] if x in self._integers else None for x in data}
        ((kind), *others) = kinds
        y = node.outputs[0]
        if kind and not others and (node.op in MOVERS or self._is_idle(node, kind)):
            self._integers[y] = self._integers[data[0]]
            if node.op in MOVERS:
                self._put(node, [self._integers[x][0] if x in data else x for x in node.inputs])
                self._integers[y] = (y, *kind)
            self._only.add(y)
            return
        inputs = [self._dequantize(x) if x in self._only else x for x in node.inputs]
        if light:
            integer = node.op == "Gemm" and node.inputs[0] in self._only  # ONNX Runtime makes it so by itself
            inputs[1], _ = self._weight(node, limit=LIMIT if integer else FULL)
        self._put(node, inputs)

    def _is_idle(self, node: Node, kind: tuple[str, str]) -> bool:
        """Whether it is a ReLU of integers none of which stands for less than 0."""
        return node.op == "Relu" and int(self.graph.constants[kind[1]]) == 0

    def _put(self, node: Node, inputs: list[str]) -> None:
        self.graph.nodes.append(Node(node.op, node.name, inputs, list(node.outputs), dict(node.attributes)))

    def _quantize(self, x: str) -> None:
        """Make a value's integers, if they are not there."""
        if x in self._integers:
            return
        end = self._settled.get(x, x)
        low, high = MARGIN * min(self._ranges[end][0], 0.0), MARGIN * max(self._ranges[end][1], 0.0)
        scale = np.float32(max((high - low) / LEVELS, SMALLEST))
        zero = np.array(np.rint(-low / scale), np.uint8)
        name, *border = f"{x}/QuantizeLinear", f"{end}/scale", f"{end}/zero_point"
        self.graph.constants |= zip(border, (np.array(scale), zero), strict=True)
        self.graph.nodes.append(Node("QuantizeLinear", name, [x, *border], [name]))
        self._integers[x] = (name, border[0], border[1])

    def _dequantize(self, x: str) -> str:
        if x not in self._dequantized:
            name = self._dequantized[x] = f"{x}/DequantizeLinear"
            self.graph.nodes.append(Node("DequantizeLinear", name, list(self._integers[x]), [name]))
        return self._dequantized[x]

    def _weight(self, node: Node, least: np.ndarray | float = 0.0, limit: int = LIMIT) -> tuple[str, np.ndarray]:
        """A layer's weight in int8, and its scales, which are at least so large."""
        name, axis = node.inputs[1], LINEAR[node.op]
        weight = np.moveaxis(self.graph.constants[name], axis, 0)
        largest = np.abs(weight).reshape(len(weight), -1).max(1)
        scale = np.maximum(largest / limit, np.maximum(least, SMALLEST)).astype(np.float32)
        integers = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
        return self._constant(name, np.moveaxis(integers, 0, axis), scale, axis), scale.astype(np.float64)

    def _constant(self, name: str, integers: np.ndarray, scale: np.ndarray, axis: int) -> str:
        """Integers with a scale for each place on an axis: the name of what they stand for."""
        parts = integers, scale.astype(np.float32), np.zeros(len(scale), integers.dtype)
        names = [f"{name}/{part}" for part in (integers.dtype.name, "scale", "zero_point")]
        self.graph.constants |= zip(names, parts, strict=True)
        self.graph.nodes.append(
            Node("DequantizeLinear", f"{name}/DequantizeLinear", names, [f"{name}/DequantizeLinear"], {"axis": axis})
        )
        return f"{name}/DequantizeLinear"

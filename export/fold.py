"""Passes over a fresh graph: biases into their convolutions, BatchNorm into the layer before it where that is exact.

A layer that is linear and then normalised by fixed moments is one linear layer:
(W·x + b - m)·s + β = (s·W)·x + (b - m)·s + β with s = γ / √(v + eps), worked out in float64. A BatchNorm *before* a
layer with zero padding cannot be folded (the padding would have to be -m/s), and is left alone, as is one whose layer's
output or weight is used elsewhere too.
"""

from __future__ import annotations

from math import prod

import numpy as np

from minigan.export.graph import Graph, Node

LINEAR = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0}  # the axis of the weight that counts the outputs


def fold(graph: Graph) -> None:
    """Fold what can be; changes the graph in place."""
    for node in list(graph.nodes):
        if node.op == "Add":
            _fold_bias(graph, node)
    for node in list(graph.nodes):
        if node.op == "BatchNormalization":
            _fold_batch_norm(graph, node)
    graph.prune()


def _fold_bias(graph: Graph, add: Node) -> None:
    """Conv + a vector over the channels."""
    layer = _before(graph, add.inputs[0])
    bias = graph.constants.get(add.inputs[1])
    if layer is None or layer.op == "Gemm" or len(layer.inputs) > 2 or bias is None:
        return
    outputs = _outputs(graph, layer)
    if bias.shape != (outputs, *[1] * (bias.ndim - 1)) or bias.ndim != graph.constants[layer.inputs[1]].ndim - 1:
        return
    given = add.inputs[1]
    if len(graph.users()[given]) > 1:
        return
    name = given if "/" not in given else graph.free_name(_bias_name(layer.inputs[1]))
    del graph.constants[given]
    graph.constants[name] = bias.reshape(-1)
    layer.inputs.append(name)
    _drop(graph, add, layer)


def _fold_batch_norm(graph: Graph, norm: Node) -> None:
    x, *moments = norm.inputs
    before = _before(graph, x)
    places = 1  # values of the linear layer that share one channel
    reshape = None
    if before is None and (reshape := _only_producer(graph, x)) is not None and reshape.op == "Reshape":
        before = _before(graph, reshape.inputs[0])
        sizes = graph.constants.get(reshape.inputs[1])
        if before is None or before.op != "Gemm" or sizes is None or (sizes[1:] < 1).any():
            return
        places = prod(sizes[2:].tolist())
    arrays = [graph.constants.get(name) for name in moments]
    if before is None or any(array is None for array in arrays):
        return
    gamma, beta, mean, var = (np.repeat(np.asarray(a, np.float64), places) for a in arrays)
    scale = gamma / np.sqrt(var + norm.attributes["epsilon"])
    if len(scale) != _outputs(graph, before):
        return
    name = before.inputs[1]
    weight = graph.constants[name]
    bias_name = before.inputs[2] if before.inputs[2:] else graph.free_name(_bias_name(name))
    bias = graph.constants.get(bias_name)
    shift = (-mean if bias is None else bias - mean) * scale + beta
    graph.constants[name] = (weight * _over_outputs(before, weight, scale)).astype(weight.dtype)
    graph.constants[bias_name] = shift.astype(weight.dtype)
    before.inputs[2:] = [bias_name]
    _drop(graph, norm, reshape or before)


def _over_outputs(layer: Node, weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """A factor for each output, in a shape that multiplies the weight."""
    if layer.op != "ConvTranspose":
        return scale.reshape(-1, *[1] * (weight.ndim - 1))
    groups = layer.attributes["group"]  # W is (in, out / groups, …): each group's inputs have outputs of their own
    per_input = np.repeat(scale.reshape(groups, -1), len(weight) // groups, axis=0)
    return per_input.reshape(*per_input.shape, *[1] * (weight.ndim - 2))


def _outputs(graph: Graph, layer: Node) -> int:
    weight = graph.constants[layer.inputs[1]]
    return weight.shape[LINEAR[layer.op]] * (layer.attributes["group"] if layer.op == "ConvTranspose" else 1)


def _before(graph: Graph, value: str) -> Node | None:
    """The linear layer that gives a value, if nothing else uses the value, its weight or its bias."""
    layer = _only_producer(graph, value)
    users = graph.users()
    if layer is None or layer.op not in LINEAR:
        return None
    own = all(name in graph.constants and len(users[name]) == 1 for name in layer.inputs[1:])
    return layer if own and layer.attributes.get("transB", 1) == 1 else None


def _only_producer(graph: Graph, value: str) -> Node | None:
    """The node that gives a value which one other node takes, and which is no output of the graph."""
    if any(value == output.name for output in graph.outputs) or len(graph.users().get(value, [])) != 1:
        return None
    return graph.producers().get(value)


def _drop(graph: Graph, node: Node, before: Node) -> None:
    """Take a node out: what it gave is now given by the one before it."""
    graph.nodes.remove(node)
    before.outputs = list(node.outputs)
    if node.outputs[0] == node.name:  # not an output of the graph: named after who gives it
        graph.rename(node.name, before.name)


def _bias_name(weight: str) -> str:
    """`3.weight` → `3.bias`"""
    return f"{weight.removesuffix('weight')}bias" if weight.endswith("weight") else f"{weight}.bias"

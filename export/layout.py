"""A pass over a fresh graph: chains that the engine needs for its channels-last memory, as the one node that says it.

The engine resizes, shuffles and pools pixels with the channels moved last and back again. ONNX has a node for each,
several times as fast: Resize for pixels that are repeated, DepthToSpace for channels that become pixels, MaxPool.
"""

from __future__ import annotations

from math import prod

import numpy as np

from minigan.export.forms.convolution import MAX_POOL_PLACES
from minigan.export.graph import Graph, Node
from minigan.export.trace import ExportError


def simplify(graph: Graph) -> None:
    """Replace what can be; changes the graph in place."""
    for node in list(graph.nodes):
        if node.op == "Transpose":
            _repeat(graph, node) or _shuffle(graph, node)
        elif node.op == MAX_POOL_PLACES:
            _max_pool(graph, node)
    graph.prune()


def _repeat(graph: Graph, first: Node) -> bool:
    """(N, C, …) → (N, H, 1, …, C) → (N, H, r, …, C) → (N, H·r, …, C) → (N, C, …)"""
    chain = _chain(graph, first, "Transpose Reshape Expand Reshape Transpose")
    shape = graph.shapes.get(first.inputs[0])
    if chain is None or shape is None or not _to_last_and_back(chain, len(shape)):
        return False
    spatial = len(shape) - 2
    spread, times = (graph.constants.get(node.inputs[1]) for node in chain[1:3])
    ones = [part for size in shape[2:] for part in (size, 1)]
    if spread is None or times is None or spread.tolist() != [0, *ones, shape[1]]:
        return False
    factors = times[2::2].tolist()  # after N, a 1 for each size and then how often it is repeated
    if times.tolist() != [1, *(part for factor in factors for part in (1, factor)), 1] or len(factors) != spatial:
        return False
    scales = np.array([1, 1, *factors], np.float32)
    mode = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    _replace(graph, chain, "Resize", ["", scales], mode)
    return True


def _shuffle(graph: Graph, first: Node) -> bool:
    """(N, C·r², H, W) → (N, H, W, C, r, r) → (N, H, r, W, r, C) → (N, H·r, W·r, C) → (N, C, H·r, W·r)"""
    chain = _chain(graph, first, "Transpose Reshape Transpose Reshape Transpose")
    shape = graph.shapes.get(first.inputs[0])
    if chain is None or shape is None or len(shape) != 4 or not _to_last_and_back(chain, 4):
        return False
    blocks = graph.constants.get(chain[1].inputs[1])
    if blocks is None or len(blocks) != 6 or chain[2].attributes["perm"] != [0, 1, 4, 2, 5, 3]:
        return False
    _, height, width, channels, r, _ = blocks.tolist()
    if blocks.tolist() != [0, shape[2], shape[3], channels, r, r] or shape[1] != prod((channels, r, r)):
        return False
    _replace(graph, chain, "DepthToSpace", [], {"blocksize": r, "mode": "CRD"})
    return True


def _max_pool(graph: Graph, places: Node) -> None:
    """(N, C, H, W) → (N, H·W, C), gathered at the places → (N, h·w, C) → (N, h, w, C) → (N, C, h, w)"""
    producers, users = graph.producers(), graph.users()
    for gather in users[places.outputs[0]]:
        pixels = producers.get(gather.inputs[0])
        first = producers.get(pixels.inputs[0]) if pixels is not None else None
        chain = _chain(graph, gather, "GatherElements Reshape Transpose")
        if gather.op != "GatherElements" or first is None or chain is None or first.inputs[0] != places.inputs[0]:
            raise ExportError(f"{places.name}: only the values of max pooling can be exported, not their indices")
        _replace(graph, [Node("", first.name, places.inputs, []), *chain], "MaxPool", [], places.attributes)


def _chain(graph: Graph, first: Node, ops: str) -> list[Node] | None:
    """The nodes from `first` on, if each is the only user of the one before."""
    users, outputs = graph.users(), {value.name for value in graph.outputs}
    chain = [first]
    for op in ops.split()[1:]:
        value = chain[-1].outputs[0]
        if value in outputs or len(users.get(value, [])) != 1 or users[value][0].op != op:
            return None
        chain.append(users[value][0])
    return chain


def _to_last_and_back(chain: list[Node], ndim: int) -> bool:
    last = [0, *range(2, ndim), 1]
    back = [0, ndim - 1, *range(1, ndim - 1)]
    return chain[0].attributes["perm"] == last and chain[-1].attributes["perm"] == back


def _replace(graph: Graph, chain: list[Node], op: str, inputs: list, attributes: dict) -> None:
    """One node for the end of a chain, of which the rest is then idle; arrays among its inputs become constants."""
    name = graph.free_name(f"{chain[0].name.rpartition('/')[0]}/{op}")
    names = [chain[0].inputs[0]]
    for i, given in enumerate(inputs):
        names.append(given if isinstance(given, str) else f"{name}/{i}")
        if not isinstance(given, str):
            graph.constants[names[-1]] = given
    last = chain[-1]
    graph.nodes[graph.nodes.index(last)] = Node(op, name, names, list(last.outputs), dict(attributes))
    if last.outputs[0] == last.name:  # not an output of the graph: named after who gives it
        graph.rename(last.name, name)

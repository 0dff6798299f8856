"""Variants of a graph: pixels as uint8, and weights and arithmetic in float16."""

from __future__ import annotations

import numpy as np

from minigan.export.forms.elementwise import DTYPES
from minigan.export.graph import BATCH, Graph, Node, OnnxError, Value

_KEPT = 1024  # constants of fewer values stay as they are where only storage counts


def as_uint8(graph: Graph) -> None:
    """Images in [-1, 1] (batch, C, H, W) become pixels (batch, H, W, C): round(127.5·x + 127.5), limited to 0 … 255."""
    (output,) = graph.outputs
    if len(output.shape) != 4:
        raise OnnxError(f"output uint8 is for images (batch, C, H, W): this generator gives {output.shape}")
    graph.rename(output.name, "/pixels/float")
    x = "/pixels/float"
    steps = [
        ("Transpose", [], {"perm": [0, 2, 3, 1]}),
        ("Mul", [("half", 127.5)], {}),
        ("Add", [("half", 127.5)], {}),
        ("Round", [], {}),
        ("Clip", [("low", 0.0), ("high", 255.0)], {}),
        ("Cast", [], {"to": DTYPES["uint8"]}),
    ]  # type: list[tuple[str, list[tuple[str, float]], dict]]
    for op, numbers, attributes in steps:
        for name, number in numbers:
            graph.constants[f"/pixels/{name}"] = np.array(number, np.float32)
        name = f"/pixels/{op}"
        graph.nodes.append(Node(op, name, [x, *(f"/pixels/{n}" for n, _ in numbers)], [name], attributes))
        x = name
    graph.rename(x, output.name)
    _, channels, height, width = output.shape
    graph.outputs = [Value(output.name, np.dtype(np.uint8), (BATCH, height, width, channels))]
    graph.metadata["value_range"] = "[0, 255]"


def pixels(samples: np.ndarray) -> np.ndarray:
    """What `as_uint8` makes of samples, in NumPy.

    >>> pixels(np.array([-1.0, 0.0, 1.5]).reshape(1, 1, 1, 3)).ravel().tolist()
    [0, 128, 255]
    """
    scaled = np.rint(samples.astype(np.float32) * np.float32(127.5) + np.float32(127.5))
    return scaled.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def store_float16(graph: Graph) -> None:
    """Large weights are kept in float16, and cast when the file is loaded: half the size, the same arithmetic."""
    casts = []
    for name, array in list(graph.weights()):
        if array.dtype == np.float32 and array.size >= _KEPT:
            graph.constants[name] = _half(name, array)
            wide = f"/{name.replace('.', '/')}_Cast"
            for node in graph.nodes:
                node.inputs = [wide if x == name else x for x in node.inputs]
            casts.append(Node("Cast", wide, [name], [wide], {"to": DTYPES["float32"]}))
    graph.nodes[:0] = casts


def compute_float16(graph: Graph) -> None:
    """Everything between the inputs and the output is float16, as GPUs are fast at; both ends stay float32."""
    for name, array in graph.constants.items():
        if array.dtype == np.float32:
            graph.constants[name] = _half(name, array)
    for node in graph.nodes:
        if node.op == "Cast" and node.attributes["to"] == DTYPES["float32"]:
            node.attributes["to"] = DTYPES["float16"]
    casts = []
    for value in graph.inputs:
        if value.dtype == np.float32:
            half = f"/{value.name}/Cast"
            for node in graph.nodes:
                node.inputs = [half if x == value.name else x for x in node.inputs]
            casts.append(Node("Cast", half, [value.name], [half], {"to": DTYPES["float16"]}))
    graph.nodes[:0] = casts
    (output,) = graph.outputs
    half = f"/{output.name}/float16"
    graph.rename(output.name, half)
    graph.nodes.append(Node("Cast", f"/{output.name}/Cast", [half], [output.name], {"to": DTYPES["float32"]}))


def _half(name: str, array: np.ndarray) -> np.ndarray:
    largest = float(np.abs(array).max(initial=0.0))
    if largest > np.finfo(np.float16).max:
        raise OnnxError(f"{name} holds {largest:g}, which float16 cannot: export with dtype fp32")
    return array.astype(np.float16)

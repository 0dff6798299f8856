"""Variants of a graph: pixels as uint8, and weights and arithmetic in float16."""

from __future__ import annotations

import numpy as np

from minigan.export.forms.elementwise import DTYPES
from minigan.export.graph import BATCH, Graph, Node, OnnxError, Value

IMAGE_RANGE = "[-1, 1]"
_KEPT = 1024  # constants of fewer values stay as they are where only storage counts
_PRECISE = {"QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "Resize": (1, 2)}  # inputs that must be float32


def as_uint8(graph: Graph) -> None:
    """Images in [-1, 1] (batch, C, H, W) become pixels (batch, H, W, C): round(127.5·x + 127.5), limited to 0 … 255."""
    (output,) = graph.outputs
    if len(output.shape) != 4 or graph.metadata["value_range"] != IMAGE_RANGE:
        found = f"{output.shape} in {graph.metadata.get('value_range', 'no range')}"
        raise OnnxError(f"output uint8 is for images (batch, C, H, W) in [-1, 1]: this generator gives {found}")
    x = graph.free_name("/pixels/float")
    graph.rename(output.name, x)
    numbers = {name: np.array(number, np.float32) for name, number in (("half", 127.5), ("low", 0), ("high", 255))}
    names = {name: graph.free_name(f"/pixels/{name}") for name in numbers}
    graph.constants |= {names[name]: array for name, array in numbers.items()}
    steps: list[tuple[str, list[str], dict]] = [
        ("Transpose", [], {"perm": [0, 2, 3, 1]}),
        ("Mul", ["half"], {}),
        ("Add", ["half"], {}),
        ("Round", [], {}),
        ("Clip", ["low", "high"], {}),
        ("Cast", [], {"to": DTYPES["uint8"]}),
    ]
    for op, more, attributes in steps:
        name = graph.free_name(f"/pixels/{op}")
        graph.nodes.append(Node(op, name, [x, *(names[n] for n in more)], [name], attributes))
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
    for name in _narrowable(graph):
        if graph.constants[name].size >= _KEPT:
            graph.constants[name] = _half(name, graph.constants[name])
            wide = f"{name}/float32"
            for node in graph.nodes:
                node.inputs = [wide if x == name else x for x in node.inputs]
            casts.append(Node("Cast", wide, [name], [wide], {"to": DTYPES["float32"]}))
    graph.nodes[:0] = casts


def _narrowable(graph: Graph) -> list[str]:
    """The float32 constants that may be float16."""
    precise = {node.inputs[i] for node in graph.nodes for i in _PRECISE.get(node.op, ()) if i < len(node.inputs)}
    return [name for name, array in graph.constants.items() if array.dtype == np.float32 and name not in precise]


def compute_float16(graph: Graph) -> None:
    """Everything between the inputs and the output is float16, as GPUs are fast at; both ends stay float32."""
    for name in _narrowable(graph):
        graph.constants[name] = _half(name, graph.constants[name])
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

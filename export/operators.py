"""What each ONNX node means, in the engine's operations: `OPERATORS[op](node, *inputs)`.

Inputs are Tensors, or NumPy arrays where they are constants that the exporter made (sizes, axes, numbers), or None
where they are absent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import minigan as mg
import minigan.nn.functional as F
from minigan import ops
from minigan.export.forms.elementwise import DTYPES
from minigan.export.graph import IR_VERSIONS, Graph, Node, OnnxError
from minigan.ops.norm import normalize, standardize
from minigan.tensor import Tensor

OPERATORS: dict[str, Callable[..., Any]] = {}
_NUMPY = {number: np.dtype(name) for name, number in DTYPES.items()}


ATTRIBUTES = {
    "ArgMax": "axis keepdims", "ArgMin": "axis keepdims", "BatchNormalization": "epsilon", "Cast": "to",
    "Concat": "axis", "Conv": "kernel_shape strides dilations pads group", "DepthToSpace": "blocksize mode",
    "ConvTranspose": "kernel_shape strides dilations pads group output_padding", "DequantizeLinear": "axis",
    "Einsum": "equation", "Gather": "axis", "GatherElements": "axis", "Gemm": "alpha beta transA transB",
    "InstanceNormalization": "epsilon", "LayerNormalization": "axis epsilon", "LeakyRelu": "alpha",
    "LogSoftmax": "axis", "MaxPool": "kernel_shape strides dilations pads", "Pad": "mode", "Reshape": "allowzero",
    "ReduceL2": "axes keepdims", "ReduceMax": "axes keepdims", "ReduceMean": "axes keepdims",
    "ReduceMin": "axes keepdims", "ReduceSum": "keepdims", "ScatterElements": "axis", "Softmax": "axis",
    "Resize": "mode coordinate_transformation_mode nearest_mode", "Transpose": "perm",
}  # fmt: skip  # that minigan writes, and so reads; the others mean something else


def check_written(graph: Graph) -> None:
    """Raise unless all nodes are such as minigan writes: others would be misread."""
    unknown = sorted({node.op for node in graph.nodes} - set(OPERATORS))
    if unknown:
        raise OnnxError(f"has operators that minigan does not write: {', '.join(unknown)}")
    if graph.opset not in IR_VERSIONS:
        raise OnnxError(f"is of opset {graph.opset}: minigan writes and reads {min(IR_VERSIONS)} to {max(IR_VERSIONS)}")
    for node in graph.nodes:
        if more := sorted(set(node.attributes) - set(ATTRIBUTES.get(node.op, "").split())):
            raise OnnxError(f"{node.op} {node.name} has {', '.join(more)}, which minigan does not write")
        if len(node.outputs) != 1:
            raise OnnxError(f"{node.op} {node.name} has {len(node.outputs)} outputs: minigan writes one")


def operator(*names: str) -> Callable[[Any], Any]:
    """Enter the decorated function for these nodes."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            OPERATORS[name] = function
        return function

    return enter


def _tensor(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else mg.from_numpy(np.array(x))


def _operand(x: Any) -> Any:
    """A Tensor; of a constant without axes the Python number, as the traced code had it."""
    return x.item() if isinstance(x, np.ndarray) and x.ndim == 0 else _tensor(x)


def _list(x: Any) -> list[int]:
    return [int(value) for value in x]


# Value by value -----------------------------------------------------------------------------------------

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": mg.abs, "Ceil": mg.ceil, "Cos": mg.cos, "Erf": mg.erf, "Exp": mg.exp, "Floor": mg.floor,
    "IsInf": mg.isinf, "IsNaN": mg.isnan, "Log": mg.log, "Neg": mg.neg, "Not": mg.logical_not, "Relu": F.relu,
    "Round": mg.round, "Sigmoid": mg.sigmoid, "Sign": mg.sign, "Sin": mg.sin, "Softplus": F.softplus,
    "Sqrt": mg.sqrt, "Tanh": mg.tanh,
}  # fmt: skip
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": ops.arithmetic.add, "And": mg.logical_and, "Div": ops.arithmetic.div, "Equal": mg.eq, "Greater": mg.gt,
    "GreaterOrEqual": mg.ge, "Less": mg.lt, "LessOrEqual": mg.le, "Max": mg.maximum, "Min": mg.minimum,
    "Mul": ops.arithmetic.mul, "Or": mg.logical_or, "Pow": ops.arithmetic.pow, "Sub": ops.arithmetic.sub,
    "Xor": mg.logical_xor,
}  # fmt: skip


@operator(*_UNARY)
def _unary(node: Node, x: Any) -> Tensor:
    return _UNARY[node.op](_tensor(x))


@operator(*_BINARY)
def _binary(node: Node, x: Any, y: Any) -> Any:
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and node.op == "Mul":  # sizes
        return x * y
    return _BINARY[node.op](_operand(x), _operand(y))


@operator("Identity")
def _identity(node: Node, x: Any) -> Tensor:
    return _tensor(x)


@operator("LeakyRelu")
def _leaky_relu(node: Node, x: Tensor) -> Tensor:
    return F.leaky_relu(x, node.attributes.get("alpha", 0.01))


@operator("Clip")
def _clip(node: Node, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    limits = (None if limit is None else limit.item() for limit in (low, high))
    return x.clamp(*limits)


@operator("Where")
def _where(node: Node, condition: Any, x: Any, y: Any) -> Tensor:
    return mg.where(_tensor(condition), _operand(x), _operand(y))


@operator("Cast")
def _cast(node: Node, x: Any) -> Tensor:
    return _tensor(x).to(_NUMPY[node.attributes["to"]])


# Shapes -------------------------------------------------------------------------------------------------


@operator("Shape")
def _shape(node: Node, x: Tensor) -> np.ndarray:
    return np.array(x.shape, np.int64)


@operator("Reshape")
def _reshape(node: Node, x: Any, shape: Any) -> Tensor:
    keep = not node.attributes.get("allowzero", 0)
    x = _tensor(x)
    return x.reshape([x.shape[i] if size == 0 and keep else size for i, size in enumerate(_list(shape))])


@operator("Expand")
def _expand(node: Node, x: Any, shape: Any) -> Tensor:
    x = _tensor(x)
    return x.expand(np.broadcast_shapes(x.shape, tuple(_list(shape))))


@operator("Transpose")
def _transpose(node: Node, x: Any) -> Tensor:
    return _tensor(x).permute(node.attributes["perm"])


@operator("Concat")
def _concat(node: Node, *parts: Any) -> Any:
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return mg.cat([_tensor(part) for part in parts], node.attributes["axis"])


@operator("Slice")
def _slice(node: Node, x: Any, starts: Any, ends: Any, axes: Any, steps: Any = None) -> Tensor:
    x = _tensor(x)
    steps = [1] * len(starts) if steps is None else _list(steps)
    if all(step == -1 for step in steps):
        return x.flip(_list(axes))
    parts = [slice(None)] * x.ndim
    for start, end, axis, step in zip(_list(starts), _list(ends), _list(axes), steps, strict=True):
        parts[axis] = slice(start, end, step)
    return x[tuple(parts)]


@operator("Pad")
def _pad(node: Node, x: Tensor, pads: Any, value: Any = None) -> Tensor:
    widths = _list(pads)
    pairs = zip(widths[: x.ndim], widths[x.ndim :], strict=True)
    mode = {"edge": "replicate"}.get(mode := node.attributes.get("mode", "constant"), mode)
    return F.pad(x, [w for pair in reversed(list(pairs)) for w in pair], mode, None if value is None else value.item())


@operator("Resize")
def _resize(node: Node, x: Tensor, roi: Any, scales: Any) -> Tensor:
    written = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    if {name: node.attributes.get(name) for name in written} != written:
        raise OnnxError(f"Resize {node.name} with {node.attributes}: minigan writes {written} alone")
    return F.interpolate(x, scale_factor=scales[2:].tolist())


@operator("MaxPool")
def _max_pool(node: Node, x: Tensor) -> Tensor:
    given, one = node.attributes, [1, 1]
    pads = given.get("pads", [0] * 4)
    return F.max_pool2d(
        x, given["kernel_shape"], given.get("strides", one), pads[:2], given.get("dilations", one),
        ceil_mode=any(end > begin for begin, end in zip(pads[:2], pads[2:], strict=True)),
    )  # fmt: skip


@operator("DepthToSpace")
def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    """Channels (r, r, C) in mode DCR"""
    n, c, h, w = x.shape
    r = node.attributes["blocksize"]
    if node.attributes.get("mode", "DCR") != "DCR":
        return F.pixel_shuffle(x, r)
    return x.reshape(n, r, r, c // r**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // r**2, h * r, w * r)


# Index arrays -------------------------------------------------------------------------------------------


@operator("Gather")
def _gather(node: Node, x: Any, index: Any) -> Any:
    axis = node.attributes.get("axis", 0)
    if isinstance(x, np.ndarray) and isinstance(index, np.ndarray):
        return x.take(index, axis)
    return _tensor(x)[(*[slice(None)] * axis, _tensor(index))]


@operator("GatherElements")
def _gather_elements(node: Node, x: Any, index: Any) -> Tensor:
    return _tensor(x).gather(node.attributes.get("axis", 0), _tensor(index))


@operator("ScatterElements")
def _scatter_elements(node: Node, x: Any, index: Any, values: Any) -> Tensor:
    return _tensor(x).scatter(node.attributes.get("axis", 0), _tensor(index), _tensor(values))


# Reductions ---------------------------------------------------------------------------------------------

_REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ReduceL2": ops.reduce.norm, "ReduceMax": mg.amax, "ReduceMean": mg.mean, "ReduceMin": mg.amin,
    "ReduceSum": mg.sum,
}  # fmt: skip


@operator(*_REDUCTIONS)
def _reduce(node: Node, x: Any, axes: Any = None) -> Tensor:
    over = tuple(_list(node.attributes.get("axes", ()) if axes is None else axes))
    return _REDUCTIONS[node.op](_tensor(x), dim=over or None, keepdim=bool(node.attributes.get("keepdims", 1)))


@operator("Softmax", "LogSoftmax")
def _softmax(node: Node, x: Tensor) -> Tensor:
    function = F.softmax if node.op == "Softmax" else F.log_softmax
    return function(x, node.attributes.get("axis", -1))


@operator("CumSum")
def _cumsum(node: Node, x: Tensor, axis: np.ndarray) -> Tensor:
    return x.cumsum(int(axis))


@operator("ArgMax", "ArgMin")
def _arg_extreme(node: Node, x: Tensor) -> Tensor:
    function = mg.argmax if node.op == "ArgMax" else mg.argmin
    return function(x, node.attributes.get("axis", 0), bool(node.attributes.get("keepdims", 1)))


# Products and convolutions ------------------------------------------------------------------------------


@operator("MatMul")
def _matmul(node: Node, x: Any, y: Any) -> Tensor:
    return mg.matmul(_tensor(x), _tensor(y))


@operator("Gemm")
def _gemm(node: Node, x: Any, w: Any, b: Any = None) -> Tensor:
    attributes = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0, **node.attributes}
    if attributes != {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}:
        raise OnnxError(f"Gemm {node.name} with {attributes}: minigan writes transB=1 alone")
    return F.linear(_tensor(x), _tensor(w), None if b is None else _tensor(b))


@operator("Einsum")
def _einsum(node: Node, *parts: Any) -> Tensor:
    return mg.einsum(node.attributes["equation"], *map(_tensor, parts))


@operator("Conv", "ConvTranspose")
def _conv(node: Node, x: Any, w: Any, b: Any = None) -> Tensor:
    ndim = w.ndim - 2
    given, one = node.attributes, [1] * ndim
    pads = given.get("pads", [0] * 2 * ndim)
    pairs = zip(pads[:ndim][::-1], pads[ndim:][::-1], strict=True)  # from the last axis to the first, as F takes them
    options = {
        "stride": given.get("strides", one), "padding": [pad for pair in pairs for pad in pair],
        "dilation": given.get("dilations", one), "groups": given.get("group", 1),
    }  # fmt: skip
    name = f"conv{ndim}d"
    if node.op == "ConvTranspose":
        name, options["output_padding"] = f"conv_transpose{ndim}d", given.get("output_padding", [0] * ndim)
    return getattr(F, name)(_tensor(x), _tensor(w), None if b is None else _tensor(b), **options)


# Normalisation ------------------------------------------------------------------------------------------


@operator("BatchNormalization")
def _batch_norm(node: Node, x: Any, weight: Any, bias: Any, mean: Any, var: Any) -> Tensor:
    eps = node.attributes.get("epsilon", 1e-5)
    return standardize(_tensor(x), _tensor(mean), _tensor(var), _tensor(weight), _tensor(bias), eps)


@operator("InstanceNormalization")
def _instance_norm(node: Node, x: Tensor, weight: Any, bias: Any) -> Tensor:
    w, b = (_tensor(v).reshape(-1, *[1] * (x.ndim - 2)) for v in (weight, bias))
    return normalize(x, w, b, tuple(range(2, x.ndim)), node.attributes.get("epsilon", 1e-5))[0]


@operator("LayerNormalization")
def _layer_norm(node: Node, x: Tensor, weight: Any, bias: Any) -> Tensor:
    axes = tuple(range(node.attributes.get("axis", -1) % x.ndim, x.ndim))
    return normalize(x, _tensor(weight), _tensor(bias), axes, node.attributes.get("epsilon", 1e-5))[0]


# Quantisation: in float, on the values that the integers stand for -----------------------------------------


@operator("QuantizeLinear")
def _quantize(node: Node, x: Any, scale: np.ndarray, zero: np.ndarray) -> Tensor:
    limits = np.iinfo(zero.dtype)
    return ((_tensor(x) / scale.item()).round() + float(zero)).clamp(float(limits.min), float(limits.max))


@operator("DequantizeLinear")
def _dequantize(node: Node, q: Any, scale: np.ndarray, zero: Any = None) -> Tensor:
    if isinstance(q, Tensor) and q.dtype == np.float32:
        return (q - float(zero)) * scale.item()
    host = q.numpy() if isinstance(q, Tensor) else q
    column = (-1, *[1] * (host.ndim - node.attributes.get("axis", 1) - 1)) if scale.ndim else ()
    scale = np.reshape(scale, column)
    zero = 0 if zero is None else np.reshape(zero, column).astype(np.int64)
    return mg.from_numpy(((host.astype(np.int64) - zero) * scale).astype(np.float32))

"""Forms of products and convolutions, and of normalisation.

Padding that is not the same on both sides falls off ONNX Runtime's fast paths (and off its GPU): only symmetric pads
are written, with a Pad before a convolution or a Slice behind a transposed one for the rest.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from minigan.export.forms.elementwise import activated
from minigan.export.forms.reduction import reduce
from minigan.export.forms.register import form
from minigan.export.forms.shape import pad_node, slice_node
from minigan.export.trace import Batch, Constant, Dim, ExportError
from minigan.kernels.geometry import ConvGeometry

if TYPE_CHECKING:
    from minigan.export.emit import Emit
    from minigan.export.trace import Call


MAX_POOL_PLACES = "MaxPoolPlaces"  # no operator of ONNX: stands for one between emission and `layout.simplify`


@form("Matmul")
def matmul(e: Emit, call: Call) -> str:
    return e.node("MatMul", *e.values(call, "x", "y"))


@form("Linear")
def linear(e: Emit, call: Call) -> str:
    """Gemm with Wᵀ, on x as a matrix"""
    roles = ("x", "weight", "bias")[: len(call.inputs)]
    x, *weights = e.values(call, *roles)
    old = e.shape(call.inputs[0])
    rows: tuple[Dim, ...] = (_product(old[:-1]), old[-1])
    y = activated(e, call, e.node("Gemm", e.reshape(x, old, rows, call), *weights, transB=1))
    return e.reshape(y, (rows[0], call.shape[-1]), call.shape, call)


def _product(dims: tuple[Dim, ...]) -> Dim:
    times = math.prod(size.times if isinstance(size, Batch) else size for size in dims)
    return Batch(times) if any(isinstance(size, Batch) for size in dims) else times


@form("Einsum")
def einsum(e: Emit, call: Call) -> str:
    equation = f"{','.join(call.params['subscripts'])}->{call.params['out']}"
    return e.node("Einsum", *(e.value(call, i, f"x{i}") for i in range(len(call.inputs))), equation=equation)


@form("Conv")
def conv(e: Emit, call: Call) -> str:
    geometry = call.params["geometry"]
    x, w = e.values(call, "x", "weight")
    both = [min(pair) for pair in geometry.padding]
    rest = [(b - p, a - p) for (b, a), p in zip(geometry.padding, both, strict=True)]
    if any(map(any, rest)):
        x = pad_node(e, x, ((0, 0), (0, 0), *rest), e.constant(0, call.dtype, "Pad/value"))
    y = e.node("Conv", x, w, **_attributes(geometry, both))
    full = ConvGeometry.conv(
        geometry.input, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, geometry.groups
    )
    sides = enumerate(zip(geometry.output, full.output, strict=True), start=2)
    cut = {axis: size for axis, (size, all_of_it) in sides if size < all_of_it}
    if not cut:
        return y
    n = len(cut)  # the gradient of a transposed convolution with output padding leaves some out
    return slice_node(e, y, [0] * n, list(cut.values()), list(cut), [1] * n)


@form("AddBias")
def add_bias(e: Emit, call: Call) -> str:
    x, bias = e.value(call, 0, "x"), call.inputs[1]
    column = [1] * (len(call.shape) - 2)
    if isinstance(bias, Constant):
        x = e.node("Add", x, e.weight(call, Constant(bias.array.reshape(-1, *column), bias.name, bias.exact), "bias"))
    elif bias is not None:
        (channels,) = e.shape(bias)
        x = e.node("Add", x, e.reshape(e.value(call, 1, "bias"), (channels,), (channels, *column), call))
    return activated(e, call, x)


@form("ConvTranspose")
def conv_transpose(e: Emit, call: Call) -> str:
    """Padding crops the result: what is to be cropped on one side alone is sliced off, what lies beyond it is zero."""
    geometry = call.params["geometry"]
    whole = [
        (n - 1) * s + d * (k - 1) + 1  # of what the kernel reaches
        for n, s, d, k in zip(geometry.output, geometry.stride, geometry.dilation, geometry.kernel, strict=True)
    ]
    extra = [size - (n - b - a) for size, n, (b, a) in zip(geometry.input, whole, geometry.padding, strict=True)]
    x, w = e.values(call, "x", "weight")
    if all(b == a for b, a in geometry.padding) and all(
        0 <= e < s for e, s in zip(extra, geometry.stride, strict=True)
    ):
        more = {"output_padding": extra} if any(extra) else {}
        return e.node("ConvTranspose", x, w, **_attributes(geometry, [b for b, _ in geometry.padding]), **more)
    y = e.node("ConvTranspose", x, w, **_attributes(geometry, [0] * geometry.ndim))
    spans = [(b, b + size, n) for (b, _), size, n in zip(geometry.padding, geometry.input, whole, strict=True)]
    cut = [(axis, start, end) for axis, (start, end, n) in enumerate(spans, start=2) if start or end < n]
    if cut:
        axes, starts, ends = zip(*cut, strict=True)
        y = slice_node(e, y, starts, ends, axes, [1] * len(cut))
    beyond = [(0, max(0, end - n)) for _, end, n in spans]
    if not any(map(any, beyond)):
        return y
    return pad_node(e, y, ((0, 0), (0, 0), *beyond), e.constant(0, call.dtype, "Pad/value"))


@form("max_pool_places")
def max_pool_places(e: Emit, call: Call) -> str:
    """Where the largest values are: replaced by `layout.simplify`, together with the gathering of them.

    Padding behind is what the last window needs, so that there is no rounding to agree on.
    """
    given, shape = call.params, e.shape(call.inputs[0])[2:]
    if len(shape) != 2:
        raise ExportError(f"{call.place}: max pooling of images without a batch; use .unsqueeze(0)")
    ends = [
        (n - 1) * s + d * (k - 1) + 1 - size - p
        for n, s, d, k, size, p in zip(
            given["out"], given["stride"], given["dilation"], given["kernel"], shape, given["padding"], strict=True
        )
    ]
    pads = [*given["padding"], *(max(0, end) for end in ends)]
    if any(pad >= k for pad, k in zip(pads, given["kernel"] * 2, strict=True)):
        raise ExportError(f"{call.place}: max pooling pads {pads}: ONNX Runtime takes less than the kernel's size")
    return e.node(
        MAX_POOL_PLACES, *e.values(call, "x"), kernel_shape=list(given["kernel"]), strides=list(given["stride"]),
        dilations=list(given["dilation"]), pads=pads,
    )  # fmt: skip


def _attributes(geometry: ConvGeometry, pads: list[int]) -> dict[str, Any]:
    return {
        "kernel_shape": list(geometry.kernel), "strides": list(geometry.stride), "dilations": list(geometry.dilation),
        "pads": pads * 2, "group": geometry.groups,
    }  # fmt: skip


# Normalisation ------------------------------------------------------------------------------------------


@form("Standardize")
def standardize(e: Emit, call: Call) -> str:
    x, mean, var, weight, bias = e.values(call, "x", "running_mean", "running_var", "weight", "bias")
    channels = e.shape(call.inputs[0])[1]
    weight = weight or e.constant(np.ones(channels), call.dtype, "Standardize/weight")
    bias = bias or e.constant(np.zeros(channels), call.dtype, "Standardize/bias")
    y = e.node("BatchNormalization", x, weight, bias, mean, var, epsilon=float(call.params["eps"]))
    return activated(e, call, y)


@form("Normalize")
def normalize(e: Emit, call: Call) -> str:
    """InstanceNormalization or LayerNormalization where they fit, then weights that they cannot take as products"""
    axes, eps = call.params["axes"], float(call.params["eps"])
    shape = e.shape(call.inputs[0])
    if any(isinstance(shape[axis], Batch) for axis in axes):
        raise ExportError(
            f"{call.place}: normalises over the batch, so that a sample depends on the others of its batch; "
            "use running statistics (track_running_stats=True) and eval()"
        )
    x = e.value(call, 0, "x")
    if axes == tuple(range(2, len(shape))) and isinstance(shape[1], int):
        per_channel = (shape[1], *[1] * (len(shape) - 2))
        names, rest = _scales(e, call, per_channel, (shape[1],))
        y = e.node("InstanceNormalization", x, *names, epsilon=eps)
    elif axes == tuple(range(axes[0], len(shape))):
        own = tuple(int(size) for size in shape[axes[0] :])  # type: ignore[arg-type]  # none is the batch
        names, rest = _scales(e, call, own, own)
        y = e.node("LayerNormalization", x, *names, axis=axes[0], epsilon=eps)
    else:
        y, rest = _by_hand(e, call, x), ["weight", "bias"]
    for op, i, role in (("Mul", 1, "weight"), ("Add", 2, "bias")):
        if role in rest and call.inputs[i] is not None:
            y = e.node(op, y, e.value(call, i, role))
    return activated(e, call, y)


def _scales(e: Emit, call: Call, given: tuple, wanted: tuple) -> tuple[list[str], list[str]]:
    """The node's weight and bias in the shape it wants, and the roles that do not have the shape it could take."""
    names: list[str] = []
    rest: list[str] = []
    for i, role, neutral in ((1, "weight", np.ones), (2, "bias", np.zeros)):
        argument = call.inputs[i]
        if isinstance(argument, Constant) and argument.array.shape == given and not rest:
            names.append(e.weight(call, Constant(argument.array.reshape(wanted), argument.name, argument.exact), role))
        else:
            names.append(e.constant(neutral(wanted), call.dtype, f"Normalize/{role}"))
            if argument is not None:
                rest.append(role)
    return names, rest


def _by_hand(e: Emit, call: Call, x: str) -> str:
    """(x - mean) / √(var + eps)"""
    axes, shape = call.params["axes"], e.shape(call.inputs[0])
    share = 1 / math.prod(int(shape[axis]) for axis in axes)

    def mean(y: str) -> str:
        return e.node("Mul", reduce(e, "ReduceSum", y, axes, True), e.constant(share, call.dtype, "Mul/y"))

    centred = e.node("Sub", x, mean(x))
    var = mean(e.node("Mul", centred, centred))
    return e.node(
        "Div", centred, e.node("Sqrt", e.node("Add", var, e.constant(call.params["eps"], call.dtype, "Add/y")))
    )

"""Every layer and function of `minigan.nn` against PyTorch's, in random configurations.

A row draws a `Call`: what to construct or call, and with what. The test loads one side's weights into the
other, compares outputs, buffers, gradients and double gradients, in float64 and float32, in training and
in evaluation. Beyond PyTorch, and so without a row of that kind: Maxout, and padding of each side.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: parity with it is not checked")

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peer import BOTH, assert_same, dtype_name, gradients, host, is_tensor, outcome

import minigan as mg
import minigan.nn.functional

EXAMPLES = 10


@dataclass
class Const:
    """A float array that is not differentiated: a target, class weights."""

    array: np.ndarray


@dataclass
class Call:
    """Arguments; arrays among them become tensors, float ones with gradients."""

    args: tuple = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    init: tuple = ()  # of the layer
    init_kwargs: dict[str, Any] = field(default_factory=dict)
    training: bool = True
    order: int = 2  # 1 where PyTorch has no double gradient


class Draw:
    """Short words for drawing configurations."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.random = np.random.default_rng(data.draw(st.integers(0, 999), label="seed"))

    def pick(self, *options: Any) -> Any:
        return self.data.draw(st.sampled_from(options))

    def whole(self, low: int, high: int) -> int:
        return self.data.draw(st.integers(low, high))

    def flag(self) -> bool:
        return self.data.draw(st.booleans())

    def each(self, n: int, low: int, high: int) -> Any:
        """A number for each of n axes, or one for all."""
        return self.whole(low, high) if self.flag() else tuple(self.whole(low, high) for _ in range(n))

    def shape(self, low: int = 0, high: int = 3, smallest: int = 1) -> tuple[int, ...]:
        return tuple(self.whole(smallest, 4) for _ in range(self.whole(low, high)))

    def normal(self, *shape: int) -> np.ndarray:
        return np.asarray(self.random.normal(size=shape))

    def uniform(self, *shape: int, low: float = 0.05, high: float = 0.95) -> np.ndarray:
        return self.random.uniform(low, high, size=shape)

    def batch(self, *shape: int) -> np.ndarray:
        """A batch of that shape, or one sample without its axis."""
        return self.normal(*([self.whole(1, 3)] if self.flag() else []), *shape)


def per_axis(value: Any, n: int) -> tuple:
    return (value,) * n if isinstance(value, int) else value


# Convolution -----------------------------------------------------------------------------------------------


def conv_settings(d: Draw, n: int) -> tuple[int, int, tuple[int, ...], dict[str, Any]]:
    groups = d.pick(1, 1, 2, 3)
    kernel, stride, dilation = d.each(n, 1, 4 if n < 3 else 2), d.each(n, 1, 3), d.each(n, 1, 2)
    padding = d.each(n, 0, 2)
    if max(per_axis(stride, n)) == 1 and d.flag():
        padding = d.pick("same", "valid")
    sizes = tuple(
        d_ * (k - 1) + 1 + d.whole(2, 4) for k, d_ in zip(per_axis(kernel, n), per_axis(dilation, n), strict=True)
    )
    more = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return groups * d.whole(1, 2), groups * d.whole(1, 3), sizes, {"kernel": kernel, **more}


def conv_layer(n: int) -> Callable[[Draw], Call]:
    def draw(d: Draw) -> Call:
        inputs, outputs, sizes, more = conv_settings(d, n)
        kernel = more.pop("kernel")
        more |= {"bias": d.flag(), "padding_mode": d.pick("zeros", "zeros", "reflect", "replicate", "circular")}
        return Call((d.batch(inputs, *sizes),), {}, (inputs, outputs, kernel), more)

    return draw


def conv_function(n: int) -> Callable[[Draw], Call]:
    def draw(d: Draw) -> Call:
        inputs, outputs, sizes, more = conv_settings(d, n)
        w = d.normal(outputs, inputs // more["groups"], *per_axis(more.pop("kernel"), n))
        bias = d.normal(outputs) if d.flag() else None
        return Call((d.batch(inputs, *sizes), w, bias), more)

    return draw


def transpose_settings(d: Draw, n: int) -> tuple[int, int, tuple[int, ...], Any, dict[str, Any]]:
    groups = d.pick(1, 1, 2, 3)
    kernel = d.each(n, 1, 4 if n < 3 else 2)
    stride, dilation = d.each(n, 1, 3), d.each(n, 1, 2)
    spans = [(k - 1) * e for k, e in zip(per_axis(kernel, n), per_axis(dilation, n), strict=True)]
    padding = tuple(d.whole(0, min(2, span // 2)) for span in spans)
    extra = tuple(d.whole(0, max(s, e) - 1) for s, e in zip(per_axis(stride, n), per_axis(dilation, n), strict=True))
    more = {"stride": stride, "padding": padding, "output_padding": extra, "groups": groups, "dilation": dilation}
    return groups * d.whole(1, 2), groups * d.whole(1, 3), tuple(d.whole(1, 4) for _ in range(n)), kernel, more


def transpose_layer(n: int) -> Callable[[Draw], Call]:
    def draw(d: Draw) -> Call:
        inputs, outputs, sizes, kernel, more = transpose_settings(d, n)
        return Call((d.batch(inputs, *sizes),), {}, (inputs, outputs, kernel), more | {"bias": d.flag()})

    return draw


def transpose_function(n: int) -> Callable[[Draw], Call]:
    def draw(d: Draw) -> Call:
        inputs, outputs, sizes, kernel, more = transpose_settings(d, n)
        w = d.normal(inputs, outputs // more["groups"], *per_axis(kernel, n))
        return Call((d.batch(inputs, *sizes), w, d.normal(outputs) if d.flag() else None), more)

    return draw


# Norms -----------------------------------------------------------------------------------------------------


def norm_sizes(d: Draw, n: int) -> tuple[int, ...]:
    return tuple(d.whole(2, 4) for _ in range(n))


def batch_norm_layer(*ndims: int) -> Callable[[Draw], Call]:
    def draw(d: Draw) -> Call:
        channels = d.whole(1, 4)
        more = {"eps": d.pick(1e-5, 1e-3), "momentum": d.pick(0.1, 0.5, None), "affine": d.flag()}
        more["track_running_stats"] = d.pick(True, True, False)
        x = d.normal(d.whole(4, 6), channels, *norm_sizes(d, d.pick(*ndims)))
        return Call((x,), {}, (channels,), more, training=d.flag())

    return draw


def instance_norm_layer(n: int) -> Callable[[Draw], Call]:
    def draw(d: Draw) -> Call:
        channels = d.whole(1, 4)
        more = {"eps": d.pick(1e-5, 1e-3), "momentum": d.pick(0.1, 0.5), "affine": d.flag()}
        more["track_running_stats"] = d.flag()
        x = d.batch(channels, *(d.whole(3, 5) for _ in range(n)))
        return Call((x,), {}, (channels,), more, training=d.flag())

    return draw


def layer_norm_layer(d: Draw) -> Call:
    shape = tuple(d.whole(3, 5) for _ in range(d.whole(1, 2)))
    more = {"eps": d.pick(1e-5, 1e-3), "elementwise_affine": d.flag(), "bias": d.flag()}
    init = shape[0] if len(shape) == 1 and d.flag() else shape
    return Call((d.normal(*d.shape(1, 2), *shape),), {}, (init,), more)


def group_norm_layer(d: Draw) -> Call:
    groups = d.whole(1, 3)
    channels = groups * d.whole(1, 3)
    x = d.normal(d.whole(1, 3), channels, *(d.whole(3, 4) for _ in range(d.whole(1, 2))))
    return Call((x,), {}, (groups, channels), {"eps": d.pick(1e-5, 1e-3), "affine": d.flag()})


def maybe(d: Draw, *shape: int) -> np.ndarray | None:
    return d.normal(*shape) if d.flag() else None


def affine(d: Draw, *shape: int) -> dict[str, Any]:
    """A weight and a bias, a weight, or neither: PyTorch's double gradients fail for a bias alone."""
    weight = maybe(d, *shape)
    return {"weight": weight, "bias": maybe(d, *shape) if weight is not None else None, "eps": d.pick(1e-5, 1e-3)}


def batch_norm_function(d: Draw) -> Call:
    c, training = d.whole(1, 4), d.flag()
    stats = (None, None) if training and d.flag() else (Const(d.normal(c)), Const(d.uniform(c, low=0.5, high=2)))
    x = d.normal(d.whole(4, 6), c, *norm_sizes(d, d.whole(0, 3)))
    return Call((x, *stats), affine(d, c) | {"training": training, "momentum": d.pick(0.1, 0.7)})


def instance_norm_function(d: Draw) -> Call:
    c = d.whole(1, 4)
    x = d.normal(d.whole(1, 3), c, *(d.whole(3, 4) for _ in range(d.whole(1, 3))))
    return Call((x,), affine(d, c))


def layer_norm_function(d: Draw) -> Call:
    shape = tuple(d.whole(3, 5) for _ in range(d.whole(1, 2)))
    return Call((d.normal(*d.shape(1, 2), *shape), shape), affine(d, *shape))


def group_norm_function(d: Draw) -> Call:
    groups = d.whole(1, 3)
    c = groups * d.whole(1, 3)
    x = d.normal(d.whole(1, 3), c, *(d.whole(3, 4) for _ in range(d.whole(1, 2))))
    return Call((x, groups), affine(d, c))


# Linear and recurrent ----------------------------------------------------------------------------------------


def linear_layer(d: Draw) -> Call:
    features = d.whole(1, 5)
    return Call((d.normal(*d.shape(0, 3), features),), {}, (features, d.whole(1, 5)), {"bias": d.flag()})


def linear_function(d: Draw) -> Call:
    inputs, outputs = d.whole(1, 5), d.whole(1, 5)
    return Call((d.normal(*d.shape(0, 3), inputs), d.normal(outputs, inputs), maybe(d, outputs)))


def bilinear_layer(d: Draw) -> Call:
    a, b, out, front = d.whole(1, 4), d.whole(1, 4), d.whole(1, 4), d.shape(1, 2)
    return Call((d.normal(*front, a), d.normal(*front, b)), {}, (a, b, out), {"bias": d.flag()})


def bilinear_function(d: Draw) -> Call:
    a, b, out, front = d.whole(1, 4), d.whole(1, 4), d.whole(1, 4), d.shape(1, 2)
    return Call((d.normal(*front, a), d.normal(*front, b), d.normal(out, a, b), maybe(d, out)))


def embedding_layer(d: Draw) -> Call:
    rows = d.whole(1, 5)
    index = d.random.integers(0, rows, size=d.shape(0, 3))
    return Call((index,), {}, (rows, d.whole(1, 4)), {"padding_idx": d.pick(None, 0, -1)})


def embedding_function(d: Draw) -> Call:
    rows = d.whole(1, 5)
    index = d.random.integers(0, rows, size=d.shape(0, 3))
    return Call((index, d.normal(rows, d.whole(1, 4))), {"padding_idx": d.pick(None, 0, -1)})


def one_hot(d: Draw) -> Call:
    return Call((d.random.integers(0, 4, size=d.shape(1, 3)), d.pick(-1, 4, 6)))


def cell(states: int) -> Callable[[Draw], Call]:
    def draw(d: Draw) -> Call:
        inputs, hidden = d.whole(1, 4), d.whole(1, 4)
        front = (d.whole(1, 3),) if d.flag() else ()
        state: Any = tuple(d.normal(*front, hidden) for _ in range(states)) if d.flag() else None
        state = state[0] if state and states == 1 else state
        return Call((d.normal(*front, inputs), state), {}, (inputs, hidden), {"bias": d.flag()})

    return draw


# Shapes, pooling ---------------------------------------------------------------------------------------------


def image(d: Draw, low: int = 1, high: int = 6) -> np.ndarray:
    return d.batch(d.whole(1, 3), d.whole(low, high), d.whole(low, high))


def avg_pool(d: Draw) -> Call:
    kernel = d.each(2, 1, 3)
    more = {
        "stride": d.pick(None, d.each(2, 1, 3)), "padding": d.whole(0, min(per_axis(kernel, 2)) // 2),
        "ceil_mode": d.flag(), "count_include_pad": d.flag(), "divisor_override": d.pick(None, None, 3),
    }  # fmt: skip
    return Call((image(d, 3),), {}, (kernel,), more)


def avg_pool_1d(d: Draw) -> Call:
    kernel = d.whole(1, 3)
    more = {
        "stride": d.pick(None, 1, 2), "padding": d.whole(0, kernel // 2), "ceil_mode": d.flag(),
        "count_include_pad": d.flag(),
    }  # fmt: skip
    return Call((d.normal(d.whole(1, 2), d.whole(1, 3), d.whole(3, 7)),), {}, (kernel,), more)


def reflection_pad_1d(d: Draw) -> Call:
    return Call((d.normal(d.whole(1, 2), d.whole(1, 3), d.whole(4, 7)),), {}, (d.pick(1, (2, 0), (1, 3)),))


def max_pool(d: Draw) -> Call:
    kernel = d.each(2, 1, 3)
    more = {
        "stride": d.pick(None, d.each(2, 1, 3)), "padding": d.whole(0, min(per_axis(kernel, 2)) // 2),
        "dilation": d.whole(1, 2), "ceil_mode": d.flag(), "return_indices": d.flag(),
    }  # fmt: skip
    return Call((image(d, 5, 7),), {}, (kernel,), more)


def adaptive_pool(d: Draw) -> Call:
    return Call((image(d),), {}, (d.pick(1, 3, (2, 3), (None, 2), (4, None), 7),))


def resampling(d: Draw, mode: str | None = None) -> Call:
    x = d.normal(d.whole(1, 2), d.whole(1, 3), d.whole(1, 5), d.whole(1, 5))
    more: dict[str, Any] = {"mode": mode or d.pick("nearest", "bilinear")}
    if d.flag():
        more["size"] = d.each(2, 1, 8)
    else:
        more["scale_factor"] = d.pick(2, 3, 2.0, 1.5, (2, 3), (1.0, 2.5))
    if more["mode"] == "bilinear":
        more["align_corners"] = d.pick(None, False, True)
    return Call((x,), {}, (), more)


def upsampling(d: Draw) -> Call:
    call = resampling(d, "nearest")
    del call.init_kwargs["mode"]
    return call


def pixel_shuffle(d: Draw) -> Call:
    r = d.whole(1, 3)
    return Call((d.normal(*d.shape(0, 2), d.whole(1, 2) * r * r, d.whole(1, 3), d.whole(1, 3)),), {}, (r,))


def pixel_unshuffle(d: Draw) -> Call:
    r = d.whole(1, 3)
    return Call((d.normal(*d.shape(0, 2), d.whole(1, 2), d.whole(1, 3) * r, d.whole(1, 3) * r),), {}, (r,))


def padding(low: int, *more: Any) -> Callable[[Draw], Call]:
    def draw(d: Draw) -> Call:
        return Call((image(d, 4),), {}, (d.each(4, low, 3), *more))

    return draw


def pad_function(d: Draw) -> Call:
    mode = d.pick("constant", "reflect", "replicate", "circular")
    axes = d.whole(1, 2)
    x = d.normal(d.whole(1, 2), d.whole(1, 2), *(d.whole(4, 6) for _ in range(axes)))
    low = -1 if mode == "constant" else 0
    more = {"value": d.pick(None, 0, 1.5)} if mode == "constant" else {}
    return Call((x, tuple(d.whole(low, 3) for _ in range(2 * axes)), mode), more)


def flatten(d: Draw) -> Call:
    return Call((d.normal(*d.shape(2, 4)),), {}, (), {"start_dim": d.pick(0, 1), "end_dim": d.pick(-1, 1)})


def unflatten(d: Draw) -> Call:
    return Call((d.normal(2, 12, 2),), {}, (d.pick(1, -2), d.pick((3, 4), (2, -1), (1, 12), (2, 3, 2))))


# Activations -------------------------------------------------------------------------------------------------


def elementwise(largest: float = 5.0, **options: tuple) -> Callable[[Draw], Call]:
    """Any shape, small values and large; each option is one of several values."""

    def draw(d: Draw) -> Call:
        x = np.asarray(d.normal(*d.shape(0, 4, smallest=0)) * d.pick(1.0, largest))
        return Call((x,), {}, (), {name: d.pick(*values) for name, values in options.items()})

    return draw


def halves(d: Draw) -> Call:
    shape = d.shape(0, 2)
    return Call((d.normal(2, *shape, 4),), {}, (), {"dim": d.pick(-1, 0)})


def along(d: Draw) -> Call:
    shape = d.shape(1, 4)
    return Call((d.normal(*shape),), {}, (), {"dim": d.pick(-1, 0, len(shape) - 1)})


def prelu_layer(d: Draw) -> Call:
    c = d.whole(1, 4)
    return Call(
        (d.normal(*([2, c] if c > 1 or d.flag() else [3]), *d.shape(0, 2)),), {}, (c,), {"init": d.pick(0.25, -0.3)}
    )


def prelu_function(d: Draw) -> Call:
    c = d.whole(1, 4)
    return Call((d.normal(2, c, *d.shape(0, 2)), d.normal(d.pick(1, c))))


def dropout(d: Draw) -> Call:
    training = d.flag()
    return Call((image(d),), {}, (), {"p": d.pick(0.0, 1.0) if training else d.pick(0.0, 0.5)}, training=training)


def dropout_function(d: Draw) -> Call:
    training = d.flag()
    return Call((image(d),), {"p": d.pick(0.0, 1.0) if training else d.pick(0.0, 0.5), "training": training})


def away_from_zero(d: Draw) -> np.ndarray:
    """Vectors of two or more numbers along every axis, whose norms are not small."""
    shape = tuple(d.whole(2, 4) for _ in range(d.whole(2, 3)))
    return d.uniform(*shape, low=0.5, high=2) * d.random.choice([-1, 1], size=shape)


def normalized(d: Draw) -> Call:
    more = {"p": d.pick(2.0, 1.0, 3.0), "dim": d.pick(0, 1, -1), "eps": d.pick(1e-12, 0.5)}
    return Call((away_from_zero(d),), more)


def similarity(d: Draw) -> Call:
    x = away_from_zero(d)
    return Call((x, d.random.permutation(x)), {}, (), {"dim": d.pick(0, 1, -1)})


# Losses --------------------------------------------------------------------------------------------------------


REDUCTIONS = ("mean", "sum", "none")


def pair(**options: tuple) -> Callable[[Draw], Call]:
    """An input and a target of one shape."""

    def draw(d: Draw) -> Call:
        shape = d.shape(0, 3)
        more = {name: d.pick(*values) for name, values in options.items()}
        return Call((d.normal(*shape), d.normal(*shape)), {}, (), more | {"reduction": d.pick(*REDUCTIONS)})

    return draw


def hinge_embedding(d: Draw) -> Call:
    shape = d.shape(1, 3)
    more = {"margin": d.pick(1.0, 0.3), "reduction": d.pick(*REDUCTIONS)}
    return Call((d.normal(*shape), Const(d.random.choice([-1.0, 1.0], size=shape))), {}, (), more)


def kl(d: Draw) -> Call:
    shape = d.shape(1, 3)
    log = d.flag()
    target = np.log(d.uniform(*shape)) if log else d.uniform(*shape)
    more = {"log_target": log, "reduction": d.pick(*REDUCTIONS, "batchmean")}
    return Call((np.log(d.uniform(*shape)), Const(target)), {}, (), more)


def cross_entropy_of(d: Draw, probabilities: bool, smoothing: bool, log: bool) -> Call:
    classes, n, rest = d.whole(1, 4), d.whole(1, 4), d.shape(0, 2)
    front = (n,) if d.flag() or rest else ()
    x = d.normal(*front, classes, *rest)
    if log:
        x = x - np.log(np.exp(x).sum(len(front), keepdims=True))
    more: dict[str, Any] = {"reduction": d.pick(*REDUCTIONS)}
    if d.flag():
        more["weight"] = Const(d.uniform(classes, low=0.2, high=2))
    if smoothing:
        more["label_smoothing"] = d.pick(0.0, 0.1, 0.4)
    if probabilities:
        p = d.uniform(*x.shape)
        return Call((x, Const(p / p.sum(len(front), keepdims=True))), {}, (), more)
    target = d.random.integers(0, classes, size=front + rest)
    if d.flag():
        more["ignore_index"] = 0
        assume((target != 0).any())
    return Call((x, target), {}, (), more)


def cross_entropy(d: Draw) -> Call:
    return cross_entropy_of(d, d.flag(), True, False)


def nll(d: Draw) -> Call:
    return cross_entropy_of(d, False, False, True)


def bce(d: Draw) -> Call:
    shape = d.shape(1, 3)
    more: dict[str, Any] = {"reduction": d.pick(*REDUCTIONS)}
    if d.flag():
        more["weight"] = Const(d.uniform(shape[-1]))
    return Call((d.uniform(*shape), Const(d.random.integers(0, 2, size=shape).astype(float))), {}, (), more)


def bce_logits(d: Draw) -> Call:
    call = bce(d)
    x, target = call.args
    if d.flag():
        call.init_kwargs["pos_weight"] = Const(d.uniform(x.shape[-1], high=3))
    return Call(
        (d.pick(1.0, 40.0) * d.normal(*x.shape), d.pick(target, Const(d.uniform(*x.shape)))), {}, (), call.init_kwargs
    )


# The rows --------------------------------------------------------------------------------------------------------

LAYERS: dict[str, Callable[[Draw], Call]] = {
    "Conv1d": conv_layer(1), "Conv2d": conv_layer(2), "Conv3d": conv_layer(3),
    "ConvTranspose1d": transpose_layer(1), "ConvTranspose2d": transpose_layer(2),
    "ConvTranspose3d": transpose_layer(3),
    "BatchNorm1d": batch_norm_layer(0, 1), "BatchNorm2d": batch_norm_layer(2), "BatchNorm3d": batch_norm_layer(3),
    "InstanceNorm1d": instance_norm_layer(1), "InstanceNorm2d": instance_norm_layer(2),
    "LayerNorm": layer_norm_layer, "GroupNorm": group_norm_layer,
    "Linear": linear_layer, "Bilinear": bilinear_layer, "Embedding": embedding_layer,
    "LSTMCell": cell(2), "GRUCell": cell(1), "Identity": elementwise(),
    "AvgPool1d": avg_pool_1d, "ReflectionPad1d": reflection_pad_1d, "GLU": halves,
    "AvgPool2d": avg_pool, "MaxPool2d": max_pool, "AdaptiveAvgPool2d": adaptive_pool,
    "Upsample": resampling, "UpsamplingNearest2d": upsampling, "UpsamplingBilinear2d": upsampling,
    "PixelShuffle": pixel_shuffle, "PixelUnshuffle": pixel_unshuffle, "Flatten": flatten, "Unflatten": unflatten,
    "ZeroPad2d": padding(-1), "ReflectionPad2d": padding(0), "ReplicationPad2d": padding(0),
    "ConstantPad2d": padding(-1, 1.5),
    "Dropout": dropout, "Dropout2d": dropout,
    "ReLU": elementwise(), "ReLU6": elementwise(), "LeakyReLU": elementwise(negative_slope=(0.01, 0.2, -0.3, 1.5, 0.0)),
    "PReLU": prelu_layer, "ELU": elementwise(alpha=(1.0, 0.5, 2.0)), "SELU": elementwise(),
    "GELU": elementwise(1.5, approximate=("none", "tanh")), "SiLU": elementwise(),
    "Softplus": elementwise(beta=(1.0, 2.5), threshold=(20.0, 2.0)), "Sigmoid": elementwise(), "Tanh": elementwise(),
    "LogSigmoid": elementwise(), "Hardtanh": elementwise(min_val=(-1.0, -2.0), max_val=(1.0, 0.5)),
    "Softmax": along, "LogSoftmax": along, "CosineSimilarity": similarity,
    "MSELoss": pair(), "L1Loss": pair(), "SmoothL1Loss": pair(beta=(1.0, 0.3, 0.0)),
    "HuberLoss": pair(delta=(1.0, 0.3)),
    "HingeEmbeddingLoss": hinge_embedding, "KLDivLoss": kl, "CrossEntropyLoss": cross_entropy, "NLLLoss": nll,
    "BCELoss": bce, "BCEWithLogitsLoss": bce_logits,
}  # fmt: skip

NO_LAYER = {
    "Module": "no layer; tests of modules", "Parameter": "no layer", "Sequential": "a container",
    "ModuleList": "a container", "ModuleDict": "a container", "ParameterList": "a container",
    "ParameterDict": "a container", "DataParallel": "one device: calls its module",
    "Maxout": "not in PyTorch; test_maxout",
    "functional": "a module", "init": "a module", "utils": "a module",
}  # fmt: skip


def as_function(row: Callable[[Draw], Call]) -> Callable[[Draw], Call]:
    """What a layer gets when it is made, as arguments of the function."""

    def draw(d: Draw) -> Call:
        call = row(d)
        return Call(call.args + call.init, call.init_kwargs, order=call.order)

    return draw


def cell_function(gates: int, states: int) -> Callable[[Draw], Call]:
    def draw(d: Draw) -> Call:
        n, inputs, hidden = d.whole(1, 3), d.whole(1, 4), d.whole(1, 4)
        state: Any = tuple(d.normal(n, hidden) for _ in range(states))
        rows = gates * hidden
        weights = d.normal(rows, inputs), d.normal(rows, hidden)
        biases = (d.normal(rows), d.normal(rows)) if d.flag() else ()
        return Call((d.normal(n, inputs), state if states > 1 else state[0], *weights, *biases))

    return draw


FUNCTIONS: dict[str, Callable[[Draw], Call]] = {
    "conv1d": conv_function(1), "conv2d": conv_function(2), "conv3d": conv_function(3),
    "conv_transpose1d": transpose_function(1), "conv_transpose2d": transpose_function(2),
    "conv_transpose3d": transpose_function(3),
    "batch_norm": batch_norm_function, "instance_norm": instance_norm_function, "layer_norm": layer_norm_function,
    "group_norm": group_norm_function,
    "linear": linear_function, "bilinear": bilinear_function, "embedding": embedding_function, "one_hot": one_hot,
    "lstm_cell": cell_function(4, 2), "gru_cell": cell_function(3, 1),
    "avg_pool1d": as_function(avg_pool_1d), "glu": as_function(halves),
    "avg_pool2d": as_function(avg_pool), "max_pool2d": as_function(max_pool),
    "adaptive_avg_pool2d": as_function(adaptive_pool), "interpolate": as_function(resampling),
    "upsample": as_function(resampling), "pixel_shuffle": as_function(pixel_shuffle),
    "pixel_unshuffle": as_function(pixel_unshuffle), "pad": pad_function,
    "dropout": dropout_function, "dropout2d": dropout_function,
    "prelu": prelu_function, "softmax": along, "log_softmax": along, "normalize": normalized,
    "leaky_relu": LAYERS["LeakyReLU"], "logsigmoid": LAYERS["LogSigmoid"],
    **{name.lower(): as_function(LAYERS[name]) for name in ("ReLU", "ReLU6", "ELU", "SELU", "GELU", "SiLU", "Softplus",
       "Sigmoid", "Tanh", "Hardtanh")},
    "cosine_similarity": as_function(similarity), "mse_loss": as_function(LAYERS["MSELoss"]),
    "l1_loss": as_function(LAYERS["L1Loss"]), "smooth_l1_loss": as_function(LAYERS["SmoothL1Loss"]),
    "huber_loss": as_function(LAYERS["HuberLoss"]), "hinge_embedding_loss": as_function(hinge_embedding),
    "kl_div": as_function(kl), "cross_entropy": as_function(cross_entropy), "nll_loss": as_function(nll),
    "binary_cross_entropy": as_function(bce), "binary_cross_entropy_with_logits": as_function(bce_logits),
}  # fmt: skip
for name in ("leaky_relu", "logsigmoid", "softmax", "log_softmax"):
    FUNCTIONS[name] = as_function(FUNCTIONS[name])

NO_FUNCTION = {"maxout": "not in PyTorch; test_maxout", "gumbel_softmax": "random; tests/test_dialect.py"}


def exported(module: Any) -> set[str]:
    """The public classes and functions of a module (not its submodules, nor what they import)."""
    return {name for name, value in vars(module).items() if not name.startswith("_") and callable(value)}


def test_every_layer_has_a_row() -> None:
    assert exported(mg.nn) - set(LAYERS) - set(NO_LAYER) == set()
    assert set(LAYERS) <= exported(mg.nn)


def test_every_function_has_a_row() -> None:
    assert exported(mg.nn.functional) - set(FUNCTIONS) - set(NO_FUNCTION) == set()
    assert set(FUNCTIONS) <= exported(mg.nn.functional)


# Running them -----------------------------------------------------------------------------------------------------


def tensors(T: Any, value: Any, dtype: str, leaves: list[Any]) -> Any:
    """The arrays in a structure of arguments as tensors; those to differentiate are added to `leaves`."""
    if isinstance(value, (tuple, list)):
        return type(value)(tensors(T, v, dtype, leaves) for v in value)
    if isinstance(value, dict):
        return {key: tensors(T, v, dtype, leaves) for key, v in value.items()}
    if isinstance(value, Const):
        return T.tensor(as_float32(value.array), dtype=getattr(T, dtype))
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        leaves.append(T.tensor(as_float32(value), dtype=getattr(T, dtype), requires_grad=True))
        return leaves[-1]
    return T.tensor(value) if isinstance(value, np.ndarray) else value


def as_float32(array: np.ndarray) -> np.ndarray:
    """Rounded, so that both precisions are given the same values."""
    return array.astype(np.float32)


def compare(run: Callable[[Any, str], list[Any]]) -> None:
    """`run(T, dtype)`, a list of results, agrees in both precisions.

    In float32, minigan may be as far as 1e-5 from the right values, or a few times as far as PyTorch is.
    """
    ours, theirs = (run(T, "float64") for T in BOTH)
    assert_same(ours, theirs, equal_nan=False)
    ours32, theirs32 = (run(T, "float32") for T in BOTH)
    for x, peer, right in zip(*map(flat, (ours32, theirs32, theirs)), strict=True):
        assert (tuple(x.shape), dtype_name(x)) == (tuple(peer.shape), dtype_name(peer))
        x, peer, right = map(host, (x, peer, right))
        scale = max(1.0, np.abs(right).max(initial=0.0))
        allowed = max(1e-5 * scale, 4 * np.abs(peer - right).max(initial=0.0)) if x.dtype.kind == "f" else 0
        np.testing.assert_allclose(x, right, rtol=0, atol=allowed)


def flat(value: Any) -> list[Any]:
    return [value] if is_tensor(value) else [x for part in value for x in flat(part)]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_function(name: str, data: Any) -> None:
    call = FUNCTIONS[name](Draw(data))

    def run(T, dtype):
        leaves: list[Any] = []
        args, kwargs = tensors(T, call.args, dtype, leaves), tensors(T, call.kwargs, dtype, leaves)
        function = getattr(T.nn.functional, name, None) or getattr(T, name)  # PyTorch has the cells there
        result = function(*args, **kwargs)
        # The arguments too: running statistics, and that nothing else was changed
        return [result, gradients(T, result, leaves, call.order), [a for a in args if is_tensor(a)]]

    compare(run)


def randomised(layer: Any, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Values for a layer's parameters and buffers; statistics stay plausible."""
    values = {}
    for key, value in layer.state_dict().items():
        shape = tuple(value.shape)
        drawn = random.uniform(0.5, 1.5, shape) if "var" in key else random.normal(size=shape)
        values[key] = as_float32(np.asarray(drawn)) if value.is_floating_point() else np.array(3)
    return values


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", LAYERS)
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_layer(name: str, data: Any) -> None:
    d = Draw(data)
    call = LAYERS[name](d)

    def build(T, dtype):
        layer = getattr(T.nn, name)(*call.init, **tensors(T, call.init_kwargs, dtype, []))
        return layer.to(getattr(T, dtype)).train(call.training)

    made = [build(T, "float32") for T in BOTH]
    if torch.__version__ >= "2.13":  # older ones say less
        assert repr(made[0]) == repr(made[1])
    values = randomised(made[1], d.random)
    # From ours into PyTorch's and back: `strict` checks the keys and shapes both ways
    made[0].load_state_dict({key: mg.tensor(value) for key, value in values.items()})
    made[1].load_state_dict({key: torch.tensor(host(value)) for key, value in made[0].state_dict().items()})
    made[0].load_state_dict({key: mg.tensor(host(value)) for key, value in made[1].state_dict().items()})

    def run(T, dtype):
        layer = build(T, dtype)
        layer.load_state_dict(made[BOTH.index(T)].state_dict())
        leaves: list[Any] = []
        args = tensors(T, call.args, dtype, leaves)
        with T.no_grad():  # so that statistics are updated twice
            layer(*args)
        result = layer(*args)
        state = layer.state_dict()
        gs = gradients(T, result, leaves + list(layer.parameters()), call.order)
        return [result, gs, [state[key] for key in sorted(values)]]

    compare(run)


# Beyond the rows ---------------------------------------------------------------------------------------------------


@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_maxout(data: Any) -> None:
    d = Draw(data)
    inputs, outputs, pieces = d.whole(1, 4), d.whole(1, 3), d.whole(1, 3)
    values = d.normal(*d.shape(1, 2), inputs), d.normal(outputs * pieces, inputs), d.normal(outputs * pieces)

    def run(T, dtype):
        leaves: list[Any] = []
        x, w, b = tensors(T, values, dtype, leaves)
        if T is mg:
            y = T.nn.functional.maxout(x, w, b, pieces)
        else:
            y = T.nn.functional.linear(x, w, b).unflatten(-1, (outputs, pieces)).amax(-1)
        return [y, gradients(T, y, leaves)]

    compare(run)


@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_padding_of_each_side(data: Any) -> None:
    d = Draw(data)
    values = d.normal(2, 2, d.whole(3, 6), d.whole(3, 6)), d.normal(3, 2, 3, 3), d.normal(3)
    sides, stride = tuple(d.whole(0, 3) for _ in range(4)), d.each(2, 1, 2)

    def run(T, dtype):
        leaves: list[Any] = []
        x, w, b = tensors(T, values, dtype, leaves)
        F = T.nn.functional
        y = F.conv2d(x, w, b, stride, sides) if T is mg else F.conv2d(F.pad(x, sides), w, b, stride)
        return [y, gradients(T, y, leaves)]

    compare(run)


@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_cropping_of_each_side(data: Any) -> None:
    d = Draw(data)
    values = d.normal(2, 2, d.whole(2, 4), d.whole(2, 4)), d.normal(2, 3, 4, 4), d.normal(3)
    left, right, top, bottom = sides = tuple(d.whole(0, 1) for _ in range(4))
    stride = d.each(2, 1, 2)

    def run(T, dtype):
        leaves: list[Any] = []
        x, w, b = tensors(T, values, dtype, leaves)
        F = T.nn.functional
        if T is mg:
            y = F.conv_transpose2d(x, w, b, stride, sides)
        else:
            y = F.conv_transpose2d(x, w, b, stride)
            y = y[:, :, top : y.shape[2] - bottom, left : y.shape[3] - right]
        return [y, gradients(T, y, leaves)]

    compare(run)


@pytest.mark.parametrize("size", [(9, 9), (10, 9), (2, 3, 10, 10)])
def test_output_size(size: tuple[int, ...]) -> None:
    x, shapes = np.random.default_rng(0).normal(size=(2, 2, 5, 5)), []
    for T in BOTH:
        layer = T.nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)
        shapes.append(tuple(layer(T.tensor(as_float32(x)), output_size=size).shape))
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    "code", ["ReLU", "LeakyReLU(0.2", "LeakyReLU(-0.2", "ELU", "SELU", "SiLU", "ReLU6", "Hardtanh", "Dropout(0.0"]
)
def test_written_over_the_input(code: str) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4))

    def run(T, dtype):
        leaves: list[Any] = []
        h = tensors(T, x, dtype, leaves) * 2
        name, _, options = code.partition("(")
        y = getattr(T.nn, name)(*map(float, options.split()), inplace=True)(h)
        assert y is h
        return [y, gradients(T, y * 3, leaves)]

    if code == "LeakyReLU(-0.2":  # the sign of the input is lost: PyTorch refuses
        with pytest.raises(RuntimeError):
            run(torch, "float64")
        return
    compare(run)


ERRORS = """
nn.Linear(3, 2)(T.zeros(4, 5))
nn.Linear(3, 2)(T.zeros(4, 3, dtype=T.float64))
nn.Bilinear(2, 3, 4)(T.zeros(5, 2), T.zeros(5, 2))
nn.Conv2d(3, 8, 3)(T.zeros(1, 4, 8, 8))
nn.Conv2d(3, 8, 3)(T.zeros(8, 8))
nn.Conv2d(3, 8, 5)(T.zeros(1, 3, 4, 4))
nn.Conv2d(3, 8, 3)(T.zeros(1, 3, 8, 8, dtype=T.float64))
nn.Conv2d(3, 8, 3, groups=2)
nn.Conv2d(4, 3, 3, groups=2)
nn.Conv2d(3, 8, 3, padding="some")
nn.Conv2d(3, 8, 3, padding="same", stride=2)
nn.Conv2d(3, 8, 3, padding_mode="mirror")
nn.Conv1d(3, 8, 3)(T.zeros(1, 3, 8, 8))
nn.ConvTranspose2d(3, 8, 3, stride=2, output_padding=2)(T.zeros(1, 3, 4, 4))
nn.ConvTranspose2d(3, 8, 3, padding_mode="reflect")
nn.ConvTranspose2d(3, 8, 3)(T.zeros(1, 4, 4, 4))
nn.ConvTranspose2d(3, 8, 3, stride=2)(T.zeros(1, 3, 4, 4), output_size=(20, 20))
F.conv2d(T.zeros(1, 3, 8, 8), T.zeros(4, 2, 3, 3))
F.conv2d(T.zeros(1, 3, 8, 8), T.zeros(4, 3, 3, 3), T.zeros(5))
nn.BatchNorm2d(3)(T.zeros(2, 4, 5, 5))
nn.BatchNorm2d(3)(T.zeros(2, 3, 5))
nn.BatchNorm1d(3)(T.zeros(2, 3, 5, 5))
nn.BatchNorm1d(3)(T.zeros(1, 3))
nn.BatchNorm2d(3)(T.zeros(1, 3, 1, 1))
nn.InstanceNorm2d(3)(T.zeros(1, 3, 1, 1))
nn.LayerNorm(3)(T.zeros(2, 4))
nn.LayerNorm((2, 3))(T.zeros(3))
nn.GroupNorm(2, 3)
nn.GroupNorm(2, 4)(T.zeros(2, 3, 5))
nn.Embedding(3, 2)(T.tensor([3]))
nn.Embedding(3, 2)(T.tensor([0.5]))
nn.LSTMCell(3, 4)(T.zeros(2, 5))
nn.GRUCell(3, 4)(T.zeros(2, 3), T.zeros(2, 5))
nn.Dropout(2.0)
nn.Dropout(-0.1)
nn.PixelShuffle(2)(T.zeros(1, 3, 4, 4))
nn.PixelUnshuffle(2)(T.zeros(1, 3, 5, 4))
nn.ReflectionPad2d(4)(T.zeros(1, 1, 4, 4))
nn.MaxPool2d(2, padding=2)(T.zeros(1, 1, 4, 4))
nn.AvgPool2d(2, padding=2)(T.zeros(1, 1, 4, 4))
nn.MaxPool2d(5)(T.zeros(1, 1, 4, 4))
nn.AvgPool2d(5)(T.zeros(1, 1, 4, 4))
nn.Upsample()(T.zeros(1, 1, 4, 4))
nn.Upsample(size=4, scale_factor=2)(T.zeros(1, 1, 4, 4))
nn.Upsample(scale_factor=2, mode="nearest", align_corners=True)(T.zeros(1, 1, 4, 4))
nn.Upsample(scale_factor=2, mode="bilinear")(T.zeros(1, 1, 4))
nn.Softmax(3)(T.zeros(2, 3))
nn.Unflatten(1, (2, 2))(T.zeros(2, 3))
nn.PReLU(2)(T.zeros(2, 3))
nn.BCELoss()(T.full((2,), 1.5), T.zeros(2))
nn.BCELoss()(T.full((2,), 0.5), T.zeros(3))
nn.BCELoss()(T.full((2, 1), 0.5), T.zeros(2))
nn.BCEWithLogitsLoss()(T.zeros(2, 1), T.zeros(2))
nn.BCEWithLogitsLoss()(T.zeros(2), T.zeros(3))
nn.MSELoss()(T.zeros(2), T.zeros(3))
nn.L1Loss(reduction="average")(T.zeros(2), T.zeros(2))
nn.CrossEntropyLoss()(T.zeros(2, 3), T.tensor([0, 3]))
nn.CrossEntropyLoss()(T.zeros(2, 3), T.tensor([0, 1, 2]))
nn.CrossEntropyLoss(label_smoothing=2.0)(T.zeros(2, 3), T.tensor([0, 1]))
nn.CrossEntropyLoss(weight=T.ones(2))(T.zeros(2, 3), T.tensor([0, 1]))
nn.NLLLoss()(T.zeros(2, 3), T.tensor([0, 5]))
nn.NLLLoss()(T.zeros(2, 3), T.tensor([0.0, 1.0]))
F.one_hot(T.tensor([3]), 2)
F.one_hot(T.tensor([0.5]))
F.dropout(T.zeros(2), 1.5)
F.batch_norm(T.zeros(2, 3), None, None)
nn.Linear(3, 2).load_state_dict({"weight": T.zeros(2, 3)})
nn.Linear(3, 2).load_state_dict({"weight": T.zeros(2, 3), "bias": T.zeros(2), "more": T.zeros(1)})
nn.Linear(3, 2).load_state_dict({"weight": T.zeros(3, 2), "bias": T.zeros(2)})
nn.Sequential(nn.Linear(3, 2))[5]
nn.Linear(3, 2).no_such_thing
nn.Linear("a", 2)
nn.Module()(T.zeros(2))
"""


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("row", [pytest.param(line, id=line) for line in ERRORS.strip().splitlines()])
def test_error(row: str) -> None:
    ours, theirs = (outcome(lambda T: eval(row, {"T": T, "nn": T.nn, "F": T.nn.functional}), T) for T in BOTH)
    assert isinstance(theirs, Exception), "PyTorch accepts this"
    assert_same(ours, theirs)

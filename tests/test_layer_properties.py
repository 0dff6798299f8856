"""Every layer against its definition, with derivatives in its inputs and in every parameter, by `harness.check`.

To test a new layer add a `row`: its class, its oracle (in `layer_oracles`), strategies for its settings and inputs.
The rows of layers for images and of losses have files of their own.
"""

import math
from functools import partial

import layer_oracles as right
import numpy as np
import pytest
from harness import check
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_rows import (
    BATCHES,
    VECTORS,
    by_spectral_norm,
    channels,
    convolutions,
    everywhere,
    features,
    for_convolution,
    in_eval,
    normed,
    options,
    row,
    spread,
    together,
)
from layer_rows_of_images import IMAGE_LAYERS
from layer_rows_of_losses import LOSSES
from strategies import FAR_FROM_ZERO, NONZERO, REAL, away_from, shapes, whole

from minigan import nn
from minigan.nn.utils import parametrizations

PLAIN = options()
IN_PLACE = [False, True]
BIAS = AFFINE = [True, True, False]

# Activations ------------------------------------------------------------------------------------------------

OF_AXIS = options(dim=[0, 1, 2, -1, -2])


def with_axis(dim):
    return together(shapes(max(dim + 1, -dim), 3), ((), REAL))


def halved(dim):
    """An even size along the axis."""
    return together(st.just((4, 2) if dim else (2,)), ((), REAL)) | together(VECTORS, ((2, 2, 4), REAL)).filter(
        lambda args: args[0].values.shape[dim] % 2 == 0
    )


def with_channels(num_parameters):
    if num_parameters == 1:
        return everywhere(NONZERO)()
    return together(BATCHES, ((num_parameters,), NONZERO)) | together(BATCHES, ((num_parameters, 2, 3), NONZERO))


ACTIVATIONS = [
    row(nn.Identity, lambda x: x, PLAIN, everywhere(REAL), view=None),
    row(nn.ReLU, right.each(lambda v: max(v, 0)), options(inplace=IN_PLACE), everywhere(NONZERO)),
    row(
        nn.ReLU6, right.each(lambda v: min(max(v, 0), 6)), options(inplace=IN_PLACE),
        everywhere(lambda rng, shape: 3 + 6 * away_from(-0.5, 0.5)(rng, shape)),
    ),
    row(
        nn.Hardtanh, right.each(lambda v, min_val, max_val: sorted((min_val, v, max_val))[1]),
        options(min_val=[-1, -0.5], max_val=[0.25, 1.0], inplace=IN_PLACE),
        lambda min_val, max_val, inplace: everywhere(away_from(min_val, max_val))(),
    ),
    row(
        nn.LeakyReLU, right.each(lambda v, negative_slope: v * (1 if v > 0 else negative_slope)),
        options(negative_slope=[0.01, 0.2, -0.5, 0], inplace=IN_PLACE), everywhere(NONZERO),
    ),
    row(nn.ELU, right.each(right.elu), options(alpha=[1.0, 0.5, 2], inplace=IN_PLACE), everywhere(NONZERO)),
    row(
        nn.SELU, right.each(lambda v: right.SCALE * right.elu(v, right.ALPHA)), options(inplace=IN_PLACE),
        everywhere(NONZERO),
    ),
    row(nn.SiLU, right.each(lambda v: v * right.sigmoid(v)), options(inplace=IN_PLACE), everywhere(REAL)),
    row(nn.GELU, right.each(right.gelu), options(approximate=["none", "tanh"]), everywhere(REAL)),
    row(
        nn.Softplus, right.each(right.softplus), options(beta=[1.0, 2.0, 0.5], threshold=[20.0, 1.0]),
        lambda beta, threshold: everywhere(away_from(min(threshold / beta, 1.9)))(),
    ),
    row(nn.Sigmoid, right.each(right.sigmoid), PLAIN, everywhere(REAL)),
    row(nn.Tanh, right.each(math.tanh), PLAIN, everywhere(REAL)),
    row(nn.LogSigmoid, right.each(lambda v: -math.log(1 + math.exp(-v))), PLAIN, everywhere(REAL)),
    row(nn.GLU, right.glu, options(dim=[0, 1, -1]), halved),
    row(nn.Softmax, right.softmax, OF_AXIS, with_axis),
    row(nn.LogSoftmax, lambda x, dim: np.log(right.softmax(x, dim=dim)), OF_AXIS, with_axis),
    row(nn.PReLU, right.prelu, options(num_parameters=[1, 2, 3]), with_channels),
]  # fmt: skip

# Products, tables and recurrent cells -----------------------------------------------------------------------

CELL = options(input_size=[1, 2], hidden_size=[1, 2, 2, 0], bias=BIAS)


def pieces_are_distinct(*arrays, **chosen):
    return not (np.diff(np.sort(right.pieces_of(*arrays, **chosen), -1)) < 0.03).any()


def indices(num_embeddings, padding_idx, **_):
    """Not that of the padding, whose row has no gradient."""
    return together(shapes(0, 2), ((), whole(0 if padding_idx is None else padding_idx + 1, num_embeddings)))


PRODUCTS = [
    row(
        nn.Linear, right.linear, options(in_features=[3, 1, 2, 0], out_features=[2, 1, 3], bias=BIAS),
        features("in_features", lead=VECTORS | shapes(2, 2)), ops="Linear", order=3,
    ),
    row(
        nn.Bilinear, right.bilinear, options(in1_features=[2, 1], in2_features=[1, 3], out_features=[1, 2], bias=BIAS),
        features("in1_features", "in2_features"),
    ),
    row(
        nn.Maxout, right.maxout, options(in_features=[2, 1, 3], out_features=[1, 2], pieces=[1, 2, 3], bias=BIAS),
        features("in_features"), keep=pieces_are_distinct,
    ),
    row(
        nn.Embedding, right.embedding, options(num_embeddings=[3, 5], embedding_dim=[2, 1, 0], padding_idx=[None, 0]),
        indices,
    ),
    row(
        nn.LSTMCell, right.lstm_cell, CELL, features("input_size", "hidden_size", "hidden_size"),
        call=lambda layer, x, h, c: layer(x, (h, c)),
    ),
    row(nn.GRUCell, right.gru_cell, CELL, features("input_size", "hidden_size")),
]  # fmt: skip

# Convolutions -----------------------------------------------------------------------------------------------


def convolution(layer, ndim):
    return row(layer, right.conv, convolutions(ndim), partial(for_convolution, ndim), ops="Conv", order=3)


def transposed(layer, ndim):
    return row(
        layer, right.conv_transpose, convolutions(ndim, transposed=True),
        partial(for_convolution, ndim), ops="ConvTranspose", order=3,
    )  # fmt: skip


def spectral(layer, oracle, dim, options, inputs, norm):
    normalized, keep = by_spectral_norm(oracle, dim)
    name = f"by {norm.__module__.rpartition('.')[2]}.{norm.__name__}"
    return row(layer, normalized, options, inputs, name, make=normed(layer, norm), keep=keep)


def weight_normed(layer, oracle, options, inputs):
    """The weight is g·v/|v|, with a g and a norm for each output."""

    def of_normed(x, b, g, v, **chosen):
        return oracle(x, np.stack([g[i] * v[i] / math.sqrt((v[i] ** 2).sum()) for i in range(len(v))]), b, **chosen)

    return row(
        layer, of_normed, options, inputs, "by weight_norm", domain=FAR_FROM_ZERO,
        make=lambda **chosen: nn.utils.weight_norm(layer(**chosen)),
    )  # fmt: skip


CONVOLUTIONS = [
    convolution(nn.Conv1d, 1),
    convolution(nn.Conv2d, 2),
    convolution(nn.Conv3d, 3),
    transposed(nn.ConvTranspose1d, 1),
    transposed(nn.ConvTranspose2d, 2),
    transposed(nn.ConvTranspose3d, 3),
]
WINDOW = {"kernel_size": [2, (1, 2)], "stride": [1, 2], "padding": [1], "dilation": [1], "groups": [1]}
LINEAR = options(in_features=[3], out_features=[1, 2]), features("in_features")
CONV = options(in_channels=[2], out_channels=[1, 3], padding_mode=["zeros"], **WINDOW), partial(for_convolution, 2)
CONV_TRANSPOSE = (
    options(in_channels=[2], out_channels=[1, 3], output_padding=[0], **WINDOW),
    partial(for_convolution, 2),
)
NORMED = [
    weight_normed(nn.Linear, right.linear, *LINEAR),
    weight_normed(nn.Conv2d, right.conv, *CONV),
    *(
        spectral(layer, oracle, dim, *drawn, norm)
        for norm in (parametrizations.spectral_norm, nn.utils.spectral_norm)
        for layer, oracle, dim, drawn in (
            (nn.Linear, right.linear, 0, LINEAR),
            (nn.Conv2d, right.conv, 0, CONV),
            (nn.ConvTranspose2d, right.conv_transpose, 1, CONV_TRANSPOSE),
        )
    ),
]

# Normalisation ----------------------------------------------------------------------------------------------

EPS = [1e-1, 1e-2, 1e-3]  # with less, the third derivatives of two values are lost to cancellation in float32
SETS = [(2,), (3,), (1,)]
LINES, IMAGES, SOLIDS = [(2,), (3,)], [(2, 2), (3, 1), (1, 2)], [(1, 2, 2), (2, 1, 1)]


def running_norm(layer, oracle, samples, lead, spatial, momenta):
    """By the values at hand; by given statistics; and the statistics that are kept, of a few batches."""
    momentum = options(num_features=[1, 2], momentum=momenta, affine=[False], track_running_stats=[True])
    statistics = options(
        mean=[[0.5, -0.25], [2.0, 0.0]],
        var=[[1.0, 0.25], [4.0, 0.5]],
        eps=EPS,
        affine=[True, False],
        track_running_stats=[True],
        bias=BIAS,
    )
    return [
        row(
            layer, oracle,
            options(num_features=[2, 1, 3], eps=EPS, affine=AFFINE, track_running_stats=[True, False], bias=BIAS),
            channels(lead, spatial), ops="Normalize", order=3, rtol=1e-11,
        ),
        row(
            layer, right.by_statistics, statistics,
            lambda mean, **_: channels([*SETS, (0,)], spatial)(len(mean)), "in eval", make=in_eval(layer), order=3,
        ),
        row(
            layer, partial(right.running, samples=samples), momentum, channels(SETS, spatial, batches=3), "statistics",
            call=lambda made, *batches: [made(x) for x in batches] and list(made.buffers()), order=0, rtol=1e-12,
        ),
    ]  # fmt: skip


def batch_norm(layer, spatial):
    return running_norm(layer, right.batch_norm, False, SETS, spatial, [0.1, 0.5, 0.0, None])


def instance_norm(layer, spatial):
    oracle = partial(right.instance_norm, spatial=len(spatial[0]))
    return running_norm(layer, oracle, True, [(2,), (1,), (0,), ()], spatial, [0.1, 0.5, 0.0])


NORMS = [
    *batch_norm(nn.BatchNorm1d, [(), (2,), (3,)]),
    *batch_norm(nn.BatchNorm2d, IMAGES),
    *batch_norm(nn.BatchNorm3d, SOLIDS),
    *instance_norm(nn.InstanceNorm1d, LINES),
    *instance_norm(nn.InstanceNorm2d, IMAGES),
    row(
        nn.LayerNorm, right.layer_norm,
        options(normalized_shape=[3, (2,), (2, 3), (4, 1), (1,)], eps=EPS, elementwise_affine=[True, False], bias=BIAS),
        lambda normalized_shape, **_: VECTORS.flatmap(
            lambda lead: spread(lead + right.sequence(normalized_shape))
        ), ops="Normalize", order=3, rtol=1e-11,
    ),
    row(
        nn.GroupNorm, right.group_norm,
        options(num_groups=[1, 2], num_channels=[2, 4], eps=EPS, affine=AFFINE, bias=BIAS),
        lambda num_channels, **_: channels([(2,), (1,), (0,)], [(2,), (3,), (1, 2)])(num_channels),
        ops="Normalize", order=3, rtol=1e-11,
    ),
]  # fmt: skip

# All of them ------------------------------------------------------------------------------------------------

ROWS = [*ACTIVATIONS, *PRODUCTS, *CONVOLUTIONS, *NORMED, *NORMS, *IMAGE_LAYERS, *LOSSES]
NO_LAYERS = {"DataParallel", "Module", "ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"}
LAYERS = {name for name, kind in vars(nn).items() if isinstance(kind, type) and issubclass(kind, nn.Module)}
THIRD_ORDER = ("Linear", "Conv", "BatchNorm", "InstanceNorm", "LayerNorm", "GroupNorm")


@pytest.mark.parametrize("row", ROWS, ids=str)
@settings(max_examples=settings.default.max_examples * 4 // 5)  # there are many rows
@given(data=st.data())
def test_rows(row, data):
    check(row, data.draw(row.cases), data.draw(st.sampled_from(row.dtypes)))


@pytest.mark.parametrize("name", sorted(LAYERS - NO_LAYERS))
def test_each_layer_has_a_row(name):
    orders = [row.order for row in ROWS if row.name.split()[0] == name]
    assert orders, f"{name} has no test: add a row for it"
    assert max(orders) >= (3 if name.startswith(THIRD_ORDER) else 2)


def test_rows_have_names_of_their_own():
    assert len({row.name for row in ROWS}) == len(ROWS)

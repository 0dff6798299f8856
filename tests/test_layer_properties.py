"""Every layer against its definition, with derivatives in its input and in every parameter, by `harness.check`.

To test a new layer add a `row`: its class, its oracle (in `layer_oracles`), strategies for its settings and inputs.
"""

import random

import layer_oracles as right
import numpy as np
import pytest
from harness import Row, check
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import (
    DISTINCT,
    FAR_FROM_ZERO,
    NONZERO,
    REAL,
    Placed,
    away_from,
    grid,
    placed,
    positive_shapes,
    seeds,
    shapes,
    uniform,
    whole,
)

import minigan as mg
from minigan import nn

# From a layer to a row --------------------------------------------------------------------------------------


def calling(make, call):
    """A layer as a function of its inputs and parameters, in place of its own ones, and of its settings."""

    def function(*args):
        *tensors, chosen = args
        layer = make(**chosen).to(next(x.dtype for x in tensors if x.is_floating_point()))
        names = [name for name, _ in layer.named_parameters()]
        first = len(tensors) - len(names)
        for name, value in zip(names, tensors[first:], strict=True):
            path, _, own = name.rpartition(".")
            layer.get_submodule(path)._parameters[own] = value
        return call(layer, *(x.clone() if chosen.get("inplace") else x for x in tensors[:first]))

    return function


@st.composite
def cases(draw, make, options, inputs, domain, keep):
    """Inputs, parameters, and settings."""
    chosen = draw(options)
    given = draw(inputs(**chosen))
    parameters = [draw(placed(tuple(p.shape), domain)) for p in make(**chosen).parameters()]
    assume(keep(*(x.values for x in (*given, *parameters)), **chosen))
    return *given, *parameters, chosen


def row(
    layer, oracle, options, inputs, name="", *, ops="", make=None, call=lambda layer, *xs: layer(*xs), domain=REAL,
    keep=lambda *_, **__: True, **more,
):  # fmt: skip
    """`inputs` makes a strategy from the settings; parameters are of `domain`; `keep` says which cases will do."""
    make = make or layer
    return Row(
        f"{layer.__name__} {name}".strip(), ops, calling(make, call), lambda *args: oracle(*args[:-1], **args[-1]),
        cases(make, options, inputs, domain, keep), **more,
    )  # fmt: skip


def options(**values):
    """One of each; drawn by seed, as `strategies.sides` are."""
    return seeds.map(random.Random).map(lambda rng: {name: rng.choice(given) for name, given in values.items()})


@st.composite
def together(draw, lead, *parts):
    """A tensor for each of the (further axes, domain), all with the same leading axes."""
    start = draw(lead)
    return tuple(draw(placed((*start, *more), domain)) for more, domain in parts)


def any_shape(domain):
    return lambda **_: together(shapes(), ((), domain))


def in_eval(layer):
    return lambda **chosen: layer(**chosen).eval()


PLACES = st.sampled_from([(), (2,), (0,), (1,), (3, 2)])  # of vectors
SAMPLES = st.sampled_from([(2,), (1,), (0,), ()])  # of images with channels; without a batch too
IN_PLACE = [False, True]
BIAS = [True, False, True]

# Activations ------------------------------------------------------------------------------------------------

PLAIN = options()
FROM_ZERO = any_shape(NONZERO)
SWITCHED = options(inplace=IN_PLACE)


def stretched(rng, shape):
    """Away from 0 and 6."""
    return 3 + 6 * away_from(-0.5, 0.5)(rng, shape)


@st.composite
def along_an_axis(draw):
    chosen = draw(options(dim=[0, 1, 2, -1, -2]))
    return chosen


def with_axis(dim, **_):
    return together(shapes(max(dim + 1, -dim, 1), 4), ((), REAL))


ACTIVATIONS = [
    row(nn.Identity, lambda x: x, PLAIN, any_shape(REAL), view=None, order=2),
    row(nn.ReLU, right.each(lambda v: max(v, 0)), SWITCHED, FROM_ZERO),
    row(nn.ReLU6, right.each(lambda v: min(max(v, 0), 6)), SWITCHED, any_shape(stretched)),
    row(
        nn.Hardtanh, right.each(lambda v, min_val, max_val: sorted((min_val, v, max_val))[1]),
        options(min_val=[-1, -0.5], max_val=[0.25, 1.0], inplace=IN_PLACE),
        lambda min_val, max_val, **_: any_shape(away_from(min_val, max_val))(),
    ),
    row(
        nn.LeakyReLU, right.each(lambda v, negative_slope: v * (1 if v > 0 else negative_slope)),
        options(negative_slope=[0.01, 0.2, -0.5, 0], inplace=IN_PLACE), FROM_ZERO,
    ),
    row(nn.ELU, right.each(right.elu), options(alpha=[1.0, 0.5, 2], inplace=IN_PLACE), FROM_ZERO),
    row(nn.SELU, right.each(lambda v: right.SCALE * right.elu(v, right.ALPHA)), SWITCHED, FROM_ZERO),
    row(nn.SiLU, right.each(lambda v: v * right.sigmoid(v)), SWITCHED, any_shape(REAL)),
    row(nn.GELU, right.each(right.gelu), options(approximate=["none", "tanh"]), any_shape(REAL)),
    row(
        nn.Softplus, right.each(right.softplus), options(beta=[1.0, 2.0, 0.5], threshold=[20.0, 1.0]),
        lambda beta, threshold: any_shape(away_from(*[at for at in [threshold / beta] if at < 2]))(),
        keep=lambda x, beta, threshold: not np.any(abs(beta * x - threshold) < 0.02),
    ),
    row(nn.Sigmoid, right.each(right.sigmoid), PLAIN, any_shape(REAL)),
    row(nn.Tanh, right.each(np.tanh), PLAIN, any_shape(REAL)),
    row(nn.LogSigmoid, right.each(lambda v: -np.log1p(np.exp(-v))), PLAIN, any_shape(REAL)),
    row(nn.Softmax, right.softmax, options(dim=[0, 1, 2, -1, -2]), with_axis),
    row(nn.LogSoftmax, lambda x, dim: np.log(right.softmax(x, dim=dim)), options(dim=[0, 1, 2, -1, -2]), with_axis),
    row(
        nn.PReLU, right.prelu, options(num_parameters=[1, 2, 3]),
        lambda num_parameters: FROM_ZERO() if num_parameters == 1 else together(
            shapes(1, 1), ((num_parameters,), NONZERO)) | together(SAMPLES.filter(len), ((num_parameters, 2, 3), NONZERO)),
    ),
]  # fmt: skip

# Products and recurrent cells -------------------------------------------------------------------------------


def distinct_pieces(*arrays, **chosen):
    values = np.sort(right.pieces_of(*arrays, **chosen), -1)
    return not np.any(np.diff(values) < 0.03)


@st.composite
def indices(draw, num_embeddings, padding_idx, **_):
    """Not the row of the padding, which has another value than gradient."""
    first = 0 if padding_idx is None else padding_idx + 1
    return (draw(placed(draw(shapes(0, 2)), whole(first, num_embeddings))),)


def vectors(**sizes):
    """Batches, or single vectors."""
    return lambda **chosen: together(
        st.sampled_from([(2,), (), (1,), (0,), (3,)]), *(((chosen[name],), REAL) for name in sizes["of"])
    )


CELL = options(input_size=[1, 2], hidden_size=[1, 2], bias=BIAS)

PRODUCTS = [
    row(
        nn.Linear, right.linear, options(in_features=[3, 1, 2, 0], out_features=[2, 1, 3], bias=BIAS),
        lambda in_features, **_: together(PLACES, ((in_features,), REAL)), ops="Linear", order=3,
    ),
    row(
        nn.Bilinear, right.bilinear, options(in1_features=[2, 1], in2_features=[1, 3], out_features=[1, 2], bias=BIAS),
        lambda in1_features, in2_features, **_: together(PLACES, ((in1_features,), REAL), ((in2_features,), REAL)),
    ),
    row(
        nn.Maxout, right.maxout, options(in_features=[2, 1, 3], out_features=[1, 2], pieces=[1, 2, 3], bias=BIAS),
        lambda in_features, **_: together(PLACES, ((in_features,), REAL)), keep=distinct_pieces,
    ),
    row(nn.Embedding, right.embedding, options(num_embeddings=[3, 5], embedding_dim=[2, 1, 0], padding_idx=[None, 0]),
        indices),
    row(
        nn.LSTMCell, right.lstm_cell, CELL, vectors(of=("input_size", "hidden_size", "hidden_size")),
        call=lambda layer, x, h, c: layer(x, (h, c)),
    ),
    row(nn.GRUCell, right.gru_cell, CELL, vectors(of=("input_size", "hidden_size"))),
]  # fmt: skip


def with_spectral_norm(layer, by_name=False):
    """In evaluation, and with vectors u and v of small fractions, which are the same in every dtype."""

    def make(u, v, dim, **chosen):
        normed = (nn.utils.spectral_norm if by_name else nn.utils.parametrizations.spectral_norm)(layer(**chosen))
        own = normed if by_name else normed.parametrizations.weight[0]
        names = ("weight_u", "weight_v") if by_name else ("_u", "_v")
        with mg.no_grad():
            for name, values in zip(names, (u, v), strict=True):
                getattr(own, name).copy_(mg.tensor(values))
        if by_name:
            normed._computed["weight"].called = True
        return normed.eval()

    return make


def fractions(count):
    return [random.Random(count).randint(4, 16) / 16 for _ in range(count)]

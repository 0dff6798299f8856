"""Convolution and its two relatives: a row each, checked to order 3 by `harness.check`."""

import numpy as np
import pytest
from harness import Row, check
from hypothesis import given
from hypothesis import strategies as st
from strategies import placed
from test_kernels_conv import geometries, oracle

import minigan as mg
from minigan.graph import REGISTRY, apply
from minigan.kernels.geometry import ConvGeometry
from minigan.testing import check_adjoint


def call(op):
    return lambda a, b, g: apply(REGISTRY[op], a, b, geometry=g)


@st.composite
def convolutions(draw, op):
    """Two of the three arguments x, w, y of the trilinear form, and the geometry."""
    g = draw(geometries(dims=(1, 1, 2)))
    batch, per_group, filters = draw(st.sampled_from([2, 1, 0])), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    of = {
        "x": (batch, per_group * g.groups, *g.input),
        "w": (filters * g.groups, per_group, *g.kernel),
        "y": (batch, filters * g.groups, *g.output),
    }
    first, second = {"Conv": "xw", "ConvTranspose": "yw", "ConvWeightGrad": "xy"}[op]
    return draw(placed(of[first])), draw(placed(of[second])), g


def conv(x, w, g):
    return oracle(x, w, np.zeros((len(x), len(w), *g.output)), g)[2]


def conv_transpose(y, w, g):
    return oracle(np.zeros((len(y), w.shape[1] * g.groups, *g.input)), w, y, g)[0]


def conv_weight_grad(x, y, g):
    return oracle(x, np.zeros((y.shape[1], x.shape[1] // g.groups, *g.kernel)), y, g)[1]


ROWS = [
    Row("conv", "Conv", call("Conv"), conv, convolutions("Conv"), order=3),
    Row(
        "conv_transpose", "ConvTranspose", call("ConvTranspose"), conv_transpose, convolutions("ConvTranspose"),
        order=3,
    ),
    Row(
        "conv_weight_grad", "ConvWeightGrad", call("ConvWeightGrad"), conv_weight_grad, convolutions("ConvWeightGrad"),
        order=3,
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
@given(data=st.data())
def test_rows(row, data):
    check(row, data.draw(row.cases), data.draw(st.sampled_from(row.dtypes)))


@given(geometries(), st.integers(1, 2), st.integers(1, 2))
def test_adjoints_are_exact(g, per_group, filters):
    """⟨conv(x, w), y⟩ = ⟨x, conv_transpose(y, w)⟩ = ⟨w, conv_weight_grad(x, y)⟩, in integers."""
    rng = np.random.default_rng(0)
    shapes = (
        (2, per_group * g.groups, *g.input),
        (filters * g.groups, per_group, *g.kernel),
        (2, filters * g.groups, *g.output),
    )
    x, w, y = (mg.tensor(rng.integers(-3, 4, shape), dtype=mg.float64) for shape in shapes)
    check_adjoint(lambda x: call("Conv")(x, w, g), lambda y: call("ConvTranspose")(y, w, g), x, y)
    check_adjoint(lambda w: call("Conv")(x, w, g), lambda y: call("ConvWeightGrad")(x, y, g), w, y)


def test_a_shared_argument():
    """The gradient with respect to something that is both image and kernel."""
    from minigan.testing import check_grads

    g = ConvGeometry.conv((3, 3), (3, 3), padding=1)
    check_grads(lambda x: call("Conv")(x, x, g), (mg.randn(2, 2, 3, 3).double(),), order=3)

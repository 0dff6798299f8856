"""The ops behind losses: a row each, checked by `harness.check`."""

import math

import pytest
from harness import Row, check, elementwise
from hypothesis import given
from hypothesis import strategies as st
from strategies import placed, shapes, tensors, uniform

import minigan as mg
from minigan.graph import REGISTRY, apply
from minigan.ops.loss import binary_cross_entropy

PROBABILITY = uniform(0.2, 0.8)


@st.composite
def pairs(draw):
    """Two tensors of one shape."""
    shape = draw(shapes())
    return draw(placed(shape, PROBABILITY)), draw(placed(shape, PROBABILITY))


ROWS = [
    Row(
        "binary_cross_entropy", "BinaryCrossEntropy", binary_cross_entropy,
        elementwise(lambda x, t: math.log(x / (1 - x)) * -t - math.log(1 - x)), pairs(),
    ),
    Row(
        "log odds", "LogOdds", lambda x: apply(REGISTRY["LogOdds"], x), elementwise(lambda x: math.log(x / (1 - x))),
        tensors(PROBABILITY),
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
@given(data=st.data())
def test_rows(row, data):
    check(row, data.draw(row.cases), data.draw(st.sampled_from(row.dtypes)))


def test_certain_probabilities_have_finite_gradients():
    x = mg.tensor([0.0, 1.0, 0.0, 1.0], dtype=mg.float64, requires_grad=True)
    loss = binary_cross_entropy(x, mg.tensor([0.0, 1.0, 1.0, 0.0], dtype=mg.float64))
    assert loss.tolist() == [0, 0, 100, 100]
    loss.sum().backward()
    assert x.grad.tolist() == [0, 0, -1e12, 1e12]

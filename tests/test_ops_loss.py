"""The ops behind losses: a row each, checked by `harness.check`."""

import math
from functools import partial

import numpy as np
import pytest
from harness import Row, check, elementwise, host
from hypothesis import given
from hypothesis import strategies as st
from strategies import NONZERO, placed, shapes, tensors, uniform

import minigan as mg
from minigan.graph import REGISTRY, apply
from minigan.ops.loss import binary_cross_entropy, binary_cross_entropy_with_logits

PROBABILITY = uniform(0.2, 0.8)


@st.composite
def pairs(draw):
    """Two tensors of one shape."""
    shape = draw(shapes())
    return draw(placed(shape, PROBABILITY)), draw(placed(shape, PROBABILITY))


@st.composite
def logits(draw):
    """A tensor of logits and one of targets, of one shape."""
    shape = draw(shapes())
    return draw(placed(shape, NONZERO)), draw(placed(shape, PROBABILITY))


def logistic(x, t):
    """The loss of one logit, term by term."""
    p = 1 / (1 + math.exp(-x))
    return -t * math.log(p) - (1 - t) * math.log(1 - p)


def with_logits(reduction):
    return partial(binary_cross_entropy_with_logits, reduction=reduction)


ROWS = [
    Row(
        "binary_cross_entropy", "BinaryCrossEntropy", binary_cross_entropy,
        elementwise(lambda x, t: math.log(x / (1 - x)) * -t - math.log(1 - x)), pairs(),
    ),
    Row(
        "log odds", "LogOdds", lambda x: apply(REGISTRY["LogOdds"], x), elementwise(lambda x: math.log(x / (1 - x))),
        tensors(PROBABILITY),
    ),
    Row("logits", "BinaryCrossEntropyWithLogits", with_logits("none"), elementwise(logistic), logits(), order=3),
    Row(
        "sum of logits", "BinaryCrossEntropyWithLogits", with_logits("sum"),
        lambda x, t: elementwise(logistic)(x, t).sum(), logits(),
    ),
    Row(
        "mean of logits", "BinaryCrossEntropyWithLogits", with_logits("mean"),
        lambda x, t: elementwise(logistic)(x, t).mean(), logits().filter(lambda case: case[0].values.size),
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


def test_logits_far_out_keep_their_digits():
    """Where the loss and its slopes are tiny, or a soft target leaves a small part of a large logit."""
    far = 1e4 / 3
    x = mg.tensor([60.0, -60.0, far, -far, far, -far, 0.0], dtype=mg.float64, requires_grad=True)
    t = mg.tensor([1.0, 0.0, 1.0, 0.0, 1 - 2**-40, 2**-40, 1.0], dtype=mg.float64)
    loss = binary_cross_entropy_with_logits(x, t, "none")
    tiny, part = math.exp(-60), far * 2**-40
    np.testing.assert_allclose(host(loss), [tiny, tiny, 0, 0, part, part, math.log(2)], rtol=1e-14)
    right = [-tiny, tiny, 0, 0, 2**-40, -(2**-40), -0.5]
    for create_graph in (False, True):
        (slope,) = mg.autograd.grad(loss.sum(), x, retain_graph=True, create_graph=create_graph)
        np.testing.assert_allclose(host(slope), right, rtol=1e-14)


def test_the_mean_of_no_logits_is_not_a_number():
    assert math.isnan(binary_cross_entropy_with_logits(mg.zeros(0), mg.zeros(0), "mean").item())

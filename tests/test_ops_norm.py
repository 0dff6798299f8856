"""Normalisation over the axes of batch, instance, layer and group norm, checked to order 3 by `harness.check`."""

import itertools
import statistics

import numpy as np
import pytest
from harness import Row, check, host
from hypothesis import given
from hypothesis import strategies as st
from strategies import NONZERO, POSITIVE, REAL, grid, placed

import minigan as mg
from minigan.ops.norm import normalize, standardize
from minigan.testing import check_grads


@st.composite
def normalizations(draw, ndim, axes, scaled):
    """x, weight and bias that broadcast to it, axes, eps. Ten or so values to each statistic, well spread."""
    shape = tuple(draw(st.sampled_from([3, 2, 4])) for _ in range(ndim))
    channels = tuple(size if d == 1 else 1 for d, size in enumerate(shape)) if 1 not in axes else shape[min(axes) :]
    x = draw(placed(shape, grid(0.0)))
    w = draw(placed(channels, NONZERO)) if scaled else None
    b = draw(placed(channels, REAL)) if scaled else None
    return x, w, b, axes, draw(st.sampled_from([1e-2, 1e-3]))


def group_by_group(x, w, b, axes, eps):
    """Each group of values that share a statistic, by the textbook."""
    y = np.zeros_like(x)
    others = [range(1) if d in axes else range(size) for d, size in enumerate(x.shape)]
    for at in itertools.product(*others):
        group = tuple(slice(None) if d in axes else i for d, i in enumerate(at))
        values = x[group].ravel().tolist()
        y[group] = (x[group] - statistics.fmean(values)) / (statistics.pvariance(values) + eps) ** 0.5
    return y * (1 if w is None else w) + (0 if b is None else b)


def normalized(x, w, b, axes, eps):
    return normalize(x, w, b, axes, eps)[0]


ROWS = [
    Row(f"{name}{' scaled' if scaled else ''}", "Normalize", normalized, group_by_group, cases, order=3, rtol=1e-11)
    for name, ndim, axes in [
        ("batch norm of vectors", 2, (0,)),
        ("batch norm of images", 4, (0, 2, 3)),
        ("instance norm", 4, (2, 3)),
        ("layer norm", 3, (1, 2)),
        ("group norm", 5, (2, 3, 4)),
    ]
    for scaled in (False, True)
    for cases in [normalizations(ndim, axes, scaled)]
]


@st.composite
def standardizations(draw, ndim, scaled):
    """x, the mean and variance of each channel, weight and bias, eps."""
    shape = tuple(draw(st.sampled_from([3, 2, 1, 4])) for _ in range(ndim))
    vectors = [draw(placed(shape[1:2], domain)) for domain in (REAL, POSITIVE, NONZERO, REAL)]
    m, v, w, b = vectors if scaled else (*vectors[:2], None, None)
    return draw(placed(shape, REAL)), m, v, w, b, draw(st.sampled_from([1e-2, 1e-5]))


def channel_by_channel(x, m, v, w, b, eps):
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        y[:, c] = (x[:, c] - m[c]) / (v[c] + eps) ** 0.5
        y[:, c] = y[:, c] * (1 if w is None else w[c]) + (0 if b is None else b[c])
    return y


ROWS += [
    Row(f"standardize of {ndim} axes{' scaled' if scaled else ''}", "Standardize", standardize, channel_by_channel,
        standardizations(ndim, scaled), order=3, rtol=1e-12)
    for ndim in (2, 3, 4)
    for scaled in (False, True)
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
@given(data=st.data())
def test_rows(row, data):
    check(row, data.draw(row.cases), data.draw(st.sampled_from(row.dtypes)))


def test_the_statistics_are_constants():
    x = mg.randn(4, 3, requires_grad=True)
    _, mean, variance = normalize(x, None, None, (0,), 1e-5)
    assert not mean.requires_grad
    assert not variance.requires_grad
    np.testing.assert_allclose(host(mean), host(x).mean(0, keepdims=True), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(host(variance), host(x).var(0, keepdims=True), rtol=1e-5)


def test_a_weight_of_zero_has_the_right_gradients():
    """Nothing is divided by the weight."""
    x, w, b = mg.randn(5, 2).double(), mg.tensor([[0.0, 1.0]], dtype=mg.float64), mg.zeros(1, 2, dtype=mg.float64)
    check_grads(lambda x, w, b: normalized(x, w, b, (0,), 1e-3), (x, w, b), order=3)


def test_the_variance_does_not_cancel():
    x = mg.tensor([[1e8 - 1], [1e8 + 1]], dtype=mg.float64)
    assert host(normalized(x, None, None, (0,), 0.0)).ravel().tolist() == [-1, 1]

"""Normalisation over the axes of batch, instance, layer and group norm, checked to order 3 by `harness.check`."""

import dataclasses
import itertools
import statistics

import numpy as np
import pytest
from harness import Row, channels_last, check, host, small_pieces
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import NONZERO, POSITIVE, REAL, grid, placed

import minigan as mg
from minigan.kernels.cpu import norm, rows
from minigan.ops.bias import add_bias
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


# With a leaky ReLU behind, values away from its kink ---------------------------------------------------------


@st.composite
def and_slope(draw, cases, oracle):
    case, slope = draw(cases), draw(st.sampled_from([0.2, 0.0, 1.0, 0.7]))
    arrays = [arg.values if hasattr(arg, "values") else arg for arg in case]
    assume(np.abs(oracle(*arrays)).min() > 0.02)
    return *case, slope


def leaky(oracle):
    def then_leaky(*args):
        y = oracle(*args[:-1])
        return np.where(y > 0, y, args[-1] * y)

    return then_leaky


def fused_normalize(x, w, b, axes, eps, slope):
    return normalize(x, w, b, axes, eps, slope)[0]


FUSED = [
    Row("batch norm of vectors, leaky", "Normalize", fused_normalize, leaky(group_by_group),
        and_slope(normalizations(2, (0,), True), group_by_group), order=3, rtol=1e-11),
    Row("batch norm of images, leaky", "Normalize", fused_normalize, leaky(group_by_group),
        and_slope(normalizations(4, (0, 2, 3), True), group_by_group), order=3, rtol=1e-11),
    Row("batch norm of vectors, unscaled, leaky", "Normalize", fused_normalize, leaky(group_by_group),
        and_slope(normalizations(2, (0,), False), group_by_group), order=3, rtol=1e-11),
    Row("layer norm, leaky", "Normalize", fused_normalize, leaky(group_by_group),
        and_slope(normalizations(3, (1, 2), True), group_by_group), order=3, rtol=1e-11),
    Row("standardize, leaky", "Standardize", standardize, leaky(channel_by_channel),
        and_slope(standardizations(4, True), channel_by_channel), order=3, rtol=1e-12),
]  # fmt: skip


@st.composite
def biases(draw, with_bias, with_slope):
    """x, a bias or None, a slope or None."""
    shape = tuple(draw(st.sampled_from([3, 2, 1, 4])) for _ in range(draw(st.sampled_from([2, 3, 4]))))
    x, b = draw(placed(shape, REAL)), draw(placed(shape[1:2], REAL)) if with_bias else None
    y = x.values + (0 if b is None else b.values.reshape(-1, *[1] * (len(shape) - 2)))
    assume(not with_slope or np.abs(y).min() > 0.02)
    return x, b, draw(st.sampled_from([0.2, 0.0, 1.0])) if with_slope else None


def biased(x, b, slope):
    y = x if b is None else x + b.reshape(-1, *[1] * (x.ndim - 2))
    return y if slope is None else np.where(y > 0, y, slope * y)


ROWS += FUSED + [
    Row(name, "AddBias", lambda x, b, slope: add_bias(x.clone(), b, slope), biased, biases(*given_), order=3)
    for name, given_ in [("bias", (True, False)), ("bias, leaky", (True, True)), ("leaky, in place", (False, True))]
]


@pytest.mark.parametrize("row", ROWS, ids=str)
@given(data=st.data())
def test_rows(row, data):
    check(row, data.draw(row.cases), data.draw(st.sampled_from(row.dtypes)))


CUT = [row for row in ROWS if "layer norm" not in row.name and "group norm" not in row.name]


@pytest.mark.parametrize("row", CUT, ids=str)
@given(data=st.data())
def test_rows_in_pieces(row, data):
    """What is computed in pieces, forward and in `vjp_fast`: the first derivative."""
    row = dataclasses.replace(row, order=1, function=lambda x, *rest, of=row.function: of(channels_last(x), *rest))
    with small_pieces():
        check(row, data.draw(row.cases), data.draw(st.sampled_from(row.dtypes)))


LAYOUTS = [
    ((7, 5, 6, 4), (0, 2, 3)), ((300, 8), (0,)), ((9, 31, 5, 5), (0, 2, 3)), ((2, 8, 16, 16), (0, 2, 3)),
    ((3, 4, 30, 2), (2, 3)), ((40, 4, 3, 2), (2, 3)),
]  # fmt: skip


def images(seed, shape):
    """Channels last"""
    return np.moveaxis(np.random.default_rng(seed).standard_normal((shape[0], *shape[2:], shape[1])), -1, 1)


def close(found, right):
    assert found.shape == right.shape
    np.testing.assert_allclose(found, right, rtol=0, atol=2e-6 * np.abs(right).max(), equal_nan=False)


@pytest.mark.parametrize("mean", [0, 3e4])
@pytest.mark.parametrize(("shape", "axes"), LAYOUTS, ids=str)
def test_pieces_are_exact_also_where_the_mean_is_large(shape, axes, mean):
    """In float32, against the formulas in float64. The mean is rounded to float32, and what follows takes it so."""
    x, gy = (images(0, shape) + mean).astype(np.float32), images(1, shape).astype(np.float32)
    w, b = (images(i, (1, shape[1], *[1] * (len(shape) - 2)))[0].astype(np.float32) for i in (2, 3))
    shapes = [a.shape for a in (x, w, b)]
    with small_pieces():
        assert rows.rows_of(x, axes) is not None
        y, m, v, r = norm.normalize(x, w, b, axes, 1e-5)
        gradients = norm.normalize_backward(gy, x, w, b, m, r, axes, None, (True,) * 3, shapes)
    x, gy, w, b, m, r = (a.astype(np.float64) for a in (x, gy, w, b, m, r))
    close(m, x.mean(axes, keepdims=True))
    close(v, x.var(axes, keepdims=True))
    close(r, 1 / np.sqrt(v + 1e-5))
    close(y, (x - m) * r * w + b)
    assert rows.rows_of(x, axes) is None
    expected = norm.normalize_backward(gy, x, w, b, m, r, axes, None, (True,) * 3, shapes)
    for found, right in zip(gradients, expected, strict=True):
        close(found, right)


def test_the_variance_of_one_value_is_zero():
    x = images(0, (50, 8, 4, 4)).astype(np.float32)
    x[...] = 0.1
    with small_pieces():
        y, m, v, _ = norm.normalize(x, None, None, (0, 2, 3), 1e-5)
    assert not v.any()
    assert not y.any()
    assert (m == np.float32(0.1)).all()


def test_pieces_depend_on_sizes_alone():
    x = np.empty((64, 16, 16, 40), np.float32).transpose(0, 3, 1, 2)
    found = rows.rows_of(x, (0, 2, 3))
    covered = sorted((piece.rows.start, piece.rows.stop) for piece in found.pieces)
    assert [start for start, _ in covered] == [0, *(stop for _, stop in covered[:-1])]
    assert covered[-1][1] == 64 * 16 * 16
    assert rows.rows_of(x.copy(order="C"), (0, 2, 3)) is None


def test_values_whose_squares_overflow():
    x = (images(0, (64, 8, 5, 5)) * 1e18 + 1e20).astype(np.float32)
    with small_pieces():
        y, m, v, _ = norm.normalize(x, None, None, (0, 2, 3), 1e-5)
    x = x.astype(np.float64)
    close(v, x.var((0, 2, 3), keepdims=True))
    right = (x - m) / np.sqrt(x.var((0, 2, 3), keepdims=True))
    np.testing.assert_allclose(y, right, atol=1e-5)


def test_an_empty_batch_leaves_the_running_statistics_alone():
    for layer in (mg.nn.BatchNorm2d(3), mg.nn.InstanceNorm2d(3, affine=True, track_running_stats=True)):
        x = mg.zeros(0, 3, 4, 4, requires_grad=True)
        layer(x).sum().backward()
        assert x.grad.shape == x.shape
        assert host(layer.weight.grad).tolist() == host(layer.bias.grad).tolist() == [0, 0, 0]
        assert host(layer.running_mean).tolist() == [0, 0, 0]
        assert host(layer.running_var).tolist() == [1, 1, 1]


def test_a_view_with_gaps_has_the_bits_of_its_copy():
    """Such as images cropped by slicing: pieces are made of a copy."""
    x, gy = (images(i, (20, 8, 9, 9)).astype(np.float32) for i in (0, 1))
    cropped, copied = x[:, :, :-1, :-1], np.moveaxis(np.moveaxis(x[:, :, :-1, :-1], 1, -1).copy(), -1, 1)
    g = gy[:, :, 1:, 1:]
    shapes = [cropped.shape, (), ()]
    with small_pieces():
        assert rows.rows_of(cropped, (0, 2, 3)) is not None
        found, right = [], []
        for out, values in ((found, cropped), (right, copied)):
            y, m, v, r = norm.normalize(values, None, None, (0, 2, 3), 1e-5, 0.2)
            gx = norm.normalize_backward(g, values, None, None, m, r, (0, 2, 3), 0.2, (True, False, False), shapes)
            out += [y, m, v, r, gx[0]]
    for a, b in zip(found, right, strict=True):
        np.testing.assert_array_equal(a, b)


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

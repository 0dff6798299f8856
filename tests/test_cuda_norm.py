"""The CUDA kernels of normalisation, biases and scales, on the emulator, against float64 NumPy."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minigan.kernels import cpu
from minigan.kernels.cuda import norm
from minigan.kernels.cuda.double import Doubled
from minigan.kernels.emulator import run
from minigan.kernels.emulator.device import EmulatedDevice

pytestmark = pytest.mark.kernels

ORDERS = ("forward", "reversed", "shuffled")
EPS = np.finfo(np.float32).eps
EXAMPLES = settings(max_examples=20)


def forward(x, w, b, axes, eps, slope):
    """float64 y before the leaky ReLU, after it, m, v and r"""
    x, w, b = (np.float64(v) for v in (x, 1 if w is None else w, 0 if b is None else b))
    m, v = x.mean(axis=axes, keepdims=True), x.var(axis=axes, keepdims=True)
    r = 1 / np.sqrt(v + eps)
    z = (x - m) * r * w + b
    return z, z if slope is None else np.where(z > 0, z, slope * z), m, v, r


def sum_to(g, shape):
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    return g.sum(axis=tuple(i for i, size in enumerate(shape) if size == 1), keepdims=True).reshape(shape)


def close(found, expected, tolerance):
    """Also false if anything is NaN."""
    found = np.asarray(found)
    assert found.shape == np.shape(expected)
    assert found.dtype == np.float32
    assert np.all(np.abs(np.float64(found) - expected) <= tolerance), np.nanmax(np.abs(found - expected) / tolerance)


def same(found, again):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(found, again, strict=True) if a is not None)


def in_memory(x, order):
    """The same values, with axes in an order of memory."""
    return np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))


@st.composite
def problems(draw):
    """x, w, b, axes: those of batch, instance, layer and group norm, and any others in any order of memory."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    side = lambda: int(rng.choice([1, 2, 3, 4, 5]))  # noqa: E731
    wide = int(rng.choice([1, 3, 8, 32, 33, 40]))
    kind = draw(st.sampled_from(["batch", "instance", "layer", "group", "any"]))
    order: tuple[int, ...]
    if kind in ("batch", "instance"):
        shape, order = (int(rng.choice([1, 2, 9])), wide, side(), side()), (0, 2, 3, 1)
        axes, vector = ((0, 2, 3) if kind == "batch" else (2, 3)), (wide, 1, 1)
    elif kind == "layer":
        shape, order = (side(), side(), int(rng.choice([1, 7, 33, 300]))), (0, 1, 2)
        first = int(rng.choice([1, 2]))
        axes, vector = tuple(range(first, 3)), shape[first:]
    elif kind == "group":
        shape, order = (2, side(), side(), side(), 2), (0, 3, 4, 1, 2)
        axes, vector = (2, 3, 4), (*shape[1:3], 1, 1)
    else:
        ndim = int(rng.integers(1, 5))
        shape, order = tuple(side() for _ in range(ndim)), tuple(rng.permutation(ndim))
        axes = tuple(axis for axis in range(ndim) if rng.random() < 0.5) or (0,)
        vector = tuple(int(rng.choice([1, size])) for size in shape)[int(rng.integers(0, ndim)) :]
    x = rng.normal(size=shape) * rng.uniform(0.5, 2)
    w, b = rng.normal(size=vector), rng.normal(size=vector)
    w, b, gy = (None if rng.random() < 0.2 else v.astype(np.float32) for v in (w, b, rng.normal(size=shape)))
    gy = np.broadcast_to(np.float32(1.5), shape) if gy is None else in_memory(gy, order)
    return in_memory(x.astype(np.float32), order), w, b, gy, axes, draw(st.sampled_from([None, 0.0, 0.2]))


@pytest.mark.parametrize("rung", ["naive", None])
@EXAMPLES
@given(problem=problems(), mean=st.sampled_from([0, 1, -1e4]))
def test_normalize(rung, problem, mean):
    x, w, b, _, axes, slope = problem
    x = x + np.float32(mean)
    z, y, m, v, r = forward(x, w, b, axes, 1e-5, slope)
    found = [norm.normalize(EmulatedDevice(order), x, w, b, axes, 1e-5, slope, rung) for order in ORDERS]
    assert same(found[0], found[1])
    assert same(found[0], found[2])
    lost = (32 if rung else 2) * EPS * np.abs(m)  # naive sums are not of what is left of the first row
    scale = np.abs(r if w is None else r * w)
    close(found[0][0], y, 1e-5 * (1 + np.abs(z)) + scale * (lost + 1e-5 * np.abs(x - m)))
    close(found[0][1], m, lost + 1e-6 * np.sqrt(v))
    close(found[0][2], v, 1e-5 * v + lost**2)
    close(found[0][3], r, 1e-5 * r + r * lost**2 * r**2)


@pytest.mark.parametrize("rung", ["naive", None])
@EXAMPLES
@given(problem=problems(), mean=st.sampled_from([0, 100]), needs=st.sampled_from([(1, 1, 1), (1, 0, 0), (0, 1, 1)]))
def test_normalize_backward(rung, problem, mean, needs):
    x, w, b, gy, axes, slope = problem
    x = x + np.float32(mean)
    z, _, m, _, r = forward(x, w, b, axes, 1e-2, slope)
    assume(slope is None or np.abs(z).min() > 1e-4)
    shapes = [v if v is None else v.shape for v in (x, w, b)]
    needs = tuple(bool(need) and v is not None for need, v in zip(needs, (x, w, b), strict=True))
    saved = [np.float32(v) for v in (m, r)]
    x_hat = (np.float64(x) - saved[0]) * saved[1]
    g = np.float64(gy) * (1 if slope is None else np.where(z > 0, 1, slope))
    h = g if w is None else g * w

    def mean_of(value):
        return value.mean(axis=axes, keepdims=True)

    gx = r * (h - mean_of(h) - x_hat * mean_of(h * x_hat))
    size = r * (np.abs(h) + mean_of(np.abs(h)) + np.abs(x_hat) * mean_of(np.abs(h * x_hat)) + mean_of(np.abs(h)))
    found = [
        norm.normalize_backward(EmulatedDevice(order), gy, x, w, b, *saved, axes, slope, needs, shapes, rung)
        for order in ORDERS
    ]
    assert same(found[0], found[1])
    assert same(found[0], found[2])
    assert [v is not None for v in found[0]] == list(needs)
    near = 1e-5 + 4 * EPS * mean
    if needs[0]:
        close(found[0][0], gx, near * (size + 1e-3))
    if needs[1]:
        close(found[0][1], sum_to(g * x_hat, w.shape), near * sum_to(np.abs(g) * (1 + np.abs(x_hat)), w.shape))
    if needs[2]:
        close(found[0][2], sum_to(g, b.shape), near * sum_to(np.abs(g), b.shape))


def image(rng, shape, last=True):
    x = rng.normal(size=shape).astype(np.float32)
    return in_memory(x, (0, *range(2, len(shape)), 1)) if last else x


@EXAMPLES
@given(
    seed=st.integers(0, 2**32 - 1), channels=st.sampled_from([1, 2, 3, 31, 32, 40]),
    spatial=st.sampled_from([(), (5,), (3, 7), (1, 40)]), last=st.booleans(), slope=st.sampled_from([None, 0.0, 0.2]),
)  # fmt: skip
def test_one_value_for_each_channel(seed, channels, spatial, last, slope):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 7)), channels, *spatial)
    x, gy, column = image(rng, shape, last), image(rng, shape, bool(rng.integers(2))), (-1, *[1] * len(spatial))
    a, b = rng.normal(size=(2, channels)).astype(np.float32)
    over = (0, *range(2, x.ndim))
    factor = 1.0 if slope is None else slope
    z = x.astype(np.float64) * a.reshape(column) + b.reshape(column)
    for order in ORDERS:
        device = EmulatedDevice(order)
        close(norm.scale_shift(device, x, a, b, slope), np.where(z > 0, z, factor * z), 1e-6 * (1 + np.abs(x)) * 4)
        y = x.copy(order="K")
        assert norm.add_bias(device, y, b, slope) is y
        total = x.astype(np.float64) + b.reshape(column)
        close(y, np.where(total > 0, total, factor * total), 1e-6 * (1 + np.abs(total)))
        gx, gb = norm.add_bias_backward(device, gy, None if slope is None else y, slope, True)
        g = gy.astype(np.float64) * np.where(y > 0, 1, factor)
        close(gx, g, 1e-6 * np.abs(g))
        close(gb, g.sum(axis=over), 1e-5 * np.abs(g).sum(axis=over))
        again, none = norm.add_bias_backward(device, gy, y, slope, False)
        assert none is None
        assert np.array_equal(again, gx)


@pytest.mark.parametrize(
    ("shape", "axes", "mean"),
    [((20000, 3), (0,), 1e4), ((3, 5000), (1,), 1e4), ((1, 70000), (1,), -1e3), ((300, 7), (1,), 0), ((9, 1), (1,), 5)],
)  # fmt: skip
def test_many_rows_and_few(shape, axes, mean):
    x = (np.random.default_rng(0).normal(size=shape) * 0.1 + mean).astype(np.float32)
    _, y, m, v, r = forward(x, None, None, axes, 1e-5, None)
    found = norm.normalize(EmulatedDevice(), x, None, None, axes, 1e-5)
    close(found[2], v, 1e-5 * v)  # steps of x at 10000 are 0.001, deviations 0.1: no more digits are lost
    close(found[1], m, EPS * np.abs(m) + 1e-6 * np.sqrt(v))
    close(found[0], y, 1e-4 * (1 + np.abs(y)) + r * EPS * np.abs(m))


def test_gradients_of_vectors_over_many_rows():
    rng = np.random.default_rng(0)
    x, gy = rng.normal(size=(2, 1501, 2, 7)).astype(np.float32)
    w = rng.normal(size=(2, 7)).astype(np.float32)
    for axes, vector in (((2,), (2, 7)), ((0,), (2, 7))):  # rows of values, with two vectors in turn, and of channels
        _, m, _, r = norm.normalize(EmulatedDevice(), x, w, w, axes, 1e-5)
        shapes, needs = [x.shape, vector, vector], (False, True, True)
        _, gw, gb = norm.normalize_backward(EmulatedDevice(), gy, x, w, w, m, r, axes, None, needs, shapes)
        along = np.float64(gy) * (x - m) * r
        close(gw, along.sum(axis=0), 1e-6 * np.abs(along).sum(axis=0))
        close(gb, np.float64(gy).sum(axis=0), 1e-6 * np.abs(gy).sum(axis=0))


@pytest.mark.parametrize("rung", ["naive", None])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_spoils_its_mean_alone(rung, bad):
    for shape, axes, where in (((6, 5), (0,), np.s_[:, 2]), ((6, 5), (1,), np.s_[2])):
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        x[2, 2] = bad
        good = np.ones(shape, bool)
        good[where] = False
        y, _, v, r = norm.normalize(EmulatedDevice(), x, None, None, axes, 1e-5, 0.0, rung)
        gx, _, _ = norm.normalize_backward(
            EmulatedDevice(), np.ones_like(x), x, None, None, v, r, axes, 0.0, (True, False, False), [shape], rung
        )
        assert np.isnan(y[where]).all()
        assert np.isnan(gx[where]).all()
        assert np.isfinite(y[good]).all()
        assert np.isfinite(gx[good]).all()


def test_relu_of_minus_infinity_is_zero():
    x = np.array([[-np.inf, np.inf, np.nan]], np.float32)
    assert np.array_equal(norm.add_bias(EmulatedDevice(), x, None, 0.0), [[0, np.inf, np.nan]], equal_nan=True)


def test_of_nothing():
    x, device = np.zeros((0, 3, 2), np.float32), EmulatedDevice()
    assert [v.shape for v in norm.normalize(device, x, None, None, (0, 2), 1e-5)] == [(0, 3, 2), *[(1, 3, 1)] * 3]
    gx, gb = norm.add_bias_backward(device, x, x, 0.0, True)
    assert gx.shape == x.shape
    assert gb.tolist() == [0, 0, 0]
    assert norm.add_bias(device, x, np.ones(3, np.float32), 0.0).shape == x.shape
    with pytest.raises(TypeError, match="float64"):
        norm.scale_shift(device, np.ones((1, 1)), *np.ones((2, 1), np.float32), None)


@pytest.mark.parametrize("skipped", [0, 1])
@pytest.mark.parametrize("rows", [3, 700, 2100])
@pytest.mark.parametrize("channels", [4, 12, 32, 40])
def test_four_channels_in_a_thread_or_one(channels, rows, skipped):
    """With few rows and with several parts; memory that is not aligned is read value by value."""
    rng = np.random.default_rng(channels)
    x, gy = (
        rng.normal(size=rows * channels + 1).astype(np.float32)[skipped:][: rows * channels].reshape(rows, channels)
        for _ in range(2)
    )
    w, b = rng.normal(size=(2, channels)).astype(np.float32)
    launched, device = [], EmulatedDevice("shuffled", watch="bounds")
    launch = device.launch
    device.launch = lambda file, kernel, *rest: launched.append(kernel) or launch(file, kernel, *rest)
    z, y, m, v, r = forward(x, w, b, (0,), 1e-3, 0.2)
    found = norm.normalize(device, x, w, b, (0,), 1e-3, 0.2)
    for one, other in zip(found, (y, m, v, r), strict=True):
        close(one, other, 2e-5 * (1 + np.abs(other)))
    assert all(same(found, norm.normalize(EmulatedDevice(order), x, w, b, (0,), 1e-3, 0.2)) for order in ORDERS)
    g = gy * np.where(z > 0, 1, 0.2)
    x_hat = (x - m) * r

    def backward(device, gx_too=True):
        needs, shapes = (gx_too, True, True), [x.shape, w.shape, b.shape]
        return norm.normalize_backward(device, gy, x, w, b, found[1], found[3], (0,), 0.2, needs, shapes)

    gx, gw, gb = backward(device)
    close(gb, g.sum(0), 1e-5 * np.abs(g).sum(0))
    close(gw, (g * x_hat).sum(0), 2e-5 * (np.abs(g) * (1 + np.abs(x_hat))).sum(0))
    expected = r * w * (g - g.mean(0) - x_hat * (g * x_hat).mean(0))
    close(gx, expected, 1e-4 * np.abs(r * w) * (1 + np.abs(x_hat)))
    assert all(same((gx, gw, gb), backward(EmulatedDevice(order))) for order in ORDERS)
    none, *vectors = backward(device, gx_too=False)
    assert none is None
    assert all(np.allclose(one, other, 1e-5, 1e-5) for one, other in zip(vectors, (gw, gb), strict=True))
    assert np.isclose(norm.scale_shift(device, x, w, b, 0.2)[-1], np.where((s := x[-1] * w + b) > 0, s, 0.2 * s)).all()
    kinds = {kernel.endswith("_any") for kernel in launched if "reduce" not in kernel}
    assert kinds == {bool(skipped)}


@pytest.mark.parametrize("tracked", [None, 41])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_running_statistics(dtype, tracked):
    rng = np.random.default_rng(0)
    for channels in (1, 300):
        running = rng.normal(size=(2, channels)).astype(dtype)
        new = rng.normal(size=(2, 1, channels, 1)).astype(dtype)
        keys = {"momentum": 0.3, "count": 4}
        expected = running.copy()
        cpu.update_running(*expected, *new, **keys)
        right = 0.7 * running + new.reshape(2, -1) * np.array([[0.3], [0.3 * 4 / 3]])
        assert np.allclose(expected, right, 1e-6, 1e-6)
        for order in ORDERS:
            device = EmulatedDevice(order, watch="bounds")
            found, count = running.copy(), None if tracked is None else np.array(tracked)
            norm.update_running(device if dtype == np.float32 else Doubled(device), *found, *new, **keys, tracked=count)
            assert np.allclose(found, expected, rtol=1e-6 if dtype == np.float32 else 1e-14, atol=1e-6)
            assert count is None or count == tracked + 1


@pytest.mark.parametrize("watch", ["bounds", "races"])
@pytest.mark.parametrize(
    ("shape", "axes", "vector"),
    [
        ((2, 33, 3, 5), (0, 2, 3), (33, 1, 1)), ((30, 20, 3, 9), (0, 2, 3), (20, 1, 1)),  # 1 and 4 channels a thread
        ((2, 24, 5, 5), (2, 3), (24, 1, 1)), ((5, 37), (1,), (37,)),
    ],
)  # fmt: skip
def test_every_access_is_right(watch, shape, axes, vector):
    rng = np.random.default_rng(0)
    x, device = image(rng, shape), EmulatedDevice("shuffled", watch=watch)
    w, b = rng.normal(size=(2, *vector)).astype(np.float32)
    for rung in ("naive", None):
        _, m, _, r = norm.normalize(device, x, w, b, axes, 1e-5, 0.2, rung)
        needs, shapes = (True, True, True), [shape, vector, vector]
        norm.normalize_backward(device, x, x, w, b, m, r, axes, 0.2, needs, shapes, rung)
    y = norm.add_bias(device, x, np.ones(shape[1], np.float32), 0.2)
    norm.add_bias_backward(device, y, y, 0.2, True)


def test_values_are_read_as_often_as_is_said():
    rows, channels = 128, 64
    x, y = np.ones((2, rows, channels), np.float32)
    parts = np.ones((4, 1, 2, channels), np.float32)
    means, squares, sums, moments = parts
    m, v, r, gw, gb = np.ones((5, 1, channels), np.float32)
    grid, block = (4, 2), (4, 64)  # a block has 64 rows of 16 channels, in loads of four
    count = partial(run, "norm", grid=grid, block=block, watch="races")
    counts = count("norm_statistics", arguments=[x, means, squares, rows, channels])
    assert counts.loads == 64 * 4 + 256  # once, and the first row by each thread
    assert counts.barriers == 6  # 64 rows of threads to 32, 16, ... 1
    given = [x, means, squares, None, None, y, m, v, r, rows, channels, 2, 1, 1e-5, 1.0]
    counts = count("norm_apply", arguments=given)
    assert (counts.loads, counts.stores) == (64 * 4 + 256 + 2 * 2 * 4, 64 * 4 + 3 * 4 / 2)  # m, v, r by every second
    assert counts.barriers == 2  # of 2 parts
    given = [x, y, m, r, None, None, sums, moments, rows, channels, 1, 1.0]
    counts = count("norm_backward_sums", arguments=given)
    assert counts.loads == 2 * 64 * 4 + 3 * 4 * 256  # m once, r twice by each thread
    given = [x, y, m, r, None, None, sums, moments, x.copy(), gw, gb, rows, channels, 2, 1, 1.0]
    assert count("norm_backward_apply", arguments=given).stores == 64 * 4 + 2 * 4 / 2
    counts = count("norm_affine", arguments=[x, None, None, y, rows, channels, 1, 1.0])
    assert (counts.loads, counts.stores, counts.barriers) == (64 * 4, 64 * 4, 0)
    counts = run(
        "norm", "norm_forward_naive", (64,), (256,), [x, None, None, y, m, v, r, rows, channels, 1, 1e-5, 1.0],
        watch="races",
    )  # fmt: skip
    assert counts.loads == 3 * rows

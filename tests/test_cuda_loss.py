"""The CUDA kernels of losses and softmax, on the emulator, against float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigan.kernels.cuda import loss
from minigan.kernels.emulator import run
from minigan.kernels.emulator.device import EmulatedDevice

pytestmark = pytest.mark.kernels

ORDERS = ("forward", "reversed", "shuffled")
IGNORED = -100
EXAMPLES = settings(max_examples=20)
seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def close(found, expected, tolerance):
    """Also false where one is NaN and the other is not."""
    assert found.shape == np.shape(expected)
    assert found.dtype == np.float32
    with np.errstate(invalid="ignore"):
        near = np.abs(np.float64(found) - expected) <= tolerance
    assert np.all(near | (found == expected) | (np.isnan(found) & np.isnan(expected)))


def in_every_order(call):
    found = [call(EmulatedDevice(order)) for order in ORDERS]
    assert all(np.array_equal(found[0], again, equal_nan=True) for again in found[1:])
    return found[0]


def drawn(rng, shape, scale):
    """Values of a shape, whose axes have any order in memory."""
    order = rng.permutation(len(shape))
    x = (rng.normal(size=[shape[axis] for axis in order]) * scale).astype(np.float32)
    return x.transpose(np.argsort(order))


def shape_of(rng):
    return tuple(int(n) for n in rng.choice([1, 2, 3, 5, 17], rng.integers(1, 4)))


# Binary cross-entropy ------------------------------------------------------------------------------------------------


def losses(x, t):
    """-t·log σ(x) - (1 - t)·log σ(-x)"""
    x, t = np.float64(x), np.float64(t)
    return t * np.logaddexp(0, -x) + (1 - t) * np.logaddexp(0, x)


@pytest.mark.parametrize("rung", [None, "naive"])
@EXAMPLES
@given(rng=seeds, reduction=st.sampled_from(["none", "mean", "sum"]), scale=st.sampled_from([1, 30, 1e4]))
def test_bce_with_logits(rung, rng, reduction, scale):
    shape = shape_of(rng)
    x, t = drawn(rng, shape, scale), np.clip(drawn(rng, shape, 1) + 0.5, 0, 1)
    each = losses(x, t)
    y = each if reduction == "none" else getattr(each, reduction)()
    close(in_every_order(lambda device: loss.bce_with_logits(device, x, t, reduction, rung)), y, 2e-6 * y + 1e-37)
    gl = drawn(rng, shape, 1) if reduction == "none" else np.array(0.7, np.float32)
    share = gl / x.size if reduction == "mean" else np.float64(gl)
    with np.errstate(over="ignore"):
        slope = (1 - t) / (1 + np.exp(-np.float64(x))) - t / (1 + np.exp(np.float64(x)))
    for needs in ((True, True), (False, True)):
        gx, gt = loss.bce_with_logits_backward(EmulatedDevice("shuffled"), gl, x, t, reduction, needs)
        assert (gx is not None) == needs[0]
        close(gt, -share * x, 1e-6 * np.abs(share * x))
        if needs[0]:
            close(gx, share * slope, 1e-6 * np.abs(share))


def test_bce_where_numbers_end_and_of_many_and_none():
    x, t = np.array([200, -200, 0, np.nan, -np.inf, 1e-3], np.float32), np.array([1, 0, 1, 0, 1, 0], np.float32)
    y = loss.bce_with_logits(EmulatedDevice(), x, t, "none")
    close(y, [0, 0, np.log(2), np.nan, np.inf, np.logaddexp(0, 1e-3)], 1e-7)
    assert np.isnan(loss.bce_with_logits(EmulatedDevice(), x, t, "sum"))
    gx, _ = loss.bce_with_logits_backward(EmulatedDevice(), np.ones(6, np.float32), x, t, "none")
    close(gx, [0, 0, -0.5, np.nan, -1, 0.50025], 1e-7)
    many = np.random.default_rng(0).normal(size=5001).astype(np.float32)
    close(loss.bce_with_logits(EmulatedDevice(), many, many, "sum"), losses(many, many).sum(), 0.01)
    none = np.ones(0, np.float32)
    assert loss.bce_with_logits(EmulatedDevice(), none, none, "sum") == 0
    assert np.isnan(loss.bce_with_logits(EmulatedDevice(), none, none, "mean"))
    assert loss.bce_with_logits_backward(EmulatedDevice(), none, none, none, "none")[0].shape == (0,)
    two = np.full((), 2, np.float32)
    gx, gt = loss.bce_with_logits_backward(EmulatedDevice(), two, many, None, "mean", (False, True))
    assert gx is None
    close(gt, -2 * many / 5001, 1e-7)


# Softmax -------------------------------------------------------------------------------------------------------------


def softmaxes(x, dim):
    """log softmax in float64"""
    x = np.float64(x)
    with np.errstate(invalid="ignore"):
        x = x - x.max(axis=dim, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=dim, keepdims=True))


@pytest.mark.parametrize("rung", [None, "naive"])
@EXAMPLES
@given(rng=seeds, scale=st.integers(1, 30), shift=st.sampled_from([0, 1e4]), wide=st.sampled_from([1, 2, 33, 700]))
def test_softmax(rung, rng, scale, shift, wide):
    shape = list(shape_of(rng)[:2])
    dim = int(rng.integers(len(shape)))
    shape[dim] = wide
    x = drawn(rng, shape, scale) + np.float32(shift)
    logs = softmaxes(x, dim)
    y = np.exp(logs)
    near = (5e-5 if rung else 5e-6) + 1e-7 * np.abs(logs)  # a naive sum's error grows with its length
    found = in_every_order(lambda device: loss.softmax(device, x, dim, rung))
    found_logs = in_every_order(lambda device: loss.log_softmax(device, x, dim, rung))
    close(found, y, near * y + 1e-37)
    close(found_logs, logs, near)
    gy = drawn(rng, shape, 1)
    total = np.abs(gy).sum(axis=dim, keepdims=True)
    gx = in_every_order(lambda device: loss.softmax_backward(device, gy, found, dim))
    close(gx, y * (gy - (gy * y).sum(axis=dim, keepdims=True)), 2 * near * y * (np.abs(gy) + total) + 1e-37)
    gx = in_every_order(lambda device: loss.log_softmax_backward(device, gy, found_logs, dim))
    close(gx, gy - y * gy.sum(axis=dim, keepdims=True), 2 * near * (np.abs(gy) + y * total))


@pytest.mark.parametrize("rung", [None, "naive"])
@pytest.mark.parametrize("width", [3, 300])
def test_softmax_where_numbers_end(rung, width):
    x = np.zeros((7, width), np.float32)
    x[0, 1], x[1, 2], x[2, 0], x[3], x[4, 1:], x[5, 1] = np.nan, -np.inf, np.inf, -np.inf, -np.inf, 200
    with np.errstate(invalid="ignore"):
        logs = softmaxes(x, 1)
    close(loss.log_softmax(EmulatedDevice(), x, 1, rung), logs, 1e-6 * (1 + np.nan_to_num(np.abs(logs), posinf=0)))
    close(loss.softmax(EmulatedDevice(), x, 1, rung), np.exp(logs), 1e-6)
    assert loss.softmax(EmulatedDevice(), x[:0], 1, rung).shape == (0, width)


# Cross-entropy of classes ---------------------------------------------------------------------------------------------


@EXAMPLES
@given(
    rng=seeds, reduction=st.sampled_from(["none", "mean", "sum"]), classes=st.sampled_from([1, 2, 10, 33, 300]),
    shift=st.sampled_from([0, 1e4]), ndim=st.integers(1, 3),
)  # fmt: skip
def test_cross_entropy(rng, reduction, classes, shift, ndim):
    shape = (classes,) if ndim == 1 else (int(rng.integers(1, 20)), classes, 5)[:ndim]
    dim = min(ndim - 1, 1)
    x = drawn(rng, shape, 3) + np.float32(shift)
    t = rng.integers(0, classes, shape[:dim] + shape[dim + 1 :])
    t = np.where((rng.random(t.shape) < 0.2) & (np.arange(t.size).reshape(t.shape) > 0), IGNORED, t)
    kept = t != IGNORED
    hot = np.float64(np.expand_dims(t, dim) == np.arange(classes).reshape(-1, *[1] * (ndim - 1 - dim)))
    logs = softmaxes(x, dim)
    each = -(hot * logs).sum(axis=dim)
    count = kept.sum() if reduction == "mean" else 1
    y = each if reduction == "none" else each.sum() / count
    found, saved = loss.cross_entropy(EmulatedDevice(), x, t, reduction)
    again = in_every_order(lambda device: loss.cross_entropy(device, x, t, reduction)[0])
    assert np.array_equal(found, again, equal_nan=True)
    close(found, y, 2e-6 * (np.abs(y) + 1))
    gl = drawn(rng, t.shape, 1) if reduction == "none" else np.array(0.7, np.float32)
    share = np.expand_dims(np.where(kept, np.float64(gl) / count, 0), dim)
    found = in_every_order(lambda device: loss.cross_entropy_backward(device, gl, x, t, saved, reduction))
    close(found, share * (np.exp(logs) - hot), 1e-5 * np.abs(share))


def test_cross_entropy_where_all_is_ignored():
    x, t = np.zeros((2, 3), np.float32), np.full(2, IGNORED)
    y, saved = loss.cross_entropy(EmulatedDevice(), x, t, "mean")
    assert np.isnan(y)
    assert not loss.cross_entropy_backward(EmulatedDevice(), np.ones((), np.float32), x, t, saved, "mean").any()
    assert loss.cross_entropy(EmulatedDevice(), x, t, "sum")[0] == 0
    assert np.isnan(loss.cross_entropy(EmulatedDevice(), x[:0], t[:0], "mean")[0])


def test_cross_entropy_of_classes_that_are_not_there():
    x = np.zeros((3, 4), np.float32)
    for wrong in (4, -1, 2**40):
        t = np.array([0, wrong, IGNORED])
        device = EmulatedDevice(watch="bounds")
        y, saved = loss.cross_entropy(device, x, t, "none")
        close(y, [np.log(4), np.nan, 0], 1e-6)
        gx = loss.cross_entropy_backward(device, np.ones(3, np.float32), x, t, saved, "none")
        assert np.isnan(gx).any(axis=1).tolist() == [False, True, False]
    with pytest.raises(TypeError, match="int32"):
        loss.cross_entropy(EmulatedDevice(), x, t.astype(np.int32), "sum")


@pytest.mark.parametrize("watch", ["bounds", "races"])
@pytest.mark.parametrize("shape", [(9, 33), (2, 300)])
def test_every_access_is_right(watch, shape):
    x, t = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    device = EmulatedDevice("shuffled", watch=watch)
    for rung in (None, "naive"):
        loss.bce_with_logits(device, x, t, "mean", rung)
        y = loss.softmax(device, x, 1, rung)
    loss.bce_with_logits_backward(device, x, x, t, "none", (True, True))
    loss.softmax_backward(device, t, y)
    classes = np.arange(shape[0])
    one, saved = loss.cross_entropy(device, x, classes, "mean")
    loss.cross_entropy_backward(device, one, x, classes, saved, "mean")


def test_values_are_read_as_often_as_is_said():
    x, t, y = np.ones((3, 6, 64), np.float32)
    counts = run("loss", "bce_forward_sums", (1,), (256,), [x, t, y, x.size, 1.0], watch="races")
    assert (counts.loads, counts.stores, counts.barriers) == (2 * x.size, 1, 2)
    counts = run("loss", "softmax_rows", (1,), (32, 8), [x, y, 6, 64, 0], watch="races")
    assert (counts.loads, counts.stores, counts.barriers) == (3 * x.size, x.size, 0)

"""The CUDA kernels of reductions and copies, on the emulator, against NumPy (sums in float64)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minigan.kernels.cuda import layout, reduce
from minigan.kernels.emulator import EmulatorError, run
from minigan.kernels.emulator.device import EmulatedDevice

pytestmark = pytest.mark.kernels

ORDERS = ("forward", "reversed", "shuffled")
NAMES = ("sum", "mean", "max", "min", "argmax", "argmin", "any", "all")
PLACES = ("argmax", "argmin")


def expected(name, x, axes, keepdims):
    """What NumPy says, with sums in float64; and how far from it is right."""
    if x.dtype != np.float32 or name not in ("sum", "mean"):
        return getattr(np, name)(x, axis=axes, keepdims=keepdims), None
    y = getattr(x.astype(np.float64), name)(axis=axes, keepdims=keepdims)
    return y, 1e-6 * np.asarray(getattr(np.abs(x).astype(np.float64), name)(axis=axes, keepdims=keepdims))


def agrees(found, name, x, axes, keepdims=False):
    y, tolerance = expected(name, x, axes, keepdims)
    assert found.shape == np.shape(y)
    assert found.dtype == (np.float32 if tolerance is not None else np.asarray(y).dtype)
    if tolerance is None:
        return np.array_equal(found, y, equal_nan=x.dtype.kind == "f" and np.asarray(y).dtype.kind == "f")
    return bool(np.all((np.isnan(found) & np.isnan(y)) | (np.abs(found - y) <= tolerance)))


@st.composite
def arrays(draw, dtypes=("float32", "int32", "int64", "bool")):
    """Values with many equal ones, some NaN, in any order in memory: with gaps, backwards, broadcast."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ndim = int(rng.integers(1, 6))
    shape = [int(rng.choice([1, 2, 3, 4])) for _ in range(ndim)]
    shape[int(rng.integers(ndim))] = int(rng.choice([1, 5, 33, 70, 300]))
    x = rng.integers(-2, 3, shape).astype(draw(st.sampled_from(dtypes)))
    if x.dtype == np.float32:
        x = x + (rng.normal(size=shape) * rng.integers(2)).astype(np.float32)
        x = np.where(rng.random(shape) < rng.choice([0, 0, 0.02]), np.float32(np.nan), x)
    x = x[tuple(slice(None, None, int(rng.choice([1, 1, 1, 1, 2, -1]))) for _ in shape)]
    if rng.random() < 0.2:
        x = np.broadcast_to(x, (3, *x.shape))
    return x.transpose(rng.permutation(x.ndim))


@pytest.mark.parametrize("rung", [None, "naive", "rows", "columns", "strided"])
@settings(max_examples=25)
@given(data=st.data())
def test_every_reduction(rung, data):
    only_floats = rung in ("naive", "strided")
    x = data.draw(arrays(("float32",) if only_floats else ("float32", "int32", "int64", "bool")))
    name = data.draw(st.sampled_from(NAMES[:4] if rung == "naive" else NAMES))
    if name == "mean" and x.dtype != np.float32:
        name = "sum"
    count = data.draw(st.integers(1, 1 if name in PLACES else x.ndim))
    axes = tuple(data.draw(st.permutations(range(x.ndim)))[:count])
    axes = None if data.draw(st.integers(0, 5)) == 0 else axes[0] if name in PLACES else axes
    keepdims = data.draw(st.booleans())
    found = [reduce.reduce(EmulatedDevice(order), name, x, axes, keepdims, rung) for order in ORDERS]
    assert agrees(found[0], name, x, axes, keepdims)
    assert all(np.array_equal(found[0], again, equal_nan=found[0].dtype.kind == "f") for again in found[1:])


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
@pytest.mark.parametrize(("shape", "axes"), [((30001,), None), ((5001, 35), 0), ((3, 9001), 1)])
def test_in_two_launches(dtype, shape, axes):
    rng = np.random.default_rng(0)
    x = rng.integers(-300, 300, shape).astype(dtype) if dtype != np.bool_ else rng.random(shape) < 0.999
    for name in NAMES:
        if name != "mean" or dtype == np.float32:
            assert agrees(getattr(reduce, name)(EmulatedDevice("shuffled"), x, axes), name, x, axes)
    if dtype == np.float32:
        x.reshape(-1)[[7, 2999]] = np.nan
        for name in ("max", "argmax", "argmin"):
            assert agrees(getattr(reduce, name)(EmulatedDevice("shuffled"), x, axes), name, x, axes)


def test_sums_stay_exact():
    x = np.full((3, 500), 2**31 - 1, np.int32)
    assert reduce.sum(EmulatedDevice(), x).item() == 1500 * (2**31 - 1)
    ones = np.ones(1 << 15, np.float32)
    assert reduce.sum(EmulatedDevice(), ones).item() == 1 << 15


def test_of_nothing():
    device, x = EmulatedDevice(), np.zeros((0, 3), np.float32)
    for name in ("sum", "any", "all"):
        assert agrees(getattr(reduce, name)(device, x, (0,)), name, x, (0,))
        assert getattr(reduce, name)(device, x, (1,)).shape == (0,)
    assert np.isnan(reduce.mean(device, x, (0,))).all()
    with pytest.raises(ValueError, match="at least one value"):
        reduce.max(device, x, (0,))
    assert reduce.argmax(device, x, 1).shape == (0,)
    with pytest.raises(ValueError, match="different ones"):
        reduce.sum(device, x, (0, -2))
    with pytest.raises(TypeError, match="float64"):
        reduce.sum(device, np.ones(3))


@settings(max_examples=15)
@given(x=arrays(), extra=st.integers(0, 2), seed=st.integers(0, 99))
def test_copies_in_any_order(x, extra, seed):
    assume(x.ndim + extra <= layout.AXES)
    shape = (2,) * extra + x.shape
    order = tuple(np.random.default_rng(seed).permutation(len(shape)))
    for turns in ORDERS:
        found = layout.gathered(EmulatedDevice(turns), x, order, shape)
        assert found.flags.c_contiguous
        assert np.array_equal(found, np.broadcast_to(x, shape).transpose(order), equal_nan=x.dtype.kind == "f")


def test_more_axes_than_kernels_count_in():
    x = np.ones((2,) * 7, np.float32)
    assert np.array_equal(layout.gathered(EmulatedDevice(), x, (6, 0, 1, 2, 3, 4, 5)), x)
    with pytest.raises(ValueError, match="7 independent strides"):
        layout.gathered(EmulatedDevice(), x, (6, 5, 4, 3, 2, 1, 0))


def test_no_copy_where_none_is_needed():
    image = np.zeros((2, 4, 5, 3), np.float32).transpose(0, 3, 1, 2)
    assert np.shares_memory(layout.gathered(EmulatedDevice(), image, (0, 2, 3, 1)), image)


@pytest.mark.parametrize("watch", ["bounds", "races"])
def test_every_access_is_right(watch):
    rng = np.random.default_rng(0)
    device = EmulatedDevice("shuffled", watch=watch)
    for dtype in (np.float32, np.int32, np.int64, np.bool_):
        x = rng.integers(-9, 9, (3, 33, 9)).astype(dtype)
        for name in ("argmax", "any") if dtype != np.float32 else NAMES[:3]:
            for rung in ("rows", "columns") if dtype != np.float32 else ("naive", "rows", "columns", "strided"):
                assert agrees(reduce.reduce(device, name, x, 1, rung=rung), name, x, 1)
    assert agrees(reduce.argmax(device, x.reshape(-1).repeat(10).astype(np.float32)), "argmax", x.repeat(10), None)


def test_values_are_read_as_often_as_is_said():
    x, y = np.ones(3 * 1000, np.float32), np.empty(3, np.float32)
    arguments = [x, None, y, None, None, 0, 1.0, 3, 1000]
    counts = run("reduce", "reduce_rows_float", (3, 1), (256, 1), arguments, watch="races")
    assert (counts.loads, counts.stores, counts.barriers) == (1000, 1, 1)
    assert counts.collectives == 2 * 2 * 5 * 8  # a value and a place, in 8 warps twice, over 5 distances
    assert y.tolist() == [1000] * 3
    with pytest.raises(EmulatorError):
        run("reduce", "reduce_rows_float", (3, 1), (256, 1), [*arguments[:-1], 1100], watch="bounds")

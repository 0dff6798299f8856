"""Rows taken by their numbers, and added up, on the device: against NumPy's, whose sums these are to the last bit."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigan as mg
from minigan.kernels import cpu
from minigan.kernels.cuda import index
from minigan.kernels.cuda.double import Doubled
from minigan.kernels.cuda.kernels import Kernels
from minigan.kernels.emulator import EmulatedDevice
from minigan.kernels.emulator.run import ORDERS
from minigan.testing import check_grads, emulated  # noqa: F401  # makes the device known

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(shutil.which("g++") is None, reason="the emulator needs g++, and there is none"),
]


@given(
    st.integers(1, 9), st.lists(st.sampled_from([1, 2, 3]), max_size=3), st.sampled_from([(1,), (7,), (3, 4), ()]),
    st.sampled_from([1, 1, 300]), st.sampled_from(ORDERS), st.sampled_from([None, "bounds", "races"]),
    st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_rows(count, sizes, numbers, wide, order, watch, double, seed):
    """Bit for bit: `np.add.at` adds from the first to the last, too."""
    device, rng = EmulatedDevice(order, seed, watch), np.random.default_rng(seed)
    dtype = np.float64 if double else np.float32
    on = Doubled(device) if double else device
    x = rng.normal(size=(count, *sizes, wide)).astype(dtype)
    x = x if seed % 3 else x[::-1, ..., ::2]
    rows = np.asarray(rng.integers(-count, count, numbers))
    y = index.take_rows(on, x, rows)
    np.testing.assert_array_equal(y, x[rows], strict=True)
    gy = rng.normal(size=y.shape).astype(dtype).swapaxes(0, -1).copy().swapaxes(0, -1)
    right = np.zeros(x.shape, dtype)
    np.add.at(right, rows, gy)
    np.testing.assert_array_equal(index.add_rows(on, gy, rows, count), right, strict=True)


def test_numbers_of_no_row():
    x, rows = np.ones((3, 2), np.float32), np.array([3, -4, 2**40, -(2**40), -3, 1])
    for watch in ("bounds", "races"):
        device = EmulatedDevice(watch=watch)
        y = index.take_rows(device, x, rows)
        assert np.isnan(y).all(axis=1).tolist() == [True] * 4 + [False] * 2
        assert index.add_rows(device, np.ones_like(y), rows, 3).tolist() == [[1, 1], [1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("x", "rows"),
    [
        (np.arange(6.0).reshape(3, 2), np.array([2, 0], np.int32)),  # other numbers than of int64
        (np.arange(6).reshape(3, 2), np.array([2, 0])),  # other values than floating ones
        (np.zeros((3, 0)), np.array([2, 0])),
        (np.arange(6.0).reshape(3, 2), np.zeros((0, 2), np.int64)),
        (np.zeros((2,) * 7), np.array([1])),
        (np.arange(3.0), np.arange(index.MOST_ROWS + 1) % 3),  # too many to be added up
    ],
)
def test_what_is_left_to_others(x, rows):
    kernels = Kernels(EmulatedDevice(), cpu)
    np.testing.assert_array_equal(kernels.take_rows(x, rows), x[rows], strict=True)
    found = kernels.add_rows(x[rows], rows, len(x))
    np.testing.assert_array_equal(found, cpu.add_rows(x[rows], rows, len(x)), strict=True)


def test_of_float16():
    x, rows = np.float16([[1, 2], [3, 4]]), np.array([1, 1, 0])
    kernels = Kernels(EmulatedDevice(), None)
    np.testing.assert_array_equal(kernels.take_rows(x, rows), x[rows], strict=True)
    np.testing.assert_array_equal(kernels.add_rows(x[rows], rows, 2), np.float16([[1, 2], [6, 8]]), strict=True)


def test_gradients_of_an_embedding():
    rows = mg.tensor([[1, 0, 1], [3, 3, 3]], device="cuda-emulated")
    weight = mg.randn(4, 5, dtype=mg.float64, device="cuda-emulated", requires_grad=True)
    check_grads(lambda w: mg.nn.functional.embedding(rows, w) ** 2, [weight])
    with pytest.raises(IndexError, match="expected 0 to 3"):
        mg.nn.functional.embedding(rows - 1, weight)

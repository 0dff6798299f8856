"""Pooling and upsampling on the device, against plain loops in float64, and each gradient against its forward."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from strategies import by_seed

from minigan.kernels.cuda import image
from minigan.kernels.cuda.image import (
    MODES,
    Pooling,
    average_pool,
    average_pool_backward,
    max_pool,
    max_pool_backward,
    upsample,
    upsample_backward,
)
from minigan.kernels.emulator import run
from minigan.kernels.emulator.device import EmulatedDevice
from minigan.kernels.emulator.run import ORDERS

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(shutil.which("g++") is None, reason="the emulator needs g++, and there is none"),
]

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module", autouse=True)
def small_grids() -> Iterator[None]:
    """So that threads go round their loops more than once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image, "THREADS", 64)
        patch.setattr(image, "MOST_BLOCKS", 2)
        yield


orders, watches = st.sampled_from(ORDERS), st.sampled_from([None, "bounds", "races"])
batches = st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 3, 4, 5, 8]))  # images, channels


def images(seed: int, count: int, size: Any, channels: int) -> Array:
    return np.random.default_rng(seed).standard_normal((count, *size, channels)).astype(np.float32)


def pooling_of(rng: np.random.Generator) -> Pooling:
    """By PyTorch's rules: padding up to half the kernel, and output sizes with ceil_mode or without."""
    axes = []
    while len(axes) < 2:
        n, k, s, d = (int(rng.integers(1, top + 1)) for top in (9, 4, 3, 2))
        p = int(rng.integers(k // 2 + 1))
        free = n + 2 * p - d * (k - 1) - 1
        count = (-(-free // s) if rng.random() < 0.5 else free // s) + 1
        count -= (count - 1) * s >= n + p
        if free >= 0:
            axes.append((n, count, k, s, p, d))
    pairs = zip(*axes, strict=True)
    return Pooling(*pairs, padded=rng.random() < 0.5, divisor=float(rng.choice([0, 0, 3])))


poolings = by_seed(pooling_of)


def taps(pooling: Pooling, axis: int, o: int) -> list[int]:
    """Of the inputs that a window sees, those inside the image."""
    if pooling.kernel == (0, 0):
        n, out = pooling.size[axis], pooling.out[axis]
        return list(range(o * n // out, -(-(o + 1) * n // out)))
    start = o * pooling.stride[axis] - pooling.padding[axis]
    seen = range(start, start + pooling.kernel[axis] * pooling.dilation[axis], pooling.dilation[axis])
    return [i for i in seen if 0 <= i < pooling.size[axis]]


def windows(pooling: Pooling) -> Any:
    for oy, ox in np.ndindex(*pooling.out):
        yield oy, ox, list(itertools.product(taps(pooling, 0, oy), taps(pooling, 1, ox)))


HALVES = Pooling((4, 4), (2, 2), (2, 2), (2, 2))

# Maxima --------------------------------------------------------------------------------------------------------------


@given(poolings, batches, st.booleans(), orders, watches, st.integers(0, 99))
def test_max_pool(pooling: Pooling, batch: Any, ties: bool, order: str, watch: str | None, seed: int) -> None:
    assume(all(inside for *_, inside in windows(pooling)))
    device, x = EmulatedDevice(order, seed, watch), images(seed, batch[0], pooling.size, batch[1])
    if ties:
        x = np.round(x)
    y, places = max_pool(device, x, pooling)
    for oy, ox, inside in windows(pooling):
        seen = np.stack([x[:, i, j] for i, j in inside])
        np.testing.assert_array_equal(y[:, oy, ox], seen.max(0))
        flat = np.array([i * pooling.size[1] + j for i, j in inside])
        np.testing.assert_array_equal(places[:, oy, ox], flat[seen.argmax(0)])  # the first of equal ones
    gy = images(seed + 1, batch[0], pooling.out, batch[1])
    right = np.zeros((batch[0], pooling.size[0] * pooling.size[1], batch[1]))
    for n, oy, ox, c in np.ndindex(*gy.shape):
        right[n, places[n, oy, ox, c], c] += gy[n, oy, ox, c]
    gx = max_pool_backward(device, gy, places, pooling)
    np.testing.assert_allclose(gx, right.reshape(x.shape), rtol=1e-6, atol=1e-6, equal_nan=False)


@pytest.mark.parametrize("channels", [1, 4])
def test_nan_is_the_largest_and_all_may_be_the_least(channels: int) -> None:
    x = np.full((1, 4, 4, channels), -np.inf, np.float32)
    x[0, 0, 1], x[0, 1, 0], x[0, 3, 3] = np.nan, 9, 5
    y, places = max_pool(EmulatedDevice(), x, HALVES)
    np.testing.assert_array_equal(y[0, :, :, 0], [[np.nan, -np.inf], [-np.inf, 5]])
    np.testing.assert_array_equal(places[0, :, :, 0], [[1, 2], [8, 15]])


# Means ---------------------------------------------------------------------------------------------------------------

adaptive = st.builds(Pooling, st.tuples(*(st.integers(1, 9),) * 2), st.tuples(*(st.integers(1, 5),) * 2))


def matrices(pooling: Pooling) -> list[Array]:
    """The mean along an axis as a matrix, output by input, without the divisor."""
    found = []
    for axis in range(2):
        matrix = np.zeros((pooling.out[axis], pooling.size[axis]))
        for o in range(pooling.out[axis]):
            inside = taps(pooling, axis, o)
            count = len(inside)
            if pooling.padded and pooling.kernel[axis]:
                start = o * pooling.stride[axis] - pooling.padding[axis]
                count = min(start + pooling.kernel[axis], pooling.size[axis] + pooling.padding[axis]) - start
            matrix[o, inside] = 1 if pooling.divisor else 1 / count
        found.append(matrix)
    return found


@example(Pooling((4, 5), (3, 3), (3, 3), (2, 2), (1, 1)), (2, 4), "forward", "bounds", 0)  # the last row is cut off
@example(Pooling((5, 4), (3, 2), (3, 2), (2, 2), (1, 1), padded=False), (2, 4), "reversed", "races", 0)
@given(st.one_of(poolings, adaptive), batches, orders, watches, st.integers(0, 99))
def test_average_pool(pooling: Pooling, batch: Any, order: str, watch: str | None, seed: int) -> None:
    pooling = replace(pooling, dilation=(1, 1))
    assume(all(inside for *_, inside in windows(pooling)))
    device, x = EmulatedDevice(order, seed, watch), images(seed, batch[0], pooling.size, batch[1])
    down, across = matrices(pooling)
    scale = 1 / pooling.divisor if pooling.divisor else 1
    right = scale * np.einsum("oh,pw,nhwc->nopc", down, across, x)
    np.testing.assert_allclose(average_pool(device, x, pooling), right, rtol=1e-5, atol=1e-6, equal_nan=False)
    gy = images(seed + 1, batch[0], pooling.out, batch[1])
    right = scale * np.einsum("oh,pw,nopc->nhwc", down, across, gy)
    gx = average_pool_backward(device, gy, pooling)
    np.testing.assert_allclose(gx, right, rtol=1e-5, atol=1e-6, equal_nan=False)


# Upsampling ----------------------------------------------------------------------------------------------------------


def mixture(mode: str, size: int, out: int, step: float) -> Array:
    """The weights of each output as a matrix."""
    matrix = np.zeros((out, size))
    for o in range(out):
        if mode == "nearest":
            matrix[o, min(int(np.float32(o) * np.float32(step)), size - 1)] = 1
            continue
        at = o * step if mode == "aligned" else max((o + 0.5) * step - 0.5, 0)
        low = min(int(at), size - 1)
        matrix[o, low] += 1 - (at - low)
        matrix[o, min(low + 1, size - 1)] += at - low
    return matrix


@given(
    st.sampled_from(MODES), st.tuples(*(st.integers(1, 9),) * 2), st.tuples(*(st.integers(1, 20),) * 2),
    st.sampled_from([1, 0.97, 1.6]), batches, orders, watches, st.integers(0, 99),
)  # fmt: skip
def test_upsample(
    mode: str, size: Any, out: Any, scale: float, batch: Any, order: str, watch: str | None, seed: int
) -> None:  # fmt: skip
    """Also with steps that are not size / out, as scale factors give, or that lead beyond the image."""
    if mode == "aligned":
        steps = tuple((s - 1) / (o - 1) if o > 1 else 0.0 for s, o in zip(size, out, strict=True))
    else:
        steps = tuple(scale * s / o for s, o in zip(size, out, strict=True))
    device, x = EmulatedDevice(order, seed, watch), images(seed, batch[0], size, batch[1])
    down, across = (mixture(mode, *axis) for axis in zip(size, out, steps, strict=True))
    right = np.einsum("oh,pw,nhwc->nopc", down, across, x)
    y = upsample(device, x, out, steps, mode)
    np.testing.assert_allclose(y, right, rtol=1e-5, atol=2e-5, equal_nan=False)
    gy = images(seed + 1, batch[0], out, batch[1])
    right = np.einsum("oh,pw,nopc->nhwc", down, across, gy)
    gx = upsample_backward(device, gy, size, steps, mode)
    np.testing.assert_allclose(gx, right, rtol=1e-5, atol=5e-5, equal_nan=False)


# Accesses, and what is wrong -----------------------------------------------------------------------------------------


def test_four_channels_are_read_at_once() -> None:
    """A 2 × 2 maximum of 8 channels: each input read once, and y and its place written, in accesses of 16 bytes."""
    x = images(0, 2, (4, 6), 8)
    y, places = np.empty((2, 2, 3, 8), np.float32), np.empty((2, 2, 3, 8), np.int32)
    for four, each in ((0, 1), (1, 4)):
        numbers = [2, 8, 4, 6, 2, 3, 2, 2, 2, 2, 0, 0, 1, 1, four]
        counts = run("image", "pool_max_forward", (1,), (256,), [x, y, places, *numbers], watch="races")
        assert (counts.loads, counts.stores) == (x.size / each, 2 * y.size / each)


def test_images_that_are_not_aligned_are_read_value_by_value() -> None:
    x = images(0, 1, (4, 4), 4)
    memory = np.zeros(x.size + 8, np.float32)
    start = -memory.ctypes.data % 16 // 4 + 1
    memory[start : start + x.size] = x.ravel()
    y, _ = max_pool(EmulatedDevice(watch="bounds"), memory[start : start + x.size].reshape(x.shape), HALVES)
    np.testing.assert_array_equal(y, x.reshape(1, 2, 2, 2, 2, 4).max((2, 4)))


def test_wrong_arguments() -> None:
    x, device = images(0, 1, (4, 4), 2), EmulatedDevice()
    with pytest.raises(ValueError, match="expected \\[N, 3, 3, C\\]"):
        max_pool(device, x, Pooling((3, 3), (1, 1), (3, 3)))
    with pytest.raises(ValueError, match="dilation"):
        average_pool(device, x, Pooling((4, 4), (2, 2), (2, 2), (1, 1), dilation=(2, 2)))
    with pytest.raises(ValueError, match="mode"):
        upsample(device, x, (8, 8), (0.5, 0.5), "cubic")
    assert upsample(device, x[:0], (8, 8), (0.5, 0.5), "nearest").shape == (0, 8, 8, 2)

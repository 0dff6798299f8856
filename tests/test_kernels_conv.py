"""The convolution kernels against the trilinear form they differentiate, in exact small integers.

By im2col and by `direct.py`, which are exact on them; `test_kernels_winograd.py` holds Winograd's method to im2col.
"""

from __future__ import annotations

import dataclasses
import importlib
import threading
import tracemalloc
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigan.kernels.cpu.choose import choose, conv_algorithm
from minigan.kernels.cpu.conv import conv, conv_transpose, conv_weight_grad
from minigan.kernels.cpu.workers import get_num_threads, set_num_threads
from minigan.kernels.geometry import ConvGeometry

direct, kernels = (importlib.import_module(f"minigan.kernels.cpu.{name}") for name in ("direct", "im2col"))
Array = np.ndarray[Any, Any]


def oracle(x: Array, w: Array, y: Array, g: ConvGeometry) -> tuple[Array, Array, Array]:
    """dT/dx, dT/dw and dT/dy of T = sum of x[n, c, i*s + k*d - p] * w[o, c, k] * y[n, o, i], term by term."""
    filters, per_group = w.shape[:2]
    dx, dw, dy = np.zeros_like(x), np.zeros_like(w), np.zeros_like(y)
    for i in product(*map(range, g.output)):
        for k in product(*map(range, g.kernel)):
            j = tuple(i[a] * g.stride[a] + k[a] * g.dilation[a] - g.padding[a][0] for a in range(len(g.kernel)))
            if not all(0 <= at < size for at, size in zip(j, g.input, strict=True)):
                continue
            for o in range(filters):
                group = o // (filters // g.groups)
                for c in range(group * per_group, (group + 1) * per_group):
                    tap: tuple[Any, ...] = (o, c % per_group, *k)
                    for n in range(len(x)):
                        dx[(n, c, *j)] += w[tap] * y[(n, o, *i)]
                        dw[tap] += x[(n, c, *j)] * y[(n, o, *i)]
                        dy[(n, o, *i)] += x[(n, c, *j)] * w[tap]
    return dx, dw, dy


def integers(seed: int, *shape: int, dtype: Any = np.float64) -> Array:
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(dtype)


def operands(
    g: ConvGeometry, batch: int, channels: int, filters: int, dtype: Any = np.float64
) -> tuple[Array, Array, Array]:
    x = integers(1, batch, channels, *g.input, dtype=dtype)
    w = integers(2, filters, channels // g.groups, *g.kernel, dtype=dtype)
    return x, w, integers(3, batch, filters, *g.output, dtype=dtype)


def check(x: Array, w: Array, y: Array, g: ConvGeometry) -> None:
    dx, dw, dy = oracle(x, w, y, g)
    np.testing.assert_array_equal(conv(x, w, g), dy)
    np.testing.assert_array_equal(conv_transpose(y, w, g), dx)
    np.testing.assert_array_equal(conv_weight_grad(x, y, g), dw)


@pytest.fixture(autouse=True)
def by_gemm() -> Iterator[None]:
    with conv_algorithm("gemm"):
        yield


@st.composite
def geometries(draw: st.DrawFn, dims: tuple[int, ...] = (1, 2, 3), plain: bool = False) -> ConvGeometry:
    """Any geometry, made from either side; the far edge of the big side may be left over. A plain one has no
    dilation and one group."""
    ndim = draw(st.sampled_from(dims))

    def each(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=ndim, max_size=ndim))

    widest = 5 if plain else (5, 4, 3)[ndim - 1]
    kernel, stride, dilation = each(1, widest), each(1, 3), [1] * ndim if plain else each(1, 3)
    padding = list(zip(each(0, 6 if plain else 3), each(0, 6 if plain else 3), strict=True))
    groups = 1 if plain else draw(st.integers(1, 3))
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if draw(st.booleans()):
        least = [max(1, r - sum(p)) for r, p in zip(reach, padding, strict=True)]
        image = [low + more for low, more in zip(least, each(0, 4), strict=True)]
        return ConvGeometry.conv(image, kernel, stride, padding, dilation, groups)
    small = [
        more + max(0, -(-(sum(p) + 1 - r) // s))
        for more, p, r, s in zip(each(1, 3), padding, reach, stride, strict=True)
    ]
    extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
    return ConvGeometry.transpose(small, kernel, stride, padding, extra, dilation, groups)


# The kernels ---------------------------------------------------------------------------------------------


@settings(max_examples=250, deadline=None)
@given(geometries(), st.integers(1, 2), st.integers(1, 6), st.integers(1, 2))
def test_every_geometry_matches_the_formula(g: ConvGeometry, batch: int, per_group: int, filters: int) -> None:
    check(*operands(g, batch, per_group * g.groups, filters * g.groups), g)


@settings(max_examples=250, deadline=None)
@given(geometries(), st.integers(0, 3), st.integers(1, 7), st.integers(1, 4))
def test_adjoints_are_exact(g: ConvGeometry, batch: int, per_group: int, filters: int) -> None:
    """<conv(x, w), y> == <x, conv_transpose(y, w)> == <w, conv_weight_grad(x, y)>."""
    x, w, y = operands(g, batch, per_group * g.groups, filters * g.groups)
    t = np.sum(conv(x, w, g) * y)
    assert t == np.sum(x * conv_transpose(y, w, g)) == np.sum(w * conv_weight_grad(x, y, g))


@settings(max_examples=250, deadline=None)
@given(geometries(), st.integers(1, 5), st.sampled_from([1, 3, 5]), st.integers(1, 4000))
def test_blocks_do_not_change_the_result(g: ConvGeometry, batch: int, per_group: int, scratch: int) -> None:
    """Scratch smaller than a batch, an image, or even a row of windows."""
    x, w, y = operands(g, batch, per_group * g.groups, g.groups)
    whole = conv(x, w, g), conv_transpose(y, w, g), conv_weight_grad(x, y, g)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "SCRATCH_BYTES", scratch)
        parts = conv(x, w, g), conv_transpose(y, w, g), conv_weight_grad(x, y, g)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)


@settings(max_examples=250, deadline=None)
@given(
    geometries(dims=(2,), plain=True), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3),
    st.sampled_from([0, 1 << 30]), st.sampled_from([1, 1 << 25]),
)  # fmt: skip
def test_kernel_rows_match_the_formula(
    g: ConvGeometry, batch: int, channels: int, filters: int, rows: int, block: int
) -> None:
    """With bands and without, an image at a time and all at once."""
    x, w, y = operands(g, batch, channels, filters)
    dx, dw, dy = oracle(x, w, y, g)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "ROWS", rows)
        patch.setattr(direct, "BLOCK_BYTES", block)
        plan = direct.Plan(g, batch, channels, filters)
        image, small = np.moveaxis(x, 1, -1), np.moveaxis(y, 1, -1)
        np.testing.assert_array_equal(np.moveaxis(direct.conv(image, w, plan), -1, 1), dy)
        np.testing.assert_array_equal(np.moveaxis(direct.conv_transpose(small, w, plan), -1, 1), dx)
        np.testing.assert_array_equal(direct.conv_weight_grad(image, small, plan), dw)


@pytest.mark.parametrize(
    "g",
    [ConvGeometry.conv((7, 7), (5, 5), 1, 2), ConvGeometry.conv((9, 8), (4, 3), (2, 1), [(1, 2), (0, 1)])],
    ids=["5x5", "4x3 s2,1"],
)
def test_kernel_rows_do_not_depend_on_threads(g: ConvGeometry) -> None:
    rng = np.random.default_rng(0)
    x, w, y = (rng.standard_normal(array.shape, dtype=np.float32) for array in operands(g, 60, 70, 80))
    image, small, plan = np.moveaxis(x, 1, -1), np.moveaxis(y, 1, -1), direct.Plan(g, 60, 70, 80)
    before, found = get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            set_num_threads(threads)
            found.append([direct.conv(image, w, plan), direct.conv_transpose(small, w, plan)])
            found[-1].append(direct.conv_weight_grad(image, small, plan))
    finally:
        set_num_threads(before)
    right = kernels.conv(image, w, g), kernels.conv_transpose(small, w, g), kernels.conv_weight_grad(image, small, g)
    for one, two, three, expected in zip(*found, right, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
        np.testing.assert_allclose(one, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_kernel_rows_are_chosen_where_padding_is_much() -> None:
    assert isinstance(choose(ConvGeometry.conv((7, 7), (5, 5), 1, 2), 128, 128, 256), direct.Plan)
    assert choose(ConvGeometry.conv((64, 64), (4, 4), 2, 1), 64, 3, 64) is None


def test_padding_is_not_multiplied() -> None:
    """Of 5 × 5 taps on 7 × 7 pixels with "same" padding, 29 · 29 of 35 · 35 products are inside."""
    plan = direct.Plan(ConvGeometry.conv((7, 7), (5, 5), 1, 2), direct.ROWS, 1, 1)
    down, across = plan.axes
    assert down.products == 29
    assert sum(band.width * band.reach for band in plan.bands(down, across)) == 29
    few = direct.Plan(plan.g, 1, 1, 1)
    assert sum(band.width * band.reach for band in few.bands(down, across)) == 35


def test_blocks_are_even_and_cover_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    g = ConvGeometry.conv((8, 8), (4, 4), 2, 1)
    a_row = 4 * 16 * 3 * 8
    monkeypatch.setattr(kernels, "SCRATCH_BYTES", 12 * a_row)  # three images of four rows
    assert [task[0][0] for task in kernels._tasks(7, 3, 8, g)] == [slice(0, 2), slice(2, 4), slice(4, 7)]
    monkeypatch.setattr(kernels, "SCRATCH_BYTES", 3 * a_row)
    assert kernels._tasks(1, 3, 8, g) == [[(slice(0, 1), slice(0, 2)), (slice(0, 1), slice(2, 4))]]


@pytest.mark.parametrize(
    ("g", "channels"),
    [
        (ConvGeometry.conv((5, 4), (1, 1)), 6),
        (ConvGeometry.conv((5, 4), (1, 1), groups=3), 6),
        (ConvGeometry.conv((4, 4), (4, 4)), 6),
        (ConvGeometry.conv((4, 4), (4, 4), groups=2), 6),  # not one matrix: channels of both groups alternate
        (ConvGeometry.conv((4, 4), (4, 4), stride=3), 6),
        (ConvGeometry.conv((5, 5), (1, 1), padding=1), 3),
        (ConvGeometry.conv((5, 5), (1, 1), stride=2), 3),
        (ConvGeometry.conv((9, 8), (3, 3), padding=1, groups=6), 6),  # depthwise
        (ConvGeometry.transpose((2, 2), (2, 2), stride=4, output_padding=3), 3),  # positions no tap reaches
        (ConvGeometry.conv((1,), (1,), stride=3, padding=[(2, 2)]), 3),
    ],
)
def test_special_cases(g: ConvGeometry, channels: int) -> None:
    check(*operands(g, 2, channels, 6), g)


VIEWS: dict[str, Any] = {
    "C order": lambda a: a.copy(),
    "channels last": lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1),
    "Fortran order": np.asfortranarray,
    "reversed": lambda a: a[::-1, ::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1, ::-1],
    "every other channel": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "every other column": lambda a: np.repeat(a, 2, axis=3)[..., ::2],
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    "g",
    [
        ConvGeometry.conv((6, 5), (3, 2), stride=2, padding=1),
        ConvGeometry.conv((6, 5), (3, 2)),
        ConvGeometry.conv((6, 5), (1, 1)),
        ConvGeometry.conv((4, 4), (4, 4)),
    ],
)
def test_any_strides_and_no_mutation(g: ConvGeometry, view: str) -> None:
    given = operands(g, 3, 6, 4)
    viewed = x, w, y = VIEWS[view](given[0]), VIEWS[view](given[1]), VIEWS[view](given[2])
    check(x, w, y, g)
    for a, b in zip(given, viewed, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (4, 4)])
def test_broadcast_arrays(kernel: tuple[int, ...]) -> None:
    g = ConvGeometry.conv((4, 4), kernel)
    x, w, y = operands(g, 3, 2, 2)
    check(
        np.broadcast_to(x[:1, :1], x.shape),
        np.broadcast_to(w[:, :1], w.shape),
        np.broadcast_to(y[:1, :, :1, :1], y.shape),  # the gradient of a mean is such a view
        g,
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kernel", [(4, 4), (1, 1), (8, 8)])
def test_dtypes_and_memory_of_results(dtype: Any, kernel: tuple[int, ...]) -> None:
    g = ConvGeometry.conv((8, 8), kernel, padding=1 if kernel == (4, 4) else 0)
    x, w, y = operands(g, 2, 4, 6, dtype)
    images = {(2, 6, *g.output): conv(x, w, g), (2, 4, 8, 8): conv_transpose(y, w, g)}
    for shape, image in images.items():
        assert image.dtype == dtype
        assert image.shape == shape
        assert np.moveaxis(image, 1, -1).flags.c_contiguous
    grad = conv_weight_grad(x, y, g)
    assert grad.dtype == dtype
    assert grad.flags.c_contiguous
    wide = operands(g, 2, 4, 6)
    np.testing.assert_array_equal(conv(x, w, g), conv(*wide[:2], g).astype(dtype))
    np.testing.assert_array_equal(grad, conv_weight_grad(wide[0], wide[2], g).astype(dtype))


def test_float16_accumulates_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "SCRATCH_BYTES", 1)
    g = ConvGeometry.conv((3,), (2,))
    ones = np.ones((1500, 1, 3), np.float16)
    # 3000 ones, a block of 1 or 2 at a time; sums of ones in float16 stop at 2048.
    assert np.all(conv_weight_grad(ones, ones[..., :2], g) == 3000)


@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (5, 5)])
def test_empty_batch_and_no_channels(kernel: tuple[int, ...]) -> None:
    g = ConvGeometry.conv((5, 5), kernel)
    for batch, channels, filters in [(0, 3, 6), (2, 0, 6), (2, 3, 0), (0, 0, 0)]:
        check(*operands(g, batch, channels, filters), g)


def test_threads_have_their_own_scratch() -> None:
    def scratch() -> Array:
        return kernels.scratch("columns", (4,), np.dtype(np.float64))

    others: list[Array] = []
    thread = threading.Thread(target=lambda: others.append(scratch()))
    thread.start()
    thread.join()
    assert np.shares_memory(scratch(), scratch())
    assert not np.shares_memory(scratch(), others[0])


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = get_num_threads()
    set_num_threads(1)
    yield
    set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_scratch_stays_small_and_channels_last_input_is_not_copied() -> None:
    def peak(g: ConvGeometry, batch: int, channels: int) -> float:
        """Megabytes allocated, on a thread that has no scratch yet."""
        x = np.moveaxis(np.zeros((batch, *g.input, channels), np.float32), -1, 1)
        w, found = np.zeros((1, channels, *g.kernel), np.float32), []

        def work() -> None:
            tracemalloc.start()
            with conv_algorithm("gemm"):  # which the caller's setting does not reach
                conv(x, w, g)
            found.append(tracemalloc.get_traced_memory()[1] / 2**20)
            tracemalloc.stop()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return found[0]

    assert peak(ConvGeometry.conv((64, 64), (1, 1)), 16, 64) < 1  # 16 MB in
    assert peak(ConvGeometry.conv((256, 256), (3, 3)), 1, 64) < 9  # 16 MB in, 144 MB of columns
    assert peak(ConvGeometry.conv((256, 256), (3, 3), 1, 1), 1, 64) < 17  # and scratch for padded rows


# The geometry ---------------------------------------------------------------------------------------------


def test_geometry_is_a_frozen_hashable_value() -> None:
    g = ConvGeometry.conv([8, 8], [4, 4], stride=[2, 2], padding=[1, 1])
    assert g == ConvGeometry.conv((8, 8), (4, 4), 2, ((1, 1), (1, 1)))
    assert g == ConvGeometry((8, 8), (4, 4), (4, 4), (2, 2), (1, 1), ((1, 1), (1, 1)), 1)
    assert len({g, dataclasses.replace(g)}) == 1
    assert not hasattr(g, "__dict__")
    untyped: Any = g
    with pytest.raises(dataclasses.FrozenInstanceError):
        untyped.groups = 2


@settings(max_examples=200, deadline=None)
@given(geometries())
def test_sizes_follow_pytorch(g: ConvGeometry) -> None:
    for n, k, o, s, d, (before, after) in zip(
        g.input, g.kernel, g.output, g.stride, g.dilation, g.padding, strict=True
    ):
        left_over = n - ((o - 1) * s - before - after + d * (k - 1) + 1)  # transpose's output_padding
        assert 0 <= left_over < max(s, d)


def test_sizes_computed_by_hand() -> None:
    assert ConvGeometry.conv((7, 8), (3, 2), (2, 3), ((0, 1), (2, 0)), (1, 2), 4).output == (3, 3)
    assert ConvGeometry.transpose((3,), (3,), 1, 0, 4, 5).input == (17,)
    assert ConvGeometry.conv((2, 3, 4), (1, 2, 2)).output == (2, 2, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ConvGeometry.conv((3, 3), (5, 5)),
            "conv: input 3x3 with kernel 5x5, stride 1, dilation 1, padding 0 gives an empty output -1x-1",
        ),
        (
            lambda: ConvGeometry.conv((3, 3), (3, 2), 1, ((0, 1), (0, 0)), (3, 1)),
            r"dilation 3x1, padding \(0, 1\)x0 gives an empty output -2x2",
        ),
        (
            lambda: ConvGeometry.transpose((1, 1), (2, 2), padding=1, stride=2),
            "conv_transpose: input 1x1 with kernel 2x2, stride 2, dilation 1, padding 1, "
            "output_padding 0 gives an empty output 0x0; use less padding",
        ),
        (lambda: ConvGeometry.conv((3, 0), (1, 1)), "conv: input 3x0 must be positive"),
        (lambda: ConvGeometry.transpose((3, 0), (1, 1)), "conv_transpose: input 3x0 must be positive"),
        (lambda: ConvGeometry.conv((3,), (0,)), "conv: kernel 0 must be positive"),
        (lambda: ConvGeometry.conv((3,), (1,), stride=0), "conv: stride 0 must be positive; give 1 or more"),
        (lambda: ConvGeometry.conv((3,), (1,), dilation=-1), "conv: dilation -1 must be positive"),
        (lambda: ConvGeometry.conv((3,), (1,), groups=0), "conv: groups 0 must be positive"),
        (lambda: ConvGeometry.conv((3,), (1,), padding=-1), "conv: padding -1 is negative; give 0 or more"),
        (lambda: ConvGeometry.conv((3,), (1,), padding=((0, -1),)), r"padding \(0, -1\) is negative"),
        (lambda: ConvGeometry.conv((3, 3), (1, 1), padding=(1,)), "does not fit 2 spatial axes"),
        (lambda: ConvGeometry.conv((3,), (1,), padding=((1, 2, 3),)), "does not fit 1 spatial axes"),
        (
            lambda: ConvGeometry.conv((3, 3), (1, 1), stride=(1, 1, 1)),
            "stride 1x1x1 has 3 sizes, the kernel has 2",
        ),
        (lambda: ConvGeometry.conv((3,), (1, 1)), "input 3 has 1 sizes, the kernel has 2; give 2"),
        (lambda: ConvGeometry.conv((3,) * 4, (1,) * 4), "the kernel has 4 spatial axes; give 1, 2 or 3"),
        (lambda: ConvGeometry.conv((), ()), "the kernel has 0 spatial axes"),
        (
            lambda: ConvGeometry.transpose((3,), (3,), stride=2, output_padding=2),
            "conv_transpose: output_padding 2 must be at least 0 and smaller than stride 2 or dilation 1",
        ),
        (
            lambda: ConvGeometry.transpose((3,), (3,), output_padding=-1),
            "output_padding -1 must be at least 0",
        ),
    ],
)
def test_geometry_errors(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_array_errors() -> None:
    g = ConvGeometry.conv((4, 4), (3, 3), groups=2)
    x, w, y = operands(g, 2, 4, 6)
    with pytest.raises(ValueError, match=r"conv: x has shape \(2, 4, 4, 3\), expected \(2, 4, 4, 4\)"):
        conv(x[..., :3], w, g)
    with pytest.raises(ValueError, match=r"conv_transpose: w has shape \(6, 2, 3, 2\), expected \(6, 2, 3, 3\)"):
        conv_transpose(y, w[..., :2], g)
    with pytest.raises(ValueError, match=r"conv_weight_grad: y has shape \(1, 6, 2, 2\), expected \(2, 6, 2, 2\)"):
        conv_weight_grad(x, y[:1], g)
    with pytest.raises(ValueError, match="3 and 6 channels do not divide into 2 groups"):
        conv_weight_grad(x[:, :3], y, g)
    with pytest.raises(TypeError, match="conv: got x float32 and w float64; convert one"):
        conv(x.astype(np.float32), w, g)

"""Winograd's method: its transforms, and its three kernels against im2col, for every pair of tiles that is allowed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_kernels_conv import VIEWS, geometries

from minigan.kernels.cpu import im2col, toom_cook, winograd
from minigan.kernels.cpu.choose import _cost, _tiles, choose, conv_algorithm
from minigan.kernels.cpu.conv import Kept, conv, conv_transpose, conv_weight_grad
from minigan.kernels.cpu.memory import scratch
from minigan.kernels.cpu.toom_cook import error_growth, transform
from minigan.kernels.cpu.workers import get_num_threads, set_num_threads
from minigan.kernels.geometry import ConvGeometry

Array = np.ndarray[Any, Any]
Three = tuple[Array, Array, Array]

KNOWN = [(m, r) for m in range(1, 6) for r in range(1, 6) if m + r - 1 <= toom_cook.LARGEST]

# The layers in which much of a GAN's time goes (the third of DCGAN-64 with half of its channels).
LAYERS = {
    "DCGAN-64, 32x32 to 16x16": (ConvGeometry.conv((32, 32), (4, 4), 2, 1), 64, 128),
    "DCGAN-64, 16x16 to 8x8": (ConvGeometry.conv((16, 16), (4, 4), 2, 1), 128, 256),
    "DCGAN-64, 8x8 to 4x4": (ConvGeometry.conv((8, 8), (4, 4), 2, 1), 128, 256),
    "3x3": (ConvGeometry.conv((16, 16), (3, 3), 1, 1), 128, 128),
    "5x5, stride 2": (ConvGeometry.conv((16, 16), (5, 5), 2, 2), 64, 128),
    "5x5": (ConvGeometry.conv((12, 12), (5, 5), 1, 2), 64, 64),
}


# Transforms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "r"), KNOWN)
def test_a_transform_is_the_short_convolution(m: int, r: int) -> None:
    """Its trilinear form Σ_a (A y)(B d)(G g) has the coefficient 1 where d's place is y's and g's, or else 0."""
    t = transform(m, r)
    assert t.A.shape == (t.nodes, m)
    assert t.G.shape == (t.nodes, r)
    form = np.einsum("ai,aj,ak->ijk", t.A, t.B, t.G)
    right = [[[float(j == i + k) for k in range(r)] for j in range(m + r - 1)] for i in range(m)]
    np.testing.assert_allclose(form, right, rtol=0, atol=1e-14, equal_nan=False)


@pytest.mark.parametrize(("m", "r"), KNOWN)
def test_error_growth_is_what_random_rounding_does(m: int, r: int) -> None:
    """With a relative error of spread 1 in every product, against as many such errors as direct sums have."""
    t, rng, count = transform(m, r), np.random.default_rng(0), 200_000
    d, g, y, errors = (rng.standard_normal((count, n)) for n in (t.nodes, r, m, t.nodes))
    big, taps, small = d @ t.B.T, g @ t.G.T, y @ t.A.T
    variances = [
        np.square((big * taps * errors) @ t.A).mean(0) / r,
        np.square((big * small * errors) @ t.G).mean(0) / m,
        np.bincount(np.arange(t.nodes) % m, np.square((small * taps * errors) @ t.B).mean(0)) / r,
    ]
    assert error_growth(m, r) == pytest.approx(np.sqrt(max(part.max() for part in variances)), rel=0.05)


# The kernels, against im2col --------------------------------------------------------------------------------


def operands(g: ConvGeometry, batch: int, channels: int, filters: int, seed: int = 0, dtype: Any = np.float64) -> Three:
    rng = np.random.default_rng(seed)
    shapes = (batch, channels, *g.input), (filters, channels, *g.kernel), (batch, filters, *g.output)
    x, w, y = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    return x, w, y


def last(image: Array) -> Array:
    return np.moveaxis(image, 1, -1)


def by_winograd(x: Array, w: Array, y: Array, g: ConvGeometry, m: tuple[int, int]) -> Three:
    """y, x and w from the two others each; images are channels-last."""
    plan = winograd.plan_for(g, len(x), x.shape[1], len(w), m)
    U = winograd.filters(w, plan)
    grad = winograd.conv_weight_grad(winograd.big_side(last(x), plan), winograd.small_side(last(y), plan), plan)
    return winograd.conv(last(x), U, plan), winograd.conv_transpose(last(y), U, plan), grad


def by_im2col(x: Array, w: Array, y: Array, g: ConvGeometry) -> Three:
    grad = im2col.conv_weight_grad(last(x), last(y), g)
    return im2col.conv(last(x), w, g), im2col.conv_transpose(last(y), w, g), grad


def close(found: Three, given: Three, g: ConvGeometry, tolerance: float = 1e-13) -> None:
    """To the tolerance, relative to the largest sum of the terms' sizes (or to 1, a term's, where there are none)."""
    x, w, y = given
    sizes = by_im2col(np.abs(x), np.abs(w), np.abs(y), g)
    for a, right, size in zip(found, by_im2col(x, w, y, g), sizes, strict=True):
        np.testing.assert_allclose(a, right, rtol=0, atol=tolerance * max(size.max(), 1), equal_nan=False)


@contextlib.contextmanager
def changed(**sizes: int) -> Iterator[None]:
    """Memory that holds NaN before it is written, and other sizes of slices and blocks."""

    def poisoned(name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        memory = scratch(name, shape, dtype)
        memory.fill(np.nan)
        return memory

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "empty", lambda shape, dtype: np.full(shape, np.nan, dtype))
        patch.setattr(winograd, "scratch", poisoned)
        for name, size in sizes.items():
            patch.setattr(winograd, name, size)
        yield


plain = geometries(dims=(2,), plain=True)
sizes = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))  # batch, channels, filters


# An image that no window reads, for the padding before it is longer than what the tiles reach.
UNREAD = ConvGeometry.conv((2, 4), (4, 2), (4, 1), ((5, 0), (1, 1)))


@settings(max_examples=100)
@example(UNREAD, (2, 3, 2), "C order", 0)
@given(plain, sizes, st.sampled_from(sorted(VIEWS)), st.integers(0, 2**32 - 1))
def test_every_plain_geometry_and_pair_of_tiles_matches_im2col(
    g: ConvGeometry, sizes: tuple[int, int, int], view: str, seed: int
) -> None:
    given = operands(g, *sizes, seed)
    x, w, y = (VIEWS[view](array) for array in given)
    for m in _tiles(g):
        with changed():
            found = by_winograd(x, w, y, g, m)
        close(found, given, g)
    for a, b in zip((x, w, y), given, strict=True):
        np.testing.assert_array_equal(a, b)  # inputs are not written to


@given(plain, sizes, st.data())
def test_slices_and_blocks_do_not_change_the_result(
    g: ConvGeometry, sizes: tuple[int, int, int], data: st.DataObject
) -> None:
    given = operands(g, *sizes)
    for m in _tiles(g):
        small = {name: data.draw(st.integers(1, 20_000)) for name in ("SLICE_BYTES", "BLOCK_BYTES", "FILTER_BYTES")}
        with changed(**small):
            close(by_winograd(*given, g, m), given, g)


@pytest.mark.parametrize("a_slice", [1, 5000, 10**9])
@pytest.mark.parametrize("a_block", [1, 5000, 20_000, 10**9])
def test_blocks_cover_the_batch_once(a_slice: int, a_block: int) -> None:
    plan = winograd.plan_for(ConvGeometry.conv((8, 8), (3, 3), 1, 1), 11, 2, 3, (2, 2))
    image = plan.nodes * 16 * 8  # bytes for one channel: 4 x 4 tiles in float64
    with changed(SLICE_BYTES=a_slice, BLOCK_BYTES=a_block):
        blocks = plan.blocks(8)
    slices = [part for block in blocks for part in block]
    assert [n for part in slices for n in range(part.start, part.stop)] == list(range(11))
    for block in blocks:
        count = block[-1].stop - block[0].start
        assert count == 1 or count * image * (2 + 3) <= a_block
    for part in slices:
        assert part.stop - part.start == 1 or (part.stop - part.start) * image * 2 <= a_slice


@given(plain, sizes)
@example(ConvGeometry.conv((1, 1), (1, 3), (1, 2), ((0, 0), (3, 0))), (1, 1, 1))
def test_adjoints(g: ConvGeometry, sizes: tuple[int, int, int]) -> None:
    """⟨conv(x, w), y⟩ = ⟨x, conv_transpose(y, w)⟩ = ⟨w, conv_weight_grad(x, y)⟩"""
    x, w, y = operands(g, *sizes)
    # Transforms round what they read, also where only padding is used and the form is 0.
    size = np.sum(np.abs(y)) * np.max(np.abs(x)) * np.sum(np.abs(w))
    for m in _tiles(g):
        out, image, grad = by_winograd(x, w, y, g, m)
        forms = [np.sum(out * last(y)), np.sum(image * last(x)), np.sum(grad * w)]
        np.testing.assert_allclose(forms, forms[0], rtol=0, atol=1e-13 * size, equal_nan=False)


@pytest.mark.parametrize("layer", LAYERS)
def test_errors_are_at_most_4_times_those_of_direct_sums(layer: str) -> None:
    """In float32, the largest one in an array, for every pair of tiles that may be chosen and each of the kernels.

    On average over 8 draws: the largest error in one draw is a matter of chance, up or down by a fifth.
    """
    g, channels, filters = LAYERS[layer]
    largest: dict[Any, list[list[float]]] = {}
    for seed in range(8):
        given = operands(g, 4, channels, filters, seed, np.float32)
        x, w, y = (array.astype(np.float64) for array in given)
        right = by_im2col(x, w, y, g)
        found = {m: by_winograd(*given, g, m) for m in _tiles(g)} | {"direct": by_im2col(*given, g)}
        for name, three in found.items():
            largest.setdefault(name, []).append([np.abs(a - b).max() for a, b in zip(three, right, strict=True)])
    direct = np.mean(largest.pop("direct"), axis=0)
    growth = {m: (np.mean(errors, axis=0) / direct).round(2).tolist() for m, errors in largest.items()}
    assert growth
    assert not {m: ratios for m, ratios in growth.items() if not np.max(ratios) <= 4}


@pytest.mark.parametrize("layer", LAYERS)
def test_the_number_of_threads_does_not_change_a_bit(layer: str) -> None:
    g, channels, filters = LAYERS[layer]
    given, threads, found = operands(g, 5, channels, filters, dtype=np.float32), get_num_threads(), []
    for number in (1, 2, 3, 1):
        set_num_threads(number)
        with changed(SLICE_BYTES=200_000, BLOCK_BYTES=2_000_000, FILTER_BYTES=100_000):
            found.append([array.tobytes() for m in ((2, 1), (2, 2)) for array in by_winograd(*given, g, m)])
    set_num_threads(threads)
    assert found[1:] == found[:1] * 3


# The kernels by their names: what they take, give and keep --------------------------------------------------

SMALL = ConvGeometry.conv((7, 8), (4, 3), stride=(2, 1), padding=((1, 2), (0, 1)))


@pytest.fixture
def forced() -> Iterator[None]:
    with conv_algorithm("winograd"):
        yield


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes_and_memory_of_results(dtype: Any) -> None:
    x, w, y = operands(SMALL, 3, 4, 5, dtype=dtype)
    out, image, grad = conv(x, w, SMALL), conv_transpose(y, w, SMALL), conv_weight_grad(x, y, SMALL)
    assert (out.dtype, image.dtype, grad.dtype) == (dtype,) * 3
    assert (out.shape, image.shape, grad.shape) == (y.shape, x.shape, w.shape)
    assert last(out).flags.c_contiguous
    assert last(image).flags.c_contiguous
    assert grad.flags.c_contiguous
    tolerance = 1e-13 if dtype == np.float64 else 1e-5
    if dtype == np.float16:  # computed in float32
        x, w, y = (array.astype(np.float32) for array in (x, w, y))
        right = conv(x, w, SMALL), conv_transpose(y, w, SMALL), conv_weight_grad(x, y, SMALL)
        for a, b in zip((out, image, grad), right, strict=True):
            np.testing.assert_array_equal(a, b.astype(np.float16))
        out, image, grad = right
    close((last(out), last(image), grad), (x, w, y), SMALL, tolerance)


@pytest.mark.usefixtures("forced")
def test_broadcast_arrays() -> None:
    shapes = [array.shape for array in operands(SMALL, 3, 2, 4)]
    x, w, y = (
        np.broadcast_to(array[:1, :1], shape) for array, shape in zip(operands(SMALL, 3, 2, 4), shapes, strict=True)
    )
    found = last(conv(x, w, SMALL)), last(conv_transpose(y, w, SMALL)), conv_weight_grad(x, y, SMALL)
    close(found, (x, w, y), SMALL)


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("first", [conv, conv_transpose])
@pytest.mark.parametrize("blocks", [{}, {"SLICE_BYTES": 3000, "BLOCK_BYTES": 20_000, "FILTER_BYTES": 1000}])
def test_what_is_kept_gives_the_same_bits(first: Any, blocks: dict[str, int]) -> None:
    g = ConvGeometry.conv((12, 11), (4, 4), 2, 1)
    x, w, y = operands(g, 6, 5, 20, dtype=np.float32)
    with changed(**blocks):
        plainly = conv(x, w, g), conv_transpose(y, w, g), conv_weight_grad(x, y, g)
        kept = Kept(True, True)
        if first is conv:
            found = conv(x, w, g, kept), conv_transpose(y, w, g, kept), conv_weight_grad(x, y, g, kept)
        else:
            image = conv_transpose(y, w, g, kept)
            found = conv(x, w, g, kept), image, conv_weight_grad(x, y, g, kept)
        for a, b in zip(found, plainly, strict=True):
            assert a.tobytes() == b.tobytes()
        assert kept.U is not None
        assert kept.V is not None
        kept.V *= 2
        np.testing.assert_array_equal(conv_weight_grad(x, y, g, kept), 2 * plainly[2])  # it is what is used
        kept.U *= 2
        np.testing.assert_array_equal(conv_transpose(y, w, g, kept), 2 * plainly[1])


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("weight", [False, True])
def test_only_what_a_gradient_needs_is_kept(image: bool, weight: bool) -> None:
    x, w, y = operands(SMALL, 2, 3, 4)
    for kernel, image_given in ((conv, x), (conv_transpose, y)):
        kept = Kept(image, weight)
        kernel(image_given, w, SMALL, kept)
        sides = [kept.V is not None, kept.M is not None]
        assert (kept.U is not None, sides) == (image, [kernel is conv and weight, kernel is conv_transpose and weight])


@pytest.mark.usefixtures("forced")
def test_a_side_that_grows_much_is_kept_within_the_backward_pass_only() -> None:
    g = ConvGeometry.conv((8, 8), (5, 5), padding=2)  # 30 nodes for tiles of 2
    x, w, y = operands(g, 2, 3, 4)
    kept = Kept(True, True)
    found = conv(x, w, g, kept), conv_transpose(y, w, g, kept), conv_weight_grad(x, y, g, kept)
    assert kept.V is None
    assert kept.M is not None
    close((last(found[0]), last(found[1]), found[2]), (x, w, y), g)


# Which algorithm --------------------------------------------------------------------------------------------

DCGAN = [(ConvGeometry.conv((side, side), (4, 4), 2, 1), 64, 2048 // side, 4096 // side) for side in (32, 16, 8)]
TOY = ConvGeometry.conv((6, 6), (3, 3)), 1, 1, 1


def takes_winograd(*sizes: Any) -> bool:
    return isinstance(choose(*sizes), winograd.Plan)


def test_an_algorithm_is_forced_within_a_block_and_no_longer() -> None:
    assert not takes_winograd(*TOY)
    assert takes_winograd(*DCGAN[0])
    with conv_algorithm("winograd"):
        assert takes_winograd(*TOY)
        with contextlib.suppress(KeyError), conv_algorithm("gemm"):
            assert not takes_winograd(*DCGAN[0])
            raise KeyError
        assert takes_winograd(*TOY)
        with conv_algorithm("auto"):
            assert not takes_winograd(*TOY)
    assert not takes_winograd(*TOY)


def test_the_environment_names_an_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, toy, large in (
        ("winograd", True, True),
        ("gemm", False, False),
        ("auto", False, True),
        ("", False, True),
    ):
        monkeypatch.setenv("MINIGAN_CONV", name)
        assert (takes_winograd(*TOY), takes_winograd(*DCGAN[0])) == (toy, large)
    monkeypatch.setenv("MINIGAN_CONV", "gemm")
    with conv_algorithm("winograd"):
        assert takes_winograd(*TOY)


def test_a_wrong_name_is_one_clear_line() -> None:
    expected = "got 'fft', expected one of auto, gemm, winograd"
    with pytest.raises(ValueError, match=f"^conv_algorithm: {expected}$"), conv_algorithm("fft"):
        pass
    script = "import minigan as mg\nmg.nn.Conv2d(1, 1, 3)(mg.ones(1, 1, 4, 4))"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False,
        timeout=60, env={**os.environ, "MINIGAN_CONV": "fft"},
    )  # fmt: skip
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("RuntimeError: Conv of ")]
    assert line.endswith(f": MINIGAN_CONV: {expected}")


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize(
    ("g", "channels"),
    [
        (ConvGeometry.conv((9,), (3,)), 2),
        (ConvGeometry.conv((6, 6, 6), (3, 3, 3)), 2),
        (ConvGeometry.conv((6, 6), (3, 3), groups=2), 4),
        (ConvGeometry.conv((9, 9), (3, 3), dilation=(2, 1)), 2),
        (ConvGeometry.conv((6, 6), (1, 1)), 2),
        (ConvGeometry.conv((3, 3), (3, 3)), 2),
        (ConvGeometry.conv((12, 12), (7, 3)), 2),
        (ConvGeometry.conv((6, 6), (3, 3)), 0),
    ],
)
@pytest.mark.parametrize("batch", [2, 0])
def test_where_winograd_does_not_apply_it_is_im2col(g: ConvGeometry, channels: int, batch: int) -> None:
    assert choose(g, batch, channels, 6) is None
    x, w, y = operands(g, batch, channels, 6)
    w = w[:, : channels // g.groups]
    right = by_im2col(x, w, y, g)
    for kept in (None, Kept(True, True)):
        np.testing.assert_array_equal(last(conv(x, w, g, kept)), right[0])
        np.testing.assert_array_equal(last(conv_transpose(y, w, g, kept)), right[1])
        np.testing.assert_array_equal(conv_weight_grad(x, y, g, kept), right[2])


@pytest.mark.usefixtures("forced")
def test_an_empty_batch() -> None:
    x, w, y = operands(SMALL, 0, 3, 4)
    assert conv(x, w, SMALL).shape == y.shape
    assert conv_transpose(y, w, SMALL).shape == x.shape
    np.testing.assert_array_equal(conv_weight_grad(x, y, SMALL), np.zeros(w.shape))


@pytest.mark.parametrize("layer", DCGAN)
def test_the_choice_is_the_cheapest_and_depends_on_sizes_alone(layer: Any) -> None:
    g, batch, channels, filters = layer
    threads, found = get_num_threads(), []
    for number in (1, 2):
        set_num_threads(number)
        found.append(choose(*layer))
    set_num_threads(threads)
    with conv_algorithm("winograd"):
        found.append(choose(ConvGeometry.transpose(g.output, g.kernel, 2, 1), batch, channels, filters))
    assert found[0] is not None
    assert found == found[:1] * 3
    costs = [_cost(winograd.plan_for(g, batch, channels, filters, m)) for m in _tiles(g)]
    assert _cost(found[0]) == min(costs)

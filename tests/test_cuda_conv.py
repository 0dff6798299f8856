"""The CUDA convolutions, run on a CPU, against the trilinear form they differentiate, in float64."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minigan.kernels.cuda import conv as kernels
from minigan.kernels.cuda.conv import FILES, RUNGS, TILES, Plan, Shape, choose, fits
from minigan.kernels.emulator.device import EmulatedDevice
from minigan.kernels.emulator.run import ORDERS, Counts, run
from minigan.kernels.geometry import ConvGeometry

pytestmark = pytest.mark.kernels

Array = np.ndarray[Any, Any]
NOT_OF_WEIGHTS = ("thin", "wgmma_narrow")
ALL = [(op, rung) for op in FILES for rung in RUNGS if op != "weight" or rung not in NOT_OF_WEIGHTS]


def oracle(op: str, x: Array, w: Array, y: Array, g: ConvGeometry) -> Array:
    """dT/dy, dT/dx or dT/dw of T = sum of x[n, c, i*s + k*d - p] * w[o, c, k] * y[n, o, i], tap by tap."""
    x, w, y = (a.astype(np.float64) for a in (x, w, y))
    result = np.zeros_like({"forward": y, "transpose": x, "weight": w}[op])
    read, made = x.shape[1] // g.groups, len(w) // g.groups
    for k in product(*map(range, g.kernel)):
        small, big = [], []
        for axis, tap in enumerate(k):
            at = tap * g.dilation[axis] - g.padding[axis][0]
            places = [(i, i * g.stride[axis] + at) for i in range(g.output[axis])]
            inside = [(i, j) for i, j in places if 0 <= j < g.input[axis]]
            small.append([i for i, _ in inside])
            big.append([j for _, j in inside])
        if not all(small):
            continue
        for group in range(g.groups):
            filters = range(group * made, (group + 1) * made)
            at_x = np.ix_(range(len(x)), range(group * read, (group + 1) * read), *big)
            at_y = np.ix_(range(len(y)), filters, *small)
            at_w: tuple[Any, ...] = (slice(filters.start, filters.stop), slice(None), *k)
            if op == "forward":
                result[at_y] += np.einsum("nc...,oc->no...", x[at_x], w[at_w])
            elif op == "transpose":
                result[at_x] += np.einsum("no...,oc->nc...", y[at_y], w[at_w])
            else:
                pixels = [a.reshape(*a.shape[:2], -1) for a in (x[at_x], y[at_y])]
                result[at_w] += np.einsum("nci,noi->oc", *pixels)
    return result


def rounded(a: Array, rung: str, cut: bool = False) -> Array:
    """To the bits that a rung's operands have: TF32 to 10 of mantissa, ties away from zero, bf16 to 7, ties to even.

    `cut`: the other bits are cut off, as Hopper's rungs do with the image that makes an image.
    """
    bits = a.view(np.uint32)
    if "wgmma" in rung and cut:
        bits = bits & np.uint32(0xFFFFE000)
    elif "tf32" in rung or "wgmma" in rung:
        bits = (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    if "bf16" in rung:
        bits = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def last(a: Array) -> Array:
    """The same image, in memory with channels last."""
    return np.ascontiguousarray(np.moveaxis(a, 1, -1)).transpose(0, a.ndim - 1, *range(1, a.ndim - 1))


def operands(g: ConvGeometry, batch: int, channels: int, filters: int, seed: int = 0) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    shapes = (batch, channels, *g.input), (filters, channels // g.groups, *g.kernel), (batch, filters, *g.output)
    x, w, y = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return last(x), w, last(y)


def computed(device: EmulatedDevice, op: str, x: Array, w: Array, y: Array, g: ConvGeometry, **how: Any) -> Array:
    if op == "weight":
        return kernels.conv_weight_grad(device, x, y, g, **how)
    return kernels.conv(device, x, w, g, **how) if op == "forward" else kernels.conv_transpose(device, y, w, g, **how)


def check(device: EmulatedDevice, op: str, plan: Plan, g: ConvGeometry, sizes: tuple[int, int, int]) -> None:
    """As close as sums in fp32 are, of operands that are rounded as the rung says."""
    arrays = operands(g, *sizes)
    cut = op != "weight"
    x, w, y = (rounded(a, plan.rung, way) for a, way in zip(arrays, (cut, False, cut), strict=True))
    expected, scale = oracle(op, x, w, y, g), oracle(op, abs(x), abs(w), abs(y), g)
    found = computed(device, op, *arrays, g, plan=plan)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.all(abs(found - expected) <= 3e-6 * scale), abs(found - expected).max()
    assert (found if op == "weight" else np.moveaxis(found, 1, -1)).flags.c_contiguous


@st.composite
def geometries(draw: st.DrawFn, dims: tuple[int, ...], groups: int) -> ConvGeometry:
    """Any geometry, made from either side; some cover the whole image, or one pixel only."""
    ndim = draw(st.sampled_from(dims))
    largest = 9 if ndim < 3 else 4

    def sizes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(low, high), min_size=ndim, max_size=ndim)))

    whole = draw(st.integers(0, 9))
    if whole < 2:
        image = sizes(1, 5 if ndim < 3 else 3)
        return ConvGeometry.conv(image, image if whole else (1,) * ndim, groups=groups)
    kernel, stride, dilation = sizes(1, 5 if ndim < 3 else 3), sizes(1, 3), sizes(1, 2)
    padding = [(draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(ndim)]
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if draw(st.booleans()):
        image = tuple(max(n, span - sum(pair)) for n, span, pair in zip(sizes(1, largest), spans, padding, strict=True))
        return ConvGeometry.conv(image, kernel, stride, padding, dilation, groups)
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    small = tuple(
        max(n, -(-(1 - span - e + sum(pair)) // s) + 1)
        for n, span, pair, s, e in zip(sizes(1, 5), spans, padding, stride, extra, strict=True)
    )
    return ConvGeometry.transpose(small, kernel, stride, padding, extra, dilation, groups)


@st.composite
def halvings(draw: st.DrawFn) -> ConvGeometry:
    """What the input gradient of colours is for: a kernel of 4 × 4 and stride 2, odd pads, rows of a multiple of 4."""
    height, width = draw(st.integers(2, 70)), draw(st.integers(1, 20)) * 4
    padding = [(draw(st.sampled_from([1, 3])), draw(st.integers(1, 4))) for _ in range(2)]
    return ConvGeometry.conv((height, width), (4, 4), 2, padding)


@st.composite
def problems(draw: st.DrawFn, op: str, rung: str) -> tuple[ConvGeometry, tuple[int, int, int], Plan]:
    """A geometry and numbers of channels that a rung is for."""
    groups = 1 if rung == "colours" else draw(st.sampled_from([1, 1, 2, 3]))
    fours, any_number = st.sampled_from([4, 8, 12, 20]), st.integers(1, 9)
    by_fours, thin = RUNGS[rung].by_fours, RUNGS[rung].thin
    read = draw(fours if by_fours or thin else any_number) * groups
    made = draw(fours if by_fours else st.integers(1, 4) if thin else any_number) * groups
    if RUNGS[rung].hopper and op == "weight":
        read, made = draw(fours) * groups, draw(fours) * groups
    elif RUNGS[rung].hopper:
        read, made = draw(st.sampled_from([32, 64, 96])) * groups, draw(st.sampled_from([8, 16, 40])) * groups
    channels, filters = (made, read) if op == "transpose" else (read, made)
    if rung == "colours":
        channels, filters = draw(st.sampled_from([1, 3])), draw(st.sampled_from([8, 24, 72]))
    halving = (op, rung) == ("transpose", "colours")
    g = draw(halvings() if halving else geometries((1, 2, 3) if rung == "naive" else (1, 2), groups))
    shape = Shape.of(g, 1, channels, filters)
    assume(fits(op, rung, shape.as_matrix() if g.is_gemm else shape))
    whole = rung == "naive" or (rung == "colours" and op != "weight")
    splits = 1 if whole else draw(st.integers(1, 3))
    may_turn = op == "weight" and rung != "naive" and groups == 1 and max(g.stride) == 1 and not g.is_gemm
    turned = may_turn and draw(st.booleans())
    if turned and rung == "colours":
        channels, filters = filters, channels
    return g, (draw(st.integers(1, 3)), channels, filters), Plan(rung, splits, turned)


@pytest.mark.parametrize(("op", "rung"), ALL)
def test_every_rung_of_any_geometry(op: str, rung: str) -> None:
    @settings(max_examples=12)
    @given(problem=problems(op, rung), order=st.sampled_from(ORDERS), seed=st.integers(0, 99))
    def holds(problem: tuple[ConvGeometry, tuple[int, int, int], Plan], order: str, seed: int) -> None:
        g, sizes, plan = problem
        check(EmulatedDevice(order, seed), op, plan, g, sizes)

    holds()


@settings(max_examples=25)
@given(data=st.data(), op=st.sampled_from([*FILES]), precision=st.sampled_from([*TILES]))
def test_the_plan_that_is_chosen(data: st.DataObject, op: str, precision: str) -> None:
    g, sizes, _ = data.draw(
        problems(op, data.draw(st.sampled_from(["blocked_any", "blocked", "thin", "wgmma", "colours"])))
    )
    shape = Shape.of(g, *sizes)
    plan = choose(op, shape.as_matrix() if g.is_gemm else shape, precision)
    check(EmulatedDevice(), op, plan, g, sizes)


# Larger than a tile, with edges: windows that reach over all sides, several tiles and steps; and phases without taps.
EDGES = ConvGeometry.conv((7, 9), (3, 2), stride=(1, 2), padding=[(2, 1), (1, 2)], dilation=(2, 1))
GAPS = ConvGeometry.conv((7, 8), (2, 1), stride=3)
HALVING = ConvGeometry.conv((35, 68), (4, 4), stride=2, padding=[(1, 2), (3, 1)])


def sizes_of(op: str, rung: str) -> tuple[int, int, int]:
    """Images, channels and filters that are more than a rung's tile, and no multiple of it."""
    read, made = (100, 3) if RUNGS[rung].thin else (20, 68) if RUNGS[rung].by_fours else (17, 19)
    if RUNGS[rung].hopper:
        read, made = 64, 136
    if rung == "colours":
        return 5, 3, 72
    return (2, made, read) if op == "transpose" else (2, read, made)


def edges(op: str, rung: str) -> ConvGeometry:
    return HALVING if (op, rung) == ("transpose", "colours") else EDGES


@pytest.mark.parametrize("watch", ["bounds", "races"])
@pytest.mark.parametrize(("op", "rung"), ALL)
def test_every_rung_watched(op: str, rung: str, watch: str) -> None:
    splits = 1 if rung == "naive" or RUNGS[rung].thin or (rung == "colours" and op != "weight") else 3
    for g in (edges(op, rung), GAPS) if op == "transpose" and rung != "colours" else (edges(op, rung),):
        check(EmulatedDevice(watch=watch), op, Plan(rung, splits), g, sizes_of(op, rung))


@pytest.mark.parametrize("turned", [False, True])
def test_weights_of_colours_in_many_parts(turned: bool) -> None:
    """More than the eight that are added up side by side, more taps than a tile's 16, and dilations below zero."""
    if turned:
        g, sizes = ConvGeometry.conv((19, 11), (5, 5), padding=(2, 5), dilation=(1, 2)), (4, 8, 3)
    else:
        g, sizes = ConvGeometry.conv((40, 24), (5, 5), stride=2, padding=2), (4, 1, 8)
    check(EmulatedDevice(watch="bounds"), "weight", Plan("colours", 11, turned), g, sizes)


@pytest.mark.parametrize(("op", "rung"), ALL)
def test_what_is_not_finite_stays_where_it_belongs(op: str, rung: str) -> None:
    """What pads a tile is not only multiplied by zero: that would be NaN."""
    g = edges(op, rung)
    x, w, y = operands(g, *sizes_of(op, rung))
    x[0, 0, 4, 3] = y[0, 0, 2, 3] = np.inf
    expected = oracle(op, x, w, y, g)
    found = computed(EmulatedDevice(), op, x, w, y, g, plan=Plan(rung))
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))


class Counting(EmulatedDevice):
    """Remembers what blocks did."""

    def launch(self, file: str, kernel: str, grid: Any, block: Any, arguments: Any, shared: int = 0) -> None:
        self.counts: dict[str, Counts] = getattr(self, "counts", {})
        self.counts[kernel] = run(file, kernel, grid, block, arguments, shared=shared, watch="races")


def test_loads_and_barriers_of_a_whole_tile() -> None:
    """64 · 64 · depth products: v1 loads each value for 16 of them, v2 for 64, four at once, with half the barriers."""
    g, depth = ConvGeometry.conv((8, 8), (2, 2), stride=2), 4 * 32
    device = Counting()
    x, w, _ = operands(g, 8, 32, 64)
    for rung in ("tiled", "blocked", "thin"):
        columns = 4 if rung == "thin" else 64
        kernels.conv(device, x, w[:columns], g, plan=Plan(rung))
    tiled, blocked, thin = (device.counts[f"conv_forward_{rung}"] for rung in ("tiled", "blocked", "thin"))
    assert (tiled.loads, tiled.barriers) == (2 * 16 * depth, 2 * depth / 16)
    assert (blocked.loads, blocked.barriers) == (2 * 64 * depth / 4, depth / 16 + 1)
    assert (thin.loads, thin.barriers) == (128 * depth / 4 + 4 * depth, 2)


def test_images_in_any_order_of_memory() -> None:
    g = ConvGeometry.conv((5, 4), (3, 2), stride=2, padding=1)
    x, w, y = operands(g, 2, 4, 8)
    device = EmulatedDevice()
    padded = np.zeros((2, 4, 5, 7), np.float32)
    padded[..., 1:5] = x
    for other in (np.ascontiguousarray(x), padded[..., 1:5]):
        np.testing.assert_array_equal(kernels.conv(device, other, w, g), kernels.conv(device, x, w, g))
        np.testing.assert_array_equal(
            kernels.conv_weight_grad(device, other, y, g), kernels.conv_weight_grad(device, x, y, g)
        )
    across = np.ascontiguousarray(w.transpose(3, 2, 1, 0)).transpose(3, 2, 1, 0)
    np.testing.assert_array_equal(kernels.conv_transpose(device, y, across, g), kernels.conv_transpose(device, y, w, g))


def test_plans_of_dcgan() -> None:
    """Colours do not waste tiles; where there are few tiles, the depth is split; a GPU without tensor cores has v2."""
    colours = Shape.of(ConvGeometry.conv((64, 64), (4, 4), stride=2, padding=1), 128, 3, 64)
    for precision in TILES:
        plans = [choose(op, colours, precision) for op in ("forward", "transpose", "weight")]
        assert plans == [Plan("colours"), Plan("colours"), Plan("colours", 396)]
    assert choose("forward", colours, double=True) == Plan("blocked_any")
    assert choose("transpose", colours, double=True) == Plan("thin")
    assert choose("weight", colours, double=True) == Plan("blocked_any", 132)
    inner = Shape.of(ConvGeometry.conv((16, 16), (4, 4), stride=2, padding=1), 128, 128, 256)
    assert choose("weight", inner, "high") == Plan("wgmma", 8)
    assert choose("weight", inner, "high", arch=80) == Plan("tf32", 4)
    assert choose("weight", inner, "medium", arch=75) == choose("weight", inner, "highest") == Plan("blocked_wide", 4)
    assert [choose("forward", inner, "high", arch).rung for arch in (75, 80, 90, 100)] == [
        "blocked_wide", "tf32", "wgmma", "tf32",
    ]  # fmt: skip
    assert choose("transpose", inner, "high").rung == "wgmma"
    assert choose("forward", replace(inner, channels=144), "high").rung == "tf32"
    to_colours = Shape.of(ConvGeometry.conv((64, 64), (3, 3), padding=1), 128, 64, 3)
    assert choose("weight", to_colours) == Plan("colours", 396, turned=True)
    depthwise = Shape.of(ConvGeometry.conv((8, 8), (3, 3), padding=1, groups=32), 8, 32, 32)
    volume = Shape.of(ConvGeometry.conv((4, 4, 4), (2, 2, 2)), 8, 32, 32)
    assert choose("forward", depthwise) == choose("weight", volume) == Plan("naive")


def test_what_does_not_fit() -> None:
    g = ConvGeometry.conv((4, 4), (2, 2))
    x, w, y = operands(g, 2, 3, 5)
    device = EmulatedDevice()
    with pytest.raises(ValueError, match="does not fit"):
        kernels.conv(device, x, w, g, plan=Plan("tf32"))
    with pytest.raises(ValueError, match="precision 'exact'"):
        kernels.conv_weight_grad(device, x, y, g, precision="exact")
    with pytest.raises(ValueError, match="x has shape"):
        kernels.conv(device, x[:, :2], w, g)
    with pytest.raises(TypeError, match="float64"):
        kernels.conv(device, x.astype(np.float64), w.astype(np.float64), g)
    assert not fits("weight", "thin", Shape.of(g, 2, 4, 4))


def test_no_images() -> None:
    g = ConvGeometry.conv((4, 4), (2, 2))
    x, w, y = operands(g, 0, 3, 5)
    device = EmulatedDevice()
    assert kernels.conv(device, x, w, g).shape == y.shape
    assert kernels.conv_transpose(device, y, w, g).shape == x.shape
    np.testing.assert_array_equal(kernels.conv_weight_grad(device, x, y, g), np.zeros_like(w))


@pytest.mark.parametrize("op", FILES)
def test_volumes_that_are_images_but_for_their_stride_or_padding(op: str) -> None:
    for padding in (0, 1):
        g = ConvGeometry.conv((1, 5, 6), (1, 3, 2), stride=(3, 2, 1), padding=(padding, 1, 0))
        shape = Shape.of(g, 2, 4, 8)
        check(EmulatedDevice(), op, choose(op, shape), g, (2, 4, 8))

"""Convolution on a GPU: which kernels make it, and in how many blocks.

The three are the derivatives of one trilinear form, as on the CPU (`minigan.kernels.cpu.conv`). Each is a product of
two matrices: one of the image's values, of which only the places are computed (`conv_shape.cuh`), and one of the
weights, or of the other image. Images have (N, C, *spatial) shapes and lie in memory with channels last, as do
results; other images are copied.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import gcd, prod
from typing import Any

import numpy as np

from ..geometry import ConvGeometry, checked_sizes
from .conv_memory import by_columns, by_phases, by_pixels, channels_first, channels_last, repacked, without_gaps
from .conv_thin import fits_colours, launch_colours, parts_of_colours, sum_colours, wasteful
from .double import Doubled

__all__ = ["RUNGS", "Kept", "Plan", "Rung", "Shape", "choose", "conv", "conv_transpose", "conv_weight_grad", "file_of"]

Array = Any
Ints = tuple[int, ...]

MULTIPROCESSORS = 132  # of an H100; a constant, so that sums are made in the same order on every GPU
SHORTEST_SPLIT = 128  # values of the depth: fewer are not worth to write and read their sums
THREADS = 256


@dataclass(frozen=True)
class Rung:
    """A kernel's tile: rows and columns that a block makes, and the step along the depth that both matrices share.

    `by_fours`: channels of both images are multiples of 4 in each group. `thin`: at most 4 columns. `hopper`: for
    compute capability 9.0 alone; channels that are read are multiples of 32, columns of 8, of a weight gradient of 4.
    `shared`: bytes of dynamic shared memory.
    """

    name: str
    tile: Ints
    file: str = ""  # of its own, or else that of the op
    by_fours: bool = False
    thin: bool = False
    minimum_arch: int = 75
    hopper: bool = False
    shared: int = 0


def _hopper(name: str, rows: int, columns: int, stages: int) -> Rung:
    """Of `conv_hopper.cu`, where a stage has a tile of both matrices, and tiles begin at multiples of 1024 bytes."""
    shared = stages * (rows + columns) * 32 * 4 + 1024
    return Rung(name, (rows, columns, 32), "conv_hopper", minimum_arch=90, hopper=True, shared=shared)


# Of each op the kernels are conv_forward_*, conv_transpose_* and conv_weight_*, the last without a thin one.
RUNGS: dict[str, Rung] = {
    "naive": Rung("v0 naive", (THREADS, 1, 1)),
    "tiled": Rung("v1 tiled", (16, 16, 16)),
    "blocked_any": Rung("v2 registers, any channels", (64, 64, 16)),
    "blocked": Rung("v2 registers", (64, 64, 16), by_fours=True),
    "blocked_wide": Rung("v2 registers, wide", (128, 128, 8), by_fours=True),
    "thin": Rung("v2 thin", (128, 4, 256), thin=True),
    "colours": Rung("v2 colours", (128, 64, 1), "conv_thin"),
    "tf32": Rung("v3 TF32", (128, 128, 16), "conv_tensor", True, minimum_arch=80),
    "tf32_narrow": Rung("v3 TF32, narrow", (128, 64, 16), "conv_tensor", True, minimum_arch=80),
    "bf16": Rung("v4 bf16", (128, 128, 16), "conv_tensor", True, minimum_arch=80),
    "bf16_narrow": Rung("v4 bf16, narrow", (128, 64, 16), "conv_tensor", True, minimum_arch=80),
    "wgmma": _hopper("v5 TF32, Hopper", 128, 128, 3),
    "wgmma_narrow": _hopper("v5 TF32, Hopper, narrow", 256, 64, 2),
}
# Large tiles and small ones for each precision of the operands, which is fp32, TF32 or bf16; sums are always fp32.
TILES = {"highest": ("blocked_wide", "blocked"), "high": ("tf32", "tf32_narrow"), "medium": ("bf16", "bf16_narrow")}
HOPPER = ("wgmma", "wgmma_narrow")  # of "high", where they fit
AS_STORED = ("naive", "colours")  # the weights are taken as they are
HOPPER_WEIGHT = "conv_hopper_weight"
HOPPER_WEIGHT_SHARED = 3 * (128 + 136) * 32 * 4 + 1024
FILES = {"forward": "conv", "transpose": "conv_transpose", "weight": "conv_weight"}


class Kept:
    """What a call leaves for its derivatives: on a GPU nothing, as nothing is transformed. Names as on the CPU."""

    __slots__ = ("M", "V")

    def __init__(self, image_gradient: bool, weight_gradient: bool) -> None:
        self.M = self.V = None


@dataclass(frozen=True)
class Shape:
    """A convolution's sizes as kernels take them: three axes, depth, height and width, those that lack of size 1."""

    batch: int
    channels: int
    filters: int
    groups: int
    input: Ints
    kernel: Ints
    output: Ints
    stride: Ints
    dilation: Ints
    pad: Ints

    @classmethod
    def of(cls, g: ConvGeometry, batch: int, channels: int, filters: int) -> Shape:
        """Of a geometry."""
        lack = 3 - g.ndim

        def three(sizes: Ints, missing: int = 1) -> Ints:
            return (missing,) * lack + sizes

        return cls(
            batch, channels, filters, g.groups, three(g.input), three(g.kernel), three(g.output), three(g.stride),
            three(g.dilation), three(tuple(before for before, _ in g.padding), 0),
        )  # fmt: skip

    def as_matrix(self) -> Shape:
        """The same where the image already is the matrix of its windows (`ConvGeometry.is_gemm`): of one tap.

        The taps of a kernel that covers the whole image become channels.
        """
        one = (1, 1, 1)
        channels, pixels = self.channels * prod(self.kernel), (1, 1, prod(self.output))
        return replace(self, channels=channels, input=pixels, output=pixels, kernel=one, stride=one, dilation=one)

    def turned(self) -> Shape:
        """With both images in each other's place, which for stride 1 is a convolution too: y[j - k·d + p] of x[j]."""
        pad, dilation = (tuple(-value for value in values) for values in (self.pad, self.dilation))
        return replace(
            self, channels=self.filters, filters=self.channels, input=self.output, output=self.input, pad=pad,
            dilation=dilation,
        )  # fmt: skip

    def per_group(self, op: str) -> tuple[int, int]:
        """Channels that are read, and columns that are made of them; of the weight gradient, both are read."""
        channels, filters = self.channels // self.groups, self.filters // self.groups
        return (filters, channels) if op == "transpose" else (channels, filters)

    def product(self, op: str) -> tuple[int, int, int]:
        """Rows, columns and depth of the product of one group; of an input gradient, of its largest phase."""
        read, columns = self.per_group(op)
        if op == "transpose":
            pixels = prod(-(-size // stride) for size, stride in zip(self.input, self.stride, strict=True))
            hops = (s // gcd(s, d) for s, d in zip(self.stride, self.dilation, strict=True))
            taps = prod(-(-k // hop) for k, hop in zip(self.kernel, hops, strict=True))
            return self.batch * pixels, columns, taps * read
        pixels, depth = self.batch * prod(self.output), prod(self.kernel) * read
        return (depth, columns, pixels) if op == "weight" else (pixels, columns, depth)

    def tiles(self, op: str, rung: str) -> Ints:
        """How many tiles there are: of rows, of columns of all groups, and phases."""
        rows, columns, _ = self.product(op)
        tile = RUNGS[rung].tile
        phases = prod(self.stride[1:]) if op == "transpose" else 1
        return -(-rows // tile[0]), -(-columns // tile[1]) * self.groups, phases

    def arguments(self, axes: int) -> list[int]:
        """What kernels take of it."""
        sizes = (self.input, self.kernel, self.output, self.stride, self.dilation, self.pad)
        return [self.batch, self.channels, self.filters, self.groups, *(n for size in sizes for n in size[3 - axes :])]


@dataclass(frozen=True)
class Plan:
    """Which rung, among how many blocks the depth is split, and whether a weight gradient has its images turned."""

    rung: str
    splits: int = 1
    turned: bool = False


def file_of(op: str, rung: str) -> str:
    """The file that has a rung's kernel of an op."""
    return HOPPER_WEIGHT if RUNGS[rung].hopper and op == "weight" else RUNGS[rung].file or FILES[op]


def fits(op: str, rung: str, shape: Shape) -> bool:
    """Whether a rung computes it at all.

    >>> image = Shape.of(ConvGeometry.conv((64, 64), (4, 4), stride=2, padding=1), 128, 3, 64)
    >>> [rung for rung in RUNGS if fits("forward", rung, image)]
    ['naive', 'tiled', 'blocked_any', 'colours']
    >>> [rung for rung in RUNGS if fits("transpose", rung, image)]
    ['naive', 'tiled', 'blocked_any', 'thin', 'colours']
    """
    read, columns = shape.per_group(op)
    if rung == "naive":
        return True
    if shape.pad[0] or max(shape.input[0], shape.kernel[0], shape.output[0]) > 1:  # not an image
        return False
    if rung == "colours":
        return fits_colours(op, shape)
    if RUNGS[rung].thin:
        return op != "weight" and read % 4 == 0 and columns <= 4
    if RUNGS[rung].hopper:
        return fits(op, "blocked", shape) and rung == "wgmma" if op == "weight" else read % 32 == columns % 8 == 0
    return not RUNGS[rung].by_fours or (read % 4 == 0 and columns % 4 == 0)


def choose(op: str, shape: Shape, precision: str = "highest", arch: int = 90, double: bool = False) -> Plan:
    """The plan for `op`, one of "forward", "transpose" and "weight".

    Large tiles load less. They are taken where they give work to at least half of the multiprocessors, with the depth
    split if need be. A GPU without tensor cores for a precision computes with a higher one. `double`: of
    float64, which `conv_thin.cu` does not have.

    >>> layer = Shape.of(ConvGeometry.conv((8, 8), (4, 4), stride=2, padding=1), 128, 256, 512)
    >>> [(plan.rung, plan.splits) for plan in (choose(op, layer, "high") for op in FILES)]
    [('wgmma', 2), ('wgmma', 1), ('wgmma', 2)]
    """
    if precision not in TILES:
        raise ValueError(f"conv: got precision {precision!r}, expected one of {[*TILES]}")
    read, columns = shape.per_group(op)
    if not fits(op, "tiled", shape) or (shape.groups > 1 and min(read, columns) < 8):
        return Plan("naive")  # of volumes; and tiles would be almost empty
    if op == "weight" and shape.groups == 1 and max(shape.stride) == 1:
        turned = shape.turned()
        if prod(turned.tiles(op, "blocked")) < prod(shape.tiles(op, "blocked")):
            return replace(_fastest(op, turned, precision, arch, double), turned=True)
    return _fastest(op, shape, precision, arch, double)


def _fastest(op: str, shape: Shape, precision: str, arch: int, double: bool) -> Plan:
    if fits(op, "colours", shape) and not wasteful(op, shape) and not double:
        return Plan("colours", parts_of_colours(op, shape))
    if fits(op, "thin", shape):
        return _split(op, "thin", shape)
    if not fits(op, "blocked", shape):
        return _split(op, "blocked_any", shape)
    large, small = TILES[precision if arch >= 80 else "highest"]
    if precision != "highest" and arch == 90:  # also faster than v4 with bf16, and more precise
        large, small = (new if fits(op, new, shape) else old for new, old in zip(HOPPER, (large, small), strict=True))
    plan = _split(op, large, shape)
    enough = prod(shape.tiles(op, large)) * plan.splits >= MULTIPROCESSORS // 2
    return plan if enough and shape.per_group(op)[1] > 64 else _split(op, small, shape)


def _split(op: str, rung: str, shape: Shape) -> Plan:
    depth = shape.product(op)[2]
    blocks = MULTIPROCESSORS * (2 if file_of(op, rung) == HOPPER_WEIGHT else 1)  # of those, two hide each other's waits
    return Plan(rung, max(1, min(blocks // prod(shape.tiles(op, rung)), depth // SHORTEST_SPLIT)))


# The three -----------------------------------------------------------------------------------------------------------


def conv(
    device: Any, x: Array, w: Array, g: ConvGeometry, kept: Kept | None = None, precision: str = "highest",
    plan: Plan | None = None,
) -> Array:  # fmt: skip
    """Cross-correlation: x (N, C, *g.input) with w (O, C / groups, *g.kernel) gives y (N, O, *g.output).

        y[n, o, i] = sum over c, k of  x[n, c, i*s + k*d - p] * w[o, c, k]

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> x, w = np.float32([[[[0, 1, 2, 3]]]]), np.float32([[[[1, 10]]]])
    >>> conv(EmulatedDevice(), x, w, ConvGeometry.conv((1, 4), (1, 2), stride=(1, 2))).tolist()
    [[[[10.0, 32.0]]]]
    """
    batch, channels, filters = checked_sizes("conv", g, x=x, w=w)
    w = without_gaps(device, w)
    y = device.empty((batch, *g.output, filters), np.float32)
    if y.size:
        shape, plan = _planned(device, "forward", g, (batch, channels, filters), precision, plan)
        if RUNGS[plan.rung].hopper:
            w = by_columns(device, "forward", w, g, shape)
        elif plan.rung not in AS_STORED:
            w = repacked(device, w, 1, filters, channels // g.groups, g.taps)
        _multiply(device, "forward", plan, shape, (channels_last(device, x), w), y)
    return channels_first(y)


def conv_transpose(
    device: Any, y: Array, w: Array, g: ConvGeometry, kept: Kept | None = None, precision: str = "highest",
    plan: Plan | None = None,
) -> Array:  # fmt: skip
    """`conv` turned round: y (N, O, *g.output) with w (O, C / groups, *g.kernel) gives x (N, C, *g.input).

        x[n, c, j] = sum over o and all i, k with i*s + k*d - p == j of  y[n, o, i] * w[o, c, k]

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> y, w = np.float32([[[[3, 4]]]]), np.float32([[[[1, 10]]]])
    >>> conv_transpose(EmulatedDevice(), y, w, ConvGeometry.transpose((1, 2), (1, 2), stride=(1, 2))).tolist()
    [[[[3.0, 30.0, 4.0, 40.0]]]]
    """
    batch, channels, filters = checked_sizes("conv_transpose", g, w=w, y=y)
    w = without_gaps(device, w)
    x = device.empty((batch, *g.input, channels), np.float32)
    if x.size:
        shape, plan = _planned(device, "transpose", g, (batch, channels, filters), precision, plan)
        if RUNGS[plan.rung].hopper:
            w = by_columns(device, "transpose", w, g, shape)
        elif plan.rung not in AS_STORED and g.is_gemm and g.taps > 1:
            w = repacked(device, w, filters, channels, 1, g.taps)
        elif plan.rung not in AS_STORED and not g.is_gemm:
            w = by_phases(device, w, shape)
        _multiply(device, "transpose", plan, shape, (channels_last(device, y), w), x)
    return channels_first(x)


def conv_weight_grad(
    device: Any, x: Array, y: Array, g: ConvGeometry, kept: Kept | None = None, precision: str = "highest",
    plan: Plan | None = None,
) -> Array:  # fmt: skip
    """x (N, C, *g.input) with y (N, O, *g.output) gives w (O, C / groups, *g.kernel), C-contiguous.

        w[o, c, k] = sum over n, i of  y[n, o, i] * x[n, c, i*s + k*d - p]

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> x, y = np.float32([[[[0, 1, 2, 3]]]]), np.float32([[[[1, 10]]]])
    >>> conv_weight_grad(EmulatedDevice(), x, y, ConvGeometry.conv((1, 4), (1, 2), stride=(1, 2))).tolist()
    [[[[20.0, 31.0]]]]
    """
    batch, channels, filters = checked_sizes("conv_weight_grad", g, x=x, y=y)
    per_group = channels // g.groups
    w_shape = (filters, per_group, *g.kernel)
    if not batch:
        return device.zeros(w_shape, np.float32)
    w = device.empty(w_shape, np.float32)
    if not w.size:
        return w
    shape, plan = _planned(device, "weight", g, (batch, channels, filters), precision, plan)
    images = (channels_last(device, x), channels_last(device, y))
    if plan.rung == "naive":
        _multiply(device, "weight", plan, shape, images, w)
        return w
    if plan.turned:
        shape, images = shape.turned(), images[::-1]
    if RUNGS[plan.rung].hopper:
        images = (images[0], by_pixels(device, images[1]))
    parts = device.empty((plan.splits, w.size), np.float32)
    _launch(device, "weight", plan, shape, images, parts)
    rows, columns = (filters * channels, 1) if plan.turned else (filters, per_group)
    if plan.rung == "colours":
        sum_colours(device, parts, w, rows, columns, g.taps)
        return w
    blocks = -(-rows // 32) * -(-columns * g.taps // 32)
    device.launch(
        "conv_weight", "conv_weight_sum", (blocks,), (THREADS,), [parts, w, plan.splits, rows, columns, g.taps]
    )
    return w


def _planned(
    device: Any, op: str, g: ConvGeometry, sizes: tuple[int, int, int], precision: str, plan: Plan | None
) -> tuple[Shape, Plan]:
    return _plan_of(op, g, sizes, precision, plan, getattr(device, "arch", 90), isinstance(device, Doubled))


@lru_cache(maxsize=1024)  # the next step has the same sizes
def _plan_of(
    op: str, g: ConvGeometry, sizes: tuple[int, int, int], precision: str, plan: Plan | None, arch: int, double: bool
) -> tuple[Shape, Plan]:
    stored = Shape.of(g, *sizes)
    shape = stored.as_matrix() if g.is_gemm else stored
    plan = plan or choose(op, shape, precision, arch, double)
    may_turn = op == "weight" and g.groups == 1 and max(g.stride) == 1 and not g.is_gemm
    if not fits(op, plan.rung, shape.turned() if plan.turned else shape) or (plan.turned and not may_turn):
        raise ValueError(f"conv: {plan} of {op!r} does not fit {shape}")
    return (stored if plan.rung == "naive" else shape), plan


def _multiply(device: Any, op: str, plan: Plan, shape: Shape, operands: tuple[Array, Array], out: Array) -> None:
    """Into `out`: one launch, or with the depth split one into a workspace and one that adds up what is there."""
    if plan.splits == 1:
        _launch(device, op, plan, shape, operands, out)
        return
    parts = device.empty((plan.splits, out.size), np.float32)
    _launch(device, op, plan, shape, operands, parts)
    device.launch("conv", "conv_sum", (-(-out.size // THREADS),), (THREADS,), [parts, out, plan.splits, out.size])


def _launch(device: Any, op: str, plan: Plan, shape: Shape, operands: tuple[Array, Array], out: Array) -> None:
    file, kernel = file_of(op, plan.rung), f"conv_{op}_{plan.rung}"
    if plan.rung == "naive":
        device.launch(file, kernel, (-(-out.size // THREADS),), (THREADS,), [*operands, out, *shape.arguments(3)])
        return
    if plan.rung == "colours":
        launch_colours(device, op, plan.splits, shape, operands, out)
        return
    rows, columns, phases = shape.tiles(op, plan.rung)
    grid = (rows, columns, phases * plan.splits)
    arguments = [*operands, out, *shape.arguments(2), plan.splits]
    shared = HOPPER_WEIGHT_SHARED if file == HOPPER_WEIGHT else RUNGS[plan.rung].shared
    device.launch(file, kernel, grid, (THREADS,), arguments, shared)

"""Normalisation over axes of an array, and what else there is one value for of each channel.

An array whose averaged axes lie first or in the middle of memory is rows of channels (`layout.py`), one whose averaged
axes lie last is rows of values. Any other one is copied into one of the two orders first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from . import reduce
from .double import real
from .elementwise import copy, empty_like
from .layout import MOST_PARTS, THREADS, Array, Blocks, blocks_over, gathered, in_memory_order

__all__ = ["add_bias", "add_bias_backward", "normalize", "normalize_backward", "scale_shift", "update_running"]

Axes = tuple[int, ...]
Gradients = tuple[Array | None, Array | None, Array | None]
MANY = 256  # rows of values: each takes a block, and fewer would leave multiprocessors idle
SEGMENT = 16  # channels of a block: 64 bytes, the least that memory delivers; more, and there are more parts to merge
BLOCKS = 264  # two on each of 132 multiprocessors: with 128 bytes under way for each thread, enough to keep memory busy
ROWS = 4  # for a thread at least


def normalize(
    device: Any, x: Array, w: Array | None, b: Array | None, axes: Axes, eps: float, slope: float | None = None,
    rung: str | None = None,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """y = leaky((x - m)·r·w + b) with m = mean x, v = var x, r = 1 / √(v + eps); returns y, m, v, r.

    `rung` is "naive", or None for the best.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> y, m, v, r = normalize(EmulatedDevice(), np.array([[1, 3]], np.float32), None, None, (1,), 0.0)
    >>> y.tolist(), m.tolist(), v.tolist()
    ([[-1.0, 1.0]], [[2.0]], [[1.0]])
    """
    _check(device, "normalize", x, w, b)
    lay = _laid(x, axes, w, b)
    leak = 1.0 if slope is None else slope
    if not x.size:  # there is nothing to take a mean of
        none = [device.zeros(lay.kept, x.dtype) for _ in range(3)]
        return device.empty(x.shape, x.dtype), none[0], none[1], none[2]
    values, y = gathered(device, x, lay.order), device.empty(lay.sizes, x.dtype)
    vectors = lay.vectors(device, w, b)
    m, v, r = (device.empty((lay.groups * lay.channels,), x.dtype) for _ in range(3))
    if not lay.columns:
        device.launch(
            "norm", "norm_rows", (lay.groups,), _threads(lay.rows),
            [values, *vectors, y, m, v, r, lay.rows, lay.period, eps, leak],
        )  # fmt: skip
    elif rung == "naive":
        device.launch(
            "norm", "norm_forward_naive", (lay.groups * lay.channels,), (THREADS,),
            [values, *vectors, y, m, v, r, lay.rows, lay.channels, lay.period, eps, leak],
        )  # fmt: skip
    else:
        blocks, kind = _blocks(device, lay.groups, lay.rows, lay.channels, values)
        means, squares = (device.empty((lay.groups * blocks.parts * lay.channels,), x.dtype) for _ in range(2))
        over, sizes = (blocks.grid, blocks.block), (lay.rows, lay.channels)
        device.launch("norm", f"norm_statistics{kind}", *over, [values, means, squares, *sizes])
        device.launch(
            "norm", f"norm_apply{kind}", *over,
            [values, means, squares, *vectors, y, m, v, r, *sizes, blocks.parts, lay.period, eps, leak],
        )  # fmt: skip
    y = lay.back(y)
    if y.strides != x.strides:  # as of groups of channels: images are to stay with channels last
        like = empty_like(device, [x], x.shape, x.dtype)
        y = y if y.strides == like.strides else copy(device, y, out=like)
    return y, lay.statistic(m), lay.statistic(v), lay.statistic(r)


def normalize_backward(
    device: Any, gy: Array, x: Array, w: Array | None, b: Array | None, m: Array, r: Array, axes: Axes,
    slope: float | None, needs: tuple[bool, ...], shapes: Sequence[tuple[int, ...]], rung: str | None = None,
) -> Gradients:  # fmt: skip
    """Gradients of x, w and b (those that `needs` asks for), from saved m and r.

    With x̂ = (x - m)·r, g = gy·leaky'(x̂·w + b) and h = g·w:
    gx = r·(h - mean h - x̂·mean(h·x̂)),  gw = Σ g·x̂,  gb = Σ g.
    """
    _check(device, "normalize_backward", gy, x, w, b, m, r)
    lay = _laid(x, axes, w, b)
    if not x.size:
        gx = device.empty(x.shape, x.dtype) if needs[0] else None
        gw, gb = (device.zeros(shapes[i], x.dtype) if needs[i] else None for i in (1, 2))
        return gx, gw, gb
    values, given = gathered(device, x, lay.order), gathered(device, gy, lay.order)
    saved = [gathered(device, v, lay.order) for v in (m, r)]
    common = [given, values, *saved, *lay.vectors(device, w, b)]
    leak = 1.0 if slope is None else slope
    out = device.empty(lay.sizes, x.dtype) if needs[0] or (lay.columns and rung == "naive") else None
    if not lay.columns:
        if needs[0]:
            device.launch(
                "norm", "norm_rows_backward", (lay.groups,), _threads(lay.rows),
                [*common, out, lay.rows, lay.period, leak],
            )  # fmt: skip
        sums = _sums_of_rows(device, lay, common, leak) if needs[1] or needs[2] else (None, None)
    elif rung == "naive":
        sums = device.empty((2, lay.groups * lay.channels), x.dtype)
        device.launch(
            "norm", "norm_backward_naive", (lay.groups * lay.channels,), (THREADS,),
            [*common, out, sums[1], sums[0], lay.rows, lay.channels, lay.period, leak],
        )  # fmt: skip
    else:
        sums = _of_channels(device, lay, common, out, leak)
    return (
        lay.back(out) if needs[0] else None,
        _sum_to(device, lay.vector_back(sums[1]), shapes[1]) if needs[1] else None,
        _sum_to(device, lay.vector_back(sums[0]), shapes[2]) if needs[2] else None,
    )


def _of_channels(device: Any, lay: _Lay, common: list[Array], out: Array | None, leak: float) -> Array:
    """Σ g and Σ g·x̂ of each group and channel, [2, groups·channels]; and gx, if there is memory for it."""
    blocks, kind = _blocks(device, lay.groups, lay.rows, lay.channels, *common[:2])
    sums = device.empty((2, lay.groups, blocks.parts, lay.channels), np.float32)
    device.launch(
        "norm", f"norm_backward_sums{kind}", blocks.grid, blocks.block,
        [*common, *sums, lay.rows, lay.channels, lay.period, leak],
    )  # fmt: skip
    if out is None:
        return _sum_of_parts(device, sums)
    total = device.empty((2, lay.groups * lay.channels), np.float32)
    device.launch(
        "norm", f"norm_backward_apply{kind}", blocks.grid, blocks.block,
        [*common, *sums, out, total[1], total[0], lay.rows, lay.channels, blocks.parts, lay.period, leak],
    )  # fmt: skip
    return total


def _sums_of_rows(device: Any, lay: _Lay, common: list[Array], leak: float) -> Array:
    """Σ g and Σ g·x̂ over all rows that have the same vector, [2, period·values]."""
    rows, width = lay.groups // lay.period, lay.period * lay.rows
    blocks = blocks_over(1, rows, width)
    sums = device.empty((2, 1, blocks.parts, width), np.float32)
    device.launch(
        "norm", "norm_rows_vectors", blocks.grid, blocks.block,
        [*common, sums[0], sums[1], rows, lay.rows, lay.period, leak],
    )  # fmt: skip
    return _sum_of_parts(device, sums)


def _sum_of_parts(device: Any, sums: Array) -> Array:
    """[k, groups, parts, channels] added up over the parts, [k, groups·channels]."""
    total = sums if sums.shape[2] == 1 else reduce.sum(device, sums, (2,))
    return total.reshape(sums.shape[0], -1)


def _sum_to(device: Any, g: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which something of `shape` was broadcast."""
    extra = g.ndim - len(shape)
    axes = [axis for axis in range(g.ndim) if axis < extra or shape[axis - extra] == 1]
    if any(g.shape[axis] != 1 for axis in axes):
        g = reduce.sum(device, g, axes)
    return g.reshape(shape)


def _check(device: Any, name: str, *arrays: Array | None) -> None:
    for array in arrays:
        if array is not None and array.dtype != real(device):
            raise TypeError(f"{name}: got an array of {array.dtype}, expected {real(device)}")


def _threads(values: int) -> tuple[int]:
    return (min(THREADS, -(-values // 32) * 32),)


# One value for each channel (axis 1) --------------------------------------------------------------------------


def add_bias(device: Any, x: Array, b: Array | None, slope: float | None) -> Array:
    """leaky(x + b), without a slope x + b, written over x.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> x, b = np.array([[1, 2]], np.float32), np.array([-3, 1], np.float32)
    >>> add_bias(EmulatedDevice(), x, b, 0.0).tolist()
    [[0.0, 3.0]]
    """
    _check(device, "add_bias", x, b)
    order = in_memory_order(x.strides, x.shape)
    values = x.transpose(order)
    if not values.flags.c_contiguous:
        raise ValueError(f"add_bias: got strides {x.strides} for shape {x.shape}, expected memory without gaps")
    if x.size:
        _apply(device, values, None, b, values, x, order, slope)
    return x


def add_bias_backward(
    device: Any, gy: Array, y: Array | None, slope: float | None, needs_bias: bool
) -> tuple[Array, Array | None]:  # fmt: skip
    """Gradients of x and of b, if that is needed: gx = gy·leaky'(y), gb = Σ gx; without a slope y may be None.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> y = np.array([[0], [3]], np.float32)
    >>> gx, gb = add_bias_backward(EmulatedDevice(), np.ones((2, 1), np.float32), y, 0.5, True)
    >>> gx.tolist(), gb.tolist()
    ([[0.5], [1.0]], [1.5])
    """
    _check(device, "add_bias_backward", gy, y)
    if y is None or slope is None or not gy.size:
        return gy, reduce.sum(device, gy, (0, *range(2, gy.ndim))) if needs_bias else None
    order = in_memory_order(y.strides, y.shape)
    given, outputs = gathered(device, gy, order), gathered(device, y, order)
    gx = device.empty(outputs.shape, y.dtype)
    groups, rows, channels, period = _channels(y, order)
    blocks = blocks_over(groups, rows, channels)
    shape = (groups // period, period, blocks.parts, channels)
    sums = device.empty(shape, y.dtype) if needs_bias else None
    device.launch(
        "norm", "norm_bias_backward", blocks.grid, blocks.block, [given, outputs, gx, sums, rows, channels, slope]
    )
    gx = gx.transpose([order.index(axis) for axis in range(y.ndim)])
    return gx, reduce.sum(device, sums, (0, 2)).reshape(y.shape[1]) if needs_bias else None


def scale_shift(device: Any, x: Array, scale: Array, shift: Array, slope: float | None) -> Array:
    """leaky(x·scale + shift), without a slope x·scale + shift.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> x, scale, shift = (np.array(v, np.float32) for v in ([[1, 2]], [2, -1], [1, 1]))
    >>> scale_shift(EmulatedDevice(), x, scale, shift, 0.0).tolist()
    [[3.0, 0.0]]
    """
    _check(device, "scale_shift", x, scale, shift)
    order = in_memory_order(x.strides, x.shape)
    values = gathered(device, x, order)
    y = device.empty(values.shape, x.dtype)
    if x.size:
        _apply(device, values, scale, shift, y, x, order, slope)
    return y.transpose([order.index(axis) for axis in range(x.ndim)])


def _apply(
    device: Any, values: Array, w: Array | None, b: Array | None, y: Array, x: Array, order: Axes, slope: float | None
) -> None:  # fmt: skip
    """y = leaky(values·w + b), where `values` are x in an order."""
    groups, rows, channels, period = _channels(x, order)
    blocks, kind = _blocks(device, groups, rows, channels, values, y)
    vectors = [None if v is None else gathered(device, v, (0,)) for v in (w, b)]
    device.launch(
        "norm", f"norm_affine{kind}", blocks.grid, blocks.block,
        [values, *vectors, y, rows, channels, period, 1.0 if slope is None else slope],
    )  # fmt: skip


def update_running(
    device: Any, running_mean: Array, running_var: Array, mean: Array, var: Array, momentum: float, count: int,
    tracked: Array | None = None,
) -> None:  # fmt: skip
    """running ← (1 - momentum)·running + momentum·new, in place; `var` is of `count` values, and biased.

    `tracked`, one integer, becomes larger by one.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> running, new = np.zeros((2, 1), np.float32), np.ones((2, 1), np.float32)
    >>> update_running(EmulatedDevice(), *running, *new, 0.5, 2)
    >>> running.tolist()
    [[0.5], [1.0]]
    """
    _check(device, "update_running", running_mean, running_var, mean, var)
    channels = running_mean.size
    device.launch(
        "norm", "norm_update_running", (-(-channels // THREADS),), (THREADS,),
        [
            running_mean, running_var, mean.reshape(-1), var.reshape(-1), tracked, 1 - momentum, momentum,
            momentum * count / (count - 1), channels,
        ],
    )  # fmt: skip


def _channels(x: Array, order: Axes) -> tuple[int, int, int, int]:
    """Groups, rows and channels, and the period of vectors, for a value of each entry of axis 1.

    If that is last in memory, there is one group. If not, each entry of it, among what comes before, is a group.
    """
    at, count = order.index(1), x.shape[1]
    before, behind = (prod(x.shape[axis] for axis in part) for part in (order[:at], order[at + 1 :]))
    return (before * count, behind, 1, count) if behind > 1 else (1, before, count, 1)


def _blocks(device: Any, groups: int, rows: int, channels: int, *arrays: Array) -> tuple[Blocks, str]:
    """Blocks over [groups, rows, channels], and of which kernels: of four channels for each thread, or "_any".

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> _blocks(EmulatedDevice(), 1, 131072, 64)
    (Blocks(grid=(4, 66), block=(4, 64)), '')
    >>> _blocks(EmulatedDevice(), 128, 16, 3)
    (Blocks(grid=(128, 1), block=(3, 85)), '_any')
    """
    wide = channels % 4 == 0 and not any(device.address(array) % 16 for array in arrays)
    threads = channels // 4 if wide else channels
    width, most = (SEGMENT // 4, BLOCKS) if wide else (SEGMENT, 2 * BLOCKS)
    while width < 32 and THREADS // width > rows:  # too few rows for so many threads
        width *= 2
    width = min(width, threads)
    height, columns = THREADS // width, groups * -(-threads // width)
    parts = max(1, min(MOST_PARTS, most // columns, -(-rows // (height * ROWS))))
    return Blocks((columns, parts), (width, height)), "" if wide else "_any"


# How an array is laid out -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lay:
    """An array of `shape`, its axes in an `order`: [groups, rows, channels] if `columns`, else [groups, rows].

    Means are over the rows. Vectors (weights, biases) are the same for the axes in `same`, the first of the order.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    axes: Axes  # averaged over
    columns: bool
    groups: int
    rows: int
    channels: int
    same: tuple[int, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        """The shape of what has one value for each mean."""
        return tuple(1 if axis in self.axes else size for axis, size in enumerate(self.shape))

    @property
    def sizes(self) -> list[int]:
        """The shape, in the order."""
        return [self.shape[axis] for axis in self.order]

    @property
    def period(self) -> int:
        """How many different vectors there are: group i has number i % period."""
        return self.groups // prod(self.shape[axis] for axis in self.same)

    def back(self, x: Array) -> Array:
        """What is in the order as an array of the shape, in the same memory."""
        return x.transpose([self.order.index(axis) for axis in range(len(self.order))])

    def statistic(self, v: Array) -> Array:
        """One value for each mean, with the number of axes of the array."""
        return self.back(v.reshape([self.kept[axis] for axis in self.order]))

    def _vector_shape(self) -> tuple[int, ...]:
        whole = self.kept if self.columns else self.shape
        return tuple(1 if axis in self.same else size for axis, size in enumerate(whole))

    def vectors(self, device: Any, *given: Array | None) -> list[Array | None]:
        """Weights and biases as [period, channels] or [period, rows]; copies only if they lie otherwise."""
        shape = self._vector_shape()
        return [None if v is None else gathered(device, v, self.order, shape) for v in given]

    def vector_back(self, v: Array) -> Array:
        """[groups, channels], or [period, rows], with the number of axes of the array."""
        if self.columns:
            return self.statistic(v)
        shape = self._vector_shape()
        return self.back(v.reshape([shape[axis] for axis in self.order]))


def _laid(x: Array, axes: Axes, *vectors: Array | None) -> _Lay:
    """How to lay out x for means over `axes`, in the order that it has in memory if possible."""
    padded = [(1,) * (x.ndim - v.ndim) + v.shape for v in vectors if v is not None]
    varies = [any(shape[axis] != 1 for shape in padded) for axis in range(x.ndim)]
    along = any(varies[axis] for axis in axes)  # vectors differ within a mean
    order = in_memory_order(x.strides, x.shape)
    long = [axis for axis in order if x.shape[axis] != 1]
    kinds = "".join("r" if axis in axes else "k" for axis in long)
    inside = [axis for axis in order if axis in axes]
    outside = [axis for axis in order if axis not in axes]
    many = prod(x.shape[axis] for axis in outside) >= MANY
    if "r" not in kinds and not along:  # means of one value
        found = re.fullmatch("()()(k*)", kinds)
    else:
        found = re.fullmatch("(k*)(r+)()", kinds) or (None if along else re.fullmatch("(k*)(r+)(k+)", kinds))
    if found is None and along:
        order, kinds = (*outside, *inside), "k" * len(outside) + "r" * len(inside)
        found = re.fullmatch("(k*)(r*)()", kinds)
        long = list(order)
    elif found is None:
        order, kinds = (*inside, *outside), "r" * len(inside) + "k" * len(outside)
        found = re.fullmatch("()(r*)(k*)", kinds)
        long = list(order)
    assert found is not None
    groups, rows, channels = (prod(x.shape[axis] for axis in long[slice(*found.span(part))]) for part in (1, 2, 3))
    columns = bool(found[3]) or not (along or many)
    same = []
    for axis in long[slice(*found.span(1))]:
        if varies[axis]:
            break
        same.append(axis)
    return _Lay(x.shape, tuple(order), axes, columns, groups, rows, channels, tuple(same))

"""Convolution of any geometry as a matrix product: im2col, GEMM, col2im.

The three kernels are the three derivatives of one trilinear form (see `ConvGeometry`),

    T(x, w, y) = sum over n, o, c, i, k of  x[n, c, i*s + k*d - p] * w[o, c, k] * y[n, o, i]

    conv(x, w)             = dT/dy   cols(x) . W'
    conv_transpose(y, w)   = dT/dx   cols'(y . W)
    conv_weight_grad(x, y) = dT/dw   y' . cols(x)

where a row of cols(x) is one window of x, taps first and channels last, W is w as a matrix in that same
order, and cols' (col2im) adds each window back to where it came from. Each derivative of one of the three
is made of the other two, so nothing else is needed for gradients of any order.

Images are channels-last here, (N, *spatial, C), with any strides. The columns of a whole batch would be many times
its size, so they are made a block at a time, in scratch memory that stays with its thread; threads take blocks.
"""

from __future__ import annotations

from itertools import product
from math import ceil, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ..geometry import ConvGeometry
from .memory import empty, scratch
from .products import matmul
from .workers import parallel

__all__ = ["conv", "conv_transpose", "conv_weight_grad"]

Array = npt.NDArray[Any]
Block = tuple[slice, slice]  # images of the batch, rows (first spatial axis) of the small side

# A block's columns: the larger the faster the product, until they fall out of a core's cache; best of 1, 2, 4, 8 MB.
SCRATCH_BYTES = 2 << 20
# Up to this many channels, col2im walks along pixels: a run of 3 floats is not worth its loop.
THIN = 4
# Weight gradients are sums over blocks: of so many sums at once (or fewer, where they are large), then of those.
LANES = 4
LANE_BYTES = 32 << 20


def conv(x: Array, w: Array, g: ConvGeometry) -> Array:
    """y[n, i, o] = sum over k, c of  x[n, i*s + k*d - p, c] * w[o, c, k]"""
    out = empty((len(x), *g.output, len(w)), x.dtype)
    transposed = _matrix(w, g).transpose(0, 2, 1)
    if g.is_gemm:
        matmul(_whole(np.ascontiguousarray(x), g), transposed, out=_rows(out, g))
        return out
    blocks = [block for task in _tasks(len(x), x.shape[-1], x.itemsize, g) for block in task]
    parallel(lambda i: np.matmul(_columns(x, blocks[i], g), transposed, out=_rows(out[blocks[i]], g)), len(blocks))
    return out


def conv_transpose(y: Array, w: Array, g: ConvGeometry) -> Array:
    """x[n, j, c] = sum over o and all i, k with i*s + k*d - p == j of  y[n, i, o] * w[o, c, k]"""
    channels, matrix = w.shape[1] * g.groups, _matrix(w, g)
    out = empty((len(y), *g.input, channels), y.dtype)
    if g.is_gemm:
        matmul(_rows(y, g), matrix, out=_whole(out, g))
        return out
    tasks = _tasks(len(y), channels, y.itemsize, g)

    def some_images(i: int) -> None:
        out[tasks[i][0][0]] = 0
        for images, span in tasks[i]:
            _add_columns(_products(_rows(y[images, span], g), matrix, span, g), out[images], span, g)

    parallel(some_images, len(tasks))
    return out


def conv_weight_grad(x: Array, y: Array, g: ConvGeometry) -> Array:
    """w[o, c, k] = sum over n, i of  y[n, i, o] * x[n, i*s + k*d - p, c], in any memory order"""
    per_group, filters = x.shape[-1] // g.groups, y.shape[-1]
    shape = (g.groups, filters // g.groups, g.taps * per_group)
    if g.is_gemm:
        total = matmul(_rows(y, g).transpose(0, 2, 1), _whole(np.ascontiguousarray(x), g))
    else:
        blocks = [block for task in _tasks(len(x), x.shape[-1], x.itemsize, g) for block in task]
        count = max(1, min(LANES, LANE_BYTES // (prod(shape) * x.itemsize + 1)))
        lanes = _split(len(blocks), ceil(len(blocks) / count))
        sums = np.zeros((len(lanes), *shape), x.dtype)
        parallel(lambda i: _sum_products(x, y, blocks[lanes[i]], sums[i], g), len(lanes))
        total = sums.sum(axis=0) if len(sums) != 1 else sums[0]
    return np.moveaxis(total.reshape(filters, *g.kernel, per_group), -1, 1)


def _sum_products(x: Array, y: Array, blocks: list[Block], total: Array, g: ConvGeometry) -> None:
    """Adds y' . cols(x) of those blocks, one after the other."""
    for block in blocks:
        part = scratch("part", total.shape, total.dtype)
        np.matmul(_rows(y[block], g).transpose(0, 2, 1), _columns(x, block, g), out=part)
        total += part


def _matrix(w: Array, g: ConvGeometry) -> Array:
    """w as (groups, O / groups, taps * C / groups), the order in which windows lie in memory."""
    w = np.moveaxis(w, 1, -1)
    return np.ascontiguousarray(w).reshape(g.groups, len(w) // g.groups, g.taps * w.shape[-1])


def _rows(small: Array, g: ConvGeometry) -> Array:
    """A part of the small side as (groups, positions, channels / groups), a view where it can be."""
    part = np.ascontiguousarray(small)
    positions, channels = prod(part.shape[:-1]), part.shape[-1]
    return part.reshape(positions, g.groups, channels // g.groups).transpose(1, 0, 2)


def _tasks(batch: int, channels: int, itemsize: int, g: ConvGeometry) -> list[list[Block]]:
    """Nearly equal parts of the small side: columns of at most SCRATCH_BYTES each, but at least a row.

    Blocks of one image, whose windows overlap, are in the same task.
    """
    row_bytes = prod(g.output[1:]) * g.taps * channels * itemsize
    rows = max(1, SCRATCH_BYTES // max(1, row_bytes))
    if rows >= g.output[0]:
        return [[(images, slice(0, g.output[0]))] for images in _split(batch, rows // g.output[0])]
    return [[(slice(n, n + 1), part) for part in _split(g.output[0], rows)] for n in range(batch)]


def _split(total: int, most: int) -> list[slice]:
    count = ceil(total / max(1, most))
    return [slice(total * i // count, total * (i + 1) // count) for i in range(count)]


def _whole(image: Array, g: ConvGeometry) -> Array:
    """A contiguous big side as its own columns, which it is where `g.is_gemm`."""
    rows, per_group = len(image) * prod(g.output), image.shape[-1] // g.groups
    return image.reshape(rows, g.groups, g.taps * per_group).transpose(1, 0, 2)


def _columns(image: Array, block: Block, g: ConvGeometry) -> Array:
    """im2col: the windows of a block as (groups, positions, taps * C / groups)."""
    slab = _slab(image, block, g)
    groups, per_group, axes = g.groups, slab.shape[-1] // g.groups, range(1, g.ndim + 1)
    outer, channel = slab.strides[0], slab.strides[-1]
    positions = (len(slab), block[1].stop - block[1].start, *g.output[1:])
    windows = np.lib.stride_tricks.as_strided(
        slab,
        (groups, *positions, *g.kernel, per_group),
        (
            per_group * channel,
            outer,
            *(slab.strides[axis] * s for axis, s in zip(axes, g.stride, strict=True)),
            *(slab.strides[axis] * d for axis, d in zip(axes, g.dilation, strict=True)),
            channel,
        ),
        writeable=False,
    )
    columns = scratch("columns", windows.shape, image.dtype)
    np.copyto(columns, windows)
    return columns.reshape(groups, prod(positions), g.taps * per_group)


def _slab(image: Array, block: Block, g: ConvGeometry) -> Array:
    """The part of the big side that a block's windows read, with zeros where they leave the image."""
    spans = _spans(block[1], g)
    sizes, inside, places = [], [], []
    for axis, span in enumerate(spans):
        start = span.start * g.stride[axis] - g.padding[axis][0]
        size = (span.stop - span.start - 1) * g.stride[axis] + (g.kernel[axis] - 1) * g.dilation[axis] + 1
        low = min(max(start, 0), start + size)
        high = max(low, min(start + size, g.input[axis]))
        sizes.append(size)
        inside.append(slice(low, high))
        places.append(slice(low - start, high - start))
    source = image[(block[0], *inside)]
    shape = (len(source), *sizes, image.shape[-1])
    if source.shape == shape and image.strides[-1] == image.itemsize:
        return source
    slab = scratch("slab", shape, image.dtype)
    for axis, place in enumerate(places, start=1):
        before = (slice(None),) * axis
        slab[(*before, slice(None, place.start))] = 0
        slab[(*before, slice(place.stop, None))] = 0
    slab[(slice(None), *places)] = source
    return slab


def _products(rows: Array, matrix: Array, span: slice, g: ConvGeometry) -> Array:
    """y . W for a block, in scratch, indexed (*taps, group, channel, image, *position)."""
    extent = [part.stop - part.start for part in _spans(span, g)]
    positions = (rows.shape[1] // prod(extent), *extent)
    width = matrix.shape[-1]
    per_group = width // g.taps
    if per_group <= THIN:
        columns = scratch("columns", (g.groups, *g.kernel, per_group, *positions), rows.dtype)
        flat = columns.reshape(g.groups, width, rows.shape[1])
        np.matmul(matrix.transpose(0, 2, 1), rows.transpose(0, 2, 1), out=flat)
        return np.moveaxis(columns, 0, g.ndim)
    columns = scratch("columns", (g.groups, *positions, *g.kernel, per_group), rows.dtype)
    np.matmul(rows, matrix, out=columns.reshape(g.groups, rows.shape[1], width))
    first_tap = g.ndim + 2
    return columns.transpose(*range(first_tap, first_tap + g.ndim), 0, -1, *range(1, first_tap))


def _add_columns(columns: Array, image: Array, span: slice, g: ConvGeometry) -> None:
    """col2im: adds windows, indexed as `_products` gives them, to the image, one strided addition per tap."""
    groups, per_group = columns.shape[g.ndim : g.ndim + 2]
    target = np.moveaxis(image.reshape(*image.shape[:-1], groups, per_group), (-2, -1), (0, 1))
    spans = _spans(span, g)
    for tap in product(*map(range, g.kernel)):
        small, big = zip(*(_overlap(axis, tap[axis], spans[axis], g) for axis in range(g.ndim)), strict=True)
        place = target[(..., *big)]
        np.add(place, columns[(*tap, ..., *small)], out=place)


def _spans(rows: slice, g: ConvGeometry) -> list[slice]:
    """A block's part of every axis of the small side; only the first axis is ever divided."""
    return [rows, *(slice(0, size) for size in g.output[1:])]


def _overlap(axis: int, k: int, span: slice, g: ConvGeometry) -> tuple[slice, slice]:
    """Where tap k stays inside the image: positions i of the span, from its start, and i*s + k*d - p."""
    s, offset = g.stride[axis], k * g.dilation[axis] - g.padding[axis][0]
    first = max(span.start, -(offset // s))
    last = max(first, min(span.stop, (g.input[axis] - 1 - offset) // s + 1))
    return slice(first - span.start, last - span.start), slice(first * s + offset, last * s + offset, s)

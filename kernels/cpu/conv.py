"""Convolution of any geometry as a matrix product: im2col, GEMM, col2im.

The three kernels are the three derivatives of one trilinear form (see `ConvGeometry`),

    T(x, w, y) = sum over n, o, c, i, k of  x[n, c, i*s + k*d - p] * w[o, c, k] * y[n, o, i]

    conv(x, w)             = dT/dy   cols(x) . W'
    conv_transpose(y, w)   = dT/dx   cols'(y . W)
    conv_weight_grad(x, y) = dT/dw   y' . cols(x)

where a row of cols(x) is one window of x, taps first and channels last, W is w as a matrix in that same
order, and cols' (col2im) adds each window back to where it came from. Each derivative of one of the three
is made of the other two, so nothing else is needed for gradients of any order.

Arrays have (N, C, *spatial) shapes. Images come back as views of channels-last memory, and go in fastest that
way, though any strides will do. The columns of a whole batch would be many times its size, so they are made
a block at a time, in scratch memory that stays with its thread.

Faster algorithms for particular geometries do not live here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import product
from math import ceil, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ..geometry import ConvGeometry

__all__ = ["conv", "conv_transpose", "conv_weight_grad"]

Array = npt.NDArray[Any]
Block = tuple[slice, slice]  # images of the batch, rows (first spatial axis) of the small side

# Larger blocks make the GEMM faster until the columns fall out of the cache: 8 MB is the best of 1 to 32.
SCRATCH_BYTES = 8 << 20
# Up to this many channels, col2im walks along pixels: a run of 3 floats is not worth its loop.
THIN = 4

_kept = threading.local()


def conv(x: Array, w: Array, g: ConvGeometry) -> Array:
    """Cross-correlation: x (N, C, *g.input) with w (O, C / groups, *g.kernel) gives y (N, O, *g.output).

        y[n, o, i] = sum over c, k of  x[n, c, i*s + k*d - p] * w[o, c, k]

    >>> import numpy as np
    >>> from minigan.kernels.cpu.conv import conv
    >>> from minigan.kernels.geometry import ConvGeometry
    >>> g = ConvGeometry.conv((4,), (2,), stride=2)
    >>> conv(np.arange(4.0).reshape(1, 1, 4), np.array([[[1.0, 10.0]]]), g)
    array([[[10., 32.]]])
    """
    batch, channels, filters = _sizes("conv", g, x=x, w=w)
    image, matrix = _channels_last(x), _matrix(w, g)
    out = np.empty((batch, *g.output, filters), image.dtype)
    for block in _blocks(batch, channels, image.itemsize, g):
        np.matmul(_columns(image, block, g), matrix.transpose(0, 2, 1), out=_rows(out, block, g))
    return _channels_first(out, x.dtype)


def conv_transpose(y: Array, w: Array, g: ConvGeometry) -> Array:
    """`conv` turned round: y (N, O, *g.output) with w (O, C / groups, *g.kernel) gives x (N, C, *g.input).

        x[n, c, j] = sum over o and all i, k with i*s + k*d - p == j of  y[n, o, i] * w[o, c, k]

    >>> import numpy as np
    >>> from minigan.kernels.cpu.conv import conv_transpose
    >>> from minigan.kernels.geometry import ConvGeometry
    >>> g = ConvGeometry.transpose((2,), (2,), stride=2)
    >>> conv_transpose(np.array([[[3.0, 4.0]]]), np.array([[[1.0, 10.0]]]), g)
    array([[[ 3., 30.,  4., 40.]]])
    """
    batch, channels, _ = _sizes("conv_transpose", g, w=w, y=y)
    small, matrix = _channels_last(y), _matrix(w, g)
    allocate = np.empty if g.is_gemm else np.zeros
    out = allocate((batch, *g.input, channels), small.dtype)
    for block in _blocks(batch, channels, small.itemsize, g):
        rows = _rows(small, block, g)
        if g.is_gemm:
            np.matmul(rows, matrix, out=_whole(out, g))
        else:
            _add_columns(_products(rows, matrix, block[1], g), out[block[0]], block[1], g)
    return _channels_first(out, y.dtype)


def conv_weight_grad(x: Array, y: Array, g: ConvGeometry) -> Array:
    """x (N, C, *g.input) with y (N, O, *g.output) gives w (O, C / groups, *g.kernel), C-contiguous.

        w[o, c, k] = sum over n, i of  y[n, o, i] * x[n, c, i*s + k*d - p]

    >>> import numpy as np
    >>> from minigan.kernels.cpu.conv import conv_weight_grad
    >>> from minigan.kernels.geometry import ConvGeometry
    >>> g = ConvGeometry.conv((4,), (2,), stride=2)
    >>> conv_weight_grad(np.arange(4.0).reshape(1, 1, 4), np.array([[[1.0, 10.0]]]), g)
    array([[[20., 31.]]])
    """
    batch, channels, filters = _sizes("conv_weight_grad", g, x=x, y=y)
    image, small = _channels_last(x), _channels_last(y)
    per_group = channels // g.groups
    total = np.zeros((g.groups, filters // g.groups, g.taps * per_group), image.dtype)
    part = total
    for block in _blocks(batch, channels, image.itemsize, g):
        np.matmul(_rows(small, block, g).transpose(0, 2, 1), _columns(image, block, g), out=part)
        if part is total:  # the first block; later ones are added to it
            part = np.empty_like(total)
        else:
            total += part
    grad = np.moveaxis(total.reshape(filters, *g.kernel, per_group), -1, 1)
    return np.ascontiguousarray(grad, dtype=x.dtype)


def _sizes(
    op: str, g: ConvGeometry, x: Array | None = None, w: Array | None = None, y: Array | None = None
) -> tuple[int, int, int]:
    """Batch, channels and filters, once the arrays are known to fit the geometry and each other."""
    arrays = {name: array for name, array in (("x", x), ("w", w), ("y", y)) if array is not None}
    batch = next(len(arrays[name]) for name in ("x", "y") if name in arrays)
    channels = arrays["w"].shape[1] * g.groups if "w" in arrays else arrays["x"].shape[1]
    filters = len(arrays["w"]) if "w" in arrays else arrays["y"].shape[1]
    expected = {
        "x": (batch, channels, *g.input),
        "w": (filters, channels // g.groups, *g.kernel),
        "y": (batch, filters, *g.output),
    }
    for name, array in arrays.items():
        if array.shape != expected[name]:
            raise ValueError(f"{op}: {name} has shape {array.shape}, expected {expected[name]}, for {g}")
    if channels % g.groups or filters % g.groups:
        raise ValueError(
            f"{op}: {channels} and {filters} channels do not divide into {g.groups} groups; give multiples of groups"
        )
    if len({array.dtype for array in arrays.values()}) > 1:
        given = " and ".join(f"{name} {array.dtype}" for name, array in arrays.items())
        raise TypeError(f"{op}: got {given}; convert one so that both have the same dtype")
    return batch, channels, filters


def _channels_last(image: Array) -> Array:
    """(N, C, *spatial) seen as (N, *spatial, C); float16, which BLAS does not know, becomes float32."""
    if image.dtype == np.float16:
        image = image.astype(np.float32)
    return np.moveaxis(image, 1, -1)


def _channels_first(image: Array, dtype: np.dtype[Any]) -> Array:
    return np.moveaxis(image, -1, 1).astype(dtype, copy=False)


def _matrix(w: Array, g: ConvGeometry) -> Array:
    """w as (groups, O / groups, taps * C / groups), the order in which windows lie in memory."""
    w = _channels_last(w)
    return np.ascontiguousarray(w).reshape(g.groups, len(w) // g.groups, g.taps * w.shape[-1])


def _rows(small: Array, block: Block, g: ConvGeometry) -> Array:
    """A block of the small side as (groups, positions, channels / groups), a view where it can be."""
    part = np.ascontiguousarray(small[block])
    positions, channels = prod(part.shape[:-1]), part.shape[-1]
    return part.reshape(positions, g.groups, channels // g.groups).transpose(1, 0, 2)


def _blocks(batch: int, channels: int, itemsize: int, g: ConvGeometry) -> Iterator[Block]:
    """Nearly equal parts of the small side: columns of at most SCRATCH_BYTES each, but at least a row."""
    if g.is_gemm:
        yield slice(None), slice(None)
        return
    row_bytes = prod(g.output[1:]) * g.taps * channels * itemsize
    rows = max(1, SCRATCH_BYTES // max(1, row_bytes))
    if rows >= g.output[0]:
        for images in _split(batch, rows // g.output[0]):
            yield images, slice(0, g.output[0])
    else:
        for n in range(batch):
            for part in _split(g.output[0], rows):
                yield slice(n, n + 1), part


def _split(total: int, most: int) -> Iterator[slice]:
    count = ceil(total / most)
    for i in range(count):
        yield slice(total * i // count, total * (i + 1) // count)


def _whole(image: Array, g: ConvGeometry) -> Array:
    """A contiguous big side as its own columns, which it is where `g.is_gemm`."""
    rows, per_group = len(image) * prod(g.output), image.shape[-1] // g.groups
    return image.reshape(rows, g.groups, g.taps * per_group).transpose(1, 0, 2)


def _columns(image: Array, block: Block, g: ConvGeometry) -> Array:
    """im2col: the windows of a block as (groups, positions, taps * C / groups)."""
    if g.is_gemm:
        return _whole(np.ascontiguousarray(image), g)
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
    columns = _scratch("columns", windows.shape, image.dtype)
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
    slab = _scratch("slab", shape, image.dtype)
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
        columns = _scratch("columns", (g.groups, *g.kernel, per_group, *positions), rows.dtype)
        flat = columns.reshape(g.groups, width, rows.shape[1])
        np.matmul(matrix.transpose(0, 2, 1), rows.transpose(0, 2, 1), out=flat)
        return np.moveaxis(columns, 0, g.ndim)
    columns = _scratch("columns", (g.groups, *positions, *g.kernel, per_group), rows.dtype)
    np.matmul(rows, matrix, out=columns.reshape(g.groups, rows.shape[1], width))
    first_tap = g.ndim + 2
    return columns.transpose(*range(first_tap, first_tap + g.ndim), 0, -1, *range(1, first_tap))


def _add_columns(columns: Array, image: Array, span: slice, g: ConvGeometry) -> None:
    """col2im: adds windows, indexed as `_products` gives them, to the image, one strided addition per tap."""
    groups, per_group = columns.shape[g.ndim : g.ndim + 2]
    target = np.moveaxis(image.reshape(*image.shape[:-1], groups, per_group), (-2, -1), (0, 1))
    spans = _spans(span, g)
    with np.errstate():  # restores the buffer size
        # By default NumPy copies strided operands with runs this short through its buffers.
        np.setbufsize(1024)
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


def _scratch(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Uninitialised memory that this thread keeps under a name: fresh pages cost as much as a copy."""
    size = prod(shape) * dtype.itemsize
    memory = getattr(_kept, name, None)
    if memory is None or memory.nbytes < size:
        memory = np.empty(max(size, SCRATCH_BYTES), np.uint8)  # untouched pages are free
        if size <= SCRATCH_BYTES:
            setattr(_kept, name, memory)
    return np.ndarray(shape, dtype, memory)

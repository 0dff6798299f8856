"""In what order a convolution's images and weights lie in memory for its kernels on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..geometry import ConvGeometry
from .elementwise import copy

if TYPE_CHECKING:
    from .conv import Shape

__all__ = ["by_columns", "by_phases", "by_pixels", "channels_first", "channels_last", "repacked", "without_gaps"]

Array = Any

THREADS = 256


def repacked(device: Any, array: Array, batches: int, rows: int, channels: int, taps: int) -> Array:
    """Each [rows][channels · taps] as [taps][channels][rows]."""
    out = device.empty((batches * taps * channels, rows), np.float32)
    blocks = batches * -(-rows // 32) * -(-channels * taps // 32)
    device.launch("conv", "conv_repack", (blocks,), (THREADS,), [array, out, rows, channels, taps])
    return out


def by_phases(device: Any, w: Array, shape: Shape) -> Array:
    """The weights for an input gradient: a matrix for each phase, with room for as many taps as the largest has."""
    channels, columns = shape.per_group("transpose")
    depth, rows = shape.product("transpose")[2], channels * columns
    out = device.empty((shape.groups * prod(shape.stride[1:]), depth, columns), np.float32)
    blocks = shape.groups * -(-rows // 32) * -(-prod(shape.kernel) // 32)
    sizes = (n for size in (shape.kernel, shape.stride, shape.dilation, shape.pad) for n in size[1:])
    device.launch("conv_transpose", "conv_transpose_repack", (blocks,), (THREADS,), [w, out, rows, *sizes])
    return out


def by_columns(device: Any, op: str, w: Array, g: ConvGeometry, shape: Shape) -> Array:
    """The weights for Hopper, rounded to TF32: a row for each column that is made, of each group and phase.

    Along a row, 32 channels of all taps, then the next 32.
    """
    read, columns = shape.per_group(op)
    if g.is_gemm and g.taps > 1:  # its taps are among the channels of `shape`
        w = repacked(device, w, len(w), w.shape[1], 1, g.taps)
    taps = prod(shape.kernel)
    sizes: tuple[int, ...] = (taps, read * taps, *shape.kernel[1:], 1, 1, 1, 1, 0, 0)  # of forward: one phase
    if op == "transpose":
        axes = (shape.kernel, shape.stride, shape.dilation, shape.pad)
        sizes = (columns * taps, taps, *(n for sizes_of in axes for n in sizes_of[1:]))
    depth = shape.product(op)[2]
    out = device.empty((shape.groups * shape.tiles(op, "wgmma")[2] * columns, depth), np.float32)
    blocks = shape.groups * (read // 32) * -(-columns * taps // 32)
    arguments = [w, out, read, columns, *sizes]
    device.launch("conv_hopper", "conv_wgmma_repack", (blocks,), (THREADS,), arguments)
    return out


def by_pixels(device: Any, y: Array) -> Array:
    """An image (N, *spatial, C) as (C, pixels) for Hopper, rounded to TF32, with zeros up to a multiple of 4 pixels."""
    columns = y.shape[-1]
    pixels = y.size // columns
    out = device.empty((columns, -(-pixels // 4) * 4), np.float32)
    blocks = -(-columns // 32) * -(-pixels // 32)
    device.launch("conv_hopper_weight", "conv_wgmma_repack_pixels", (blocks,), (THREADS,), [y, out, pixels, columns])
    return out


def without_gaps(device: Any, array: Array) -> Array:
    return array if array.flags.c_contiguous else copy(device, array)


def channels_last(device: Any, image: Array) -> Array:
    """(N, C, *spatial) as (N, *spatial, C) without gaps: the same memory if it lies so, or a copy."""
    last = image.transpose((0, *range(2, image.ndim), 1))
    if last.flags.c_contiguous:
        return last
    if not image.flags.c_contiguous:
        return without_gaps(device, last)
    batch, channels, *spatial = image.shape
    if channels < 16:
        out, size = device.empty(last.shape, np.float32), prod(spatial)
        arguments = [image, out, batch * size, channels, size]
        device.launch("conv", "conv_channels_last", (-(-batch * size // THREADS),), (THREADS,), arguments)
        return out
    return repacked(device, image, batch, channels, 1, prod(spatial)).reshape(last.shape)


def channels_first(image: Array) -> Array:
    axes: Sequence[int] = range(1, image.ndim - 1)
    return image.transpose((0, image.ndim - 1, *axes))

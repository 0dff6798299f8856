"""Convolution in two dimensions by Winograd's method, for all three members of the trilinear form.

A convolution with stride s is one with stride 1 on cells of s × s pixels, whose s·s·C values count as the channels of
a cell (its depth D): k4 s2 becomes k2 s1, k5 s2 becomes k3 s1 with a tap of zeros. There the transforms of
`toom_cook.py` are applied to the rows and the columns of tiles, and what remains is one matrix product at each of the
P = Pr·Pc pairs of nodes, over all tiles t of a batch:

    V[p, t, d] = B·cells·Bᵀ          (the big side)        conv:              M[p] = V[p]·U[p]ᵀ,   y  = Aᵀ·M·A
    M[p, t, o] = A·y·Aᵀ              (the small side)      conv_transpose:    V[p] = M[p]·U[p],    x  = Bᵀ·V·B
    U[p, o, d] = G·w·Gᵀ              (the filters)         conv_weight_grad:  U[p] = M[p]ᵀ·V[p],   w  = Gᵀ·U·G

`conv` can keep V, and `conv_transpose` M, for the weight gradient, which then has only one transform left to make.

Transforms are made a slice of the batch at a time, and products a block of slices, so that what passes between the
two is still in the cache. Slices and blocks depend on sizes alone, not on threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import product
from math import ceil, prod
from typing import Any

import numpy as np

from ..geometry import ConvGeometry
from .memory import empty, scratch
from .toom_cook import Transform, transform
from .workers import parallel

__all__ = ["Plan", "big_side", "conv", "conv_transpose", "conv_weight_grad", "filters", "plan_for", "small_side"]

Array = np.ndarray[Any, Any]

SLICE_BYTES = 2 << 20  # of one slice's V: what a transform reads and writes stays near one core
BLOCK_BYTES = 32 << 20  # of one block's V and M: products want many rows, and more than this leaves the last cache
FILTER_BYTES = 2 << 20  # of the transformed filters that one piece of work makes or reads


@dataclass(frozen=True)
class Plan:
    """What a geometry, its sizes and a pair of transforms lead to."""

    g: ConvGeometry
    rows: Transform
    columns: Transform
    batch: int
    channels: int
    filters: int

    @cached_property
    def depth(self) -> int:
        """D: the values of a cell."""
        return self.channels * prod(self.g.stride)

    @cached_property
    def nodes(self) -> int:
        """P: pairs of nodes."""
        return self.rows.nodes * self.columns.nodes

    @cached_property
    def tiles(self) -> tuple[int, int]:
        """Down and across an image; the last ones may reach over its edge."""
        return ceil(self.g.output[0] / self.rows.m), ceil(self.g.output[1] / self.columns.m)

    @cached_property
    def cells(self) -> tuple[int, int]:
        """Down and across what the tiles of an image read."""
        (down, across), rows, columns = self.tiles, self.rows, self.columns
        return down * rows.m + rows.r - 1, across * columns.m + columns.r - 1

    @cached_property
    def covered(self) -> tuple[int, int]:
        """Down and across what the tiles cover of the small side."""
        return self.tiles[0] * self.rows.m, self.tiles[1] * self.columns.m

    def empty_big(self, dtype: np.dtype[Any]) -> Array:
        """Memory for V of the whole batch."""
        return empty((self.nodes, self.batch * prod(self.tiles), self.depth), dtype)

    def empty_small(self, dtype: np.dtype[Any]) -> Array:
        """Memory for M of the whole batch."""
        return empty((self.nodes, self.batch * prod(self.tiles), self.filters), dtype)

    def matrix(self, name: str, dtype: np.dtype[Any]) -> Array:
        """A, B or G for rows and columns at once: X = B·d·Bᵀ is (B ⊗ B)·d, with d and X as columns of entries."""
        return _kronecker(name, self.rows, self.columns, dtype)

    def image_bytes(self, itemsize: int) -> int:
        """Of one image's V and M."""
        return self.nodes * prod(self.tiles) * (self.depth + self.filters) * itemsize

    def blocks(self, itemsize: int) -> list[list[slice]]:
        """Images by slices and blocks of slices."""
        a_slice = max(1, SLICE_BYTES // (self.nodes * prod(self.tiles) * self.depth * itemsize))
        a_block = max(1, BLOCK_BYTES // self.image_bytes(itemsize))
        return [_split(block, a_slice) for block in _split(slice(0, self.batch), a_block)]

    def at(self, images: slice) -> slice:
        """Where the tiles of those images are along T."""
        per_image = prod(self.tiles)
        return slice(images.start * per_image, images.stop * per_image)


@cache
def _kronecker(name: str, rows: Transform, columns: Transform, dtype: np.dtype[Any]) -> Array:
    return np.kron(getattr(rows, name), getattr(columns, name)).astype(dtype)


@lru_cache(maxsize=256)
def plan_for(g: ConvGeometry, batch: int, channels: int, filters: int, m: tuple[int, int]) -> Plan:
    """The plan with tiles of m[0] × m[1] outputs."""
    rows, columns = (transform(m[axis], ceil(g.kernel[axis] / g.stride[axis])) for axis in (0, 1))
    return Plan(g, rows, columns, batch, channels, filters)


# The three kernels -----------------------------------------------------------------------------------------


def conv(x: Array, U: Array, plan: Plan, kept: Array | None = None) -> Array:
    """y (N, *output, O) of x (N, *input, C) and transformed filters; fills `kept` (P, T, D) with V."""
    y = empty((plan.batch, *plan.g.output, plan.filters), x.dtype)
    for block in plan.blocks(x.itemsize):
        V = _block_of(kept, "V", block, plan.depth, plan, x.dtype)
        M = _block_of(None, "M", block, plan.filters, plan, x.dtype)
        _conv_block(x, y, block, V, U, M, plan)
    return y


def _conv_block(x: Array, y: Array, block: list[slice], V: Array, U: Array, M: Array, plan: Plan) -> None:
    parallel(lambda i: _big_to_nodes(x, block[i], _nodes(V, block, i, plan), plan), len(block))
    _at_each_node(lambda p, part: np.matmul(V[p], U[p, part].T, out=M[p, :, part]), plan, plan.filters)
    parallel(lambda i: _small_from_nodes(_nodes(M, block, i, plan), y, block[i], plan), len(block))


def conv_transpose(y: Array, U: Array, plan: Plan, kept: Array | None = None) -> Array:
    """x (N, *input, C) of y (N, *output, O) and transformed filters; fills `kept` (P, T, O) with M."""
    x = empty((plan.batch, *plan.g.input, plan.channels), y.dtype)
    if tuple(part.stop for _, part in _inside(plan)) != plan.g.input:
        x[...] = 0
    for block in plan.blocks(y.itemsize):
        M = _block_of(kept, "M", block, plan.filters, plan, y.dtype)
        V = _block_of(None, "V", block, plan.depth, plan, y.dtype)
        _transpose_block(x, y, block, V, U, M, plan)
    return x


def _transpose_block(x: Array, y: Array, block: list[slice], V: Array, U: Array, M: Array, plan: Plan) -> None:
    parallel(lambda i: _small_to_nodes(y, block[i], _nodes(M, block, i, plan), plan), len(block))
    _at_each_node(lambda p, part: np.matmul(M[p], U[p, :, part], out=V[p, :, part]), plan, plan.depth)
    parallel(lambda i: _big_from_nodes(_nodes(V, block, i, plan), x, block[i], plan), len(block))


def big_side(x: Array, plan: Plan) -> Array:
    """V (P, T, D) of all of x."""
    V, slices = plan.empty_big(x.dtype), _all_slices(plan, x.itemsize)
    parallel(lambda i: _big_to_nodes(x, slices[i], _nodes(V, slices, i, plan), plan), len(slices))
    return V


def small_side(y: Array, plan: Plan) -> Array:
    """M (P, T, O) of all of y."""
    M, slices = plan.empty_small(y.dtype), _all_slices(plan, y.itemsize)
    parallel(lambda i: _small_to_nodes(y, slices[i], _nodes(M, slices, i, plan), plan), len(slices))
    return M


def _all_slices(plan: Plan, itemsize: int) -> list[slice]:
    return [images for block in plan.blocks(itemsize) for images in block]


def conv_weight_grad(V: Array, M: Array, plan: Plan) -> Array:
    """w (O, C, *kernel) of both transformed sides."""
    U = empty((plan.nodes, plan.filters, plan.depth), V.dtype)
    _at_each_node(lambda p, part: np.matmul(M[p].T, V[p, :, part], out=U[p, :, part]), plan, plan.depth)
    w = empty((plan.filters, plan.channels, *plan.g.kernel), V.dtype)
    parts, taps = _filter_parts(plan, V.itemsize), plan.matrix("G", V.dtype).T

    def some(i: int) -> None:
        cells = scratch("taps", (len(taps), (parts[i].stop - parts[i].start) * plan.depth), V.dtype)
        np.matmul(taps, U[:, parts[i]].reshape(plan.nodes, -1, copy=False), out=cells)
        _cells_to_taps(cells, w[parts[i]], plan)

    parallel(some, len(parts))
    return w


def filters(w: Array, plan: Plan) -> Array:
    """U (P, O, D) of w (O, C, *kernel)."""
    U = empty((plan.nodes, plan.filters, plan.depth), w.dtype)
    parts, taps = _filter_parts(plan, w.itemsize), plan.matrix("G", w.dtype)

    def some(i: int) -> None:
        cells = _taps_to_cells(w[parts[i]], plan)
        np.matmul(taps, cells, out=U[:, parts[i]].reshape(plan.nodes, -1, copy=False))

    parallel(some, len(parts))
    return U


# Products --------------------------------------------------------------------------------------------------


def _at_each_node(product: Any, plan: Plan, width: int) -> None:
    """A product at each pair of nodes; at the last, or where nodes are few, half of its columns at a time."""
    halves = [slice(0, width // 2), slice(width // 2, width)] if width >= 64 else [slice(0, width)]
    whole = plan.nodes - 1 if plan.nodes > 16 else 0
    pieces = [(p, part) for p in range(plan.nodes) for part in ([slice(0, width)] if p < whole else halves)]
    parallel(lambda i: product(*pieces[i]), len(pieces))


def _block_of(
    kept: Array | None, name: str, block: Sequence[slice], width: int, plan: Plan, dtype: np.dtype[Any]
) -> Array:
    """(P, tiles of the block, width): a part of what is kept, or scratch."""
    tiles = plan.at(slice(block[0].start, block[-1].stop))
    if kept is not None:
        return kept[:, tiles]
    return scratch(name, (plan.nodes, tiles.stop - tiles.start, width), dtype)


def _nodes(array: Array, slices: Sequence[slice], i: int, plan: Plan) -> Array:
    """The i-th slice's part of V or M, as (P, its tiles and channels)."""
    start, tiles = plan.at(slices[0]).start, plan.at(slices[i])
    return array[:, tiles.start - start : tiles.stop - start].reshape(plan.nodes, -1, copy=False)


# Transforms ------------------------------------------------------------------------------------------------
#
# Each is a copy between an image and its tiles, entries first, and one product with a small matrix.


def _big_to_nodes(x: Array, images: slice, V: Array, plan: Plan) -> None:
    """V = B·cells·Bᵀ"""
    padded = _padded(plan, images, x.dtype)
    (top, height), (left, width) = _inside(plan)
    padded[:, : top.start] = padded[:, top.stop :] = 0
    padded[:, top, : left.start] = padded[:, top, left.stop :] = 0
    padded[:, top, left] = x[images, height, width]
    entries = _entries(padded, plan)
    tiles = scratch("tiles", entries.shape, x.dtype)
    np.copyto(tiles, entries)
    np.matmul(plan.matrix("B", x.dtype), tiles.reshape(plan.nodes, -1), out=V)


def _big_from_nodes(V: Array, x: Array, images: slice, plan: Plan) -> None:
    """cells = Bᵀ·V·B, the sum of the tiles where they overlap."""
    padded = _padded(plan, images, x.dtype)
    entries = _entries(padded, plan)
    tiles = scratch("tiles", entries.shape, x.dtype)
    np.matmul(plan.matrix("B", x.dtype).T, V, out=tiles.reshape(plan.nodes, -1))
    own = plan.rows.m, plan.columns.m  # a tile's first entries are its own, the others are also its neighbours'
    padded[:, own[0] * plan.tiles[0] * plan.g.stride[0] :] = 0
    padded[:, :, own[1] * plan.tiles[1] * plan.g.stride[1] :] = 0
    np.copyto(entries[: own[0], : own[1]], tiles[: own[0], : own[1]])
    for i, j in product(range(plan.rows.nodes), range(plan.columns.nodes)):
        if i >= own[0] or j >= own[1]:
            np.add(entries[i, j], tiles[i, j], out=entries[i, j])
    (top, height), (left, width) = _inside(plan)
    x[images, height, width] = padded[:, top, left]


def _small_to_nodes(y: Array, images: slice, M: Array, plan: Plan) -> None:
    """M = A·y·Aᵀ"""
    image, (height, width) = y[images], plan.g.output
    if plan.covered != plan.g.output:
        image = scratch("padded", (len(image), *plan.covered, plan.filters), y.dtype)
        image[:, height:] = 0
        image[:, :height, width:] = 0
        image[:, :height, :width] = y[images]
    entries = _small_entries(image, plan)
    tiles = scratch("tiles", entries.shape, y.dtype)
    np.copyto(tiles, entries)
    np.matmul(plan.matrix("A", y.dtype), tiles.reshape(plan.rows.m * plan.columns.m, -1), out=M)


def _small_from_nodes(M: Array, y: Array, images: slice, plan: Plan) -> None:
    """y = Aᵀ·M·A"""
    whole = plan.covered == plan.g.output
    shape = (images.stop - images.start, *plan.covered, plan.filters)
    image = y[images] if whole else scratch("padded", shape, y.dtype)
    entries = _small_entries(image, plan)
    tiles = scratch("tiles", entries.shape, y.dtype)
    np.matmul(plan.matrix("A", y.dtype).T, M, out=tiles.reshape(plan.rows.m * plan.columns.m, -1))
    np.copyto(entries, tiles)
    if not whole:
        y[images] = image[:, : plan.g.output[0], : plan.g.output[1]]


def _padded(plan: Plan, images: slice, dtype: np.dtype[Any]) -> Array:
    """Scratch for images with their padding, as far as the tiles reach: (N, H, W, C)."""
    size = (cells * s for cells, s in zip(plan.cells, plan.g.stride, strict=True))
    return scratch("padded", (images.stop - images.start, *size, plan.channels), dtype)


def _entries(padded: Array, plan: Plan) -> Array:
    """A view of padded images by tiles: (row entry, column entry, N, *tiles, pixel row, pixel column and channel).

    Tiles overlap, and so do the entries: entry (m, j) of one tile is entry (0, j) of the one below it.
    """
    (s, t), rows, columns = plan.g.stride, plan.rows, plan.columns
    image, row, pixel, channel = padded.strides
    return np.lib.stride_tricks.as_strided(
        padded,
        (rows.nodes, columns.nodes, len(padded), *plan.tiles, s, t * plan.channels),
        (s * row, t * pixel, image, rows.m * s * row, columns.m * t * pixel, row, channel),
    )


def _small_entries(image: Array, plan: Plan) -> Array:
    """A view (where strides allow it) of the small side: (row entry, column entry, N, *tiles, O)."""
    (down, across), rows, columns = plan.tiles, plan.rows, plan.columns
    split = image.reshape(len(image), down, rows.m, across, columns.m, plan.filters)
    return split.transpose(2, 4, 0, 1, 3, 5)


def _inside(plan: Plan) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """For each axis: where the image is among padded pixels, and which part of it that is (the rest is never read)."""
    found = []
    for size, (before, _), cells, s in zip(plan.g.input, plan.g.padding, plan.cells, plan.g.stride, strict=True):
        first = min(before, cells * s)
        read = min(size, cells * s - first)
        found.append((slice(first, first + read), slice(0, read)))
    return found[0], found[1]


# Filters ---------------------------------------------------------------------------------------------------


def _filter_parts(plan: Plan, itemsize: int) -> list[slice]:
    return _split(slice(0, plan.filters), max(1, FILTER_BYTES // (plan.nodes * plan.depth * itemsize)))


def _taps_to_cells(w: Array, plan: Plan) -> Array:
    """(O, C, *kernel) as (taps of cells, O·D), with zeros where a cell's tap is beyond the kernel."""
    (r, q), (s, t), (height, width) = (plan.rows.r, plan.columns.r), plan.g.stride, plan.g.kernel
    if (r * s, q * t) != (height, width):
        w = np.pad(w, ((0, 0), (0, 0), (0, r * s - height), (0, q * t - width)))
    split = w.reshape(len(w), plan.channels, r, s, q, t)
    return np.ascontiguousarray(split.transpose(2, 4, 0, 3, 5, 1)).reshape(r * q, -1)


def _cells_to_taps(cells: Array, w: Array, plan: Plan) -> None:
    (r, q), (s, t) = (plan.rows.r, plan.columns.r), plan.g.stride
    split = cells.reshape(r, q, len(w), s, t, plan.channels)
    for i in range(plan.g.kernel[0]):
        for j in range(plan.g.kernel[1]):
            w[:, :, i, j] = split[i // s, j // t, :, i % s, j % t]


def _split(whole: slice, most: int) -> list[slice]:
    """Nearly equal parts of at most that size; one, or an even number for an even number of threads."""
    size = whole.stop - whole.start
    count = ceil(size / most)
    count = min(size, count + count % 2) if count > 1 else count
    return [
        slice(whole.start + size * i // count, whole.start + size * (i + 1) // count) for i in range(count)
    ]  # fmt: skip

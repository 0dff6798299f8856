"""Arrays as rows of channels, cut into pieces for the workers.

An array with its averaged axes in the middle of memory is [groups, rows, channels] without a copy: a batch norm of
channels-last images has one group, an instance norm one for each image. A piece is some rows of one group, or some
whole groups where those are small. Pieces depend on sizes alone.

Several rows lie side by side as one, `tile` of them, so that inner loops are long where channels are few: vectors of
one value per channel are repeated as often.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import numpy as np

from .memory import empty

__all__ = ["PIECE", "WHOLE", "Rows", "in_memory_order", "piece_size", "rows_of"]

Array = np.ndarray[Any, Any]

WHOLE = 1 << 18  # values: fewer are not worth cutting, and waking up a thread
PIECE = 1 << 18  # values: in smaller ones, threads wait for the interpreter's lock more than they save by the cache
LONG = 1 << 12  # values of an inner loop
FEW = 8  # rows of a piece at least: sums over fewer would need much memory


def piece_size(size: int) -> int:
    """How many of `size` values are a piece: all of them, or at most PIECE, so that pieces are of an even number.

    >>> piece_size(1 << 20), piece_size(1 << 18), piece_size(5 << 18)
    (262144, 262144, 218454)
    """
    if size <= PIECE:
        return max(size, 1)
    pairs = -(-size // (2 * PIECE))
    return -(-size // (2 * pairs))


def in_memory_order(strides: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes from the slowest to the fastest; those of one entry, whose strides mean nothing, first.

    >>> x = np.empty((2, 5, 6, 3)).transpose(0, 3, 1, 2)  # an image with channels last
    >>> in_memory_order(x.strides, x.shape)
    (0, 2, 3, 1)
    """
    return tuple(sorted(range(len(shape)), key=lambda axis: (shape[axis] != 1, -strides[axis], axis)))


@dataclass(frozen=True)
class Piece:
    """Some rows of some groups, the `number`th piece of each."""

    groups: slice
    rows: slice
    number: int
    tile: int

    @property
    def count(self) -> int:
        """Rows of each group."""
        return self.rows.stop - self.rows.start


@dataclass(frozen=True)
class Rows:
    """An array of `shape` as [groups, rows, channels], its axes in the `order` of memory."""

    shape: tuple[int, ...]
    order: tuple[int, ...]
    axes: tuple[int, ...]  # averaged over
    groups: int
    rows: int
    channels: int
    tile: int
    pieces: tuple[Piece, ...]

    @cached_property
    def inverse(self) -> tuple[int, ...]:
        """Where each axis of the shape is in the order of memory."""
        return tuple(map(self.order.index, range(len(self.order))))

    @cached_property
    def kept(self) -> tuple[int, ...]:
        """The shape of what has one value for each group and channel."""
        return tuple(1 if axis in self.axes else size for axis, size in enumerate(self.shape))

    @property
    def per_group(self) -> int:
        """Pieces of a group."""
        return self.pieces[-1].number + 1

    def of(self, x: Array) -> Array:
        """x as [groups, rows, channels]; a copy only if it lies in memory otherwise."""
        return np.ascontiguousarray(x.transpose(self.order)).reshape(self.groups, self.rows, self.channels)

    def empty(self, dtype: np.dtype[Any]) -> Array:
        """Memory for such an array."""
        return empty((self.groups, self.rows, self.channels), dtype)

    def back(self, x: Array) -> Array:
        """[groups, rows, channels] as an array of the shape, in the same memory."""
        return x.reshape([self.shape[axis] for axis in self.order]).transpose(self.inverse)

    def part(self, x: Array, piece: Piece) -> Array:
        """A piece of [groups, rows, channels] as [groups, rows / tile, tile·channels]."""
        return x[piece.groups, piece.rows].reshape(-1, piece.count // piece.tile, piece.tile * self.channels)

    # One value for each group and channel ----------------------------------------------------------------

    def statistic(self, v: Array) -> Array:
        """[groups, channels] with the number of axes of the array, one entry along those averaged over."""
        sizes = [1 if axis in self.axes else self.shape[axis] for axis in self.order]
        return v.reshape(sizes).transpose(self.inverse)

    def vector(self, v: Array) -> Array | None:
        """What broadcasts with the array as [groups, channels]; None if it differs along axes averaged over."""
        kept = self.kept
        missing = (1,) * (len(kept) - v.ndim)
        if self.groups == 1 and missing + v.shape == kept and max(kept) == self.channels:
            return v.reshape(1, self.channels)  # one axis of channels, without a detour
        if any(size != 1 and at in self.axes for at, size in enumerate(missing + v.shape)):
            return None
        return np.broadcast_to(v, kept).transpose(self.order).reshape(self.groups, self.channels)

    def tiled(self, v: Array) -> Array:
        """[groups, channels], repeated for the rows that lie side by side."""
        repeated = np.empty((len(v), self.tile, self.channels), v.dtype)
        repeated[...] = v[:, None]
        return repeated.reshape(len(v), 1, self.tile * self.channels)

    def beside(self, tiled: Array, piece: Piece) -> Array:
        """The vectors that belong to a piece."""
        return tiled[piece.groups, :, : piece.tile * self.channels]

    # Sums over rows: in the array's dtype over some of them, in float64 over those sums -----------------------

    def partial(self, dtype: np.dtype[Any]) -> Array:
        """Memory for the sums of all pieces, 0 where a piece has no such row beside another."""
        return np.zeros((self.groups, self.per_group, self.tile * self.channels), dtype)

    def beside_of(self, partial: Array, piece: Piece) -> Array:
        """Where the sums of a piece go."""
        return partial[piece.groups, piece.number, : piece.tile * self.channels]

    def total(self, partial: Array) -> Array:
        """Σ over all rows: [groups, channels]"""
        return np.add.reduce(partial.reshape(self.groups, -1, self.channels), axis=1, dtype=np.float64)

    @cached_property
    def counts(self) -> Array:
        """How many rows are in each partial sum, as [pieces of a group·tile, 1]."""
        counts = np.zeros((self.per_group, self.tile))
        for piece in self.pieces[: self.per_group]:
            counts[piece.number, : piece.tile] = piece.count // piece.tile
        return counts.reshape(-1, 1)


def rows_of(x: Array, axes: tuple[int, ...]) -> Rows | None:
    """How x is rows of channels with `axes` along the rows; None if it is not, or too small for the workers.

    >>> rows = rows_of(np.empty((64, 16, 16, 32)).transpose(0, 3, 1, 2), (0, 2, 3))
    >>> rows.groups, rows.rows, rows.channels, rows.tile, len(rows.pieces)
    (1, 16384, 32, 128, 2)
    """
    if x.size < WHOLE or x.dtype not in (np.float32, np.float64):
        return None
    return _rows(x.shape, x.strides, axes, piece_size(x.size))


@lru_cache(maxsize=256)
def _rows(shape: tuple[int, ...], strides: tuple[int, ...], axes: tuple[int, ...], size: int) -> Rows | None:
    order = in_memory_order(strides, shape)
    kinds = "".join("r" if axis in axes else "k" for axis in order if shape[axis] != 1)
    parts = re.fullmatch("(k*)(r+)(k*)", kinds)
    if parts is None:
        return None
    sizes = [shape[axis] for axis in order if shape[axis] != 1]
    G, R, C = (prod(sizes[slice(*parts.span(part))]) for part in (1, 2, 3))
    if C == 1 or size < FEW * C:  # sums along a row ask for another way
        return None
    tile = max(1, min(LONG // C, R))
    tile = 1 << tile.bit_length() - 1
    return Rows(shape, order, axes, G, R, C, tile, tuple(_pieces(G, R, C, tile, size)))


def _pieces(G: int, R: int, C: int, tile: int, size: int) -> list[Piece]:
    def widest(rows: int) -> int:
        return min(tile, rows & -rows)  # the largest power of two that divides them

    if size >= 2 * R * C:
        several = size // (R * C)
        return [Piece(slice(g, min(g + several, G)), slice(0, R), 0, widest(R)) for g in range(0, G, several)]
    step = max(1, size // C // tile) * tile
    return [
        Piece(slice(g, g + 1), slice(r, min(r + step, R)), number, widest(min(r + step, R) - r))
        for g in range(G)
        for number, r in enumerate(range(0, R, step))
    ]

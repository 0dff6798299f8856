"""Convolution in two dimensions a row of the kernel at a time, without the products that padding makes zero.

im2col copies a pixel for each tap that sees it, padding too. Here the taps of a row of the kernel lie side by side, and
there is a product for each of its rows k, over those outputs i whose row i*s + k - p is in the image:

    X[r, n, j, (l, c)] = x[n, r, j*t + l - q, c]        y[n, i, j, o] = sum over k of  X[i*s + k - p, n, j] · w[o, :, k]

Rows of X with the same remainder by s lie together, so those of a product are one matrix. Across, outputs j that see
the same taps l in the image are a `Band`, where they are enough for a product. Of the products of 5 × 5 taps and
7 × 7 pixels, a third would be with padding.

The derivative by x is s·t such sums with stride 1, one for each remainder of its pixels by the strides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby, product
from math import ceil
from typing import Any

import numpy as np

from ..geometry import ConvGeometry
from .memory import empty
from .products import matmuls
from .workers import each, parallel

__all__ = ["Plan", "conv", "conv_transpose", "conv_weight_grad", "plan_for"]

Array = np.ndarray[Any, Any]

BLOCK_BYTES = 32 << 20  # of the columns X of some images, and of their products
ROWS = 256  # of a product, at least: with fewer, bands cost more than padding
FILTER_BYTES = 1 << 18  # of a piece of the filters, whose values are put in another order
PASS = 1 << 17  # values, at least, of a piece of a pass over the result


@dataclass(frozen=True)
class Band:
    """Neighbouring outputs, and the taps they are summed over."""

    start: int
    stop: int
    first_tap: int
    last_tap: int

    @property
    def outputs(self) -> slice:
        """From start to stop."""
        return slice(self.start, self.stop)

    @property
    def taps(self) -> slice:
        """From the first to the last."""
        return slice(self.first_tap, self.last_tap + 1)

    @property
    def width(self) -> int:
        """How many outputs."""
        return self.stop - self.start

    @property
    def reach(self) -> int:
        """How many taps."""
        return self.last_tap + 1 - self.first_tap


@dataclass(frozen=True)
class Axis:
    """y[i] = sum over k of  x[i*s + k + first] · w[k]"""

    input: int
    output: int
    taps: int
    s: int
    first: int

    def outputs(self, k: int) -> slice:
        """The i for which tap k is inside."""
        start = min(max(0, -((k + self.first) // self.s)), self.output)
        return slice(start, max(start, min(self.output, (self.input - 1 - k - self.first) // self.s + 1)))

    def entries(self, k: int, outputs: slice) -> slice:
        """The entries of x that those outputs see through tap k."""
        start = outputs.start * self.s + k + self.first
        count = outputs.stop - outputs.start
        return slice(start, start + (count - 1) * self.s + 1, self.s) if count else slice(0, 0)

    @cached_property
    def used(self) -> list[int]:
        """The taps that some output sees inside."""
        return [k for k in range(self.taps) if self.outputs(k).start < self.outputs(k).stop]

    @cached_property
    def products(self) -> int:
        """How many there are inside."""
        return sum(self.outputs(k).stop - self.outputs(k).start for k in self.used)

    @cached_property
    def bands(self) -> tuple[Band, ...]:
        """Outputs that see the same taps, and those taps."""

        def inside(i: int) -> list[int]:
            return [k for k in range(self.taps) if 0 <= i * self.s + k + self.first < self.input]

        found = []
        for taps, some in groupby(range(self.output), inside):
            outputs = list(some)
            if taps:
                found.append(Band(outputs[0], outputs[-1] + 1, taps[0], taps[-1]))
        return tuple(found)

    @cached_property
    def whole(self) -> tuple[Band, ...]:
        """All outputs, and all taps, as one."""
        return (Band(0, self.output, 0, self.taps - 1),)


@dataclass(frozen=True)
class Plan:
    """What a geometry and its sizes lead to."""

    g: ConvGeometry
    batch: int
    channels: int
    filters: int

    @cached_property
    def axes(self) -> tuple[Axis, Axis]:
        """Down and across, of the sum that makes y."""
        down, across = (
            Axis(size, out, k, s, -before)
            for size, out, k, s, (before, _) in zip(
                self.g.input, self.g.output, self.g.kernel, self.g.stride, self.g.padding, strict=True
            )
        )
        return down, across

    @cached_property
    def phases(self) -> list[Any]:
        """The sums that make x, for its pixels of the same remainders: those pixels, their taps, and the axes."""
        down, across = (list(_phases(axis)) for axis in self.axes)
        return [tuple(zip(*of_both, strict=True)) for of_both in product(down, across)]

    def bands(self, down: Axis, across: Axis) -> tuple[Band, ...]:
        """Of a sum: as the taps have it, if products are large enough."""
        return across.bands if self.batch * down.output >= ROWS else across.whole

    def image_bytes(self, down: Axis, across: Axis, channels: int, filters: int, itemsize: int) -> int:
        """Of the columns of an image, or of its products before they are added up, whichever are more."""
        columns = down.input * sum(band.width * band.reach for band in self.bands(down, across)) * channels
        return max(columns, down.taps * down.output * across.output * filters) * itemsize

    def blocks(self, down: Axis, across: Axis, channels: int, filters: int, itemsize: int) -> list[slice]:
        """Images, some at a time."""
        size = self.batch * self.image_bytes(down, across, channels, filters, itemsize)
        return _split(self.batch, ceil(size / BLOCK_BYTES))


@lru_cache(maxsize=256)
def plan_for(g: ConvGeometry, batch: int, channels: int, filters: int) -> Plan:
    """The plan for those sizes."""
    return Plan(g, batch, channels, filters)


def _phases(axis: Axis) -> Iterator[tuple[slice, slice, Axis]]:
    """Of x, with i*s + k + first = j: for each remainder of j by s, those j, their k as i goes up, and the sum."""
    for a in range(min(axis.s, axis.input)):
        lowest = (a - axis.first) % axis.s  # the first k
        taps = len(range(lowest, axis.taps, axis.s))
        first = (a - axis.first - lowest) // axis.s - (taps - 1)
        down = slice(lowest + (taps - 1) * axis.s, lowest - 1 if lowest else None, -axis.s) if taps else slice(0, 0)
        yield slice(a, None, axis.s), down, Axis(axis.output, len(range(a, axis.input, axis.s)), taps, 1, first)


# The three kernels -----------------------------------------------------------------------------------------


def conv(x: Array, w: Array, plan: Plan) -> Array:
    """y (N, *output, O) of x (N, *input, C) and w (O, C, *kernel)."""
    y = empty((plan.batch, *plan.g.output, plan.filters), x.dtype)
    _correlate(x, _taps_first(w, (2, 0, 3, 1)).transpose(0, 2, 3, 1), y, *plan.axes, plan)
    return y


def conv_transpose(y: Array, w: Array, plan: Plan) -> Array:
    """x (N, *input, C) of y (N, *output, O) and w (O, C, *kernel)."""
    x = empty((plan.batch, *plan.g.input, plan.channels), y.dtype)
    taps = _taps_first(w, (2, 3, 0, 1))
    for (rows, columns), some, (down, across) in plan.phases:
        _correlate(y, np.ascontiguousarray(taps[some]), x[:, rows, columns], down, across, plan)
    return x


def conv_weight_grad(x: Array, y: Array, plan: Plan) -> Array:
    """w (O, C, *kernel) of x (N, *input, C) and y (N, *output, O)."""
    down, across = plan.axes
    bands = plan.bands(down, across)
    total = np.zeros((down.taps, plan.filters, across.taps, plan.channels), x.dtype)
    parts = [(k, band) for k in down.used for band in bands]
    for images in plan.blocks(down, across, plan.channels, plan.filters, x.itemsize):
        X, Y = _columns(x[images], down, across, bands), _rows_first(y[images], bands)
        given = [Y[band][down.outputs(k)].reshape(-1, plan.filters).T for k, band in parts]
        sums = matmuls([(g, _seen(X[band], k, down)) for g, (k, band) in zip(given, parts, strict=True)])
        _add_bands(sums, total, down, bands)
    return _taps_last(total)


def _add_bands(sums: list[Array], total: Array, down: Axis, bands: tuple[Band, ...]) -> None:
    """total[k, o, l, c] += the sums of those bands that see tap l"""

    def add(i: int) -> None:
        for band, part in zip(bands, sums[i * len(bands) :], strict=False):
            place = total[down.used[i], :, band.taps]
            np.add(place, part.reshape(place.shape), out=place)

    each(add, len(down.used), sum(part.size for part in sums))


def _correlate(x: Array, taps: Array, y: Array, down: Axis, across: Axis, plan: Plan) -> None:
    """y[n, i, j] = sum over k, l of  x[n, i*s + k + first down, j*t + l + first across] · taps[k, l], zero outside."""
    bands = plan.bands(down, across)
    if sum(band.width * band.reach for band in bands) == 0 or not down.used:
        y[...] = 0
        return
    if sum(band.width for band in bands) < across.output:
        y[...] = 0
    for images in plan.blocks(down, across, x.shape[-1], y.shape[-1], x.itemsize):
        X, some = _columns(x[images], down, across, bands), images.stop - images.start
        sums = {band: empty((down.taps, down.output, some, band.width, y.shape[-1]), y.dtype) for band in bands}
        parts = [(k, band) for band in bands for k in down.used]
        factors = [(_seen(X[band], k, down), taps[k, band.taps].reshape(-1, y.shape[-1])) for k, band in parts]
        matmuls(factors, [sums[band][k, down.outputs(k)].reshape(-1, y.shape[-1]) for k, band in parts])
        _add_up(sums, y[images], down)


def _add_up(sums: dict[Band, Array], y: Array, down: Axis) -> None:
    """y[n, i, j] = sum over k of  sums[k, i, n, j]; the k with the most i is copied, the others are added."""
    order = sorted(down.used, key=lambda k: down.outputs(k).start - down.outputs(k).stop)
    pieces = [(band, images) for band, parts in sums.items() for images in _split(len(y), parts[0].size // PASS)]

    def add(i: int) -> None:
        band, images = pieces[i]
        target, parts = y[images, :, band.outputs].transpose(1, 0, 2, 3), sums[band][:, :, images]
        outputs = down.outputs(order[0])
        target[: outputs.start] = target[outputs.stop :] = 0
        target[outputs] = parts[order[0], outputs]
        for k in order[1:]:
            place = target[down.outputs(k)]
            np.add(place, parts[k, down.outputs(k)], out=place)

    each(add, len(pieces), y.size * down.taps)


def _columns(x: Array, down: Axis, across: Axis, bands: tuple[Band, ...]) -> dict[Band, list[Array]]:
    """X of some images, for each band: [a][row, n, j, (l, c)], of the rows with the remainder of a + first by s.

    Tap k reads those of a = k % s, from row (i*s + k + first) // s on.
    """
    rows_first, channels = x.transpose(1, 0, 2, 3), x.shape[-1]
    X: dict[Band, list[Array]] = {band: [] for band in bands}
    copies: list[tuple[Array, Array]] = []
    for band, a in product(bands, range(min(down.s, down.taps))):
        rows = rows_first[(a + down.first) % down.s :: down.s]
        windows = empty((*rows.shape[:2], band.width, band.reach, channels), x.dtype)
        X[band].append(windows.reshape(*windows.shape[:3], band.reach * channels))
        for at in range(band.reach):
            seen = across.outputs(band.taps.start + at)
            start = max(seen.start, band.outputs.start)
            outputs = slice(start, max(start, min(seen.stop, band.outputs.stop)))
            place = slice(start - band.outputs.start, outputs.stop - band.outputs.start)
            windows[:, :, : place.start, at] = windows[:, :, place.stop :, at] = 0
            entries = across.entries(band.taps.start + at, outputs)
            copies.append((windows[:, :, place, at], rows[:, :, entries]))
    parallel(lambda i: np.copyto(*copies[i]), len(copies))
    return X


def _rows_first(y: Array, bands: tuple[Band, ...]) -> dict[Band, Array]:
    """y of some images, for each band: [i, n, j, o]"""
    Y = {band: empty((y.shape[1], len(y), band.width, y.shape[-1]), y.dtype) for band in bands}
    parallel(lambda i: np.copyto(Y[bands[i]], y[:, :, bands[i].outputs].transpose(1, 0, 2, 3)), len(bands))
    return Y


def _seen(X: list[Array], k: int, down: Axis) -> Array:
    """The rows of X that tap k multiplies, as a matrix."""
    outputs = down.outputs(k)
    start = (outputs.start * down.s + k + down.first) // down.s
    rows = X[k % down.s][start : start + outputs.stop - outputs.start]
    return rows.reshape(-1, rows.shape[-1])


def _taps_first(w: Array, axes: tuple[int, ...]) -> Array:
    """w (O, C, *kernel) with its axes in another order, the kernel's two before C."""
    out = empty(tuple(w.shape[axis] for axis in axes), w.dtype)
    turned, along = w.transpose(axes), axes.index(0)
    pieces = [(*[slice(None)] * along, some) for some in _filters(w)]

    def put(i: int) -> None:
        out[pieces[i]] = turned[pieces[i]]

    each(put, len(pieces), w.size)
    return out


def _taps_last(w: Array) -> Array:
    """(kernel rows, O, kernel columns, C) as (O, C, *kernel)."""
    rows, filters, columns, channels = w.shape
    out = empty((filters, channels, rows, columns), w.dtype)
    pieces = _filters(out)

    def put(i: int) -> None:
        for k, j in product(range(rows), range(columns)):  # one at a time: a run of taps is too short for a loop
            out[pieces[i], :, k, j] = w[k, pieces[i], j]

    each(put, len(pieces), w.size)
    return out


def _filters(w: Array) -> list[slice]:
    """Some filters at a time, as many as are cached."""
    return _split(len(w), ceil(w.nbytes / FILTER_BYTES))


def _split(total: int, parts: int) -> list[slice]:
    parts = max(1, min(parts, total))
    return [slice(total * i // parts, total * (i + 1) // parts) for i in range(parts)]

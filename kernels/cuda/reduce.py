"""Reductions over any axes of an array, by the kernel that its order in memory asks for.

With axes in the order of memory, "kept, reduced" is rows (v1), "kept, reduced, kept" is columns (v2). What is
neither is read by strides. A few outputs of many values take two launches: the second reduces what came of parts.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, prod
from typing import Any

import numpy as np

from .double import real
from .layout import (
    BLOCKS,
    MOST_PARTS,
    THREADS,
    Array,
    blocks_over,
    gathered,
    in_memory_order,
    merged,
    stored,
    strided_arguments,
)

__all__ = ["all", "any", "argmax", "argmin", "max", "mean", "min", "reduce", "sum"]

Axes = Sequence[int] | int | None
SHORT = 256  # values: for so many, a warp is enough
PART = 4096  # values at least that a block reduces where others help it

_TYPES = {"float32": "float", "float64": "float", "int32": "int", "int64": "long", "bool": "bool"}


@dataclass(frozen=True)
class _Wanted:
    """How two values are combined (`op` of reduce.cu), and what of the outcome is wanted."""

    op: int
    result: str = "value"  # or "place" or "truth"
    scale: float = 1.0


_WANTED = {
    "sum": _Wanted(0), "mean": _Wanted(0), "max": _Wanted(1), "min": _Wanted(-1), "argmax": _Wanted(1, "place"),
    "argmin": _Wanted(-1, "place"), "any": _Wanted(1, "truth"), "all": _Wanted(-1, "truth"),
}  # fmt: skip


def sum(device: Any, x: Array, axes: Axes = None, keepdims: bool = False) -> Array:
    """Σ x over some axes, or all; of integers and booleans in int64.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> sum(EmulatedDevice(), np.ones((2, 3), np.float32), (1,))
    array([3., 3.], dtype=float32)
    """
    return reduce(device, "sum", x, axes, keepdims)


def mean(device: Any, x: Array, axes: Axes = None, keepdims: bool = False) -> Array:
    """The average over some axes, or all; NaN of no values."""
    return reduce(device, "mean", x, axes, keepdims)


def max(device: Any, x: Array, axes: Axes = None, keepdims: bool = False) -> Array:
    """The largest value; NaN if there is one."""
    return reduce(device, "max", x, axes, keepdims)


def min(device: Any, x: Array, axes: Axes = None, keepdims: bool = False) -> Array:
    """The smallest value; NaN if there is one."""
    return reduce(device, "min", x, axes, keepdims)


def argmax(device: Any, x: Array, axis: int | None = None, keepdims: bool = False) -> Array:
    """Where along an axis, or in the flattened array, the first of the largest values is, or the first NaN."""
    return reduce(device, "argmax", x, axis, keepdims)


def argmin(device: Any, x: Array, axis: int | None = None, keepdims: bool = False) -> Array:
    """Where along an axis, or in the flattened array, the first of the smallest values is, or the first NaN."""
    return reduce(device, "argmin", x, axis, keepdims)


def any(device: Any, x: Array, axes: Axes = None, keepdims: bool = False) -> Array:
    """Whether any value is not 0."""
    return reduce(device, "any", x, axes, keepdims)


def all(device: Any, x: Array, axes: Axes = None, keepdims: bool = False) -> Array:
    """Whether no value is 0."""
    return reduce(device, "all", x, axes, keepdims)


def reduce(
    device: Any, name: str, x: Array, axes: Axes = None, keepdims: bool = False, rung: str | None = None
) -> Array:  # fmt: skip
    """The reduction of that name; `rung` is "naive", "rows", "columns" or "strided", None for the best."""
    taken = [str(real(device)), *([] if name == "mean" else ["int32", "int64", "bool"])]
    if str(x.dtype) not in taken:
        raise TypeError(f"{name}: got an array of {x.dtype}, expected {' or '.join(taken)}")
    over = _listed(axes, x.ndim)
    count = prod(x.shape[axis] for axis in over)
    wanted = _WANTED[name]
    if name == "mean":
        wanted = _Wanted(0, scale=1 / count if count else nan)
    order = in_memory_order(x.strides, x.shape)
    kept = [axis for axis in order if axis not in over]
    outputs = prod(x.shape[axis] for axis in kept)
    if not count and outputs and name not in ("sum", "mean", "any", "all"):
        raise ValueError(f"{name}: got shape {x.shape}, expected at least one value over axes {over}")
    out = _flat(device, wanted, x, order, kept, rung) if outputs else device.empty((0,), _result(wanted, x.dtype))
    out = out.reshape([x.shape[axis] for axis in kept]).transpose([kept.index(axis) for axis in sorted(kept)])
    return out.reshape([1 if axis in over else size for axis, size in enumerate(x.shape)]) if keepdims else out


def _listed(axes: Axes, ndim: int) -> list[int]:
    if axes is None:
        return list(range(ndim))
    found = [axis % ndim if -ndim <= axis < ndim else axis for axis in ([axes] if isinstance(axes, int) else axes)]
    if len(set(found)) < len(found) or not set(found) <= set(range(ndim)):
        raise ValueError(f"got axes {axes}, expected different ones of {ndim}")
    return found


def _result(wanted: _Wanted, dtype: np.dtype) -> np.dtype:
    """The dtype of what is wanted."""
    wide = wanted.result == "place" or (wanted.op == 0 and dtype.kind != "f")
    return np.dtype(np.bool_) if wanted.result == "truth" else np.dtype(np.int64) if wide else np.dtype(dtype)


# Layouts ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """Values as [groups, rows, channels] of which rows are reduced, and how a kernel of a rung is laid over them."""

    rung: str
    groups: int
    rows: int
    channels: int
    grid: tuple[int, ...]
    block: tuple[int, ...]
    strides: tuple[int, ...] = ()

    @property
    def sizes(self) -> list[int]:
        """What the kernel is told of it."""
        first = self.rows if self.rung == "columns" else self.groups
        return [first, self.channels if self.rung == "columns" else self.rows, *self.strides]

    @property
    def parts(self) -> int:
        """How many results there are for each output."""
        return self.grid[1]


def _rows(outputs: int, values: int, rung: str = "rows", strides: Sequence[int] = ()) -> _Layout:
    if rung == "naive":
        return _Layout(rung, outputs, values, 1, (-(-outputs // THREADS), 1), (THREADS,), tuple(strides))
    width = 32 if values <= SHORT else THREADS
    blocks, parts = -(-outputs // (THREADS // width)), 1
    if width == THREADS:
        parts = builtins.max(1, builtins.min(MOST_PARTS, BLOCKS // blocks, -(-values // PART)))
    return _Layout(rung, outputs, values, 1, (blocks, parts), (width, THREADS // width), tuple(strides))


def _columns(groups: int, rows: int, channels: int, whole: bool = False) -> _Layout:
    blocks = blocks_over(groups, rows, channels)
    return _Layout("columns", groups, rows, channels, blocks.whole.grid if whole else blocks.grid, blocks.block)


def _flat(
    device: Any, wanted: _Wanted, x: Array, order: Sequence[int], kept: list[int], rung: str | None
) -> Array:  # fmt: skip
    """The outputs, flat, in the order of the axes `kept`; all others are reduced."""
    inside = [axis for axis in order if axis not in kept]
    counted = sorted(inside) if wanted.result == "place" else inside  # places count in the order of the shape
    outputs, count = (prod(x.shape[axis] for axis in axes) for axes in (kept, inside))
    if not count:
        return _reduced(device, wanted, device.empty((0,), x.dtype), _rows(outputs, 0))
    values, first, strides = stored(device, x)
    dense = merged([(x.shape[axis], strides[axis]) for axis in order]) in ([], [(values.size, 1)])
    kinds = "".join("k" if axis in kept else "r" for axis in order if x.shape[axis] != 1)
    found = re.fullmatch("(k*)(r*)(k*)", kinds) if dense and counted == inside else None
    if found is not None and rung in (None, "rows", "columns"):
        sizes = [x.shape[axis] for axis in order if x.shape[axis] != 1]
        groups, rows, channels = (prod(sizes[slice(*found.span(part))]) for part in (1, 2, 3))
        if rows == 1:
            groups, channels = 1, groups
        if rung == "columns" or (rung is None and (channels > 1 or rows == 1)):
            return _reduced(device, wanted, values, _columns(groups, rows, channels))
        if channels == 1:
            return _reduced(device, wanted, values, _rows(groups, rows))
    if rung in (None, "columns"):
        rung = "strided" if x.dtype.kind == "f" else "rows"
    if rung == "rows":
        return _reduced(device, wanted, gathered(device, x, (*kept, *counted)).reshape(-1), _rows(outputs, count))
    steps = strided_arguments(merged([(x.shape[axis], strides[axis]) for axis in (*kept, *counted)]), first)
    return _reduced(device, wanted, values, _rows(outputs, count, rung, steps))


def _reduced(device: Any, wanted: _Wanted, values: Array, layout: _Layout) -> Array:
    """The outputs of a layout, by as many launches as its parts ask for."""
    places = None
    while True:
        last, results = layout.parts == 1, layout.groups * layout.parts * layout.channels
        out = device.empty((results,), _result(wanted, values.dtype))
        best = device.empty((results,), values.dtype) if wanted.result == "place" and not last else None
        name, scale = _TYPES[str(values.dtype)], wanted.scale if last else 1.0
        if layout.rung == "naive":
            arguments = [values, out, wanted.op, scale]
        else:
            wide = out.dtype == np.int64 and (wanted.op == 0 or wanted.result == "place")
            y, truth = (out if not wide and wanted.result == "value" else best), wanted.result == "truth"
            arguments = [values, places, y, out if wide else None, out if truth else None, wanted.op]
            arguments += [scale] if name == "float" else []
        kernel = "reduce_naive" if layout.rung == "naive" else f"reduce_{layout.rung}_{name}"
        device.launch("reduce", kernel, layout.grid, layout.block, [*arguments, *layout.sizes])
        if last:
            return out
        values, places = (out, None) if best is None else (best, out)
        if layout.rung == "columns":
            layout = _columns(layout.groups, layout.parts, layout.channels, whole=True)
        else:
            layout = _rows(layout.groups, layout.parts)

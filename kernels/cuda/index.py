"""Rows by their numbers, and added where numbers say: what embeddings need."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from .layout import AXES, THREADS, Array, gathered

__all__ = ["add_rows", "fits", "take_rows"]

MOST_ROWS = 4096  # that are added up: for each, the numbers of all are read


def fits(x: Array, rows: Array, count: int | None = None) -> bool:
    """Whether there is a kernel to take such rows, or to add them up as `count` ones."""
    few_axes = 0 < x.ndim <= AXES and rows.ndim <= AXES
    few_rows = rows.size > 0 and (count is None or rows.size <= MOST_ROWS)
    return few_axes and few_rows and x.size > 0 and rows.dtype == np.int64


def take_rows(device: Any, x: Array, rows: Array) -> Array:
    """x[rows] of the first axis; NaN where there is no such row.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> take_rows(EmulatedDevice(), np.float32([[1, 2], [3, 4]]), np.array([[1, -1, 2]])).tolist()
    [[[3.0, 4.0], [3.0, 4.0], [nan, nan]]]
    """
    width = prod(x.shape[1:])
    y = device.empty((*rows.shape, *x.shape[1:]), np.float32)
    device.launch(
        "index", "index_take_rows", (-(-y.size // THREADS),), (THREADS,),
        [_flat(device, x), _flat(device, rows), y, rows.size, width, len(x)],
    )  # fmt: skip
    return y


def add_rows(device: Any, y: Array, rows: Array, count: int) -> Array:
    """x, of `count` rows, that are sums of those of y whose numbers they are.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> add_rows(EmulatedDevice(), np.float32([[1, 2], [3, 4], [5, 6]]), np.array([1, 0, 1]), 2).tolist()
    [[3.0, 4.0], [6.0, 8.0]]
    """
    each = y.shape[rows.ndim :]
    width = prod(each)
    x = device.zeros((count, *each), np.float32)
    device.launch(
        "index", "index_add_rows", (rows.size, -(-width // THREADS)), (THREADS,),
        [_flat(device, y), _flat(device, rows), x, rows.size, width, count],
    )  # fmt: skip
    return x


def _flat(device: Any, x: Array) -> Array:
    return gathered(device, x, range(x.ndim))

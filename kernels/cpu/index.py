"""Entries by their indices: rows taken, and what is written or added where an index says."""

from __future__ import annotations

from operator import setitem
from typing import Any

import numpy as np

__all__ = ["add_at", "add_rows", "put_at", "take_rows"]

Array = np.ndarray[Any, Any]

add_at = np.add.at  # x[index] += y, with entries that come up twice counted twice
put_at = setitem  # x[index] = y; where an entry comes up twice, the last one counts


def take_rows(x: Array, rows: Array) -> Array:
    """x[rows] of the first axis."""
    return x[rows]


def add_rows(y: Array, rows: Array, count: int) -> Array:
    """x, of `count` rows, that are sums of those of y whose numbers they are.

    >>> add_rows(np.array([[1, 2], [3, 4], [5, 6]]), np.array([1, 0, 1]), 2)
    array([[3, 4],
           [6, 8]])
    """
    x = np.zeros((count, *y.shape[rows.ndim :]), y.dtype)
    np.add.at(x, rows, y)
    return x

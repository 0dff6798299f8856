"""Arguments, checked: each function here returns what it was given in its plain form, or raises one clear line."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from minigan import graph


def check_tensors(name: str, *values: Any) -> None:
    """Raise unless all are Tensors."""
    for value in values:
        if not isinstance(value, graph.tensor_type):
            raise TypeError(f"{name}: expected a Tensor, got {type(value).__name__}")


def plain(number: Any) -> Any:
    """A NumPy scalar as the Python number it holds, which leaves the dtype to the tensor."""
    return number.item() if isinstance(number, np.generic) else number


def number(name: str, value: Any) -> Any:
    """A Python number: not NaN, and of a NumPy scalar or a Tensor of one value, that value."""
    value = value.item() if isinstance(value, graph.tensor_type) else plain(value)
    if not isinstance(value, (int, float)) or value != value:
        raise TypeError(f"{name}: expected a number, got {value!r:.40}")
    return value


def whole(name: str, value: Any) -> int:
    """An integer."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r:.40}") from None


def several(value: Any) -> tuple:
    """One value, or a list or tuple of them, as a tuple."""
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def shape_of(args: tuple, name: str) -> tuple[int, ...]:
    """The shape meant by `f(2, 3)` or `f((2, 3))`."""
    if len(args) == 1 and isinstance(args[0], (tuple, list)):
        args = tuple(args[0])
    try:
        return tuple(map(operator.index, args))
    except TypeError:
        raise TypeError(f"{name}: expected integers or one tuple of them, got {args!r:.80}") from None


def new_shape(args: tuple, name: str) -> tuple[int, ...]:
    """As `shape_of`, of a tensor to be made: no negative sizes, and no more values than an address can count."""
    shape = shape_of(args, name)
    if any(size < 0 for size in shape) or math.prod(shape) > 2**48:
        raise RuntimeError(f"{name}: cannot make a tensor of shape {shape}: expected sizes from 0 up, and less in all")
    return shape


def fitting(name: str, values: Any, dtype: np.dtype) -> np.ndarray:
    """Python numbers in a dtype: integers must fit, floats that become integers are truncated.

    >>> fitting("tensor", [2.7, -1], np.dtype("int8")).tolist()
    [2, -1]
    """
    host = np.asarray(values)
    if host.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected numbers, got {type(values).__name__} {values!r:.40}")
    if dtype.kind in "iu" and host.dtype.kind != "b" and host.size:
        host = np.trunc(host)
        low, high, limits = host.min(), host.max(), np.iinfo(dtype)
        if not (limits.min <= low and high <= limits.max):
            raise RuntimeError(f"{name}: values from {low} to {high} do not fit into dtype {dtype}")
    return host.astype(dtype)

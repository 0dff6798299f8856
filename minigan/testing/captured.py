"""NumPy's functions and methods while the emulator captures a step: kernels, views, or errors that name them.

A captured step is replayed from its kernels alone. So what moves or makes values has to be one, as with CuPy, where
all of this is; and whatever NumPy would compute by itself is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minigan.kernels.cuda import elementwise
from minigan.kernels.recording import refuse

__all__ = ["FUNCTIONS", "VIEWS", "copied", "is_open", "refuse", "written"]

Array = np.ndarray[Any, Any]

# What gives no new values, or what no replay needs anew.
VIEWS = {
    "arange", "asarray", "broadcast_to", "can_cast", "empty", "empty_like", "expand_dims", "flip", "may_share_memory",
    "moveaxis", "squeeze", "swapaxes", "transpose",
}  # fmt: skip


def is_open(device: Any) -> bool:
    """Whether launches are captured now."""
    return device.recording is not None and device.recording.open


def copied(device: Any, x: Array, into: Array) -> Array:
    """A copy kernel between arrays; `into` is what NumPy made, for its shape, dtype and order in memory."""
    return elementwise.copy(device, x, into)


def written(device: Any, target: Array, where: Any, value: Any) -> None:
    """target[where] = value"""
    view = target[(*where, ...) if isinstance(where, tuple) and ... not in where else where]
    if not np.may_share_memory(view, target):
        refuse(device, "assignment to an index of arrays")
    if isinstance(value, np.ndarray):
        copied(device, value, view)
    else:
        elementwise.fill(device, view, value)


def _filled(name: str, value: Any) -> Callable[..., Array]:
    def function(device: Any, *args: Any, **kwargs: Any) -> Array:
        found = getattr(np, name)(*args, **kwargs)
        return elementwise.fill(device, found, value)

    return function


def _full(device: Any, shape: Any, value: Any, dtype: Any = None) -> Array:
    return elementwise.fill(device, np.full(shape, value, dtype), value)


def _full_like(device: Any, x: Array, value: Any, **kwargs: Any) -> Array:
    return elementwise.fill(device, np.full_like(x, value, **kwargs), value)


def _array(device: Any, x: Array, **kwargs: Any) -> Array:
    return copied(device, x, np.array(x, **kwargs))


def _concatenate(device: Any, arrays: Any, axis: int = 0) -> Array:
    if len(arrays) > 8:
        refuse(device, "joining more than 8 arrays, of which CuPy copies a table from the host,")
    out, start = np.concatenate(arrays, axis), 0
    for part in arrays:
        stop = start + part.shape[axis]
        copied(device, part, out[(slice(None),) * (axis % out.ndim) + (slice(start, stop),)])
        start = stop
    return out


def _reshape(device: Any, x: Array, shape: Any) -> Array:
    found = x.reshape(shape)
    if x.size and not np.may_share_memory(found, x):
        flat = np.empty(x.shape, x.dtype)
        found = copied(device, x, flat).reshape(shape)
    return found


def _evaluated(name: str) -> Callable[..., Array]:
    return lambda device, *args: elementwise.evaluate(device, name, *args)


FUNCTIONS: dict[str, Callable[..., Array]] = {
    "array": _array, "clip": _evaluated("clip"), "concatenate": _concatenate, "full": _full, "full_like": _full_like,
    "ones": _filled("ones", 1), "ones_like": _filled("ones_like", 1), "reshape": _reshape, "where": _evaluated("where"),
    "zeros": _filled("zeros", 0), "zeros_like": _filled("zeros_like", 0),
}  # fmt: skip

"""Memory that is used again. The first write to fresh pages costs more than the write itself.

`scratch` is for what a piece of work needs while it runs. `empty` is for arrays that leave the kernel: like np.empty,
but the memory of large ones comes from a pool, to which it returns when the array and all its views are gone. What is
in the pool and what is out are together at most an eighth more than the most that was out at one time: without that
eighth, pieces of a size that the peak does not need would be given back and asked for again in every step.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from bisect import bisect_left, insort
from collections import OrderedDict, deque
from functools import partial
from math import prod
from threading import Lock, local
from typing import Any

import numpy as np

__all__ = ["empty", "owns_memory", "scratch"]

Array = np.ndarray[Any, Any]

KEPT_BYTES = 32 << 20  # a larger piece of scratch is given back
LOOSE = 1.5  # a free piece serves if it is at most this many times as large as what is asked for
SPARE = 1.125  # times the most that was out
LARGE_BYTES = 1 << 20  # smaller arrays come from malloc, which has such memory ready

_kept = local()


def scratch(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Uninitialised memory that this thread keeps under a name."""
    size = prod(shape) * dtype.itemsize
    memory = _kept.__dict__.get(name)
    if memory is None or memory.nbytes < size:
        memory = None
        _kept.__dict__[name] = None  # the old piece goes before the new one comes
        memory = np.empty(size + size // 8, np.uint8)  # nearly equal pieces of work take turns
        if size <= KEPT_BYTES:
            _kept.__dict__[name] = memory
    return np.ndarray(shape, dtype, memory)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array with memory of its own, uninitialised.

    >>> import numpy as np
    >>> first = empty((512, 1024), np.dtype(np.float32))
    >>> place = first.ctypes.data
    >>> del first
    >>> empty((1024, 512), np.dtype(np.float32)).ctypes.data == place
    True
    """
    size = prod(shape) * dtype.itemsize
    return np.empty(shape, dtype) if size < LARGE_BYTES else np.ndarray(shape, dtype, _pool.lend(size))


def owns_memory(array: Any) -> bool:
    """Whether an array of any backend is the one that its memory was made for, and no view.

    >>> whole = empty((1024, 512), np.dtype(np.float32))
    >>> owns_memory(whole), owns_memory(whole[:1]), owns_memory(np.zeros(3))
    (True, False, True)
    """
    return array.flags.owndata or isinstance(getattr(array, "base", None), ctypes.Array)


class _Pool:
    """Pieces of memory by size. A piece is out as long as the ctypes array that stands for it lives."""

    def __init__(self) -> None:
        self.lock = Lock()
        self._free: OrderedDict[int, Array] = OrderedDict()  # by address, the longest unused first
        self._sizes: list[tuple[int, int]] = []  # of the free pieces, with their addresses, in order
        self._out: dict[int, weakref.ref[Any]] = {}  # by address: what tells of an end
        self._ended: deque[tuple[int, Array]] = deque()  # what came back since the last call
        self._bytes_free = self._bytes_out = self._most_out = 0

    def lend(self, size: int) -> Any:
        """A buffer of that size, which returns when nothing refers to it any more."""
        with self.lock:
            self._take_back()
            at = bisect_left(self._sizes, (size, 0))
            if at < len(self._sizes) and self._sizes[at][0] <= size * LOOSE:
                place = self._sizes.pop(at)[1]
                memory = self._free.pop(place)
                self._bytes_free -= memory.nbytes
            else:
                memory = np.empty(size, np.uint8)
                place = memory.ctypes.data
            self._bytes_out += memory.nbytes
            self._most_out = max(self._most_out, self._bytes_out)
            self._shrink()
            buffer = (ctypes.c_char * size).from_buffer(memory)  # type: ignore[arg-type]  # an array is a buffer
            self._out[place] = weakref.ref(buffer, partial(self._note_end, place, memory))
            return buffer

    def _note_end(self, place: int, memory: Array, ended: weakref.ref[Any]) -> None:
        # It may come at any time, on another thread or within `lend`.
        self._ended.append((place, memory))

    def _take_back(self) -> None:
        while self._ended:
            place, memory = self._ended.popleft()
            del self._out[place]
            self._bytes_out -= memory.nbytes
            self._bytes_free += memory.nbytes
            self._free[place] = memory
            insort(self._sizes, (memory.nbytes, place))

    def _shrink(self) -> None:
        """Let go of the longest unused, down to what may be kept."""
        while self._free and self._bytes_out + self._bytes_free > self._most_out * SPARE:
            place, memory = self._free.popitem(last=False)
            self._sizes.remove((memory.nbytes, place))
            self._bytes_free -= memory.nbytes


_pool = _Pool()


def _renew_lock() -> None:
    """A forked child may have been given a lock that another thread of its parent held."""
    _pool.lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def _raise_malloc_threshold() -> None:
    """Have malloc keep what NumPy's own arrays give back.

    That of glibc returns free memory to the system, page by page, when there is more than twice the size of the
    largest piece that it ever had from there and freed, up to 32 MB. So one of that size is freed, untouched.
    """
    np.empty((32 << 20) - (1 << 16), np.uint8)


_raise_malloc_threshold()

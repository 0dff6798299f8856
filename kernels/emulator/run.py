"""Launching a kernel on NumPy arrays."""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from ..cuda.launch import checked, packed
from ..cuda.source import HERE, inlined, read
from .build import EmulatorError, Library, library

__all__ = ["ORDERS", "Counts", "run"]

_one_at_a_time = threading.Lock()  # a library has one set of fibres and counts, a process one handler of a signal
ORDERS = ("forward", "reversed", "shuffled")  # of blocks, and of the turns of their threads


class _Counts(ctypes.Structure):
    _names = ("barriers", "collectives", "loads", "stores", "shared_loads", "shared_stores")
    _fields_ = [(name, ctypes.c_uint64) for name in _names]


class _Range(ctypes.Structure):
    _fields_ = [("begin", ctypes.c_void_p), ("bytes", ctypes.c_size_t)]


@dataclass(frozen=True)
class Counts:
    """What the threads of an average block did. Loads and stores are counted with `watch="races"`, else None.

    A collective is a shuffle, a vote, __syncwarp or mma.sync of one warp. A load of a float4 is one load.
    """

    barriers: float
    collectives: float
    loads: float | None
    stores: float | None
    shared_loads: float | None
    shared_stores: float | None


def run(
    source: str, kernel: str, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any], *, shared: int = 0,
    order: str = "forward", seed: int = 0, watch: str | None = None, reached: Sequence[np.ndarray] = (),
) -> Counts:  # fmt: skip
    """Launch a kernel, which writes into its arguments, and count.

    `source` is the name of a file of `minigan.kernels.cuda`, or CUDA C. `order` is that of blocks and threads: what a
    kernel computes must not depend on it. With `watch="bounds"` every access is checked to lie within an array, with
    `watch="races"` also that no barrier is missing between those of two threads. `reached` are arrays that a kernel
    gets to by addresses that it finds in its arguments.

    >>> twice = 'extern "C" __global__ void twice(float *x, int n) { if (threadIdx.x < n) x[threadIdx.x] *= 2; }'
    >>> x = np.arange(3, dtype=np.float32)
    >>> counts = run(twice, "twice", grid=(1,), block=(32,), arguments=[x, 3], watch="races")
    >>> x.tolist(), counts.loads, counts.stores
    ([0.0, 2.0, 4.0], 3.0, 3.0)
    """
    if order not in ORDERS:
        raise ValueError(f"order: got {order!r}, expected one of {ORDERS}")
    built = library(_text(source), watch)
    if kernel not in built.kernels:
        raise ValueError(f"kernel {kernel!r} is not in that source, which has {[*built.kernels]}")
    launch = checked(built.kernels[kernel], grid, block, shared)
    values = [np.array(value) for value in packed(built.kernels[kernel], arguments, lambda array: array.ctypes.data)]
    given = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
    arrays = [a for a in arguments if isinstance(a, np.ndarray)]
    sizes, counts, said = (ctypes.c_uint * 6)(*launch.grid, *launch.block), _Counts(), ctypes.create_string_buffer(512)
    with _one_at_a_time:
        _watch(built, [*arrays, *reached] if watch else [])
        failed = built.calls.emulator_launch(
            ctypes.cast(built.calls[f"emulator_call_{kernel}"], ctypes.c_void_p), given, sizes, ctypes.c_size_t(shared),
            ORDERS.index(order), ctypes.c_uint64(seed), said, ctypes.c_size_t(len(said)), ctypes.byref(counts),
        )  # fmt: skip
    if failed:
        raise EmulatorError(f"kernel {kernel}: {_with_line(built, said.value.decode())}")
    blocks = prod(launch.grid)
    barriers, collectives, *rest = (getattr(counts, name) / blocks for name in _Counts._names)
    return Counts(barriers, collectives, *(rest if watch == "races" else [None] * len(rest)))


def _text(source: str) -> str:
    if "__global__" in source:
        return _inlined(source)
    if not (HERE / f"{source}.cu").exists():
        known = sorted(path.stem for path in HERE.glob("*.cu"))
        raise ValueError(f"source: got {source!r}, expected CUDA C or one of {known}")
    return read(source)


@lru_cache(maxsize=1024)  # of the texts that `elementwise` writes, a step launches the same ones again and again
def _inlined(source: str) -> str:
    return inlined(source, "kernel.cu")


def _watch(built: Library, arrays: Sequence[np.ndarray]) -> None:
    ranges = (_Range * len(arrays))(*(_Range(array.ctypes.data, array.nbytes) for array in arrays))
    built.calls.emulator_watch(ranges, len(arrays))


def _with_line(built: Library, message: str) -> str:
    """The message with a line of the kernel for a place in the code."""
    return re.sub(r"code (0x[0-9a-f]+)", lambda match: built.line_of(int(match[1], 16)) or match[0], message)

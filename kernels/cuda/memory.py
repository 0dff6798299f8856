"""The GPU memory that CuPy's arrays get: from pools, whose failures say what would help, and which can be counted."""

from __future__ import annotations

import weakref
from typing import Any

__all__ = ["Allocator", "OutOfMemoryError", "Pools"]

NO_MEMORY = 2  # cudaErrorMemoryAllocation


class OutOfMemoryError(RuntimeError):
    """No room on the GPU: the message says what was asked for, what is free, and what would help."""


class Pools:
    """CuPy's own pool, and those of captured steps, which keep what they have."""

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy
        self.default = cupy.get_default_memory_pool()
        self.private: weakref.WeakSet[Allocator] = weakref.WeakSet()
        self._counting: Any = None
        self.malloc = Allocator(self, self.default).malloc
        cupy.cuda.set_allocator(self.malloc)

    def new(self) -> Allocator:
        """An allocator with a pool of its own, which lives as long as it."""
        pool = self.cupy.cuda.MemoryPool(self._from_gpu)
        pool.set_limit(size=0)  # CuPy's own limit is the default pool's alone
        allocator = Allocator(self, pool)
        self.private.add(allocator)
        return allocator

    def _from_gpu(self, size: int, again: bool = False) -> Any:
        """Memory for a pool of captured steps, for which the default pool gives back what it has in reserve.

        A pool would give back its own free blocks: but into those the kernels write that are captured already.
        """
        cuda = self.cupy.cuda
        try:
            return cuda.MemoryPointer(cuda.Memory(size), 0)
        except cuda.runtime.CUDARuntimeError as error:
            if error.status != NO_MEMORY:
                raise
            if again:
                raise OutOfMemoryError(self.full(size)) from None
        self.default.free_all_blocks()
        return self._from_gpu(size, again=True)

    def full(self, size: int) -> str:
        """Why there is no memory of that size."""
        free, total = self.cupy.cuda.runtime.memGetInfo()
        used, reserved = self.used(), self.reserved()
        return (
            f"GPU out of memory: {gib(size)} were asked for, and of {gib(total)} are {gib(free)} free; tensors have "
            f"{gib(used)}, and {gib(reserved - used)} are kept for others, in pieces that are too small. What would "
            "help: a smaller batch, no_grad() where no gradients are needed, del of tensors (and losses) that are kept "
            "for no use, fewer shapes of captured steps"
        )

    # Counting -------------------------------------------------------------------------------------------------------

    def used(self) -> int:
        """Bytes of arrays; those of captured steps count whole."""
        return self.default.used_bytes() + sum(allocator.pool.total_bytes() for allocator in self.private)

    def reserved(self) -> int:
        """Bytes that the GPU has given."""
        return self.default.total_bytes() + sum(allocator.pool.total_bytes() for allocator in self.private)

    def most_used(self) -> int:
        """The most bytes of arrays since counting began; if it has not, all bytes that the GPU has given."""
        return self.reserved() if self._counting is None else max(self._counting.most, self.used())

    def count(self) -> None:
        """Begin to count, anew. As it costs time for each array, nothing is counted before that."""
        if self._counting is None:
            self._counting = _counter(self.cupy)
            self._counting.__enter__()
        self._counting.now = self._counting.most = self.used()


class Allocator:
    """Gives out memory of a pool."""

    def __init__(self, pools: Pools, pool: Any) -> None:
        self.pools, self.pool = pools, pool

    def malloc(self, size: int) -> Any:
        """What CuPy calls for each array."""
        try:
            return self.pool.malloc(size)
        except self.pools.cupy.cuda.memory.OutOfMemoryError:
            raise OutOfMemoryError(self.pools.full(size)) from None


def _counter(cupy: Any) -> Any:
    class Counter(cupy.cuda.MemoryHook):
        """Bytes that all pools have given out to this thread: now, and the most."""

        name = "minigan.max_memory_allocated"
        now = most = 0

        def malloc_postprocess(self, **given: Any) -> None:
            if given["mem_ptr"]:
                self.now += given["mem_size"]
                self.most = max(self.most, self.now)

        def free_postprocess(self, **given: Any) -> None:
            self.now -= given["mem_size"]

    return Counter()


def gib(size: float) -> str:
    """A size in words.

    >>> gib(3 << 29), gib(5000)
    ('1.50 GiB', '0.00 GiB')
    """
    return f"{size / 2**30:.2f} GiB"

"""One pool of threads for everything the CPU kernels do at once.

NumPy lets go of the interpreter's lock inside its loops and its matrix products, so threads of Python do run at the
same time where the pieces are large: about 256 KB and more; below that they wait for each other's lock.

`parallel(task, count)` calls task(0) … task(count - 1). **A kernel cuts its work into the same pieces whatever the
number of threads**, so that results do not depend on it; threads take the pieces as they come. BLAS runs on one
thread meanwhile: its threads and ours together would be twice the cores, and the way BLAS splits a product is
not the same for every number of threads.
"""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

__all__ = ["each", "get_num_threads", "parallel", "set_num_threads", "single_threaded_blas"]

# NumPy copies operands with strides through buffers of this many values, unless they have runs as long as that.
UFUNC_BUFFER = 64
# A pass over fewer values takes longer on two threads than on one: waking a thread costs about 100 µs.
ALONE = 1 << 20
# Looks at one byte, of 0.7 ns each, before a thread sleeps: 2 ms.
LOOKS = 3 << 20

_threads: int | None = None  # None until it is asked for
_pool: list[_Worker] = []
_pool_in_use = threading.Lock()
_here = threading.local()  # .busy: this thread is inside a task


def get_num_threads() -> int:
    """How many threads `parallel` uses: at first OMP_NUM_THREADS, or the cores this process may use.

    >>> get_num_threads() >= 1
    True
    """
    global _threads
    if _threads is None:
        asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
        _threads = int(asked) if asked.isdigit() and int(asked) else _cores()
    return _threads


@cache
def _cores() -> int:
    """How many this process may use: a container may be allowed a share of their time only."""
    allowed = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(len(allowed(0)), int(quota) // int(period)))
    except (OSError, ValueError):  # no such limit
        return len(allowed(0))


def set_num_threads(threads: int) -> None:
    """Use so many threads from now on, the caller's own among them."""
    global _threads
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise RuntimeError(f"set_num_threads expects a positive integer, got {threads!r}")
    _threads = threads


def parallel(task: Callable[[int], Any], pieces: int) -> None:
    """Call task(i) for every i below `pieces`, on the pool's threads and this one, in any order.

    The first exception is raised again here, after all threads have stopped. Inside of a task, or while another
    thread has the pool, the pieces run one after the other.

    >>> squares = [0] * 4
    >>> parallel(lambda i: squares.__setitem__(i, i * i), 4)
    >>> squares
    [0, 1, 4, 9]
    """
    helpers = min(get_num_threads(), pieces) - 1
    nested = getattr(_here, "busy", False)
    alone = helpers < 1 or nested or not _pool_in_use.acquire(blocking=False)
    if alone:
        with single_threaded_blas():
            contextvars.copy_context().run(_share, task, iter(range(pieces)))
        return
    try:
        while len(_pool) < helpers:
            _pool.append(_Worker())
        with single_threaded_blas():
            _share_out(task, pieces, _pool[:helpers])
    finally:
        _pool_in_use.release()


def each(task: Callable[[int], Any], pieces: int, values: int) -> None:
    """The pieces of passes over so many values: by `parallel` if those are enough, else here, one after the other."""
    if values >= ALONE:
        parallel(task, pieces)
    else:
        with np.errstate():  # when it ends, so does the buffer size
            np.setbufsize(UFUNC_BUFFER)
            for i in range(pieces):
                task(i)


def _share_out(task: Callable[[int], Any], pieces: int, workers: list[_Worker]) -> None:
    """Run the pieces on those workers and this thread. Whatever happens, all have stopped when this returns."""
    remaining = _Numbers(pieces)
    started: list[_Worker] = []
    errors: list[BaseException] = []
    try:
        for worker in workers:
            started.append(worker)
            worker.start(task, remaining)
        contextvars.copy_context().run(_share, task, remaining)
    except BaseException as error:  # raised below, once nobody works on the caller's arrays any more
        errors.append(error)
        remaining.stop = 0
    while started:
        try:
            started[-1].wait(errors)
            started.pop()
        except BaseException as interrupt:  # a signal's handler may raise anything, at any call
            errors.insert(0, interrupt)
            remaining.stop = 0
    if errors:
        raise errors[0]


class _Numbers:
    """0, 1, … below `stop`, each handed out once, to whichever thread asks."""

    def __init__(self, stop: int) -> None:
        self._count, self.stop = count(), stop

    def __iter__(self) -> _Numbers:
        return self

    def __next__(self) -> int:
        number = next(self._count)  # atomic
        if number >= self.stop:
            raise StopIteration
        return number


def _share(task: Callable[[int], Any], numbers: Iterator[int]) -> None:
    """This thread's share, in a copy of the caller's context: np.errstate holds in it, the buffer size ends with it."""
    busy = getattr(_here, "busy", False)
    try:
        _here.busy = True
        np.setbufsize(UFUNC_BUFFER)
        for number in numbers:
            task(number)
    finally:
        _here.busy = busy


class _Worker:
    """A thread that waits for shares.

    Two locks hand a share over and back. To wake a thread that sleeps on a lock takes 50 µs and more, so before that
    each side looks for the other for a while, as OpenMP's threads do: by np.logical_or.reduce of one byte, repeated
    LOOKS times by a stride of 0, which ends at the first True and needs no interpreter's lock meanwhile. The bytes are
    hints: were they wrong, only time would be lost. The worker reduces two rows: row 0 is always True, so `_idle` is
    set as soon as it begins, which tells the caller that the share is done; row 1 is `_called`.
    """

    def __init__(self) -> None:
        self._wake, self._done = threading.Lock(), threading.Lock()
        self._wake.acquire()
        self._done.acquire()
        self._called, self._idle = np.array([True, False]), np.array([False, False])
        self._look_for_call = partial(
            np.logical_or.reduce, as_strided(self._called, (2, LOOKS), (1, 0)), axis=1, out=self._idle
        )
        self._look_for_end = partial(np.logical_or.reduce, np.broadcast_to(self._idle[:1], LOOKS))
        self._share: Callable[[], None] | None = None
        self._woken = False
        self._error: BaseException | None = None
        threading.Thread(target=self._loop, name="minigan worker", daemon=True).start()

    def start(self, task: Callable[[int], Any], numbers: Iterator[int]) -> None:
        context = contextvars.copy_context()
        self._woken = self._idle[0] = False
        self._share = lambda: context.run(_share, task, numbers)
        self._wake.release()
        self._called[1] = self._woken = True

    def wait(self, errors: list[BaseException]) -> None:
        """Until it has done its share, if it was given one; adds what that raised.

        An interrupt may come at any place in here and in `start`: it can be called again.
        """
        if self._share is not None and _may_look():
            self._look_for_end()
        while self._share is not None:
            if not self._woken and self._wake.locked():
                self._wake.release()
            self._done.acquire()
        if self._error is not None:
            errors.append(self._error)
        self._error = None

    def _loop(self) -> None:
        while True:
            if _may_look():
                self._look_for_call()
            self._wake.acquire()
            self._called[1] = False
            if self._share is None:  # woken twice
                continue
            try:
                self._share()
            except BaseException as error:  # raised again by whoever asked for the share
                self._error = error
            self._share = None
            if self._done.locked():
                self._done.release()


def _may_look() -> bool:
    """Not where there are more threads than cores: they would take time from those that work."""
    return get_num_threads() <= _cores()


def _forget_pool() -> None:
    """A forked child has none of its parent's threads, and perhaps a lock that one of them held."""
    global _pool_in_use, _blas_in_use, _blas_users
    _pool.clear()
    if _blas_users:
        _blas_users = 0
        _set_blas(True)
    _pool_in_use, _blas_in_use = threading.Lock(), threading.Lock()
    _here.__dict__.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


# BLAS ------------------------------------------------------------------------------------------------------

_blas_in_use = threading.Lock()
_blas_users = 0
_blas_before: list[int] = []


@cache
def _blas() -> list[tuple[Callable[[], int], Callable[[int], None]]]:
    """How to get and to set the number of threads of each BLAS library that is loaded."""
    from threadpoolctl import ThreadpoolController  # not at the top: it looks through all loaded libraries

    found = ThreadpoolController().select(user_api="blas").lib_controllers
    return [(library.get_num_threads, partial(_set_threads, library)) for library in found]


def _set_threads(library: Any, number: int) -> None:
    # Since threadpoolctl 3.8 a library listens to one thread only. Here all take turns, under a lock.
    if hasattr(library, "clear_controlling_thread"):
        library.clear_controlling_thread(force=True)
    library.set_num_threads(number)


class single_threaded_blas:
    """BLAS on one thread within; when the last of several threads has left, as many as before."""

    def __enter__(self) -> None:
        global _blas_users, _blas_before
        with _blas_in_use:
            if not _blas_users:
                _blas_before = [get() for get, _ in _blas()]
                _set_blas(False)
            _blas_users += 1

    def __exit__(self, *error: object) -> None:
        global _blas_users
        with _blas_in_use:
            _blas_users = max(0, _blas_users - 1)  # 0 already in a child that was forked within
            if _blas_users == 0:
                _set_blas(True)


def _set_blas(as_before: bool) -> None:
    """To 1 or to what it was before: where that is 1, there is nothing to do."""
    for (_, set_threads), before in zip(_blas(), _blas_before, strict=True):
        if before != 1:
            set_threads(before if as_before else 1)

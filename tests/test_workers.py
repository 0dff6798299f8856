"""The pool of threads behind the CPU kernels: each piece once, errors, settings, BLAS and memory."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

import minigan as mg
from minigan.kernels.cpu import memory, workers
from minigan.kernels.cpu.choose import ALGORITHMS, choose, conv_algorithm
from minigan.kernels.cpu.products import matmul
from minigan.kernels.cpu.workers import get_num_threads, parallel, set_num_threads, single_threaded_blas
from minigan.kernels.geometry import ConvGeometry

LONG = 60  # seconds after which something that waits has failed


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = get_num_threads()
    set_num_threads(2)
    yield
    set_num_threads(before)


def together(by_caller: Callable[[], Any], by_worker: Callable[[], Any]) -> None:
    """One piece on this thread and one on a worker, which begin together."""
    caller, both_here = threading.current_thread(), threading.Barrier(2)

    def task(_: int) -> None:
        both_here.wait(LONG)
        (by_caller if threading.current_thread() is caller else by_worker)()

    parallel(task, 2)


def nothing() -> None:
    pass


def failing(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def pieces_of(count: int) -> list[int]:
    """The pieces that were done, in order."""
    done: list[int] = []
    parallel(done.append, count)
    return sorted(done)


# Pieces -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_piece_is_done_once(threads: int) -> None:
    set_num_threads(threads)
    for count in (0, 1, 2, 3, 7, 1000, *range(100)):
        assert pieces_of(count) == list(range(count))


@pytest.mark.parametrize("threads", [2, 3])
def test_so_many_threads_work_at_once(threads: int) -> None:
    """They would not all meet otherwise."""
    set_num_threads(threads)
    meeting = threading.Barrier(threads)
    parallel(lambda _: meeting.wait(LONG), threads)


def test_one_thread_is_the_callers() -> None:
    pieces_of(5)  # there are workers
    set_num_threads(1)
    found: list[int] = []
    parallel(lambda _: found.append(threading.get_ident()), 9)
    assert found == [threading.get_ident()] * 9


def test_pieces_inside_of_a_piece_stay_on_its_thread() -> None:
    found: list[tuple[int, int, bool]] = []

    def outer(i: int) -> None:
        own = threading.get_ident()
        parallel(lambda j: found.append((i, j, threading.get_ident() == own)), 3)

    parallel(outer, 4)
    assert sorted(found) == [(i, j, True) for i in range(4) for j in range(3)]
    meeting = threading.Barrier(2)
    parallel(lambda _: meeting.wait(LONG), 2)  # and the pool is there again


def test_several_threads_ask_at_once() -> None:
    wrong: list[Any] = []

    def ask() -> None:
        for count in range(100):
            done = pieces_of(count)
            if done != list(range(count)):
                wrong.append(done)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(LONG)
        assert not asker.is_alive()
    assert not wrong


def test_who_finds_the_pool_in_use_works_alone() -> None:
    started, stop = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        started.set()
        assert stop.wait(LONG)

    holder = threading.Thread(target=parallel, args=(hold, 2))
    holder.start()
    assert started.wait(LONG)
    found: list[int] = []
    parallel(lambda _: found.append(threading.get_ident()), 6)
    stop.set()
    holder.join(LONG)
    assert found == [threading.get_ident()] * 6
    together(nothing, nothing)


def test_nothing_of_a_task_is_kept() -> None:
    def work() -> weakref.ref[Any]:
        array = np.ones(3)
        together(lambda: array.sum(), lambda: array.sum())
        return weakref.ref(array)

    assert work()() is None


# Errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyError("a piece"), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("where", ["caller", "worker", "alone"])
def test_an_error_comes_back_and_the_pool_works_on(where: str, error: BaseException) -> None:
    def fail() -> None:
        if where == "alone":
            parallel(lambda _: failing(error)(), 1)
        else:
            together(*(failing(error) if who == where else nothing for who in ("caller", "worker")))

    with pytest.raises(type(error)) as caught:
        fail()
    assert caught.value is error
    together(nothing, nothing)
    assert pieces_of(20) == list(range(20))


def test_of_two_errors_one_comes_back_and_none_is_left_over() -> None:
    with pytest.raises(KeyError):
        together(failing(KeyError()), failing(IndexError()))
    together(nothing, nothing)


@pytest.mark.parametrize("fails", ["caller", "worker"])
def test_after_an_error_no_thread_works_on(fails: str) -> None:
    ended: list[bool] = []

    def slow() -> None:
        threading.Event().wait(0.05)
        ended.append(True)

    with pytest.raises(KeyError):
        together(*(failing(KeyError()) if who == fails else slow for who in ("caller", "worker")))
    assert ended == [True]


# The caller's settings ------------------------------------------------------------------------------------


def test_the_callers_errstate_holds_on_every_thread() -> None:
    found: list[str] = []

    def divide() -> None:
        try:
            np.ones(2) / np.zeros(2)  # a warning, which is an error here, unless it is ignored
            found.append("ignored")
        except FloatingPointError:
            found.append("raised")

    with np.errstate(divide="ignore"):
        together(divide, divide)
    with np.errstate(divide="raise"):
        together(divide, divide)
        parallel(lambda _: divide(), 1)
    assert found == ["ignored"] * 2 + ["raised"] * 3


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_chosen_algorithm_holds_on_every_thread(name: str) -> None:
    g, found = ConvGeometry.conv((4, 4), (3, 3)), []

    def ask() -> None:
        found.append(choose(g, 1, 1, 1) is not None)

    with conv_algorithm(name):
        together(ask, ask)
    assert found == [name == "winograd"] * 2


@pytest.mark.parametrize("count", [1, 2])
def test_settings_made_in_a_piece_end_with_it(count: int) -> None:
    outside, errors, seen = np.getbufsize(), np.geterr(), []
    meeting = threading.Barrier(count)

    def task(_: int) -> None:
        meeting.wait(LONG)
        seen.append((np.getbufsize(), np.geterr()))
        np.seterr(all="ignore")
        np.setbufsize(1024)

    parallel(task, count)
    parallel(task, count)
    assert seen == [(workers.UFUNC_BUFFER, errors)] * (2 * count)
    with pytest.raises(KeyError):
        parallel(lambda _: failing(KeyError())(), count)
    assert (np.getbufsize(), np.geterr()) == (outside, errors)
    assert outside != workers.UFUNC_BUFFER


# BLAS -------------------------------------------------------------------------------------------------------


def blas_threads() -> set[int]:
    return {library.num_threads for library in ThreadpoolController().select(user_api="blas").lib_controllers}


@pytest.fixture
def blas_on_two() -> Iterator[None]:
    with ThreadpoolController().limit(limits=2, user_api="blas"):
        if blas_threads() != {2}:
            pytest.skip("this BLAS cannot be told to use two threads")
        yield


def check_blas() -> None:
    """One thread within, two afterwards, also after errors."""
    within: list[set[int]] = []
    together(lambda: within.append(blas_threads()), lambda: within.append(blas_threads()))
    parallel(lambda _: parallel(lambda _: within.append(blas_threads()), 2), 1)
    assert within == [{1}] * 4
    assert blas_threads() == {2}
    for by_caller, by_worker in ((failing(KeyError()), nothing), (nothing, failing(KeyError()))):
        with pytest.raises(KeyError):
            together(by_caller, by_worker)
        assert blas_threads() == {2}
    with pytest.raises(KeyError):
        parallel(lambda _: failing(KeyError())(), 1)
    assert blas_threads() == {2}


@pytest.mark.usefixtures("blas_on_two")
def test_blas_has_one_thread_within_and_as_many_as_before_afterwards() -> None:
    """On the main thread, on another one, and on the main thread again."""
    check_blas()
    with ThreadPoolExecutor(1) as other:
        other.submit(check_blas).result(LONG)
    check_blas()


@pytest.mark.usefixtures("blas_on_two")
@pytest.mark.parametrize("last", ["main", "other"])
def test_blas_is_given_back_by_the_last_of_several_threads(last: str) -> None:
    started, stop = threading.Event(), threading.Event()

    def hold() -> None:
        with single_threaded_blas():
            started.set()
            stop.wait(LONG)

    def end() -> None:
        stop.set()
        held.result(LONG)

    found = []
    with ThreadPoolExecutor(1) as other:
        with single_threaded_blas():
            held = other.submit(hold)
            assert started.wait(LONG)
            pieces_of(2)
            found.append(blas_threads())
            if last == "main":
                end()
                found.append(blas_threads())
        if last == "other":
            found.append(blas_threads())
            end()
    assert found == [{1}, {1}]
    assert blas_threads() == {2}


@pytest.mark.parametrize(
    ("a", "b"),
    [((900, 400), (400, 150)), ((150, 400), (400, 900)), ((3, 200, 256), (256, 500)), ((5, 4), (4, 3))],
)
@pytest.mark.parametrize("given", [False, True])
def test_products_have_the_same_bits_for_any_number_of_threads(a: Any, b: Any, given: bool) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(shape).astype(np.float32) for shape in (a, b))
    right, found = np.matmul(x.astype(np.float64), y.astype(np.float64)), []
    for threads in (1, 2, 3):
        set_num_threads(threads)
        out = np.full(right.shape, np.nan, np.float32) if given else None
        result = matmul(x, y, out)
        assert result is out or not given
        np.testing.assert_allclose(result, right, rtol=1e-5, atol=1e-4, equal_nan=False)
        found.append(result.tobytes())
    assert len(set(found)) == 1


# Memory -----------------------------------------------------------------------------------------------------


def test_memory_is_lent_to_one_of_several_threads_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a thread wrote into the memory it has stays there, also while others take and return some."""
    monkeypatch.setattr(memory, "LARGE_BYTES", 1024)
    interval = sys.getswitchinterval()

    def work(seed: int) -> None:
        rng, held = np.random.default_rng(seed), []
        for value in range(seed, 10_000, 4):
            array = memory.empty((1000 * int(rng.integers(1, 4)),), np.dtype(np.float64))
            array[:8] = value
            held.append((array, value))
            while len(held) > rng.integers(6):
                array, value = held.pop(0)
                assert np.all(array[:8] == value)

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(work, range(4)))
    finally:
        sys.setswitchinterval(interval)


def test_memory_serves_again_for_a_little_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_pool", memory._Pool())
    monkeypatch.setattr(memory, "LARGE_BYTES", 1024)
    first = memory.empty((3000,), np.dtype(np.uint8))
    place, view = first.ctypes.data, first[10:]
    del first
    other = memory.empty((2000,), np.dtype(np.uint8))
    assert other.ctypes.data != place  # a view is left
    del view
    assert memory.empty((1000,), np.dtype(np.uint8)).ctypes.data != place  # far less
    again = memory.empty((2000,), np.dtype(np.uint8))
    assert again.ctypes.data == place
    assert again.nbytes == 2000
    other[...] = 1
    again[...] = 2
    assert (other == 1).all()


# How many threads -------------------------------------------------------------------------------------------


def test_the_number_of_threads_is_the_packages() -> None:
    mg.set_num_threads(3)
    assert get_num_threads() == mg.get_num_threads() == 3


@pytest.mark.parametrize("number", [0, -1, True, 2.0, "2", None])
def test_only_a_positive_integer_will_do(number: Any) -> None:
    with pytest.raises(RuntimeError, match=f"^set_num_threads expects a positive integer, got {number!r}$"):
        set_num_threads(number)
    assert get_num_threads() == 2

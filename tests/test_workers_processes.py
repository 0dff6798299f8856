"""The pool of threads in processes of their own: what sets its size, forks, Ctrl-C, and the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest


def run(script: str, **environment: str) -> str:
    """What a fresh process prints; it must end by itself, without complaint."""
    names = "import os, signal, sys, threading, time\nfrom minigan.kernels.cpu.workers import *\n"
    ended = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", names + textwrap.dedent(script)],
        capture_output=True, text=True, timeout=120, env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def test_the_default_is_what_the_environment_says() -> None:
    assert run("print(get_num_threads())", OMP_NUM_THREADS="3,2").split() == ["3"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs sched_setaffinity, of Linux")
@pytest.mark.parametrize("unusable", ["", "0", "many"])
def test_the_default_is_otherwise_the_cores_one_may_use(unusable: str) -> None:
    one_core = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(get_num_threads())"
    assert run(one_core, OMP_NUM_THREADS=unusable).split() == ["1"]
    if not unusable:
        assert run("print(get_num_threads())", OMP_NUM_THREADS="").split() == [str(len(os.sched_getaffinity(0)))]


@pytest.mark.parametrize("working", [False, True])
def test_an_interrupt(working: bool) -> None:
    """Ctrl-C while the caller does its share, or waits: the worker ends first, and later calls are whole."""
    printed = run(f"""
        set_num_threads(2)
        caller, both_here, ended = threading.current_thread(), threading.Barrier(2), []

        def slow(_):
            both_here.wait()
            if threading.current_thread() is not caller:
                time.sleep(0.2)
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.2)
                ended.append(True)
            elif {working}:
                time.sleep(20)

        try:
            parallel(slow, 2)
        except KeyboardInterrupt:
            print("interrupted", ended)

        for _ in range(3):
            done = []

            def work(i):
                both_here.wait()
                if threading.current_thread() is not caller:
                    time.sleep(0.1)
                done.append(i)

            parallel(work, 2)
            print(sorted(done))
    """)
    assert printed.splitlines() == ["interrupted [True]", *["[0, 1]"] * 3]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer, which Windows lacks")
def test_any_exception_of_a_signals_handler() -> None:
    """Whatever it raises, the worker ends first: no later call returns before its own pieces are done."""
    printed = run("""
        set_num_threads(2)
        caller, both_here, ended = threading.current_thread(), threading.Barrier(2), []

        def slow(_):
            both_here.wait()
            if threading.current_thread() is not caller:
                time.sleep(0.4)
                ended.append(True)

        def stop(*_):
            raise TimeoutError

        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            parallel(slow, 2)
        except TimeoutError:
            print("stopped", ended)
        for _ in range(3):
            done = []

            def work(i):
                time.sleep(0.1)
                done.append(i)

            parallel(work, 4)
            print(sorted(done))
    """)
    assert printed.splitlines() == ["stopped [True]", *["[0, 1, 2, 3]"] * 3]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer, which Windows lacks")
def test_interrupts_at_any_place() -> None:
    """Also in the middle of handing over a share: nothing waits for good, and the pieces of a later call are done."""
    printed = run("""
        import random
        import numpy as np
        set_num_threads(2)
        values, done = np.ones(50_000, np.float32), []

        def stop(*_):
            raise KeyboardInterrupt

        def task(i):
            np.add(values, 1)

        parallel(task, 4)
        signal.signal(signal.SIGALRM, stop)
        for _ in range(1500):
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 1e-3))
                while True:
                    parallel(task, 4)
            except KeyboardInterrupt:
                pass
        for _ in range(20):
            done = []
            parallel(done.append, 4)
            assert sorted(done) == [0, 1, 2, 3]
        print("whole")
    """)
    assert printed.split() == ["whole"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_within_keeps_count() -> None:
    """Of who needs BLAS on one thread: it is, in the child's own regions."""
    printed = run("""
        from threadpoolctl import ThreadpoolController
        blas = ThreadpoolController().select(user_api="blas").lib_controllers
        import numpy
        blas = ThreadpoolController().select(user_api="blas").lib_controllers
        with single_threaded_blas():
            child = os.fork()
        with single_threaded_blas():
            if not child:
                print(*{library.get_num_threads() for library in blas}, flush=True)
        if child:
            os.waitpid(child, 0)
        else:
            os._exit(0)
    """)
    assert printed.split() == ["1"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("busy", [False, True])
def test_a_forked_child_has_a_pool_of_its_own(busy: bool) -> None:
    """Also when another thread of its parent was at work: its locks are held, and BLAS is on one thread."""
    printed = run(f"""
        import numpy
        from threadpoolctl import ThreadpoolController
        blas = ThreadpoolController().select(user_api="blas").lib_controllers
        for library in blas:
            library.set_num_threads(2)
        before = [library.get_num_threads() for library in blas]

        def meet():
            meeting = threading.Barrier(2)
            parallel(lambda _: meeting.wait(20), 2)

        set_num_threads(2)
        meet()
        stop, started = threading.Event(), threading.Event()
        if {busy}:
            holder = threading.Thread(target=parallel, args=(lambda _: (started.set(), stop.wait(20)), 2))
            holder.start()
            started.wait()
        child = os.fork()
        if not child:
            meet()
            print("child", [library.get_num_threads() for library in blas] == before, flush=True)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        stop.set()
        if {busy}:
            holder.join()
        meet()
        print("parent", code, [library.get_num_threads() for library in blas] == before)
    """)
    assert printed.splitlines() == ["child True", "parent 0 True"]


def test_idle_workers_do_not_hold_up_the_end() -> None:
    assert run("set_num_threads(4); parallel(lambda _: time.sleep(0.01), 8); print('done')").split() == ["done"]

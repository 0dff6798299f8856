"""Processes that do one thing at a time when they are asked to, and are ended if they take too long or break."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from bench.machine import ROOT

CHILD = (sys.executable, "-m", "bench.gpu.child")
PATIENCE = 40.0  # seconds for a job: some compile first


class Lost(RuntimeError):
    """A process gave no answer: one line says why."""


class Worker:
    """A child that answers each line with a line of JSON; as a context manager, ended in every case.

    It is the leader of its group, so that what it started itself ends with it.
    """

    def __init__(self, job: dict[str, Any], command: Iterable[str] = CHILD) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the worker, not here
        self.buffer = b""
        self.process = subprocess.Popen(
            [*command, json.dumps(job)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            start_new_session=True, bufsize=0, env=os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "2"},
        )  # fmt: skip

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.log.closed:  # already: another process may have its number now
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(BrokenPipeError), self.process, self.log:
            pass  # closes the pipes, and waits for its end

    def ready(self, seconds: float) -> None:
        """Wait for its first word."""
        said = self.answer(seconds)
        if "error" in said:
            raise Lost(said["error"])

    def ask(self, name: str, seconds: float) -> dict[str, Any]:
        """Its answer to a line."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # if it has ended, there is no answer either
            self.process.stdin.write(f"{name}\n".encode())
        return self.answer(seconds)

    def answer(self, seconds: float) -> dict[str, Any]:
        """The next thing that it says, if it does within so many seconds."""
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.process.stdout], [], [], max(end - time.monotonic(), 0))
            if not ready:
                raise Lost(f"no answer within {seconds:.0f} s")
            piece = os.read(self.process.stdout.fileno(), 1 << 16)
            if not piece:
                raise Lost(f"ended with code {self.process.wait()}: {self.last_words()}")
            self.buffer += piece
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)

    def last_words(self) -> str:
        """The last line of its standard error."""
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def answers(
    job: dict[str, Any], names: Iterable[str], seconds: float, start: Callable[[dict[str, Any]], Worker] = Worker
) -> dict[str, dict[str, Any]]:
    """What a worker says to each name, `error` where it fails; another one goes on after one that is lost.

    After so many seconds, or if none can be made ready, the rest is not asked for any more.
    """
    found: dict[str, dict[str, Any]] = {}
    names, end = list(names), time.monotonic() + seconds
    while rest := names[len(found) :]:
        if (left := end - time.monotonic()) <= 0:
            return found | dict.fromkeys(rest, {"error": f"not done: {seconds:.0f} s were over"})
        with start(job) as worker:
            try:
                worker.ready(min(PATIENCE, left))
            except Lost as lost:
                return found | dict.fromkeys(rest, {"error": str(lost)})
            for name in rest:
                if (left := end - time.monotonic()) <= 0:
                    break
                try:
                    found[name] = worker.ask(name, min(PATIENCE, left))
                except Lost as lost:
                    found[name] = {"error": str(lost), "ended": True}
                if found[name].get("ended"):
                    break
    return found

"""Contenders timed in turn, each in a process of its own, so that what disturbs the machine meets all of them."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from bench.machine import ROOT, with_threads

PAUSE = 0.05  # seconds before each measurement: threads of a pool spin for a while after their last work


class ContenderEnded(RuntimeError):
    """A child process ended before it was told to; what it printed says why."""


class Contender:
    """A child process that measures when it is asked to; as a context manager, ended in every case."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.child", json.dumps(job)], env=with_threads(job["threads"]), cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()  # after its last answer it has nothing more to do
        with suppress(BrokenPipeError), self.process:
            pass  # closes the pipes, and waits for its end

    def ask(self, name: str) -> float:
        """The milliseconds of one measurement."""
        assert self.process.stdin is not None
        time.sleep(PAUSE)
        with suppress(BrokenPipeError):  # if it has ended, there is no answer either
            self.process.stdin.write(f"{name}\n")
            self.process.stdin.flush()
        return self.answer()["ms"]

    def answer(self) -> dict[str, Any]:
        """The next thing that it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ContenderEnded(f"a contender ended with code {self.process.wait()}: {json.dumps(self.job)}")
        return json.loads(line)

    def finish(self) -> dict[str, Any]:
        """Have it end, and return what it says last."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.answer()


@dataclass
class Result:
    """What one contender needed: the milliseconds of each round by name, and what it said at its end (bench.child)."""

    times: dict[str, list[float]] = field(default_factory=dict)
    imported: float = 0.0
    peak: float = 0.0
    profile: str = ""
    flops: int = 0

    def median(self, name: str) -> float:
        """Milliseconds of the round in the middle."""
        return statistics.median(self.times[name])

    def quartiles(self, name: str) -> tuple[float, float]:
        """Where the middle half of the rounds lies."""
        times = self.times[name]
        low, _, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
        return low, high


def contest(ways: Iterable[str], names: Iterable[str], rounds: int, **job: Any) -> dict[str, Result]:
    """In each round, every name of every way once: the ways in turn, another one first each time."""
    ways, names = list(ways), list(names)
    results = {way: Result({name: [] for name in names}) for way in ways}
    with ExitStack() as stack:
        contenders = {}
        for way in ways:  # one after the other, as each one's first steps decide how many make a measurement
            contenders[way] = stack.enter_context(Contender({"way": way, **job}))
            contenders[way].answer()
        for i in range(rounds):
            for name in names:
                for way in ways[i % len(ways) :] + ways[: i % len(ways)]:
                    results[way].times[name].append(contenders[way].ask(name))
        for way, contender in contenders.items():
            results[way] = Result(results[way].times, **contender.finish())
    return results

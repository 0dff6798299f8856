"""minigan's CUDA kernels and training steps beside PyTorch's, on one GPU.

    python -m bench.gpu [--quick] [--only checks,rungs,steps] [--out bench/results/gpu.md]

First every rung is checked against float64, while torch.compile does its work in processes of its own. Then rungs are
timed, then PyTorch's operations, then whole steps, one at a time; contenders of a step take turns. What fails is in
the table with its error, and the rest goes on. Numbers are written after each section, to JSON beside the table, too.
The exit status is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.cpu import listed
from bench.gpu.worker import Lost, Worker, answers

SECTIONS = ("checks", "rungs", "steps")
BATCHES = {"dcgan64": 128, "dcgan32": 128, "wgan-gp": 64}
OUT = Path("bench/results/gpu.md")
# Seconds that parts may take, and all of them together: what is not done by then is said not to be.
SECONDS = {"checks": 100.0, "compile": 100.0, "rungs": 110.0, "operations": 70.0, "ready": 40.0, "steps": 15.0}
ALL = 460.0
ANSWER = 10.0  # seconds for one measurement of a step


def gpu_missing() -> str:
    """What is missing to run at all, or nothing."""
    if not find_spec("cupy"):
        return "CuPy is not installed (pip install cupy-cuda13x)"
    import cupy

    return "" if cupy.cuda.is_available() else "CuPy finds no NVIDIA GPU and driver"


class Bench:
    """What was asked for, and what was found so far."""

    def __init__(self, given: argparse.Namespace) -> None:
        from bench.gpu.cases import cases

        self.given, self.began = given, time.monotonic()
        self.cases = cases(self.batch(128))
        self.torch = bool(find_spec("torch"))
        packages = [f"{name} {version(name)}" for name in ("numpy", "torch") if find_spec(name)]
        self.found: dict[str, Any] = {"machine": ", ".join([f"CuPy {_cupy_version()}", *packages])}

    def batch(self, usual: int) -> int:
        return 16 if self.given.quick else usual

    def left(self, part: str) -> float:
        """How many seconds it may take."""
        return max(min(SECONDS[part], self.began + ALL - time.monotonic()), 0.0)

    def say(self, text: str) -> None:
        """What is being done, to whoever waits."""
        print(f"{time.monotonic() - self.began:5.0f} s  {text}", file=sys.stderr, flush=True)

    def keep(self, section: str, numbers: Any) -> None:
        """Numbers of a section, in the files too."""
        from bench.gpu.tables import report
        from minigan.files import write_atomically

        self.found[section] = numbers
        lost = sum("error" in facts for facts in numbers.values() if isinstance(facts, dict))
        self.say(f"{section}: done" + (f", {lost} without a result" if lost else ""))
        write_atomically(self.given.out.with_suffix(".json"), json.dumps(self.found, indent=1).encode())
        write_atomically(self.given.out, report(self.found, self.cases, full=True).encode())

    def run(self) -> bool:
        """All that was asked for; whether every check passed."""
        with ExitStack() as stack:
            early = self.compiling(stack) if "steps" in self.given.only else {}
            if "checks" in self.given.only:
                from bench.gpu.checks import checks

                self.say("checks")
                self.keep("checks", answers({"role": "checks"}, checks(), self.left("checks")))
            lost = self.ready(early, SECONDS["compile"] - (time.monotonic() - self.began))
            if "rungs" in self.given.only:
                self.rungs()
            if "steps" in self.given.only:
                self.steps(early, lost)
        return all(facts.get("passed") for facts in self.found.get("checks", {}).values())

    def rungs(self) -> None:
        """Ours, after the facts of the card; then PyTorch's operations."""
        job = {"batch": self.batch(128), "seconds": 0.02 if self.given.quick else 0.08}
        self.say("rungs")
        names = [f"{case.name}|{rung}" for case in self.cases.values() for rung in case.ours]
        found = answers({"role": "rungs", **job}, ["card", *names], self.left("rungs"))
        card = found.pop("card")
        if "error" in card:
            self.say(f"the card: {card['error']}")
        else:
            self.found["card"] = card
        self.keep("rungs", found)
        if self.torch:
            self.say("PyTorch's operations")
            names = [f"{case.name}|{way}" for case in self.cases.values() for way in case.theirs]
            self.keep("operations", answers({"role": "operations", **job}, names, self.left("operations")))

    # Steps -------------------------------------------------------------------------------------------------------

    def contenders(self, step: str, compiled: bool) -> list[str]:
        """Ways of a step: those that compile, or those that do not."""
        from bench.gpu.ways import WAYS, ways_of

        ways = ways_of(step, compiled=not self.given.quick)
        return [way for way in ways if bool(WAYS[way].compiled) == compiled and (self.torch or "torch" not in way)]

    def start(self, stack: ExitStack, step: str, compiled: bool) -> dict[tuple[str, str], Worker]:
        """A process for each of these ways of a step."""
        job = {"role": "steps", "step": step, "batch": self.batch(BATCHES[step])}
        job["seconds"] = 0.05 if self.given.quick else 0.2
        return {(step, way): stack.enter_context(Worker(job | {"way": way})) for way in self.contenders(step, compiled)}

    def compiling(self, stack: ExitStack) -> dict[tuple[str, str], Worker]:
        """Those that have to compile, for all steps."""
        early: dict[tuple[str, str], Worker] = {}
        for step in BATCHES:
            early |= self.start(stack, step, compiled=True)
        return early

    def ready(self, workers: dict[tuple[str, str], Worker], seconds: float) -> dict[tuple[str, str], str]:
        """Wait until they are; those that will not be are ended and taken out, and returned with why."""
        end, lost = time.monotonic() + seconds, {}
        for key, worker in list(workers.items()):
            try:
                worker.ready(max(end - time.monotonic(), 0))
            except Lost as error:
                lost[key] = str(error)
                workers.pop(key).__exit__()
        return lost

    def steps(self, early: dict[tuple[str, str], Worker], lost: dict[tuple[str, str], str]) -> None:
        """Each step by all its contenders."""
        found: dict[str, dict[str, Any]] = {}
        for step in BATCHES:
            self.say(f"steps of {step}")
            with ExitStack() as stack:
                late = self.start(stack, step, compiled=False)
                failed = self.ready(late, self.left("ready")) | lost
                racing = {way: worker for (of, way), worker in (late | early).items() if of == step}
                found[step] = race(racing, 2 if self.given.quick else 7, self.left("steps"))
                found[step] |= {way: {"error": why} for (of, way), why in failed.items() if of == step}
                for way in racing:
                    racing[way].__exit__()
            self.keep("steps", found)


def race(workers: dict[str, Worker], rounds: int, seconds: float) -> dict[str, dict[str, Any]]:
    """Milliseconds of each in every round, another one first each time; who fails is out."""
    found: dict[str, dict[str, Any]] = {way: {"times": []} for way in workers}
    ways, end = list(workers), time.monotonic() + seconds

    def asked(way: str, what: str) -> dict[str, Any]:
        if "error" in found[way]:
            return {}
        try:
            said = workers[way].ask(what, ANSWER)
        except Lost as error:
            said = {"error": str(error)}
        if "error" in said:
            found[way]["error"] = said["error"]
            return {}
        return said

    for i in range(rounds):
        for way in ways[i % len(ways) :] + ways[: i % len(ways)]:
            if said := asked(way, "ms"):
                found[way]["times"].append(said["ms"])
        if time.monotonic() > end:
            break
    for way in ways:
        found[way] |= asked(way, "memory")
    return found


def _cupy_version() -> str:
    import cupy

    return cupy.__version__


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The command's options, checked."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small batches and no torch.compile: does it run?")
    parser.add_argument("--only", type=listed(SECTIONS), default=list(SECTIONS), help=", ".join(SECTIONS))
    parser.add_argument("--out", type=Path, default=OUT, help=f"{OUT}; full numbers go to .json beside it")
    given = parser.parse_args(arguments)
    if not given.out.parent.is_dir():
        parser.error(f"--out: there is no folder {given.out.parent}")
    return given


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 if all checks passed, or none was asked for."""
    given = parsed(arguments)
    if missing := gpu_missing():
        print(f"bench.gpu needs an NVIDIA GPU: {missing}", file=sys.stderr)
        return 1
    bench = Bench(given)
    passed = bench.run()
    from bench.gpu.tables import report

    bench.say("all done")
    print(report(bench.found, bench.cases, full=False), flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Interrupted: sections that were done are written")

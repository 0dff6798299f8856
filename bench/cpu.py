"""minigan beside PyTorch on the processor: whole training steps, single layers, batches, memory, and where time goes.

    python -m bench.cpu [--quick] [--only steps,layers,batch,memory,profile] [--steps ...] [--out bench/results/cpu.md]

Each contender runs in a process of its own, and they take turns: in a round everyone is asked for one measurement,
another one first each time. Times are medians of the rounds, with their quartiles, after two steps to warm up.
PyTorch takes its steps in four ways (two layouts, D trainable or frozen while G learns); minigan is compared with the
best of them. PyTorch has to be installed (`pip install torch==2.13.0`, a CPU build); without it minigan is alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import layers, tables
from bench.contest import ContenderEnded, Result, contest
from bench.machine import machine, sgemm_peak
from bench.steps import OURS, STEPS, WAYS

SECTIONS = ("steps", "layers", "batch", "memory", "profile")
BATCHES, QUICK_BATCHES = (16, 64, 256), (2, 4)
SECONDS = {"layers": 0.1, "step": 0.4}  # of one measurement at least, where calls are shorter
NOTES = {
    "steps": (
        "Whole training steps with {threads}. minigan / PyTorch: of the medians, with PyTorch's best way; below 1 "
        "minigan is faster. GFLOP: of a step's convolutions and products by the direct algorithm, without gradients "
        "that nobody needs. GFLOP/s: of minigan and of PyTorch's best way; in brackets, of the peak, {peak} GFLOP/s "
        "(a product of large matrices in NumPy). An algorithm that does less than the direct one may be above it."
    ),
    "layers": (
        "Layers of DCGAN-64 one by one, batch {batch}, with {threads}: forward without recording; each gradient by "
        "`autograd.grad` alone. minigan's weight gradient uses what its forward kept, as in training. Activations lie "
        "as the layer before would leave them. Peak: {peak} GFLOP/s."
    ),
    "batch": "How the time of a step (the first of `--steps`) grows with its batch, with {threads}.",
    "memory": "Peak resident memory of a process that takes such steps with {threads} (of which after the import).",
    "profile": "One step of minigan by operation (`mg.profiler`), with {threads}.",
}


class Bench:
    """The contests that the sections share, each held once, and their tables."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.ways: list[str] = arguments.ways
        self.names: list[str] = arguments.steps
        self.only: list[str] = arguments.only
        self.quick: bool = arguments.quick
        self.rounds: int = arguments.rounds
        self.contests: dict[tuple[str, int, int], dict[str, Result]] = {}
        self.peaks: dict[int, float] = {}

    def section(self, name: str, threads: int) -> str:
        """A heading, what the figures are, and the table."""
        table = getattr(self, name)(threads)
        facts = {"threads": f"{threads} thread{'s' * (threads > 1)}", "batch": self.batch_of_layers}
        peak = f"{self.peaks[threads]:.0f}" if threads in self.peaks else ""
        return f"## {name}, {facts['threads']}\n\n{NOTES[name].format(**facts, peak=peak)}\n\n{table}\n"

    def steps(self, threads: int) -> str:
        return tables.steps(self.all_steps(threads), self.ways, self.peak(threads))

    def layers(self, threads: int) -> str:
        say(f"layers, {threads} threads")
        ways = [way for way in layers.LAYOUTS if way in self.ways]
        names = [f"{layer}/{part}" for layer in layers.LAYERS for part in layers.PARTS]
        found = contest(ways, names, self.rounds, batch=self.batch_of_layers, **self.job("layers", threads))
        return tables.layers(found, self.batch_of_layers, self.peak(threads))

    def batch(self, threads: int) -> str:
        batches = QUICK_BATCHES if self.quick else BATCHES
        return tables.growth({(self.names[0], b): self.step(self.names[0], b, threads) for b in batches})

    def memory(self, threads: int) -> str:
        return tables.memory(self.all_steps(threads), self.ways)

    def profile(self, threads: int) -> str:
        found = self.all_steps(threads)
        parts = [f"{step}, batch {batch}:\n\n```\n{r[OURS].profile}\n```" for (step, batch), r in found.items()]
        return "\n\n".join(parts)

    # What they share ----------------------------------------------------------------------------------

    @property
    def batch_of_layers(self) -> int:
        return 4 if self.quick else layers.BATCH

    def job(self, what: str, threads: int) -> dict[str, Any]:
        return {"what": what, "threads": threads, "seconds": 0.0 if self.quick else SECONDS[what]}

    def all_steps(self, threads: int) -> dict[tuple[str, int], dict[str, Result]]:
        """The contests of the steps that were asked for, by name and batch."""
        batches = {name: 4 if self.quick else STEPS[name].batch for name in self.names}
        return {(name, batch): self.step(name, batch, threads) for name, batch in batches.items()}

    def step(self, name: str, batch: int, threads: int) -> dict[str, Result]:
        """One step in every way: if nobody asks for its times, with one round, and for its profile, in ours only."""
        key = name, batch, threads
        if key not in self.contests:
            ways = [way for way in self.ways if STEPS[name].images or not WAYS[way].channels_last]
            ways = ways if self.only != ["profile"] else [OURS]
            rounds = self.rounds if {"steps", "batch"} & {*self.only} else 1
            say(f"{name}, batch {batch}, {threads} threads")
            self.contests[key] = contest(ways, [name], rounds, step=name, batch=batch, **self.job("step", threads))
        return self.contests[key]

    def peak(self, threads: int) -> float:
        """GFLOP/s of a matrix product in NumPy with so many threads."""
        if threads not in self.peaks:
            self.peaks[threads] = sgemm_peak(threads, 0, (512,)) if self.quick else sgemm_peak(threads)
        return self.peaks[threads]


def say(text: str) -> None:
    """What is being measured, to whoever waits."""
    print(f"… {text}", file=sys.stderr, flush=True)


def listed(known: Collection[str]) -> Callable[[str], list[str]]:
    """For an option: names with commas between them."""

    def split(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return split


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The command's options, checked: a long run should not end in an error."""
    parser = argparse.ArgumentParser(prog="python -m bench.cpu", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of small batches: does it run?")
    parser.add_argument("--only", type=listed(SECTIONS), default=list(SECTIONS), help=", ".join(SECTIONS))
    parser.add_argument("--steps", type=listed(STEPS), default=list(STEPS), help=", ".join(STEPS))
    parser.add_argument("--ways", type=listed(WAYS), default=list(WAYS), help=", ".join(WAYS))
    parser.add_argument("--threads", default="2,1", help="for steps and layers; the rest is done with the first")
    parser.add_argument("--rounds", type=int, help="7 without --quick")
    parser.add_argument("--out", type=Path, help="write the tables here, too, once all are there")
    given = parser.parse_args(arguments)
    if given.rounds is None:
        given.rounds = 1 if given.quick else 7
    given.threads = [int(number) for number in given.threads.split(",")]
    if given.rounds < 1 or min(given.threads) < 1:
        parser.error("--rounds and --threads are 1 or more")
    if OURS not in given.ways and "profile" in given.only:
        parser.error(f"the profile is of {OURS}, which is not among --ways")
    if given.out and not given.out.parent.is_dir():
        parser.error(f"--out: there is no folder {given.out.parent}")
    return given


def main(arguments: list[str] | None = None) -> None:
    """Print each section when it is there, and write all of them at the end."""
    given = parsed(arguments)
    said = [f"# minigan and PyTorch on the processor\n\n{machine()}\n"]
    if any(WAYS[way].library == "torch" for way in given.ways) and not find_spec("torch"):
        said.append("PyTorch is not installed, so there is nothing to compare with (`pip install torch==2.13.0`).\n")
        given.ways = [way for way in given.ways if WAYS[way].library != "torch"]
    print("\n".join(said), flush=True)
    bench = Bench(given)
    for name in SECTIONS:
        for threads in given.threads if name in ("steps", "layers") else given.threads[:1]:
            if name in given.only:
                said.append(bench.section(name, threads))
                print(said[-1], flush=True)
    if given.out:
        from minigan.files import write_atomically

        write_atomically(given.out, "\n".join(said).encode())


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Interrupted: nothing was written")
    except ContenderEnded as error:
        sys.exit(f"{error}; nothing was written")

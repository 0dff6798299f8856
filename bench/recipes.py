"""What the recipes reach: each experiment with several seeds, every run in a process of its own.

    python -m bench.recipes ring ring-plain --seeds 5 --out runs/bench [--jobs 2]

Prints a table for each experiment: the last scores of each seed, their mean, the floor, and the time of a run. Runs
that are there already are not run again. docs/results.md was made from these.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

# Metz and others, 2017, "Unrolled generative adversarial networks": their demo's plain GAN, where modes are lost
PLAIN = [
    "networks=unrolled", "latent=256", "batch=512", "g_lr=1e-3", "d_lr=1e-4", "beta1=0.5", "beta2=0.999",
    "penalty=", "penalty_weight=0", "ema=0", "lr_decay=0", "steps=25000",
]  # fmt: skip
EXPERIMENTS = {
    "glyphs": ("glyphs", []),
    "ring": ("ring", []),
    "ring-plain": ("ring", PLAIN),
    "grid": ("grid", []),
    "grid-plain": ("grid", PLAIN),
}
SHOWN = ("frechet", "kid", "precision", "recall", "coverage", "classes", "modes", "quality", "reverse_kl")


def run(experiment: str, seed: int, *, out: Path) -> Path:
    """Train one seed, unless its folder is there."""
    recipe, changes = EXPERIMENTS[experiment]
    folder = out / f"{experiment}-{seed}"
    if not folder.exists():
        command = [sys.executable, "-m", "minigan", "train", recipe, "--quiet", "--seed", str(seed), "--out", folder]
        for change in changes:
            command += ["--set", change]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (folder / "seconds.txt").write_text(f"{time.perf_counter() - start:.0f}\n")
    return folder


def report(experiment: str, folders: list[Path]) -> None:
    """A Markdown table: one line a seed, then the mean and the floor."""
    last = []
    for folder in folders:
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        last.append([record["scores"] for record in records if "scores" in record][-1])
    names = [name for name in SHOWN if name in last[0]]
    print(f"\n### {experiment}\n\n| seed | {' | '.join(names)} | seconds |\n|{'---|' * (len(names) + 2)}")
    for folder, scores in zip(folders, last, strict=True):
        cells = [f"{scores[name]['value']:.4g}" for name in names]
        print(
            f"| {folder.name.rsplit('-')[-1]} | {' | '.join(cells)} | {(folder / 'seconds.txt').read_text().strip()} |"
        )
    means = [sum(scores[name]["value"] for scores in last) / len(last) for name in names]
    print(f"| mean | {' | '.join(f'{mean:.4g}' for mean in means)} | |")
    floors = [f"{last[0][name]['floor']:.4g}" for name in names]
    print(f"| floor | {' | '.join(floors)} | |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="+", choices=EXPERIMENTS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="runs at once; 1 where the time matters")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--figures", type=Path, help="copy the first seed's last samples here")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for experiment in arguments.experiments:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            one = partial(run, experiment, out=arguments.out)
            folders = list(pool.map(one, range(arguments.seeds)))
        report(experiment, folders)
        if arguments.figures:
            shutil.copy(max((folders[0] / "samples").iterdir()), arguments.figures / f"{experiment}.png")


if __name__ == "__main__":
    main()

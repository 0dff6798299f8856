"""Images/s of the DCGAN-64 generator: minigan's engine, ONNX Runtime with each variant of the file, and PyTorch.

    python -m bench.export [--run RUN] [--quick]

Batches of 1, 16 and 64 on 1 and 2 threads. Every figure is a median over rounds; in a round each contender runs in a
process of its own, in turn. One thread is timed by its own processor time, which others on the machine take nothing of;
two are timed by the clock, and need the machine for themselves. Factors are against PyTorch eager in the better of two
layouts. The weights are those of a run of dcgan-64, else seeded ones with the statistics of some batches. `load` is the
time from the file to the first sample, without imports (what PyTorch compiled once, it keeps). PSNR is that of 256
samples against the engine's. PyTorch has to be installed (`pip install torch==2.13.0`, a CPU build), and a C++
compiler for its compiled form.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import machine, with_threads
from bench.steps import dcgan

LATENT = 100
BATCHES, THREADS = (1, 16, 64), (1, 2)
VARIANTS: dict[str, dict[str, Any]] = {
    "fp32": {}, "fp16-storage": {"dtype": "fp16-storage"}, "fp16": {"dtype": "fp16"}, "int8": {"dtype": "int8"},
    "int8-size": {"dtype": "int8", "optimize": "size"},
}  # fmt: skip
EAGER = ("torch", "torch-channels-last")
NAMES = {
    "minigan": "minigan, the module", "minigan-file": 'minigan, the file (engine="numpy")',
    **{variant: f"ONNX Runtime, {variant.replace('-size', ', size')}" for variant in VARIANTS},
    "torch": "PyTorch eager", "torch-channels-last": "PyTorch eager, channels_last",
    "torch-compiled": "PyTorch compiled",
}  # fmt: skip

Run = Callable[[np.ndarray], Any]


def measure(name: str, folder: Path, seconds: float) -> dict[str, Any]:
    """In this process: milliseconds until the first sample, and the images/s for each size of batch."""
    threads = int(os.environ["OMP_NUM_THREADS"])
    load, clock = contender(name, folder, threads), time.process_time if threads == 1 else time.perf_counter
    latents = [np.random.default_rng(0).standard_normal((batch, LATENT), np.float32) for batch in BATCHES]
    start = time.perf_counter()
    run = load()
    run(latents[0])
    return {"load": (time.perf_counter() - start) * 1e3, "rates": [rate(run, z, seconds, clock) for z in latents]}


def rate(run: Run, z: np.ndarray, seconds: float, clock: Callable[[], float]) -> float:
    """Of the median call of those for so long, and of three at least, after one to warm up."""
    run(z)
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        start = clock()
        run(z)
        times.append(clock() - start)
    return len(z) / statistics.median(times)


def contender(name: str, folder: Path, threads: int) -> Callable[[], Run]:
    """Import what it needs; what is returned opens the generator."""
    lib = importlib.import_module("torch" if name.startswith("torch") else "minigan")
    lib.set_num_threads(threads)
    if name not in VARIANTS and name != "minigan-file":
        return lambda: eager(lib, name, folder)
    from minigan.export import Generator

    if name == "minigan-file":
        return lambda: Generator(folder / "fp32.onnx", engine="numpy")
    importlib.import_module("onnxruntime")
    return lambda: Generator(folder / f"{name}.onnx", "cpu", threads)


def eager(lib: Any, name: str, folder: Path) -> Run:
    """The generator as a module of minigan or PyTorch; their state dicts have the same names."""
    module = lib.nn.Sequential(lib.nn.Unflatten(1, (LATENT, 1, 1)), *dcgan(lib.nn)[0])
    with np.load(folder / "weights.npz") as weights:
        module.load_state_dict({key: lib.from_numpy(array) for key, array in weights.items()})
    module.eval()
    if name == "torch-channels-last":
        module = module.to(memory_format=lib.channels_last)
    if name == "torch-compiled":
        module = lib.compile(module, dynamic=False)
    without_gradients = lib.no_grad if name == "minigan" else lib.inference_mode

    def run(z: np.ndarray) -> np.ndarray:
        with without_gradients():
            return module(lib.from_numpy(z)).numpy()

    return run


def write_files(folder: Path, run: str | None) -> dict[str, list[str]]:
    """The weights, and a file for each variant: its MB, and its worst and mean PSNR."""
    from minigan.export import Generator, export_onnx
    from minigan.export.exporter import Subject
    from minigan.export.runs import open_generator
    from minigan.export.verify import PROOF_LATENTS, psnr

    module = open_generator(run).generator if run else seeded()
    weights: dict[str, Any] = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    np.savez(folder / "weights.npz", **weights)
    subject = Subject.of(module, LATENT)
    feeds = subject.draw(PROOF_LATENTS, "verify")
    samples, facts = subject.run(feeds), {}
    for name, options in VARIANTS.items():
        path = folder / f"{name}.onnx"
        export_onnx(module, path, latent=LATENT, verified=False, **options)
        noise = psnr(Generator(path, "cpu")(feeds["z"]), samples)
        facts[name] = [f"{path.stat().st_size / 1e6:.2f}", f"{noise.min():.0f}, {noise.mean():.0f}"]
    return facts


def seeded() -> Any:
    """DCGAN-64 with its first weights, and the statistics of 20 batches."""
    import minigan as mg
    from minigan.gan.recipes import get_recipe

    mg.manual_seed(0)
    generator, _ = (recipe := get_recipe("dcgan-64")).networks(recipe.defaults, (3, 64, 64))
    with mg.no_grad():
        for _ in range(20):
            generator(mg.randn(32, LATENT))
    return generator.eval()


def in_process(name: str, threads: int, folder: Path, seconds: float) -> dict[str, Any] | str:
    """What `measure` finds in a fresh process, or the last line of its error."""
    environment = with_threads(threads) | {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache"}
    command = [sys.executable, "-m", "bench.export", "child", name, str(folder), str(seconds)]
    child = subprocess.run(command, env=environment, capture_output=True, text=True)
    return child.stderr.strip().splitlines()[-1] if child.returncode else json.loads(child.stdout)


def table(rounds: list[dict], facts: dict[str, list[str]]) -> str:
    """Markdown, with what did not run below it."""
    failed = {name: found for r in rounds for (name, _), found in r.items() if isinstance(found, str)}
    columns = [(t, i) for t in THREADS for i in range(len(BATCHES))]
    rates = {
        name: [statistics.median(r[name, t]["rates"][i] for r in rounds) for t, i in columns]
        for name in NAMES if name not in failed
    }  # fmt: skip
    bars = [max((rates[name][i] for name in EAGER if name in rates), default=math.nan) for i in range(len(columns))]
    heads = [f"{t} thread{'s' * (t > 1)}, batch {BATCHES[i]}" for t, i in columns]
    lines = [f"| images/s | {' | '.join(heads)} | load, ms | MB | PSNR worst, mean, dB |", "|---|" + "---|" * 9]
    for name in rates:
        cells = [f"{rate:.0f} ({rate / bar:.2f}×)" for rate, bar in zip(rates[name], bars, strict=True)]
        load = statistics.median(r[name, t]["load"] for r in rounds for t in THREADS)
        lines.append(f"| {' | '.join([NAMES[name], *cells, f'{load:.0f}', *facts.get(name, ['', ''])])} |")
    gains = [f"{a / b:.2f}×" for a, b in zip(rates["int8"], rates["fp32"], strict=True)]
    lines.append(f"| int8 against fp32 in ONNX Runtime | {' | '.join(gains)} | | | |")
    return "\n".join([*lines, "", *(f"{NAMES[name]} did not run: {why}" for name, why in failed.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="the folder of a run of dcgan-64")
    parser.add_argument("--quick", action="store_true", help="one round, and short")
    arguments = parser.parse_args()
    count, seconds = (1, 0.1) if arguments.quick else (3, 1.0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        facts = write_files(folder, arguments.run)
        rounds = [{(n, t): in_process(n, t, folder, seconds) for t in THREADS for n in NAMES} for _ in range(count)]
    print(f"{machine()}\n\n{table(rounds, facts)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print(json.dumps(measure(sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]))))
    else:
        main()

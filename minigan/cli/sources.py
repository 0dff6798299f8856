"""Where `minigan sample` takes samples from, a run's generator or one in an ONNX file, and where it puts them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

import minigan as mg
from minigan.cli.common import warn
from minigan.cli.progress import LINES, duration
from minigan.export.graph import digest
from minigan.export.runner import Generator, latent_batches
from minigan.export.shards import SHARD, write_shards
from minigan.files import whole
from minigan.gan.pictures import image_grid, sample_picture, save_animation, save_png, scatter, walk
from minigan.gan.run_folder import RunFolder
from minigan.gan.runs import load_trainer
from minigan.gan.trainer import evaluation
from minigan.nn import Module
from minigan.tensor import Tensor

FRAMES_AN_ARC = 15  # of a walk


class Source(NamedTuple):
    """A generator in eval mode, the latents that it was trained with, and how its samples are pictured."""

    generate: Callable[[Tensor], Any]  # samples, as a Tensor or an array
    stream: Callable[[int, int, int], Iterator[np.ndarray]]  # of (number, seed, start): batches
    latents: Callable[[int, mg.Generator], Tensor]
    picture: Callable[[Any], np.ndarray]
    images: bool
    about: dict[str, Any]  # what its samples depend on, beside the seed


def open_source(path: Path, step: int | None, best: bool, labels: str | None, psi: float) -> Source:
    """A run's generator after `step`, at its `best` or at the end; or the one in an .onnx file."""
    if path.suffix.lower() == ".onnx":
        if step is not None or best:
            raise ValueError(f"{path}: --step and --best choose a checkpoint of a run; an .onnx file has none")
        return open_onnx(path, labels, psi)
    if labels is not None or psi != 1:
        raise ValueError(f"{path}: --labels and --psi are for an .onnx file that takes them")
    images = RunFolder(path).blank_data().images
    trainer = load_trainer(path, step, best, with_data=not images)  # real points stand behind the generated ones
    warn(trainer.problems)

    def generate(z: Tensor) -> Tensor:
        with evaluation(trainer.generator), mg.no_grad():
            return trainer.generator(z)

    def stream(number: int, seed: int, start: int) -> Iterator[np.ndarray]:
        for _, z in latent_batches(trainer.latents, number, seed, start):
            yield generate(z).numpy(force=True)

    about = {"source": path.name, "sha256": weights_digest(trainer.generator)}
    return Source(generate, stream, trainer.latents, partial(sample_picture, data=trainer.data), images, about)


def open_onnx(path: Path, labels: str | None, psi: float) -> Source:
    """A generator in a file, of the classes `labels`: one's number, or all in turn."""
    generator = Generator(path)
    if labels not in (None, "all") and not str(labels).isdecimal():
        raise ValueError(f"--labels: got {labels!r}, expected the number of a class, or all")
    if labels is not None and not generator.classes:
        raise ValueError(f"--labels: {path} has no classes")
    chosen = None if labels in (None, "all") else int(str(labels))
    images = len(generator.sample_shape) == 3

    def generate(z: Tensor) -> np.ndarray:
        return generator(z.numpy(force=True).reshape(-1, *generator.latent_shape), chosen, psi)

    def stream(number: int, seed: int, start: int) -> Iterator[np.ndarray]:
        return generator.stream(number, seed, chosen, psi, start)

    def picture(samples: np.ndarray) -> np.ndarray:
        if not images:
            return scatter(samples)
        if samples.dtype == np.uint8:  # back to what a sheet is made of: its rounding gives the same levels
            samples = samples.transpose(0, 3, 1, 2) / np.float32(127.5) - 1
        return image_grid(samples, scale=max(1, 64 // samples.shape[2]))

    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    about = {"source": path.name, "sha256": sha256, "labels": labels or "all" * bool(generator.classes), "psi": psi}
    return Source(generate, stream, generator.latents, picture, images, about)


def weights_digest(module: Module) -> str:
    """One sha256 of all that a network's outputs depend on."""
    state = module.state_dict().items()
    lines = [f"{name} {digest(value.numpy(force=True))}\n" for name, value in state]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# Where they go ------------------------------------------------------------------------------------------


def save_samples(source: Source, number: int, seed: int, out: Path) -> None:
    """As a picture, or as numbers (.npy)."""
    samples = np.concatenate(list(source.stream(number, seed, 0)))
    if out.suffix == ".npy":
        with whole(out) as place, open(place, "wb") as file:
            np.save(file, samples, allow_pickle=False)
    else:
        save_png(source.picture(samples), out)


def save_walk(source: Source, number: int, seed: int, frames: int, out: Path) -> None:
    """`number` samples walk at once, on one sheet."""
    stops = max(2, round(frames / FRAMES_AN_ARC))
    z: Any = source.latents(stops * number, mg.Generator(name="walk").manual_seed(seed))
    save_animation(walk(source.generate, z.reshape(stops, number, -1), frames, source.picture), out)


def save_shards(source: Source, number: int, seed: int, folder: Path, kind: str | None) -> None:
    """As many files, in constant memory; begins where an earlier, interrupted call was."""
    if kind == "png" and not source.images:
        raise ValueError(f"{source.about['source']}: its samples are points; expected --format npy")
    kind = kind or ("png" if source.images else "npy")
    reached = 0

    def stream(start: int) -> Iterator[np.ndarray]:
        return source.stream(number, seed, start)

    with progress_shown(number) as show:

        def progress(done: int) -> None:
            nonlocal reached
            reached = number if done == number else done // SHARD * SHARD
            show(done)

        try:
            write_shards(folder, stream, number, {**source.about, "seed": seed}, kind, progress)
        except KeyboardInterrupt:
            place = f"{reached} of {number} samples are in {folder}"
            print(f"minigan: interrupted: {place}; the same command goes on from there", file=sys.stderr)
            raise


@contextmanager
def progress_shown(number: int) -> Iterator[Callable[[int], None]]:
    """Within: a bar on a terminal, about twenty plain lines elsewhere, driven by what the function given is told."""
    began, first, shown = monotonic(), -1, 0

    def line(done: int) -> str:
        nonlocal first
        first = done if first < 0 else first  # those of an earlier call say nothing about the speed
        rate = (done - first) / max(monotonic() - began, 1e-9)
        left = f"{duration((number - done) / rate)} left" if rate else ""
        return f"{done}/{number} samples  {rate:.3g}/s  {left}".rstrip()

    def print_some(done: int) -> None:
        nonlocal shown
        text = line(done)
        if done == number or done - shown >= number / LINES:
            shown = done
            print(text, file=sys.stderr, flush=True)

    if not sys.stderr.isatty():
        yield print_some
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn()
    with Progress(*columns, console=Console(stderr=True, highlight=False)) as bar:
        task = bar.add_task("", total=number)
        yield lambda done: bar.update(task, completed=done, description=line(done))

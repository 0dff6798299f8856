"""Where `minigan sample` takes samples from: a run's generator, or one in an ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import minigan as mg
from minigan.cli.common import warn
from minigan.gan.features import _session
from minigan.gan.pictures import image_grid, sample_picture, save_animation, save_png, scatter, walk
from minigan.gan.run_folder import RunFolder
from minigan.gan.runs import load_trainer
from minigan.gan.trainer import evaluation
from minigan.gan.tricks import latents
from minigan.random import Generator
from minigan.tensor import Tensor

BATCH = 256
FRAMES_AN_ARC = 15  # of a walk


class Source(NamedTuple):
    """A generator in eval mode, the latents that it was trained with, and how its samples are pictured."""

    generate: Callable[[Tensor], Tensor]
    latents: Callable[[int, Generator], Tensor]
    picture: Callable[[Tensor], np.ndarray]


def open_source(path: Path, step: int | None, best: bool) -> Source:
    """A run's generator after `step`, at its `best` or at the end; or the one in an .onnx file."""
    if path.suffix.lower() == ".onnx":
        if step is not None or best:
            raise ValueError(f"{path}: --step and --best choose a checkpoint of a run; an .onnx file has none")
        return open_onnx(path)
    points = not RunFolder(path).blank_data().images
    trainer = load_trainer(path, step, best, with_data=points)  # real points stand behind the generated ones
    warn(trainer.problems)

    def generate(z: Tensor) -> Tensor:
        with evaluation(trainer.generator), mg.no_grad():
            return trainer.generator(z)

    return Source(generate, trainer.latents, partial(sample_picture, data=trainer.data))


def open_onnx(path: Path) -> Source:
    """A generator with one input z (batch, latent), normally distributed."""
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    session = _session(path)[0]
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 2 or not isinstance(inputs[0].shape[1], int):
        found = ", ".join(f"{one.name} {one.shape}" for one in inputs)
        raise ValueError(f"{path}: has the inputs {found}; expected one, z, of shape (batch, latent)")
    batch, latent = inputs[0].shape

    def generate(z: Tensor) -> Tensor:
        size = batch if isinstance(batch, int) else len(z)
        parts = []
        for part in z.split(size):
            values = np.zeros((size, latent), np.float32)  # a last, smaller part is filled up
            values[: len(part)] = part.numpy()
            parts.append(session.run(None, {inputs[0].name: values})[0][: len(part)])
        return mg.from_numpy(np.concatenate(parts))

    def picture(samples: Tensor) -> np.ndarray:
        return image_grid(samples, scale=max(1, 64 // samples.shape[2])) if samples.ndim == 4 else scatter(samples)

    def normal(n: int, generator: Generator) -> Tensor:
        return latents(n, latent, generator=generator)

    return Source(generate, normal, picture)


def save_samples(source: Source, number: int, seed: int, out: Path) -> None:
    """As a picture, or as numbers (.npy)."""
    z = source.latents(number, Generator(name="samples").manual_seed(seed))
    samples = mg.cat([source.generate(part) for part in z.split(BATCH)])
    if out.suffix == ".npy":
        np.save(out, samples.numpy(force=True), allow_pickle=False)
    else:
        save_png(source.picture(samples), out)


def save_walk(source: Source, number: int, seed: int, frames: int, out: Path) -> None:
    """`number` samples walk at once, on one sheet."""
    stops = max(2, round(frames / FRAMES_AN_ARC))
    z: Any = source.latents(stops * number, Generator(name="walk").manual_seed(seed))
    save_animation(walk(source.generate, z.reshape(stops, number, -1), frames, source.picture), out)

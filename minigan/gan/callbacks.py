"""What a run does besides training: metrics, pictures, scores, checkpoints, the report.

Each writes one kind of thing into the run folder. None draws from a random stream of the training, so a run is the
same with and without them.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np

import minigan as mg
from minigan.gan import checkpoint
from minigan.gan.curves import read_metrics
from minigan.gan.evaluate import Evaluator
from minigan.gan.pictures import sample_picture, save_animation, save_png, walk
from minigan.gan.report import write_report
from minigan.gan.run_folder import RunError, RunFolder, append_line
from minigan.gan.trainer import Callback, Record, Trainer, evaluation

PICTURED = 64  # samples in a picture of images
SCATTERED = 2500  # in one of points


class Metrics(Callback):
    """metrics.jsonl. Its length belongs to a checkpoint: a resumed run cuts off what came after."""

    name = "metrics"

    def __init__(self, run: RunFolder) -> None:
        self.run, self.path, self.length = run, run.metrics_file, 0

    def start(self, trainer: Trainer) -> None:
        self.path.touch()
        size = self.path.stat().st_size
        if size < self.length:
            raise RunError(
                f"{self.path}: has {size} bytes, but {self.length} when the checkpoint was written; to go on without "
                f"the missing lines: {self.run.fork_command(trainer.steps_done)}"
            )
        os.truncate(self.path, self.length)
        read_metrics(self.path)  # a damaged line is found now, and not by the report after hours

    def event(self, trainer: Trainer, record: Record) -> None:
        append_line(self.path, record)

    def state_dict(self) -> dict[str, Any]:
        with open(self.path, "rb+") as file:  # on the disk before the checkpoint that counts on it
            os.fsync(file.fileno())
            return {"length": file.seek(0, os.SEEK_END)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.length = state["length"]


class Samples(Callback):
    """samples/step-….png of the same latents each time, real.png at the start, walk.gif at the end."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def start(self, trainer: Trainer) -> None:
        self.run.samples.mkdir(exist_ok=True)
        self.number = min(PICTURED if trainer.data.images else SCATTERED, 10 * len(trainer.data))
        order = mg.Generator(name="real.png").manual_seed(0).permutation(len(trainer.data))
        real = trainer.data.unflipped(order[: self.number])
        save_png(sample_picture(real, trainer.data), self.run.path / "real.png")

    def step(self, trainer: Trainer, record: Record) -> None:
        steps = trainer.steps_done
        if steps % trainer.settings.sample_every == 0 or steps == trainer.settings.steps:
            self._save(trainer)

    def end(self, trainer: Trainer) -> None:
        if trainer.stopped:
            self._save(trainer)
        if trainer.data.images:
            z = trainer.latents(6 * 12, mg.Generator(name="walk").manual_seed(0)).unflatten(0, (6, 12))
            with evaluation(trainer.generator):
                frames = walk(trainer.generator, z, 48, lambda samples: sample_picture(samples, trainer.data))
            save_animation(frames, self.run.path / "walk.gif")

    def _save(self, trainer: Trainer) -> None:
        picture = sample_picture(trainer.sample(self.number), trainer.data)
        save_png(picture, self.run.samples / f"step-{trainer.steps_done:06d}.png")


class Scores(Callback):
    """Scores every so often and after the last step; the checkpoint with the best one is kept in best/."""

    name = "scores"

    def __init__(self, run: RunFolder, evaluator: Evaluator) -> None:
        self.run, self.evaluator, self.best = run, evaluator, -np.inf
        self._scored = 0  # the last step with scores

    def start(self, trainer: Trainer) -> None:
        checkpoint.drop_after(self.run.best, trainer.steps_done)  # what an interrupted run had found later

    def step(self, trainer: Trainer, record: Record) -> None:
        settings, steps = trainer.settings, trainer.steps_done
        if steps == settings.steps or (settings.score_every and steps % settings.score_every == 0):
            self._score(trainer)

    def end(self, trainer: Trainer) -> None:
        if trainer.stopped and trainer.steps_done > self._scored:
            self._score(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]

    def _score(self, trainer: Trainer) -> None:
        self._scored = steps = trainer.steps_done
        scores = self.evaluator(lambda n: trainer.sample(n, seed=trainer.settings.seed + 1))
        trainer.emit({"step": steps, "scores": {name: score.to_json() for name, score in scores.items()}})
        if (merit := _merit({name: score.value for name, score in scores.items()})) > self.best:
            self.best = merit
            checkpoint.save(self.run.best, steps, trainer.state_dict())


def _merit(values: dict[str, float]) -> float:
    """What the best checkpoint is chosen by: the Fréchet distance, or for points modes, then quality."""
    return -values["frechet"] if "frechet" in values else values["modes"] + values["quality"]


class Interrupted(RuntimeError):
    """The run was told to stop by a signal, and is saved."""

    def __init__(self, run: RunFolder, number: int, step: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"{name}: saved at step {step}; go on with: {run.resume_command}")
        self.signal_number = number


class Checkpoints(Callback):
    """Saves every so often, after the last step, and when SIGINT or SIGTERM comes: the step is finished first."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.signal_number = run, 0
        self._handlers: dict[int, Any] = {}

    def start(self, trainer: Trainer) -> None:
        checkpoint.drop_after(self.run.checkpoints, trainer.steps_done)
        self._prune(trainer)
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._handlers[number] = signal.signal(number, self._remember)
            except ValueError:  # not in the main thread: whoever is there looks after signals
                break

    def _remember(self, number: int, frame: object) -> None:
        self.signal_number = number
        signal.signal(number, self._handlers[number])  # a second one acts at once

    def step(self, trainer: Trainer, record: Record) -> None:
        settings, steps = trainer.settings, trainer.steps_done
        if self.signal_number or steps % settings.checkpoint_every == 0 or steps == settings.steps:
            self._save(trainer)
        if self.signal_number:
            raise Interrupted(self.run, self.signal_number, steps)

    def end(self, trainer: Trainer) -> None:
        if trainer.stopped:
            self._save(trainer)

    def close(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _save(self, trainer: Trainer) -> None:
        checkpoint.save(self.run.checkpoints, trainer.steps_done, trainer.state_dict())
        self._prune(trainer)

    def _prune(self, trainer: Trainer) -> None:
        checkpoint.prune(self.run.checkpoints, trainer.settings.keep)
        # A run that goes on from the oldest checkpoint needs what was best until then.
        oldest = min(checkpoint.steps(self.run.checkpoints), default=0)
        later = sum(step > oldest for step in checkpoint.steps(self.run.best))
        checkpoint.prune(self.run.best, later + 1)


class Report(Callback):
    """curves.png and report.html: at scores if the last are old, and after the last step."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.written = run, time.monotonic()

    def event(self, trainer: Trainer, record: Record) -> None:
        if "scores" in record and time.monotonic() - self.written > 30:  # seconds; drawing takes one or two
            self._write()

    def end(self, trainer: Trainer) -> None:
        self._write()

    def _write(self) -> None:
        write_report(self.run.path)
        self.written = time.monotonic()


def summary_writer() -> Any:
    """The class that writes TensorBoard's events, if its package is installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise RunError("--tensorboard needs a package: pip install 'minigan[tensorboard]'") from None
    return SummaryWriter


class TensorBoard(Callback):
    """The same numbers as TensorBoard's events, in tensorboard/."""

    def __init__(self, run: RunFolder) -> None:
        self.writer = summary_writer()(str(run.path / "tensorboard"))

    def event(self, trainer: Trainer, record: Record) -> None:
        for name, value in record.get("scores", record).items():
            value = value["value"] if isinstance(value, dict) else value
            if isinstance(value, float):
                self.writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self.writer.close()

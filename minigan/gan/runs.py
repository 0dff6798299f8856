"""Whole runs: start one, go on with one, fork one, look into one.

A run is a `Trainer` with the standard callbacks and a run folder. Resuming is exact: the weights and metrics.jsonl
of a run that was killed and resumed equal those of one that was not, byte for byte.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import minigan as mg
from minigan.data.catalog import KINDS, NAMES, find, open_data
from minigan.data.source import Data
from minigan.files import write_atomically
from minigan.gan import callbacks, checkpoint
from minigan.gan.callbacks import Interrupted, summary_writer
from minigan.gan.evaluate import Evaluator
from minigan.gan.run_folder import RunError, RunFolder, check_free
from minigan.gan.settings import Settings
from minigan.gan.trainer import Callback, NonFinite, Trainer
from minigan.gan.watch import Watch

__all__ = ["Interrupted", "NonFinite", "RunError", "RunFolder", "fork", "load_trainer", "resume", "train"]


def train(
    settings: Settings,
    out: Path | None = None,
    *,
    data: Data | None = None,
    callbacks: Sequence[Callback] = (),
    download: bool = False,
    tensorboard: bool = False,
) -> RunFolder:
    """Train from the beginning; everything is written to the folder `out`, or to runs/RECIPE-001, -002, ….

    >>> import tempfile
    >>> from minigan.gan.recipes import get_recipe
    >>> settings = get_recipe("ring").defaults.changed(["steps=4", "batch=32", "limit=2000", "score_samples=64"])
    >>> run = train(settings, Path(tempfile.mkdtemp()) / "ring")
    >>> sorted(path.name for path in run.path.iterdir() if path.name[0] != ".")
    ['best', 'checkpoints', 'config.toml', 'curves.png', 'metrics.jsonl', 'real.png', 'report.html', 'samples']
    """
    if out is not None:
        check_free(Path(out))
    if data is None:
        settings = settings.changed({"data": _absolute(settings.data)})
    trainer, evaluator = _prepare(settings, data or _open(settings, download))
    if tensorboard:
        summary_writer()  # raises where it is not installed

    def begin(run: RunFolder) -> None:
        checkpoint.save(run.checkpoints, 0, trainer.state_dict())

    run = RunFolder.create(None if out is None else Path(out), settings, trainer.data, begin)
    with run.locked():
        _run(run, trainer, evaluator, callbacks, tensorboard)
    return run


def resume(
    path: str | Path, *, steps: int | None = None, data: Data | None = None, callbacks: Sequence[Callback] = ()
) -> RunFolder:
    """Go on from the last whole checkpoint; `steps`: to a later end; `data`: as they were given to `train`."""
    run = RunFolder(path)
    with run.locked():
        state, problems = checkpoint.load_latest(run.checkpoints)
        if state is None:
            best = checkpoint.steps(run.best)
            way_out = run.fork_command(best[-1]) if best else f"minigan train --config {run.path / 'config.toml'}"
            raise RunError(f"{run.checkpoints}: none is whole: {'; '.join(problems) or 'empty'}. Start anew: {way_out}")
        settings = run.settings if steps is None else run.settings.changed({"steps": steps})
        if settings.steps < state["steps_done"]:
            raise RunError(f"{run.path}: has done {state['steps_done']} steps already; got steps={settings.steps}")
        _refuse_changes(run, settings, state)
        data = data or _open(settings)
        if data.fingerprint() != run.about_data["fingerprint"]:
            raise RunError(f"{data.name}: the data are not those the run was started with (another fingerprint)")
        trainer, evaluator = _prepare(settings, data)
        trainer.problems = [f"{problem}; going on from step {state['steps_done']}" for problem in problems]
        if steps is not None:
            run.write_settings(settings)
        _run(run, trainer, evaluator, callbacks, (run.path / "tensorboard").exists(), state)
    return run


def fork(
    path: str | Path,
    at: int | None,
    changes: Sequence[str],
    out: str | Path | None = None,
    *,
    data: Data | None = None,
    callbacks: Sequence[Callback] = (),
) -> RunFolder:
    """A new run from the checkpoint `at` (the last one for None) of another, with some settings changed."""
    if out is not None:
        check_free(Path(out))
    parent = RunFolder(path)
    there = checkpoint.steps(parent.checkpoints) + checkpoint.steps(parent.best)
    if not there or (at is not None and at not in there):
        raise RunError(f"{parent.path}: has no checkpoint at step {at}; there are: {sorted(set(there)) or 'none'}")
    at = max(there) if at is None else at
    state = checkpoint.load(parent.checkpoints if at in checkpoint.steps(parent.checkpoints) else parent.best, at)
    settings = parent.settings.changed(changes)
    if settings.recipe != parent.settings.recipe:
        raise RunError(f"{parent.path}: a fork has its parent's recipe; for another one: minigan train")
    if data is None:
        settings = settings.changed({"data": _absolute(settings.data)})
    trainer, evaluator = _prepare(settings, data or _open(settings))
    _adapt(state, parent, trainer)
    parent.metrics()  # a damaged line is found before there is a folder
    with open(parent.metrics_file, "rb") as lines:
        history = lines.read(state["callbacks"]["metrics"]["length"] if at else 0)
    history = history[: history.rfind(b"\n") + 1]  # shorter than it should be where the parent's file was damaged
    state["callbacks"]["metrics"] = {"length": len(history)}
    best, _ = checkpoint.load_latest(parent.best, until=at)
    if best is None:
        state["callbacks"]["scores"] = {"best": -math.inf}
    else:
        _adapt(best, parent, trainer)

    def begin(run: RunFolder) -> None:
        write_atomically(run.metrics_file, history)
        checkpoint.save(run.checkpoints, at, state)
        if best is not None:
            checkpoint.save(run.best, best["steps_done"], best)

    origin = {"from": str(parent.path.absolute()), "at": at}
    run = RunFolder.create(None if out is None else Path(out), settings, trainer.data, begin, origin)
    with run.locked():
        _run(run, trainer, evaluator, callbacks, False, state)
    return run


def load_trainer(path: str | Path, step: int | None = None, best: bool = False, with_data: bool = True) -> Trainer:
    """A run as it was after `step` (the last checkpoint for None), or at its best score: to sample and to look.

    Without data, which may take long to read, it has as many samples of the same shape, all zero.
    """
    run = RunFolder(path)
    folder = run.best if best else run.checkpoints
    if step is None:
        state, problems = checkpoint.load_latest(folder)
    else:
        state, problems = (checkpoint.load(folder, step), []) if step in checkpoint.steps(folder) else (None, [])
    if state is None:
        there = "; ".join(problems) or f"there are: {checkpoint.steps(folder) or 'none'}"
        raise RunError(f"{folder}: no checkpoint{'' if step is None else f' of step {step}'}; {there}")
    settings = run.settings
    _refuse_changes(run, settings, state)
    trainer = Trainer(settings, _open(settings) if with_data else run.blank_data())
    trainer.load_state_dict(state)
    trainer.problems = [f"{problem}; this is step {state['steps_done']}" for problem in problems]
    return trainer


def _run(
    run: RunFolder,
    trainer: Trainer,
    evaluator: Evaluator,
    extra: Sequence[Callback],
    tensorboard: bool,
    state: dict[str, Any] | None = None,
) -> None:
    """Train inside the run folder, which is locked; a full disk is said plainly."""
    trainer.callbacks = [
        callbacks.Metrics(run), *extra, callbacks.Samples(run), callbacks.Scores(run, evaluator), Watch(run),
        callbacks.Report(run), *([callbacks.TensorBoard(run)] if tensorboard else []), callbacks.Checkpoints(run),
    ]  # fmt: skip
    if state is not None:
        trainer.load_state_dict(state)
    try:
        trainer.train()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise RunError(
            f"{error.filename or run.path}: {error.strerror} at step {trainer.steps_done}; {_last_good(run)}. "
            f"Make room, then: {run.resume_command}"
        ) from None
    except NonFinite as error:
        raise NonFinite(f"{error}; {_last_good(run)} (run: {run.path})") from None


def _prepare(settings: Settings, data: Data) -> tuple[Trainer, Evaluator]:
    """What can refuse settings or data, done before anything is written."""
    return Trainer(settings, data), Evaluator(data, samples=settings.score_samples, seed=settings.seed)


def _last_good(run: RunFolder) -> str:
    return f"the checkpoint of step {checkpoint.steps(run.checkpoints)[-1]} is whole"


def _open(settings: Settings, download: bool = False) -> Data:
    return open_data(
        settings.data, size=settings.size or None, limit=settings.limit or None, flip=settings.flip, download=download
    )


def _absolute(spec: str) -> str:
    """The same data by a path from the root, if they have one: a run can be resumed from any folder."""
    place = find(spec)
    if spec in NAMES:
        return spec
    kind, colon, _ = spec.partition(":")
    return (f"{kind}:" if colon and kind in KINDS else "") + str(place.path.absolute())


def _refuse_changes(run: RunFolder, now: Settings, state: dict[str, Any]) -> None:
    """Only the number of steps may differ from the checkpoint's, and only where no schedule is laid over it; and the
    place of the data, whose fingerprint tells whether they are the same.
    """
    then = now.changed(state["settings"])
    changes = then.differences(now.changed({"data": then.data}))
    scheduled = now.lr_decay or (now.noise and not now.noise_steps)
    longer = [f"steps: {then.steps} → {now.steps}"]
    if changes and (scheduled or changes != longer):
        reason = " (the schedule of lr_decay or noise is laid over all steps)" if changes == longer else ""
        raise RunError(
            f"{run.path / 'config.toml'}: other settings than the checkpoint's: {'; '.join(changes)}{reason}. Change "
            f"them back, or start a comparison: {run.fork_command(state['steps_done'])}"
        )


def _adapt(state: dict[str, Any], parent: RunFolder, trainer: Trainer) -> None:
    """Make a parent's state one that a run with other settings can start from."""
    settings = trainer.settings
    if trainer.ema is not None and state["ema"] is None:  # the average starts here
        state["ema"] = {"updates": mg.tensor(0), **{f"module.{name}": value for name, value in state["G"].items()}}
    for name, optimizer in (("g_optimizer", trainer.g_optimizer), ("d_optimizer", trainer.d_optimizer)):
        new, old = optimizer.state_dict(), state[name]
        if settings.optimizer == parent.settings.optimizer:  # what was averaged goes on, with the settings' betas
            for group, before in zip(new["param_groups"], old["param_groups"], strict=True):
                group["lr"] = before["lr"]
            new["state"] = old["state"]
        state[name] = new
    if len(trainer.data) != parent.about_data["samples"]:
        state["batches"]["drawn"] = 0
    state["settings"] = settings.to_dict()
    try:
        trainer.load_networks(state)
    except (RuntimeError, ValueError, KeyError) as error:
        raise RunError(f"{parent.path}: these changes do not fit the checkpoint's networks: {error}") from None

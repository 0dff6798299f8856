"""Exporting the generator of a run, and holding a file against the run that it came from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

import minigan as mg
from minigan.export.directions import principal_directions
from minigan.export.exporter import OPSET, Subject, Variant, build, write
from minigan.export.graph import Graph, OnnxError, digest
from minigan.export.verify import PROOF_LATENTS, Check, Report, verify
from minigan.gan.checkpoint import steps
from minigan.gan.run_folder import RunFolder
from minigan.gan.runs import load_trainer
from minigan.gan.trainer import Trainer
from minigan.nn import Module

SLIDER_LATENTS = 512


def open_generator(run: str | Path, step: int | None = None, best: bool = False, ema: bool = True) -> Trainer:
    """The run as it was after `step`, its generator in evaluation mode; without `ema`, the one that was trained."""
    trainer = load_trainer(run, step, best, with_data=False)
    if not ema:
        trainer.ema = None
    trainer.generator.eval()
    return trainer


def subject(trainer: Trainer, psi: bool = False) -> Subject:
    """A run's generator as the exporter takes it."""
    settings = trainer.settings
    stated = settings.to_dict()
    stated["data"] = stated["data"].rpartition("/")[2]  # a file is for others: no path of this machine
    metadata = {
        "recipe": settings.recipe,
        "settings": json.dumps(stated),
        "step": str(trainer.steps_done),
        "seed": str(settings.seed),
        "ema": "no" if trainer.ema is None else "yes",
        "latent_distribution": settings.latents,
    }
    return Subject.of(trainer.generator.cpu(), settings.latent, psi=psi, metadata=metadata)


def export_run(
    run: str | Path,
    path: Path | None = None,
    *,
    step: int | None = None,
    best: bool = False,
    ema: bool = True,
    psi: bool = False,
    variant: Variant = Variant(),  # noqa: B008  # frozen
    opset: int = OPSET,
    verified: bool = True,
) -> tuple[Path, Report | None]:
    """Write the generator of a run, by default to generator.onnx in its folder; with the report of its check.

    Variants have names of their own there: generator-int8-uint8.onnx.
    """
    what = subject(open_generator(run, step, best, ema), psi)
    path = Path(run) / _file_name(variant, psi) if path is None else path
    return path, write(build(what, variant, opset, verified), path, what if verified else None)


def _file_name(variant: Variant, psi: bool) -> str:
    usual = vars(Variant())
    own = ["edges" if value is True else value for name, value in vars(variant).items() if value != usual[name]]
    return "-".join(["generator", *own, *["psi"] * psi]) + ".onnx"


def verify_run(path: str | Path, run: str | Path) -> Report:
    """Check a file against the run that it was exported from, as it was at the file's step."""
    graph = Graph.load(path)
    trainer = _as_exported(graph, Path(path), RunFolder(run))
    what = subject(trainer, psi=any(value.name == "psi" for value in graph.inputs))
    if list(what.inputs) != graph.inputs:
        raise OnnxError(f"{path}: is of another run than {run}, whose generator takes other inputs")
    report = verify(path, what.run)
    checks = list(report.checks)
    others = _others(graph, build(what, Variant(**report.variant), graph.opset), report)
    checks.insert(1, Check("nodes and constants that the run would not export", float(others), "≤ 0"))
    if (gap := batch_norm_gap(trainer.generator, what)) is not None:
        checks.append(Check("BatchNorm: mean |train - eval|", gap))
    return dataclasses.replace(report, checks=checks)


def sliders(run: str | Path, step: int | None = None, best: bool = False, ema: bool = True) -> np.ndarray:
    """The directions of latent space along which the samples of a run change most, as rows."""
    what = subject(open_generator(run, step, best, ema))
    latents = mg.from_numpy(what.draw(SLIDER_LATENTS, "sliders")["z"])
    return principal_directions(what, latents, generator=mg.Generator(name="sliders").manual_seed(0))


def batch_norm_gap(generator: Module, what: Subject) -> float | None:
    """How far a generator's samples by the batch's statistics are from those by the running ones, if it has any.

    A large gap means that the running statistics do not fit the weights: what was seen in training is not what the
    file draws.
    """
    if not any(name.endswith("running_mean") for name, _ in generator.named_buffers()):
        return None
    feeds = what.draw(PROOF_LATENTS, "verify")
    expected = what.run(feeds)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    generator.train()
    try:
        with np.errstate(all="ignore"):
            return float(np.abs(what.run(feeds) - expected).mean())
    finally:
        generator.eval()
        generator.load_state_dict(before)  # the pass has changed the running statistics


def _as_exported(graph: Graph, path: Path, run: RunFolder) -> Trainer:
    """The run at the step, and with the weights, that the file's metadata name."""
    try:
        step = int(graph.metadata["step"])
    except (KeyError, ValueError):
        raise OnnxError(f"{path}: does not come from a run: its metadata name no step") from None
    ema = graph.metadata.get("ema") == "yes"
    return open_generator(run.path, step, best=step not in steps(run.checkpoints), ema=ema)


def _others(graph: Graph, fresh: Graph, report: Report) -> int:
    """How many constants of a file are not those of a fresh export, and one more where its nodes are not."""
    mine, theirs = (dataclasses.replace(g, constants={}, metadata={}).to_bytes() for g in (graph, fresh))
    different = int(mine != theirs)
    if report.variant["dtype"] == "int8":  # the ranges of int8 depend on the runtime that measured them
        return different
    found, stated = ({name: digest(a) for name, a in g.constants.items()} for g in (graph, fresh))
    return different + sum(found.get(name) != stated.get(name) for name in {*found, *stated})

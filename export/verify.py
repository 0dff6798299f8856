"""Holding a file against the engine: `verify`.

256 latents go through ONNX Runtime in batches of 1, 7 and 64, and through the engine: the generator that was exported
or, where that is not at hand, the file's own nodes as the engine computes them. That alone would not find a file whose
nodes were changed, so the file carries proof: the sha256 of every constant, and values that the engine gave when it was
exported.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import minigan as mg
from minigan.export.feeds import Feeds, draw, split
from minigan.export.graph import Graph, OnnxError, digest
from minigan.export.importer import OnnxModule
from minigan.export.session import open_session, reason
from minigan.export.variants import pixels
from minigan.random import Generator

PROOF_LATENTS = 256
PROOF_VALUES = 16  # of each sample
PSI = 0.6  # at 1 it would not be noticed that a file has lost its truncation
BATCHES = (1, 7, 64)
MEAN_LEVELS = 2e-3  # where fp32 gives uint8: 1e-5 moves one value in a thousand to the next level
WORST_PSNR, MEAN_PSNR = 40.0, 45.0  # dB, of int8
PROOF_SCATTER = 3.0  # dB
ROUNDINGS, MOST_ROUNDING = 4, 2.5e-5
# max |file - engine|, and max |one by one - in batches|, for values up to 1; int8 is held to its PSNR alone. Where
# float32 itself loses more (the metadata's `rounding`), 4 times that is allowed, and as much.
LIMITS = {"fp32": (1e-5, 1e-6), "fp16-storage": (5e-3, 1e-6), "fp16": (5e-3, 5e-3)}

Reference = Callable[[Feeds], np.ndarray]


@dataclass(frozen=True)
class Check:
    """One comparison: its figure, and the limit it is held to ('≤ 1e-05', '≥ 40'; '' if it is only told)."""

    name: str
    figure: float
    limit: str = ""

    @property
    def passed(self) -> bool:
        """Whether the figure is within the limit; NaN never is."""
        if not self.limit:
            return True
        sign, _, bound = self.limit.partition(" ")
        return self.figure <= float(bound) if sign == "≤" else self.figure >= float(bound)


@dataclass(frozen=True)
class Report:
    """All checks of one file."""

    file: str
    variant: dict[str, Any]
    checks: list[Check]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def failures(self) -> str:
        """The failed checks in one line."""
        return "; ".join(f"{c.name}: {c.figure:.3g}, expected {c.limit}" for c in self.checks if not c.passed)

    def table(self) -> str:
        """The checks as text."""
        rows = [("check", "figure", "limit", "")]
        rows += [
            (c.name, f"{c.figure:.4g}", c.limit, "" if not c.limit else "ok" if c.passed else "FAILED")
            for c in self.checks
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)

    def __str__(self) -> str:
        return self.table()

    def to_json(self) -> str:
        """The same for programs; what is not a finite number is null."""
        checks = [asdict(c) | {"passed": c.passed} for c in self.checks]
        for check in checks:
            check["figure"] = check["figure"] if math.isfinite(check["figure"]) else None
        content = {"file": self.file, "variant": self.variant, "passed": self.passed, "checks": checks}
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def verify(path: str | os.PathLike[str], reference: Reference | None = None) -> Report:
    """Check a file that minigan wrote; `reference` gives the samples of the generator it was made from, as float32."""
    path = Path(path)
    graph = Graph.load(path)
    variant = _variant(path, graph)
    _check_well_formed(path)
    try:
        feeds, module = draw(graph, PROOF_LATENTS, "verify", psi=PSI), OnnxModule(graph)
    except OnnxError as error:
        raise OnnxError(f"{path}: {error}") from None
    session = open_session(path, "cpu")
    runs = {size: np.concatenate([_run(path, session, part) for part in split(feeds, size)]) for size in BATCHES}
    checks = [Check("constants whose sha256 is another", float(_changed(path, graph)), "≤ 0")]
    reference = reference or _own_nodes(path, module)
    expected = np.concatenate([_expected(part, reference, variant) for part in split(feeds, BATCHES[-1])])
    held = variant | {"rounding": _rounding(path, graph)}
    with np.errstate(invalid="ignore"):  # NaN fails all checks
        checks += _proof_checks(path, graph, runs[BATCHES[-1]], held)
        for size in BATCHES:
            checks += _comparison(f"batch {size}", runs[size], expected, held)
        checks += _invariance(runs[BATCHES[0]], runs[BATCHES[-1]], held)
    return Report(path.name, variant, checks)


def proof_positions(values: int) -> np.ndarray:
    """Which values of each sample the proof holds."""
    return Generator(name="proof").integers(0, values, (PROOF_LATENTS, PROOF_VALUES))


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each sample, in dB; the peak is 255 for uint8, and 2 for values in [-1, 1]. Equal samples have infinity."""
    peak = 255.0 if a.dtype == np.uint8 else 2.0
    squares = np.square(a.astype(np.float64) - b).reshape(len(a), -1).mean(1)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(peak**2 / squares)


# The parts ----------------------------------------------------------------------------------------------


def _variant(path: Path, graph: Graph) -> dict[str, Any]:
    try:
        variant = json.loads(graph.metadata["variant"])
        edges = bool(variant.get("fp32_edges", False))
        variant = {name: str(variant[name]) for name in ("dtype", "output", "optimize")} | {"fp32_edges": edges}
    except (AttributeError, KeyError, ValueError, TypeError):
        raise OnnxError(f"{path}: was not written by minigan export: its metadata do not name a variant") from None
    if variant["dtype"] not in (*LIMITS, "int8"):
        raise OnnxError(f"{path}: its metadata name a dtype {variant['dtype']!r} that minigan does not write")
    return variant


def _rounding(path: Path, graph: Graph) -> float:
    """What float32 itself loses, as the exporter found: up to a limit that hides no wrong variance."""
    try:
        stated = float(graph.metadata.get("rounding", "0"))
    except ValueError:
        raise OnnxError(f"{path}: its metadata give {graph.metadata['rounding']!r} as its rounding") from None
    return min(stated, MOST_ROUNDING) if stated > 0 else 0.0


def _check_well_formed(path: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # ValidationError, or of shape inference, which share no base but this
        raise OnnxError(f"{path}: not a well-formed model: {str(error).splitlines()[0]}") from None


def _run(path: Path, session: Any, feeds: Feeds) -> np.ndarray:
    n = len(feeds["z"])
    try:
        samples = session.run(None, feeds)[0]
    except Exception as error:  # ONNX Runtime's own classes
        raise OnnxError(f"{path}: does not run on {n} samples: {reason(error)}") from None
    if samples.shape[:1] != (n,) or not samples.size:
        raise OnnxError(f"{path}: gives values of shape {samples.shape} for {n} latents")
    return samples


def _own_nodes(path: Path, module: OnnxModule) -> Reference:
    """The file's nodes as the engine computes them."""

    def run(feeds: Feeds) -> np.ndarray:
        try:
            with mg.no_grad(), np.errstate(all="ignore"):
                return module(**{name: mg.from_numpy(x) for name, x in feeds.items()}).numpy(force=True)
        except Exception as error:  # of any kind: the nodes may be any
            raise OnnxError(f"{path}: the engine cannot compute its nodes: {error}") from None

    return run


def _expected(feeds: Feeds, reference: Reference, variant: dict[str, Any]) -> np.ndarray:
    samples = reference(feeds)
    return pixels(finite(samples)) if variant["output"] == "uint8" and samples.dtype != np.uint8 else samples


def finite(samples: np.ndarray) -> np.ndarray:
    """The samples themselves; raises if one is not finite, before rounding to pixels hides it."""
    if not np.isfinite(samples).all():
        raise OnnxError("the engine's samples are not finite: has the training diverged?")
    return samples


def _changed(path: Path, graph: Graph) -> int:
    """How many constants are not those that were exported."""
    try:
        stated = dict(json.loads(graph.metadata["sha256"]))
    except (KeyError, ValueError, TypeError):
        raise OnnxError(f"{path}: the sha256 of its constants are missing or damaged: export it anew") from None
    found = {name: digest(array) for name, array in graph.constants.items()}
    return sum(stated.get(name) != found.get(name) for name in {*stated, *found})


def _proof_checks(path: Path, graph: Graph, samples: np.ndarray, variant: dict[str, Any]) -> list[Check]:
    flat = samples.reshape(len(samples), -1)
    values = np.take_along_axis(flat, proof_positions(flat.shape[1]), 1)
    try:
        stated = np.frombuffer(base64.b64decode(graph.metadata["proof"]), "<f4").reshape(values.shape)
    except (KeyError, ValueError):
        raise OnnxError(f"{path}: its proof is missing or damaged: export it anew") from None
    checks = _comparison("proof", values, stated, variant)
    if variant["dtype"] == "int8":  # 16 values of a sample scatter more than the whole of it
        checks[0] = dataclasses.replace(checks[0], limit=f"≥ {WORST_PSNR - PROOF_SCATTER:g}")
    return checks


def _comparison(name: str, found: np.ndarray, expected: np.ndarray, variant: dict[str, Any]) -> list[Check]:
    """Of samples with what the engine gives."""
    if found.shape != expected.shape:
        return [Check(f"{name}: shape {found.shape} for {expected.shape}", math.inf, "≤ 0")]
    images = found.ndim == 4
    noise = psnr(found, expected)
    ratios = [("PSNR worst, dB", float(noise.min()), WORST_PSNR), ("PSNR mean, dB", float(noise.mean()), MEAN_PSNR)]
    if variant["dtype"] == "int8":
        return [Check(f"{name}: {what}", figure, f"≥ {limit:g}") for what, figure, limit in ratios]
    if found.dtype == np.uint8:
        levels = np.abs(found.astype(np.int64) - expected)
        exact = [Check(f"{name}: levels of 255, mean", float(levels.mean()), f"≤ {MEAN_LEVELS:g}")]
        return [
            Check(f"{name}: levels of 255, max", float(levels.max()), "≤ 1"),
            *exact * (variant["dtype"] == "fp32"),
        ]
    limit = max(LIMITS[variant["dtype"]][0], ROUNDINGS * variant["rounding"])
    checks = [Check(f"{name}: max |file - engine|", _distance(found, expected), f"≤ {limit:.3g}")]
    if images:
        levels = np.abs(pixels(found).astype(np.int64) - pixels(expected))
        checks.append(Check(f"{name}: levels of 255, max", float(levels.max()), "≤ 1"))
        checks.append(Check(f"{name}: {ratios[0][0]}", ratios[0][1]))
    return checks


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """max |a - b|, in units of the largest |b| where that is above 1: points of the plane have no bound."""
    return float(np.max(np.abs(a.astype(np.float64) - b)) / max(1.0, float(np.abs(b).max(initial=0.0))))


def _invariance(one: np.ndarray, many: np.ndarray, variant: dict[str, Any]) -> list[Check]:
    """A sample must not depend on the others of its batch."""
    name = f"batch {BATCHES[0]} against {BATCHES[-1]}"
    if variant["dtype"] == "int8":
        return [Check(f"{name}: PSNR worst, dB", float(psnr(one, many).min()), f"≥ {WORST_PSNR:g}")]
    if one.dtype == np.uint8:
        return [Check(f"{name}: levels of 255, max", float(np.abs(one.astype(np.int64) - many).max()), "≤ 1")]
    limit = max(LIMITS[variant["dtype"]][1], variant["rounding"])
    return [Check(f"{name}: max difference", _distance(one, many), f"≤ {limit:.3g}")]

"""Alarms during a run: collapse, a discriminator that has won, gradients that vanish or explode, dead units.

Each is given once, as one line with the evidence and what to try, and is written to metrics.jsonl. What a collapse
leads to is a setting: `on_collapse` = warn, stop, or rollback. The thresholds are below; docs/watching.md says why.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import minigan as mg
from minigan.gan import checkpoint
from minigan.gan.health import dead_units, gradient_norms
from minigan.gan.metrics import pairwise_distance
from minigan.gan.run_folder import RunFolder
from minigan.gan.trainer import Callback, Record, StopTraining, Trainer, evaluation

LOGIT_LOSSES = ("minimax", "non-saturating")  # where D's output is the logit of a probability

PATIENCE = 5  # records in a row that show a sign, before it counts as a state and not as a moment
VANISHED = 1e-7  # norm of a weight's gradient
EXPLODED = 1000  # times the largest norm of the first records
FIRST_RECORDS = 20

PROBES = 128  # samples that variety is judged by
DISTANCE = "mean distance"  # between two samples; it says nothing of quality
VARIETY = ("recall", "coverage", "classes", "modes")  # the scores that fall when G loses modes
COLLAPSED = 0.3  # of what real samples have
YOUNG = 500  # steps; before, variety comes and goes in runs that end well
ROLLBACKS = 3


class Watch(Callback):
    """Looks at each record and, where samples are drawn or scored, at G. To be called after `Scores`."""

    name = "watch"

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._scores: dict[str, Any] = {}  # of this step
        self.given: list[str] = []  # kinds of warnings that were given
        self.counts: dict[str, int] = {}  # how often in a row a sign was seen
        self.healthy: list[str] = []  # measures of variety that once were above the line
        self.usual: list[float] = []  # gradient norms of the first records, to know an explosion by
        self.rollbacks = 0

    def start(self, trainer: Trainer) -> None:
        data = trainer.data
        rows = np.linspace(0, len(data) - 1, min(PROBES, len(data))).astype(int)  # files may be sorted by class
        self._real_distance = _distance(data.unflipped(rows))
        if trainer.steps_done == 0:
            for message in trainer.warnings:
                trainer.emit({"step": 0, "warning": "settings", "message": message})

    def event(self, trainer: Trainer, record: Record) -> None:
        if "d_loss" in record:
            self._look_at_game(trainer, record)
            self._look_at_gradients(trainer, record)
        self._scores = record.get("scores", self._scores)

    def step(self, trainer: Trainer, record: Record) -> None:
        scores, self._scores = self._scores, {}
        evidence = [
            self._lost(trainer, name, scores[name]["low"], scores[name]["high"], scores[name]["floor"])
            for name in VARIETY
            if name in scores
        ]
        if trainer.steps_done % trainer.settings.sample_every == 0:
            distance = _distance(trainer.sample(PROBES, seed=1))
            evidence.append(self._lost(trainer, DISTANCE, distance, distance, self._real_distance))
            self._look_at_units(trainer)
        if any(evidence):
            self._collapse(trainer, " and ".join(filter(None, evidence)))

    def state_dict(self) -> dict[str, Any]:
        names = ("given", "counts", "healthy", "usual", "rollbacks")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def _look_at_game(self, trainer: Trainer, record: Record) -> None:
        if trainer.settings.loss in LOGIT_LOSSES:
            on_real, on_fake = _sigmoid(record["d_real"]), _sigmoid(record["d_fake"])
            self._count(
                trainer, "discriminator", on_real > 0.99 and on_fake < 0.01,
                f"D is sure of every sample (D(x) {on_real:.3f}, D(G(z)) {on_fake:.3f}): G learns little; try a lower "
                "d_lr, smooth=0.1 or penalty=r1",
            )  # fmt: skip

    def _look_at_gradients(self, trainer: Trainer, record: Record) -> None:
        for phase, network in (("d", trainer.D), ("g", trainer.G)):
            norms = gradient_norms(network)
            gone = [path for path, norm in norms.items() if norm < VANISHED]
            self._count(
                trainer, f"{phase}-vanishing", bool(gone),
                f"gradients of {phase.upper()} have vanished (norms below {VANISHED:g} at {', '.join(gone)}): try "
                "loss=non-saturating, a lower d_lr, or norm layers",
            )  # fmt: skip
            total, largest = record[f"{phase}_grad"], max(norms, key=norms.__getitem__, default="its biases")
            if len(self.usual) < 2 * FIRST_RECORDS:
                self.usual.append(total)
            elif total > EXPLODED * max(*self.usual, 1e-3):
                self._warn(
                    trainer, f"{phase}-exploding",
                    f"gradients of {phase.upper()} explode (norm {total:.1e}, largest at {largest}; at first at most "
                    f"{max(self.usual):.1e}): try clip_norm=10, a lower learning rate or a penalty on D",
                )  # fmt: skip

    def _look_at_units(self, trainer: Trainer) -> None:
        z = trainer.latents(PROBES, mg.Generator(name="probes").manual_seed(1))
        with evaluation(trainer.generator):
            shares = dead_units(trainer.generator, z)
        if dead := [f"{layer} {share:.0%}" for layer, share in shares.items() if share > 0.5]:
            self._warn(
                trainer, "dead units",
                f"channels of G that are 0 for all of {PROBES} latents: {', '.join(dead)}; try a lower g_lr, "
                "BatchNorm before the ReLU, or LeakyReLU",
            )  # fmt: skip

    def _lost(self, trainer: Trainer, measure: str, low: float, high: float, normal: float) -> str:
        """The evidence, where a measure, which is between `low` and `high`, was healthy and fell."""
        line, steps = COLLAPSED * normal, trainer.steps_done
        if low >= line and measure not in self.healthy:
            self.healthy.append(measure)
        self.counts[measure] = self.counts.get(measure, 0) + 1 if high < line else 0
        fell = measure in self.healthy or (measure == DISTANCE and steps >= trainer.settings.steps / 2)  # never rose
        certain = fell and steps >= YOUNG and self.counts[measure] >= 2
        return f"{measure} {high:.3g}, of real samples {normal:.3g}" if certain else ""

    def _collapse(self, trainer: Trainer, evidence: str) -> None:
        message = f"G has collapsed: {evidence}; try penalty=r1, pack=2, a lower g_lr, or D with MinibatchStd"
        stop, best = trainer.settings.on_collapse == "stop", None
        if trainer.settings.on_collapse == "rollback" and self.rollbacks < ROLLBACKS:
            best, _ = checkpoint.load_latest(self.run.best)
        if stop or best is not None:  # a new beginning: the next collapse is worth another line
            self.given, self.counts = [kind for kind in self.given if kind != "collapse"], {}
        if best is not None:
            trainer.load_networks(best)
            trainer.rate /= 2
            self.rollbacks += 1
            message += f". Back to the best checkpoint (step {best['steps_done']}), with half the learning rates"
        self._warn(trainer, "collapse", message + ". The run ends here, for on_collapse=stop" * stop)
        if stop:
            raise StopTraining(message)

    def _count(self, trainer: Trainer, kind: str, sign: bool, message: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1 if sign else 0
        if self.counts[kind] >= PATIENCE:
            self._warn(trainer, kind, message)

    def _warn(self, trainer: Trainer, kind: str, message: str) -> None:
        if kind not in self.given:
            self.given.append(kind)
            trainer.emit({"step": trainer.steps_done, "warning": kind, "message": message})


def _distance(samples: mg.Tensor) -> float:
    return float(pairwise_distance(samples.cpu().flatten(1).numpy()))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-min(max(x, -60), 60)))

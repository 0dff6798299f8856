"""How a run shows its progress: a bar on a terminal, about twenty plain lines elsewhere, warnings alone when quiet.

All of it goes to standard error; standard output is for the run folder's name.
"""

from __future__ import annotations

import math
import sys
from time import monotonic
from typing import Any

from minigan.gan.trainer import Callback, Record, Trainer
from minigan.gan.watch import LOGIT_LOSSES

REFRESH = 0.1  # seconds between two pictures of the bar: what an eye can follow, and no load on the training
LINES = 20  # that a run prints where there is no terminal


class Progress(Callback):
    """The callback that shows steps, speed, losses, D's outputs and the latest score."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet, self.score = quiet, ""
        self._live: Any = None  # rich.live.Live

    def start(self, trainer: Trainer) -> None:
        self._began, self._first, self._shown = monotonic(), trainer.steps_done, -math.inf
        self._every = max(trainer.settings.log_every, -(-trainer.settings.steps // LINES))
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True, highlight=False), auto_refresh=False)
            self._live.start()
        for message in trainer.problems + trainer.warnings:
            self._print(f"warning: {message}")

    def step(self, trainer: Trainer, record: Record) -> None:
        now = monotonic()
        last = trainer.steps_done == trainer.settings.steps
        if self._live is not None and (last or now - self._shown >= REFRESH):
            self._shown = now
            self._draw(trainer, self._line(trainer, record, now))
        elif self._live is None and not self.quiet and (last or trainer.steps_done % self._every == 0):
            self._print(self._line(trainer, record, now))

    def event(self, trainer: Trainer, record: Record) -> None:
        if "scores" in record:
            scores = [f"{name} {s['value']:.4g} (floor {s['floor']:.4g})" for name, s in record["scores"].items()]
            self.score = scores[0]
            if not self.quiet:
                self._print(f"scores at step {record['step']}: {', '.join(scores)}")
        elif "warning" in record and record["warning"] != "settings":  # those were shown at the start
            self._print(f"warning at step {record['step']}: {record['message']}")

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()

    def _line(self, trainer: Trainer, record: Record, now: float) -> str:
        settings, elapsed = trainer.settings, max(now - self._began, 1e-9)
        rate = (trainer.steps_done - self._first) / elapsed
        parts = [
            f"step {record['step']}/{settings.steps}",
            f"epoch {record['epoch']:.2f}",
            f"{rate:.3g}/s",
            f"{duration((settings.steps - trainer.steps_done) / rate)} left",
            f"d_loss {record['d_loss']:.3f}",
            f"g_loss {record['g_loss']:.3f}",
            f"D(x) {judged(record['d_real'], settings.loss)}",
            f"D(G(z)) {judged(record['d_fake'], settings.loss)}",
            self.score,
        ]
        return "  ".join(filter(None, parts))

    def _draw(self, trainer: Trainer, line: str) -> None:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        bar = ProgressBar(total=trainer.settings.steps, completed=trainer.steps_done)
        self._live.update(Group(Text(line), bar), refresh=True)  # the bar last: it ends no line

    def _print(self, line: str) -> None:
        if self._live is not None:
            self._live.console.print(line, markup=False)  # above the bar
        else:
            print(line, file=sys.stderr, flush=True)


def judged(logit: float, loss: str) -> str:
    """D's mean output: as the probability σ(logit) under the losses that mean one, raw under the others.

    >>> judged(0.0, "non-saturating"), judged(-3.0, "wasserstein")
    ('0.500', '-3.000')
    """
    return f"{1 / (1 + math.exp(-max(logit, -700))) if loss in LOGIT_LOSSES else logit:.3f}"


def duration(seconds: float) -> str:
    """As minutes and seconds, or hours, minutes and seconds.

    >>> duration(75), duration(3661)
    ('1:15', '1:01:01')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

"""Scores of a generator, each with its 95% interval and beside its floor: what real samples score against real ones.

Which scores there are depends on the data. The formulas are in `metrics.py`, the features in `features.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from minigan.data.points import PointData
from minigan.data.source import Data
from minigan.gan.features import Extracted, Features, features_for
from minigan.gan.metrics import (
    Estimate,
    bootstrap,
    classes_covered,
    frechet,
    inception_score,
    kid,
    modes_and_quality,
    modes_found,
    pairwise_distance,
    precision_recall_density_coverage,
    reverse_kl,
)
from minigan.random import Generator
from minigan.tensor import Tensor

_BETTER = {
    "frechet": "lower", "kid": "lower", "inception": "higher", "precision": "higher", "recall": "higher",
    "density": "higher", "coverage": "higher", "classes": "higher", "distance": "higher",
    "modes": "higher", "quality": "higher", "reverse_kl": "lower",
}  # fmt: skip


@dataclass(frozen=True)
class Score:
    """A score; the 95% interval it would fall in with other samples of the same generator; what real samples get."""

    value: float
    low: float
    high: float
    floor: float
    better: str

    def to_json(self) -> dict[str, Any]:
        """As a line of metrics.jsonl holds it."""
        return asdict(self)


class Evaluator:
    """Scores generated samples against real ones, always the same.

    The data are shuffled by `seed`. The first n, `samples` or half of the data if that is less, are the reference
    that generated samples are scored against; the next n, disjoint from them, take the generator's place once, which
    gives the floors. A generator is scored by n samples too, since most scores depend on n; a perfect one gets the
    floor, give or take what the interval says. Nothing is drawn from the random streams that training uses.

    - digits (the glyph classifier): frechet, kid, inception, precision, recall, density, coverage, classes, distance
    - stacked digits: frechet, modes (of 1000), reverse_kl
    - ring and grid: modes, quality, reverse_kl
    - other points, other images, and any features that are given: frechet, kid, precision, recall, density, coverage,
      distance

    >>> import minigan as mg
    >>> evaluator = Evaluator(mg.data.ring(5000), samples=500)
    >>> circle = lambda n: mg.from_numpy(mg.data.ring(n, std=0.02, seed=1).values)
    >>> print(table(evaluator(circle)))
    score         value    95% interval     floor  better
    modes             8          [8, 8]         8  higher
    quality       0.674  [0.632, 0.712]     0.996  higher
    reverse_kl  0.01235    [0, 0.02522]  0.007939   lower
    """

    def __init__(self, data: Data, features: Features | None = None, samples: int = 2500, seed: int = 0) -> None:
        self.data = data
        self.samples = min(samples, len(data) // 2)
        if self.samples < 10:
            raise ValueError(
                f"Evaluator: got {len(data)} samples of {data.name} and samples={samples}, needs at least 20 and 10"
            )
        self.features = features_for(data) if features is None else features
        order = Generator(name="evaluator").manual_seed(seed).permutation(len(data))
        self._rows, self._other_rows = order[: self.samples], order[self.samples : 2 * self.samples]

    @cached_property
    def notes(self) -> list[str]:
        """What a reader of the scores must know: the features, the number of samples, and what weakens the scores."""
        n, d = self._real.values.shape
        notes = [f"features: {self.features.name}", f"{n} samples against {n} real ones; floor: {n} other real ones"]
        if n <= d:
            notes.append(f"{n} samples of {d} features: their covariance has not full rank; frechet is large for all")
        return notes

    @cached_property
    def floors(self) -> dict[str, float]:
        """The scores of real samples against other real samples."""
        other = self.features(self._samples(self._other_rows))
        return {name: float(score) for name, score in self._measure(other).items()}

    def __call__(self, sample: Callable[[int], Tensor] | Tensor | np.ndarray) -> dict[str, Score]:
        """The scores of what `sample(n)` returns (it is called once), or of the first n of the samples given."""
        fake = sample(self.samples) if callable(sample) else sample
        if len(fake) < self.samples:
            raise ValueError(
                f"Evaluator: got {len(fake)} samples, scores {self.samples} at a time; give more, or make one with "
                f"samples={len(fake)}"
            )
        if (shape := tuple(fake.shape[1:])) != self.data.shape:
            raise ValueError(f"Evaluator: got samples of shape {shape}, expected {self.data.shape} as the data's")
        extracted = self.features(fake[: self.samples])
        scores = {}
        for name, score in self._measure(extracted).items():
            low, high = self._interval(score, extracted)
            scores[name] = Score(float(score), low, high, self.floors[name], _BETTER[name])
        return scores

    @cached_property
    def _real(self) -> Extracted:
        return self.features(self._samples(self._rows))

    def _samples(self, rows: np.ndarray) -> Tensor:
        values = self.data.values[rows]
        if self.data.flip:  # every other one, where training mirrors one or the other
            values[::2] = values[::2, :, ::-1]
        return Data(self.data.name, values).batch(range(len(rows)))[0]

    def _measure(self, fake: Extracted) -> dict[str, float]:
        if isinstance(self.data, PointData) and len(self.data.modes):
            return modes_and_quality(fake.values, self.data.modes, self.data.std)._asdict()
        scores: dict[str, float] = {"frechet": frechet(self._real.values, fake.values)}
        if fake.labels is not None and fake.probabilities is None:  # stacked digits: about as many classes as samples
            scores["modes"] = modes_found(fake.labels, self.features.classes)
            scores["reverse_kl"] = reverse_kl(fake.labels, self.features.classes)
            return scores
        scores["kid"] = kid(self._real.values, fake.values)
        if fake.probabilities is not None:
            scores["inception"] = inception_score(fake.probabilities)
        scores |= precision_recall_density_coverage(self._real.values, fake.values)._asdict()
        if fake.labels is not None:
            scores["classes"] = classes_covered(fake.labels, self.features.classes)
        return scores | {"distance": pairwise_distance(fake.values)}

    def _interval(self, score: float, fake: Extracted) -> tuple[float, float]:
        if isinstance(score, Estimate):
            return score.interval()
        labels, classes = fake.labels, self.features.classes  # the classes covered: no influence tells a threshold
        assert labels is not None
        return bootstrap(lambda rows: classes_covered(labels[rows], classes), len(labels))


def table(scores: Mapping[str, Score]) -> str:
    """The scores as plain text, a line each.

    >>> print(table({"frechet": Score(3.1, 2.95, 3.4, 2.2, "lower")}))
    score    value  95% interval  floor  better
    frechet    3.1   [2.95, 3.4]    2.2   lower
    """
    rows = [("score", "value", "95% interval", "floor", "better")]
    for name, score in scores.items():
        interval = f"[{score.low:.4g}, {score.high:.4g}]"
        rows.append((name, f"{score.value:.4g}", interval, f"{score.floor:.4g}", score.better))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)

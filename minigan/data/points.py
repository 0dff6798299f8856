"""Points in the plane whose distribution is known exactly: a ring and a grid of Gaussians, and a swiss roll."""

from __future__ import annotations

import math

import numpy as np

from minigan.data.source import Data


class PointData(Data):
    """Points, with the centres of the Gaussians they were drawn from, `modes` (K, 2), and those Gaussians' `std`.

    `modes` is empty where the distribution is no mixture.
    """

    def __init__(self, name: str, values: np.ndarray, labels: np.ndarray | None, modes: np.ndarray, std: float) -> None:
        super().__init__(name, values, labels, classes=tuple(str(mode) for mode in range(len(modes))))
        self.modes, self.std = modes, std


def ring(n: int = 100_000, modes: int = 8, radius: float = 1.0, std: float = 0.01, seed: int = 0) -> PointData:
    """A mixture of Gaussians with equal weights on a circle; the label is the Gaussian.

    >>> ring(3).modes.round(2).tolist()[:3]
    [[1.0, 0.0], [0.71, 0.71], [0.0, 1.0]]
    """
    angles = 2 * math.pi * np.arange(modes) / modes
    return _mixture("ring", n, radius * np.stack([np.cos(angles), np.sin(angles)], axis=1), std, seed)


def grid(n: int = 100_000, side: int = 5, spacing: float = 2.0, std: float = 0.05, seed: int = 0) -> PointData:
    """A mixture of Gaussians with equal weights on a side × side grid around the origin; the label is the Gaussian.

    >>> grid(3, side=3).modes.tolist()[:4]
    [[-2.0, -2.0], [-2.0, 0.0], [-2.0, 2.0], [0.0, -2.0]]
    """
    line = spacing * (np.arange(side) - (side - 1) / 2)
    return _mixture("grid", n, np.stack(np.meshgrid(line, line, indexing="ij"), axis=2).reshape(-1, 2), std, seed)


def swiss_roll(n: int = 100_000, noise: float = 0.05, seed: int = 0) -> PointData:
    """A spiral of one and a half turns within the unit circle, blurred by `noise`; it has no labels.

    >>> swiss_roll(3).shape
    (2,)
    """
    numbers = _numbers("swiss roll", n, noise, seed)
    angle = 1.5 * math.pi * (1 + 2 * numbers.random(n))
    roll = np.stack([angle * np.cos(angle), angle * np.sin(angle)], axis=1) / (4.5 * math.pi)
    values = roll + noise * numbers.standard_normal((n, 2))
    return PointData("swiss roll", values.astype(np.float32), None, np.empty((0, 2)), noise)


def _mixture(name: str, n: int, modes: np.ndarray, std: float, seed: int) -> PointData:
    numbers = _numbers(name, n, std, seed)
    if not len(modes):
        raise ValueError(f"{name}: expected at least one mode")
    labels = numbers.integers(len(modes), size=n)
    values = modes[labels] + std * numbers.standard_normal((n, 2))
    return PointData(name, values.astype(np.float32), labels, modes, std)


def _numbers(name: str, n: int, std: float, seed: int) -> np.random.Generator:
    if not (n >= 1 and 0 <= std < math.inf):
        raise ValueError(f"{name}: got n={n} and a spread of {std}; expected n ≥ 1 and a finite spread ≥ 0")
    return np.random.Generator(np.random.Philox(key=seed % 2**64))

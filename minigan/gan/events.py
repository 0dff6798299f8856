"""What the doctor's record is made of: calls of networks, sweeps, optimiser steps, and where values come from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from minigan.nn import Module


@dataclass(eq=False)
class Squash:
    """A sigmoid or tanh, and the layer that applied it."""

    op: str
    layer: Module | None


@dataclass(eq=False)
class Slope:
    """What `grad` gave as the gradient at a network's input."""

    calls: frozenset[Call]  # whose output was differentiated
    where: str


@dataclass(eq=False)
class Trace:
    """Where an array's values come from.

    `source`: "data" (unknown to the engine), "network", "random", "constant", or, of data and a network,
    "batch" (some samples of each) or "blend" (each sample is some of both).
    """

    source: str
    calls: frozenset[Call] = frozenset()  # of networks, with no other network's call in between
    slopes: frozenset[Slope] = frozenset()
    squash: Squash | None = None  # the values are this one's, or, where `affine`, ± that and a constant
    affine: bool = False
    drawn: bool = False  # straight from the random stream


@dataclass(eq=False)
class Sample:
    """Statistics of what a network was given: the largest of its inputs."""

    trace: Trace
    shape: tuple[int, ...]
    low: float
    high: float
    alike: float | None  # correlation of neighbouring pixels; None where there are no pixels, or all are equal


@dataclass(eq=False)
class Push:
    """The gradient that a sweep brought to a call's logits, one number per logit, times their number."""

    sweep: Sweep
    logits: np.ndarray
    gradient: np.ndarray


@dataclass(eq=False)
class Call:
    """One call of a network."""

    network: Module
    inputs: list[Trace]
    sample: Sample
    evaluating: list[Module]  # layers that behave otherwise in training, but were in eval mode
    normalizing: list[Module]  # BatchNorm layers that used the batch's statistics
    where: str
    differentiated: bool = False  # at its input, by `grad`: for a penalty, say
    sweeps: list[Sweep] = field(default_factory=list)  # that reached its output
    pushes: list[Push] = field(default_factory=list)


@dataclass(eq=False)
class Sweep:
    """One `backward`: what it reached, by id of the parameter: (square of the gradient's norm, was `.grad` empty)."""

    reached: dict[int, tuple[float, bool]]
    slopes: frozenset[Slope]  # that went into its roots …
    passed: set[Slope]  # … and that it brought a gradient to
    where: str


@dataclass(eq=False)
class Step:
    """One step of an optimiser: by id of the parameter, the square of its gradient's norm, None without a gradient."""

    held: dict[int, float | None]
    rate: float
    where: str


@dataclass(eq=False)
class LogitsLoss:
    """Values in [0, 1] that a loss took for logits."""

    trace: Trace
    op: str
    where: str

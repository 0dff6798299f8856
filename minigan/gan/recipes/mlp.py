"""Pieces of fully connected networks that several recipes share."""

from __future__ import annotations

from itertools import pairwise
from math import prod

from minigan import nn
from minigan.tensor import Tensor


class Maxout(nn.Module):
    """The largest of `pieces` linear maps, for each unit (Goodfellow and others, 2013).

    >>> import minigan as mg
    >>> Maxout(3, 2, pieces=5)(mg.zeros(4, 3)).shape
    (4, 2)
    """

    def __init__(self, inputs: int, units: int, pieces: int = 5) -> None:
        super().__init__()
        self.units, self.pieces = units, pieces
        self.linear = nn.Linear(inputs, units * pieces)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(1, (self.units, self.pieces)).amax(2)


class UnitToImage(nn.Module):
    """[0, 1], where a sigmoid ends, to [-1, 1], where the data are."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - 1


def mlp(sizes: list[int], activation: type[nn.Module] = nn.ReLU, norm: bool = False) -> list[nn.Module]:
    """Linear maps from size to size, an activation between each two (behind BatchNorm, with `norm`)."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs, bias=True)]
        layers += [nn.BatchNorm1d(outputs)] * norm + [activation()]
    return layers[: -1 - norm]


def image_generator(hidden: list[nn.Module], width: int, shape: tuple[int, ...]) -> nn.Sequential:
    """Hidden layers, then one value in [-1, 1] for each pixel, through a sigmoid."""
    return nn.Sequential(*hidden, nn.Linear(width, prod(shape)), nn.Sigmoid(), UnitToImage(), nn.Unflatten(1, shape))

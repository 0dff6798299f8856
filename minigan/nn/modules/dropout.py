"""Dropout layers: active in training, the identity in evaluation."""

from __future__ import annotations

import minigan.nn.functional as F
from minigan.check import number
from minigan.nn.module import Module
from minigan.tensor import Tensor


class Dropout(Module):
    """Each value set to 0 with probability p in training, the others divided by 1 - p.

    >>> import minigan as mg
    >>> Dropout(0.5).eval()(mg.ones(3))
    tensor([1., 1., 1.])
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= number(type(self).__name__, p) <= 1:
            raise ValueError(f"{type(self).__name__}: got probability {p}, expected 0 to 1")
        self.p, self.inplace = p, inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout2d(Dropout):
    """Each channel of each sample set to 0 with probability p in training."""

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout2d(input, self.p, self.training, self.inplace)

"""Losses whose derivatives need more care than a composition would take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minigan.graph import Op, apply

if TYPE_CHECKING:
    from minigan.tensor import Tensor


class BinaryCrossEntropy(Op):
    """l = -t·log x - (1 - t)·log(1 - x), each log at least -100; ∂l/∂x = (x - t) / max(x(1 - x), 1e-12)

    The slope stays finite where x is 0 or 1 and where the logarithms are cut off.
    """

    quiet = True

    @staticmethod
    def forward(ctx, B, x, t):
        ctx.save_inputs(True, True)
        xp = B.xp
        return -(t * xp.maximum(xp.log(x), -100) + (1 - t) * xp.maximum(xp.log1p(-x), -100))

    @staticmethod
    def vjp(ctx, gy):
        x, t = ctx.inputs
        slope = (x * (1 - x)).clamp(min=1e-12)
        return (
            gy * ((x - t) / slope) if ctx.needs[0] else None,
            gy * apply(LogOdds, x) * -1 if ctx.needs[1] else None,
        )


class LogOdds(Op):
    """y = log x - log(1 - x), each log at least -100; y' = 1 / max(x(1 - x), 1e-12)"""

    quiet = True

    @staticmethod
    def forward(ctx, B, x):
        ctx.save_inputs(True)
        xp = B.xp
        return xp.maximum(xp.log(x), -100) - xp.maximum(xp.log1p(-x), -100)

    @staticmethod
    def vjp(ctx, gy):
        x = ctx.inputs[0]
        return gy / (x * (1 - x)).clamp(min=1e-12)


def binary_cross_entropy(x: Tensor, t: Tensor) -> Tensor:
    """-t·log x - (1 - t)·log(1 - x), elementwise, for x in [0, 1]."""
    return apply(BinaryCrossEntropy, x, t)

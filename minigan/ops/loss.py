"""Losses whose derivatives need more care than a composition would take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from minigan.graph import Op, apply
from minigan.ops.smooth import sigmoid

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


class BinaryCrossEntropyWithLogits(Op):
    """l = -t·log σ(x) - (1 - t)·log σ(-x) = (1 - t)·max(x, 0) - t·min(x, 0) + log(1 + e^-|x|), or the mean or sum of it

    ∂l/∂x = (1 - t)·σ(x) - t·σ(-x) and ∂l/∂t = -x. No two terms cancel where the loss, or a slope, is small.
    """

    quiet = True  # e^|x| may overflow to ∞, and 1 / ∞ is the right 0

    @staticmethod
    def forward(ctx, B, x, t, *, reduction):
        ctx.save_inputs(True, ctx.needs[0])
        return B.kernels.bce_with_logits(x, t, reduction)

    @staticmethod
    def vjp(ctx, gl):
        x, t = ctx.inputs
        if ctx.reduction == "mean":
            gl = gl * _share(math.prod(ctx.shapes[0]))
        return (
            gl * ((1 - t) * sigmoid(x) - t * sigmoid(-x)) if ctx.needs[0] else None,
            -gl * x if ctx.needs[1] else None,
        )

    @staticmethod
    def vjp_fast(ctx, B, gl):
        return B.kernels.bce_with_logits_backward(gl, *ctx.input_arrays, ctx.reduction, tuple(ctx.needs))


def _share(count: int) -> float:
    return 1 / count if count else math.nan


def binary_cross_entropy(x: Tensor, t: Tensor) -> Tensor:
    """-t·log x - (1 - t)·log(1 - x), elementwise, for x in [0, 1]."""
    return apply(BinaryCrossEntropy, x, t)


def binary_cross_entropy_with_logits(x: Tensor, t: Tensor, reduction: str) -> Tensor:
    """-t·log σ(x) - (1 - t)·log σ(-x) of each pair ('none'), their mean or their sum; exact for all x."""
    return apply(BinaryCrossEntropyWithLogits, x, t, reduction=reduction)

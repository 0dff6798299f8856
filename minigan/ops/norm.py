"""Normalisation over axes: the one op behind batch, instance, layer and group norm."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minigan.graph import Op, apply
from minigan.ops.reduce import mean
from minigan.ops.shape import sum_to
from minigan.ops.smooth import rsqrt, square

if TYPE_CHECKING:
    from minigan.tensor import Tensor


class Normalize(Op):
    """y = (x - m)·r·w + b,  m = mean x,  r = 1 / √(var x + eps), over `axes`; also returns m and var x.

    With x̂ = (x - m)·r and h = gy·w:  gx = r·(h - mean h - x̂·mean(h·x̂)),  gw = Σ gy·x̂,  gb = Σ gy.
    `vjp` builds m and r from x again in Tensor operations; only `vjp_fast` uses the saved ones.
    """

    @staticmethod
    def forward(ctx, B, x, w, b, *, axes, eps):
        ctx.save_inputs(True, True, False)
        y, m, v, r = B.kernels.normalize(x, w, b, axes, eps)
        ctx.cache = m, r
        return y, m, v

    @staticmethod
    def vjp(ctx, gy):
        x, w, _ = ctx.inputs
        centred = x - mean(x, ctx.axes, keepdim=True)
        r = rsqrt(mean(square(centred), ctx.axes, keepdim=True) + ctx.eps)
        x_hat = centred * r
        gx = None
        if ctx.needs[0]:
            h = gy if w is None else gy * w
            gx = r * (h - mean(h, ctx.axes, keepdim=True) - x_hat * mean(h * x_hat, ctx.axes, keepdim=True))
        gw = sum_to(gy * x_hat, ctx.shapes[1]) if ctx.needs[1] else None
        gb = sum_to(gy, ctx.shapes[2]) if ctx.needs[2] else None
        return gx, gw, gb

    @staticmethod
    def vjp_fast(ctx, B, gy):
        x, w, _ = ctx.input_arrays
        m, r = ctx.cache
        return B.kernels.normalize_backward(gy, x, w, m, r, ctx.axes, tuple(ctx.needs), ctx.shapes)


def normalize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, axes: tuple[int, ...], eps: float
) -> tuple[Any, Any, Any]:
    """x normalised over `axes`, scaled and shifted; with the mean and the biased variance."""
    if math.prod(x.array.shape[d] for d in axes) == 0 and x.array.size:
        raise RuntimeError(f"normalize: nothing to average over axes {axes} of shape {tuple(x.shape)}")
    return apply(Normalize, x, weight, bias, axes=axes, eps=eps)

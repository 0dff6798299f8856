"""Normalisation: over axes, the one op behind batch, instance, layer and group norm, and by moments that are given."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minigan.graph import Op, apply
from minigan.ops.piecewise import through_leaky_relu
from minigan.ops.reduce import mean
from minigan.ops.reduce import sum as add_up
from minigan.ops.shape import reshape, sum_to
from minigan.ops.smooth import rsqrt, square

if TYPE_CHECKING:
    from minigan.tensor import Tensor


class Normalize(Op):
    """y = (x - m)·r·w + b,  m = mean x,  r = 1 / √(var x + eps), over `axes`; also returns m and var x.

    With x̂ = (x - m)·r and h = gy·w:  gx = r·(h - mean h - x̂·mean(h·x̂)),  gw = Σ gy·x̂,  gb = Σ gy.
    With a `slope` a leaky ReLU follows, and gy above is times its derivative, 1 or the slope by the sign of y, which
    comes from x again: saving y would cost more than that.
    `vjp` builds m and r from x again in Tensor operations; only `vjp_fast` uses the saved ones.
    """

    @staticmethod
    def forward(ctx, B, x, w, b, *, axes, eps, slope):
        ctx.save_inputs(True, True, slope is not None)
        y, m, v, r = B.kernels.normalize(x, w, b, axes, eps, slope)
        ctx.cache = m, r
        return y, m, v

    @staticmethod
    def vjp(ctx, gy):
        x, w, b = ctx.inputs
        if ctx.slope is not None:
            gy = through_leaky_relu(gy, apply(Normalize, *_constants(x, w, b), **ctx.params)[0], ctx.slope)
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
        x, w, b = ctx.input_arrays
        m, r = ctx.cache
        return B.kernels.normalize_backward(gy, x, w, b, m, r, ctx.axes, ctx.slope, tuple(ctx.needs), ctx.shapes)


class Standardize(Op):
    """y = (x - m)·r·w + b,  r = 1 / √(v + eps), with vectors m, v, w, b of one value per channel (axis 1).

    gx = gy·r·w,  gm = -Σ gx,  gv = -½·Σ gy·(x - m)·r³·w,  gw = Σ gy·(x - m)·r,  gb = Σ gy;  a `slope` as in Normalize.
    """

    @staticmethod
    def forward(ctx, B, x, m, v, w, b, *, eps, slope):
        leaky = slope is not None
        ctx.save_inputs(ctx.needs[2] or ctx.needs[3] or leaky, True, True, True, leaky)
        scale = 1 / B.xp.sqrt(v + eps)
        scale = scale if w is None else scale * w
        shift = -m * scale if b is None else b - m * scale
        return B.kernels.scale_shift(x, scale, shift, slope)

    @staticmethod
    def vjp(ctx, gy):
        x, m, v, w, b = ctx.inputs
        if ctx.slope is not None:
            gy = through_leaky_relu(gy, apply(Standardize, *_constants(x, m, v, w, b), **ctx.params), ctx.slope)
        column = (-1, *[1] * (gy.ndim - 2))
        over = (0, *range(2, gy.ndim))
        r = rsqrt(v + ctx.eps)
        scale = r if w is None else r * w
        gx = gy * reshape(scale, column)
        spread = add_up(gy * (x - reshape(m, column)), over) if ctx.needs[2] or ctx.needs[3] else None
        return (
            gx if ctx.needs[0] else None,
            -add_up(gx, over) if ctx.needs[1] else None,
            spread * r * r * scale * -0.5 if ctx.needs[2] else None,
            spread * r if ctx.needs[3] else None,
            add_up(gy, over) if ctx.needs[4] else None,
        )


def _constants(*inputs: Any) -> list[Any]:
    return [None if x is None else x.detach() for x in inputs]


def normalize(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    axes: tuple[int, ...],
    eps: float,
    slope: float | None = None,
) -> tuple[Any, Any, Any]:
    """x normalised over `axes`, scaled and shifted, with the mean and the biased variance.

    With a slope, 0 to 1, a leaky ReLU follows.
    """
    if math.prod(x.array.shape[d] for d in axes) == 0 and x.array.size:
        raise RuntimeError(f"normalize: nothing to average over axes {axes} of shape {tuple(x.shape)}")
    return apply(Normalize, x, weight, bias, axes=axes, eps=eps, slope=slope)


def standardize(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float,
    slope: float | None = None,
) -> Tensor:  # fmt: skip
    """x normalised by the given mean and variance of each channel (axis 1), scaled and shifted, with a leaky ReLU."""
    return apply(Standardize, x, mean, var, weight, bias, eps=eps, slope=slope)

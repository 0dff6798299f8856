"""Convolution: one trilinear form, and the three ops that are its partial derivatives.

    T(x, w, y) = Σ x[n, c, i·s + k·d - p] · w[o, c, k] · y[n, o, i]

`Conv` is ∂T/∂y, `ConvTranspose` is ∂T/∂x and `ConvWeightGrad` is ∂T/∂w. T is linear in each of its three
arguments, so the derivative of any of the three is made of the other two, to every order.

The kernels of a forward pass leave what they made of its arrays for those of the backward pass, in a `Kept`.
"""

from __future__ import annotations

from minigan.graph import Op, apply


class Conv(Op):
    """y = ∂T/∂y (x, w)"""

    @staticmethod
    def forward(ctx, B, x, w, *, geometry):
        ctx.save_inputs(ctx.needs[1], ctx.needs[0])
        ctx.cache = kept = _kept(ctx, B)
        return B.kernels.conv(x, w, geometry, kept)

    @staticmethod
    def vjp(ctx, gy):
        x, w = ctx.inputs
        return (
            apply(ConvTranspose, gy, w, geometry=ctx.geometry) if ctx.needs[0] else None,
            apply(ConvWeightGrad, x, gy, geometry=ctx.geometry) if ctx.needs[1] else None,
        )

    @staticmethod
    def vjp_fast(ctx, B, gy):
        (x, w), kept = ctx.input_arrays, ctx.cache
        gx = B.kernels.conv_transpose(gy, w, ctx.geometry, kept) if ctx.needs[0] else None
        gw = B.kernels.conv_weight_grad(x, gy, ctx.geometry, kept) if ctx.needs[1] else None
        kept.M = None  # it was of this gy
        return gx, gw


class ConvTranspose(Op):
    """x = ∂T/∂x (y, w)"""

    @staticmethod
    def forward(ctx, B, y, w, *, geometry):
        ctx.save_inputs(ctx.needs[1], ctx.needs[0])
        ctx.cache = kept = _kept(ctx, B)
        return B.kernels.conv_transpose(y, w, geometry, kept)

    @staticmethod
    def vjp(ctx, gx):
        y, w = ctx.inputs
        return (
            apply(Conv, gx, w, geometry=ctx.geometry) if ctx.needs[0] else None,
            apply(ConvWeightGrad, gx, y, geometry=ctx.geometry) if ctx.needs[1] else None,
        )

    @staticmethod
    def vjp_fast(ctx, B, gx):
        (y, w), kept = ctx.input_arrays, ctx.cache
        gy = B.kernels.conv(gx, w, ctx.geometry, kept) if ctx.needs[0] else None
        gw = B.kernels.conv_weight_grad(gx, y, ctx.geometry, kept) if ctx.needs[1] else None
        kept.V = None  # it was of this gx
        return gy, gw


class ConvWeightGrad(Op):
    """w = ∂T/∂w (x, y)"""

    @staticmethod
    def forward(ctx, B, x, y, *, geometry):
        ctx.save_inputs(ctx.needs[1], ctx.needs[0])
        return B.kernels.conv_weight_grad(x, y, geometry)

    @staticmethod
    def vjp(ctx, gw):
        x, y = ctx.inputs
        return (
            apply(ConvTranspose, y, gw, geometry=ctx.geometry) if ctx.needs[0] else None,
            apply(Conv, x, gw, geometry=ctx.geometry) if ctx.needs[1] else None,
        )


def _kept(ctx, B):
    return B.kernels.Kept(*ctx.needs[:2]) if any(ctx.needs[:2]) else None

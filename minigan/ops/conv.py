"""Convolution: one trilinear form, and the three ops that are its partial derivatives.

    T(x, w, y) = Σ x[n, c, i·s + k·d - p] · w[o, c, k] · y[n, o, i]

`Conv` is ∂T/∂y, `ConvTranspose` is ∂T/∂x and `ConvWeightGrad` is ∂T/∂w. T is linear in each of its three
arguments, so the derivative of any of the three is made of the other two, to every order.
"""

from __future__ import annotations

from minigan.graph import Op, apply


class Conv(Op):
    """y = ∂T/∂y (x, w)"""

    @staticmethod
    def forward(ctx, B, x, w, *, geometry):
        ctx.save_inputs(ctx.needs[1], ctx.needs[0])
        return B.kernels.conv(x, w, geometry)

    @staticmethod
    def vjp(ctx, gy):
        x, w = ctx.inputs
        return (
            apply(ConvTranspose, gy, w, geometry=ctx.geometry) if ctx.needs[0] else None,
            apply(ConvWeightGrad, x, gy, geometry=ctx.geometry) if ctx.needs[1] else None,
        )


class ConvTranspose(Op):
    """x = ∂T/∂x (y, w)"""

    @staticmethod
    def forward(ctx, B, y, w, *, geometry):
        ctx.save_inputs(ctx.needs[1], ctx.needs[0])
        return B.kernels.conv_transpose(y, w, geometry)

    @staticmethod
    def vjp(ctx, gx):
        y, w = ctx.inputs
        return (
            apply(Conv, gx, w, geometry=ctx.geometry) if ctx.needs[0] else None,
            apply(ConvWeightGrad, gx, y, geometry=ctx.geometry) if ctx.needs[1] else None,
        )


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

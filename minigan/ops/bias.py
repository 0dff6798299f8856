"""A bias for each channel, and the leaky ReLU that often follows it: the end of a convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minigan.graph import Op, apply
from minigan.ops.piecewise import through_leaky_relu
from minigan.ops.reduce import sum as add_up

if TYPE_CHECKING:
    from minigan.tensor import Tensor


class AddBias(Op):
    """y = x + b with a value of b for each channel (axis 1), and a leaky ReLU if there is a `slope`; b may be None.

    y is written over x, which must be a fresh array that nothing else needs. gx = gy·leaky'(y), gb = Σ gx.
    """

    @staticmethod
    def forward(ctx, B, x, b, *, slope):
        if slope is not None:
            ctx.save_output()
        return B.kernels.add_bias(x, b, slope)

    @staticmethod
    def vjp(ctx, gy):
        gx = gy if ctx.slope is None else through_leaky_relu(gy, ctx.output, ctx.slope)
        return gx, add_up(gx, (0, *range(2, gx.ndim))) if ctx.needs[1] else None

    @staticmethod
    def vjp_fast(ctx, B, gy):
        y = None if ctx.slope is None else ctx.output_array
        return B.kernels.add_bias_backward(gy, y, ctx.slope, ctx.needs[1])


def add_bias(x: Tensor, bias: Tensor | None, slope: float | None = None) -> Tensor:
    """x + bias along axis 1, and a leaky ReLU if there is a slope, 0 to 1; x is lost.

    >>> import minigan as mg
    >>> add_bias(mg.zeros(1, 2), mg.tensor([1.0, -1.0]), 0.5)
    tensor([[ 1. , -0.5]])
    """
    return x if bias is None and slope is None else apply(AddBias, x, bias, slope=slope)

"""Convolution of any geometry: the three kernels, by whichever algorithm suits the geometry (`choose.py`).

The three are the derivatives of one trilinear form (see `ConvGeometry`),

    T(x, w, y) = sum over n, o, c, i, k of  x[n, c, i*s + k*d - p] * w[o, c, k] * y[n, o, i]

    conv(x, w) = dT/dy        conv_transpose(y, w) = dT/dx        conv_weight_grad(x, y) = dT/dw

Each derivative of one of the three is made of the other two, so nothing else is needed for gradients of any order.

Arrays have (N, C, *spatial) shapes. Images come back as views of channels-last memory, and go in fastest that
way, though any strides will do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..geometry import ConvGeometry, checked_sizes
from . import direct, im2col, winograd
from .choose import Plan, choose

__all__ = ["Kept", "conv", "conv_transpose", "conv_weight_grad"]

Array = npt.NDArray[Any]


class Kept:
    """What a call leaves for its derivatives: its plan, transformed filters U, and its transformed side, V or M.

    Give a new one to the call, saying which gradients may be wanted, and the same one to the kernels of its backward
    pass: they take its plan, the filters and the side; the other side, transformed for one, is there for the next.
    """

    __slots__ = ("M", "U", "V", "filters", "forward", "plan", "sides")
    MOST = 4  # times the size of an image: a larger one is not kept from the forward pass, but made again

    def __init__(self, image_gradient: bool, weight_gradient: bool) -> None:
        self.filters, self.sides = image_gradient, weight_gradient
        self.plan: Plan | None = None
        self.forward = True
        self.U: Array | None = None
        self.V: Array | None = None
        self.M: Array | None = None

    def keep(self, side: str, plan: winograd.Plan, dtype: np.dtype[Any]) -> Array | None:
        """Memory for V or M, if it is to be kept."""
        for_long, self.forward = self.forward, False  # a backward pass uses it at once
        small = plan.nodes <= self.MOST * plan.rows.m * plan.columns.m
        wanted = self.sides and (small or not for_long)
        array = None if not wanted else plan.empty_big(dtype) if side == "V" else plan.empty_small(dtype)
        setattr(self, side, array)
        return array


def conv(x: Array, w: Array, g: ConvGeometry, kept: Kept | None = None) -> Array:
    """Cross-correlation: x (N, C, *g.input) with w (O, C / groups, *g.kernel) gives y (N, O, *g.output).

        y[n, o, i] = sum over c, k of  x[n, c, i*s + k*d - p] * w[o, c, k]

    >>> import numpy as np
    >>> from minigan.kernels.cpu.conv import conv
    >>> from minigan.kernels.geometry import ConvGeometry
    >>> g = ConvGeometry.conv((4,), (2,), stride=2)
    >>> conv(np.arange(4.0).reshape(1, 1, 4), np.array([[[1.0, 10.0]]]), g)
    array([[[10., 32.]]])
    """
    plan = _plan(g, kept, *checked_sizes("conv", g, x=x, w=w))
    image, filters = _channels_last(x), _precise(w)
    if isinstance(plan, winograd.Plan):
        U = _filters(filters, plan, kept)
        V = None if kept is None else kept.keep("V", plan, image.dtype)
        y = winograd.conv(image, U, plan, V)
    else:
        y = direct.conv(image, filters, plan) if plan else im2col.conv(image, filters, g)
    return _channels_first(y, x.dtype)


def conv_transpose(y: Array, w: Array, g: ConvGeometry, kept: Kept | None = None) -> Array:
    """`conv` turned round: y (N, O, *g.output) with w (O, C / groups, *g.kernel) gives x (N, C, *g.input).

        x[n, c, j] = sum over o and all i, k with i*s + k*d - p == j of  y[n, o, i] * w[o, c, k]

    >>> import numpy as np
    >>> from minigan.kernels.cpu.conv import conv_transpose
    >>> from minigan.kernels.geometry import ConvGeometry
    >>> g = ConvGeometry.transpose((2,), (2,), stride=2)
    >>> conv_transpose(np.array([[[3.0, 4.0]]]), np.array([[[1.0, 10.0]]]), g)
    array([[[ 3., 30.,  4., 40.]]])
    """
    plan = _plan(g, kept, *checked_sizes("conv_transpose", g, w=w, y=y))
    small, filters = _channels_last(y), _precise(w)
    if isinstance(plan, winograd.Plan):
        U = _filters(filters, plan, kept)
        M = None if kept is None else kept.keep("M", plan, small.dtype)
        x = winograd.conv_transpose(small, U, plan, M)
    else:
        x = direct.conv_transpose(small, filters, plan) if plan else im2col.conv_transpose(small, filters, g)
    return _channels_first(x, y.dtype)


def conv_weight_grad(x: Array, y: Array, g: ConvGeometry, kept: Kept | None = None) -> Array:
    """x (N, C, *g.input) with y (N, O, *g.output) gives w (O, C / groups, *g.kernel), C-contiguous.

        w[o, c, k] = sum over n, i of  y[n, o, i] * x[n, c, i*s + k*d - p]

    >>> import numpy as np
    >>> from minigan.kernels.cpu.conv import conv_weight_grad
    >>> from minigan.kernels.geometry import ConvGeometry
    >>> g = ConvGeometry.conv((4,), (2,), stride=2)
    >>> conv_weight_grad(np.arange(4.0).reshape(1, 1, 4), np.array([[[1.0, 10.0]]]), g)
    array([[[20., 31.]]])
    """
    plan = _plan(g, kept, *checked_sizes("conv_weight_grad", g, x=x, y=y))
    image, small = _channels_last(x), _channels_last(y)
    if isinstance(plan, winograd.Plan):
        V, M = (None, None) if kept is None else (kept.V, kept.M)
        V = winograd.big_side(image, plan) if V is None else V
        M = winograd.small_side(small, plan) if M is None else M
        grad = winograd.conv_weight_grad(V, M, plan)
    else:
        grad = direct.conv_weight_grad(image, small, plan) if plan else im2col.conv_weight_grad(image, small, g)
    return np.ascontiguousarray(grad, dtype=x.dtype)


def _plan(g: ConvGeometry, kept: Kept | None, batch: int, channels: int, filters: int) -> Plan | None:
    if kept is None:
        return choose(g, batch, channels, filters)
    if kept.plan is None:
        kept.plan = choose(g, batch, channels, filters)
    return kept.plan


def _filters(w: Array, plan: winograd.Plan, kept: Kept | None) -> Array:
    """Transformed, or as they were kept."""
    if kept is None or kept.U is None:
        U = winograd.filters(w, plan)
        if kept is not None and kept.filters:
            kept.U = U
        return U
    return kept.U


def _precise(array: Array) -> Array:
    """float16, which BLAS does not know, as float32."""
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _channels_last(image: Array) -> Array:
    """(N, C, *spatial) seen as (N, *spatial, C)."""
    return np.moveaxis(_precise(image), 1, -1)


def _channels_first(image: Array, dtype: np.dtype[Any]) -> Array:
    return np.moveaxis(image, -1, 1).astype(dtype, copy=False)

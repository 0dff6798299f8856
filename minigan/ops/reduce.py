"""Reductions over axes: sums, extremes, moments, norms."""

from __future__ import annotations

import builtins
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from minigan import dtypes
from minigan.check import check_tensors, several, whole
from minigan.graph import Op, apply, plain_result, wrap
from minigan.ops.compare import isclose
from minigan.ops.index import take_along
from minigan.ops.piecewise import abs as absolute
from minigan.ops.piecewise import where
from minigan.ops.shape import add_up, axis, broadcast_to, cat, flatten, flip, reshape
from minigan.ops.smooth import exp, log, square

if TYPE_CHECKING:
    from minigan.tensor import Tensor

Dim = int | Sequence[int] | None
F = TypeVar("F", bound=Callable[..., Any])


class ValuesAndIndices(NamedTuple):
    """What a reduction that also says where it found its values returns."""

    values: Any
    indices: Any


def axes(dim: Dim, ndim: int, name: str) -> tuple[int, ...]:
    """The axes meant by `dim`, counted from the front; all of them for None or ()."""
    if dim is None or several(dim) == ():
        return tuple(range(ndim))
    found = tuple(axis(d, ndim, name) for d in several(dim))
    if len(set(found)) != len(found):
        raise RuntimeError(f"{name}: dim {dim} names an axis twice")
    return found if ndim else ()


def _kept(shape: tuple[int, ...], over: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if i in over else size for i, size in enumerate(shape))


class Sum(Op):
    """y = Σ x over some axes"""

    @staticmethod
    def forward(ctx, B, x, *, axes, keepdim):
        return add_up(x, axes, keepdim)

    @staticmethod
    def vjp(ctx, gy):
        shape = ctx.shapes[0]
        return broadcast_to(reshape(gy, _kept(shape, ctx.axes)), shape)


class Amax(Op):
    """y = max x over some axes; entries equal to it share the gradient. `sign` -1 makes it the minimum."""

    @staticmethod
    def forward(ctx, B, x, *, axes, keepdim, sign):
        ctx.save_inputs(True)
        return (x.max if sign > 0 else x.min)(axis=axes, keepdims=keepdim)

    @staticmethod
    def vjp(ctx, gy):
        x = ctx.inputs[0].detach()
        y = (amax if ctx.sign > 0 else amin)(x, ctx.axes, keepdim=True)
        hit = (x == y).to(gy.dtype)
        return reshape(gy, y.shape) * (hit / sum(hit, ctx.axes, keepdim=True))


class Cumsum(Op):
    """y[i] = x[0] + … + x[i] along an axis"""

    @staticmethod
    def forward(ctx, B, x, *, dim):
        return B.xp.cumsum(x, axis=dim)

    @staticmethod
    def vjp(ctx, gy):
        return flip(apply(Cumsum, flip(gy, ctx.dim), dim=ctx.dim), ctx.dim)


class Norm2(Op):
    """y = √Σx²; its slope x / y is taken as 0 where y = 0"""

    @staticmethod
    def forward(ctx, B, x, *, axes, keepdim):
        ctx.save_inputs(True)
        ctx.save_output()
        return B.xp.sqrt(B.xp.square(x).sum(axis=axes, keepdims=keepdim))

    @staticmethod
    def vjp(ctx, gy):
        y = ctx.output
        slope = gy / where(y == 0, 1.0, y)
        return ctx.inputs[0] * reshape(slope, _kept(ctx.shapes[0], ctx.axes))


def _counted(x: Tensor) -> Tensor:
    """Integers and booleans as int64, in which PyTorch adds them up."""
    check_tensors("sum, prod or cumsum", x)
    return x.to(dtypes.int64) if x.array.dtype.kind in "biu" else x


def _floats_only(name: str, x: Tensor, dtype: Any = None) -> Tensor:
    check_tensors(name, x)
    x = x if dtype is None else x.to(dtype)
    if x.array.dtype.kind not in "fc":
        raise RuntimeError(f"{name}: expected a floating dtype, got {x.dtype}; convert with .float()")
    return x


def _precise(function: F) -> F:
    """A reduction that, in float16, would overflow on the way to a result that does not: done in float32."""

    @functools.wraps(function)
    def reduce(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if getattr(x, "dtype", None) == dtypes.float16 and "dtype" not in kwargs:
            return function(x.float(), *args, **kwargs).half()
        return function(x, *args, **kwargs)

    return reduce  # type: ignore[return-value]  # a wrapper has the wrapped function's signature


def sum(x: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Σ x over the axes of `dim`, or all."""
    x = _counted(x) if dtype is None else x.to(dtype)
    return apply(Sum, x, axes=axes(dim, x.ndim, "sum"), keepdim=keepdim)


@_precise
def mean(x: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The average over the axes of `dim`, or all."""
    x = _floats_only("mean", x, dtype)
    over = axes(dim, x.ndim, "mean")
    count = math.prod(x.array.shape[d] for d in over)
    total = apply(Sum, x, axes=over, keepdim=keepdim)
    return total * (1.0 / count) if count else total * math.nan


@_precise
def var(
    x: Tensor,
    dim: Dim = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """Σ(x - mean)² / (n - correction); the correction is 1 unless `unbiased` is False."""
    centred, over, scale = _centred("var", x, dim, unbiased, correction)
    return apply(Sum, square(centred), axes=over, keepdim=keepdim) * scale


@_precise
def std(
    x: Tensor,
    dim: Dim = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """√var; its slope is taken as 0 where it is 0"""
    centred, over, scale = _centred("std", x, dim, unbiased, correction)
    return apply(Norm2, centred, axes=over, keepdim=keepdim) * math.sqrt(scale)


def _centred(name: str, x: Tensor, dim: Any, unbiased: bool, correction: float | None) -> tuple[Tensor, Any, float]:
    """x - mean, the axes it was taken over, and 1 / (n - correction)."""
    if isinstance(dim, bool):  # var(False) means unbiased=False
        dim, unbiased = None, dim
    less = (1 if unbiased else 0) if correction is None else correction
    over = axes(dim, x.ndim, name)
    count = math.prod(x.array.shape[d] for d in over) - less
    return x - mean(x, over or None, keepdim=True), over, 1.0 / count if count > 0 else math.nan


def amax(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """The largest value over the axes of `dim`, or all; equal ones share the gradient."""
    return _extreme(x, dim, keepdim, 1, "amax")


def amin(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """The smallest value over the axes of `dim`, or all; equal ones share the gradient."""
    return _extreme(x, dim, keepdim, -1, "amin")


def _extreme(x: Tensor, dim: Dim, keepdim: bool, sign: int, name: str) -> Tensor:
    over = axes(dim, x.ndim, name)
    if builtins.any(x.array.shape[d] == 0 for d in over):
        raise RuntimeError(f"{name}: expected at least one value to reduce, got shape {tuple(x.shape)} over dim {over}")
    return apply(Amax, x, axes=over, keepdim=keepdim, sign=sign)


def max(x: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The largest value; along `dim` also where it is; given a tensor, the elementwise maximum."""
    return _max_or_min(x, dim, keepdim, amax, "argmax", "maximum")


def min(x: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The smallest value; along `dim` also where it is; given a tensor, the elementwise minimum."""
    return _max_or_min(x, dim, keepdim, amin, "argmin", "minimum")


def _max_or_min(x: Tensor, dim: Any, keepdim: bool, whole: Any, where_name: str, pairwise: str) -> Any:
    if dim is None:
        return whole(x)
    if hasattr(dim, "array"):
        return getattr(x, pairwise)(dim)
    indices = _arg(x, dim, True, where_name)
    values = take_along(x, axis(dim, x.ndim, where_name), indices)
    return ValuesAndIndices(values, indices) if keepdim else ValuesAndIndices(values.squeeze(dim), indices.squeeze(dim))


def _arg(x: Tensor, dim: int | None, keepdim: bool, name: str) -> Tensor:
    if dim is not None:
        dim = axis(dim, x.ndim, name)
    if (x.array.size if dim is None else (x.array.shape or (1,))[dim]) == 0:
        raise IndexError(f"{name}: expected at least one value to reduce, got shape {tuple(x.shape)}")
    found = getattr(x.B.xp, name)(x.array if x.ndim else x.array.reshape(1), axis=dim, keepdims=keepdim and x.ndim > 0)
    found = x.B.xp.asarray(found).reshape(() if not x.ndim else found.shape)
    return plain_result(name, (x,), found, x.B, dim=dim, keepdim=keepdim)


def argmax(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the largest value is: along `dim`, or in the flattened tensor."""
    return _arg(x, dim, keepdim, "argmax")


def argmin(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the smallest value is: along `dim`, or in the flattened tensor."""
    return _arg(x, dim, keepdim, "argmin")


def prod(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The product, by multiplying halves: zeros need no special care in the derivatives."""
    x = _counted(x)
    if dim is None:
        return prod(flatten(x), 0)
    y = x if x.ndim == 0 else x.movedim(axis(dim, x.ndim, "prod"), 0)
    if x.ndim == 0:
        return x.clone()
    if y.shape[0] == 0:
        y = y.new_ones((1, *y.shape[1:]))
    while y.shape[0] > 1:
        half = y.shape[0] // 2
        product = y[:half] * y[half : 2 * half]
        y = cat([product, y[2 * half :]], 0) if y.shape[0] % 2 else product
    return y.movedim(0, axis(dim, x.ndim, "prod")) if keepdim else y[0]


@_precise
def cumsum(x: Tensor, dim: int) -> Tensor:
    """Running sums along an axis."""
    return apply(Cumsum, _counted(x), dim=axis(dim, x.ndim, "cumsum")) if x.ndim else x.clone()


@_precise
def logsumexp(x: Tensor, dim: Dim, keepdim: bool = False) -> Tensor:
    """log Σ eˣ, from which the largest x is taken out first."""
    over = axes(dim, x.ndim, "logsumexp")
    top = amax(x.detach(), over, keepdim=True)
    top = where(top.isfinite(), top, 0.0)
    y = log(sum(exp(x - top), over, keepdim=True)) + top
    return y if keepdim else reshape(y, tuple(size for i, size in enumerate(x.array.shape) if i not in over))


@_precise
def norm(x: Tensor, p: Any = 2, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """(Σ|x|ᵖ)^(1/p) over the axes of `dim`, or all; the slope is 0 where a norm is 0."""
    x = _floats_only("norm", x)
    over = axes(dim, x.ndim, "norm")
    if p in (2, "fro"):
        return apply(Norm2, x, axes=over, keepdim=keepdim)
    if p == 1:
        return sum(absolute(x), over, keepdim)
    if p in (math.inf, "inf"):
        return amax(absolute(x), over, keepdim)
    if p == -math.inf:
        return amin(absolute(x), over, keepdim)
    if p == 0:
        return sum((x != 0).to(x.dtype), over, keepdim)
    if isinstance(p, str):
        raise RuntimeError(f"norm: got p {p!r}, expected a number, 'fro' or 'inf'")
    total = sum(absolute(x) ** p, over, keepdim)
    return where(total == 0, 0.0, where(total == 0, 1.0, total) ** (1 / p))


# Order ------------------------------------------------------------------------------------------------


def sort(x: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> ValuesAndIndices:
    """Sorted along an axis, and where each value came from."""
    indices = argsort(x, dim, descending)
    return ValuesAndIndices(take_along(x, axis(dim, x.ndim, "sort"), indices), indices)


def argsort(x: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    """Where the sorted values come from; equal ones stay in order."""
    along = axis(dim, x.ndim, "argsort")
    if x.ndim == 0:
        return wrap(x.B.xp.zeros((), np.int64), x.B, None)
    if not descending:
        return plain_result("argsort", (x,), x.B.xp.argsort(x.array, axis=along, kind="stable"), x.B)
    size = x.array.shape[along]
    reverse = x.B.xp.argsort(x.B.xp.flip(x.array, along), axis=along, kind="stable")
    return plain_result("argsort", (x,), size - 1 - x.B.xp.flip(reverse, along), x.B)


def topk(x: Tensor, k: int, dim: int = -1, largest: bool = True) -> ValuesAndIndices:
    """The k largest (or smallest) values along an axis, in order, and where they are."""
    along = axis(dim, x.ndim, "topk")
    size = (x.array.shape or (1,))[along]
    if not 0 <= whole("topk", k) <= size:
        raise RuntimeError(f"topk: got k {k}, expected 0 to {size}, the size of axis {along}")
    if x.ndim == 0:
        return sort(x)
    indices = argsort(x, along, descending=largest)[(slice(None),) * along + (slice(0, k),)]
    return ValuesAndIndices(take_along(x, along, indices), indices)


def all(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Whether all values are non-zero."""
    over = axes(dim, x.ndim, "all")
    return plain_result("all", (x,), x.B.xp.all(x.array, axis=over, keepdims=keepdim), x.B, axes=over, keepdim=keepdim)


def any(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Whether any value is non-zero."""
    over = axes(dim, x.ndim, "any")
    return plain_result("any", (x,), x.B.xp.any(x.array, axis=over, keepdims=keepdim), x.B, axes=over, keepdim=keepdim)


def equal(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors have the same shape and values."""
    check_tensors("equal", x, y)
    return x.array.shape == y.array.shape and bool((x == y).array.all())


def allclose(x: Tensor, y: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether |x - y| ≤ atol + rtol·|y| everywhere."""
    check_tensors("allclose", x, y)
    return bool(isclose(x, y, rtol, atol, equal_nan).all())


# Softmax: written in the output ---------------------------------------------------------------------------


class Softmax(Op):
    """y = eˣ / Σeˣ along an axis; gx = y·(gy - Σ gy·y)"""

    @staticmethod
    def forward(ctx, B, x, *, dim):
        ctx.save_output()
        y = B.xp.exp(x - x.max(axis=dim, keepdims=True)) if x.size else x
        return y / y.sum(axis=dim, keepdims=True)

    @staticmethod
    def vjp(ctx, gy):
        y = ctx.output
        return y * (gy - sum(gy * y, ctx.dim, keepdim=True))


class LogSoftmax(Op):
    """y = x - log Σeˣ along an axis; gx = gy - eʸ·Σ gy"""

    quiet = True

    @staticmethod
    def forward(ctx, B, x, *, dim):
        ctx.save_output()
        y = x - x.max(axis=dim, keepdims=True) if x.size else x
        return y - B.xp.log(B.xp.exp(y).sum(axis=dim, keepdims=True))

    @staticmethod
    def vjp(ctx, gy):
        return gy - exp(ctx.output) * sum(gy, ctx.dim, keepdim=True)


def softmax(x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """eˣ / Σeˣ along an axis."""
    x = _floats_only("softmax", x, dtype)
    return apply(Softmax, x, dim=axis(dim, x.ndim, "softmax")) if x.ndim else exp(x - x)


def log_softmax(x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """log softmax, exact for very unequal x."""
    x = _floats_only("log_softmax", x, dtype)
    return apply(LogSoftmax, x, dim=axis(dim, x.ndim, "log_softmax")) if x.ndim else x - x

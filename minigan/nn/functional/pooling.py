"""Pooling and resampling of images.

Average pooling and linear interpolation are linear along each axis: y = A_h·x·A_wᵀ, with small constant
matrices that `_average` and `_interpolation` build row by row. Everything works on channels-last memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from minigan.backend import Backend
from minigan.graph import apply, plain_result, wrap
from minigan.nn.functional.arguments import Sizes, expect_ndim, per_axis
from minigan.ops.memory import Clone
from minigan.tensor import Tensor


def avg_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of every window; zeros of the padding count among its values if `count_include_pad`.

    >>> import minigan as mg
    >>> avg_pool2d(mg.arange(4.0).reshape(1, 1, 2, 2), 2)
    tensor([[[[1.5]]]])
    """
    kernel, stride, padding, out = _windows("avg_pool2d", input, kernel_size, stride, padding, 1, ceil_mode)
    size = input.shape[-2:]
    axes = list(zip(size, out, kernel, stride, padding, strict=True))
    if divisor_override is not None:
        if divisor_override == 0:
            raise RuntimeError("avg_pool2d: divisor_override must not be 0")
        return _resample(input, _average, axes, "nothing") * (1 / divisor_override)
    if kernel == stride and padding == (0, 0) and all(s % k == 0 for s, k in zip(size, kernel, strict=True)):
        return _block_mean(input, kernel)
    return _resample(input, _average, axes, "all" if count_include_pad else "inside")


def avg_pool1d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of every window of a sequence; zeros of the padding count if `count_include_pad`.

    >>> import minigan as mg
    >>> avg_pool1d(mg.arange(4.0).reshape(1, 1, 4), 2)
    tensor([[[0.5, 2.5]]])
    """
    expect_ndim("avg_pool1d", input, 1)
    (kernel,) = per_axis(kernel_size, 1, "avg_pool1d: kernel_size")
    (step,) = per_axis(kernel if stride is None else stride, 1, "avg_pool1d: stride")
    (around,) = per_axis(padding, 1, "avg_pool1d: padding")
    rows = input.unsqueeze(-2)
    return avg_pool2d(rows, (1, kernel), (1, step), (0, around), ceil_mode, count_include_pad).squeeze(-2)


def adaptive_avg_pool2d(input: Tensor, output_size: int | Sequence[int | None]) -> Tensor:
    """The mean of as many nearly equal windows as `output_size` says; None keeps an axis as it is.

    >>> import minigan as mg
    >>> adaptive_avg_pool2d(mg.ones(1, 2, 7, 5), 1).shape
    (1, 2, 1, 1)
    """
    expect_ndim("adaptive_avg_pool2d", input, 2)
    wanted = (output_size,) * 2 if isinstance(output_size, int) else tuple(output_size)
    size = input.shape[-2:]
    out = tuple(s if o is None else o for s, o in zip(size, wanted, strict=True))
    if all(o and s % o == 0 for s, o in zip(size, out, strict=True)):
        return _block_mean(input, tuple(s // o for s, o in zip(size, out, strict=True)))
    return _resample(input, _adaptive_average, list(zip(size, out, strict=True)))


def max_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest value of every window; with `return_indices` also where it is, counted through an H × W plane.

    >>> import minigan as mg
    >>> max_pool2d(mg.arange(4.0).reshape(1, 1, 2, 2), 2, return_indices=True)
    (tensor([[[[3.]]]]), tensor([[[[3]]]]))
    """
    kernel, stride, padding, out = _windows("max_pool2d", input, kernel_size, stride, padding, dilation, ceil_mode)
    geometry = zip(input.shape[-2:], out, kernel, stride, padding, per_axis(dilation, 2, "dilation"), strict=True)
    rows, columns = (_positions(*axis) for axis in geometry)
    places = rows[:, None, :, None] * input.shape[-1] + columns[None, :, None, :]
    window = input.B.asarray(places.reshape(math.prod(out), math.prod(kernel)))
    pixels = input.movedim(-3, -1).flatten(-3, -2)
    # The search is over constants; only the gathering of what was found is differentiated.
    best = pixels.array[..., window, :].argmax(axis=-2)
    found = plain_result(
        "max_pool_places", (input,), window[input.B.xp.arange(len(window))[:, None], best], input.B,
        kernel=kernel, stride=stride, padding=padding, dilation=per_axis(dilation, 2, "dilation"), out=out,
    )  # fmt: skip
    shape = (*input.shape[:-3], *out, input.shape[-3])
    y, where = (t.reshape(shape).movedim(-1, -3) for t in (pixels.gather(-2, found), found))
    return (y, where) if return_indices else y


def interpolate(
    input: Tensor,
    size: Sizes | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Resized to `size`, or by `scale_factor`: 'nearest' or, for 1, 2, 3 axes, 'linear', 'bilinear', 'trilinear'.

    >>> import minigan as mg
    >>> interpolate(mg.tensor([[[1.0, 2.0]]]), scale_factor=2)
    tensor([[[1., 1., 2., 2.]]])
    """
    ndim = input.ndim - 2
    linear = {"linear": 1, "bilinear": 2, "trilinear": 3}
    if mode not in ("nearest", *linear) or antialias:
        raise NotImplementedError(
            f"interpolate: got mode {mode!r}, antialias {antialias}; expected nearest, linear, bilinear or trilinear"
        )
    if mode == "nearest" and align_corners is not None:
        raise ValueError("interpolate: align_corners is for mode linear, bilinear or trilinear only")
    if linear.get(mode, ndim) != ndim or ndim < 1:
        raise NotImplementedError(
            f"interpolate: got input of shape {tuple(input.shape)}, expected {linear.get(mode, 1) + 2} axes "
            f"for mode {mode!r}"
        )
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: expected one of size and scale_factor")
    spatial = input.shape[2:]
    out, factors = _output_size(spatial, size, scale_factor)
    if min(*out, *spatial) < 1:
        raise RuntimeError(f"interpolate: from {spatial} to {out}: sizes must be positive")
    # PyTorch's rule: sizes that stay as they are (or double, for 'nearest') are exact, whatever factor gave them.
    exact = [size is not None or recompute_scale_factor or o == s or (mode == "nearest" and o == 2 * s)
             for s, o in zip(spatial, out, strict=True)]  # fmt: skip
    steps = [s / o if e else 1 / f for s, o, f, e in zip(spatial, out, factors, exact, strict=True)]
    if mode != "nearest":
        rows = [(*axis, bool(align_corners)) for axis in zip(spatial, out, steps, strict=True)]
        return _resample(input, _interpolation, rows)
    if all(o % s == 0 and step == s / o for s, o, step in zip(spatial, out, steps, strict=True)):
        return _block_repeat(input, tuple(o // s for s, o in zip(spatial, out, strict=True)))
    y = input.movedim(1, -1)
    for axis, (o, step) in enumerate(zip(out, steps, strict=True), start=1):
        y = y.index_select(axis, _nearest(y, y.shape[axis], o, step))
    return y.movedim(-1, 1)


def upsample(
    input: Tensor,
    size: Sizes | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """The old name of `interpolate`."""
    return interpolate(input, size, scale_factor, mode, align_corners)


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(…, C·r², H, W) as (…, C, H·r, W·r): channels become blocks of pixels.

    >>> import minigan as mg
    >>> pixel_shuffle(mg.arange(4.0).reshape(1, 4, 1, 1), 2)
    tensor([[[[0., 1.],
              [2., 3.]]]])
    """
    r = upscale_factor
    if input.ndim < 3 or r < 1 or input.shape[-3] % (r * r):
        raise RuntimeError(
            f"pixel_shuffle: got input of shape {tuple(input.shape)}, expected channels (axis -3) divisible by "
            f"the square of upscale_factor {r}"
        )
    *lead, c, h, w = input.shape
    n = len(lead)
    blocks = input.movedim(-3, -1).reshape(*lead, h, w, c // r**2, r, r)
    blocks = blocks.permute(*range(n), n, n + 3, n + 1, n + 4, n + 2)  # (…, H, r, W, r, C)
    return blocks.reshape(*lead, h * r, w * r, c // r**2).movedim(-1, -3)


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """(…, C, H·r, W·r) as (…, C·r², H, W): the inverse of `pixel_shuffle`."""
    r = downscale_factor
    if input.ndim < 3 or r < 1 or input.shape[-2] % r or input.shape[-1] % r:
        raise RuntimeError(
            f"pixel_unshuffle: got input of shape {tuple(input.shape)}, expected a height and width divisible by "
            f"downscale_factor {r}"
        )
    *lead, c, h, w = input.shape
    n = len(lead)
    blocks = input.movedim(-3, -1).reshape(*lead, h // r, r, w // r, r, c)
    blocks = blocks.permute(*range(n), n, n + 2, n + 4, n + 1, n + 3)  # (…, H, W, C, r, r)
    return blocks.reshape(*lead, h // r, w // r, c * r**2).movedim(-1, -3)


# Windows --------------------------------------------------------------------------------------------------


def _windows(
    name: str, x: Tensor, kernel_size: Sizes, stride: Sizes | None, padding: Sizes, dilation: Sizes, ceil_mode: bool
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Kernel, stride, padding and output size, each per axis."""
    expect_ndim(name, x, 2)
    kernel = per_axis(kernel_size, 2, f"{name}: kernel_size")
    step = kernel if stride is None or stride == () else per_axis(stride, 2, f"{name}: stride")
    pad = per_axis(padding, 2, f"{name}: padding")
    spread = per_axis(dilation, 2, f"{name}: dilation")
    if min(*kernel, *step, *spread) < 1:
        raise RuntimeError(f"{name}: kernel_size {kernel}, stride {step} and dilation {spread} must be positive")
    out = []
    for n, k, s, p, d in zip(x.shape[-2:], kernel, step, pad, spread, strict=True):
        extent = d * (k - 1) + 1
        if not 0 <= p <= extent // 2:
            raise RuntimeError(f"{name}: got padding {p}, expected 0 to {extent // 2}, half of the kernel's extent")
        free = n + 2 * p - extent
        count = (-(-free // s) if ceil_mode else free // s) + 1
        if ceil_mode and (count - 1) * s >= n + p:  # the last window would start in the padding on the right
            count -= 1
        if count < 1:
            raise RuntimeError(
                f"{name}: input of shape {tuple(x.shape)} with kernel_size {kernel}, stride {step}, padding {pad}, "
                f"dilation {spread} gives an empty output"
            )
        out.append(count)
    return kernel, step, pad, tuple(out)


@lru_cache(maxsize=256)
def _positions(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> np.ndarray:
    """Where the taps of each window are, (out, kernel); in place of one outside, the first that is inside."""
    taps = np.arange(out)[:, None] * stride - padding + np.arange(kernel) * dilation
    inside = (taps >= 0) & (taps < size)
    if not inside.any(1).all():
        raise RuntimeError(f"max_pool2d: a window of kernel {kernel}, dilation {dilation} lies wholly in the padding")
    first = taps[np.arange(out), inside.argmax(1)]
    return np.where(inside, taps, first[:, None])


# One axis at a time ---------------------------------------------------------------------------------------


def _average(size: int, out: int, kernel: int, stride: int, padding: int, counted: str) -> np.ndarray:
    """Row i averages window i: divides by the number of 'all' its entries or those 'inside', or by 'nothing'."""
    matrix = np.zeros((out, size))
    for i in range(out):
        start = i * stride - padding
        end = min(start + kernel, size + padding)
        low, high = max(start, 0), min(end, size)
        matrix[i, low:high] = 1 / {"all": end - start, "inside": high - low, "nothing": 1}[counted]
    return matrix


def _adaptive_average(size: int, out: int) -> np.ndarray:
    """Row i averages entries ⌊i·size/out⌋ … ⌈(i + 1)·size/out⌉ - 1."""
    matrix = np.zeros((out, size))
    for i in range(out):
        low, high = i * size // out, -(-(i + 1) * size // out)
        matrix[i, low:high] = 1 / (high - low)
    return matrix


def _interpolation(size: int, out: int, step: float, align_corners: bool) -> np.ndarray:
    """Row i mixes the two entries around position i of the output, seen in the input's coordinates."""
    i = np.arange(out)
    if align_corners:
        at = i * ((size - 1) / (out - 1)) if out > 1 else i * 0.0
    else:
        at = np.maximum((i + 0.5) * step - 0.5, 0)
    low = np.minimum(at.astype(int), size - 1)
    high = np.minimum(low + 1, size - 1)
    matrix = np.zeros((out, size))
    np.add.at(matrix, (i, low), 1 - (at - low))
    np.add.at(matrix, (i, high), at - low)
    return matrix


def _output_size(
    spatial: tuple[int, ...], size: Sizes | None, factor: float | Sequence[float] | None
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The output's size, and by what it is scaled, for each axis."""
    if size is not None:
        out = per_axis(size, len(spatial), "interpolate: size")
        return out, tuple(o / max(s, 1) for s, o in zip(spatial, out, strict=True))
    factors = tuple(factor) if isinstance(factor, Sequence) else (float(factor or 0),) * len(spatial)
    if len(factors) != len(spatial):
        raise ValueError(f"interpolate: got scale_factor {factor!r}, expected a number or {len(spatial)} of them")
    return tuple(math.floor(s * f) for s, f in zip(spatial, factors, strict=True)), factors


def _nearest(x: Tensor, size: int, out: int, step: float) -> Tensor:
    """⌊i·step⌋ for every i of the output, rounded as PyTorch does: in x's dtype, but at least float32."""
    precise = np.promote_types(x.dtype, np.float32).type
    source = np.minimum(np.arange(out, dtype=precise) * precise(step), size - 1)
    return wrap(x.B.asarray(source.astype(np.int64)), x.B, None)


@lru_cache(maxsize=256)
def _matrix(build: Callable[..., np.ndarray], B: Backend, dtype: np.dtype, args: tuple) -> Tensor:
    return wrap(B.asarray(build(*args).astype(dtype)), B, None)


def _resample(x: Tensor, build: Callable[..., np.ndarray], axes: list[tuple], *more: Any) -> Tensor:
    """The matrix `build(*axes[i], *more)` applied along spatial axis i, for every i."""
    channel = x.ndim - len(axes) - 1
    y = x.movedim(channel, -1).contiguous()
    for i, args in enumerate(axes, start=channel):
        A = _matrix(build, x.B, x.dtype, (*args, *more))
        before, after = y.shape[:i], y.shape[i + 1 :]
        y = (A @ y.reshape(*before, y.shape[i], math.prod(after))).reshape(*before, A.shape[0], *after)
    return y.movedim(-1, channel)


def _block_mean(x: Tensor, block: tuple[int, ...]) -> Tensor:
    """The mean of each of the blocks that x divides into."""
    channel = x.ndim - len(block) - 1
    sizes = [part for s, k in zip(x.shape[channel + 1 :], block, strict=True) for part in (s // k, k)]
    y = x.movedim(channel, -1).reshape(*x.shape[:channel], *sizes, x.shape[channel])
    return y.mean([channel + 2 * i + 1 for i in range(len(block))]).movedim(-1, channel)


def _block_repeat(x: Tensor, times: tuple[int, ...]) -> Tensor:
    """Every entry repeated `times[i]` times along spatial axis i: the adjoint of a sum over blocks."""
    batch, channels, *spatial = x.shape
    ones = [part for s in spatial for part in (s, 1)]
    spread = [part for s, t in zip(spatial, times, strict=True) for part in (s, t)]
    y = x.movedim(1, -1).reshape(batch, *ones, channels).expand(batch, *spread, channels)
    y = apply(Clone, y, layout="C")  # of a single pixel, the reshape alone would be a view with all values in one place
    return y.reshape(batch, *(s * t for s, t in zip(spatial, times, strict=True)), channels).movedim(-1, 1)

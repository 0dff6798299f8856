"""Convolutions and transposed convolutions over 1, 2 or 3 axes.

Beyond PyTorch, `padding` may be asymmetric: (left, right, top, bottom), one pair per axis from the last
axis to the first, as in `pad`.

`_slope` is of a leaky ReLU to end with; only `minigan.nn.fusion` gives it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minigan.graph import apply
from minigan.kernels.geometry import ConvGeometry
from minigan.nn.functional.arguments import Sizes, expect_ndim, per_axis
from minigan.ops.bias import add_bias
from minigan.ops.conv import Conv, ConvTranspose
from minigan.ops.linear import check_same_dtype
from minigan.tensor import Tensor

Pairs = tuple[tuple[int, int], ...]


def padding_pairs(padding: Sizes | str, kernel: tuple[int, ...], stride: Sizes, dilation: Sizes, name: str) -> Pairs:
    """(before, after) for each spatial axis, from any of the ways to give a convolution's padding.

    >>> padding_pairs("same", (4, 3), 1, 1, "conv2d"), padding_pairs((1, 2, 3, 4), (3, 3), 1, 1, "conv2d")
    (((1, 2), (1, 1)), ((3, 4), (1, 2)))
    """
    ndim = len(kernel)
    if padding == "valid":
        return ((0, 0),) * ndim
    if padding == "same":
        if any(s != 1 for s in per_axis(stride, ndim, f"{name}: stride")):
            raise RuntimeError(f"{name}: padding 'same' needs stride 1, got stride {stride}")
        totals = [d * (k - 1) for d, k in zip(per_axis(dilation, ndim, f"{name}: dilation"), kernel, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    if isinstance(padding, str):
        raise RuntimeError(f"{name}: got padding {padding!r}, expected integers, 'same' or 'valid'")
    if not isinstance(padding, int) and len(padding) == 2 * ndim:
        return tuple((padding[i], padding[i + 1]) for i in range(2 * ndim - 2, -1, -2))
    return tuple((p, p) for p in per_axis(padding, ndim, f"{name}: padding"))


def _conv(
    ndim: int, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Sizes, padding: Sizes | str,
    dilation: Sizes, groups: int, slope: float | None,
) -> Tensor:  # fmt: skip
    name = f"conv{ndim}d"
    if not _checked(name, ndim, input, weight, bias, groups, transposed=False):
        return _conv(ndim, input.unsqueeze(0), weight, bias, stride, padding, dilation, groups, slope).squeeze(0)
    kernel = weight.shape[2:]
    pairs = padding_pairs(padding, kernel, stride, dilation, name)
    geometry = _geometry(
        name, ConvGeometry.conv, input.shape[2:], kernel, stride=per_axis(stride, ndim, f"{name}: stride"),
        padding=pairs, dilation=per_axis(dilation, ndim, f"{name}: dilation"), groups=groups,
    )  # fmt: skip
    return add_bias(apply(Conv, input, weight, geometry=geometry), bias, slope)


def _conv_transpose(
    ndim: int, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Sizes, padding: Sizes,
    output_padding: Sizes, groups: int, dilation: Sizes, slope: float | None,
) -> Tensor:  # fmt: skip
    name = f"conv_transpose{ndim}d"
    if isinstance(padding, str):
        raise RuntimeError(f"{name}: got padding {padding!r}, expected integers")
    if not _checked(name, ndim, input, weight, bias, groups, transposed=True):
        args = stride, padding, output_padding, groups, dilation, slope
        return _conv_transpose(ndim, input.unsqueeze(0), weight, bias, *args).squeeze(0)
    geometry = _geometry(
        name, ConvGeometry.transpose, input.shape[2:], weight.shape[2:],
        stride=per_axis(stride, ndim, f"{name}: stride"),
        padding=padding_pairs(padding, weight.shape[2:], stride, dilation, name),
        output_padding=per_axis(output_padding, ndim, f"{name}: output_padding"),
        dilation=per_axis(dilation, ndim, f"{name}: dilation"), groups=groups,
    )  # fmt: skip
    return add_bias(apply(ConvTranspose, input, weight, geometry=geometry), bias, slope)


def _checked(name: str, ndim: int, x: Tensor, w: Tensor, bias: Tensor | None, groups: int, transposed: bool) -> bool:
    """Whether x is a batch, once everything is known to fit."""
    check_same_dtype(name, x, w, bias)
    if w.ndim != ndim + 2:
        raise RuntimeError(f"{name}: got weight of shape {tuple(w.shape)}, expected {ndim + 2} axes")
    sides = w.shape[0], w.shape[1] * groups
    channels, filters = sides if transposed else sides[::-1]
    batched = expect_ndim(name, x, ndim)
    if x.shape[-ndim - 1] != channels:
        raise RuntimeError(
            f"{name}: got input of shape {tuple(x.shape)} and weight of shape {tuple(w.shape)}: "
            f"expected {channels} input channels, got {x.shape[-ndim - 1]}"
        )
    if bias is not None and bias.shape != (filters,):
        raise RuntimeError(f"{name}: got bias of shape {tuple(bias.shape)}, expected ({filters},)")
    return batched


def _geometry(name: str, make: Callable[..., ConvGeometry], *args: Any, **kwargs: Any) -> ConvGeometry:
    try:
        return make(*args, **kwargs)
    except ValueError as error:
        raise RuntimeError(f"{name}: {str(error).partition(': ')[2]}") from error


def conv1d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1, padding: Sizes | str = 0,
    dilation: Sizes = 1, groups: int = 1, *, _slope: float | None = None,
) -> Tensor:  # fmt: skip
    """The convolution of x (N, C, W) with w (O, C / groups, kW)."""
    return _conv(1, input, weight, bias, stride, padding, dilation, groups, _slope)


def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1, padding: Sizes | str = 0,
    dilation: Sizes = 1, groups: int = 1, *, _slope: float | None = None,
) -> Tensor:  # fmt: skip
    """The convolution of x (N, C, H, W) with w (O, C / groups, kH, kW).

    >>> import minigan as mg
    >>> conv2d(mg.ones(1, 3, 8, 8), mg.ones(5, 3, 4, 4), stride=2, padding=1).shape
    (1, 5, 4, 4)
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups, _slope)


def conv3d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1, padding: Sizes | str = 0,
    dilation: Sizes = 1, groups: int = 1, *, _slope: float | None = None,
) -> Tensor:  # fmt: skip
    """The convolution of x (N, C, D, H, W) with w (O, C / groups, kD, kH, kW)."""
    return _conv(3, input, weight, bias, stride, padding, dilation, groups, _slope)


def conv_transpose1d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1, padding: Sizes = 0,
    output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1, *, _slope: float | None = None,
) -> Tensor:  # fmt: skip
    """The transposed convolution of x (N, C, W) and w (C, O / groups, kW)."""
    return _conv_transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation, _slope)


def conv_transpose2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1, padding: Sizes = 0,
    output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1, *, _slope: float | None = None,
) -> Tensor:  # fmt: skip
    """The transposed convolution of x (N, C, H, W) and w (C, O / groups, kH, kW).

    >>> import minigan as mg
    >>> conv_transpose2d(mg.ones(1, 5, 4, 4), mg.ones(5, 3, 4, 4), stride=2, padding=1).shape
    (1, 3, 8, 8)
    """
    return _conv_transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation, _slope)


def conv_transpose3d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sizes = 1, padding: Sizes = 0,
    output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1, *, _slope: float | None = None,
) -> Tensor:  # fmt: skip
    """The transposed convolution of x (N, C, D, H, W) and w (C, O / groups, kD, kH, kW)."""
    return _conv_transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation, _slope)

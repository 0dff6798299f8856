"""Convolution layers; the functions are in `minigan.nn.functional.conv`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import minigan.nn.functional as F
from minigan.creation import empty
from minigan.nn import init
from minigan.nn.functional.arguments import Sizes, per_axis
from minigan.nn.functional.conv import padding_pairs
from minigan.nn.module import Module
from minigan.nn.parameter import Parameter
from minigan.tensor import Tensor


class _ConvNd(Module):
    """What all six layers share; `_ndim` is the number of spatial axes, `_function` what is computed."""

    _ndim: int
    _function: Callable[..., Tensor]
    _padding_modes: tuple[str, ...] = ("zeros", "reflect", "replicate", "circular")

    def __init__(
        self, in_channels: int, out_channels: int, weight_channels: tuple[int, int], kernel_size: Sizes,
        stride: Sizes, padding: Sizes | str, dilation: Sizes, output_padding: Sizes, groups: int, bias: bool,
        padding_mode: str, device: Any, dtype: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        name = type(self).__name__
        if groups <= 0 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{name}: {in_channels} input and {out_channels} output channels must be divisible by groups {groups}"
            )
        if padding_mode not in self._padding_modes:
            raise ValueError(
                f"{name}: got padding_mode {padding_mode!r}, expected one of {', '.join(self._padding_modes)}"
            )
        n = self._ndim
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = per_axis(kernel_size, n, f"{name}: kernel_size")
        self.stride = per_axis(stride, n, f"{name}: stride")
        self.dilation = per_axis(dilation, n, f"{name}: dilation")
        self.output_padding = per_axis(output_padding, n, f"{name}: output_padding")
        if padding == "same" and any(s != 1 for s in self.stride):
            raise ValueError(f"{name}: padding 'same' needs stride 1, got {self.stride}")
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise ValueError(f"{name}: got padding {padding!r}, expected integers, 'same' or 'valid'")
        self.padding: Sizes | str
        if isinstance(padding, str):
            self.padding = padding
        elif not isinstance(padding, int) and len(padding) == 2 * n:
            self.padding = tuple(padding)
        else:
            self.padding = per_axis(padding, n, f"{name}: padding")
        self._pairs = padding_pairs(self.padding, self.kernel_size, self.stride, self.dilation, name)
        self.padding_mode = padding_mode
        self.weight = Parameter(empty(*weight_channels, *self.kernel_size, device=device, dtype=dtype))
        self.register_parameter("bias", Parameter(empty(out_channels, device=device, dtype=dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight and bias uniform in ±1 / √fan_in, fan_in being weight.shape[1] times the kernel's size."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        fan_in = math.prod(self.weight.shape[1:])
        if self.bias is not None and fan_in:
            init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def _check(self, x: Tensor) -> None:
        if x.ndim not in (self._ndim + 1, self._ndim + 2) or x.shape[-self._ndim - 1] != self.in_channels:
            axes = ", ".join([str(self.in_channels), *"DHW"[-self._ndim :]])
            raise self._shape_error(x, f"(N, {axes}) or ({axes})")

    def extra_repr(self) -> str:
        kernel = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        usual: dict[str, Any] = {
            "padding": (0,) * self._ndim,
            "dilation": (1,) * self._ndim,
            "output_padding": (0,) * self._ndim,
            "groups": 1,
        }
        shown = [f"{name}={getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value]
        shown += ["bias=False"] if self.bias is None else []
        shown += [f"padding_mode={self.padding_mode}"] if self.padding_mode != "zeros" else []
        return ", ".join([kernel, *shown])


class _Conv(_ConvNd):
    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Sizes, stride: Sizes = 1,
        padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1, bias: bool = True,
        padding_mode: str = "zeros", device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels, out_channels, (out_channels, in_channels // max(groups, 1)), kernel_size, stride,
            padding, dilation, 0, groups, bias, padding_mode, device, dtype,
        )  # fmt: skip

    def forward(self, input: Tensor, *, _slope: float | None = None) -> Tensor:
        self._check(input)
        padding: Sizes | str = self.padding
        if self.padding_mode != "zeros":
            widths = [width for pair in reversed(self._pairs) for width in pair]
            input, padding = F.pad(input, widths, self.padding_mode), 0
        return self._function(
            input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups, _slope=_slope
        )


class _ConvTranspose(_ConvNd):
    _padding_modes = ("zeros",)

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Sizes, stride: Sizes = 1, padding: Sizes = 0,
        output_padding: Sizes = 0, groups: int = 1, bias: bool = True, dilation: Sizes = 1,
        padding_mode: str = "zeros", device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        if isinstance(padding, str):
            raise ValueError(f"{type(self).__name__}: got padding {padding!r}, expected integers")
        super().__init__(
            in_channels, out_channels, (in_channels, out_channels // max(groups, 1)), kernel_size, stride,
            padding, dilation, output_padding, groups, bias, padding_mode, device, dtype,
        )  # fmt: skip

    def forward(
        self, input: Tensor, output_size: Sequence[int] | None = None, *, _slope: float | None = None
    ) -> Tensor:  # fmt: skip
        """`output_size`, the spatial one or the whole shape, takes the place of `output_padding`."""
        self._check(input)
        extra = self.output_padding if output_size is None else self._extra(input, list(output_size))
        return self._function(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation,
            _slope=_slope,
        )  # fmt: skip

    def _extra(self, x: Tensor, wanted: list[int]) -> tuple[int, ...]:
        """The output padding that gives the wanted output size."""
        n = self._ndim
        if len(wanted) == x.ndim:
            wanted = wanted[-n:]
        if len(wanted) != n:
            raise ValueError(f"{self._title()}: got output_size {wanted}, expected {n} or {x.ndim} sizes")
        smallest = [
            (size - 1) * s - before - after + d * (k - 1) + 1
            for size, s, (before, after), d, k in zip(
                x.shape[-n:], self.stride, self._pairs, self.dilation, self.kernel_size, strict=True
            )
        ]
        extra = tuple(w - least for w, least in zip(wanted, smallest, strict=True))
        if any(not 0 <= e < s for e, s in zip(extra, self.stride, strict=True)):
            largest = [least + s - 1 for least, s in zip(smallest, self.stride, strict=True)]
            raise ValueError(
                f"{self._title()}: got output_size {wanted} for input of shape {tuple(x.shape)}, "
                f"expected {smallest} to {largest}"
            )
        return extra


class Conv1d(_Conv):
    """Convolution of (N, C, W) or (C, W); weight (out_channels, in_channels / groups, kW)."""

    _ndim, _function = 1, staticmethod(F.conv1d)


class Conv2d(_Conv):
    """Convolution of (N, C, H, W) or (C, H, W); weight (out_channels, in_channels / groups, kH, kW).

    Beyond PyTorch, `padding` may be (left, right, top, bottom).

    >>> import minigan as mg
    >>> Conv2d(3, 8, 4, stride=2, padding=1)(mg.zeros(1, 3, 32, 32)).shape
    (1, 8, 16, 16)
    >>> Conv2d(3, 8, 3, padding=(1, 0, 1, 0))(mg.zeros(1, 3, 32, 32)).shape
    (1, 8, 31, 31)
    """

    _ndim, _function = 2, staticmethod(F.conv2d)


class Conv3d(_Conv):
    """Convolution of (N, C, D, H, W) or (C, D, H, W); weight (out_channels, in_channels / groups, kD, kH, kW)."""

    _ndim, _function = 3, staticmethod(F.conv3d)


class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution of (N, C, W) or (C, W); weight (in_channels, out_channels / groups, kW)."""

    _ndim, _function = 1, staticmethod(F.conv_transpose1d)


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution of (N, C, H, W) or (C, H, W); weight (in_channels, out_channels / groups, kH, kW).

    Beyond PyTorch, `padding` may be (left, right, top, bottom): what is cropped from each side.

    >>> import minigan as mg
    >>> ConvTranspose2d(8, 3, 4, stride=2, padding=1)(mg.zeros(1, 8, 16, 16)).shape
    (1, 3, 32, 32)
    """

    _ndim, _function = 2, staticmethod(F.conv_transpose2d)


class ConvTranspose3d(_ConvTranspose):
    """Transposed convolution of (N, C, D, H, W); weight (in_channels, out_channels / groups, kD, kH, kW)."""

    _ndim, _function = 3, staticmethod(F.conv_transpose3d)

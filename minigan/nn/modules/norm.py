"""Normalisation layers; the functions are in `minigan.nn.functional.norm`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import minigan.nn.functional as F
from minigan import dtypes
from minigan.creation import empty, ones, tensor, zeros
from minigan.nn import init
from minigan.nn.module import Module
from minigan.nn.parameter import Parameter
from minigan.tensor import Tensor


class _Affine(Module):
    """A layer that ends in y·weight + bias, if `shape` is given."""

    def _add_affine(self, shape: tuple[int, ...] | None, bias: bool, device: Any, dtype: Any) -> None:
        def parameter(wanted: bool) -> Parameter | None:
            return Parameter(empty(shape, device=device, dtype=dtype)) if wanted else None

        self.register_parameter("weight", parameter(shape is not None))
        self.register_parameter("bias", parameter(shape is not None and bias))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)


class _RunningNorm(_Affine):
    """Base of batch and instance norm: per-channel parameters and running statistics."""

    _axes: tuple[int, ...]  # the numbers of axes an input may have
    _optional = ("num_batches_tracked",)  # absent from older files

    def __init__(
        self, num_features: int, eps: float, momentum: float | None, affine: bool, track_running_stats: bool,
        device: Any, dtype: Any, bias: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        place = {"device": device, "dtype": dtype}
        tracked = track_running_stats
        self.register_buffer("running_mean", zeros(num_features, **place) if tracked else None)
        self.register_buffer("running_var", ones(num_features, **place) if tracked else None)
        self.register_buffer("num_batches_tracked", tensor(0, dtype=dtypes.int64, device=device) if tracked else None)
        self._add_affine((num_features,) if affine else None, bias, device, dtype)

    def reset_running_stats(self) -> None:
        """Forget the running statistics: mean 0, variance 1."""
        if self.track_running_stats:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, and no running statistics."""
        self.reset_running_stats()
        super().reset_parameters()

    def _check_ndim(self, x: Tensor) -> None:
        if x.ndim not in self._axes:
            expected = " or ".join(f"{n}D" for n in self._axes)
            raise ValueError(f"{self._title()}: expected {expected} input, got {x.ndim}D of shape {tuple(x.shape)}")

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_RunningNorm):
    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, device: Any = None, dtype: Any = None, *, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def forward(self, input: Tensor, *, _slope: float | None = None) -> Tensor:
        self._check_ndim(input)
        if input.shape[1] != self.num_features:
            raise self._shape_error(input, f"{self.num_features} channels (axis 1)")
        momentum, tracked = self.momentum, self.num_batches_tracked if self.training else None
        if momentum is None and tracked is not None:  # every batch so far counts alike
            tracked.array += 1
            tracked._bump("BatchNorm")
            momentum, tracked = 1 / tracked.item(), None
        by_batch = self.training or self.running_mean is None
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, by_batch, momentum or 0.0, self.eps,
            _slope=_slope, _tracked=tracked,
        )  # fmt: skip


class BatchNorm1d(_BatchNorm):
    """Normalises each channel of (N, C) or (N, C, L) over all other axes."""

    _axes = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Normalises each channel of (N, C, H, W) over the batch and the image; in `eval`, by running statistics.

    >>> import minigan as mg
    >>> y = BatchNorm2d(2)(mg.randn(4, 2, 3, 3))
    >>> y.mean((0, 2, 3)).abs().max().item() < 1e-5
    True
    """

    _axes = (4,)


class BatchNorm3d(_BatchNorm):
    """Normalises each channel of (N, C, D, H, W) over all other axes."""

    _axes = (5,)


class _InstanceNorm(_RunningNorm):
    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = False,
        track_running_stats: bool = False, device: Any = None, dtype: Any = None, *, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def forward(self, input: Tensor) -> Tensor:
        self._check_ndim(input)
        if input.ndim == self._axes[0]:
            return self.forward(input.unsqueeze(0)).squeeze(0)
        if input.shape[1] != self.num_features:
            error = self._shape_error(input, f"{self.num_features} channels (axis 1)")
            if self.affine or self.track_running_stats:
                raise ValueError(*error.args)
            warnings.warn(f"{error}; it does not matter to this layer, which keeps nothing per channel", stacklevel=3)
        return F.instance_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias,
            self.training or not self.track_running_stats, self.momentum or 0.0, self.eps,
        )  # fmt: skip


class InstanceNorm1d(_InstanceNorm):
    """Normalises each channel of each sample of (N, C, L) or (C, L) over L."""

    _axes = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Normalises each channel of each image of (N, C, H, W) or (C, H, W) over the image."""

    _axes = (3, 4)


class LayerNorm(_Affine):
    """Normalises each sample over its last axes, of sizes `normalized_shape`.

    >>> LayerNorm(4)
    LayerNorm((4,), eps=1e-05, elementwise_affine=True, bias=True)
    """

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float = 1e-5, elementwise_affine: bool = True,
        bias: bool = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self._add_affine(self.normalized_shape if elementwise_affine else None, bias, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[-len(self.normalized_shape) :] != self.normalized_shape:
            raise self._shape_error(input, f"(…, {', '.join(map(str, self.normalized_shape))})")
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        affine = f"elementwise_affine={self.elementwise_affine}, bias={self.bias is not None}"
        return f"{self.normalized_shape}, eps={self.eps}, {affine}"


class GroupNorm(_Affine):
    """Normalises each sample over groups of neighbouring channels and all spatial axes."""

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, device: Any = None,
        dtype: Any = None, *, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(f"GroupNorm: {num_channels} channels do not divide into {num_groups} groups")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self._add_affine((num_channels,) if affine else None, bias, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim < 2 or input.shape[1] != self.num_channels:
            raise self._shape_error(input, f"(N, {self.num_channels}, …)")
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        affine = f"affine={self.affine}, bias={self.bias is not None}"
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, {affine}"

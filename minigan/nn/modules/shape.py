"""Layers that move values without changing them: Flatten, PixelShuffle, padding."""

from __future__ import annotations

from collections.abc import Sequence

import minigan.nn.functional as F
from minigan.nn.functional.arguments import Sizes, per_axis
from minigan.nn.module import Module
from minigan.tensor import Tensor


class Flatten(Module):
    """Axes start_dim … end_dim merged into one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:
        return input.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Axis `dim` split into `unflattened_size`.

    >>> import minigan as mg
    >>> Unflatten(1, (3, 4, 4))(mg.zeros(2, 48)).shape
    (2, 3, 4, 4)
    """

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, input: Tensor) -> Tensor:
        return input.unflatten(self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class PixelShuffle(Module):
    """(…, C·r², H, W) as (…, C, H·r, W·r)."""

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input: Tensor) -> Tensor:
        return F.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """(…, C, H·r, W·r) as (…, C·r², H, W)."""

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input: Tensor) -> Tensor:
        return F.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


class _Pad2d(Module):
    """A border around (N, C, H, W) or (C, H, W): one width, or (left, right, top, bottom)."""

    _axes: tuple[str, ...] = ("H", "W")
    _mode: str
    value: float | None = None

    def __init__(self, padding: Sizes) -> None:
        super().__init__()
        self.padding = per_axis(padding, 2 * len(self._axes), f"{type(self).__name__}: padding")

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim - len(self._axes) not in (1, 2):
            sizes = ", ".join(self._axes)
            raise self._shape_error(input, f"(N, C, {sizes}) or (C, {sizes})")
        return F.pad(input, self.padding, self._mode, self.value)

    def extra_repr(self) -> str:
        return str(self.padding)


class ConstantPad2d(_Pad2d):
    """A border of one value; negative widths crop."""

    _mode = "constant"

    def __init__(self, padding: Sizes, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ZeroPad2d(ConstantPad2d):
    """A border of zeros; negative widths crop.

    >>> import minigan as mg
    >>> ZeroPad2d((1, 0, 1, 0))(mg.ones(1, 1, 1, 1))
    tensor([[[[0., 0.],
              [0., 1.]]]])
    """

    def __init__(self, padding: Sizes) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return str(self.padding)


class ReflectionPad2d(_Pad2d):
    """A border that mirrors the image at its edge pixels."""

    _mode = "reflect"


class ReflectionPad1d(ReflectionPad2d):
    """A border of (N, C, L) or (C, L) that mirrors the sequence at its ends."""

    _axes = ("L",)


class ReplicationPad2d(_Pad2d):
    """A border that repeats the edge pixels."""

    _mode = "replicate"

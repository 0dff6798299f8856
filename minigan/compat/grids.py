"""`torchvision.utils`: pictures of batches, pixel for pixel as torchvision draws them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, BinaryIO

from minigan.creation import full
from minigan.dtypes import uint8
from minigan.grad_mode import no_grad
from minigan.ops.shape import cat, stack
from minigan.tensor import Tensor


@no_grad()
def make_grid(
    tensor: Tensor | Sequence[Tensor],
    nrow: int = 8,
    padding: int = 2,
    normalize: bool = False,
    value_range: tuple[float, float] | None = None,
    scale_each: bool = False,
    pad_value: float = 0.0,
    range: tuple[float, float] | None = None,
) -> Tensor:
    """Images side by side, `nrow` in a row, as one image of 3 channels. `range` is the older name of `value_range`.

    >>> import minigan as mg
    >>> make_grid(mg.rand(5, 1, 28, 28), nrow=3).shape
    (3, 62, 92)
    """
    images = tensor if isinstance(tensor, Tensor) else stack(list(tensor))
    if not 2 <= images.ndim <= 4:
        raise ValueError(f"make_grid: got a tensor of shape {images.shape}, expected (N, C, H, W), (C, H, W) or (H, W)")
    images = images.detach()[(None,) * (4 - images.ndim)] if images.ndim < 4 else images.detach()
    if images.shape[1] == 1:
        images = cat([images] * 3, 1)
    if normalize:
        limits = value_range or range
        images = stack([_to_unit(image, limits) for image in images]) if scale_each else _to_unit(images, limits)
    if len(images) == 1:
        return images[0]
    columns = min(nrow, len(images))
    rows = math.ceil(len(images) / columns)
    channels, height, width = images.shape[1:]
    size = (channels, rows * (height + padding) + padding, columns * (width + padding) + padding)
    grid = full(size, pad_value, dtype=images.dtype, device=images.device)
    for i, image in enumerate(images):
        top = (i // columns) * (height + padding) + padding
        left = (i % columns) * (width + padding) + padding
        grid[:, top : top + height, left : left + width] = image
    return grid


def _to_unit(images: Tensor, limits: tuple[float, float] | None) -> Tensor:
    """The values between the limits (or between the extremes), as 0 to 1."""
    low, high = limits or (float(images.min()), float(images.max()))
    return (images.clamp(low, high) - low) / max(high - low, 1e-5)


@no_grad()
def save_image(
    tensor: Tensor | Sequence[Tensor],
    fp: str | os.PathLike | BinaryIO,
    format: str | None = None,
    **kwargs: Any,
) -> None:
    """Write the grid of a batch, values from 0 to 1, to an image file; `kwargs` are `make_grid`'s."""
    from PIL import Image

    grid = make_grid(tensor, **kwargs)
    pixels = (grid * 255 + 0.5).clamp(0, 255).permute(1, 2, 0).cpu().to(uint8).numpy()
    Image.fromarray(pixels).save(fp, format=format)

"""Pooling and upsampling of images [N, H, W, C] on the device, each with its gradient.

What `minigan.nn.functional` calls with channels first has them last in memory: these functions take that memory. Output
sizes and steps come from the caller, who knows PyTorch's rules for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "Pooling", "average_pool", "average_pool_backward", "max_pool", "max_pool_backward", "upsample",
    "upsample_backward",
]  # fmt: skip

Array = Any  # of NumPy or CuPy
Pair = tuple[int, int]

THREADS = 256
MOST_BLOCKS = 2048
MODES = ("nearest", "linear", "aligned")  # as `Mode` in image.cu


@dataclass(frozen=True)
class Pooling:
    """Windows over images: each pair is of rows and columns. A kernel of (0, 0) is adaptive, and has no strides.

    `padded`: whether entries of the padding count in a mean; `divisor`: what to divide by instead, if not 0.
    """

    size: Pair
    out: Pair
    kernel: Pair = (0, 0)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    padded: bool = True
    divisor: float = 0.0


def max_pool(device: Any, x: Array, pooling: Pooling) -> tuple[Array, Array]:
    """The largest value of each window, and where it is, row·width + column, as int32: the first, where some are equal.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> x = np.arange(4, dtype=np.float32).reshape(1, 2, 2, 1)
    >>> [found.item() for found in max_pool(EmulatedDevice(), x, Pooling((2, 2), (1, 1), (2, 2)))]
    [3.0, 3]
    """
    y = device.empty(_shape(x, pooling.size, pooling.out), np.float32)
    places = device.empty(y.shape, np.int32)
    windows = [*pooling.kernel, *pooling.stride, *pooling.padding, *pooling.dilation]
    _launch(device, "pool_max_forward", [x, y, places], x, y, windows, y)
    return y, places


def max_pool_backward(device: Any, gy: Array, places: Array, pooling: Pooling) -> Array:
    """The gradient of `max_pool`'s input."""
    gx = device.empty(_shape(gy, pooling.out, pooling.size), np.float32)
    windows = [*pooling.kernel, *pooling.stride, *pooling.padding, *pooling.dilation]
    _launch(device, "pool_max_backward", [gy, places, gx], gx, gy, windows, gx)
    return gx


def average_pool(device: Any, x: Array, pooling: Pooling) -> Array:
    """The mean of each window."""
    y = device.empty(_shape(x, pooling.size, pooling.out), np.float32)
    _launch(device, "pool_average_forward", [x, y], x, y, _means(pooling), y)
    return y


def average_pool_backward(device: Any, gy: Array, pooling: Pooling) -> Array:
    """The gradient of `average_pool`'s input."""
    gx = device.empty(_shape(gy, pooling.out, pooling.size), np.float32)
    _launch(device, "pool_average_backward", [gy, gx], gx, gy, _means(pooling), gx)
    return gx


def upsample(device: Any, x: Array, out: Pair, steps: tuple[float, float], mode: str) -> Array:
    """Resized to `out`; a step of the output is one of `steps` in the input. Modes: 'nearest', 'linear', 'aligned'.

    'linear' is PyTorch's bilinear with align_corners=False, 'aligned' that with True.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> x = np.array([0, 4], np.float32).reshape(1, 1, 2, 1)
    >>> upsample(EmulatedDevice(), x, (1, 4), (1, 0.5), "linear").ravel()
    array([0., 1., 3., 4.], dtype=float32)
    """
    y = device.empty(_shape(x, x.shape[1:3], out), np.float32)
    _launch(device, "upsample_forward", [x, y], x, y, [*steps, _mode(mode)], y)
    return y


def upsample_backward(device: Any, gy: Array, size: Pair, steps: tuple[float, float], mode: str) -> Array:
    """The gradient of `upsample`'s input, whose size it was."""
    gx = device.empty(_shape(gy, gy.shape[1:3], size), np.float32)
    _launch(device, "upsample_backward", [gy, gx], gx, gy, [*steps, _mode(mode)], gx)
    return gx


def _means(pooling: Pooling) -> list[Any]:
    if pooling.dilation != (1, 1):
        raise ValueError(f"average_pool: got dilation {pooling.dilation}, expected (1, 1)")
    return [*pooling.kernel, *pooling.stride, *pooling.padding, int(pooling.padded), float(pooling.divisor)]


def _mode(mode: str) -> int:
    if mode not in MODES:
        raise ValueError(f"upsample: got mode {mode!r}, expected one of {MODES}")
    return MODES.index(mode)


def _shape(x: Array, size: Pair, other: Pair) -> tuple[int, ...]:
    """Of the other image, where x has that size."""
    if len(x.shape) != 4 or tuple(x.shape[1:3]) != tuple(size):
        raise ValueError(f"image: got shape {x.shape}, expected [N, {size[0]}, {size[1]}, C]")
    return x.shape[0], *other, x.shape[3]


def _launch(
    device: Any, kernel: str, arrays: list[Array], image: Array, out: Array, numbers: list[Any], of: Array
) -> None:
    """A thread for each value of `of`, or for four channels of it where they are aligned."""
    if not of.size:
        return
    sizes = [image.shape[0], image.shape[3], *image.shape[1:3], *out.shape[1:3]]
    four = of.shape[3] % 4 == 0 and all(device.address(array) % 16 == 0 for array in arrays)
    blocks = min(-(-(of.size // (4 if four else 1)) // THREADS), MOST_BLOCKS)
    device.launch("image", kernel, (blocks,), (THREADS,), [*arrays, *sizes, *numbers, int(four)])

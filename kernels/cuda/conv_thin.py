"""The convolutions of a grey or coloured image with another of more channels, `conv_thin.cu`: their grids and tiles."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .conv import Shape

__all__ = ["fits_colours", "launch_colours", "parts_of_colours", "sum_colours", "wasteful"]

Array = Any

PIXELS, FILTERS, TAPS = 128, 64, 16  # of a tile: as the kernels have them
ROWS, COLUMNS = 32, 64  # of a tile of the input gradient
THREADS = 128
PARTS = 3 * 132  # blocks that an H100 runs at a time; a constant, so that sums are made in the same order on every GPU
MOST_SHARED = 48 << 10  # bytes that every GPU has for a block without being asked


def fits_colours(op: str, shape: Shape) -> bool:
    """Whether the kernels compute a convolution of images."""
    if shape.groups > 1 or shape.channels not in (1, 3) or shape.filters % 8:
        return False
    if op != "transpose":
        return _shared(op, shape) <= MOST_SHARED
    plain = shape.kernel[1:] == (4, 4) and shape.stride[1:] == (2, 2) and shape.dilation[1:] == (1, 1)
    return plain and all(pad % 2 for pad in shape.pad[1:]) and shape.input[2] % 4 == 0


def wasteful(op: str, shape: Shape) -> bool:
    """Whether less than a quarter of the tiles' pixels are in the image."""
    size, tile = (shape.input, ROWS * COLUMNS) if op == "transpose" else (shape.output, PIXELS)
    return shape.batch * prod(size) * 4 < _tiles(op, shape) * tile


def parts_of_colours(op: str, shape: Shape) -> int:
    """How many blocks have each a part of the pixels of a weight gradient."""
    return max(1, min(_tiles(op, shape), PARTS // prod(_columns(op, shape)))) if op == "weight" else 1


def launch_colours(device: Any, op: str, splits: int, shape: Shape, operands: Sequence[Array], out: Array) -> None:
    """Into `out`; of a weight gradient, in `splits` parts."""
    grid = (splits if op == "weight" else _tiles(op, shape), *_columns(op, shape))
    arguments = [*operands, out, *shape.arguments(2), *([] if op == "transpose" else [_shift(shape)])]
    device.launch("conv_thin", f"conv_{op}_colours", grid, (THREADS,), arguments, _shared(op, shape))


def sum_colours(device: Any, parts: Array, w: Array, rows: int, channels: int, taps: int) -> None:
    """All parts [taps][channels][rows] together as w [rows][channels][taps]."""
    arguments = [parts, w, len(parts), rows, channels, taps]
    device.launch("conv_thin", "conv_weight_colours_sum", (-(-w.size // 32),), (256,), arguments)


def _shift(shape: Shape) -> int:
    """Columns of a tile of y as a power of 2."""
    return 5 if shape.output[2] > 16 else 4 if shape.output[2] > 8 else 3


def _tiles(op: str, shape: Shape) -> int:
    """Of pixels."""
    columns = 1 << _shift(shape)
    (_, height, width), rows = (shape.input, ROWS) if op == "transpose" else (shape.output, PIXELS // columns)
    return shape.batch * -(-height // rows) * -(-width // (COLUMNS if op == "transpose" else columns))


def _columns(op: str, shape: Shape) -> tuple[int, ...]:
    """Tiles of filters, and of the weight gradient also those of taps."""
    filters, taps = -(-shape.filters // FILTERS), -(-prod(shape.kernel) // TAPS)
    return () if op == "transpose" else (filters, taps) if op == "weight" else (filters,)


def _shared(op: str, shape: Shape) -> int:
    """Bytes of dynamic shared memory: of the window of x, four values a pixel, and of what the kernel has beside it."""
    if op == "transpose":
        return 0
    columns = 1 << _shift(shape)
    window = 16
    for tile, axis in ((PIXELS // columns, 1), (columns, 2)):
        window *= (tile - 1) * shape.stride[axis] + (shape.kernel[axis] - 1) * abs(shape.dilation[axis]) + 1
    if op == "weight":
        return max(window, 2 * 16 * FILTERS * 4)
    return window + prod(shape.kernel) * shape.channels * (FILTERS + 4) * 4

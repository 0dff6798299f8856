"""Samples as pictures: sheets of images, scatter pictures of points, walks through latent space, PNG and GIF files.

A picture is a uint8 array (height, width, channels) with 1 or 3 channels. Everything here is host code on NumPy;
Pillow only encodes the files. Curves are in `curves.py`.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minigan.creation import from_numpy
from minigan.data.source import Data
from minigan.files import write_atomically
from minigan.grad_mode import no_grad
from minigan.tensor import Tensor

GAP = 32  # grey level between the images of a sheet: sets them apart on black digits and on photographs
RED = np.array([255, 0, 0], np.uint8)  # marks NaN
SIDE = 400  # pixels of a scatter picture
SHOWN = 2500  # points of the data in a scatter picture: more would not be seen
PAPER, GREY, ORANGE, BLUE = (255.0, 255.0, 255.0), (96.0, 104.0, 116.0), (225.0, 84.0, 20.0), (38.0, 92.0, 190.0)


def host(values: Tensor | np.ndarray) -> np.ndarray:
    """The array of a tensor on any device, or the array itself."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def image_grid(
    samples: Tensor | np.ndarray, columns: int | None = None, padding: int = 2, scale: int = 1
) -> np.ndarray:
    """One sheet of N images (N, C, H, W) in [-1, 1], row by row; as near to a square as it goes if `columns` is None.

    Values outside [-1, 1] are clipped; NaN becomes red. `scale` repeats each pixel.

    >>> import minigan as mg
    >>> image_grid(mg.zeros(5, 1, 28, 28)).shape  # 2 rows of 3
    (62, 92, 1)
    """
    images = host(samples)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(f"image_grid: got shape {images.shape}, expected (N ≥ 1, 1 or 3 channels, height, width)")
    if columns is not None and columns < 1:
        raise ValueError(f"image_grid: got columns={columns}, expected at least 1")
    levels = np.rint(np.clip(np.nan_to_num(images, nan=0.0), -1, 1) * 127.5 + 127.5).astype(np.uint8)
    pixels = levels.transpose(0, 2, 3, 1)
    lost = np.isnan(images).any(1)
    if lost.any():
        pixels = np.where(lost[..., None], RED, pixels)
    pixels = pixels.repeat(scale, 1).repeat(scale, 2)
    count, height, width, channels = pixels.shape
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = -(-count // columns)
    cell_height, cell_width = height + padding, width + padding
    sheet = np.full((rows * cell_height + padding, columns * cell_width + padding, channels), GAP, np.uint8)
    for index, image in enumerate(pixels):
        top, left = index // columns * cell_height + padding, index % columns * cell_width + padding
        sheet[top : top + height, left : left + width] = image
    return sheet


def scatter(
    points: Tensor | np.ndarray,
    modes: np.ndarray | None = None,
    limits: tuple[float, float, float, float] | None = None,
    real: np.ndarray | None = None,
) -> np.ndarray:
    """A square picture of points (N, 2): samples in orange over the real points in grey, modes circled in blue.

    `limits` is (left, right, bottom, top); without it, a square about the real points (else the modes, else the
    samples). Points outside are drawn on the border, so that none goes unseen; NaN is left out.

    >>> import numpy as np
    >>> scatter(np.zeros((10, 2)), limits=(-1, 1, -1, 1)).shape
    (400, 400, 3)
    """
    shown = plane(host(points))
    real = None if real is None else plane(real[:: -(-len(real) // SHOWN) or 1])
    if limits is None:
        limits = square_about(next((p for p in (real, modes, shown) if p is not None and len(p)), shown))
    picture = np.broadcast_to(PAPER, (SIDE, SIDE, 3))
    if real is not None:
        picture = paint(picture, GREY, 0.2 * coverage(real, limits, radius=2))
    if modes is not None:
        picture = paint(picture, BLUE, coverage(plane(modes), limits, radius=12, hole=10.8))
    picture = paint(picture, ORANGE, 0.5 * coverage(shown, limits, radius=1.6))
    return np.rint(picture).astype(np.uint8)


def plane(points: np.ndarray) -> np.ndarray:
    """The first two coordinates (the second is 0 where there is one only) of the points that are finite there."""
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(f"scatter: got points of shape {points.shape}, expected (N, 2)")
    points = points[:, :2].astype(np.float64)
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    return points[np.isfinite(points).all(1)]


def square_about(points: np.ndarray) -> tuple[float, float, float, float]:
    """(left, right, bottom, top) of a square that holds the points, with a margin."""
    if len(points) == 0:
        return -1.0, 1.0, -1.0, 1.0
    low, high = points.min(0), points.max(0)
    (x, y), half = (low + high) / 2, 0.65 * max(float((high - low).max()), 1e-6)
    return x - half, x + half, y - half, y + half


def coverage(
    points: np.ndarray, limits: tuple[float, float, float, float], radius: float, hole: float = 0.0
) -> np.ndarray:
    """How many discs (rings, with a hole) of this radius in pixels cover each pixel; edges count in part."""
    left, right, bottom, top = limits
    place = np.stack([(points[:, 0] - left) / (right - left), (top - points[:, 1]) / (top - bottom)], 1)
    place = np.clip(place, 0, 1) * (SIDE - 1)
    reach = math.ceil(radius)
    corner = np.rint(place).astype(np.int64)
    offset = np.stack(np.meshgrid(*2 * [np.arange(-reach, reach + 1)]), -1).reshape(-1, 2)
    pixel = corner[:, None] + offset  # (N, pixels of the stamp, 2)
    distance = np.sqrt(((pixel - place[:, None]) ** 2).sum(-1))
    weight = np.clip(radius + 0.5 - distance, 0, 1) - np.clip(hole + 0.5 - distance, 0, 1) * (hole > 0)
    inside = ((pixel >= 0) & (pixel < SIDE)).all(-1)
    flat = pixel[inside] @ np.array([1, SIDE])
    return np.bincount(flat, weight[inside], SIDE * SIDE).reshape(SIDE, SIDE)


def paint(picture: np.ndarray, colour: tuple[float, float, float], amount: np.ndarray) -> np.ndarray:
    """Lay `amount` coats of a colour over the picture: opacity is 1 - exp(-amount), so that density shows as shade."""
    opacity = -np.expm1(-2 * amount)[..., None]
    return picture + opacity * (colour - picture)


def sample_picture(samples: Tensor | np.ndarray, data: Data) -> np.ndarray:
    """Samples of the kind that `data` holds: a sheet of images, or points over the real ones.

    >>> import minigan as mg, numpy as np
    >>> sample_picture(mg.zeros(4, 2), Data("dots", np.eye(2, dtype=np.float32))).shape
    (400, 400, 3)
    """
    if not data.images:
        return scatter(samples, real=data.values)
    return image_grid(samples, scale=max(1, 64 // data.shape[1]))


def slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """The point at share t of the way from a to b along the arc between them (each last axis is one vector).

    With u = a/|a|, v the part of b/|b| perpendicular to u, and ω the angle between: the direction is
    cos(tω) u + sin(tω) v/|v|, the length (1-t)|a| + t|b|. A straight line would pass through the middle, where a
    generator trained on normal latents has seen nothing. Opposite ends have no one arc: any is taken.

    >>> import numpy as np
    >>> slerp(np.array([2.0, 0.0]), np.array([0.0, 2.0]), 0.5).round(3)
    array([1.414, 1.414])
    """
    ends = np.stack(np.broadcast_arrays(a, b)).astype(np.float64)
    length = np.linalg.norm(ends, axis=-1, keepdims=True)
    u, w = unit(ends)
    along = (u * w).sum(-1, keepdims=True)
    v = w - along * u
    angle = np.arctan2(np.linalg.norm(v, axis=-1, keepdims=True), along)
    axis = np.eye(u.shape[-1])[np.abs(u).argmin(-1)]  # far from u, so what is perpendicular of it is not rounding noise
    sideways = axis - (axis * u).sum(-1, keepdims=True) * u
    v = unit(np.where(np.linalg.norm(v, axis=-1, keepdims=True) > 1e-6, v, sideways))
    point = ((1 - t) * length[0] + t * length[1]) * (np.cos(t * angle) * u + np.sin(t * angle) * v)
    return point.astype(np.result_type(a, b, np.float32))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1 in the same directions; zero stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)


def walk(
    G: Callable[[Tensor], Tensor],
    latents: Tensor,
    frames: int,
    picture: Callable[[Tensor], np.ndarray] = image_grid,
) -> np.ndarray:
    """Pictures (frames, height, width, channels) of a closed walk along arcs through k latents, back to the first.

    `latents` is (k, latent) for one image, or (k, n, latent) for n that walk at once on one sheet. G is used as it
    is: put it in eval mode.

    >>> import minigan as mg
    >>> G = mg.nn.Sequential(mg.nn.Linear(8, 16), mg.nn.Tanh(), mg.nn.Unflatten(1, (1, 4, 4)))
    >>> walk(G, mg.randn(3, 5, 8), frames=12).shape
    (12, 14, 20, 1)
    """
    stops = host(latents)
    if stops.ndim not in (2, 3) or len(stops) == 0 or frames < 1:
        raise ValueError(
            f"walk: got latents of shape {stops.shape} and {frames} frames, expected (k ≥ 1, latent) or "
            "(k ≥ 1, n, latent) and at least 1 frame"
        )
    stops = stops[:, None] if stops.ndim == 2 else stops
    pictures = []
    with no_grad():
        for frame in range(frames):
            stop, t = divmod(frame * len(stops) / frames, 1)
            z = slerp(stops[int(stop)], stops[(int(stop) + 1) % len(stops)], t)
            pictures.append(picture(G(from_numpy(z).to(latents.device))))
    return np.stack(pictures)


def save_png(picture: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Write a picture (height, width, 1 or 3 channels) as PNG: complete, or not at all.

    >>> import numpy as np, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_png(np.zeros((2, 3, 1), np.uint8), pathlib.Path(folder) / "black.png")
    """
    buffer = io.BytesIO()
    encoded(picture).save(buffer, "PNG", optimize=True)
    write_atomically(path, buffer.getvalue())


def save_animation(frames: Sequence[np.ndarray] | np.ndarray, path: str | os.PathLike[str], pause: int = 80) -> None:
    """Write pictures as an endless animation: GIF for `.gif`, animated PNG for `.png` or `.apng`; pause in ms.

    The same frames give the same bytes. Equal neighbours are stored once, and shown for as long.

    >>> import numpy as np, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_animation(np.array([[[[0]]], [[[255]]]], np.uint8), pathlib.Path(folder) / "blink.gif")
    """
    kinds = {".gif": "GIF", ".png": "PNG", ".apng": "PNG"}
    suffix = Path(path).suffix.lower()
    if suffix not in kinds:
        raise ValueError(f"save_animation: got {str(path)!r}, expected a name that ends in {', '.join(kinds)}")
    if len(frames) == 0:
        raise ValueError("save_animation: got no frames, expected at least one")
    first, *others = [encoded(frame) for frame in frames]
    buffer = io.BytesIO()
    first.save(buffer, kinds[suffix], save_all=True, append_images=others, duration=pause, loop=0)
    write_atomically(path, buffer.getvalue())


def encoded(picture: np.ndarray) -> Any:
    """The picture as Pillow's image: grey or RGB."""
    from PIL import Image  # here, so that minigan itself does not load it

    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 3):
        raise ValueError(
            f"a picture is uint8 (height, width, 1 or 3 channels): got {picture.dtype} of shape {picture.shape}"
        )
    return Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)

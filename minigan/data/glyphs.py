"""Digits drawn from strokes: images like handwritten ones, with nothing to download and every factor known.

A shape is a few pen strokes through control points. The points are jittered, slanted, rotated, scaled and shifted;
a Catmull-Rom curve through them, cut into short pieces, is the pen's path. Glyph i depends on (seed, i) alone.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import numpy as np

from minigan.data.source import Data

_PIECES = 48  # of one glyph's path; each is at most about a pixel long at 28 × 28
_DRAWS = 48  # random numbers for one glyph, in eights: 9 for label and factors, 2 for each of ≤ 19 control points
_CHUNK = 250  # glyphs drawn at once: what a processor's cache holds

# One line per shape: digit, then strokes of points "x,y" in hundredths of half the digit's height, y downwards.
# Strokes that name the same point share it; one that ends where it began is a closed curve.
_SHAPES = """
0 0,-98 -44,-60 -56,0 -44,62 0,98 44,62 56,0 44,-60 0,-98
0 8,-98 -34,-70 -52,0 -34,74 2,98 36,58 44,-6 30,-70 -10,-92
1 2,-98 0,0 -2,98
1 -34,-56 -10,-74 8,-98 | 8,-98 6,0 4,98
1 -32,-60 -8,-76 6,-98 | 6,-98 4,0 2,94 | -38,94 2,94 42,94
2 -50,-58 -30,-90 8,-98 44,-74 38,-28 2,22 -54,92 | -54,92 0,88 56,92
2 -46,-64 -20,-96 22,-92 44,-54 22,0 -18,56 -46,84 -52,58 -24,56 12,82 58,82
2 -52,-50 -34,-84 4,-98 40,-80 44,-40 20,0 -24,44 -54,94 | -54,94 58,94
3 -46,-76 -12,-98 30,-88 38,-48 8,-14 -14,-6 | -14,-6 30,4 48,44 24,88 -18,98 -52,72
3 -48,-92 0,-94 46,-92 | 46,-92 16,-52 -12,-20 | -12,-20 34,-6 48,38 22,84 -20,98 -50,76
3 -44,-82 0,-98 38,-76 30,-30 -8,-8 36,10 46,56 8,96 -50,82
4 -30,-96 -40,-44 -48,10 | -48,10 6,12 60,6 | 36,-94 30,0 26,98
4 22,-98 -24,-34 -58,28 | -58,28 0,28 60,26 | 22,-98 20,0 18,98
4 -36,-94 -48,-50 -40,-10 -6,-2 34,-18 | 44,-96 34,-18 28,40 22,98
5 48,-94 0,-92 -38,-92 | -38,-92 -42,-54 -46,-10 | -46,-10 6,-28 46,6 42,64 0,98 -52,80
5 -34,-90 -38,-50 -38,-14 | -38,-14 14,-22 44,16 34,72 -6,98 -50,84 | -34,-90 8,-90 54,-96
6 32,-98 -14,-68 -44,-6 -44,58 -6,98 36,76 42,30 10,0 -26,16 -44,58
6 14,-98 -26,-52 -48,8 -42,70 0,98 42,68 34,18 -4,8 -40,44
7 -52,-88 0,-86 52,-90 | 52,-90 22,-22 -4,34 -18,98
7 -52,-86 0,-86 50,-90 | 50,-90 20,-22 -4,34 -20,98 | -28,4 10,2 44,2
7 -50,-56 -48,-86 0,-84 52,-88 | 52,-88 30,-20 12,30 4,98
8 0,0 -38,-34 -36,-78 2,-98 38,-76 36,-34 0,0 -42,42 -40,82 0,98 42,80 42,40 0,0
8 34,-80 -2,-98 -38,-76 -28,-32 8,2 42,44 30,86 -6,98 -42,78 -36,38 8,-4 40,-42 34,-80
8 0,-98 -36,-76 -32,-28 0,-12 32,-28 36,-76 0,-98 | 0,-12 -42,22 -42,76 0,98 42,76 42,22 0,-12
9 38,-64 4,-98 -36,-74 -40,-26 -8,0 28,-18 38,-64 | 38,-64 36,10 30,98
9 40,-60 10,-98 -30,-82 -42,-34 -14,-2 24,-16 40,-60 44,0 24,68 -8,98 -40,84
9 34,-76 -6,-96 -42,-60 -34,-14 6,-8 36,-44 34,-76 | 34,-76 30,-4 10,52 -12,98
"""


@cache
def _shapes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each shape its digit, its control points (K, 2), and the weights (2·pieces, K) that take those points to
    the starts and then the ends of the path's pieces: a Catmull-Rom curve is linear in its control points."""
    lines = _SHAPES.strip().splitlines()
    strokes = [[stroke.split() for stroke in line[2:].split(" | ")] for line in lines]
    names = [list(dict.fromkeys(point for stroke in shape for point in stroke)) for shape in strokes]
    size = max(map(len, names))
    control = np.zeros((len(lines), size, 2), np.float32)
    weights = np.zeros((len(lines), 2, _PIECES, size), np.float32)
    for shape, (points, paths) in enumerate(zip(names, strokes, strict=True)):
        control[shape, : len(points)] = [[int(number) / 100 for number in point.split(",")] for point in points]
        spans = []  # (weights of the four points around a span, its length)
        for path in paths:
            rows = np.eye(size)[[points.index(point) for point in path]]
            closed = path[0] == path[-1]
            before, after = (rows[-2], rows[1]) if closed else (2 * rows[0] - rows[1], 2 * rows[-1] - rows[-2])
            rows = np.vstack([before, rows, after])
            for span in range(len(rows) - 3):
                chord = (rows[span + 2] - rows[span + 1]) @ control[shape]
                spans.append((rows[span : span + 4], math.hypot(*chord)))
        share = np.cumsum([0.0, *(length for _, length in spans)]) / sum(length for _, length in spans)
        cuts = np.round(share * _PIECES).astype(int)
        for (four, _), (first, last) in zip(spans, pairwise(cuts), strict=True):
            t = np.linspace(0, 1, last - first + 1)[:, None]
            curve = _catmull_rom(t) @ four
            weights[shape, 0, first:last], weights[shape, 1, first:last] = curve[:-1], curve[1:]
    digits = np.array([int(line[0]) for line in lines])
    return digits, control, weights.reshape(len(lines), 2 * _PIECES, size)


def _catmull_rom(t: np.ndarray) -> np.ndarray:
    """½ (−t+2t²−t³, 2−5t²+3t³, t+4t²−3t³, −t²+t³): the four points' weights between the second and the third."""
    return 0.5 * np.hstack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3])


def _uniforms(seed: int, start: int, count: int) -> np.ndarray:
    """Rows start … start+count of an endless table (·, _DRAWS) of numbers in [0, 1) that `seed` names."""
    bits = np.random.Philox(key=seed % 2**64)
    bits.advance(start * _DRAWS // 8)  # one tick of its counter gives eight numbers
    return np.random.Generator(bits).random((count, _DRAWS), np.float32)


def _factors(draws: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels, each digit once in every ten glyphs, and the factors each glyph is drawn from."""
    labels = draws[:, 0].reshape(-1, 10).argsort(axis=1, kind="stable").reshape(-1)
    variants = np.bincount(_shapes()[0])[labels]
    signed = 2 * draws - 1
    return labels, {
        "variant": (draws[:, 1] * variants).astype(np.int64),  # which of its digit's shapes
        "thickness": 2.0 + 1.5 * draws[:, 2],  # pixels at 28 × 28
        "slant": 0.1 + 0.25 * signed[:, 3],  # to the right, by unit of height
        "rotation": 0.14 * signed[:, 4],  # radians, clockwise
        "scale": 0.68 + 0.06 * signed[:, 5],  # the digit's height by the image's
        "width": 1.12 + 0.2 * signed[:, 6],  # 1: as wide as designed
        "shift_x": 0.08 * signed[:, 7],  # by half the image's width
        "shift_y": 0.08 * signed[:, 8],
    }


def _paths(draws: np.ndarray, labels: np.ndarray, factors: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends (N, pieces, 2) of the pieces of each glyph's path; the image is the square from -1 to 1."""
    digits, control, weights = _shapes()
    shapes = np.searchsorted(digits, labels) + factors["variant"]
    jitter = 2 * draws[:, 9 : 9 + 2 * control.shape[1]].reshape(-1, control.shape[1], 2) - 1
    x, y = np.moveaxis(control[shapes] + 0.07 * jitter, 2, 0)
    x = factors["width"][:, None] * x - factors["slant"][:, None] * y
    cos, sin = (factors["scale"] * turn(factors["rotation"]) for turn in (np.cos, np.sin))
    turned = np.stack([cos[:, None] * x - sin[:, None] * y, sin[:, None] * x + cos[:, None] * y], axis=2)
    turned += np.stack([factors["shift_x"], factors["shift_y"]], axis=1)[:, None]
    ends = weights[shapes] @ turned
    return ends[:, :_PIECES], ends[:, _PIECES:]


def _ink(starts: np.ndarray, ends: np.ndarray, radius: np.ndarray, size: int) -> np.ndarray:
    """uint8 images (N, size, size) of pens of these radii, in pixels, drawn along the pieces.

    Σ_pieces length/√(2π)σ · exp(−|pixel − piece|²/2σ²) is exp(−d²/2σ²) at distance d from a long straight path, so
    its logarithm gives the distance; and as the exponential is a product of one in x and one in y, the sum over
    pieces is a matrix product.
    """
    sigma = 0.7 * radius[:, None]
    starts, ends = (size / 2 * (1 + points) - np.float32(0.5) for points in (starts, ends))  # in pixels
    lengths = np.sqrt(((ends - starts) ** 2).sum(axis=2))
    pixels = np.arange(size, dtype=np.float32)
    across, down = (
        np.exp(-(((pixels - centre[:, :, None]) * (np.float32(math.sqrt(0.5)) / sigma)[:, :, None]) ** 2))
        for centre in np.moveaxis((starts + ends) / 2, 2, 0)
    )
    down *= (lengths / (np.float32(math.sqrt(2 * math.pi)) * sigma))[:, :, None]
    total = down.transpose(0, 2, 1) @ across
    squared = np.log(np.clip(total, 1e-30, 1)) * (-2 * sigma**2)[:, :, None]
    edge = radius[:, None, None] + np.float32(0.5) - np.sqrt(squared)  # a pixel is as light as the part under the pen
    return (255 * np.clip(edge, 0, 1) + np.float32(0.5)).astype(np.uint8)


def glyphs(n: int = 60_000, size: int = 28, seed: int = 0, start: int = 0) -> Data:
    """Glyphs start … start+n of the endless row of drawn digits that `seed` names, with labels and true factors.

    >>> data = glyphs(15)
    >>> data
    Data('glyphs', 15 × (1, 28, 28), 10 classes)
    >>> bool((glyphs(10, start=5).values == data.values[5:]).all())
    True
    >>> sorted(data.factors)
    ['rotation', 'scale', 'shift_x', 'shift_y', 'slant', 'thickness', 'variant', 'width']
    """
    if not (n >= 1 and start >= 0 and 16 <= size <= 64):
        raise ValueError(f"glyphs: got n={n}, start={start}, size={size}; expected n ≥ 1, start ≥ 0, size 16 to 64")
    before = start % 10  # labels come by the ten
    draws = _uniforms(seed, start - before, -(-(before + n) // 10) * 10)
    labels, factors = _factors(draws)
    draws, labels = draws[before : before + n], labels[before : before + n]
    factors = {name: factor[before : before + n] for name, factor in factors.items()}
    values = np.empty((n, size, size, 1), np.uint8)
    for first in range(0, n, _CHUNK):
        part = slice(first, first + _CHUNK)
        chosen = {name: factor[part] for name, factor in factors.items()}
        starts, ends = _paths(draws[part], labels[part], chosen)
        values[part, :, :, 0] = _ink(starts, ends, chosen["thickness"] * np.float32(size / 56), size)
    return Data("glyphs", values, labels, classes=tuple("0123456789"), factors=factors)


def stacked_glyphs(n: int = 60_000, size: int = 28, seed: int = 0) -> Data:
    """Three independent glyphs as the channels of one image: 1000 classes, the first channel's digit the hundreds.

    >>> stacked_glyphs(5).shape
    (3, 28, 28)
    """
    channels = [glyphs(n, size, seed, start=channel << 32) for channel in range(3)]
    return Data(
        "stacked glyphs",
        np.concatenate([channel.values for channel in channels], axis=3),
        np.array([100, 10, 1]) @ np.array([channel.labels for channel in channels]),
        classes=tuple(f"{number:03d}" for number in range(1000)),
    )

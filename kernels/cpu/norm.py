"""Normalisation over axes of an array, forward and backward.

Statistics are those of the centred values: E[x²] - E[x]² would cancel where the mean is large.
"""

from __future__ import annotations

import numpy as np

Axes = tuple[int, ...]


def normalize(
    x: np.ndarray, w: np.ndarray | None, b: np.ndarray | None, axes: Axes, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """y = (x - m)·r·w + b with m = mean x, v = var x, r = 1 / √(v + eps); returns y, m, v, r.

    >>> y, m, v, r = normalize(np.array([[1.0, 3.0]]), None, None, (1,), 0.0)
    >>> y.tolist(), m.tolist(), v.tolist()
    ([[-1.0, 1.0]], [[2.0]], [[1.0]])
    """
    precise = np.float32 if x.dtype == np.float16 else x.dtype
    m = x.mean(axis=axes, keepdims=True, dtype=precise)
    y = x - m
    v = np.square(y).mean(axis=axes, keepdims=True)
    r = 1 / np.sqrt(v + np.asarray(eps, v.dtype))
    y *= r if w is None else r * w
    if b is not None:
        y += b
    return y.astype(x.dtype, copy=False), m.astype(x.dtype, copy=False), v.astype(x.dtype, copy=False), r


def normalize_backward(
    gy: np.ndarray,
    x: np.ndarray,
    w: np.ndarray | None,
    m: np.ndarray,
    r: np.ndarray,
    axes: Axes,
    needs: tuple[bool, ...],
    shapes: list[tuple[int, ...]],
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Gradients of x, w and b (those that `needs` asks for), from saved m and r.

    With x̂ = (x - m)·r and h = gy·w:  gx = r·(h - mean h - x̂·mean(h·x̂)),  gw = Σ gy·x̂,  gb = Σ gy.
    """
    x_hat = x - m
    x_hat *= r
    gw = _sum_to(gy * x_hat, shapes[1]) if needs[1] else None
    gb = _sum_to(gy, shapes[2]) if needs[2] else None
    gx = None
    if needs[0]:
        gx = np.array(gy) if w is None else gy * w
        slope = (gx * x_hat).mean(axis=axes, keepdims=True)
        gx -= gx.mean(axis=axes, keepdims=True)
        x_hat *= slope
        gx -= x_hat
        gx *= r
    return None if gx is None else gx.astype(x.dtype, copy=False), gw, gb


def _sum_to(g: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum over the axes along which something of `shape` was broadcast."""
    extra = g.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(i + extra for i, size in enumerate(shape) if size == 1)
    return g.sum(axis=axes).reshape(shape)

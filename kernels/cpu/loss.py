"""Binary cross-entropy of logits, forward and backward."""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np

__all__ = ["bce_with_logits", "bce_with_logits_backward"]

Array = np.ndarray[Any, Any]


def bce_with_logits(x: Array, t: Array, reduction: str) -> Array:
    """-t·log σ(x) - (1 - t)·log σ(-x) of each pair ("none"), or their "mean" or "sum"; exact for all x.

    >>> round(float(bce_with_logits(np.zeros(4), np.zeros(4), "sum")), 4)
    2.7726
    """
    loss = np.log1p(np.exp(-np.abs(x)))
    loss += (1 - t) * np.maximum(x, 0)
    loss -= t * np.minimum(x, 0)
    if reduction == "none":
        return loss
    axes = tuple(range(loss.ndim))
    half = loss.dtype == np.float16  # in which a sum of more than 2048 ones would stay there
    total = loss.sum(axis=axes, dtype=np.float32).astype(np.float16) if half else loss.sum(axis=axes)
    return total * _share(loss.size) if reduction == "mean" else total


def bce_with_logits_backward(
    gl: Array, x: Array, t: Array | None, reduction: str, needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:  # fmt: skip
    """Gradients of x and t: gl·((1 - t)·σ(x) - t·σ(-x)) and -gl·x, for a mean divided by the number of pairs.

    t may be None if the gradient of x is not needed.
    """
    if reduction == "mean":
        gl = gl * _share(x.size)
    gx = None
    if needs[0] and t is not None:
        with np.errstate(over="ignore"):  # e^|x| may overflow to ∞, and 1 / ∞ is the right 0
            gx = (1 - t) / (1 + np.exp(-x))
            gx -= t / (1 + np.exp(x))
        gx *= gl
    return gx, -gl * x if needs[1] else None


def _share(count: int) -> float:
    return 1 / count if count else nan

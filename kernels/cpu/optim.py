"""Update rules of the optimisers, each one pass over flat memory.

The gradients of many parameters lie end to end in one array, and each kind of state in another of that length.
A rule brings the state up to date and writes over the gradient what is to be subtracted from the parameters. It
works through the memory in chunks that stay in the cache, with one chunk of scratch, `t`.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Any

import numpy as np

__all__ = ["adagrad_step", "adam_step", "rmsprop_step", "sgd_step"]

# Values in a chunk: g, two states and scratch are 1 MB of float32. Of 2^12 … 2^19, 2^15 to 2^17 are the fastest.
CHUNK = 1 << 16


def sgd_step(
    gradient: np.ndarray, buffer: np.ndarray | None, lr: float, momentum: float, dampening: float, nesterov: bool
) -> None:
    """b ← momentum·b + (1 - dampening)·g,  g ← lr·b  (Nesterov: lr·(g + momentum·b); without a buffer: lr·g)

    >>> g, b = np.array([1.0]), np.array([2.0])
    >>> sgd_step(g, b, 0.1, 0.5, 0.0, False)
    >>> b.tolist(), g.tolist()
    ([2.0], [0.2])
    """
    if buffer is None:
        gradient *= lr
        return
    for g, b, t in _chunks(gradient, buffer):
        b *= momentum
        np.multiply(g, 1 - dampening, out=t)
        b += t
        if nesterov:
            np.multiply(b, momentum, out=t)
            g += t
            g *= lr
        else:
            np.multiply(b, lr, out=g)


def adam_step(
    gradient: np.ndarray,
    mean: np.ndarray,
    square: np.ndarray,
    largest: np.ndarray | None,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """m ← β1·m + (1 - β1)·g,  v ← β2·v + (1 - β2)·g²,  g ← lr·m̂ / (√v̂ + eps)

    with m̂ = m / (1 - β1ˢ) and v̂ = v / (1 - β2ˢ) at step s. With `largest` (AMSGrad), v̂ is of the largest v so far.

    >>> g, m, v = np.array([3.0]), np.zeros(1), np.zeros(1)
    >>> adam_step(g, m, v, None, 1, 0.1, 0.9, 0.999, 0.0)
    >>> g.round(12).tolist()
    [0.1]
    """
    # lr·m̂ / (√v̂ + eps) = rate · m / (√v + floor) saves a pass
    root = sqrt(1 - beta2**step)
    rate, floor = lr * root / (1 - beta1**step), eps * root
    for g, m, v, top, t in _chunks(gradient, mean, square, largest):
        np.multiply(g, g, out=t)
        t *= 1 - beta2
        v *= beta2
        v += t
        g *= 1 - beta1
        m *= beta1
        m += g
        if top is not None:
            np.maximum(top, v, out=top)
        np.sqrt(v if top is None else top, out=t)
        t += floor
        np.divide(m, t, out=g)
        g *= rate


def rmsprop_step(
    gradient: np.ndarray,
    square: np.ndarray,
    mean: np.ndarray | None,
    buffer: np.ndarray | None,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
) -> None:
    """v ← α·v + (1 - α)·g²,  h = g / (√v + eps),  g ← lr·h

    With `mean` (centred), ḡ ← α·ḡ + (1 - α)·g and √(v - ḡ²) replaces √v. With `buffer`, b ← momentum·b + h and
    g ← lr·b.

    >>> g, v = np.array([-4.0]), np.zeros(1)
    >>> rmsprop_step(g, v, None, None, 0.1, 0.75, 0.0, 0.0)
    >>> v.tolist(), g.tolist()
    ([4.0], [-0.2])
    """
    for g, v, m, b, t in _chunks(gradient, square, mean, buffer):
        np.multiply(g, g, out=t)
        t *= 1 - alpha
        v *= alpha
        v += t
        if m is not None:
            m *= alpha
            np.multiply(g, 1 - alpha, out=t)
            m += t
            np.multiply(m, m, out=t)
            np.subtract(v, t, out=t)
            np.maximum(t, 0, out=t)  # a variance; rounding may leave it a little below zero
            np.sqrt(t, out=t)
        else:
            np.sqrt(v, out=t)
        t += eps
        g /= t
        if b is not None:
            b *= momentum
            b += g
            np.multiply(b, lr, out=g)
        else:
            g *= lr


def adagrad_step(gradient: np.ndarray, total: np.ndarray, lr: float, eps: float) -> None:
    """s ← s + g²,  g ← lr·g / (√s + eps)

    >>> g, s = np.array([4.0]), np.array([9.0])
    >>> adagrad_step(g, s, 0.1, 0.0)
    >>> s.tolist(), g.round(12).tolist()
    ([25.0], [0.08])
    """
    for g, s, t in _chunks(gradient, total):
        np.multiply(g, g, out=t)
        s += t
        np.sqrt(s, out=t)
        t += eps
        g /= t
        g *= lr


def _chunks(first: np.ndarray, *others: np.ndarray | None) -> Iterator[Any]:
    """The arrays a chunk at a time (None stays None), and scratch of the same length."""
    scratch = np.empty(min(first.size, CHUNK), first.dtype)
    for start in range(0, first.size, CHUNK):
        chunk = slice(start, min(start + CHUNK, first.size))
        rest = (None if array is None else array[chunk] for array in others)
        yield first[chunk], *rest, scratch[: chunk.stop - start]

"""Update rules of the optimisers: one pass over the memory of many parameters, on the worker threads.

The parameters of a step come as a list of arrays, their gradients as another, and each kind of state as one flat
array in which the stretches of the parameters lie end to end. They are worked through in chunks of that flat memory
which stay in the cache: a chunk's gradients are gathered (where it has more than one), its state is brought up to
date, and what the rule has found, `t`, is subtracted from its parameters, all before the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import sqrt
from typing import Any

import numpy as np

from .memory import scratch
from .workers import parallel

__all__ = ["adagrad_step", "adam_step", "rmsprop_step", "sgd_step"]

Array = np.ndarray[Any, Any]

# Parameters w, their gradients g, a decay d, a factor s, and whether to maximize: rules are given ±g + d·w, and what
# they find is subtracted from s·w.
Weights = tuple[Sequence[Array], Sequence[Array], float, float, bool]

# Values in a chunk. Calls of a quarter of a million values are long enough for threads to run at the same time.
CHUNK = 1 << 18


def sgd_step(
    weights: Weights, buffer: Array | None, lr: float, momentum: float, dampening: float, nesterov: bool
) -> None:
    """b ← momentum·b + (1 - dampening)·g,  w ← w - lr·b  (Nesterov: lr·(g + momentum·b); without a buffer: lr·g)

    >>> w, g, b = np.array([1.0]), np.array([1.0]), np.array([2.0])
    >>> sgd_step(([w], [g], 0.0, 1.0, False), b, 0.1, 0.5, 0.0, False)
    >>> b.tolist(), w.tolist()
    ([2.0], [0.8])
    """

    def rule(t: Array, g: Array, b: Array | None) -> None:
        if b is None:
            np.multiply(g, lr, out=t)
            return
        b *= momentum
        np.multiply(g, 1 - dampening, out=t)
        b += t
        if nesterov:
            np.multiply(b, momentum, out=t)
            t += g
            t *= lr
        else:
            np.multiply(b, lr, out=t)

    _update(weights, [buffer], rule)


def adam_step(
    weights: Weights, mean: Array, square: Array, largest: Array | None, step: int, lr: float, beta1: float,
    beta2: float, eps: float,
) -> None:  # fmt: skip
    """m ← β1·m + (1 - β1)·g,  v ← β2·v + (1 - β2)·g²,  w ← w - lr·m̂ / (√v̂ + eps)

    with m̂ = m / (1 - β1ˢ) and v̂ = v / (1 - β2ˢ) at step s. With `largest` (AMSGrad), v̂ is of the largest v so far.

    >>> w, g, m, v = np.array([1.0]), np.array([3.0]), np.zeros(1), np.zeros(1)
    >>> adam_step(([w], [g], 0.0, 1.0, False), m, v, None, 1, 0.1, 0.9, 0.999, 0.0)
    >>> w.round(12).tolist()
    [0.9]
    """
    # lr·m̂ / (√v̂ + eps) = rate · m / (√v + floor) saves a pass
    root = sqrt(1 - beta2**step)
    rate, floor = lr * root / (1 - beta1**step), eps * root

    def rule(t: Array, g: Array, m: Array, v: Array, top: Array | None) -> None:
        np.multiply(g, g, out=t)
        t *= 1 - beta2
        v *= beta2
        v += t
        np.multiply(g, 1 - beta1, out=t)
        m *= beta1
        m += t
        if top is not None:
            np.maximum(top, v, out=top)
        np.sqrt(v if top is None else top, out=t)
        t += floor
        np.divide(m, t, out=t)
        t *= rate

    _update(weights, [mean, square, largest], rule)


def rmsprop_step(
    weights: Weights, square: Array, mean: Array | None, buffer: Array | None, lr: float, alpha: float, eps: float,
    momentum: float,
) -> None:  # fmt: skip
    """v ← α·v + (1 - α)·g²,  h = g / (√v + eps),  w ← w - lr·h

    With `mean` (centred), ḡ ← α·ḡ + (1 - α)·g and √(v - ḡ²) replaces √v. With `buffer`, b ← momentum·b + h and
    w ← w - lr·b.

    >>> w, g, v = np.array([1.0]), np.array([-4.0]), np.zeros(1)
    >>> rmsprop_step(([w], [g], 0.0, 1.0, False), v, None, None, 0.1, 0.75, 0.0, 0.0)
    >>> v.tolist(), w.tolist()
    ([4.0], [1.2])
    """

    def rule(t: Array, g: Array, v: Array, m: Array | None, b: Array | None) -> None:
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
        np.divide(g, t, out=t)
        if b is not None:
            b *= momentum
            b += t
            np.multiply(b, lr, out=t)
        else:
            t *= lr

    _update(weights, [square, mean, buffer], rule)


def adagrad_step(weights: Weights, total: Array, lr: float, eps: float) -> None:
    """s ← s + g²,  w ← w - lr·g / (√s + eps)

    >>> w, g, s = np.array([1.0]), np.array([4.0]), np.array([9.0])
    >>> adagrad_step(([w], [g], 0.0, 1.0, False), s, 0.1, 0.0)
    >>> s.tolist(), w.round(12).tolist()
    ([25.0], [0.92])
    """

    def rule(t: Array, g: Array, s: Array) -> None:
        np.multiply(g, g, out=t)
        s += t
        np.sqrt(s, out=t)
        t += eps
        np.divide(g, t, out=t)
        t *= lr

    _update(weights, [total], rule)


# All rules alike -------------------------------------------------------------------------------------------


def _update(weights: Weights, states: Sequence[Array | None], rule: Callable[..., None]) -> None:
    """Run `rule(t, g, *states)`, which writes what to subtract into t and leaves g alone, over all chunks."""
    parameters, gradients, decay, factor, maximize = weights
    own = [w if w.flags.c_contiguous else w.copy() for w in parameters]
    flat = [(w.reshape(-1, copy=False), g.reshape(-1)) for w, g in zip(own, gradients, strict=True)]
    chunks = _chunks(tuple(w.size for w in own), CHUNK)

    def some(i: int) -> None:
        start, stop, parts = chunks[i]
        pieces = [(flat[index][0][part], flat[index][1][part]) for index, part in parts]
        g = pieces[0][1]
        if len(pieces) > 1 or decay or maximize:
            g = _gathered(pieces, stop - start, decay, maximize)
        t = scratch("update", g.shape, g.dtype)
        rule(t, g, *(None if state is None else state[start:stop] for state in states))
        for w, _ in pieces:
            if factor != 1:
                w *= factor
            w -= t[: w.size]
            t = t[w.size :]

    parallel(some, len(chunks))
    for w, changed in zip(parameters, own, strict=True):
        if changed is not w:
            w[...] = changed


def _gathered(pieces: Sequence[tuple[Array, Array]], size: int, decay: float, maximize: bool) -> Array:
    """±g + decay·w of a chunk, end to end."""
    gathered = rest = scratch("gradient", (size,), pieces[0][0].dtype)
    for w, g in pieces:
        piece, rest = rest[: w.size], rest[w.size :]
        if decay:
            np.multiply(w, decay, out=piece)
            (np.subtract if maximize else np.add)(piece, g, out=piece)
        else:
            (np.negative if maximize else np.positive)(g, out=piece)
    return gathered


@lru_cache(maxsize=64)
def _chunks(sizes: tuple[int, ...], most: int) -> list[tuple[int, int, list[tuple[int, slice]]]]:
    """Chunks of at most that size: start, stop, and the parts of parameters that lie in between.

    Small neighbours share a chunk; a large parameter has chunks of its own, so that nothing need be gathered.

    >>> _chunks((1, 2, 14), 8)
    [(0, 3, [(0, slice(0, 1, None)), (1, slice(0, 2, None))]), (3, 10, [(2, slice(0, 7, None))]), \
(10, 17, [(2, slice(7, 14, None))])]
    """
    chunks: list[tuple[int, int, list[tuple[int, slice]]]] = []
    start, several = 0, False  # the last chunk's start, and whether it takes more
    for index, size in enumerate(sizes):
        count = -(-size // most)
        alone = size > most // 4
        for k in range(count):
            part = slice(size * k // count, size * (k + 1) // count)
            length = part.stop - part.start
            if several and not alone and chunks[-1][1] - chunks[-1][0] + length <= most:
                first, stop, parts = chunks[-1]
                chunks[-1] = first, stop + length, [*parts, (index, part)]
            else:
                chunks.append((start, start + length, [(index, part)]))
            start += length
        several = not alone if size else several
    return chunks

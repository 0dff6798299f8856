"""Update rules of the optimisers on the device: one launch for all parameters of a group.

As in `minigan.kernels.cpu`, parameters and gradients come as lists of arrays and each kind of state as one flat array.
The kernels find them by a table of addresses, which is made once for the same arrays. Numbers, such as the learning
rate, are arguments, but in a captured step kernels read them from memory, where the same calls write new ones before
each replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import sqrt
from typing import Any

import numpy as np

from .double import real
from .elementwise import copy

__all__ = ["adagrad_step", "adam_naive_step", "adam_step", "rmsprop_step", "sgd_step"]

Array = Any  # of NumPy or CuPy
# Parameters w, their gradients g, a decay d, a factor s, and whether to maximize: rules are given ±g + d·w, and what
# they find is subtracted from s·w.
Weights = tuple[Sequence[Array], Sequence[Array], float, float, bool]

THREADS = 256
PIECE = 4096  # values that a block updates


def sgd_step(
    device: Any, weights: Weights, buffer: Array | None, lr: float, momentum: float, dampening: float, nesterov: bool
) -> None:
    """b ← momentum·b + (1 - dampening)·g,  w ← w - lr·b  (Nesterov: lr·(g + momentum·b); without a buffer: lr·g)

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> w, g, b = (np.array([x], np.float32) for x in (1, 1, 2))
    >>> sgd_step(EmulatedDevice(), ([w], [g], 0.0, 1.0, False), b, 0.5, 0.5, 0.0, False)
    >>> b.tolist(), w.tolist()
    ([2.0], [0.0])
    """
    _launch(device, "sgd_step", weights, [buffer], [lr, momentum, 1 - dampening], int(nesterov))


def adam_step(
    device: Any, weights: Weights, mean: Array, square: Array, largest: Array | None, step: int, lr: float,
    beta1: float, beta2: float, eps: float,
) -> None:  # fmt: skip
    """m ← β1·m + (1 - β1)·g,  v ← β2·v + (1 - β2)·g²,  w ← w - lr·m̂ / (√v̂ + eps)

    with m̂ = m / (1 - β1ˢ) and v̂ = v / (1 - β2ˢ) at step s. With `largest` (AMSGrad), v̂ is of the largest v so far.
    """
    root = sqrt(1 - beta2**step)
    numbers = [lr * root / (1 - beta1**step), eps * root, beta1, 1 - beta1, beta2, 1 - beta2]
    _launch(device, "adam_step", weights, [mean, square, largest], numbers)


def adam_naive_step(
    device: Any, w: Array, g: Array, mean: Array, square: Array, step: int, lr: float, beta1: float, beta2: float,
    eps: float,
) -> None:  # fmt: skip
    """Adam of one parameter in a launch of its own."""
    root = sqrt(1 - beta2**step)
    numbers = [lr * root / (1 - beta1**step), eps * root, beta1, 1 - beta1, beta2, 1 - beta2]
    if w.size:
        device.launch(
            "optim", "adam_naive", (-(-w.size // THREADS),), (THREADS,), [w, g, mean, square, w.size, *numbers]
        )


def rmsprop_step(
    device: Any, weights: Weights, square: Array, mean: Array | None, buffer: Array | None, lr: float,
    alpha: float, eps: float, momentum: float,
) -> None:  # fmt: skip
    """v ← α·v + (1 - α)·g²,  h = g / (√v + eps),  w ← w - lr·h

    With `mean` (centred), ḡ ← α·ḡ + (1 - α)·g and √(v - ḡ²) replaces √v. With `buffer`, b ← momentum·b + h and
    w ← w - lr·b.
    """
    _launch(device, "rmsprop_step", weights, [square, mean, buffer], [lr, alpha, 1 - alpha, eps, momentum])


def adagrad_step(device: Any, weights: Weights, total: Array, lr: float, eps: float) -> None:
    """s ← s + g²,  w ← w - lr·g / (√s + eps)"""
    _launch(device, "adagrad_step", weights, [total], [lr, eps])


# All rules alike ----------------------------------------------------------------------------------------------------


def _launch(
    device: Any, kernel: str, weights: Weights, states: Sequence[Array | None], numbers: Sequence[float], *flags: int
) -> None:
    """Kernels take table, pieces, states, numbers in memory or null, numbers, and flags."""
    parameters, gradients, decay, factor, maximize = weights
    numbers, live = [*numbers, decay, factor], None
    if device.recording is not None:
        live = device.recording.live(numbers, real(device))
        if not device.recording.open:
            return  # the launch is captured already
    for w, g in zip(parameters, gradients, strict=True):
        if w.shape != g.shape:
            raise ValueError(f"{kernel}: a parameter of shape {w.shape} has a gradient of shape {g.shape}")
        if w.dtype != real(device) or g.dtype != real(device):
            raise TypeError(f"{kernel}: a parameter of {w.dtype} has a gradient of {g.dtype}, expected {real(device)}")
    sizes = tuple(w.size for w in parameters)
    for state in states:
        if state is not None and state.shape != (sum(sizes),):
            raise ValueError(f"{kernel}: got a state of shape {state.shape}, expected ({sum(sizes)},)")
    if not sum(sizes):
        return
    # The states lie in C order: so must the rest.
    own, given = ([_in_order(device, x) for x in arrays] for arrays in (parameters, gradients))
    addresses = tuple(device.address(array) for pair in zip(own, given, strict=True) for array in pair)
    # A captured launch has tables of its own: others may be forgotten.
    table, pieces = (_table if live is None else _table.__wrapped__)(device, addresses, sizes)
    arguments = [table, pieces, *states, live, *numbers, *flags, int(maximize)]
    device.launch("optim", kernel, (pieces.shape[0],), (THREADS,), arguments)
    for w, changed in zip(parameters, own, strict=True):
        if changed is not w:
            copy(device, changed, w)


def _in_order(device: Any, x: Array) -> Array:
    return x if x.flags.c_contiguous else copy(device, x)


@lru_cache(maxsize=64)
def _table(device: Any, addresses: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[Array, Array]:
    """The two tables of `update` in optim.cu, on the device."""
    pieces = pieces_of(sizes)
    return device.asarray(np.array(addresses, np.uint64)), device.asarray(np.array(pieces, np.int32))


def pieces_of(sizes: Sequence[int], most: int = PIECE) -> list[tuple[int, int, int, int]]:
    """Of each piece: its parameter's number, its first value there, how many values, and where its state begins.

    >>> pieces_of([3, 0, 5], most=4)
    [(0, 0, 3, 0), (2, 0, 4, 3), (2, 4, 1, 7)]
    """
    pieces, state = [], 0
    for number, size in enumerate(sizes):
        pieces += [(number, start, min(most, size - start), state + start) for start in range(0, size, most)]
        state += size
    return pieces

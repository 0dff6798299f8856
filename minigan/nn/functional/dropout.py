"""Dropout: entries or whole channels set to 0 at random, the others scaled up to keep the mean."""

from __future__ import annotations

import minigan as mg
from minigan.tensor import Tensor


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Each value set to 0 with probability p, the others divided by 1 - p.

    >>> dropout(mg.ones(3), training=False)
    tensor([1., 1., 1.])
    """
    return _drop("dropout", input, input.shape, p, training, inplace)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Each channel (N, C) set to 0 with probability p, the others divided by 1 - p."""
    if input.ndim < 2:
        raise RuntimeError(f"dropout2d: got input of shape {tuple(input.shape)}, expected (N, C, …)")
    shape = input.shape[:2] + (1,) * (input.ndim - 2)
    return _drop("dropout2d", input, shape, p, training, inplace)


def _drop(name: str, x: Tensor, shape: tuple[int, ...], p: float, training: bool, inplace: bool) -> Tensor:
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: got probability {p}, expected 0 to 1")
    if not training or p == 0:
        return x
    if len(shape) >= 4:  # in the memory order of images, so that the product keeps it
        noise = mg.rand(shape[0], *shape[2:], shape[1], dtype=x.dtype, device=x.device).movedim(-1, 1)
    else:
        noise = mg.rand(shape, dtype=x.dtype, device=x.device)
    keep = noise.array  # made for this alone, and turned into factors where it lies
    x.B.xp.greater_equal(keep, p, out=keep)
    keep *= 1 / (1 - p) if p < 1 else 0.0
    y = x * noise
    return x._assign(y, f"{name} with inplace=True") if inplace else y

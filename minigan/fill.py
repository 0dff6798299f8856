"""Writing values over a whole tensor: a constant, a copy, random numbers. Each is also a method."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from minigan import random
from minigan.check import number, whole
from minigan.graph import wrap
from minigan.inplace import assign
from minigan.observe import observers

if TYPE_CHECKING:
    from minigan.tensor import Tensor


def copy_(x: Tensor, source: Any, non_blocking: bool = False) -> Tensor:
    """The values of another tensor, of any dtype or device, written over this one."""
    if hasattr(source, "array"):
        source = source.to(x.device, x.dtype)
    return assign(x, source, "copy_")


def fill_(x: Tensor, value: Any) -> Tensor:
    """One value everywhere."""
    return assign(x, value, "fill_")


def zero_(x: Tensor) -> Tensor:
    """0 everywhere."""
    return assign(x, 0, "zero_")


def normal_(x: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: random.Generator | None = None) -> Tensor:
    """Normal numbers everywhere."""
    mean, std = number("normal_", mean), number("normal_", std)
    if std < 0:
        raise RuntimeError(f"normal_: expected std >= 0, got {std}")
    return _draw(x, "normal", generator, lambda n: n * n.dtype.type(std) + n.dtype.type(mean), "normal_")


def uniform_(x: Tensor, a: float = 0.0, b: float = 1.0, *, generator: random.Generator | None = None) -> Tensor:
    """Uniform numbers in [a, b) everywhere."""
    a, b = number("uniform_", a), number("uniform_", b)
    if b < a:
        raise RuntimeError(f"uniform_: expected a <= b, got {a} and {b}")
    return _draw(x, "uniform", generator, lambda u: u * u.dtype.type(b - a) + u.dtype.type(a), "uniform_")


def bernoulli_(x: Tensor, p: float = 0.5, *, generator: random.Generator | None = None) -> Tensor:
    """1 with probability p, else 0, everywhere."""
    if not 0 <= number("bernoulli_", p) <= 1:
        raise RuntimeError(f"bernoulli_: expected a probability from 0 to 1, got {p}")
    return _draw(x, "uniform", generator, lambda u: (u < p).astype(u.dtype), "bernoulli_")


def random_(x: Tensor, low: int = 0, high: int | None = None, *, generator: random.Generator | None = None) -> Tensor:
    """Integers in [low, high) everywhere (in [0, low) if only that is given)."""
    low, high = whole("random_", low), None if high is None else whole("random_", high)
    if high is None and low:
        low, high = 0, low
    elif high is None:
        high = 2 if x.dtype.kind == "b" else 1 + _largest_whole(x.dtype)
    if high <= low:
        raise RuntimeError(f"random_: expected low < high, got {low} and {high}")
    numbers = random.source(generator).integers(low, high, x.shape)
    return assign(x, wrap(x.B.asarray(numbers), x.B, None).to(x.dtype), "random_")


def _largest_whole(dtype: np.dtype) -> int:
    """Up to which a dtype has every integer."""
    return 2 ** (np.finfo(dtype).nmant + 1) if dtype.kind == "f" else int(np.iinfo(dtype).max)


def _draw(x: Tensor, kind: str, generator: random.Generator | None, change: Callable[[Any], Any], by: str) -> Tensor:
    numbers = random.draw(kind, x.shape, x.dtype, x.B, generator)
    assign(x, wrap(change(numbers), x.B, None), by)
    for observer in observers:
        observer.drawn(x)
    return x

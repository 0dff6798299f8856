"""What the property tests draw: shapes, values in a domain, and where the values lie in memory.

A `Placed` is an array together with a layout; `Placed.tensor` makes a tensor that lies so. Values are drawn by
seed, entry by entry away from kinks and poles, so that differences of `check_grads` never step over one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

import minigan as mg
from minigan.graph import REGISTRY, apply

# Domains: (rng, shape) -> values ------------------------------------------------------------------------

Domain = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def uniform(low: float, high: float) -> Domain:
    return lambda rng, shape: rng.uniform(low, high, shape)


def away_from(*points: float, margin: float = 0.05) -> Domain:
    """Between -2 and 2, and at least the margin from each of the points."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        ends = [-2, *sorted(points), 2]
        pieces = [(a + margin, b - margin) for a, b in zip(ends, ends[1:], strict=False)]
        piece = rng.integers(len(pieces), size=shape)
        return rng.uniform(np.array([a for a, _ in pieces])[piece], np.array([b for _, b in pieces])[piece])

    return draw


def grid(offset: float) -> Domain:
    """All different, at least 0.1 apart, and as far from those of another offset half a unit (0.05) away."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape))
        return (0.1 * (rng.permutation(size) - size // 2) + offset).reshape(shape)

    return draw


def whole(low: int, high: int) -> Domain:
    """int64 in [low, high)."""
    return lambda rng, shape: rng.integers(low, high, shape)


def flags(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.random(shape) < 0.5


REAL = uniform(-2, 2)
POSITIVE = uniform(0.2, 3)
NONZERO = away_from(0)
FAR_FROM_ZERO = away_from(0, margin=0.4)  # for poles
DISTINCT = grid(0.025)  # different from each other, and from 0

# Layouts ------------------------------------------------------------------------------------------------

LAYOUTS = ("C order", "transposed", "strided", "reversed")


@dataclass(frozen=True)
class Placed:
    """Values, and the layout of the tensor to make of them."""

    values: np.ndarray
    layout: str = "C order"

    def as_dtype(self, dtype: np.dtype) -> np.ndarray:
        """The values as an op on tensors of this dtype sees them: integers and booleans stay what they are."""
        return self.values.astype(dtype) if self.values.dtype.kind == "f" else self.values

    def tensor(self, dtype: np.dtype) -> tuple[mg.Tensor, mg.Tensor]:
        """A tensor that lies so, and the tensor of all the memory around it."""
        host = self.as_dtype(dtype)
        if self.layout == "transposed":
            memory = mg.tensor(host.T.copy())
            return memory.permute(*range(host.ndim)[::-1]).detach(), memory
        if self.layout == "strided" and host.ndim:
            gaps = np.full((*host.shape[:-1], 2 * host.shape[-1] + 1), np.nan if host.dtype.kind == "f" else 0)
            gaps = gaps.astype(host.dtype)
            gaps[..., 1::2] = host
            memory = mg.tensor(gaps)
            return memory[..., 1::2].detach(), memory
        if self.layout == "reversed":
            memory = mg.tensor(np.flip(host).copy())
            return apply(REGISTRY["Flip"], memory, dims=tuple(range(host.ndim))).detach(), memory
        memory = mg.tensor(host)
        return memory.detach(), memory


# Shapes -------------------------------------------------------------------------------------------------

# Drawn by seed: hypothesis likes to repeat parts of what it drew before, and of lists of sizes it makes the same few.
SIDES = (0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 5)
seeds = st.integers(0, 2**32 - 1)
sides = seeds.map(lambda seed: SIDES[seed % len(SIDES)])


def by_seed(make: Callable[[np.random.Generator], Any]) -> st.SearchStrategy:
    return seeds.map(lambda seed: make(np.random.default_rng(seed)))


def shapes(min_dims: int = 0, max_dims: int = 4, sides: Sequence[int] = SIDES) -> st.SearchStrategy:
    """Sizes of `sides`, where one in twelve is a zero."""
    return by_seed(lambda rng: tuple(rng.choice(sides, rng.integers(min_dims, max_dims + 1)).tolist()))


def positive_shapes(min_dims: int = 0, max_dims: int = 4) -> st.SearchStrategy:
    """Without zero sizes."""
    return shapes(min_dims, max_dims, SIDES[1:])


def broadcastable(count: int, max_dims: int = 3) -> st.SearchStrategy:
    """Shapes that broadcast together: in each, leading axes may be left out and others be of size 1."""

    def make(rng: np.random.Generator) -> list[tuple[int, ...]]:
        whole = rng.choice(SIDES, rng.integers(max_dims + 1)).tolist()
        starts = rng.integers(len(whole) + 1, size=count) * rng.integers(2, size=count)
        return [tuple(1 if rng.random() < 0.25 else size for size in whole[start:]) for start in starts]

    return by_seed(make)


# Arguments ----------------------------------------------------------------------------------------------


@st.composite
def placed(draw: Any, shape: tuple[int, ...], domain: Domain = REAL) -> Placed:
    rng = np.random.default_rng(draw(seeds))
    return Placed(np.asarray(domain(rng, shape)), draw(st.sampled_from(LAYOUTS)))


@st.composite
def tensors(draw: Any, *domains: Domain) -> tuple[Placed, ...]:
    """One argument per domain, of shapes that broadcast together."""
    return tuple(
        draw(placed(shape, domain)) for shape, domain in zip(draw(broadcastable(len(domains))), domains, strict=True)
    )


@st.composite
def tensor_and(draw: Any, *more: Any, domain: Domain = REAL, shape: st.SearchStrategy | None = None) -> tuple[Any, ...]:
    """A tensor, and what each of `more` gives for its shape: a strategy made from the shape, or a plain strategy."""
    size = draw(shapes() if shape is None else shape)
    extra = [draw(part(size) if callable(part) else part) for part in more]
    return (draw(placed(size, domain)), *extra)


def an_axis(shape: tuple[int, ...]) -> st.SearchStrategy:
    """One axis, counted from the front or the back."""
    limit = max(len(shape), 1)
    return st.integers(-limit, limit - 1)


def some_axes(shape: tuple[int, ...]) -> st.SearchStrategy:
    """None, one axis, or a tuple of different ones."""
    if not shape:
        return st.none()
    several = st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True).flatmap(
        lambda ds: st.tuples(*(st.sampled_from([d, d - len(shape)]) for d in ds))
    )
    return st.one_of(st.none(), an_axis(shape), several)

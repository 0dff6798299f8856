"""Reading arguments as PyTorch does: sizes given once or per axis, tensors that must fit together."""

from __future__ import annotations

from collections.abc import Sequence

from minigan.check import several
from minigan.tensor import Tensor

Sizes = int | Sequence[int]


def per_axis(value: Sizes, ndim: int, name: str) -> tuple[int, ...]:
    """One int per spatial axis, from an int (or a single one in a sequence), or from as many as there are axes.

    >>> per_axis(2, 3, "stride"), per_axis([1, 2], 2, "stride")
    ((2, 2, 2), (1, 2))
    """
    values = several(value)
    if len(values) == 1:
        values *= ndim
    if len(values) != ndim or not all(isinstance(v, int) for v in values):
        raise RuntimeError(f"{name}: got {value!r}, expected an int or {ndim} of them")
    return values


def expect_ndim(name: str, x: Tensor, ndim: int) -> bool:
    """Whether x is a batch: raises unless it has (N, C, …) or, unbatched, (C, …) with `ndim` spatial axes."""
    if x.ndim not in (ndim + 1, ndim + 2):
        axes = ", ".join("DHW"[-ndim:])
        raise RuntimeError(
            f"{name}: got input of shape {tuple(x.shape)}, expected {ndim + 2} axes (N, C, {axes}) "
            f"or {ndim + 1} axes (C, {axes})"
        )
    return x.ndim == ndim + 2

"""Which algorithm a convolution takes: by what each would cost, or as one is told to.

`conv_algorithm("gemm")`, `"winograd"` and `"auto"` switch for a `with` block; the environment variable MINIGAN_CONV
sets what holds outside of any. "winograd" takes Winograd's method wherever it can be applied; elsewhere, and for
"gemm", products are with the filters themselves, as `im2col.py` or `direct.py` arrange them. The choice depends on
sizes alone, so a run repeats.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from math import ceil, prod

from ..geometry import ConvGeometry
from . import direct, winograd
from .toom_cook import LARGEST, error_growth

__all__ = ["Plan", "choose", "conv_algorithm"]

Plan = winograd.Plan | direct.Plan

ALGORITHMS = ("auto", "gemm", "winograd")

# What things cost in multiply-adds of a matrix product, of which two cores make 67 in a ns (measured on Zen 3).
COPIED = 45  # a value of columns, copied, or of products, added up
BIG = 85  # a value of V, made from an image's tiles or turned back into them
SMALL, SMALL_PER_OUTPUT = 20, 2.7  # a value of M, and that for each output of a tile
FILTER = 30  # a value of the transformed filters, made and read
CALL = 6_000_000  # 100 µs: what the regions of a call cost

# The largest product of both axes' `error_growth`, and the largest tile. Errors turn out a little better than the first
# says, for direct sums are longer: with F(4, 2) on both axes (4.40), the largest error is 3.2 to 3.9 times a direct
# sum's. F(5, 2) is worse than its growth says (4.1 to 4.5 times).
GROWTH = 4.5
WIDEST = 4

# The least width of a product's inner side: with fewer channels, a row of a kernel is too little for one.
DEEP = 64

# V and M, or columns and products, of one image, in float32, are made in one piece.
IMAGE_BYTES = 64 << 20

_asked: ContextVar[str | None] = ContextVar("conv_algorithm", default=None)


@contextmanager
def conv_algorithm(name: str) -> Iterator[None]:
    """Use one algorithm for the convolutions within: "gemm", "winograd", or "auto" to choose by cost.

    >>> with conv_algorithm("gemm"):
    ...     isinstance(choose(ConvGeometry.conv((32, 32), (4, 4), 2, 1), 64, 64, 128), winograd.Plan)
    False
    """
    token = _asked.set(_known(name, "conv_algorithm"))
    try:
        yield
    finally:
        _asked.reset(token)


def choose(g: ConvGeometry, batch: int, channels: int, filters: int) -> Plan | None:
    """The plan for Winograd's method or for `direct.py`, or None for im2col."""
    asked = _asked.get() or _known(os.environ.get("MINIGAN_CONV") or "auto", "MINIGAN_CONV")
    return _choose(asked, g, batch, channels, filters)


def _known(name: str, where: str) -> str:
    if name not in ALGORITHMS:
        raise ValueError(f"{where}: got {name!r}, expected one of {', '.join(ALGORITHMS)}")
    return name


@lru_cache(maxsize=1024)
def _choose(asked: str, g: ConvGeometry, batch: int, channels: int, filters: int) -> Plan | None:
    if g.ndim != 2 or g.groups != 1 or set(g.dilation) != {1} or g.is_gemm or not batch * channels * filters:
        return None
    known = [] if asked == "gemm" else [winograd.plan_for(g, batch, channels, filters, m) for m in _tiles(g)]
    plans: dict[float, Plan | None] = {_cost(plan): plan for plan in known if plan.image_bytes(4) <= IMAGE_BYTES}
    if asked != "winograd" or not plans:
        plans[batch * prod(g.output) * g.taps * channels * (filters + COPIED)] = None
        if min(channels, filters) * min(g.kernel) >= DEEP:
            plan = direct.plan_for(g, batch, channels, filters)
            if plan.image_bytes(*plan.axes, channels, filters, 4) <= IMAGE_BYTES:
                plans[_direct_cost(plan)] = plan
    return plans[min(plans)]


def _tiles(g: ConvGeometry) -> Iterator[tuple[int, int]]:
    """Sizes of tiles for which transforms are known and precise enough."""
    taps = [ceil(k / s) for k, s in zip(g.kernel, g.stride, strict=True)]
    for m in range(1, WIDEST + 1):
        for n in range(1, WIDEST + 1):
            known = m + taps[0] - 1 <= LARGEST and n + taps[1] - 1 <= LARGEST
            if m * n > 1 and known and error_growth(m, taps[0]) * error_growth(n, taps[1]) <= GROWTH:
                yield m, n


def _cost(plan: winograd.Plan) -> float:
    """Of one of the three kernels, in multiply-adds; they cost about the same."""
    tiles, depth, filters = plan.batch * prod(plan.tiles), plan.depth, plan.filters
    small = SMALL + SMALL_PER_OUTPUT * plan.rows.m * plan.columns.m
    return plan.nodes * (tiles * (depth * filters + BIG * depth + small * filters) + FILTER * depth * filters) + CALL


def _direct_cost(plan: direct.Plan) -> float:
    down, across = plan.axes
    columns = sum(band.width * band.reach for band in plan.bands(down, across))
    products = down.products * columns * plan.channels * plan.filters
    copied = down.input * columns * plan.channels + down.products * across.output * plan.filters
    return plan.batch * (products + COPIED * copied) + CALL

"""Short convolutions with fewer multiplications: the one-dimensional transforms F(m, r) of Toom, Cook and Winograd.

m outputs of a filter with r taps, y[i] = Σ_k d[i + k]·g[k], take m·r multiplications as they stand. Seen as products
of polynomials they take P = m + r - 1. A product of degree P - 1 is known by its values at P points (its nodes), and
there it is a product of numbers. So with one row for each node a (the point ∞ stands for the leading coefficient)

    A[a] = (1, a, a², …, a^(m-1))       the outputs' polynomial at a
    G[a] = (1, a, a², …, a^(r-1)) / M_a(a)   the filter's polynomial at a
    B[a] = the coefficients of M_a(x) = Π over the other finite nodes b of (x - b)    (Lagrange's polynomials)

the trilinear form behind convolution is T(d, g, y) = Σ_{i,k} d[i + k]·g[k]·y[i] = Σ_a (B d)[a]·(G g)[a]·(A y)[a],
and each of its derivatives is a product at every node, between transforms:

    y = Aᵀ[(B d)·(G g)],     d = Bᵀ[(A y)·(G g)],     g = Gᵀ[(B d)·(A y)].

The products that are left are products of matrices over channels, and so are the transforms: see `winograd.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# These keep errors small: of pairs of 32nds (and 0), the least `error_growth`. The nodes 0, ±1, 2 of the literature,
# whose transforms need fewer multiplications, let F(4, 2) lose three times as much in two dimensions.
_PAIRS = {
    2: (Fraction(1),),  # nodes beside ∞: 1, -1
    3: (Fraction(0), Fraction(1)),
    4: (Fraction(13, 32), Fraction(39, 32)),
    5: (Fraction(0), Fraction(11, 16), Fraction(47, 32)),
}


@dataclass(frozen=True, eq=False)
class Transform:
    """F(m, r): its three matrices, with a row for each node."""

    m: int
    r: int
    A: Array
    B: Array
    G: Array

    @property
    def nodes(self) -> int:
        """P = m + r - 1, ∞ among them."""
        return self.m + self.r - 1


LARGEST = max(_PAIRS) + 1  # P


@cache
def transform(m: int, r: int) -> Transform:
    """F(m, r) with nodes that lose little precision.

    >>> t = transform(2, 2)
    >>> t.A.tolist()  # at 1, -1 and ∞
    [[1.0, 1.0], [1.0, -1.0], [0.0, 1.0]]
    >>> t.B.tolist()
    [[1.0, 1.0, 0.0], [-1.0, 1.0, 0.0], [-1.0, 0.0, 1.0]]
    >>> t.G.tolist()
    [[0.5, 0.5], [-0.5, 0.5], [0.0, 1.0]]
    """
    if m == 1 or r == 1:  # nothing to save: the products as they stand
        identity, ones = np.eye(m + r - 1), np.ones((m + r - 1, 1))
        A, G = (ones, identity) if m == 1 else (identity, ones)
        return Transform(m, r, A, identity, G)
    return Transform(m, r, *matrices(m, r, [node for a in _PAIRS[m + r - 2] for node in ((a, -a) if a else (a,))]))


def matrices(m: int, r: int, nodes: Sequence[Fraction | int]) -> tuple[Array, Array, Array]:
    """A, B and G for those nodes, which are m + r - 2, and ∞."""
    finite = [Fraction(node) for node in nodes]
    A, B, G = [_powers(a, m) for a in finite], [], []
    for a in finite:
        lagrange = _monic([b for b in finite if b != a])
        scale = sum(c * a**k for k, c in enumerate(lagrange))
        B.append([*lagrange, Fraction(0)])
        G.append([power / scale for power in _powers(a, r)])
    A.append([Fraction(0)] * (m - 1) + [Fraction(1)])
    B.append(_monic(finite))
    G.append([Fraction(0)] * (r - 1) + [Fraction(1)])
    return np.array(A, float), np.array(B, float), np.array(G, float)


def _powers(a: Fraction, n: int) -> list[Fraction]:
    return [a**k for k in range(n)]


def _monic(roots: list[Fraction]) -> list[Fraction]:
    """Π (x - root): its coefficients from the constant term up."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [s - root * c for s, c in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return coefficients


@cache
def error_growth(m: int, r: int) -> float:
    """How much larger the rounding errors of F(m, r) are than those of direct sums, at the worst place of y, d or g.

    >>> round(error_growth(2, 2), 2), round(error_growth(4, 2), 2)
    (1.41, 2.1)
    """
    t = transform(m, r)
    return growth_of(t.A, t.B, t.G)


def growth_of(A: Array, B: Array, G: Array) -> float:
    """`error_growth` of any three matrices.

    Rounding in the product at node a is proportional to |B[a]|·|G[a]| for random d and g, and A carries it to y (and
    so on for d and g). Directly summed, y[i] has the errors of r products, g[k] those of m, and d[j] those of r, once
    the tiles that share it are added.
    """
    (nodes, m), r = A.shape, G.shape[1]
    A, B, G = A**2, B**2, G**2
    y = A.T @ (B.sum(1) * G.sum(1)) / r
    d = B.T @ (A.sum(1) * G.sum(1)) / r
    shared = np.bincount(np.arange(nodes) % m, d)  # tiles are m apart
    g = G.T @ (A.sum(1) * B.sum(1)) / m
    return float(np.sqrt(max(y.max(), shared.max(), g.max())))

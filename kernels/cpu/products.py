"""Matrix products on the worker threads, with the same bits for any number of threads.

BLAS on several threads may split a product so that its sums run in another order. So a large product is cut here into
parts of the result, the same ones whatever the number of threads, and BLAS makes each part on one thread. That some
BLAS kernels compute on what lies beside a small matrix, and leave flags of it, is why nobody is warned of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from .memory import empty
from .workers import parallel, single_threaded_blas

__all__ = ["einsum", "matmul", "matmuls"]

Array = np.ndarray[Any, Any]

# In multiply-adds: below the first, BLAS stays on one thread by itself (it does so later for matrices than for
# vectors). A part of the second takes a tenth of a millisecond, about twice what it takes to call a thread.
SMALL = 1 << 13
PART = 1 << 22
MOST_PARTS = 8  # of all products together, if they are fewer


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """a·b over the last two axes, the others broadcast, as np.matmul.

    >>> matmul(np.ones((2, 3)), np.ones((3, 1))).tolist()
    [[3.0], [3.0]]
    """
    return matmuls([(a, b)], [out])[0]


def matmuls(factors: Sequence[tuple[Array, Array]], outs: Sequence[Array | None] | None = None) -> list[Array]:
    """Several products at once, which waits for threads only once.

    >>> [y.tolist() for y in matmuls([(np.ones((1, 2)), np.ones((2, 1))), (np.eye(1), np.eye(1))])]
    [[[2.0]], [[1.0]]]
    """
    work: list[Callable[[], Any]] = []
    results, largest = [], 0
    for (a, b), out in zip(factors, outs or [None] * len(factors), strict=True):
        size = a.shape[-2] * a.shape[-1] * b.shape[-1]
        if out is None:
            shape = np.broadcast_shapes(a.shape[:-2], b.shape[:-2]) if a.ndim > 2 or b.ndim > 2 else ()
            out = empty((*shape, a.shape[-2], b.shape[-1]), np.result_type(a, b))
        results.append(out)
        work += _parts(a, b, out, min(size // PART, MOST_PARTS // len(factors)))
        largest = max(largest, size)
    with np.errstate(all="ignore"):
        if largest >= PART:
            parallel(lambda i: work[i](), len(work))
        elif largest > SMALL:
            with single_threaded_blas():
                for product in work:
                    product()
        else:
            for product in work:
                product()
    return results


def _parts(a: Array, b: Array, out: Array, count: int) -> list[Callable[[], Any]]:
    """The product as at most so many calls that can be made at the same time."""
    count = 1 << count.bit_length() - 1 if count else 1  # a power of two, for as many threads
    if count == 1:
        return [partial(np.matmul, a, b, out=out)]
    rows, columns = out.shape[-2:]
    cut = [max(rows, columns) * i // count for i in range(count + 1)]
    some = [slice(*ends) for ends in zip(cut, cut[1:], strict=False)]
    if rows >= columns:
        return [partial(np.matmul, a[..., part, :], b, out=out[..., part, :]) for part in some]
    return [partial(np.matmul, a, b[..., part], out=out[..., part]) for part in some]


def einsum(subscripts: str, *arrays: Array) -> Array:
    """np.einsum by way of matrix products where it can be.

    >>> einsum("ij,jk->ik", np.ones((1, 2)), np.ones((2, 1))).tolist()
    [[2.0]]
    """
    with single_threaded_blas():
        return np.einsum(subscripts, *arrays, optimize=True)

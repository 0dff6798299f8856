"""Matrix products: which kernel makes one, in how many blocks, and whether K is split among them.

All kernels take rows without gaps. A transposed view is no copy: v2 to v4 read op(A) and op(B) in either order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

__all__ = ["PRECISIONS", "RUNGS", "Rung", "choose", "gemm", "matmul", "matmuls"]

Array = Any

MULTIPROCESSORS = 132  # of an H100; a constant, so that sums are made in the same order on every GPU
DEPTH = 16  # values of k in a tile, so that splits are multiples of it
SHORTEST_SPLIT = 128  # values of k: fewer are not worth to write and read their sums
MOST_MATRICES = 65535  # of one launch, by CUDA's limit of a grid's last two sizes


@dataclass(frozen=True)
class Rung:
    """A kernel of `file`. A block makes `tile` × `tile` values of C; `plain` kernels only A·B, without all the rest."""

    name: str
    kernel: str
    minimum_arch: int
    precision: str
    tile: int
    block: tuple[int, ...]
    file: str = "gemm"
    plain: bool = False


RUNGS = (
    Rung("v0 naive", "gemm_naive", 75, "highest", 16, (16, 16), plain=True),
    Rung("v1 tiled", "gemm_tiled", 75, "highest", 16, (16, 16), plain=True),
    Rung("v2 registers", "gemm_registers", 75, "highest", 128, (256,)),
    Rung("v2 registers, small", "gemm_registers_small", 75, "highest", 64, (256,)),
    Rung("v3 TF32", "gemm_tf32", 80, "high", 128, (128,), "gemm_tensor"),
    Rung("v3 TF32, small", "gemm_tf32_small", 80, "high", 64, (128,), "gemm_tensor"),
    Rung("v4 bf16", "gemm_bf16", 80, "medium", 128, (128,), "gemm_tensor"),
    Rung("v4 bf16, small", "gemm_bf16_small", 80, "medium", 64, (128,), "gemm_tensor"),
)
PRECISIONS = ("highest", "high", "medium")  # of the operands: fp32, TF32, bf16; sums are always fp32


def choose(M: int, N: int, K: int, matrices: int = 1, precision: str = "highest", arch: int = 90) -> tuple[Rung, int]:
    """The rung for a product, or a stack of them, and among how many blocks K is split.

    Large tiles read less. They are taken where they give work to at least half of the multiprocessors, with K split if
    need be. A GPU without tensor cores for a precision computes with a higher one.

    >>> [(rung.name, splits) for rung, splits in (choose(4096, 4096, 64), choose(512, 512, 8192), choose(128, 1, 8192))]
    [('v2 registers', 1), ('v2 registers', 8), ('v2 registers, small', 64)]
    """
    if precision not in PRECISIONS:
        raise ValueError(f"gemm: got precision {precision!r}, expected one of {PRECISIONS}")
    fitting = [rung for rung in RUNGS if not rung.plain and rung.precision == precision and rung.minimum_arch <= arch]
    if not fitting:
        return choose(M, N, K, matrices, "highest", arch)
    large, small = fitting
    splits = _splits(large, M, N, K, matrices)
    if min(M, N) > small.tile and _blocks(large, M, N, matrices) * splits >= MULTIPROCESSORS // 2:
        return large, splits
    return small, _splits(small, M, N, K, matrices)


def _blocks(rung: Rung, M: int, N: int, matrices: int) -> int:
    return -(-M // rung.tile) * -(-N // rung.tile) * matrices


def _splits(rung: Rung, M: int, N: int, K: int, matrices: int) -> int:
    return max(1, min(MULTIPROCESSORS // _blocks(rung, M, N, matrices), K // SHORTEST_SPLIT))


def gemm(
    device: Any, a: Array, b: Array, transpose_a: bool = False, transpose_b: bool = False, bias: Array | None = None,
    slope: float | None = None, precision: str = "highest", *, out: Array | None = None, rung: Rung | None = None,
    splits: int | None = None,
) -> Array:  # fmt: skip
    """leaky(op(a)·op(b) + bias), without a `slope` not leaky; op transposes the last two axes, or leaves them.

    Both are stacks of as many matrices, or one of them is a single matrix for all of the other's. `bias` has a value
    for each column. `rung` and `splits` are chosen if not given.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> a, b = np.float32([[1, 2]]), np.float32([[3, 4], [-5, -6]])
    >>> gemm(EmulatedDevice(), a, b, transpose_b=True, bias=np.float32([0, 7]), slope=0.1).tolist()
    [[11.0, -1.0]]
    """
    (M, K), (inner, N) = _turned(a.shape, transpose_a), _turned(b.shape, transpose_b)
    lead = a.shape[:-2] or b.shape[:-2]
    if inner != K or any(x.shape[:-2] not in ((), lead) for x in (a, b)):
        raise ValueError(
            f"gemm: got shapes {a.shape}{' transposed' * transpose_a} and {b.shape}{' transposed' * transpose_b}, "
            f"expected one inner size, and the same leading axes unless one is a matrix"
        )
    if bias is not None and bias.shape != (N,):
        raise ValueError(f"gemm: got a bias of shape {bias.shape}, expected {(N,)}")
    shape = (*lead, M, N)
    if out is None:
        out = device.empty(shape, np.float32)
    elif out.shape != shape:
        raise ValueError(f"gemm: got out of shape {out.shape}, expected {shape}")
    if out.size == 0:
        return out
    matrices = prod(lead)
    if b.ndim == 2 and not transpose_a:  # one matrix after the other is one matrix with more rows
        M, matrices = M * matrices, 1
    if matrices > MOST_MATRICES:
        stacks = [x if x.ndim == 2 else x.reshape(matrices, *x.shape[-2:]) for x in (a, b, out)]
        for first in range(0, matrices, MOST_MATRICES):
            a, b, c = (x if x.ndim == 2 else x[first : first + MOST_MATRICES] for x in stacks)
            gemm(device, a, b, transpose_a, transpose_b, bias, slope, precision, out=c, rung=rung, splits=splits)
        return out
    if rung is None:
        rung, chosen = choose(M, N, K, matrices, precision, getattr(device, "arch", 90))
    else:
        chosen = 1 if rung.plain else _splits(rung, M, N, K, matrices)
    splits = chosen if splits is None else splits
    if not rung.plain:
        strides = [0 if x.ndim == 2 or matrices == 1 else x.shape[-2] * x.shape[-1] for x in (a, b)]
        layout = (transpose_a, transpose_b, *strides)
        _launch(device, rung, splits, (a, b, bias, out), (M, N, K), matrices, layout, slope)
    elif matrices > 1 or transpose_a or transpose_b or bias is not None or slope is not None or splits > 1:
        raise ValueError(f"gemm: {rung.name} makes one plain product, without transposes, bias, slope or splits")
    else:
        grid = (-(-N // rung.tile), -(-M // rung.tile))
        device.launch(rung.file, rung.kernel, grid, rung.block, (a, b, out, M, N, K))
    return out


def _launch(
    device: Any, rung: Rung, splits: int, arrays: tuple[Array, Array, Array | None, Array], sizes: tuple[int, int, int],
    matrices: int, layout: tuple[Any, ...], slope: float | None,
) -> None:  # fmt: skip
    """Rungs from v2 on: one launch, or with K split one into a workspace and one that adds up what is there."""
    a, b, bias, out = arrays
    M, N, K = sizes
    chunk = -(-max(K, 1) // (splits * DEPTH)) * DEPTH
    splits = max(1, -(-K // chunk))
    slope = 1.0 if slope is None else slope
    grid = (_blocks(rung, M, N, 1), splits, matrices)
    if splits == 1:
        device.launch(rung.file, rung.kernel, grid, rung.block, (a, b, bias, out, M, N, K, *layout, chunk, slope))
        return
    partial = device.empty((matrices, splits, M, N), np.float32)
    device.launch(rung.file, rung.kernel, grid, rung.block, (a, b, None, partial, M, N, K, *layout, chunk, 1.0))
    grid, size = (-(-M * N // 256), matrices, 1), M * N
    device.launch("gemm", "gemm_split_sum", grid, (256,), (partial, bias, out, size, N, splits, slope))


def _turned(shape: Sequence[int], transpose: bool) -> tuple[int, int]:
    """Rows and columns of op(x)."""
    return (shape[-1], shape[-2]) if transpose else (shape[-2], shape[-1])


def matmul(device: Any, a: Array, b: Array, out: Array | None = None, precision: str = "highest") -> Array:
    """a·b over the last two axes, the others broadcast.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> matmul(EmulatedDevice(), np.ones((2, 3), np.float32), np.ones((1, 3), np.float32).T).tolist()
    [[3.0], [3.0]]
    """
    return matmuls(device, [(a, b)], [out], precision)[0]


def matmuls(
    device: Any, factors: Sequence[tuple[Array, Array]], outs: Sequence[Array | None] | None = None,
    precision: str = "highest",
) -> list[Array]:  # fmt: skip
    """Several products.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> one = np.ones((1, 1), np.float32)
    >>> [y.tolist() for y in matmuls(EmulatedDevice(), [(one, one), (one, 2 * one)])]
    [[[1.0]], [[2.0]]]
    """
    outs = outs or [None] * len(factors)
    return [_matmul(device, a, b, out, precision) for (a, b), out in zip(factors, outs, strict=True)]


def _matmul(device: Any, a: Array, b: Array, out: Array | None, precision: str) -> Array:
    (a, transpose_a), (b, transpose_b) = _stored(a), _stored(b)
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape = (*lead, _turned(a.shape, transpose_a)[0], _turned(b.shape, transpose_b)[1])
    if out is None:
        out = device.empty(shape, np.float32)
    elif out.shape != shape:
        raise ValueError(f"matmul: got out of shape {out.shape}, expected {shape}")
    a, b = (x.reshape(x.shape[-2:]) if prod(x.shape[:-2]) == 1 else x for x in (a, b))
    if all(x.shape[:-2] in ((), lead) for x in (a, b)):
        one = out if a.ndim > 2 or b.ndim > 2 else out.reshape(shape[-2:])
        gemm(device, a, b, transpose_a, transpose_b, precision=precision, out=one)
        return out
    for index in np.ndindex(lead):  # axes of which one side has several entries, and others of which the other has
        one_a, one_b = (x[_broadcast(index, x.shape[:-2])] for x in (a, b))
        gemm(device, one_a, one_b, transpose_a, transpose_b, precision=precision, out=out[index])
    return out


def _stored(x: Array) -> tuple[Array, bool]:
    """The matrices as they lie in memory, and whether those are to be transposed; a copy where they do neither."""
    if x.flags.c_contiguous:
        return x, False
    turned = x.swapaxes(-1, -2)
    return (turned, True) if turned.flags.c_contiguous else (x.copy(), False)


def _broadcast(index: tuple[int, ...], shape: Sequence[int]) -> tuple[int, ...]:
    """Where the entry of an index of the broadcast shape is."""
    return tuple(i if size > 1 else 0 for i, size in zip(index[len(index) - len(shape) :], shape, strict=True))

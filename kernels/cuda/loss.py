"""Binary cross-entropy of logits, softmax and log-softmax, and cross-entropy of classes, forward and backward."""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np

from . import reduce
from .double import real
from .layout import BLOCKS, THREADS, Array, gathered, in_memory_order

__all__ = [
    "bce_with_logits", "bce_with_logits_backward", "cross_entropy", "cross_entropy_backward", "log_softmax",
    "log_softmax_backward", "softmax", "softmax_backward",
]  # fmt: skip

SHORT = 256  # values of a row: for so many, a warp is enough


def _check(device: Any, name: str, *arrays: Array | None) -> None:
    for array in arrays:
        if array is not None and array.dtype != real(device):
            raise TypeError(f"{name}: got an array of {array.dtype}, expected {real(device)}")


def _back(x: Array, order: tuple[int, ...]) -> Array:
    return x.transpose([order.index(axis) for axis in range(x.ndim)])


# Binary cross-entropy -----------------------------------------------------------------------------------------


def bce_with_logits(device: Any, x: Array, t: Array, reduction: str, rung: str | None = None) -> Array:
    """-t·log σ(x) - (1 - t)·log σ(-x) of each pair ("none"), or their "mean" or "sum"; exact for all x.

    `rung` is "naive", or None for the best.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> zeros = np.zeros(4, np.float32)
    >>> round(float(bce_with_logits(EmulatedDevice(), zeros, zeros, "sum")), 4)
    2.7726
    """
    _check(device, "bce_with_logits", x, t)
    order, n = in_memory_order(x.strides, x.shape), x.size
    share = (1 / n if n else nan) if reduction == "mean" else 1.0
    pair = [gathered(device, x, order), gathered(device, t, order, x.shape)]
    if reduction == "none" or rung == "naive":
        loss = device.empty(pair[0].shape, x.dtype)
        if n:
            device.launch("loss", "bce_forward_naive", (-(-n // THREADS),), (THREADS,), [*pair, loss, n])
        if reduction == "none":
            return _back(loss, order)
        return reduce.mean(device, loss) if reduction == "mean" else reduce.sum(device, loss)
    blocks = max(1, min(BLOCKS, -(-n // THREADS)))
    sums = device.empty((blocks,), x.dtype)
    device.launch("loss", "bce_forward_sums", (blocks,), (THREADS,), [*pair, sums, n, share])
    return sums.reshape(()) if blocks == 1 else reduce.sum(device, sums)


def bce_with_logits_backward(
    device: Any, gl: Array, x: Array, t: Array | None, reduction: str, needs: tuple[bool, bool] = (True, False)
) -> tuple[Array | None, Array | None]:  # fmt: skip
    """Gradients of x and t: gl·((1 - t)·σ(x) - t·σ(-x)) and -gl·x, for a mean divided by the number of pairs.

    t may be None if the gradient of x is not needed.
    """
    _check(device, "bce_with_logits_backward", gl, x, t)
    order, n = in_memory_order(x.strides, x.shape), x.size
    values, targets = gathered(device, x, order), None if t is None else gathered(device, t, order, x.shape)
    given = gathered(device, gl, order) if reduction == "none" else gl.reshape(1)
    gx, gt = (device.empty(values.shape, x.dtype) if need else None for need in needs)
    if n:
        share = 1 / n if reduction == "mean" else 1.0
        device.launch(
            "loss", "bce_backward", (-(-n // THREADS),), (THREADS,),
            [given, values, targets, gx, gt, n, share, int(reduction != "none")],
        )  # fmt: skip
    return None if gx is None else _back(gx, order), None if gt is None else _back(gt, order)


# Softmax ------------------------------------------------------------------------------------------------------


def softmax(device: Any, x: Array, dim: int = -1, rung: str | None = None) -> Array:
    """eˣ / Σeˣ along an axis. `rung` is "naive", or None for the best.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> softmax(EmulatedDevice(), np.zeros((1, 4), np.float32))
    array([[0.25, 0.25, 0.25, 0.25]], dtype=float32)
    """
    return _forward(device, x, dim, 0, rung)


def log_softmax(device: Any, x: Array, dim: int = -1, rung: str | None = None) -> Array:
    """x - log Σeˣ along an axis, exact for very unequal x."""
    return _forward(device, x, dim, 1, rung)


def softmax_backward(device: Any, gy: Array, y: Array, dim: int = -1) -> Array:
    """y·(gy - Σ gy·y), where y is the result of `softmax`."""
    return _backward(device, gy, y, dim, 0)


def log_softmax_backward(device: Any, gy: Array, y: Array, dim: int = -1) -> Array:
    """gy - eʸ·Σ gy, where y is the result of `log_softmax`."""
    return _backward(device, gy, y, dim, 1)


def _forward(device: Any, x: Array, dim: int, logs: int, rung: str | None) -> Array:
    _check(device, "softmax", x)
    order = _last(x, dim)
    values = gathered(device, x, order)
    y = device.empty(values.shape, x.dtype)
    if x.size:
        rows, count = x.size // x.shape[dim], x.shape[dim]
        kernel, grid, block = "softmax_rows", *_rows(rows, count)
        if rung == "naive":
            kernel, grid, block = "softmax_naive", (-(-rows // THREADS),), (THREADS, 1)
        device.launch("loss", kernel, grid, block, [values, y, rows, count, logs])
    return _back(y, order)


def _backward(device: Any, gy: Array, y: Array, dim: int, logs: int) -> Array:
    _check(device, "softmax_backward", gy, y)
    order = _last(y, dim)
    given, values = gathered(device, gy, order), gathered(device, y, order)
    gx = device.empty(values.shape, y.dtype)
    if y.size:
        rows, count = y.size // y.shape[dim], y.shape[dim]
        device.launch("loss", "softmax_backward", *_rows(rows, count), [given, values, gx, rows, count, logs])
    return _back(gx, order)


def _last(x: Array, dim: int) -> tuple[int, ...]:
    """The axes in the order of memory, but with `dim` last."""
    last = dim % x.ndim
    return (*(axis for axis in in_memory_order(x.strides, x.shape) if axis != last), last)


def _rows(rows: int, values: int) -> tuple[tuple[int], tuple[int, int]]:
    """Grid and block for a warp or a block for each row."""
    width = 32 if values <= SHORT else THREADS
    height = THREADS // width
    return (-(-rows // height),), (width, height)


# Cross-entropy of classes -------------------------------------------------------------------------------------


def cross_entropy(
    device: Any, x: Array, t: Array, reduction: str, ignore_index: int = -100
) -> tuple[Array, tuple[Array, ...]]:  # fmt: skip
    """-log softmax(x)[t] for each class t ("none"), or the "mean" or "sum" of those not ignored.

    Classes are along axis 1, or the only one. A class that does not exist makes the loss NaN. Also returns what the
    backward pass needs.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> loss, _ = cross_entropy(EmulatedDevice(), np.zeros((1, 2), np.float32), np.array([0]), "mean")
    >>> round(float(loss), 4)
    0.6931
    """
    _check(device, "cross_entropy", x)
    order = _last(x, min(x.ndim - 1, 1))
    targets = _targets(device, t, order)
    values, rows, count = gathered(device, x, order), t.size, x.shape[order[-1]]
    loss = device.empty(targets.shape, x.dtype)
    tops, sums = device.empty((rows,), x.dtype), device.empty((rows,), x.dtype)
    if rows:
        device.launch(
            "loss", "cross_entropy_forward", *_rows(rows, count),
            [values, targets, loss, tops, sums, rows, count, ignore_index],
        )  # fmt: skip
    share = device.empty((1,), x.dtype) if reduction == "mean" else None
    if reduction == "none":
        return loss.transpose(_inverse(order)), (tops, sums)
    if share is None:
        return reduce.sum(device, loss), (tops, sums)
    out = device.empty((), x.dtype)
    device.launch("loss", "cross_entropy_mean", (1,), (THREADS,), [loss, targets, out, share, rows, ignore_index])
    return out, (tops, sums, share)


def cross_entropy_backward(
    device: Any, gl: Array, x: Array, t: Array, saved: tuple[Array, ...], reduction: str, ignore_index: int = -100
) -> Array:  # fmt: skip
    """The gradient of x: gl·(softmax(x) - [class is t]), for a mean divided by the number of t not ignored."""
    _check(device, "cross_entropy_backward", gl, x)
    order = _last(x, min(x.ndim - 1, 1))
    values, targets, rows, count = gathered(device, x, order), _targets(device, t, order), t.size, x.shape[order[-1]]
    given = gathered(device, gl, _rest(order)) if reduction == "none" else gl.reshape(1)
    gx = device.empty(values.shape, x.dtype)
    tops, sums, share = (*saved, None)[:3]
    if x.size:
        device.launch(
            "loss", "cross_entropy_backward", (-(-x.size // THREADS),), (THREADS,),
            [given, values, targets, tops, sums, share, gx, rows, count, ignore_index, int(reduction != "none")],
        )  # fmt: skip
    return _back(gx, order)


def _rest(order: tuple[int, ...]) -> tuple[int, ...]:
    """The order of x's axes without the classes, as axes of t."""
    return tuple(axis - (axis > order[-1]) for axis in order[:-1])


def _inverse(order: tuple[int, ...]) -> list[int]:
    rest = _rest(order)
    return [rest.index(axis) for axis in range(len(rest))]


def _targets(device: Any, t: Array, order: tuple[int, ...]) -> Array:
    if t.dtype != np.int64:
        raise TypeError(f"cross_entropy: got classes of {t.dtype}, expected int64")
    return gathered(device, t, _rest(order))

"""Loss functions.

`reduction` is 'none', 'mean' or 'sum'. The older `size_average` and `reduce` are understood: where either
is given, it counts instead.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

import minigan as mg
from minigan import graphs
from minigan.check import check_tensors
from minigan.graph import wrap
from minigan.ops.index import take_rows
from minigan.ops.linear import check_same_dtype
from minigan.ops.loss import binary_cross_entropy as _binary_cross_entropy
from minigan.ops.loss import binary_cross_entropy_with_logits as _binary_cross_entropy_with_logits
from minigan.ops.smooth import logsigmoid
from minigan.tensor import Tensor

Flag = bool | None


def reduction_of(reduction: str, size_average: Flag = None, reduce: Flag = None) -> str:
    """The reduction meant by the new and the old arguments.

    >>> reduction_of("mean", size_average=False)
    'sum'
    """
    if size_average is not None or reduce is not None:
        return "none" if reduce is False else "sum" if size_average is False else "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"got reduction {reduction!r}, expected 'none', 'mean' or 'sum'")
    return reduction


def _reduced(loss: Tensor, reduction: str, size_average: Flag = None, reduce: Flag = None) -> Tensor:
    how = reduction_of(reduction, size_average, reduce)
    return loss if how == "none" else getattr(loss, how)()


def _check_pair(name: str, input: Tensor, target: Tensor, exact: bool = False) -> None:
    check_tensors(name, input, target)
    check_same_dtype(name, input, target)
    if input.shape != target.shape:
        shapes = f"{name}: got input of shape {tuple(input.shape)} and target of shape {tuple(target.shape)}"
        if exact:
            raise ValueError(f"{shapes}, expected the same shape; use target.view_as(input) or .expand_as(input)")
        try:
            np.broadcast_shapes(input.shape, target.shape)
        except ValueError:
            raise RuntimeError(f"{shapes}, expected the same shape") from None
        warnings.warn(f"{shapes}: they are broadcast, which is likely a mistake", stacklevel=3)


# Distances --------------------------------------------------------------------------------------------


def mse_loss(
    input: Tensor, target: Tensor, size_average: Flag = None, reduce: Flag = None, reduction: str = "mean"
) -> Tensor:
    """(x - t)²

    >>> mse_loss(mg.tensor([1.0, 3.0]), mg.tensor([1.0, 1.0]))
    tensor(2.)
    """
    _check_pair("mse_loss", input, target)
    return _reduced((input - target).square(), reduction, size_average, reduce)


def l1_loss(
    input: Tensor, target: Tensor, size_average: Flag = None, reduce: Flag = None, reduction: str = "mean"
) -> Tensor:
    """|x - t|"""
    _check_pair("l1_loss", input, target)
    return _reduced((input - target).abs(), reduction, size_average, reduce)


def smooth_l1_loss(
    input: Tensor, target: Tensor, size_average: Flag = None, reduce: Flag = None, reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:  # fmt: skip
    """½d²/β where d = |x - t| < β, d - ½β elsewhere"""
    if beta < 0:
        raise RuntimeError(f"smooth_l1_loss: got beta {beta}, expected 0 or more; 0 is l1_loss")
    _check_pair("smooth_l1_loss", input, target)
    d = (input - target).abs()
    loss = d if beta == 0 else mg.where(d < beta, d.square() * (0.5 / beta), d - 0.5 * beta)
    return _reduced(loss, reduction, size_average, reduce)


def huber_loss(input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """½d² where d = |x - t| < δ, δ·(d - ½δ) elsewhere"""
    if delta <= 0:
        raise RuntimeError(f"huber_loss: got delta {delta}, expected more than 0")
    return delta * smooth_l1_loss(input, target, reduction=reduction, beta=delta)


def hinge_embedding_loss(
    input: Tensor, target: Tensor, margin: float = 1.0, size_average: Flag = None, reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """x where t = 1, max(0, margin - x) where t = -1"""
    loss = mg.where(target != 1, (margin - input).clamp(min=0), 0.0) + mg.where(target != -1, input, 0.0)
    return _reduced(loss, reduction, size_average, reduce)


# Probabilities ----------------------------------------------------------------------------------------


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Flag = None, reduce: Flag = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """-t·log x - (1 - t)·log(1 - x), for x in [0, 1]; a log is never below -100

    >>> binary_cross_entropy(mg.tensor([0.5]), mg.tensor([1.0]))
    tensor(0.6931)
    """
    _check_pair("binary_cross_entropy", input, target, exact=True)
    if not ((input >= 0) & (input <= 1)).all():
        raise RuntimeError(
            "binary_cross_entropy: all elements of input should be between 0 and 1; apply sigmoid first, or use "
            "binary_cross_entropy_with_logits"
        )
    loss = _binary_cross_entropy(input, target)
    return _reduced(loss if weight is None else loss * weight, reduction, size_average, reduce)


def binary_cross_entropy_with_logits(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Flag = None, reduce: Flag = None,
    reduction: str = "mean", pos_weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """-p·t·log σ(x) - (1 - t)·log σ(-x), p being `pos_weight`: exact for all x

    >>> binary_cross_entropy_with_logits(mg.tensor([-200.0]), mg.tensor([1.0]))
    tensor(200.)
    """
    _check_pair("binary_cross_entropy_with_logits", input, target, exact=True)
    how = reduction_of(reduction, size_average, reduce)
    if pos_weight is None:
        loss = _binary_cross_entropy_with_logits(input, target, how if weight is None else "none")
        return loss if weight is None else _reduced(loss * weight, how)
    loss = -(pos_weight * target * logsigmoid(input) + (1 - target) * logsigmoid(-input))
    return _reduced(loss if weight is None else loss * weight, how)


def kl_div(
    input: Tensor, target: Tensor, size_average: Flag = None, reduce: Flag = None, reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:  # fmt: skip
    """t·(log t - x), x being log-probabilities; reduction 'batchmean' divides the sum by the batch"""
    _check_pair("kl_div", input, target)
    log = target if log_target else mg.where(target > 0, target, 1.0).log()
    loss = (target.exp() if log_target else target) * (log - input)
    if reduction == "batchmean" and size_average is None and reduce is None:
        return loss.sum() * (1 / input.shape[0])
    return _reduced(loss, reduction, size_average, reduce)


# Classes ----------------------------------------------------------------------------------------------


def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Flag = None, ignore_index: int = -100,
    reduce: Flag = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """-w[t]·x[t] for log-probabilities x (N, C, …) and classes t (N, …); the mean is weighted by w"""
    how = reduction_of(reduction, size_average, reduce)
    _, weights, picked = _pick("nll_loss", input, target, weight, ignore_index)
    return _weighted(-picked * weights, weights, how)


def cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Flag = None, ignore_index: int = -100,
    reduce: Flag = None, reduction: str = "mean", label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """-Σ w·t·log softmax(x) over the classes (axis 1), for t the classes (N, …) or their probabilities (N, C, …)

    >>> cross_entropy(mg.zeros(1, 2), mg.tensor([0]))
    tensor(0.6931)
    """
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"cross_entropy: got label_smoothing {label_smoothing}, expected 0 to 1")
    how = reduction_of(reduction, size_average, reduce)
    if input.ndim == 0:
        raise RuntimeError("cross_entropy: got input of shape (), expected (C) or (N, C, …)")
    axis = min(input.ndim - 1, 1)
    _check_weight("cross_entropy", input, weight)
    logp = input.log_softmax(axis)
    per_class = logp if weight is None else logp * weight.reshape(-1, *[1] * max(input.ndim - 2, 0))
    even = label_smoothing / max(input.shape[axis], 1)
    if target.dtype.kind == "f":
        if target.shape != input.shape:
            raise _class_shapes("cross_entropy", input, target)
        loss = -(per_class * (target * (1 - label_smoothing) + even)).sum(axis)
        return loss.sum() * (1 / max(loss.numel(), 1)) if how == "mean" else _reduced(loss, how)
    kept, weights, picked = _pick("cross_entropy", logp, target, weight, ignore_index)
    loss = -picked * weights
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - even * mg.where(kept, per_class.sum(axis), 0.0)
    return _weighted(loss, weights, how)


def _pick(
    name: str, x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Which targets count, the weight of each, and x at each; the last two are 0 where a target is ignored."""
    check_tensors(name, x, target)
    if target.dtype.kind not in "iu":
        raise RuntimeError(f"{name}: got classes of dtype {target.dtype}, expected integers; use .long()")
    if x.ndim == 0 or target.shape != x.shape[:1][: x.ndim - 1] + x.shape[2:]:
        raise _class_shapes(name, x, target)
    _check_weight(name, x, weight)
    axis = min(x.ndim - 1, 1)
    kept = target != ignore_index
    wrong = kept & ((target < 0) | (target >= x.shape[axis]))
    if not graphs.capturing(x.B) and wrong.any():
        raise IndexError(
            f"{name}: target {target[wrong][0].item()} is out of bounds: expected 0 to {x.shape[axis] - 1}"
        )
    place = mg.where(kept, target, 0).reshape(-1)
    classes_last = x.movedim(axis, -1).reshape(-1)
    starts = wrap(x.B.xp.arange(0, classes_last.numel(), max(x.shape[axis], 1)), x.B, None)
    picked = mg.where(kept, take_rows(classes_last, starts + place).reshape(target.shape), 0.0)
    if graphs.capturing(x.B):  # nobody can look into a captured step: its loss says it
        picked = mg.where(wrong, math.nan, picked)
    weights = kept.to(x.dtype)
    if weight is not None:
        weights = take_rows(weight, place).reshape(target.shape) * weights
    return kept, weights, picked


def _check_weight(name: str, x: Tensor, weight: Tensor | None) -> None:
    check_same_dtype(name, x, weight)
    count = x.shape[min(x.ndim - 1, 1)]
    if weight is not None and weight.shape != (count,):
        raise RuntimeError(f"{name}: got weight of shape {tuple(weight.shape)}, expected ({count},), one per class")


def _class_shapes(name: str, x: Tensor, target: Tensor) -> Exception:
    kind = ValueError if x.ndim > 1 and target.shape[:1] != x.shape[:1] else RuntimeError
    return kind(
        f"{name}: got input of shape {tuple(x.shape)} and {target.dtype} target of shape {tuple(target.shape)}: "
        "expected (N, C, …) with classes (N, …), or (C) with ()"
        + (", or probabilities of the input's shape" if name == "cross_entropy" else "")
    )


def _weighted(loss: Tensor, weights: Tensor, how: str) -> Any:
    return loss.sum() / weights.sum() if how == "mean" else _reduced(loss, how)

"""Normalisation of activations: batch, instance, layer and group norm.

All four are y = (x - mean x) / √(var x + eps)·w + b; they differ in the axes averaged over.
`_slope` is of a leaky ReLU to end with; only `minigan.nn.fusion` gives it. `_tracked` counts batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import minigan as mg
from minigan.graph import wrap
from minigan.inplace import assign
from minigan.observe import observers
from minigan.ops.linear import check_same_dtype
from minigan.ops.norm import normalize, standardize
from minigan.tensor import Tensor


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    _slope: float | None = None,
    _tracked: Tensor | None = None,
) -> Tensor:
    """Normalise each channel (axis 1) over all other axes; in evaluation, by the running statistics.

    >>> batch_norm(mg.tensor([[1.0], [3.0]]), None, None, training=True, eps=0.0).tolist()
    [[-1.0], [1.0]]
    """
    _check("batch_norm", input, weight, bias, running_mean, running_var)
    if not training:
        return _by_running_stats("batch_norm", input, running_mean, running_var, weight, bias, eps, _slope)
    axes = (0, *range(2, input.ndim))
    count = math.prod(input.shape[d] for d in axes)
    if count == 1:
        raise ValueError(
            f"batch_norm: Expected more than 1 value per channel when training, got input of shape "
            f"{tuple(input.shape)}; use a larger batch, or eval()"
        )
    y, mean, var = normalize(input, _column(weight, input), _column(bias, input), axes, eps, _slope)
    _update("batch_norm", input, running_mean, running_var, mean, var, count, momentum, _tracked)
    return y


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel of each sample over its spatial axes, or by the running statistics."""
    _check("instance_norm", input, weight, bias, running_mean, running_var)
    if not use_input_stats:
        return _by_running_stats("instance_norm", input, running_mean, running_var, weight, bias, eps)
    count = math.prod(input.shape[2:])
    if count == 1:
        raise ValueError(
            f"instance_norm: Expected more than 1 spatial element when training, got input of shape "
            f"{tuple(input.shape)}"
        )
    axes = tuple(range(2, input.ndim))
    y, mean, var = normalize(input, _column(weight, input), _column(bias, input), axes, eps)
    _update(
        "instance_norm", input, running_mean, running_var, mean.mean((0, *axes)), var.mean((0, *axes)), count, momentum
    )
    return y


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each sample over its last axes, which have the sizes `normalized_shape`."""
    check_same_dtype("layer_norm", input, weight, bias)
    shape = tuple(normalized_shape)
    if not shape or input.shape[-len(shape) :] != shape:
        raise RuntimeError(
            f"layer_norm: got input of shape {tuple(input.shape)}, expected one that ends in normalized_shape {shape}"
        )
    for name, given in (("weight", weight), ("bias", bias)):
        if given is not None and given.shape != shape:
            raise RuntimeError(f"layer_norm: got {name} of shape {tuple(given.shape)}, expected {shape}")
    axes = tuple(range(input.ndim - len(shape), input.ndim))
    return normalize(input, weight, bias, axes, eps)[0]


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each sample over groups of neighbouring channels and all spatial axes."""
    _check("group_norm", input, weight, bias)
    batch, channels, *spatial = input.shape
    if num_groups < 1 or channels % num_groups:
        raise RuntimeError(
            f"group_norm: got input of shape {tuple(input.shape)}, expected the number of channels (axis 1) "
            f"to be divisible by num_groups {num_groups}"
        )
    if batch * channels // num_groups * math.prod(spatial) == 1:
        raise ValueError(
            f"group_norm: Expected more than 1 value per channel when training, got input of shape "
            f"{tuple(input.shape)} in {num_groups} groups"
        )
    grouped = input.reshape(batch, num_groups, channels // num_groups, *spatial)
    w, b = (
        None if v is None else v.reshape(num_groups, channels // num_groups, *[1] * len(spatial))
        for v in (weight, bias)
    )
    return normalize(grouped, w, b, tuple(range(2, grouped.ndim)), eps)[0].reshape(input.shape)


def _check(name: str, x: Tensor, *per_channel: Tensor | None) -> None:
    check_same_dtype(name, x, *per_channel)
    if x.ndim < 2:
        raise ValueError(f"{name}: got input of shape {tuple(x.shape)}, expected at least 2 axes (N, C, …)")
    for given in per_channel:
        if given is not None and given.shape != (x.shape[1],):
            raise RuntimeError(
                f"{name}: got input of shape {tuple(x.shape)} and per-channel values of shape "
                f"{tuple(given.shape)}, expected ({x.shape[1]},)"
            )


def _column(v: Tensor | None, x: Tensor) -> Tensor | None:
    """Per-channel values in a shape that broadcasts with x."""
    return v if v is None or x.ndim == 2 else v.reshape(-1, *[1] * (x.ndim - 2))


def _by_running_stats(
    name: str, x: Tensor, mean: Tensor | None, var: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    eps: float, slope: float | None = None,
) -> Tensor:  # fmt: skip
    if mean is None or var is None:
        raise RuntimeError(f"{name}: expected running_mean and running_var to be given when not in training")
    return standardize(x, mean, var, weight, bias, eps, slope)


def _update(
    name: str, input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, mean: Tensor, var: Tensor,
    count: int, momentum: float, tracked: Tensor | None = None,
) -> None:  # fmt: skip
    """running ← (1 - momentum)·running + momentum·new, where the new variance is the unbiased one; one more tracked.

    On arrays: for so few values, a tensor operation costs more than the sums.
    """
    seen = input.numel() > 0
    if seen and running_mean is not None and running_var is not None and _plain(input, running_mean, running_var):
        counter = None if tracked is None else tracked.array
        input.B.kernels.update_running(
            running_mean.array, running_var.array, mean.array, var.array, momentum, count, tracked=counter
        )
        running_mean._bump(name)
        running_var._bump(name)
    else:
        if tracked is not None:
            tracked.array += 1
        for running, new, share in (
            (running_mean, mean, momentum),
            (running_var, var, momentum * count / (count - 1) if seen else 0.0),
        ):
            if seen and running is not None:
                values = running.array * (1 - momentum) + new.array.reshape(-1) * share
                with mg.no_grad():
                    assign(running, wrap(values, running.B, None), name)
    if tracked is not None:
        tracked._bump(name)


def _plain(input: Tensor, *running: Tensor) -> bool:
    """Whether one kernel may write these: nobody watches, and each lies without gaps on the input's device."""
    return not observers and all(
        x.B is input.B and x.array.flags.c_contiguous and getattr(x.array.flags, "writeable", True) for x in running
    )

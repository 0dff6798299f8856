"""Filling tensors with the starting values of the literature, in place and unrecorded.

Numbers are drawn on the host from minigan's streams, so a seed gives the same values on every device.
The fan-in of a weight of shape (out, in, k…) is in·Πk, its fan-out out·Πk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minigan.grad_mode import no_grad
from minigan.kernels.cpu.erf import erf
from minigan.random import default_generator
from minigan.tensor import Tensor

_GAINS = {
    "linear": 1.0, "conv1d": 1.0, "conv2d": 1.0, "conv3d": 1.0, "conv_transpose1d": 1.0, "conv_transpose2d": 1.0,
    "conv_transpose3d": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4,
}  # fmt: skip


def calculate_gain(nonlinearity: str, param: Any = None) -> float:
    """The factor by which weights before this nonlinearity are scaled to keep the variance.

    >>> round(calculate_gain("leaky_relu", 0.2), 4)
    1.3868
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            raise ValueError(f"calculate_gain: expected a number as the negative slope, got {slope!r}")
        return math.sqrt(2 / (1 + slope**2))
    if nonlinearity not in _GAINS:
        raise ValueError(f"calculate_gain: nonlinearity {nonlinearity!r} is none of {', '.join(_GAINS)}, leaky_relu")
    return _GAINS[nonlinearity]


def _assign(tensor: Tensor, values: Any, who: str) -> Tensor:
    with no_grad():
        return tensor._assign(values, who)


# Plain fillings ---------------------------------------------------------------------------------------


def constant_(tensor: Tensor, val: float) -> Tensor:
    """`val` everywhere."""
    return _assign(tensor, val, "init.constant_")


def ones_(tensor: Tensor) -> Tensor:
    """1 everywhere."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """0 everywhere."""
    return constant_(tensor, 0.0)


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform in [a, b)."""
    with no_grad():
        return tensor.uniform_(a, b, generator=generator)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Normal with this mean and standard deviation."""
    with no_grad():
        return tensor.normal_(mean, std, generator=generator)


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Any = None
) -> Tensor:
    """Normal, conditioned on lying in [a, b]: x = mean + std·√2·erf⁻¹(u), u uniform over what [a, b] maps to."""
    ends = erf(np.array([(a - mean) / std, (b - mean) / std]) / math.sqrt(2))
    u = (generator or default_generator).uniform(tensor.shape, np.float64) * (ends[1] - ends[0]) + ends[0]
    values = mean + std * math.sqrt(2) * _inverse_erf(u)
    return _assign(tensor, np.clip(values, a, b), "init.trunc_normal_")


def _inverse_erf(u: np.ndarray) -> np.ndarray:
    """Winitzki's approximation (2008, error below 2e-3), then two Newton steps."""
    u = np.clip(u, -1 + 1e-15, 1 - 1e-15)
    log = np.log1p(-u * u)
    half = 2 / (math.pi * 0.147) + log / 2
    x = np.copysign(np.sqrt(np.sqrt(half**2 - log / 0.147) - half), u)
    for _ in range(2):
        x -= (erf(x) - u) * math.sqrt(math.pi) / 2 * np.exp(x * x)
    return x


def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix."""
    _check_ndim(tensor, (2,), "eye_")
    return _assign(tensor, np.eye(tensor.shape[0], tensor.shape[1]), "init.eye_")


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """A convolution weight that passes as many channels as it can through unchanged, within each group."""
    _check_ndim(tensor, (3, 4, 5), "dirac_")
    out, fan, *kernel = tensor.shape
    if out % groups:
        raise ValueError(f"dirac_: {out} output channels cannot be divided into {groups} groups")
    values = np.zeros(tensor.shape)
    per_group = out // groups
    for channel in range(min(per_group, fan)):
        where: tuple[Any, ...] = (slice(channel, None, per_group), channel, *(k // 2 for k in kernel))
        values[where] = 1
    return _assign(tensor, values, "init.dirac_")


def _check_ndim(tensor: Tensor, allowed: tuple[int, ...], name: str) -> None:
    if tensor.ndim not in allowed:
        expected = " or ".join(map(str, allowed))
        raise ValueError(f"{name}: expected a tensor of {expected} axes, got shape {tuple(tensor.shape)}")


# Scaled by the fan ------------------------------------------------------------------------------------


def _fans(tensor: Tensor, name: str) -> tuple[int, int]:
    if tensor.ndim < 2:
        raise ValueError(f"{name}: fan in and fan out need at least 2 axes, got shape {tuple(tensor.shape)}")
    kernel = math.prod(tensor.shape[2:])
    return tensor.shape[1] * kernel, tensor.shape[0] * kernel


def _scaled(tensor: Tensor, std: float, draw: str, generator: Any) -> Tensor:
    """Numbers with this standard deviation: a uniform distribution over [-c, c] has c/√3."""
    if draw == "normal":
        return normal_(tensor, 0.0, std, generator)
    bound = math.sqrt(3) * std
    return uniform_(tensor, -bound, bound, generator)


def _xavier(tensor: Tensor, gain: float, generator: Any, draw: str) -> Tensor:
    """std = gain·√(2/(fan_in + fan_out))  (Glorot & Bengio 2010)"""
    fan_in, fan_out = _fans(tensor, f"xavier_{draw}_")
    return _scaled(tensor, gain * math.sqrt(2 / max(1, fan_in + fan_out)), draw, generator)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform with variance 2·gain²/(fan_in + fan_out)."""
    return _xavier(tensor, gain, generator, "uniform")


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Normal with variance 2·gain²/(fan_in + fan_out)."""
    return _xavier(tensor, gain, generator, "normal")


def _kaiming(tensor: Tensor, a: float, mode: str, nonlinearity: str, generator: Any, draw: str) -> Tensor:
    """std = gain/√fan  (He et al. 2015)"""
    fans = dict(zip(("fan_in", "fan_out"), _fans(tensor, f"kaiming_{draw}_"), strict=True))
    if mode.lower() not in fans:
        raise ValueError(f"kaiming_{draw}_: mode {mode!r} is neither 'fan_in' nor 'fan_out'")
    std = calculate_gain(nonlinearity, a) / math.sqrt(max(1, fans[mode.lower()]))
    return _scaled(tensor, std, draw, generator)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Uniform with variance gain²/fan."""
    return _kaiming(tensor, a, mode, nonlinearity, generator, "uniform")


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Normal with variance gain²/fan."""
    return _kaiming(tensor, a, mode, nonlinearity, generator, "normal")


# Structured -------------------------------------------------------------------------------------------


def orthogonal_(tensor: Tensor, gain: float = 1, generator: Any = None) -> Tensor:
    """A random matrix with orthonormal rows or columns (whichever are fewer), over (first axis, all others)."""
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_: expected at least 2 axes, got shape {tuple(tensor.shape)}")
    if not tensor.numel():
        return tensor
    rows, columns = tensor.shape[0], tensor.numel() // tensor.shape[0]
    tall = (max(rows, columns), min(rows, columns))
    q, r = np.linalg.qr((generator or default_generator).normal(tall, np.float64))
    q *= np.where(np.diag(r) < 0, -1, 1)  # makes the distribution uniform (Mezzadri 2007)
    q = q.T if rows < columns else q
    return _assign(tensor, gain * q.reshape(tensor.shape), "init.orthogonal_")


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> Tensor:
    """Normal, with the fraction `sparsity` of every column zero (Martens 2010)."""
    _check_ndim(tensor, (2,), "sparse_")
    source = generator or default_generator
    values = std * source.normal(tensor.shape, np.float64)
    rows, columns = tensor.shape
    zeros = math.ceil(sparsity * rows)
    for column in range(columns):
        values[source.permutation(rows)[:zeros], column] = 0
    return _assign(tensor, values, "init.sparse_")


# The old names, without the underscore.
_RENAMED: tuple[Callable[..., Any], ...] = (
    uniform_, normal_, constant_, eye_, dirac_, xavier_uniform_, xavier_normal_, kaiming_uniform_, kaiming_normal_,
    orthogonal_, sparse_,
)  # fmt: skip
for _function in _RENAMED:
    globals()[_function.__name__.removesuffix("_")] = _function

"""Helpers for gradients and parameters of whole networks."""

from __future__ import annotations

import math
from collections.abc import Iterable

from minigan.creation import zeros
from minigan.grad_mode import no_grad
from minigan.nn.utils import parametrizations, parametrize
from minigan.nn.utils.parametrizations import remove_spectral_norm
from minigan.nn.utils.parametrizations import spectral_norm_by_name as spectral_norm
from minigan.nn.utils.weight_norm import remove_weight_norm, weight_norm
from minigan.ops.shape import cat, stack
from minigan.tensor import Tensor

Tensors = Tensor | Iterable[Tensor]


def _gradients(parameters: Tensors) -> list[Tensor]:
    given = [parameters] if isinstance(parameters, Tensor) else parameters
    return [p.grad.detach() for p in given if p.grad is not None]


def get_total_norm(
    tensors: Tensors, norm_type: float = 2.0, error_if_nonfinite: bool = False, foreach: bool | None = None
) -> Tensor:
    """The norm of all these tensors together, as one vector.

    >>> import minigan as mg
    >>> get_total_norm([mg.tensor([3.0]), mg.tensor([[4.0]])])
    tensor(5.)
    """
    given = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    if not given:
        return zeros(())
    kind, where = given[0].dtype, given[0].device
    with no_grad():
        total = stack([t.norm(norm_type).to(where, kind) for t in given]).norm(norm_type)
    if error_if_nonfinite and not math.isfinite(total.item()):
        raise RuntimeError(
            f"clip_grad_norm_: the gradients' norm of order {norm_type} is {total.item()}; find its source under "
            "minigan.autograd.detect_anomaly(), or pass error_if_nonfinite=False to scale by it all the same"
        )
    return total


def clip_grad_norm_(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale all gradients so that their norm, as one vector, is at most `max_norm`; returns the norm it was.

    >>> import minigan as mg
    >>> p = mg.zeros(2, requires_grad=True)
    >>> p.grad = mg.tensor([3.0, 4.0])
    >>> clip_grad_norm_(p, 1.0)
    tensor(5.)
    >>> p.grad
    tensor([0.6, 0.8])
    """
    gradients = _gradients(parameters)
    total = get_total_norm(gradients, norm_type, error_if_nonfinite)
    with no_grad():
        scale = (max_norm / (total + 1e-6)).clamp(max=1.0)
        for g in gradients:
            g.mul_(scale.to(g.device, g.dtype))
    return total


def clip_grad_value_(parameters: Tensors, clip_value: float, foreach: bool | None = None) -> None:
    """Clamp every entry of every gradient to [-clip_value, clip_value]."""
    with no_grad():
        for g in _gradients(parameters):
            g.clamp_(-clip_value, clip_value)


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All values of all parameters in one vector, differentiable."""
    return cat([p.reshape(-1) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Copy the values of a vector into the parameters, in order."""
    given = list(parameters)
    needed = sum(p.numel() for p in given)
    if vec.ndim != 1 or vec.numel() != needed:
        raise RuntimeError(
            f"vector_to_parameters: got a vector of shape {tuple(vec.shape)}, expected ({needed},), the number of "
            "values in the parameters"
        )
    start = 0
    with no_grad():
        for p in given:
            p.copy_(vec[start : start + p.numel()].reshape(p.shape))
            start += p.numel()

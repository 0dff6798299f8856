"""Weight normalisation (Salimans and Kingma 2016), under PyTorch's older names: `weight_g` and `weight_v`."""

from __future__ import annotations

from minigan.grad_mode import no_grad
from minigan.nn.module import Module
from minigan.nn.parameter import Parameter
from minigan.nn.utils.parametrize import restore
from minigan.tensor import Tensor


def _norm(v: Tensor, dim: int | None) -> Tensor:
    """The norm over all axes but `dim`; over all of them where that is None."""
    if dim is None:
        return v.norm()
    return v.norm(dim=[d for d in range(v.ndim) if d != dim % v.ndim], keepdim=True)


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Compute a layer's weight as g·v/|v|, so that its length and its direction are trained apart.

    >>> from minigan import nn
    >>> layer = weight_norm(nn.Linear(2, 3))
    >>> [(name, p.shape) for name, p in layer.named_parameters()]
    [('bias', (3,)), ('weight_g', (3, 1)), ('weight_v', (3, 2))]
    """
    weight = module._parameters.get(name)
    if weight is None:
        raise ValueError(f"weight_norm: {type(module).__name__} has no parameter {name!r}")
    with no_grad():
        length = Parameter(_norm(weight, dim))
    delattr(module, name)
    module.register_parameter(f"{name}_g", length)
    module.register_parameter(f"{name}_v", weight)
    module._computed[name] = _WeightNorm(name, dim)
    return module


class _WeightNorm:
    """What is computed on access: g·v/|v|."""

    def __init__(self, name: str, dim: int | None) -> None:
        self.name, self.dim = name, dim

    def __call__(self, module: Module) -> Tensor:
        v = getattr(module, f"{self.name}_v")
        return v * (getattr(module, f"{self.name}_g") / _norm(v, self.dim))


def remove_weight_norm(module: Module, name: str = "weight") -> Module:
    """Make the weight a plain parameter again, with its present value."""
    if not isinstance(module._computed.get(name), _WeightNorm):
        raise ValueError(f"{type(module).__name__} has no weight norm on {name!r}")
    with no_grad():
        value = getattr(module, name)
    weight = getattr(module, f"{name}_v")
    del module._computed[name]
    for part in ("g", "v"):
        delattr(module, f"{name}_{part}")
    restore(module, name, weight, value)
    return module

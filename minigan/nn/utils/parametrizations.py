"""Spectral normalisation (Miyato et al. 2018), under PyTorch's new names and its old ones.

W/σ(W), where σ(W) = uᵀWv and power iteration brings u and v near W's first singular vectors, a step for
every access in training. The gradient takes u and v as constants.
"""

from __future__ import annotations

from minigan.grad_mode import no_grad
from minigan.nn.module import Module
from minigan.nn.parameter import Parameter
from minigan.nn.utils.parametrize import register_parametrization, remove_parametrizations, restore
from minigan.tensor import Tensor

_FIRST_ITERATIONS = 15  # as PyTorch does when the parametrization is registered


def _as_matrix(weight: Tensor, dim: int) -> Tensor:
    """Axis `dim` as the rows, all others as the columns."""
    return weight.movedim(dim, 0).reshape(weight.shape[dim], -1)


def _unit(x: Tensor, eps: float) -> Tensor:
    return x / x.norm().clamp(min=eps)


def _random_units(weight: Tensor, dim: int, eps: float) -> list[Tensor]:
    with no_grad():
        return [_unit(weight.new_empty(size).normal_(), eps) for size in _as_matrix(weight, dim).shape]


def _iterate(matrix: Tensor, u: Tensor, v: Tensor, steps: int, eps: float) -> None:
    """u ← Wv/|Wv|, v ← Wᵀu/|Wᵀu|, written over u and v."""
    with no_grad():
        for _ in range(steps):
            u.copy_(_unit(matrix.mv(v), eps))
            v.copy_(_unit(matrix.t().mv(u), eps))


def _sigma(matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
    # Clones: the next access changes u and v in place, and this one's backward still needs them.
    return u.clone().dot(matrix.mv(v.clone()))


def _default_dim(module: Module, dim: int | None) -> int:
    """The axis of the output channels."""
    if dim is not None:
        return dim
    from minigan import nn

    return 1 if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)) else 0


def _checked_weight(module: Module, name: str) -> Parameter:
    weight = module._parameters.get(name)
    if weight is None:
        raise ValueError(f"spectral_norm: {type(module).__name__} has no parameter {name!r}")
    return weight


class _SpectralNorm(Module):
    """The parametrization W → W/σ(W); a vector has one singular value, its norm."""

    def __init__(self, weight: Tensor, n_power_iterations: int, dim: int, eps: float) -> None:
        super().__init__()
        self.n_power_iterations, self.eps = n_power_iterations, eps
        self.dim = dim % weight.ndim
        if weight.ndim > 1:
            u, v = _random_units(weight, self.dim, eps)
            self.register_buffer("_u", u)
            self.register_buffer("_v", v)
            _iterate(_as_matrix(weight, self.dim), u, v, _FIRST_ITERATIONS, eps)

    def forward(self, weight: Tensor) -> Tensor:
        """W/σ(W)"""
        if weight.ndim == 1:
            return _unit(weight, self.eps)
        matrix = _as_matrix(weight, self.dim)
        if self.training:
            _iterate(matrix, self._u, self._v, self.n_power_iterations, self.eps)
        return weight / _sigma(matrix, self._u, self._v)


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Module:
    """Divide a layer's weight by its largest singular value: `parametrizations.weight.original` is trained.

    >>> import minigan as mg
    >>> module = Module()
    >>> module.weight = Parameter(mg.tensor([[3.0, 0.0], [0.0, 1.0]]))
    >>> round(spectral_norm(module, dim=0).weight.norm().item(), 2)  # of the singular values 1 and 1/3
    1.05
    """
    weight = _checked_weight(module, name)
    _check_iterations(n_power_iterations)
    return register_parametrization(
        module, name, _SpectralNorm(weight, n_power_iterations, _default_dim(module, dim), eps)
    )


# The older form, `nn.utils.spectral_norm`: parameter `weight_orig`, buffers `weight_u` and `weight_v` ------


def spectral_norm_by_name(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Module:
    """As `parametrizations.spectral_norm`, under the older names: `weight_orig` is trained.

    Until the layer is first called, `weight` is `weight_orig` itself: scripts fill it with their starting values.
    """
    weight = _checked_weight(module, name)
    _check_iterations(n_power_iterations)
    rows = _default_dim(module, dim) % weight.ndim
    u, v = _random_units(weight, rows, eps)
    delattr(module, name)
    module.register_parameter(f"{name}_orig", weight)
    module.register_buffer(f"{name}_u", u)
    module.register_buffer(f"{name}_v", v)
    module._computed[name] = _ByName(module, name, rows, n_power_iterations, eps)
    return module


class _ByName:
    """What the older form computes on access: the weight as it is until the first call, then W/σ(W)."""

    def __init__(self, module: Module, name: str, dim: int, steps: int, eps: float) -> None:
        self.names = [f"{name}_{part}" for part in ("orig", "u", "v")]
        self.dim, self.steps, self.eps = dim, steps, eps
        self.called = False
        self.handle = module.register_forward_pre_hook(self.start)

    def start(self, module: Module, args: tuple) -> None:
        self.called = True
        self.handle.remove()

    def __call__(self, module: Module) -> Tensor:
        weight, u, v = (getattr(module, name) for name in self.names)
        if not self.called:
            return weight.detach()
        matrix = _as_matrix(weight, self.dim)
        if module.training:
            _iterate(matrix.t(), v, u, self.steps, self.eps)  # the older form takes its step for v first
        return weight / _sigma(matrix, u, v)


def remove_spectral_norm(module: Module, name: str = "weight") -> Module:
    """Make the weight a plain parameter again, with its normalised value; for both forms."""
    if name not in module._computed:
        raise ValueError(f"{type(module).__name__} has no spectral norm on {name!r}")
    by_name = module._computed[name]
    if not isinstance(by_name, _ByName):
        return remove_parametrizations(module, name)
    weight, u, v = (getattr(module, part) for part in by_name.names)
    with no_grad():
        value = weight / _sigma(_as_matrix(weight, by_name.dim), u, v)
    by_name.handle.remove()
    del module._computed[name]
    for part in by_name.names:
        delattr(module, part)
    restore(module, name, weight, value)
    return module


def _check_iterations(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"spectral_norm: expected at least 1 power iteration, got {steps}")

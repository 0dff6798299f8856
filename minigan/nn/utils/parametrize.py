"""Parametrizations: a module's parameter computed, on every access, from another one.

`module.weight` becomes the result of `module.parametrizations.weight`, whose `original` is the trained
parameter; names in the state dict are PyTorch's.
"""

from __future__ import annotations

from minigan.grad_mode import no_grad
from minigan.nn.containers import ModuleDict, ModuleList
from minigan.nn.module import Module
from minigan.nn.parameter import Parameter
from minigan.tensor import Tensor


class ParametrizationList(ModuleList):
    """The original parameter and the modules it is sent through."""

    def __init__(self, original: Parameter) -> None:
        super().__init__()
        self.original = original

    def forward(self) -> Tensor:
        """The value of the parametrized attribute."""
        x: Tensor = self.original
        for step in self:
            x = step(x)
        return x


def register_parametrization(module: Module, tensor_name: str, parametrization: Module) -> Module:
    """Have `module.<tensor_name>` computed as `parametrization(original)`; a second one is applied to the first.

    >>> import minigan as mg
    >>> class Square(Module):
    ...     def forward(self, x):
    ...         return x * x
    >>> module = Module()
    >>> module.weight = Parameter(mg.tensor([3.0]))
    >>> register_parametrization(module, "weight", Square()).weight.tolist()
    [9.0]
    >>> list(module.state_dict())
    ['parametrizations.weight.original']
    """
    if not is_parametrized(module, tensor_name):
        if module._parameters.get(tensor_name) is None:
            raise ValueError(f"{type(module).__name__} has no parameter {tensor_name!r} to parametrize")
        original = module._parameters.pop(tensor_name)
        if not is_parametrized(module):
            module.parametrizations = ModuleDict()
        module.parametrizations[tensor_name] = ParametrizationList(original)
        module._computed[tensor_name] = lambda owner: owner.parametrizations[tensor_name]()
    module.parametrizations[tensor_name].append(parametrization)
    module.parametrizations.train(module.training)
    return module


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether this attribute (or any) of the module is parametrized."""
    lists = module._modules.get("parametrizations")
    return lists is not None and (tensor_name is None or tensor_name in lists)


def remove_parametrizations(module: Module, tensor_name: str, leave_parametrized: bool = True) -> Module:
    """Make the attribute a parameter again, with the computed value or with the original one."""
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"{type(module).__name__} has no parametrization of {tensor_name!r}")
    with no_grad():
        value = getattr(module, tensor_name)
    original = module.parametrizations.pop(tensor_name).original
    del module._computed[tensor_name]
    if not len(module.parametrizations):
        del module.parametrizations
    restore(module, tensor_name, original, value if leave_parametrized else None)
    return module


def restore(module: Module, name: str, original: Parameter, value: Tensor | None) -> None:
    """Register the original Parameter, which an optimiser may hold, under its old name; with a new value if given."""
    if value is not None:
        original.data = value.detach()
    module.register_parameter(name, original)

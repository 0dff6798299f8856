"""Parameter: a tensor that a Module counts among its own."""

from __future__ import annotations

from minigan.creation import empty
from minigan.tensor import Tensor


class Parameter(Tensor):
    """A leaf around the memory of `data`, registered by the Module it is assigned to.

    >>> import minigan as mg
    >>> Parameter(mg.ones(2))
    Parameter containing:
    tensor([1., 1.], requires_grad=True)
    """

    def __init__(self, data: Tensor | None = None, requires_grad: bool = True) -> None:
        data = empty(0) if data is None else data
        if not isinstance(data, Tensor):
            raise TypeError(f"Parameter: expected a Tensor, got {type(data).__name__}")
        self._become(data.array, data.B)
        self.version = data.version
        self.requires_grad_(requires_grad)

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()

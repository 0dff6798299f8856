"""`nn.DataParallel` as scripts written for PyTorch use it. There is one device: the module is simply called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minigan.nn.module import Module


class DataParallel(Module):
    """Calls `module`, whose names in the state dict begin with "module." as in PyTorch.

    >>> from minigan import nn
    >>> list(DataParallel(nn.Linear(2, 1)).state_dict())
    ['module.weight', 'module.bias']
    """

    def __init__(
        self, module: Module, device_ids: Sequence[Any] | None = None, output_device: Any = None, dim: int = 0
    ) -> None:
        super().__init__()
        _check_one(device_ids)
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's output."""
        return self.module(*args, **kwargs)


def data_parallel(
    module: Module, inputs: Any, device_ids: Sequence[Any] | None = None, output_device: Any = None, dim: int = 0
) -> Any:
    """The module's output for `inputs`, one Tensor or a tuple of arguments."""
    _check_one(device_ids)
    return module(*inputs) if isinstance(inputs, tuple) else module(inputs)


def _check_one(device_ids: Sequence[Any] | None) -> None:
    if device_ids is not None and len(device_ids) > 1:
        raise RuntimeError(f"minigan runs on one device, got device_ids {list(device_ids)}; name one, or none")

"""The CUDA kernels under the names that every backend's `kernels` have (see `minigan.kernels.cpu`), on one device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import conv, elementwise, gemm, norm, optim

__all__ = ["Kernels"]


def _erf(device: Any, x: Any) -> Any:
    return elementwise.evaluate(device, "erf", x)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "adagrad_step": optim.adagrad_step, "adam_step": optim.adam_step, "add_bias": norm.add_bias,
    "add_bias_backward": norm.add_bias_backward, "conv": conv.conv, "conv_transpose": conv.conv_transpose,
    "conv_weight_grad": conv.conv_weight_grad, "erf": _erf, "matmul": gemm.matmul, "matmuls": gemm.matmuls,
    "normalize": norm.normalize, "normalize_backward": norm.normalize_backward, "rmsprop_step": optim.rmsprop_step,
    "scale_shift": norm.scale_shift, "sgd_step": optim.sgd_step,
}  # fmt: skip


class Kernels:
    """What has a CUDA kernel runs on `device`, in float32; the rest is left to `instead`, kernels of the same names.

    >>> from minigan.kernels import cpu
    >>> from minigan.kernels.emulator import EmulatedDevice
    >>> Kernels(EmulatedDevice(), cpu).matmul(np.ones((1, 2), np.float32), np.ones((2, 1), np.float32)).tolist()
    [[2.0]]
    """

    def __init__(self, device: Any, instead: Any) -> None:
        self.device, self.instead = device, instead

    def __getattr__(self, name: str) -> Any:
        other, function = getattr(self.instead, name), FUNCTIONS.get(name)
        if function is None:
            return other

        def call(*args: Any, **kwargs: Any) -> Any:
            if all(array.dtype == np.float32 for array in _arrays(args)):
                return function(self.device, *args, **kwargs)
            return other(*args, **kwargs)

        setattr(self, name, call)  # made once
        return call


def _arrays(given: Any) -> Iterator[Any]:
    """The arrays among arguments, also inside of tuples and lists."""
    for value in given:
        if isinstance(value, (tuple, list)):
            yield from _arrays(value)
        elif hasattr(value, "dtype") and hasattr(value, "shape"):
            yield value

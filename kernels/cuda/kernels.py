"""The CUDA kernels under the names that every backend's `kernels` have (see `minigan.kernels.cpu`), on one device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import conv, elementwise, gemm, index, loss, norm, optim
from .double import Doubled

__all__ = ["Kernels"]


def _erf(device: Any, x: Any) -> Any:
    return elementwise.evaluate(device, "erf", x)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "adagrad_step": optim.adagrad_step, "adam_step": optim.adam_step, "add_bias": norm.add_bias,
    "add_bias_backward": norm.add_bias_backward, "add_rows": index.add_rows, "bce_with_logits": loss.bce_with_logits,
    "bce_with_logits_backward": loss.bce_with_logits_backward, "conv": conv.conv, "conv_transpose": conv.conv_transpose,
    "conv_weight_grad": conv.conv_weight_grad, "erf": _erf, "leaky_relu": elementwise.leaky_relu,
    "leaky_relu_backward": elementwise.leaky_relu_backward, "matmul": gemm.matmul, "matmuls": gemm.matmuls,
    "normalize": norm.normalize, "normalize_backward": norm.normalize_backward, "rmsprop_step": optim.rmsprop_step,
    "scale_shift": norm.scale_shift, "sgd_step": optim.sgd_step, "take_rows": index.take_rows,
    "update_running": norm.update_running,
}  # fmt: skip


# What those write into, of their arguments, which do so.
WRITTEN: dict[str, Callable[..., Any]] = {
    "add_bias": lambda x, *rest: [x], "matmul": lambda a, b, *outs: outs, "matmuls": lambda factors, *outs: outs,
    "update_running": lambda mean, var, *rest: [mean, var],
} | dict.fromkeys(
    ("adagrad_step", "adam_step", "rmsprop_step", "sgd_step"), lambda weights, *states: [weights[0], states]
)  # fmt: skip


HALF, SINGLE, DOUBLE = ({np.dtype(name)} for name in ("float16", "float32", "float64"))
BY_ROWS = ("add_rows", "take_rows")  # of which one argument is integers
PRODUCTS = ("conv", "conv_transpose", "conv_weight_grad", "matmul", "matmuls")


class Kernels:
    """What has a CUDA kernel runs on `device`; the rest is left to `instead`, kernels of the same names, if given.

    float32 and float64 have kernels of their own; float16 is computed in float32.

    >>> from minigan.kernels import cpu
    >>> from minigan.kernels.emulator import EmulatedDevice
    >>> Kernels(EmulatedDevice(), cpu).matmul(np.ones((1, 2), np.float32), np.ones((2, 1), np.float32)).tolist()
    [[2.0]]
    """

    precision = "highest"  # of products in float32, on all devices: see `minigan.cuda.set_float32_matmul_precision`

    def __init__(self, device: Any, instead: Any) -> None:
        self.device, self.double, self.instead = device, Doubled(device), instead

    def __getattr__(self, name: str) -> Any:
        other, function = getattr(self.instead, name, None), FUNCTIONS.get(name)
        if function is None:
            if other is None:
                raise AttributeError(f"CUDA kernels: there is no {name!r}")
            return other

        products, by_rows = name in PRODUCTS, name in BY_ROWS

        def call(*args: Any, **kwargs: Any) -> Any:
            if by_rows:  # the second is integers
                dtypes = {args[0].dtype} if index.fits(*args) else {array.dtype for array in args[:2]}
            else:
                dtypes = {array.dtype for array in _arrays(args)}
            if dtypes <= SINGLE:
                if products:
                    kwargs.setdefault("precision", self.precision)
                return function(self.device, *args, **kwargs)
            if dtypes == DOUBLE:
                return function(self.double, *args, **kwargs)
            if dtypes == HALF or (name == "normalize_backward" and dtypes == HALF | SINGLE):
                return self._in_single(name, args, kwargs)
            if other is None:
                raise NotImplementedError(
                    f"{name} on a GPU: got arrays of {sorted(map(str, dtypes))}, expected one floating dtype"
                )
            return other(*args, **kwargs)

        setattr(self, name, call)  # made once
        return call

    def _in_single(self, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Of float16: arguments are cast to float32, and what comes of them or is written into them is cast back."""
        halves = {id(half): half for half in _arrays(args) if half.dtype == np.float16}
        singles = {key: half.astype(np.float32) for key, half in halves.items()}
        found = FUNCTIONS[name](self.device, *_mapped(lambda array: singles.get(id(array), array), args), **kwargs)
        for half in _arrays(WRITTEN.get(name, lambda *_: [])(*args)):
            half[...] = singles[id(half)]
        if name == "normalize":  # its r = 1 / √(v + eps) may be too large for float16
            return *(array.astype(np.float16) for array in found[:3]), found[3]
        given = {id(single): halves[key] for key, single in singles.items()}  # a result may be an argument
        return _mapped(lambda single: given.get(id(single), single).astype(np.float16, copy=False), found)


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and not isinstance(value, np.generic)


def _mapped(function: Callable[[Any], Any], given: Any) -> Any:
    """The same with another array for each, also inside of tuples and lists."""
    if isinstance(given, (tuple, list)):
        return type(given)(_mapped(function, value) for value in given)
    return function(given) if _is_array(given) else given


def _arrays(given: Any) -> Iterator[Any]:
    """The arrays among arguments, also inside of tuples and lists."""
    for value in given:
        if isinstance(value, (tuple, list)):
            yield from _arrays(value)
        elif _is_array(value):
            yield value

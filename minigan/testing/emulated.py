"""The device 'cuda-emulated': the engine on its CUDA kernels, which the emulator runs on NumPy's memory.

Convolutions, products, norms, biases, optimiser steps, what is elementwise, and reductions are kernels of
`minigan.kernels.cuda`, in float32 and float64 (some in int32, int64 and bool; some of float16 by way of float32). What
has no kernel, and other dtypes, are NumPy's.
Importing this module makes the device known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minigan.backend import Backend, device, register_backend
from minigan.kernels import cpu as cpu_kernels
from minigan.kernels.cuda import elementwise, reduce
from minigan.kernels.cuda.double import Doubled
from minigan.kernels.cuda.kernels import Kernels
from minigan.kernels.cuda.operations import OPERATIONS
from minigan.kernels.emulator import EmulatedDevice
from minigan.testing import captured

__all__ = ["EmulatedArray", "EmulatedBackend"]

DEVICE = EmulatedDevice()
DOUBLE = Doubled(DEVICE)
DTYPES = {np.dtype(name) for name in ("float32", "float64", "int32", "int64", "bool")}
REDUCTIONS = {"add": "sum", "maximum": "max", "minimum": "min", "logical_or": "any", "logical_and": "all"}


class EmulatedArray(np.ndarray):
    """An array of NumPy whose ufuncs are CUDA kernels, where there is one for its dtypes."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: tuple = (), **options: Any) -> Any:
        given, into = _plain(inputs), _plain(out)
        found = _by_kernel(ufunc.__name__, method, given, into, options)
        if found is None:
            captured.refuse(DEVICE, f"NumPy's {ufunc.__name__}")
            found = getattr(ufunc, method)(*given, **({"out": into} if out else {}), **options)
        return out[0] if len(out) == 1 else _emulated(found)

    def __getitem__(self, where: Any) -> Any:
        found = super().__getitem__(where)
        if isinstance(found, np.ndarray) and found.size and not np.may_share_memory(found, self):
            captured.refuse(DEVICE, "an index of arrays")
        return found

    def __setitem__(self, where: Any, value: Any) -> None:
        if captured.is_open(DEVICE):
            captured.written(DEVICE, _plain(self), where, _plain(value))
        else:
            super().__setitem__(where, value)

    def astype(self, *args: Any, **kwargs: Any) -> Any:
        found = super().astype(*args, **kwargs)
        if found is not self and captured.is_open(DEVICE):
            captured.copied(DEVICE, _plain(self), _plain(found))
        return found

    def copy(self, order: Any = "C") -> Any:
        return xp.array(self, order=order)

    def reshape(self, *shape: Any) -> Any:  # type: ignore[override]
        return xp.reshape(self, shape[0] if len(shape) == 1 else shape)


def _by_kernel(name: str, method: str, given: tuple, into: tuple, options: dict[str, Any]) -> Any:
    """What a kernel computes; None where there is no kernel for that."""
    arrays = [x for x in (*given, *into) if isinstance(x, np.ndarray)]
    if any(x.dtype not in DTYPES or not x.size for x in arrays):
        return None
    options = {key: value for key, value in options.items() if value is not None and (key, value) != ("where", True)}
    try:
        if method == "__call__" and not options and name in OPERATIONS:
            return elementwise.evaluate(DEVICE, name, *given, out=into[0] if into else None)
        if method == "reduce" and not into and {*options} <= {"axis", "keepdims"} and name in REDUCTIONS:
            axes = options.get("axis", 0) if "axis" in options else None
            where = DOUBLE if given[0].dtype == np.float64 else DEVICE
            return reduce.reduce(where, REDUCTIONS[name], given[0], axes, bool(options.get("keepdims")))
    except (TypeError, NotImplementedError):  # dtypes that it is not made for
        pass
    return None


def _plain(value: Any) -> Any:
    """EmulatedArrays as NumPy's own, also inside of tuples, lists and dicts."""
    if isinstance(value, EmulatedArray):
        return value.view(np.ndarray)
    if type(value) in (tuple, list):
        return type(value)(map(_plain, value))
    return {key: _plain(part) for key, part in value.items()} if type(value) is dict else value


def _emulated(value: Any) -> Any:
    """NumPy's arrays as EmulatedArrays, also inside of tuples and lists."""
    if isinstance(value, np.ndarray):
        return value.view(EmulatedArray)
    return type(value)(map(_emulated, value)) if type(value) in (tuple, list) else value


def _refused(name: str) -> Callable[..., Any]:
    """A method that takes values to the host."""

    def method(self: EmulatedArray, *args: Any) -> Any:
        captured.refuse(DEVICE, name)
        return getattr(_plain(self), name)(*args)

    return method


for _name in ("item", "tolist", "__bool__", "__float__", "__int__", "__index__"):
    setattr(EmulatedArray, _name, _refused(_name))


class _Module:
    """A module whose functions give EmulatedArrays; `plain` ones are given NumPy's arrays."""

    def __init__(self, module: Any, plain: bool) -> None:
        self._module, self._plain = module, plain

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if isinstance(found, type) or not callable(found):
            return found  # dtypes, constants and classes
        call = self._call(found)
        setattr(self, name, call)  # made once
        return call

    def _call(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._plain and not captured.is_open(DEVICE):
                args, kwargs = _plain(args), _plain(kwargs)
            return _emulated(function(*args, **kwargs))

        return call


class _NumPy(_Module):
    """NumPy; while a step is captured, its functions are kernels or views."""

    def _call(self, function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__
        by_kernel = captured.FUNCTIONS.get(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if captured.is_open(DEVICE) and not isinstance(function, np.ufunc):
                if by_kernel is not None:
                    return _emulated(by_kernel(DEVICE, *_plain(args), **_plain(kwargs)))
                if name not in captured.VIEWS:
                    captured.refuse(DEVICE, f"NumPy's {name}")
            return _emulated(function(*args, **kwargs))

        return call


class _Instead:
    """Kernels of the CPU, for what has no CUDA kernel; no captured step may come to them."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(cpu_kernels, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            captured.refuse(DEVICE, f"{name}, which has no CUDA kernel,")
            return function(*args, **kwargs)

        return function if isinstance(function, type) else call


xp = _NumPy(np, plain=False)


class EmulatedBackend(Backend):
    """EmulatedArrays and the kernels of `minigan.kernels.cuda`.

    >>> import minigan as mg
    >>> x = mg.ones(2, 3, device="cuda-emulated")
    >>> (x @ x.T).device, (x @ x.T).tolist()
    (device(type='cuda-emulated'), [[3.0, 3.0], [3.0, 3.0]])
    """

    checks_indices = False
    xp: Any = xp
    kernels: Any = _Module(Kernels(DEVICE, _Instead()), plain=True)
    array_type: type = np.ndarray

    def __init__(self, where: device) -> None:
        self.device = device("cuda-emulated")

    def asarray(self, host: np.ndarray) -> np.ndarray:
        captured.refuse(DEVICE, "a copy of values of the host")
        return np.array(host).view(EmulatedArray)  # a copy, as to any other device

    def to_numpy(self, array: np.ndarray) -> np.ndarray:
        captured.refuse(DEVICE, "a copy to the host")
        return np.array(array)

    def shares_memory(self, a: np.ndarray, b: np.ndarray) -> bool:
        return np.may_share_memory(a, b)


register_backend("cuda-emulated", EmulatedBackend)

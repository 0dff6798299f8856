"""The device 'strict': NumPy behind an array type that NumPy itself refuses, as it refuses CuPy's.

Code that reaches for `np.` instead of `B.xp` fails on it, on a machine without a GPU. Importing this module
makes the device known: `mg.set_default_device("strict")`, or `mg.ones(3, device="strict")`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from minigan.backend import Backend, device, register_backend
from minigan.kernels import cpu as cpu_kernels


class StrictArray:
    """An array that is no `numpy.ndarray` and does not turn into one unasked.

    >>> np.exp(StrictArray(np.ones(2)))
    Traceback (most recent call last):
    TypeError: operand 'StrictArray' does not support ufuncs (__array_ufunc__=None)
    """

    __slots__ = ("__weakref__", "_host")
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]  # as NumPy's and CuPy's arrays

    def __init__(self, host: np.ndarray) -> None:
        self._host = host

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("implicit conversion of a StrictArray to a NumPy array: use B.xp, or B.to_numpy(array)")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} was called with a StrictArray: use B.xp.{function.__name__}")

    def __repr__(self) -> str:
        return f"StrictArray({self._host!r})"

    @property
    def flags(self) -> Any:
        """What CuPy's flags tell: it has no `writeable`."""
        flags = self._host.flags
        return SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous, owndata=flags.owndata)

    @property
    def data(self) -> Any:
        """Where it is in memory."""
        return SimpleNamespace(ptr=self._host.ctypes.data)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._host[unwrap(index)] = unwrap(value)

    def __len__(self) -> int:
        return len(self._host)

    def __bool__(self) -> bool:
        return bool(self._host)

    def __int__(self) -> int:
        return int(self._host)

    def __float__(self) -> float:
        return float(self._host)

    def __complex__(self) -> complex:
        return complex(self._host)


def wrap(value: Any) -> Any:
    """NumPy's arrays and scalars as StrictArrays (scalars are 0-d arrays, as in CuPy), also inside tuples and lists."""
    if isinstance(value, (np.ndarray, np.generic)):
        return StrictArray(np.asarray(value))
    if type(value) in (tuple, list):
        return type(value)(map(wrap, value))
    return value


def unwrap(value: Any) -> Any:
    """StrictArrays as NumPy's arrays, also inside tuples, lists and dicts; NumPy's own are refused."""
    if isinstance(value, StrictArray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError("a NumPy array was given where a StrictArray belongs: use B.asarray(host)")
    if type(value) in (tuple, list):
        return type(value)(map(unwrap, value))
    if type(value) is dict:
        return {key: unwrap(part) for key, part in value.items()}
    return value


def _through(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of NumPy arrays as one of StrictArrays."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return wrap(function(*unwrap(args), **unwrap(kwargs)))

    call.__name__ = getattr(function, "__name__", "call")
    return call


def _in_place(name: str) -> Callable[..., Any]:
    change = getattr(operator, name)

    def method(self: StrictArray, other: Any) -> StrictArray:
        self._host = change(self._host, unwrap(other))
        return self

    return method


_ATTRIBUTES = "shape dtype ndim size strides itemsize nbytes T real imag"
_METHODS = (
    "all any argmax argmin argsort astype clip copy cumsum diagonal dot fill flatten item max mean min nonzero prod "
    "ravel repeat reshape round squeeze std sum swapaxes take tolist transpose var view __dlpack__ __dlpack_device__ "
    "__getitem__ __neg__ __pos__ __abs__ __invert__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__"
)
_OPERATORS = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift"

for _name in _ATTRIBUTES.split():
    setattr(StrictArray, _name, property(_through(operator.attrgetter(_name))))
for _name in _METHODS.split():
    setattr(StrictArray, _name, _through(getattr(np.ndarray, _name)))
for _name in _OPERATORS.split():
    setattr(StrictArray, f"__{_name}__", _through(getattr(np.ndarray, f"__{_name}__")))
    setattr(StrictArray, f"__r{_name}__", _through(getattr(np.ndarray, f"__r{_name}__")))
    setattr(StrictArray, f"__i{_name}__", _in_place(f"__i{_name}__"))


class _Module:
    """A module whose functions take and give StrictArrays instead of NumPy's arrays."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if found is np.ndarray:
            return StrictArray
        if isinstance(found, type) or not callable(found):
            return found  # dtypes and constants
        proxy = _through(found)
        setattr(self, name, proxy)  # made once
        return proxy


class StrictBackend(Backend):
    """NumPy and the kernels of `minigan.kernels.cpu`, out of reach of `np.`."""

    xp: Any = _Module(np)
    kernels: Any = _Module(cpu_kernels)
    array_type: type = StrictArray

    def __init__(self, where: device) -> None:
        self.device = device("strict")

    def asarray(self, host: np.ndarray) -> StrictArray:
        return StrictArray(np.array(host))  # a copy, as to any other device

    def to_numpy(self, array: StrictArray) -> np.ndarray:
        return np.array(array._host)

    def shares_memory(self, a: StrictArray, b: StrictArray) -> bool:
        return np.may_share_memory(a._host, b._host)


register_backend("strict", StrictBackend)

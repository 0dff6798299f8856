"""Element types: NumPy's dtypes under PyTorch's names, and the rules for mixing them.

Python numbers are weak: they take the tensor's dtype. Integers and booleans give way to floats. Two
different floating dtypes never mix silently: that raises and names both.
"""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any

import numpy as np

from minigan.check import check_tensors, plain

if TYPE_CHECKING:
    from minigan.tensor import Tensor

float16 = half = np.dtype("float16")
float32 = float = np.dtype("float32")
float64 = double = np.dtype("float64")
int8 = np.dtype("int8")
int16 = short = np.dtype("int16")
int32 = int = np.dtype("int32")
int64 = long = np.dtype("int64")
uint8 = np.dtype("uint8")
bool = np.dtype("bool")

dtype = np.dtype
_default = float32


def set_default_dtype(dtype: Any) -> None:
    """The dtype of floats made from Python numbers, and of new parameters: float32 or float64."""
    global _default
    chosen = np.dtype(dtype)
    if chosen.kind != "f":
        raise TypeError(f"set_default_dtype: got {chosen}, expected a floating dtype")
    _default = chosen


def get_default_dtype() -> np.dtype:
    """The dtype of floats made from Python numbers.

    >>> get_default_dtype()
    dtype('float32')
    """
    return _default


def checked_dtype(name: str, dtype: Any) -> np.dtype:
    """A dtype, or what names one, as a dtype that a tensor may have."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if dtype is None or found is None or found.kind not in "fiub" or found.itemsize > 8:
        raise TypeError(f"{name}: expected a dtype such as minigan.float32, got {dtype!r}")
    return found


def result_dtype(name: str, a: np.dtype, b: np.dtype) -> np.dtype:
    """The dtype in which operation `name` combines two tensors.

    >>> result_dtype("add", int64, float32)
    dtype('float32')
    """
    if a == b:
        return a
    if a.kind == "f" and b.kind == "f":
        raise RuntimeError(
            f"{name}: expected both tensors to have one floating dtype, got {a} and {b}; convert one of them, "
            f"for example with .to(minigan.{b.name}) or .{'double' if b == float64 else 'float'}()"
        )
    if a.kind == "f" or b.kind == "f":
        return a if a.kind == "f" else b
    return np.promote_types(a, b)


def operands(name: str, x: Any, y: Any) -> tuple[Any, Any]:
    """Two operands brought to one dtype; at least one is a Tensor, the other may be a Python number."""
    from minigan.tensor import Tensor

    if isinstance(x, Tensor) and isinstance(y, Tensor):
        if x.array.dtype is y.array.dtype:
            return x, y
        common = result_dtype(name, x.array.dtype, y.array.dtype)
        return x.to(common), y.to(common)
    if isinstance(x, Tensor):
        return _with_number(name, x, y)
    check_tensors(name, y)
    y, x = _with_number(name, y, x)
    return x, y


def _with_number(name: str, x: Tensor, number: Any) -> tuple[Tensor, Any]:
    kind = x.array.dtype.kind  # complex ones come from the complex step of minigan.testing
    number = plain(number)
    if type(number) is builtins.float:
        return (x, number) if kind in "fc" else (x.to(_default), number)
    if type(number) is builtins.int:
        return (x, number) if kind != "b" else (x.to(int64), number)
    if type(number) is builtins.bool:
        return (x, number) if kind == "b" else (x, builtins.int(number))
    raise TypeError(
        f"{name}: expected a Tensor or a Python number, got {type(number).__name__}"
        + ("; convert it with minigan.from_numpy(...)" if isinstance(number, np.ndarray) else "")
    )

"""Idioms of older PyTorch scripts: `FloatTensor(...)`, `.type('torch.FloatTensor')`, `x.new(...)`, `x.resize_(...)`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from minigan import dtypes
from minigan.backend import get_backend, set_default_device
from minigan.check import fitting, new_shape
from minigan.graph import Version, wrap

if TYPE_CHECKING:
    from minigan.tensor import Tensor

_NAMES: dict[str, np.dtype] = {
    "HalfTensor": dtypes.float16, "FloatTensor": dtypes.float32, "DoubleTensor": dtypes.float64,
    "ByteTensor": dtypes.uint8, "CharTensor": dtypes.int8, "ShortTensor": dtypes.int16,
    "IntTensor": dtypes.int32, "LongTensor": dtypes.int64, "BoolTensor": dtypes.bool,
}  # fmt: skip


def legacy_array(data: tuple, dtype: np.dtype) -> np.ndarray:
    """The array meant by `FloatTensor(2, 3)` (sizes) or `FloatTensor([1, 2])` (values)."""
    if not data:
        return np.zeros(0, dtype)
    if len(data) == 1 and not isinstance(data[0], (int, np.integer)):
        values = data[0].tolist() if hasattr(data[0], "array") else data[0]
        if type(values) is not tuple or not all(isinstance(size, int) for size in values):
            return fitting("Tensor", values, dtype)
    # PyTorch leaves such memory as it finds it; zeros cannot surprise anyone
    return np.zeros(new_shape(data, "Tensor"), dtype)


class TensorType:
    """A dtype and device that make tensors when called, and can be given to `Tensor.type`."""

    def __init__(self, name: str, where: str) -> None:
        self.dtype, self.where = _NAMES[name], where
        self.__name__ = f"cuda.{name}" if where == "cuda" else name

    def __call__(self, *data: Any, device: Any = None) -> Any:
        B = get_backend(device or (self.where if self.where == "cuda" else None))
        return wrap(B.asarray(legacy_array(data, self.dtype)), B, None)

    def __instancecheck__(self, x: Any) -> bool:
        return hasattr(x, "array") and x.dtype == self.dtype and x.is_cuda == (self.where == "cuda")

    def __repr__(self) -> str:
        return f"<tensor type minigan.{self.__name__}>"


TYPES = {name: TensorType(name, "cpu") for name in _NAMES}
CUDA_TYPES = {name: TensorType(name, "cuda") for name in _NAMES}


def type_name(x: Any) -> str:
    """As 'minigan.FloatTensor' or 'minigan.cuda.LongTensor'."""
    name = next((name for name, dtype in _NAMES.items() if dtype == x.dtype), str(x.dtype))
    return f"minigan.cuda.{name}" if x.is_cuda else f"minigan.{name}"


def type_named(kind: Any) -> tuple[np.dtype, str | None]:
    """The dtype and device of a `TensorType`, of its name ('torch.…' too), or of a dtype."""
    if isinstance(kind, TensorType):
        return kind.dtype, kind.where if kind.where == "cuda" else None
    if isinstance(kind, str) and kind.rsplit(".", 1)[-1] in _NAMES:
        return _NAMES[kind.rsplit(".", 1)[-1]], "cuda" if ".cuda." in kind else None
    if isinstance(kind, type) and hasattr(kind, "backward"):  # the class Tensor itself
        return dtypes.get_default_dtype(), None
    return dtypes.checked_dtype("type", kind), None


def set_default_tensor_type(kind: Any) -> None:
    """The default dtype, and the default device, of a type such as `cuda.FloatTensor`, or of its name."""
    dtype, where = type_named(kind)
    dtypes.set_default_dtype(dtype)
    set_default_device(where or "cpu")


# Methods of Tensor ------------------------------------------------------------------------------------


def new(x: Tensor, *data: Any) -> Tensor:
    """A tensor of x's dtype and device: `x.new(2, 3)`, zeros of that shape, or `x.new([1, 2])`."""
    return wrap(x.B.asarray(legacy_array(data, x.dtype)), x.B, None)


def resize_(x: Tensor, *size: Any) -> Tensor:
    """Give x another shape: its first values stay, more of them are zeros. For buffers outside the graph."""
    shape = new_shape(size, "resize_")
    if x.requires_grad or x.base is not None:
        raise RuntimeError(
            "resize_: this tensor requires gradients or views another one; use .reshape() or make a new one"
        )
    if shape != x.array.shape:
        values = x.array.reshape(-1)[: math.prod(shape)]
        x.array = x.B.xp.zeros(shape, x.dtype)
        x.array.reshape(-1)[: values.size] = values
        x.version = Version()
    return x


def resize_as_(x: Tensor, other: Tensor) -> Tensor:
    """Give x the shape of another tensor, as `resize_` does."""
    return resize_(x, other.shape)

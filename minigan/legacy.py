"""Idioms of older PyTorch scripts: `FloatTensor(...)`, `cuda.FloatTensor`, `.type('torch.FloatTensor')`."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigan import dtypes
from minigan.backend import get_backend
from minigan.graph import wrap
from minigan.ops.shape import shape_of

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
            return np.array(values, dtype=dtype)
    # PyTorch leaves such memory as it finds it; zeros cannot surprise anyone
    return np.zeros(shape_of(data, "Tensor"), dtype)


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
    return np.dtype(kind), None

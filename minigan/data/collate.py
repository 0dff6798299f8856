"""From a list of samples to a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minigan import dtypes
from minigan.backend import get_default_device
from minigan.creation import as_tensor, from_numpy, tensor
from minigan.ops.shape import stack
from minigan.tensor import Tensor


def default_collate(batch: Sequence[Any]) -> Any:
    """Tensors and arrays stacked, numbers as one tensor, strings as they are; structures are gone into.

    >>> default_collate([(1, "a"), (2, "b")])
    [tensor([1, 2]), ['a', 'b']]
    >>> default_collate([{"x": 5}, {"x": 6}])
    {'x': tensor([5, 6])}
    """
    first = batch[0]
    if isinstance(first, Tensor):
        return stack(list(batch))
    if isinstance(first, np.ndarray):
        return stack([from_numpy(array) for array in batch]).to(get_default_device())  # one transfer, not many
    if isinstance(first, (np.number, np.bool)):
        return tensor(np.array(batch))
    if isinstance(first, float):
        return tensor(batch, dtype=dtypes.float64)
    if isinstance(first, int):
        return tensor(batch)
    if isinstance(first, (str, bytes)):
        return list(batch)
    if isinstance(first, Mapping):
        return _like(first, {key: default_collate([sample[key] for sample in batch]) for key in first})
    if isinstance(first, Sequence):
        if any(len(sample) != len(first) for sample in batch):
            lengths = sorted({len(sample) for sample in batch})
            raise RuntimeError(f"each element in list of batch should be of equal size, got lengths {lengths}")
        parts = [default_collate(part) for part in zip(*batch, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else parts
    raise TypeError(
        "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; found "
        f"{type(first).__name__}: convert it in the dataset, or give the DataLoader a collate_fn"
    )


def default_convert(sample: Any) -> Any:
    """Arrays as tensors, in structures too; the rest as it is. For loaders that do not batch."""
    if isinstance(sample, (np.ndarray, np.number, np.bool)):
        return tensor(sample) if isinstance(sample, np.generic) else as_tensor(sample)
    if isinstance(sample, Mapping):
        return _like(sample, {key: default_convert(value) for key, value in sample.items()})
    if isinstance(sample, tuple) and hasattr(sample, "_fields"):
        return type(sample)(*map(default_convert, sample))
    if isinstance(sample, (list, tuple)):
        return [default_convert(value) for value in sample]
    return sample


def _like(mapping: Mapping, entries: dict) -> Any:
    """The entries in a mapping of the same type, or in a dict where that cannot be made from one."""
    try:
        return type(mapping)(entries)  # type: ignore[call-arg]  # a Mapping says nothing of its constructor
    except TypeError:
        return entries

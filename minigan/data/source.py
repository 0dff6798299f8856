"""`Data`: what every source of samples becomes, in the form that training reads fastest: one array in memory.

Images wait as uint8 in channels-last order and become float32 in [-1, 1] a batch at a time; points are float32
already. The array may be memory-mapped, so that a folder of images larger than memory works the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minigan import random
from minigan.creation import from_numpy
from minigan.data.dataset import Dataset
from minigan.tensor import Tensor


class Data(Dataset):
    """Samples, and perhaps their labels, the names of the classes and the factors each was drawn from.

    >>> import minigan as mg, numpy as np
    >>> data = Data("black and white", np.array([[[[0]]], [[[255]]]], np.uint8), labels=np.array([0, 1]))
    >>> data.shape
    (1, 1, 1)
    >>> data.batch([1, 0])
    (tensor([[[[ 1.]]],
    <BLANKLINE>
    <BLANKLINE>
            [[[-1.]]]]), tensor([1, 0]))
    """

    def __init__(
        self,
        name: str,
        values: np.ndarray,
        labels: np.ndarray | None = None,
        classes: Sequence[str] = (),
        factors: Mapping[str, np.ndarray] | None = None,
        flip: bool = False,
    ) -> None:
        images = values.dtype == np.uint8 and values.ndim == 4
        if not images and not (values.dtype == np.float32 and values.ndim == 2):
            raise ValueError(
                f"Data {name!r}: got {values.dtype} values of shape {values.shape}, expected uint8 images "
                "(N, height, width, channels) or float32 points (N, dimensions)"
            )
        if labels is not None and labels.shape != (len(values),):
            raise ValueError(f"Data {name!r}: got {labels.shape} labels for {len(values)} samples")
        self.name, self.values, self.images, self.flip = name, values, images, flip
        self.labels = None if labels is None else labels.astype(np.int64, copy=False)
        self.classes, self.factors = tuple(classes), dict(factors or {})
        self.report: Any = None  # the CheckReport of the files that it was read from

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: (channels, height, width), or (dimensions,)."""
        size = self.values.shape[1:]
        return (size[2], size[0], size[1]) if self.images else tuple(size)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        labels = "" if self.labels is None else f", {len(self.classes) or self.labels.max() + 1} classes"
        return f"Data({self.name!r}, {len(self)} × {self.shape}{labels})"

    def __getitem__(self, index: Any) -> tuple[Tensor, int]:
        """One sample and its label (0 where there are none), as PyTorch's datasets give them."""
        values, labels = self.batch([index])
        return values[0], 0 if labels is None else int(labels[0])

    def batch(self, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor | None]:
        """The samples at these indices as one tensor, and their labels. With `flip`, half the images are mirrored."""
        indices = np.asarray(indices, np.int64)
        values = self.values[indices]
        if self.flip:
            mirrored = random.stream("flip").uniform((len(values),)) < 0.5
            values[mirrored] = values[mirrored, :, ::-1]
        if self.images:  # (N, C, H, W) in shape, channels last in memory
            values = (values.astype(np.float32) * np.float32(2 / 255) - np.float32(1)).transpose(0, 3, 1, 2)
        labels = None if self.labels is None else from_numpy(self.labels[indices])
        return from_numpy(values), labels

    def unflipped(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """The samples at these indices as they are, to look at: no random number is drawn."""
        return Data(self.name, self.values[np.asarray(indices, np.int64)]).batch(range(len(indices)))[0]

    def fingerprint(self) -> str:
        """sha256 of everything that training can see: the same data give the same run."""
        digest = hashlib.sha256(repr((self.values.dtype.str, self.values.shape, self.flip)).encode())
        for start in range(0, len(self.values), 4096):
            digest.update(np.ascontiguousarray(self.values[start : start + 4096]).data)
        if self.labels is not None:
            digest.update(self.labels.data)
        return digest.hexdigest()

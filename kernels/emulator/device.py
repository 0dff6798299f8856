"""The device that kernels' launchers are given: one whose memory is NumPy's, and whose kernels the emulator runs."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from .run import run

__all__ = ["EmulatedDevice"]


class EmulatedDevice:
    """Launches kernels on NumPy arrays. New memory is NaN, or the like: whatever a kernel leaves unwritten is seen.

    >>> device = EmulatedDevice()
    >>> device.empty((2,), np.float32)
    array([nan, nan], dtype=float32)
    """

    def __init__(self, order: str = "forward", seed: int = 0, watch: str | None = None) -> None:
        self.order, self.seed, self.watch = order, seed, watch
        self.reached: list[weakref.ref[np.ndarray]] = []

    def empty(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Memory that a kernel is to fill."""
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[...] = 0xFF
        return array

    def zeros(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Memory of zeros."""
        return np.zeros(shape, dtype)

    def asarray(self, host: np.ndarray) -> np.ndarray:
        """The values of an array of NumPy in memory of the device."""
        return host.copy()

    def address(self, array: np.ndarray) -> int:
        """Where an array lies: a kernel may be given it in a table."""
        if self.watch:
            self.reached = [ref for ref in self.reached if ref() is not None] + [weakref.ref(array)]
        return array.ctypes.data

    def memory(self, view: np.ndarray) -> tuple[np.ndarray, int]:
        """All values from the first to the last that a view reaches, and which of them is the view's first.

        >>> EmulatedDevice().memory(np.arange(6).reshape(2, 3)[::-1, ::2])
        (array([0, 1, 2, 3, 4, 5]), 3)
        """
        if view.flags.c_contiguous:
            return view, 0
        ends = [(size - 1) * stride // view.itemsize for size, stride in zip(view.shape, view.strides, strict=True)]
        below = -sum(end for end in ends if end < 0)
        lowest = view[tuple(slice(None, None, -1 if end < 0 else 1) for end in ends)]
        size = below + sum(end for end in ends if end > 0) + 1
        return np.lib.stride_tricks.as_strided(lowest, (size,), (view.itemsize,)), below

    def launch(
        self, file: str, kernel: str, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any],
        shared: int = 0,
    ) -> None:  # fmt: skip
        """Run a kernel of a file of `minigan.kernels.cuda`, or of CUDA C."""
        reached = [array for ref in self.reached if (array := ref()) is not None]
        run(
            file, kernel, grid, block, arguments, shared=shared, order=self.order, seed=self.seed, watch=self.watch,
            reached=reached,
        )  # fmt: skip

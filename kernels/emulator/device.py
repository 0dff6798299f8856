"""The device that kernels' launchers are given: one whose memory is NumPy's, and whose kernels the emulator runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from ..recording import Recorder, Recording
from .run import run

__all__ = ["EmulatedDevice"]


class EmulatedDevice(Recorder):
    """Launches kernels on NumPy arrays. New memory is NaN, or the like: whatever a kernel leaves unwritten is seen.

    >>> device = EmulatedDevice()
    >>> device.empty((2,), np.float32)
    array([nan, nan], dtype=float32)
    """

    def __init__(self, order: str = "forward", seed: int = 0, watch: str | None = None) -> None:
        super().__init__()
        self.order, self.seed, self.watch = order, seed, watch
        self.reached: list[weakref.ref[np.ndarray]] = []

    def empty(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Memory that a kernel is to fill."""
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[...] = 0xFF
        return array

    def zeros(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Memory of zeros."""
        array = np.zeros(shape, dtype)
        if (launches := self._open()) is not None:
            launches.calls.append(partial(array.fill, 0))
        return array

    def asarray(self, host: np.ndarray) -> np.ndarray:
        """The values of an array of NumPy in memory of the device."""
        array = self.empty(host.shape, host.dtype)
        self.write(array, host)
        return array

    def write(self, array: np.ndarray, host: np.ndarray) -> None:
        """Values of the host over those of an array."""
        if (launches := self._open()) is not None:
            launches.written.append((array, host))
        else:
            array[...] = host

    def address(self, array: np.ndarray) -> int:
        """Where an array lies: a kernel may be given it in a table."""
        if (launches := self._open()) is not None:
            launches.kept.append(array)
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
        call = partial(self._run, file, kernel, grid, block, list(arguments), shared)
        if (launches := self._open()) is not None:
            launches.calls.append(call)
        else:
            call()

    @contextmanager
    def capture(self, beside: Recording | None = None) -> Iterator[Recording]:
        """Within: launches are not done but recorded. `beside` is for a GPU, where recordings can share memory."""
        self.recording = recording = Launches(self)
        try:
            yield recording
        finally:
            self.recording = None
        recording.close()

    def _open(self) -> Launches | None:
        recording = self.recording
        return recording if isinstance(recording, Launches) and recording.open else None

    def _run(
        self, file: str, kernel: str, grid: Sequence[int], block: Sequence[int], arguments: list[Any], shared: int
    ) -> None:  # fmt: skip
        reached = [array for ref in self.reached if (array := ref()) is not None]
        run(
            file, kernel, grid, block, arguments, shared=shared, order=self.order, seed=self.seed, watch=self.watch,
            reached=reached,
        )  # fmt: skip


class Launches(Recording):
    """Launches and their arguments, which it keeps alive, as it does arrays whose addresses were asked for."""

    def __init__(self, device: EmulatedDevice) -> None:
        super().__init__(device)
        self.calls: list[Callable[[], None]] = []
        self.kept: list[np.ndarray] = []

    def start(self) -> None:
        """All launches."""
        for call in self.calls:
            call()

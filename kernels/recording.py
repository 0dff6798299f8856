"""What a device captured of a step: kernels, to be replayed on the same memory, and what the host does before each.

While a device captures, `device.recording` is an open Recording: launches go into it and are not done. What kernels are
given as numbers stays as it was; numbers that change from step to step are in the device's memory (`live`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

__all__ = ["CaptureError", "Recorder", "Recording", "refuse"]

Array = Any  # of NumPy or CuPy

NUMBERS = 4096  # that a step's kernels may read by `live`, of each dtype


class CaptureError(RuntimeError):
    """A step does what cannot be captured."""


def refuse(device: Any, what: str) -> None:
    """Raises if the device is capturing."""
    if device.recording is not None and device.recording.open:
        raise CaptureError(
            f"{what} within a step that is being captured: it is no work of the device, and no replay would do it; "
            "give the step what it needs as arguments, and look at what it returns"
        )


class _OfThread(threading.local):
    recording: Recording | None = None


class Recorder:
    """Base of devices that capture: what the thread that asks is capturing or about to replay is `recording`."""

    def __init__(self) -> None:
        self._of_thread = _OfThread()

    @property
    def recording(self) -> Recording | None:
        """None while launches are simply done."""
        return self._of_thread.recording

    @recording.setter
    def recording(self, recording: Recording | None) -> None:
        self._of_thread.recording = recording


class Recording:
    """Base of what devices give. Arrays that are written from the host are so before the first replay."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.open = True
        self.before: list[Callable[[], object]] = []  # what the host does before each replay, in the step's order
        self.valid: list[Callable[[], bool]] = []  # whether the captured memory is still what the step would use
        self.written: list[tuple[Array, np.ndarray]] = []
        self.locks: dict[int, Any] = {}  # by id: held while the host prepares a replay and starts it
        self._numbers: dict[np.dtype, tuple[np.ndarray, Array]] = {}
        self._used: dict[np.dtype, int] = {}

    def live(self, numbers: Sequence[float], dtype: np.dtype) -> Array:
        """Where a kernel finds these numbers. Each call of a step has its own place: the n-th before a replay too."""
        if dtype not in self._numbers:
            self._numbers[dtype] = np.zeros(NUMBERS, dtype), self.device.asarray(np.zeros(NUMBERS, dtype))
        host, array = self._numbers[dtype]
        start = self._used.get(dtype, 0)
        end = self._used[dtype] = start + len(numbers)
        if end > NUMBERS:
            raise CaptureError(f"more than {NUMBERS} numbers of {dtype} change from step to step: capture a part of it")
        host[start:end] = numbers
        return array[start:end]

    def close(self) -> None:
        """Capturing has ended."""
        self.open = False
        for array, host in self.written:
            self.device.write(array, host)

    def replay(self) -> None:
        """What the host does, then the kernels, with new numbers."""
        with ExitStack() as held:
            for _, lock in sorted(self.locks.items()):  # in one order for all threads
                held.enter_context(lock)
            self._replay()

    def _replay(self) -> None:
        self._used.clear()
        self.device.recording = self
        try:
            for function in self.before:
                function()
        finally:
            self.device.recording = None
        for host, array in self._numbers.values():
            self.device.write(array, host)
        self.start()

    def start(self) -> None:
        """The captured kernels, once more."""
        raise NotImplementedError

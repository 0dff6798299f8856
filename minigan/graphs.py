"""Whole-step graphs: a step's kernels captured once, and replayed from then on without Python in between.

What a step does on the host is not captured. The little of it that every step needs, such as counting Adam's steps,
goes through `each_time`, and is done before each replay.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from minigan import graph
from minigan.backend import Backend
from minigan.graph import changed, wrap
from minigan.kernels import recording
from minigan.kernels.recording import CaptureError, Recording
from minigan.observe import observers

__all__ = ["CaptureError", "GraphedStep", "capturing", "each_time", "refuse"]


class _OfThread(threading.local):
    recording: Recording | None = None


_now = _OfThread()
_one_at_a_time = threading.Lock()  # to capture waits for the whole device, which nobody may while another captures


def capturing(B: Backend | None = None) -> Recording | None:
    """That of the step that this thread is capturing, on that backend if one is given; None if it is not."""
    recording = _now.recording
    elsewhere = recording and B and recording.device is not getattr(B.kernels, "device", None)
    return None if elsewhere else recording


def each_time(function: Callable[[], object]) -> None:
    """What the host does in a step: now, or if the step is being captured, before each replay."""
    recording = capturing()
    if recording is None:
        function()
    else:
        recording.before.append(function)


def refuse(B: Backend, what: str) -> None:
    """Raises if a step is being captured on that backend."""
    if capturing(B):
        recording.refuse(B.kernels.device, what)


class GraphedStep:
    """A step that is captured and replayed, see `minigan.cuda.graph`."""

    def __init__(self, step: Callable[..., Any], B: Backend, warmup: int = 3) -> None:
        self.step, self.B, self.warmup = step, B, warmup
        self._calls: dict[Any, int] = {}
        self._captured: dict[Any, _Captured] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given: list[Any] = []
        try:
            hash(key := _described((args, kwargs), given))
        except TypeError as error:
            raise TypeError(
                f"graph: {error}; expected tensors, arrays, and values that can be compared, in tuples, lists and dicts"
            ) from None
        captured = self._captured.get(key)
        if captured is None or not captured.valid():
            calls = self._calls[key] = self._calls.get(key, 0) + 1
            if calls <= self.warmup or observers or capturing():  # who watches would see no replay
                return self._plainly(args, kwargs)
            beside = next((other.recording for other in self._captured.values()), None)
            captured = self._captured[key] = _Captured(self.step, self.B, args, kwargs, beside)
        elif observers or capturing():
            return self._plainly(args, kwargs)
        return captured(given)

    def _plainly(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        args, kwargs = _mapped(lambda x: _on(self.B, x), (args, kwargs))
        return self.step(*args, **kwargs)


class _Captured:
    """A step captured for arguments of one kind."""

    def __init__(
        self, step: Callable[..., Any], B: Backend, args: tuple, kwargs: dict[str, Any], beside: Recording | None
    ) -> None:
        self.B, self.device = B, B.kernels.device
        self.inputs: list[Any] = []  # tensors in whose memory the captured step finds its arguments
        args, kwargs = _mapped(self._static, (args, kwargs))
        with _one_at_a_time:
            found = self._capture(step, args, kwargs, beside)
        self.outputs = _mapped(self._output, found)

    def _capture(self, step: Callable[..., Any], args: tuple, kwargs: dict[str, Any], beside: Recording | None) -> Any:
        self.changed = changed.versions = weakref.WeakSet()
        try:
            with self.device.capture(beside) as self.recording:
                _now.recording = self.recording
                return step(*args, **kwargs)
        except CaptureError:
            raise
        except Exception as error:
            name = getattr(step, "__qualname__", type(step).__name__)
            raise CaptureError(f"{name} cannot be captured: {type(error).__name__}: {error}") from error
        finally:
            changed.versions = _now.recording = None

    def valid(self) -> bool:
        """Whether a replay would do what the step would: on the same parameters, from the same random streams."""
        return all(valid() for valid in self.recording.valid)

    def __call__(self, given: list[Any]) -> Any:
        for static, value in zip(self.inputs, given, strict=True):
            if isinstance(value, graph.tensor_type) and value.B is self.B:
                static.array[...] = value.array
            else:
                self.device.write(static.array, _host(value))
        self.recording.replay()
        for version in self.changed:
            version.count, version.by = version.count + 1, "the replay of a graph"
        return self.outputs

    def _output(self, value: Any) -> Any:
        if not isinstance(value, graph.tensor_type):
            return value
        self.changed.add(value.version)
        return value.detach()

    def _static(self, value: Any) -> Any:
        if not isinstance(value, (graph.tensor_type, np.ndarray)):
            return value
        static = wrap(self.B.xp.empty(value.shape, value.dtype), self.B, None)
        self.inputs.append(static)
        return static


def _host(value: Any) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else value.B.to_numpy(value.array)


def _on(B: Backend, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return wrap(B.asarray(np.array(value)), B, None)
    return value.to(B.device) if isinstance(value, graph.tensor_type) else value


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """The same with another leaf for each, inside of tuples, lists and dicts."""
    if type(value) in (tuple, list):
        return type(value)(_mapped(function, part) for part in value)
    if type(value) is dict:
        return {name: _mapped(function, part) for name, part in value.items()}
    return function(value)


def _described(value: Any, given: list[Any]) -> Any:
    """What must be alike for a graph to serve again; tensors and arrays are put into `given`."""
    if isinstance(value, (graph.tensor_type, np.ndarray)):
        if getattr(value, "requires_grad", False):
            raise RuntimeError("graph: an argument requires grad, expected constants: .detach() it")
        given.append(value)
        return "array", tuple(value.shape), str(value.dtype)
    if type(value) in (tuple, list):
        return tuple(_described(part, given) for part in value)
    if type(value) is dict:
        return tuple((name, _described(part, given)) for name, part in value.items())
    return type(value), value

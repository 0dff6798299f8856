"""Whether operations are recorded: `no_grad`, `enable_grad`, `inference_mode`, `set_grad_enabled`.

Each is a context manager and a decorator, is local to its thread, and puts the old mode back when an
exception passes through.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class _Mode(threading.local):
    enabled = True  # record operations on tensors that require gradients
    anomaly = False  # note where each operation was called, and check every gradient


mode = _Mode()


def is_grad_enabled() -> bool:
    """Whether operations are being recorded in this thread."""
    return mode.enabled


class set_grad_enabled:
    """Switch recording on or off: at once when called, and back again when used as a context manager.

    >>> with set_grad_enabled(False):
    ...     is_grad_enabled()
    False
    >>> is_grad_enabled()
    True
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = bool(enabled)
        self._previous = [mode.enabled]
        mode.enabled = self._enabled

    def __enter__(self) -> None:
        mode.enabled = self._enabled

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        mode.enabled = self._previous[-1]

    def __call__(self, function: F) -> F:
        # Used as `@set_grad_enabled(False)`: the constructor's switch was not meant for the outside.
        mode.enabled = self._previous[-1]
        return _decorate(function, lambda: set_grad_enabled(self._enabled))


class _FixedMode:
    """Common part of the three switches that take effect on entry only."""

    enabled: bool

    def __init__(self) -> None:
        self._previous: list[bool] = []  # a stack, so that one object may be entered again while active

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        # `@no_grad` without parentheses: the function arrives as the only argument.
        if len(args) == 1 and not kwargs and callable(args[0]):
            return _decorate(args[0], cls)
        return super().__new__(cls)

    def __enter__(self) -> None:
        self._previous.append(mode.enabled)
        mode.enabled = self.enabled

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        mode.enabled = self._previous.pop()

    def __call__(self, function: F) -> F:
        enabled = self.enabled
        return _decorate(function, no_grad if not enabled else enable_grad)


class no_grad(_FixedMode):
    """Do not record: results do not require gradients.

    >>> @no_grad()
    ... def recording():
    ...     return is_grad_enabled()
    >>> recording()
    False
    """

    enabled = False


class enable_grad(_FixedMode):
    """Record again inside `no_grad`.

    >>> with no_grad(), enable_grad():
    ...     is_grad_enabled()
    True
    """

    enabled = True


class inference_mode(_FixedMode):
    """As `no_grad`; `inference_mode(False)` records, as in PyTorch.

    >>> with inference_mode():
    ...     is_grad_enabled()
    False
    """

    def __init__(self, mode: bool = True) -> None:
        super().__init__()
        self.enabled = not mode


def _decorate(function: F, switch: Callable[[], Any]) -> F:
    if inspect.isgeneratorfunction(function):
        raise TypeError(
            f"{function.__name__} is a generator function: the mode would leak into the loop that consumes "
            "it; use a `with` block inside the generator instead"
        )

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with switch():
            return function(*args, **kwargs)

    return wrapped  # type: ignore[return-value]  # a wrapper has the wrapped function's signature


class detect_anomaly:
    """Name the forward line of the operation whose gradient turned non-finite.

    >>> import minigan as mg
    >>> x = mg.tensor([0.0], requires_grad=True)
    >>> try:
    ...     with detect_anomaly():
    ...         mg.sqrt(x).sum().backward()
    ... except RuntimeError as error:
    ...     print(str(error).split(". ")[0])
    Sqrt: the gradient of input 0, of shape (1,), has infinite values
    """

    def __init__(self, check_nan: bool = True) -> None:
        self._wanted = check_nan

    def __enter__(self) -> None:
        self._previous = mode.anomaly
        mode.anomaly = self._wanted

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        mode.anomaly = self._previous


class set_detect_anomaly(detect_anomaly):
    """`detect_anomaly` for good, once called; used as a context manager, until the end of the block."""

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        super().__init__(mode and check_nan)
        super().__enter__()

    def __enter__(self) -> None:
        """On since it was made."""

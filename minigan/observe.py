"""Where others may watch the engine at work: the profiler and the doctor register an `Observer` here.

Each place that reports asks only whether `observers` is empty. What is seen must not be changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Observer:
    """Base of what watches: inside `with observer:` the engine calls these methods, all of which do nothing here.

    Times are of `time.perf_counter`: `began` is when what is reported on began; it has just ended.
    Where `enters` or `leaves` is written, every module is called by itself; else some may be fused (`mg.fusion`).

    >>> import minigan as mg
    >>> class Names(Observer):
    ...     def operation(self, op, inputs, params, result, began):
    ...         print(op.__name__)
    >>> with Names():
    ...     x = mg.ones(2).exp()
    Exp
    """

    def operation(
        self, op: type, inputs: Sequence[Any], params: Mapping[str, Any], result: Any, began: float
    ) -> None:  # fmt: skip
        """An operation was applied; `result` is its first output."""

    def computed(self, function: str, inputs: Sequence[Any], params: Mapping[str, Any], result: Any) -> None:
        """A function with nothing to differentiate (a comparison, a cast to integers) gave `result`."""

    def derivative(self, node: Any, gradient: Any, gradients: Sequence[Any], began: float) -> None:
        """A sweep has passed a node: `gradient` is of its output, `gradients` are of its inputs."""

    def swept(self, roots: Sequence[Any], owners: Sequence[Any], gradients: Sequence[Any], kept: bool) -> None:
        """A sweep from `roots` found `gradients` of `owners`; `kept`: they are about to be added to `.grad`."""

    def enters(self, module: Any) -> None:
        """A module is about to be called."""

    def leaves(self, module: Any, inputs: Sequence[Any], output: Any) -> None:
        """A module's call has ended."""

    def stepped(self, optimizer: Any, began: float) -> None:
        """An optimiser has changed its parameters; their gradients are still as they were."""

    def assigned(self, target: Any, value: Any) -> None:
        """The values of a tensor were written over another's."""

    def drawn(self, tensor: Any) -> None:
        """A tensor was filled with random numbers, uniform in [0, 1) or standard normal."""

    def __enter__(self) -> Any:
        observers.append(self)
        return self

    def __exit__(self, *exc: object) -> None:
        if self in observers:
            observers.remove(self)


observers: list[Observer] = []


def watches_modules() -> bool:
    """Whether anyone watches modules being called."""
    return any(
        type(observer).enters is not Observer.enters or type(observer).leaves is not Observer.leaves
        for observer in observers
    )

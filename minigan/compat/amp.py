"""Mixed precision as scripts ask for it: accepted, and without effect. minigan computes in the tensors' own dtype."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ContextDecorator
from typing import Any

from minigan.compat.notes import note
from minigan.tensor import Tensor


class autocast(ContextDecorator):
    """A `with` block or decorator that changes nothing.

    >>> with autocast(enabled=False):
    ...     pass
    """

    def __init__(
        self, device_type: str = "cuda", dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> None:
        if enabled:
            note("torch.autocast changes nothing in minigan: everything stays in float32")

    def __enter__(self) -> autocast:
        return self

    def __exit__(self, *error: Any) -> None:
        pass


class GradScaler:
    """Scales by 1, as PyTorch's does where it is disabled: float32 gradients do not underflow.

    >>> import minigan as mg
    >>> GradScaler().scale(mg.ones(()))
    tensor(1.)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def scale(self, outputs: Any) -> Any:
        """The outputs."""
        return outputs

    def unscale_(self, optimizer: Any) -> None:
        """Nothing: gradients are not scaled."""

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """The optimiser's step."""
        return optimizer.step(*args, **kwargs)

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Nothing: the scale stays 1."""

    def get_scale(self) -> float:
        """1."""
        return 1.0

    def is_enabled(self) -> bool:
        """False."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Empty: there is no state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load."""


def custom_fwd(function: Callable | None = None, **options: Any) -> Callable:
    """The function as it is."""
    return custom_fwd if function is None else function


custom_bwd = custom_fwd

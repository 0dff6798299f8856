"""`torch.utils.tensorboard` for scripts that log to it: the calls are accepted, nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minigan.compat.notes import note


class SummaryWriter:
    """Takes every `add_…` and writes nothing, which it says once.

    >>> with SummaryWriter("runs") as writer:
    ...     writer.add_scalar("loss", 0.5, 1)
    """

    def __init__(self, log_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        self.log_dir = log_dir or "runs"
        note("torch.utils.tensorboard: SummaryWriter writes nothing in minigan")

    def __getattr__(self, name: str) -> Callable[..., None]:
        if not name.startswith("add_"):
            raise AttributeError(f"SummaryWriter.{name} is not in minigan", name=name, obj=self)
        return lambda *args, **kwargs: None

    def __enter__(self) -> SummaryWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def get_logdir(self) -> str:
        """The folder that nothing is written to."""
        return self.log_dir

    def flush(self) -> None:
        """Nothing to flush."""

    def close(self) -> None:
        """Nothing to close."""

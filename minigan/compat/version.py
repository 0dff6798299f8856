"""The version of PyTorch whose dialect is spoken, as `torch.version`, and what `torch.compile` is here."""

from __future__ import annotations

from typing import Any

import minigan

__version__ = f"2.4.0+minigan{minigan.__version__}"
cuda = hip = None  # PyTorch's for "built without"; scripts ask torch.cuda.is_available()


def compile(model: Any = None, **options: Any) -> Any:
    """The model or function as it is, also as `@compile(mode=…)`: there is nothing to compile.

    >>> compile(abs) is abs
    True
    """
    return compile if model is None else model

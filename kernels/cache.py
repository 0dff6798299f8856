"""A folder on the disk for what was compiled: `MINIGAN_CACHE`, or else ~/.cache/minigan."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["made"]


def made(name: str, make: Callable[[Path], Any]) -> Path:
    """The file of that name in the cache; made beside it and moved, so that none is ever half there."""
    path = Path(os.environ.get("MINIGAN_CACHE") or Path.home() / ".cache" / "minigan") / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            fresh = Path(scratch) / "made"
            make(fresh)
            os.replace(fresh, path)
    return path

"""Decoded images on disk: a folder per source and settings with images.npy and about.json, complete or absent."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from minigan.data.files.check import DataError

STALE = 24 * 3600  # seconds after which an unfinished folder belongs to nobody


def cache_folder() -> Path:
    """$MINIGAN_CACHE, or ~/.cache/minigan."""
    return Path(os.environ.get("MINIGAN_CACHE") or os.path.expanduser("~/.cache/minigan"))


def load(key: str) -> tuple[np.ndarray, dict] | None:
    """The images (memory-mapped) and what was stored about them; None where they are not there whole."""
    import json  # here and below not at the top: it would slow `import minigan`

    folder = cache_folder() / "images" / key
    try:
        about = json.loads((folder / "about.json").read_text())
        return np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False), about
    except (OSError, ValueError, EOFError):
        return None


def store(key: str, fill: Callable[[Callable[[np.ndarray], None]], dict]) -> None:
    """Call fill(append), which gives the images one by one and returns what to keep about them."""
    import json
    import shutil
    import tempfile

    folder = cache_folder() / "images"
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        temporary = Path(tempfile.mkdtemp(".part", key, folder))
        with open(temporary / "images.npy", "wb") as file:
            about = _write(file, fill)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave zeros under the final name
        (temporary / "about.json").write_text(json.dumps(about))
        if load(key) is None:  # else another process was faster
            shutil.rmtree(folder / key, ignore_errors=True)
            os.replace(temporary, folder / key)
    except OSError as error:
        problem = f"decoded images cannot be written here: {error.strerror or error}"
        raise DataError(folder, f"{problem}; make room or set MINIGAN_CACHE to another folder") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _write(file: BinaryIO, fill: Callable[[Callable[[np.ndarray], None]], dict]) -> dict:
    """An .npy file of images whose number is not known before the last: NumPy pads the header for that axis."""
    shape: list[int] = []

    def header() -> None:
        described = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(file, described)

    def append(image: np.ndarray) -> None:
        if not shape:
            shape.extend([0, *image.shape])
            header()
        file.write(image.tobytes())  # not through a mapping: a full disk is then an error, not a signal
        shape[0] += 1

    about = fill(append)
    file.seek(0)
    header()
    return about


def _remove_stale(folder: Path) -> None:
    import shutil

    for path in folder.glob("*.part"):
        if time.time() - path.stat().st_mtime > STALE:
            shutil.rmtree(path, ignore_errors=True)

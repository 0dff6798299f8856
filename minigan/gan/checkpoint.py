"""Checkpoints: one safetensors file with everything the next step depends on, and a JSON file that vouches for it.

The JSON is written last and holds the sha256 of the other, so a pair is complete, or is not there at all: whatever
instant a process is killed at. Nothing here knows what is in a state; that is `Trainer.state_dict`.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from pathlib import Path
from typing import Any

from minigan.files import write_atomically
from minigan.serialization import load as load_tensors
from minigan.serialization import save as save_tensors


class DamagedCheckpoint(ValueError):
    """A checkpoint that is not what was written; the message names the file."""


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write the state after `step` into `folder`.

    >>> import minigan as mg, tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> save(folder, 5, {"w": mg.ones(2)})
    >>> load(folder, 5)
    {'w': tensor([1., 1.])}
    """
    folder.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    save_tensors(state, buffer)
    data = buffer.getbuffer()
    tensors, note = _files(folder, step)
    note.unlink(missing_ok=True)  # it would vouch for the older file of this name
    write_atomically(tensors, data)
    vouch = {"step": step, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    write_atomically(note, (json.dumps(vouch, indent=1) + "\n").encode())


def steps(folder: Path) -> list[int]:
    """The steps that there are complete checkpoints of, in order."""
    return sorted(_steps_of(folder, "json"))


def load(folder: Path, step: int) -> dict[str, Any]:
    """The state after `step`; raises DamagedCheckpoint where the file is not the one that was written."""
    tensors, note = _files(folder, step)
    try:
        vouch = json.loads(note.read_text("utf-8"))
        data = tensors.read_bytes()
        if hashlib.sha256(data).hexdigest() != vouch["sha256"]:
            raise DamagedCheckpoint(f"{tensors}: damaged: its sha256 is not the one in {note.name}")
        state = load_tensors(io.BytesIO(data), map_location="cpu")
    except OSError as error:
        raise DamagedCheckpoint(f"{error.filename or folder}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        if isinstance(error, DamagedCheckpoint):
            raise
        raise DamagedCheckpoint(f"{note}: damaged: {' '.join(str(error).split())}") from None
    if not isinstance(state, dict):
        raise DamagedCheckpoint(f"{tensors}: damaged: holds a {type(state).__name__}")
    return state


def load_latest(folder: Path, until: float = math.inf) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest state that is whole (None where there is none), and what was wrong with newer ones; none later than
    the step `until`.
    """
    problems: list[str] = []
    for step in sorted(_steps_of(folder, "json") | _steps_of(folder, "safetensors"), reverse=True):
        try:
            if step <= until:
                return load(folder, step), problems
        except DamagedCheckpoint as problem:
            problems.append(str(problem))
    return None, problems


def prune(folder: Path, keep: int) -> None:
    """Remove all but the last `keep` checkpoints, and files that no JSON vouches for."""
    kept = steps(folder)[-keep:]
    for path in [*folder.glob("step-*.json"), *folder.glob("step-*.safetensors"), *folder.glob(".*.partial")]:
        step = re.fullmatch(r"step-(\d+)\..+", path.name)
        if step is None or int(step[1]) not in kept:
            path.unlink(missing_ok=True)


def drop_after(folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps, damaged ones too: the run goes on from `step`, and will make them anew."""
    for later in _steps_of(folder, "json") | _steps_of(folder, "safetensors"):
        if later > step:
            for path in reversed(_files(folder, later)):
                path.unlink(missing_ok=True)


def _steps_of(folder: Path, kind: str) -> set[int]:
    found = (re.fullmatch(rf"step-(\d+)\.{kind}", path.name) for path in folder.glob(f"step-*.{kind}"))
    return {int(match[1]) for match in found if match}


def _files(folder: Path, step: int) -> tuple[Path, Path]:
    return folder / f"step-{step:06d}.safetensors", folder / f"step-{step:06d}.json"

"""The run folder: what a run writes down, and where.

    config.toml            the recipe, every setting, the versions, the data and its fingerprint
    metrics.jsonl          one JSON object a line: metrics, scores, warnings; no times, so that a run repeats exactly
    samples/step-000500.png, real.png, curves.png, walk.gif, report.html
    checkpoints/, best/    minigan.gan.checkpoint

A folder appears with its config.toml and a first checkpoint in it, or not at all.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import platform
import shlex
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from minigan.data.source import Data
from minigan.files import flush_folder, write_atomically
from minigan.gan.recipes import get_recipe
from minigan.gan.settings import Settings, SettingsError


class RunError(ValueError):
    """A run folder that is missing, taken, damaged, or not the run it should be."""


class RunFolder:
    """The paths of one run, and what stands in its config.toml."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self._read_config()
        self.checkpoints, self.best = self.path / "checkpoints", self.path / "best"
        self.samples, self.metrics_file = self.path / "samples", self.path / "metrics.jsonl"

    @classmethod
    def create(
        cls,
        path: Path | None,
        settings: Settings,
        data: Data,
        begin: Callable[[RunFolder], None],
        origin: dict[str, Any] | None = None,
    ) -> RunFolder:
        """A new folder at `path`, or at runs/RECIPE-001, -002, … where there is none given.

        `begin` writes what the run starts from, before the folder has its name.
        """
        import tomli_w

        config: dict[str, Any] = {
            "recipe": settings.recipe,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": settings.to_dict(),
            "versions": {"minigan": version("minigan"), "numpy": np.__version__, "python": platform.python_version()},
            "data": {
                "name": data.name, "samples": len(data), "shape": list(data.shape), "fingerprint": data.fingerprint(),
            },
        }  # fmt: skip
        if origin:
            config["fork"] = origin
        parent = Path("runs") if path is None else path.parent
        parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=".new-run-", dir=parent))
        try:
            new.chmod(0o755)  # mkdtemp's folders are its owner's alone
            write_atomically(new / "config.toml", tomli_w.dumps(config).encode())
            begin(cls(new))
            for candidate in [path] if path else (parent / f"{settings.recipe}-{i:03d}" for i in itertools.count(1)):
                try:
                    new.rename(candidate)
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                        raise
                    continue  # taken, perhaps a moment ago by another process
                flush_folder(parent)
                return cls(candidate)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        raise taken(candidate)

    @property
    def settings(self) -> Any:
        """The settings the run was started with, of its recipe's class."""
        recipe, stored = self.config.get("recipe"), self.config.get("settings")
        try:
            if not isinstance(recipe, str) or not isinstance(stored, dict) or stored.get("recipe") != recipe:
                raise SettingsError("expected recipe = a recipe's name, and a table [settings] with the same recipe")
            return get_recipe(recipe).defaults.changed(stored)
        except SettingsError as error:
            raise RunError(f"{self.path / 'config.toml'}: not a run's settings: {error}") from None

    @property
    def about_data(self) -> dict[str, Any]:
        """The data's name, number of samples, shape and fingerprint."""
        about: Any = self.config.get("data")
        match about:
            case {"name": str(), "samples": int(samples), "shape": [*shape], "fingerprint": str()}:
                sizes = [samples, *shape]
                if len(shape) in (1, 3) and all(type(size) is int and 0 < size < 2**31 for size in sizes):
                    return about
        raise RunError(f"{self.path / 'config.toml'}: damaged: [data] is {about!r}")

    @property
    def resume_command(self) -> str:
        """What to type to go on with this run."""
        return f"minigan resume {shlex.quote(str(self.path))}"

    def fork_command(self, step: int) -> str:
        """What to type to start another run from a checkpoint of this one."""
        return f"minigan fork {shlex.quote(str(self.path))} --at {step}"

    def write_settings(self, settings: Settings) -> None:
        """Put these settings in the place of the old ones."""
        import tomli_w

        self.config["settings"] = settings.to_dict()
        write_atomically(self.path / "config.toml", tomli_w.dumps(self.config).encode())

    def blank_data(self) -> Data:
        """As many samples as the run's data have, of their shape, all zero, in no memory."""
        about = self.about_data
        shape = about["shape"]
        image = len(shape) == 3
        size = [about["samples"], *([*shape[1:], shape[0]] if image else shape)]
        return Data(about["name"], np.broadcast_to(np.zeros((), np.uint8 if image else np.float32), size))

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that was cut short is left out."""
        from minigan.gan.curves import read_metrics

        return read_metrics(self.metrics_file) if self.metrics_file.exists() else []

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within: no other process may train this run. The lock goes with the process, however it ends."""
        try:
            import fcntl
        except ImportError:  # Windows has another way, and no such accident has happened there
            yield
            return
        with open(self.path / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"{self.path}: another process is training this run") from None
            yield

    def _read_config(self) -> dict[str, Any]:
        path = self.path / "config.toml"
        try:
            return tomllib.loads(path.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"{self.path}: not a run folder: there is no config.toml in it") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RunError(f"{path}: damaged: {error}") from None


def check_free(path: Path) -> None:
    """Refuse a place where no run folder can be made, before there is work to lose."""
    if os.path.lexists(path):
        raise taken(path)
    place = next(folder for folder in path.absolute().parents if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise RunError(f"{path}: cannot be created: {place} is {'not writable' if place.is_dir() else 'a file'}")


def taken(path: Path) -> RunError:
    """The error for a place where something is already."""
    return RunError(
        f"{path}: is there already; go on with it (minigan resume {shlex.quote(str(path))}) or give another --out"
    )


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add one JSON object to a file of lines."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")

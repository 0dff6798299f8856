"""Many samples as files: in constant memory, and able to go on after whatever came between.

    samples.json            what the samples are, so that only the same ones are added
    000/000000.png, …       images: a folder for each thousand
    000.npy, …              numbers: a file for each thousand

A shard is there whole or not at all, so that those which are there need not be looked into.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minigan.files import whole, write_atomically

SHARD = 1000  # samples
MANIFEST = "samples.json"
Stream = Callable[[int], Iterator[np.ndarray]]


def write_shards(
    folder: Path,
    stream: Stream,
    number: int,
    about: dict[str, Any],
    kind: str = "png",
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Write the samples that `stream(start)` gives in batches, from number `start` on, as PNG or NPY files.

    Goes on after the last whole shard, if the folder holds samples of the same `about` already; else it must be empty
    or missing. `progress` is told how many there are.

    >>> import tempfile
    >>> def stream(start):
    ...     yield from np.arange(start, 2500, dtype=np.float32).reshape(-1, 50, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_shards(Path(folder), stream, 2500, {"seed": 0}, "npy")
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['000.npy', '001.npy', '002.npy', 'samples.json']
    """
    write = {"png": _write_png, "npy": _write_npy}[kind]
    _begin(folder, {**about, "number": number, "format": kind, "shard": SHARD})
    start, suffix = 0, {"png": "", "npy": ".npy"}[kind]
    while start < number and _shard(folder, start, suffix).exists():
        start += SHARD
    progress(min(start, number))
    batches = stream(start)
    for first in range(start, number, SHARD):
        count = min(SHARD, number - first)
        with whole(_shard(folder, first, suffix)) as partial:
            write(partial, _some(batches, first, count, progress), first, count)


def _shard(folder: Path, first: int, suffix: str) -> Path:
    return folder / f"{first // SHARD:03}{suffix}"


def _some(
    batches: Iterator[np.ndarray], first: int, count: int, progress: Callable[[int], None]
) -> Iterator[np.ndarray]:
    """The next `count` samples, checked."""
    done = first
    while done < first + count:
        batch = next(batches)
        if batch.dtype.kind == "f" and not np.isfinite(batch).all():
            raise ValueError(f"NaN or infinity in samples {done} to {done + len(batch) - 1}; did the training diverge?")
        yield batch
        done += len(batch)
        progress(done)


def _write_npy(path: Path, batches: Iterator[np.ndarray], first: int, count: int) -> None:
    with open(path, "wb") as file:
        for i, batch in enumerate(batches):
            if i == 0:
                form = {"descr": np.lib.format.dtype_to_descr(batch.dtype), "fortran_order": False}
                np.lib.format.write_array_header_1_0(file, {**form, "shape": (count, *batch.shape[1:])})
            file.write(np.ascontiguousarray(batch).data)


def _write_png(path: Path, batches: Iterator[np.ndarray], first: int, count: int) -> None:
    from minigan.gan.pictures import encoded, image_grid  # training is not needed for anything else here

    path.mkdir()
    for batch in batches:
        for image in batch:
            picture = image if image.dtype == np.uint8 else image_grid(image[None], padding=0)
            encoded(picture).save(path / f"{first:06}.png", "PNG")
            first += 1


def _begin(folder: Path, manifest: dict[str, Any]) -> None:
    """Find that the folder holds samples of this kind, or make it and say of which kind they will be."""
    folder.mkdir(exist_ok=True)
    path = folder / MANIFEST
    if not path.exists():
        if any(each.name[0] != "." for each in folder.iterdir()):  # a hidden one is what a killed process left
            raise ValueError(f"{folder}: holds other files, and no {MANIFEST}; give an empty or a new folder")
        write_atomically(path, json.dumps(manifest, indent=1).encode() + b"\n")
        return
    try:
        there = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        raise ValueError(f"{path}: damaged; give an empty or a new folder") from None
    names = [name for name in {**manifest, **there} if name != "source"]  # a file may be moved
    differences = [name for name in names if manifest.get(name) != there.get(name)]
    if differences:
        found = ", ".join(f"{name} {there.get(name)} (not {manifest.get(name)})" for name in differences)
        raise ValueError(f"{folder}: holds samples of another kind: {found}; give an empty or a new folder")

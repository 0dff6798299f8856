"""`open_data`: any data by a name or a path, and `check_data`: what is in it, before it is used.

The formats themselves are in `minigan.data.files`, drawn data in `glyphs` and `points`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from minigan.data.files.arrays import open_arrays
from minigan.data.files.cache import cache_folder
from minigan.data.files.check import CheckReport, DataError
from minigan.data.files.cifar import CLASSES as CIFAR10
from minigan.data.files.cifar import find_cifar, open_cifar
from minigan.data.files.folder import check_folder, class_counts, open_folder
from minigan.data.files.idx import find_idx, open_idx
from minigan.data.files.reading import Progress, contents, fit_all
from minigan.data.glyphs import glyphs, stacked_glyphs
from minigan.data.points import grid, ring, swiss_roll
from minigan.data.source import Data

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
IMAGES_DRAWN: dict[str, Callable[..., Data]] = {"glyphs": glyphs, "stacked": stacked_glyphs}
POINTS_DRAWN: dict[str, Callable[..., Data]] = {"ring": ring, "grid": grid, "swiss-roll": swiss_roll}
DOWNLOADED = {"mnist": "idx", "fashion-mnist": "idx", "cifar10": "cifar"}  # names and their formats
KINDS = {**DOWNLOADED, "idx": "idx", "npy": "npy", "folder": "folder"}
READERS = {"idx": open_idx, "cifar": open_cifar, "npy": open_arrays}
FINDERS = {"idx": find_idx, "cifar": find_cifar}  # in a folder
MISSING = {
    "idx": "train-images-idx3-ubyte(.gz) there", "cifar": "data_batch_1.bin and so on there",
    "npy": "such file", "folder": "such folder",
}  # fmt: skip
NAMES = (*IMAGES_DRAWN, *POINTS_DRAWN, *DOWNLOADED)


class Place(NamedTuple):
    """A data set's name, its format, and where its files are (drawn data have neither)."""

    name: str
    kind: str = "drawn"
    path: Path = Path()


def open_data(
    spec: str | Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    limit: int | None = None,
    flip: bool = False,
    seed: int = 0,
    download: bool = False,
    progress: Progress | None = None,
) -> Data:
    """Data by name ("glyphs", "ring", "mnist"), by "name:PATH" ("mnist:/data/mnist"), or by the path of a file or
    folder, whose format is recognised by its content. `.report` of the result says what was found and left out.

    Images are resized (shorter side to `size`, then the middle is cut out) and get 1 or 3 `channels`; `limit` takes
    the first samples; `flip` mirrors half of every batch; `seed` is that of drawn data; `download` fetches MNIST,
    Fashion-MNIST or CIFAR-10 if they are not there.

    >>> import minigan as mg
    >>> data = mg.data.open_data("glyphs", limit=20, channels=3)
    >>> data.shape, len(data)
    ((3, 28, 28), 20)
    >>> mg.data.open_data("mnits")
    Traceback (most recent call last):
    minigan.data.files.check.DataError: mnits: neither a data set's name nor a file; did you mean mnist?
    """
    _check_settings(size, channels, limit)
    place = find(spec)
    if place.kind == "drawn":
        data = _draw(place.name, size, limit, seed)
    else:
        path = _locate(place, download, progress)
        data = _read(place, path, size, channels, limit, progress)
    if data.images:
        data.values, data.flip = fit_all(data.values, size, channels, progress), flip
    elif size is not None or channels is not None or flip:
        raise DataError(place.name, "has points, not images: size, channels and flip do not apply")
    data.report = data.report or _report(data)
    return data


def check_data(
    spec: str | Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """What is in the data, and which files would be left out and why. A folder of images is decoded, not cached.

    >>> print(check_data("ring", limit=80).notes[0])
    shape: (2,)
    """
    _check_settings(size, channels, limit)
    place = find(spec)
    if place.kind == "folder":
        return check_folder(_locate(place, False, progress), size, channels, limit, progress)
    return open_data(spec, size=size, channels=channels, limit=limit, progress=progress).report


def find(spec: str | Path) -> Place:
    """Which data a specification means, and where they are."""
    text = os.fspath(spec)
    if text in DOWNLOADED:
        root = os.environ.get("MINIGAN_DATA")
        return Place(text, KINDS[text], (Path(root) if root else cache_folder()) / text)
    if text in NAMES:
        return Place(text)
    name, colon, rest = text.partition(":")
    if colon and name in KINDS:
        path = Path(rest).expanduser()
        return Place(name if name in NAMES else path.stem, KINDS[name], path)
    path = Path(text).expanduser()
    if not path.exists() and path.name != text:
        raise DataError(text, "no such file or folder")
    if not text or not path.exists():
        import difflib  # not at the top: it would slow `import minigan`

        near = difflib.get_close_matches(name if colon else text, [*NAMES, *KINDS], 1)
        hint = f"did you mean {near[0]}?" if near else f"the names are {', '.join(NAMES)}"
        raise DataError(text or '""', f"neither a data set's name nor a file; {hint}")
    return Place(path.resolve().stem, _kind(path), path)


def _kind(path: Path) -> str:
    """The format of a file or folder, by its content."""
    if path.is_dir():
        if find_idx(path):
            return "idx"
        return "cifar" if find_cifar(path) else "folder"
    start = contents(path, 262)[:262].tobytes()
    if start[:6] == b"\x93NUMPY" or start[:2] == b"PK":
        return "npy"
    if start[:3] == b"\0\0\x08":
        return "idx"
    if start[257:] == b"ustar" or path.name.endswith("_batch.bin") or path.match("data_batch_*.bin"):
        return "cifar"
    expected = "IDX, CIFAR-10's binary version, .npy or .npz, or a folder of images"
    raise DataError(path, f"starts with {start[:8]!r}, which is no format that is read here: expected {expected}")


def _locate(place: Place, download: bool, progress: Progress | None) -> Path:
    """The file or folder to read, fetched first where that is allowed."""
    fetched = place.name in DOWNLOADED and place == find(place.name)
    if fetched and download:
        from minigan.data.files.download import fetch_all  # not at the top: it would slow `import minigan`

        fetch_all(place.name, place.path, progress)
    if place.kind == "folder":
        found = place.path if place.path.is_dir() else None
    elif place.path.is_file() or place.kind not in FINDERS:
        found = place.path if place.path.exists() else None
    else:
        found = FINDERS[place.kind](place.path)
    if found is None:
        hint = f"; allow its download (download=True, --download), or give its place as {place.name}:PATH"
        raise DataError(place.path, f"no {MISSING[place.kind]}" + hint * fetched)
    return found


def _read(
    place: Place, path: Path, size: int | None, channels: int | None, limit: int | None, progress: Progress | None
) -> Data:  # fmt: skip
    if place.kind == "folder":
        return open_folder(path, size, channels, limit, progress)
    values, labels = READERS[place.kind](path)
    if 0 in values.shape:
        raise DataError(path, f"is empty: its shape is {values.shape}")
    if labels is None:
        if place.name in DOWNLOADED:
            raise DataError(path, "has no file of labels beside it: expected train-labels-idx1-ubyte(.gz)")
        return Data(place.name, values[:limit])
    names = {"cifar": CIFAR10, "idx": FASHION if place.name == "fashion-mnist" else ()}.get(place.kind, ())
    highest = int(labels.max())
    classes = names if highest < len(names) else tuple(map(str, range(highest + 1)))
    return Data(place.name, values[:limit], labels[:limit], classes)


def _draw(name: str, size: int | None, limit: int | None, seed: int) -> Data:
    settings = {"n": limit, "seed": seed}
    if name in IMAGES_DRAWN:
        settings["size"] = size
    draw = {**IMAGES_DRAWN, **POINTS_DRAWN}[name]
    return draw(**{key: value for key, value in settings.items() if value is not None})


def _check_settings(size: int | None, channels: int | None, limit: int | None) -> None:
    for name, value in (("size", size), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels is {channels}, expected 1 (grey) or 3 (colour)")


def _report(data: Data) -> CheckReport:
    report = CheckReport(data.name, len(data), notes=[f"shape: {data.shape}"])
    if data.labels is not None:
        counts = Counter(data.labels.tolist())
        report.notes.append(class_counts(data.classes, counts))
    return report

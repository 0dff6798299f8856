"""NumPy's .npy and .npz: images as (N, H, W), (N, H, W, C) or (N, C, H, W), points as (N, D). Never pickles.

The header is believed only as far as the file's size bears it out, so that nothing is allocated on its word.
"""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib import format as npy

from minigan.data.files.check import DataError
from minigan.data.files.reading import contents, most_unpacked

if TYPE_CHECKING:
    from zipfile import ZipFile

VALUES = ("images", "x", "data", "x_train", "train_images")  # the last two are Keras's and MedMNIST's
LABELS = ("labels", "y", "targets", "y_train", "train_labels")
SLACK = 1e-3  # by which rounding may leave [-1, 1]


def open_arrays(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Images (uint8) or points (float32), and labels where an .npz has them."""
    import zipfile  # not at the top: it would slow `import minigan`

    data = contents(path)
    if data[:2].tobytes() != b"PK":
        return _samples(path, read_npy(path, data)), None
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.lower(): name for name in archive.namelist() if name.endswith(".npy")}
            name = _choose(names, VALUES) or (next(iter(names.values())) if len(names) == 1 else None)
            if name is None:
                expected = f"expected one called {', '.join(VALUES[:3])}; a zip of images is to be unpacked first"
                raise DataError(path, f"has the arrays {sorted(names.values())}, {expected}")
            values = _samples(f"{path} ({name})", _member(path, archive, name))
            name = _choose(names, LABELS)
            if name is None:
                return values, None
            return values, _labels(f"{path} ({name})", _member(path, archive, name), len(values))
    except DataError:
        raise
    except Exception as error:  # a damaged zip fails in as many ways as its parser
        raise DataError(path, f"a damaged .npz file: {error}") from None


def _choose(names: dict[str, str], wanted: tuple[str, ...]) -> str | None:
    return next((names[f"{name}.npy"] for name in wanted if f"{name}.npy" in names), None)


def _member(path: Path, archive: ZipFile, name: str) -> np.ndarray:
    info = archive.getinfo(name)
    if info.file_size > most_unpacked(info.compress_size):
        raise DataError(path, f"{name} would unpack to {info.file_size:,} bytes: a zip bomb?")
    return read_npy(f"{path} ({name})", np.frombuffer(archive.read(name), np.uint8))


def read_npy(name: object, data: np.ndarray) -> np.ndarray:
    """The array in the bytes of an .npy file, without a copy.

    >>> import io, numpy as np
    >>> file = io.BytesIO()
    >>> np.save(file, np.arange(3))
    >>> read_npy("three.npy", np.frombuffer(file.getvalue(), np.uint8))
    array([0, 1, 2])
    """
    file = io.BytesIO(data[: 1 << 16].tobytes())  # more than any header that NumPy accepts
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = read(file)
    except Exception as error:  # the header is a Python literal: it fails in as many ways as Python's parser
        raise DataError(name, f"not a readable .npy file: {error}") from None
    if dtype.hasobject:
        raise DataError(name, "an array of Python objects, which would have to be unpickled: save it as numbers")
    count, found = math.prod(shape), len(data) - file.tell()
    if min(shape, default=0) < 0 or found != count * dtype.itemsize:
        needed = f"{count:,} × {dtype.itemsize} bytes"
        raise DataError(name, f"damaged: shape {shape} of {dtype} needs {needed}, and the file has {found:,}")
    array = np.frombuffer(data, dtype, offset=file.tell()) if count else np.empty(0, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _samples(name: object, array: np.ndarray) -> np.ndarray:
    """uint8 images (N, H, W, C) or float32 points (N, D)."""
    shape, kind = array.shape, array.dtype.kind
    if 0 in shape or array.ndim not in (2, 3, 4) or kind not in "buif" or (array.ndim == 2 and kind != "f"):
        expected = "images (N, H, W), (N, H, W, C) or (N, C, H, W), or points (N, D) of floats"
        raise DataError(name, f"{array.dtype} values of shape {shape}, expected {expected}")
    if array.ndim == 2:
        return _points(name, array)
    if array.ndim == 3:
        array = array[..., None]
    elif shape[3] not in (1, 3):
        if shape[1] not in (1, 3):
            raise DataError(name, f"images of shape {shape}: expected 1 or 3 channels, last or after the first axis")
        array = array.transpose(0, 2, 3, 1)
    return array if array.dtype == np.uint8 else _bytes(name, array)


def _points(name: object, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        points = array.astype(np.float32)
    if not np.isfinite(points).all():
        row = int((~np.isfinite(points)).any(1).argmax())
        raise DataError(name, f"row {row} has NaN or an infinite value")
    return points


def _bytes(name: object, array: np.ndarray) -> np.ndarray:
    """Whole numbers 0 to 255 as they are; floats in [0, 1] times 255, in [-1, 1] shifted first."""
    low, high = array.min(), array.max()  # NaN if there is one
    if array.dtype.kind == "f":
        if np.isnan(low):
            raise DataError(name, "holds NaN")
        if not (low >= -1 - SLACK and high <= 1 + SLACK):
            expected = "[0, 1] or [-1, 1], or uint8"
            raise DataError(name, f"floats from {low:g} to {high:g}, expected all in {expected}")
        scale, shift = (127.5, 127.5) if low < -SLACK else (255.0, 0.0)
    elif array.dtype.kind == "b":
        scale, shift = 255.0, 0.0
    elif low >= 0 and high <= 255:
        scale, shift = 1.0, 0.0
    else:
        raise DataError(name, f"whole numbers from {low} to {high}, expected 0 to 255")
    out = np.empty(array.shape, np.uint8)
    for start in range(0, len(array), 1024):  # in parts: the array may be a mapped file larger than memory
        part = array[start : start + 1024].astype(np.float32) * np.float32(scale) + np.float32(shift)
        out[start : start + 1024] = np.rint(part).clip(0, 255)
    return out


def _labels(name: object, array: np.ndarray, count: int) -> np.ndarray:
    labels = array.reshape(-1) if array.shape == (count, 1) else array
    if labels.shape != (count,) or labels.dtype.kind not in "bui":
        raise DataError(name, f"{array.dtype} labels of shape {array.shape}, expected {count:,} whole numbers")
    if labels.min() < 0 or labels.max() > 9_999:
        raise DataError(name, f"labels from {labels.min()} to {labels.max()}, expected class numbers 0 to 9,999")
    return labels.astype(np.int64)

"""IDX, the format of MNIST, Fashion-MNIST, KMNIST and EMNIST: gzipped or not.

0 0 type ndim | ndim big-endian uint32 sizes | values in row-major order        (type 8: unsigned bytes)
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from minigan.data.files.check import DataError
from minigan.data.files.reading import contents

IMAGES = re.compile(r"images[-.]idx[34]-ubyte(\.gz)?$")
PLACES = (".", "raw", "*/raw")  # the last two are torchvision's


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an IDX file of bytes.

    >>> import numpy as np, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "labels.idx1-ubyte")
    >>> path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 1, 9]))
    11
    >>> read_idx(path).tolist()
    [7, 1, 9]
    """
    path = Path(path)
    data = contents(path)
    magic = data[:4].tolist()
    if len(magic) < 4 or magic[:3] != [0, 0, 8] or not 1 <= magic[3] <= 4:
        raise DataError(path, f"starts with bytes {magic}, not an IDX file of bytes (0, 0, 8 and 1 to 4 axes)")
    start = 4 + 4 * magic[3]
    if len(data) < start:
        raise DataError(path, f"truncated: it ends inside its header of {start} bytes")
    shape = np.frombuffer(data[4:start].tobytes(), ">u4").tolist()
    expected, found = math.prod(shape), len(data) - start
    if found != expected:
        problem = "truncated" if found < expected else "too long"
        raise DataError(path, f"{problem}: sizes {shape} in its header need {expected:,} bytes, and it has {found:,}")
    return data[start:].reshape(shape)


def find_idx(folder: Path) -> Path | None:
    """The file of (training) images in a folder, or in the `raw` folder of torchvision below it."""
    for place in PLACES:
        found = sorted(path for path in folder.glob(f"{place}/*-ubyte*") if IMAGES.search(path.name))
        found = [path for path in found if "train" in path.name] or found
        if len({path.name.removesuffix(".gz") for path in found}) > 1:
            names = ", ".join(path.name for path in found[:5])
            raise DataError(folder, f"has several files of images ({names}): give the path of one")
        if found:
            return found[0]  # not the .gz, where both are there
    return None


def open_idx(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Images (N, H, W, C), and the labels in the file beside them if there is one."""
    images = read_idx(path)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        shape = tuple(images.shape)
        raise DataError(path, f"an array of shape {shape}, expected images (N, height, width): give the images file")
    labels_path = _labels_beside(path)
    if labels_path is None:
        return images, None
    labels = read_idx(labels_path)
    if labels.shape != (len(images),):
        raise DataError(labels_path, f"{labels.shape} labels for the {len(images):,} images of {path.name}")
    return images, labels


def _labels_beside(path: Path) -> Path | None:
    name = re.sub(r"images([-.])idx[34]", r"labels\1idx1", path.name)
    if name == path.name:  # a name of the user's own
        return None
    names = (name, name.removesuffix(".gz"), name + ".gz")
    return next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)

"""CIFAR-10's binary version: records of a label byte and 3×32×32 channel-first bytes, in data_batch_1.bin to _5.bin,
in a folder or in the .tar.gz as it is downloaded. The Python version is pickled, and pickles are never read.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minigan.data.files.check import DataError
from minigan.data.files.reading import contents

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD = 1 + 3 * 32 * 32


def find_cifar(folder: Path) -> Path | None:
    """Where CIFAR-10 is in a folder: the folder itself, the one that its archive unpacks to, or the archive."""
    for place in (folder, folder / "cifar-10-batches-bin"):
        if any(place.glob("data_batch_*.bin")):
            return place
    archive = folder / "cifar-10-binary.tar.gz"
    if archive.is_file():
        return archive
    for place in (folder, folder / "cifar-10-batches-py"):
        if (place / "data_batch_1").exists():
            raise DataError(place, "CIFAR-10's Python version, which is pickled: get cifar-10-binary.tar.gz instead")
    return None


def open_cifar(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) and labels of one .bin file, of the training batches in a folder, or of a .tar.gz."""
    parts = [_records(name, data) for name, data in _batches(path)]
    if not parts:
        raise DataError(path, "has no data_batch_*.bin inside: expected CIFAR-10's binary version")
    records = np.concatenate(parts)
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]


def _batches(path: Path) -> Iterator[tuple[object, np.ndarray]]:
    if path.is_dir():
        for file in sorted(path.glob("data_batch_*.bin")):
            yield file, contents(file)
        return
    data = contents(path)
    if data[257:262].tobytes() != b"ustar":
        yield path, data
        return
    import tarfile  # not at the top: it would slow `import minigan`

    try:
        with tarfile.open(fileobj=io.BytesIO(data.data), mode="r:") as archive:
            for member in sorted(archive, key=lambda member: member.name):
                if member.isfile() and Path(member.name).match("data_batch_*.bin"):
                    if member.size > len(data):  # a sparse file may claim to hold any number of zeros
                        raise DataError(path, f"{member.name} claims {member.size:,} bytes: truncated?")
                    batch = archive.extractfile(member)
                    assert batch is not None  # it is a file
                    yield f"{path} ({member.name})", np.frombuffer(batch.read(), np.uint8)
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(path, f"a damaged tar archive: {error}") from None


def _records(name: object, data: np.ndarray) -> np.ndarray:
    if len(data) == 0 or len(data) % RECORD:
        raise DataError(name, f"{len(data):,} bytes, expected CIFAR-10 records of {RECORD:,}: truncated?")
    records = data.reshape(-1, RECORD)
    if records[:, 0].max() >= len(CLASSES):
        first = int((records[:, 0] >= len(CLASSES)).argmax())
        raise DataError(name, f"record {first} has label {records[first, 0]}, expected 0 to 9: not CIFAR-10's format")
    return records

"""Writing a file so that it is there complete or not at all, whatever comes between: a kill, a full disk, a power cut.

Everything in a run folder that is written more than once, or must not be seen half-written, goes through here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Write `data` to `path`: under its name there is the old file, or the new one whole, at every instant.

    The data go to `.NAME.partial` beside it, are flushed to the disk, and take the name in one step; then the folder
    is flushed, so that the rename itself survives a power cut. On an error (a full disk: `OSError` with its errno)
    the partial file is removed and the old file stays. After a kill, a partial file may be left; the next write of
    the same name replaces it.

    >>> import minigan as mg, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(pathlib.Path(folder) / "note.txt", b"whole")
    ...     [p.read_text() for p in pathlib.Path(folder).iterdir()]
    ['whole']
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path)  # a full disk does not say which file it has no room for
        partial.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Make the names in `folder` (renames, removals) survive a power cut; only POSIX has and needs this."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place to write a file or a folder at, which gets its name when it is complete and on the disk."""
    from concurrent.futures import ThreadPoolExecutor  # loads more than `import minigan` should

    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)  # what a killed process left
    try:
        yield partial
        with ThreadPoolExecutor(8) as pool:  # a disk takes many flushes at once in little more than the time of one
            list(pool.map(_flush, [partial, *partial.rglob("*")]))
        os.replace(partial, path)
    except BaseException as error:
        _remove(partial)
        if isinstance(error, OSError) and error.errno is not None:
            names = (error.filename or partial, error.filename2)  # a full disk does not say for which file
            if any(str(partial) in str(name) for name in names):
                raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    flush_folder(path.parent)


def _flush(path: Path) -> None:
    if path.is_dir():
        flush_folder(path)
    else:
        with open(path, "rb+") as file:
            os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        import shutil  # loads more than `import minigan` should

        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

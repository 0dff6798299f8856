"""What every format needs: the bytes of a file, never more of them than the file can honestly hold, images made to
fit, and work spread over threads. Formats are in the modules beside this one.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from minigan.data.files.check import DataError

if TYPE_CHECKING:
    from PIL import Image

Progress = Callable[[str, int, int], None]
"""Called as progress(what, done, total) while something takes long."""

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 1 << 20
# Images and labels pack at most some 20 : 1; DEFLATE can reach 1032 : 1. Small files may be as empty as they like.
MAX_RATIO, ALWAYS_ALLOWED = 100, 64 << 20


def most_unpacked(packed: int) -> int:
    """The most bytes that so many packed ones may become before they are taken for a decompression bomb."""
    return MAX_RATIO * packed + ALWAYS_ALLOWED


def contents(path: Path, count: int | None = None) -> np.ndarray:
    """The bytes of a file (uint8, 1-D), or about its first `count`: memory-mapped, or unpacked where gzipped."""
    if not path.is_file():
        raise DataError(path, "no such file" if not path.exists() else "not a regular file")
    try:
        with open(path, "rb") as file:
            if file.read(2) == b"\x1f\x8b":
                return _unpacked(path, count)
        return np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    except EOFError:
        raise DataError(path, "truncated: the gzip stream ends before its end") from None
    except (OSError, zlib.error) as error:
        raise DataError(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _unpacked(path: Path, count: int | None) -> np.ndarray:
    import gzip

    data, most = bytearray(), most_unpacked(path.stat().st_size)
    with gzip.open(path) as file:
        while (count is None or len(data) < count) and (chunk := file.read(count or CHUNK)):
            data += chunk
            if len(data) > most:
                raise DataError(path, f"unpacks to more than {most:,} bytes, {MAX_RATIO} times its size: a gzip bomb?")
    return np.frombuffer(data, np.uint8)


def ahead(work: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """`map(work, items)` in order, computed a little ahead by worker threads."""
    from concurrent.futures import ThreadPoolExecutor  # not at the top: it would slow `import minigan`

    threads = min(os.cpu_count() or 1, 8)
    pool = ThreadPoolExecutor(threads, "minigan-files")
    left = iter(items)
    try:
        waiting = deque(pool.submit(work, item) for item in islice(left, 8 * threads))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(left, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def fit(image: Image.Image, size: int | None, channels: int) -> np.ndarray:
    """An image in mode L or RGB as uint8 (height, width, channels), its shorter side resized to `size` (bicubic,
    antialiased) and the middle square cut out; of its own size where `size` is None."""
    from PIL import Image, ImageOps

    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(image.height, image.width, channels)


def fit_all(values: np.ndarray, size: int | None, channels: int | None, progress: Progress | None) -> np.ndarray:
    """uint8 images (N, H, W, C) as `fit` makes them; the same array where there is nothing to do."""
    from PIL import Image

    shape = (size or values.shape[1], size or values.shape[2], channels or values.shape[3])
    if values.shape[1:] == shape:
        return values

    def fitted(start: int) -> np.ndarray:
        images = np.ascontiguousarray(values[start : start + 256])
        pixels = images[..., 0] if images.shape[3] == 1 else images
        return np.stack([fit(Image.fromarray(image), size, shape[2]) for image in pixels])

    out = np.empty((len(values), *shape), np.uint8)
    starts = range(0, len(values), 256)
    for start, part in zip(starts, ahead(fitted, starts), strict=True):
        out[start : start + 256] = part
        if progress:
            progress("resizing images", start + len(part), len(values))
    return out

"""A folder of PNG, JPEG, WebP and BMP images: listed, checked and decoded in one pass by worker threads, then read
from the cache. Every image that cannot be trusted is left out, and the report says why.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from minigan.data.files import cache
from minigan.data.files.check import CheckReport, DataError
from minigan.data.files.reading import Progress, ahead, fit
from minigan.data.source import Data

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
CONVERTED = {  # what becomes of modes other than L and RGB
    "1": "1-bit, as black and white", "P": "palette, as its colours", "PA": "palette with alpha, over white",
    "LA": "grey with alpha, over white", "RGBA": "alpha, over white", "RGBX": "fourth channel dropped",
    "CMYK": "converted without a colour profile", "I": "16-bit, high byte kept", "I;16": "16-bit, high byte kept",
    "I;16B": "16-bit, high byte kept",
}  # fmt: skip
GREY = {"1", "L", "LA", "I", "I;16", "I;16B"}


@dataclass
class Listing:
    """The image files of a folder, in the order in which they are read."""

    folder: Path
    files: list[str]  # relative to the folder
    stamps: list[tuple[int, int]]  # size and time of change of each
    classes: tuple[str, ...]
    labels: list[int]  # empty where there are no classes
    others: Counter  # files that are no images, by extension


class Examined(NamedTuple):
    """What one file holds: pixels, or the reason why there are none."""

    digest: bytes = b""
    mode: str = ""
    size: tuple[int, int] = (0, 0)
    pixels: np.ndarray | None = None
    reason: str = ""


def list_folder(folder: Path) -> Listing:
    """Subfolders are classes, unless there is one only or images lie beside them. Classes take turns, so that the
    first n images hold all of them."""
    found, others, seen = [], Counter[str](), set()
    for root, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(root) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(os.path.realpath(root))
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        inside = os.path.relpath(root, folder) if root != str(folder) else ""
        for name in names:
            extension = os.path.splitext(name)[1].lower()
            image = extension in EXTENSIONS and not name.startswith(".")
            if image and (stamp := _stamp(os.path.join(root, name))):
                found.append((os.path.join(inside, name), stamp))
            else:
                others[extension or name] += 1
    found.sort()
    tops = [Path(file).parts[0] if os.sep in file else "" for file, _ in found]
    classes = tuple(sorted(set(tops)))
    if len(classes) < 2 or "" in classes:
        return Listing(folder, [file for file, _ in found], [stamp for _, stamp in found], (), [], others)
    turns, number = Counter[str](), {name: label for label, name in enumerate(classes)}
    order = []
    for i, top in enumerate(tops):
        order.append((turns[top], number[top], i))
        turns[top] += 1
    order.sort()
    files, stamps = zip(*(found[i] for *_, i in order), strict=True)
    return Listing(folder, list(files), list(stamps), classes, [label for _, label, _ in order], others)


def _stamp(path: str) -> tuple[int, int] | None:
    """Size and time of change of a regular file; None for pipes, devices and links to nothing."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def examine(path: Path, size: int | None, channels: int) -> Examined:
    """Read and decode one file."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        raw = path.read_bytes()
        digest = hashlib.blake2b(raw, digest_size=16).digest()
        with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            mode, (width, height) = image.mode, image.size
            if size is not None and min(width, height) < size:
                return Examined(reason=f"too small: {width}×{height} for size {size}")
            if mode not in CONVERTED and mode not in ("L", "RGB"):
                return Examined(reason=f"mode {mode} is not read")
            if size is not None:
                image.draft(None, (2 * size, 2 * size))  # JPEG decodes at 1/2, 1/4 or 1/8 for next to nothing
            upright = ImageOps.exif_transpose(image)
            return Examined(digest, mode, (width, height), fit(opaque(upright), size, channels))
    except UnidentifiedImageError:
        return Examined(reason="not a PNG, JPEG, WebP or BMP image" if raw else "empty file")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        return Examined(reason=f"decompression bomb: {error}")
    except Exception as error:  # decoders of damaged files raise nearly anything
        return Examined(reason=f"corrupt: {getattr(error, 'strerror', None) or error or type(error).__name__}")


def opaque(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB: over white where it is transparent, 16 bits scaled (Pillow's convert clips them)."""
    from PIL import Image

    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB") if image.mode not in ("1", "L") else image.convert("L")


def check_folder(
    folder: str | Path, size: int | None = None, channels: int | None = None, limit: int | None = None,
    progress: Progress | None = None,
) -> CheckReport:  # fmt: skip
    """Decode every image and say which would be left out and why; nothing is written."""
    return _read(list_folder(Path(folder)), size, channels, limit, progress, lambda file, pixels: None)[0]


def open_folder(
    folder: Path, size: int | None, channels: int | None, limit: int | None, progress: Progress | None
) -> Data:
    """The images of a folder, with their report; from the cache if the same files were read so before."""
    listing = list_folder(folder)
    source = (os.path.realpath(folder), listing.files, listing.stamps, size, channels, limit)
    key = hashlib.sha256(repr(source).encode()).hexdigest()[:32]
    stored = cache.load(key)
    if stored is None:
        cache.store(key, lambda append: _fill(listing, size, channels, limit, progress, append))
        stored = cache.load(key)
        assert stored is not None  # it was stored just now
    images, about = stored
    if channels is None and about["grey"]:
        images = images[..., :1]
    labels = np.array(about["labels"], np.int64) if listing.classes else None
    report = CheckReport(**about["report"])
    report.left_out = [(file, reason) for file, reason in report.left_out]  # JSON has no tuples
    data = Data(report.name, images, labels, listing.classes)
    data.report = report
    return data


def _fill(
    listing: Listing, size: int | None, channels: int | None, limit: int | None, progress: Progress | None,
    append: Callable[[np.ndarray], None],
) -> dict:  # fmt: skip
    first: list[tuple[str, tuple[int, ...]]] = []

    def keep(file: str, pixels: np.ndarray) -> None:
        first[:] = first or [(file, pixels.shape)]
        if pixels.shape != first[0][1]:
            (a, (h, w, _)), (height, width, _) = first[0], pixels.shape
            problem = f"images of different sizes: {a} is {w}×{h}, {file} is {width}×{height}"
            raise DataError(listing.folder, f"{problem}; give the size that all shall have, such as size=64")
        append(pixels)

    report, kept, modes = _read(listing, size, channels, limit, progress, keep)
    if not kept:
        raise DataError(listing.folder, "no images to use: " + _why_empty(report, listing))
    return {
        "report": asdict(report),
        "labels": [listing.labels[i] for i in kept] if listing.labels else [],
        "grey": modes <= GREY,
    }


def _why_empty(report: CheckReport, listing: Listing) -> str:
    if report.left_out:
        file, reason = report.left_out[0]
        return f"{len(report.left_out):,} left out, the first {file} ({reason})"
    return f"{listing.others.total():,} other files and no PNG, JPEG, WebP or BMP"


def _read(
    listing: Listing, size: int | None, channels: int | None, limit: int | None, progress: Progress | None,
    keep: Callable[[str, np.ndarray], None],
) -> tuple[CheckReport, list[int], set[str]]:  # fmt: skip
    """The pass over the files: good images go to `keep`; returns the report, which were kept, and their modes."""
    from PIL import Image

    report, kept = CheckReport(listing.folder.resolve().name), list[int]()
    modes, sizes, seen = Counter[str](), Counter[tuple[int, int]](), dict[bytes, str]()
    total = min(len(listing.files), limit or len(listing.files))
    work = ahead(lambda file: examine(listing.folder / file, size, channels or 3), listing.files)
    with closing(work) as results, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # of metadata that is not used
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for i, (file, result) in enumerate(zip(listing.files, results, strict=False)):
            if result.pixels is None:
                report.leave_out(file, result.reason)
            elif result.digest in seen:
                report.leave_out(file, f"the same file as {seen[result.digest]}")
            else:
                seen[result.digest] = file
                modes[result.mode] += 1
                sizes[result.size] += 1
                keep(file, result.pixels)
                kept.append(i)
            if progress:
                progress("decoding images", len(kept) if limit else i + 1, total)
            if len(kept) == limit:
                break
    report.kept = len(kept)
    report.notes = list(_notes(listing, kept, modes, sizes))
    return report, kept, set(modes)


def _notes(listing: Listing, kept: list[int], modes: Counter, sizes: Counter):
    if len(sizes) > 4:
        low, high = min(sizes, key=min), max(sizes, key=min)
        yield f"sizes: {low[0]}×{low[1]} to {high[0]}×{high[1]}, {len(sizes):,} different"
    elif sizes:
        yield "sizes: " + ", ".join(f"{w}×{h} {count:,}" for (w, h), count in sizes.most_common())
    if modes:
        words = (f"{mode} {n:,}" + f" ({CONVERTED.get(mode)})" * (mode in CONVERTED) for mode, n in modes.most_common())
        yield "modes: " + ", ".join(words)
    if listing.classes:
        counts = Counter(listing.labels[i] for i in kept)
        yield class_counts(listing.classes, counts)
    if listing.others:
        words = (f"{extension} {count:,}" for extension, count in listing.others.most_common(5))
        yield f"ignored, not images: {listing.others.total():,} ({', '.join(words)})"


def class_counts(classes: tuple[str, ...], counts: Counter) -> str:
    """How many samples each class has, for a report."""
    if len(classes) > 20:
        each = [counts[label] for label in range(len(classes))]
        return f"classes: {len(classes):,}, of {min(each):,} to {max(each):,} samples"
    return "classes: " + ", ".join(f"{name} {counts[label]:,}" for label, name in enumerate(classes))

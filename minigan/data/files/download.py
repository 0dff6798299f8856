"""Fetching the three data sets that have a place on the web: only when asked, checked, and resumed where cut.

A file is FILE.part until its SHA-256 is right, and FILE from then on.
"""

from __future__ import annotations

import errno
import hashlib
import os
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from minigan.data.files.check import DataError
from minigan.data.files.reading import CHUNK, Progress

ATTEMPTS = 5  # at one mirror, each going on where the one before was cut
TIMEOUT = 30.0  # seconds without a byte


class Remote(NamedTuple):
    """A file, the folders on the web that have it, and its SHA-256."""

    name: str
    mirrors: tuple[str, ...]
    sha256: str


_MNIST = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_FASHION = (
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)
_CIFAR = (
    "https://www.cs.toronto.edu/~kriz/",
    "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
)
_IMAGES, _LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"

REMOTES = {
    "mnist": (
        Remote(_IMAGES, _MNIST, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        Remote(_LABELS, _MNIST, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    ),
    "fashion-mnist": (
        Remote(_IMAGES, _FASHION, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        Remote(_LABELS, _FASHION, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    ),
    "cifar10": (
        Remote("cifar-10-binary.tar.gz", _CIFAR, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
    ),
}


class _Cut(Exception):
    """The transfer ended early; what came is kept."""


def fetch_all(name: str, folder: Path, progress: Progress | None = None) -> None:
    """The files of a data set into the folder; those that are there already are left alone."""
    for remote in REMOTES[name]:
        fetch(remote, folder, progress)


def fetch(remote: Remote, folder: Path, progress: Progress | None = None) -> Path:
    """One file, from the first mirror that gives it with the right checksum."""
    path = folder / remote.name
    if path.exists():
        return path
    part = path.with_name(path.name + ".part")
    problems = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for mirror in remote.mirrors:
            problem = _from_mirror(mirror + remote.name, part, remote.sha256, progress)
            if problem is None:
                os.replace(part, path)
                return path
            problems.append(f"{mirror}: {problem}")
    except OSError as error:  # of this machine's disk: those of the network are problems of a mirror
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        problem = "the disk is full" if full else f"cannot be written: {error.strerror or error}"
        raise DataError(path, f"{problem}; what came so far is kept, and the next attempt goes on from there") from None
    raise DataError(path, f"could not be downloaded; {'; '.join(problems)}")


def _from_mirror(url: str, part: Path, sha256: str, progress: Progress | None) -> str | None:
    """Make `part` whole; returns what went wrong."""
    problem = ""
    for _ in range(ATTEMPTS):
        resumed, before = part.exists(), _size(part)
        try:
            _transfer(url, part, progress)
        except HTTPError as error:
            if error.code != 416:
                return f"the server answers {error.code} {error.reason}"
        except _Cut as error:
            problem = str(error)
            if _size(part) <= before:
                return problem
            continue
        except URLError as error:
            return f"no connection: {error.reason}"
        with open(part, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found == sha256:
            return None
        part.unlink()
        problem = f"wrong checksum, sha256 {found[:12]}… and not {sha256[:12]}…"
        if not resumed:
            return problem
    return problem


def _transfer(url: str, part: Path, progress: Progress | None) -> None:
    """Append to `part` what it lacks, or all anew where the server does not resume."""
    have = _size(part)
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with _opened(request) as answer:
        resumes = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if resumes else 0
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else 0
        with open(part, "ab" if resumes else "wb") as file:
            while chunk := _read(answer):
                file.write(chunk)
                have += len(chunk)
                if progress:
                    progress(f"downloading {part.stem}", have, total)
    if have < total:
        raise _Cut(f"the connection was cut at {have:,} of {total:,} bytes")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _opened(request: Request) -> HTTPResponse:
    try:
        return urlopen(request, timeout=TIMEOUT)
    except URLError:  # an answer such as 404, or no connection
        raise
    except (OSError, HTTPException) as error:
        raise _Cut(f"no answer: {error}") from None


def _read(answer: HTTPResponse) -> bytes:
    try:
        return answer.read(CHUNK)
    except (OSError, HTTPException) as error:
        raise _Cut(f"the connection was cut: {error}") from None

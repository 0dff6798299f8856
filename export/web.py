"""`minigan export --web DIR`: a static page that runs the generator in the visitor's browser with onnxruntime-web.

The page's own files are in `page/` and are copied as they are; what differs from one generator to another is in
model.json, which is made here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from minigan.export.graph import BATCH, Graph, OnnxError

MODEL = "generator.onnx"
EXTERNAL_DATA = r".*-[0-9a-f]{12}\.bin"  # as a Graph names them
MARK = '<meta name="generator" content="minigan">'  # in index.html: the folder is a page of ours
CDN = "https://cdn.jsdelivr.net"
VERSION = "1.30.0"  # of onnxruntime-web, where it is linked
LINKED = f"{CDN}/npm/onnxruntime-web@{VERSION}/dist/"
RUNTIME = {  # of onnxruntime-web: the files that a page needs, and the sha384 of those it links
    "ort.wasm.min.mjs": "sha384-SfFfy/pvthiOsgaw3KX0bV5TfQ6Iq+oY9KutMe4SxIuHH4cl+DCSD4rTsYOoG1tJ",
    "ort-wasm-simd-threaded.mjs": "sha384-XcXA/MtAf0WpB8e023xQH9CM7RIjiugakT7x99DIwpFf7k56BIFFcAPerIF7FDad",
    "ort-wasm-simd-threaded.wasm": "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}


def write_page(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    ort_web: Path | None = None,
    directions: np.ndarray | None = None,
) -> Path:
    """Write the page of an exported generator into `folder`: whole, or not at all. Gives back its index.html.

    `ort_web` is the folder of an unpacked npm package onnxruntime-web, whose files are copied: the page then needs no
    other host. Without it the page links them, by version and hash. `directions` (k, latent) are the sliders', from
    `minigan.export.directions`. A page that was written here before is replaced; a folder with anything else in it is
    refused.
    """
    model, folder = Path(model).resolve(), Path(folder).resolve()
    graph = Graph.load(model)
    about = _about(graph, model, directions)
    files = {MODEL: model, **{name: model.parent / name for name in about["data"]}}
    about["bytes"] = sum(path.stat().st_size for path in files.values())
    if ort_web is None:
        about["runtime"] = {"from": LINKED, "integrity": RUNTIME}
    else:
        about["runtime"] = {"from": "./", "integrity": {}}  # a file of the page's own host is as trusted as the page
        runtime = runtime_folder(ort_web)
        files |= {name: runtime / name for name in RUNTIME}
    check_free(folder)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        page = Path(temporary) / "page"
        page.mkdir()
        for name, text in _assets(own_host_only=ort_web is not None).items():
            (page / name).write_text(text, "utf-8", newline="\n")
        (page / "model.json").write_text(json.dumps(about, allow_nan=False), "utf-8")
        for name, path in files.items():
            (page / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, page / name)
        _put_in_place(page, folder, Path(temporary) / "old")
    return folder / "index.html"


def _about(graph: Graph, path: Path, directions: np.ndarray | None) -> dict[str, Any]:
    """What the page has to know of the generator, for model.json."""
    inputs, metadata = {value.name: value.shape for value in graph.inputs}, graph.metadata
    output = graph.outputs[0]
    z, shape = inputs.get("z", ()), output.shape
    if len(z) != 2 or z[0] != BATCH or not isinstance(z[1], int) or inputs.keys() - {"z", "labels", "psi"}:
        taken = ", ".join(f"{name} {sizes}" for name, sizes in inputs.items())
        raise OnnxError(f"{path}: takes {taken}; expected z ('{BATCH}', a number), and labels and psi at most")
    channels = shape[3 if output.dtype == np.uint8 else 1] if len(shape) == 4 else None
    if channels not in (1, 3) and shape[1:] != (2,):
        raise OnnxError(f"{path}: gives {output.name} {shape}; a page shows grey or RGB images, or points of a plane")
    if "labels" in inputs and not metadata.get("classes", "").isdecimal():
        raise OnnxError(f"{path}: takes labels, but its metadata do not say how many classes there are")
    if directions is not None and (directions.ndim != 2 or directions.shape[1] != z[1]):
        raise ValueError(f"directions: got shape {directions.shape}, expected (k, {z[1]}) for the latents of {path}")
    return {
        "title": metadata.get("recipe", path.stem), "step": metadata.get("step"),
        "latent": z[1], "distribution": metadata.get("latent_distribution", "normal"),
        "points": channels is None, "range": json.loads(metadata.get("value_range", "[-1, 1]")),
        "classes": int(metadata["classes"]) if "labels" in inputs else None, "psi": "psi" in inputs,
        "directions": [] if directions is None else directions.astype(np.float64).round(6).tolist(),
        "data": sorted(graph.data_files),
    }  # fmt: skip


def runtime_folder(ort_web: Path) -> Path:
    """Where in this folder the runtime's files are."""
    for folder in (ort_web, ort_web / "dist"):
        if all((folder / name).is_file() for name in RUNTIME):
            return folder
    raise ValueError(
        f"{ort_web}: expected the unpacked npm package onnxruntime-web, with dist/{next(iter(RUNTIME))}; "
        f"to get it: npm pack onnxruntime-web@{VERSION}, then unpack the .tgz"
    )


def _assets(own_host_only: bool = False) -> dict[str, str]:
    """The page's own files; a page that needs no other host is not allowed any by its Content-Security-Policy."""
    found = {
        file.name: file.read_text("utf-8") for file in resources.files("minigan.export").joinpath("page").iterdir()
    }
    if own_host_only:
        found["index.html"] = found["index.html"].replace(f" {CDN}", "")
    return found


def check_free(folder: Path) -> None:
    """Raise unless a page may be put there: nothing that is not ours would be lost."""
    if not folder.parent.is_dir():
        raise ValueError(f"{folder}: there is no folder {folder.parent}")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder, or nothing yet; this is a file")
    index, there = folder / "index.html", sorted(path.name for path in folder.glob("*"))
    ours = {*_assets(), *RUNTIME, MODEL, "model.json"}
    foreign = [name for name in there if name not in ours and not re.fullmatch(EXTERNAL_DATA, name)]
    if foreign:
        raise ValueError(f"{folder}: holds {foreign[0]}, which is no part of a page; give a new folder")
    if there and not (index.is_file() and MARK in index.read_text("utf-8", "replace")):
        raise ValueError(f"{folder}: is not a page written by minigan; give a new folder")


def _put_in_place(page: Path, folder: Path, old: Path) -> None:
    """Give `page` the name `folder`; what was there goes to `old`, or comes back on an error."""
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(page, folder)
    except BaseException:
        if old.exists():
            os.replace(old, folder)
        raise

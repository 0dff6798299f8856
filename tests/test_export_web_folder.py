"""The folder that `minigan export --web` writes: what is in it, that it is whole or not there, and what is refused."""

import functools
import json
import shutil

import numpy as np
import pytest
from web_pages import FLOAT, LATENT, images, large_images

from minigan.export.graph import OnnxError, Value
from minigan.export.web import CDN, RUNTIME, write_page

pytest.importorskip("onnx")


@pytest.fixture
def model(tmp_path):
    images().save(tmp_path / "little.onnx")
    return tmp_path / "little.onnx"


@pytest.fixture
def package(tmp_path):
    """A folder that looks like the npm package onnxruntime-web."""
    (tmp_path / "package" / "dist").mkdir(parents=True)
    for name in RUNTIME:
        (tmp_path / "package" / "dist" / name).write_text(name)
    return tmp_path / "package"


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_page_folder(model, package, tmp_path):
    directions = np.eye(LATENT, dtype=np.float32)[:2]
    index = write_page(model, tmp_path / "page", package, directions)
    files = content(tmp_path / "page")
    assert index == tmp_path / "page" / "index.html"
    assert files["generator.onnx"] == model.read_bytes()
    assert all(files[name].decode() == name for name in RUNTIME)
    about = json.loads(files["model.json"])
    assert about["title"] == "little"
    assert about["latent"] == LATENT
    assert about["directions"] == directions.tolist()
    assert b"://" not in files["model.json"] + files["index.html"] + files["style.css"]
    before = files
    write_page(model, tmp_path / "page", package / "dist", directions)  # the dist folder itself, over the first page
    assert content(tmp_path / "page") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["little.onnx", "package", "page"]


def test_page_links_the_runtime_by_version_and_hash(model, tmp_path):
    write_page(model, tmp_path / "page")
    about = json.loads((tmp_path / "page" / "model.json").read_text())
    assert about["runtime"] == {"from": f"{CDN}/npm/onnxruntime-web@1.30.0/dist/", "integrity": RUNTIME}
    assert f"connect-src 'self' {CDN};" in (tmp_path / "page" / "index.html").read_text()
    assert not RUNTIME.keys() & content(tmp_path / "page").keys()


def test_external_data_go_with_the_model(package, tmp_path):
    large_images().save(tmp_path / "large.onnx", external=True)
    (data,) = tmp_path.glob("*.bin")
    write_page(tmp_path / "large.onnx", tmp_path / "page", package)
    assert content(tmp_path / "page")[data.name] == data.read_bytes()
    assert json.loads((tmp_path / "page" / "model.json").read_text())["data"] == [data.name]


def refuses(match, model, folder, package=None, directions=None):
    """`write_page` raises one line, and leaves the folder and its neighbours as they were."""
    before = sorted((p, p.read_bytes()) for p in folder.parent.rglob("*") if p.is_file())
    with pytest.raises((ValueError, OSError), match=match) as caught:
        write_page(model, folder, package, directions)
    assert "\n" not in str(caught.value)
    assert sorted((p, p.read_bytes()) for p in folder.parent.rglob("*") if p.is_file()) == before


def test_what_is_refused(model, package, tmp_path, monkeypatch):
    page = tmp_path / "page"
    refuses("No such file", tmp_path / "none.onnx", page)
    refuses("expected the unpacked npm package", model, page, tmp_path)
    refuses(r"expected \(k, 12\)", model, page, package, np.zeros((2, 5), np.float32))
    refuses("there is no folder", model, tmp_path / "none" / "page", package)
    refuses("this is a file", model, model, package)
    page.mkdir()
    (page / "notes.txt").write_text("mine")
    refuses("holds notes.txt", model, page, package)
    (page / "notes.txt").rename(page / "index.html")
    refuses("not a page written by minigan", model, page, package)
    (page / "index.html").unlink()
    write_page(model, page, package)  # into an empty folder
    (page / "CNAME").write_text("example.org")
    refuses("holds CNAME", model, page, package)
    (page / "CNAME").unlink()
    monkeypatch.setattr(shutil, "copyfile", functools.partial(full_disk, shutil.copyfile))
    refuses("No space left", model, page, package)


def full_disk(copy, source, target):
    if str(source).endswith(".wasm"):
        raise OSError(28, "No space left on device", str(target))
    return copy(source, target)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"inputs": [Value("x", FLOAT, ("batch", LATENT))]}, "takes x"),
        ({"inputs": [Value("z", FLOAT, (4, LATENT))]}, "expected z"),
        ({"outputs": [Value("samples", FLOAT, ("batch", 5, 16, 16))]}, "grey or RGB images"),
        ({"outputs": [Value("samples", FLOAT, ("batch", 3))]}, "points of a plane"),
        ({"inputs": images(classes=True).inputs}, "how many classes"),
    ],
)
def test_models_a_page_cannot_show(change, match, tmp_path):
    graph = images()
    for name, value in change.items():
        setattr(graph, name, value)
    graph.save(tmp_path / "model.onnx")
    with pytest.raises(OnnxError, match=match):
        write_page(tmp_path / "model.onnx", tmp_path / "page")
    assert not (tmp_path / "page").exists()

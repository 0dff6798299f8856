"""`minigan export` and `minigan verify` as a user meets them, and what `train` leaves."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import minigan as mg
from minigan.cli import main

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import export_parts  # after the skips
from export_parts import RING, content, exported, refused, train, verified

from minigan.export import Generator, exporter
from minigan.export.graph import Graph
from minigan.export.verify import LIMITS
from minigan.gan.runs import load_trainer

pytestmark = pytest.mark.skipif(mg.get_default_device().type != "cpu", reason="settings.device names the CPU")
here, trained, images = export_parts.here, export_parts.trained, export_parts.images  # fixtures


# After a training ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ring", "images"])
def test_train_leaves_a_verified_file(trained, name):
    run = trained / name
    metadata = Graph.load(run / "generator.onnx").metadata
    assert (metadata["verified"], metadata["ema"]) == ("yes", "yes")
    assert metadata["recipe"] == {"ring": "ring", "images": "glyphs"}[name]
    assert metadata["step"] == {"ring": "6", "images": "4"}[name]
    assert json.loads(metadata["settings"])["width"] == {"ring": 8, "images": 4}[name]
    assert verified(run / "generator.onnx", "--run", run) == 0
    assert not [path for path in run.iterdir() if path.name.startswith(".generator")]


def test_the_file_gives_the_run_s_samples(images):
    expected = load_trainer(images).sample(20, 3).numpy()
    np.testing.assert_allclose(Generator(images / "generator.onnx").sample(20, seed=3), expected, rtol=0, atol=1e-5)


def test_resume_and_fork_leave_theirs(here, capsys):
    train(*RING, "--out", "run")
    first = Path("run/generator.onnx").read_bytes()
    assert main(["resume", "run", "--steps", "8"]) == 0
    assert capsys.readouterr().err.splitlines()[-1].startswith("run/generator.onnx: verified: max |file - engine| ")
    assert Graph.load("run/generator.onnx").metadata["step"] == "8"
    assert Path("run/generator.onnx").read_bytes() != first
    assert verified("run/generator.onnx", "--run", "run") == 0
    assert main(["fork", "run", "--at", "6", "--out", "fork", "--quiet", "--set", "steps=7"]) == 0
    assert Graph.load("fork/generator.onnx").metadata["step"] == "7"
    assert verified("fork/generator.onnx", "--run", "fork") == 0
    assert verified("fork/generator.onnx", "--run", "run") == 2  # it has no such step
    Path("first.onnx").write_bytes(first)
    assert verified("first.onnx", "--run", "run") == 0
    assert verified("first.onnx", "--run", "fork") == 0  # which begins there


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_train_without_onnx(here, capsys, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    train(*RING, "--out", "run")
    out, err = capsys.readouterr()
    assert out == "run\n"
    said = f"no generator.onnx: needs the package {package}: pip install 'minigan[cpu]', then minigan export run"
    assert err.splitlines()[-1] == said
    assert not Path("run/generator.onnx").exists()
    assert "minigan[cpu]" in refused(capsys, "export", "run")
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert main(["export", "run"]) == 0


# Export ----------------------------------------------------------------------------------------------------


def test_export_says_where_and_how_well(images, capsys):
    assert main(["export", str(images), "-o", "g.onnx"]) == 0
    out, err = capsys.readouterr()
    assert out == "g.onnx\n"
    assert err.startswith("verified: max |file - engine| ")
    assert content(".").keys() == {Path("g.onnx")}
    assert Path("g.onnx").read_bytes() == (images / "generator.onnx").read_bytes()


@pytest.mark.parametrize(
    "words",
    [
        ["--dtype", "fp16"], ["--dtype", "fp16-storage"], ["--dtype", "int8"], ["--output", "uint8"],
        ["--optimize", "size"], ["--psi"], ["--opset", "21"],
        ["--dtype", "fp16", "--output", "uint8", "--psi", "--opset", "18"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_variants(images, words):
    graph = exported(images, *words)
    variant = json.loads(graph.metadata["variant"])
    options = dict(zip(words, [*words[1:], ""], strict=True))
    if "size" in words:  # is what one gets of fp32
        options["--dtype"] = "fp16-storage"
    for name, default in (("dtype", "fp32"), ("output", "float"), ("optimize", "speed")):
        assert variant[name] == options.get(f"--{name}", default)
    assert graph.opset == int(options.get("--opset", 17))
    assert [value.name for value in graph.inputs] == ["z", "psi"] if "--psi" in words else ["z"]
    assert (graph.outputs[0].dtype == np.uint8) == (variant["output"] == "uint8")
    assert verified("g.onnx") == 0
    assert verified("g.onnx", "--run", images) == 0


def test_psi_truncates(images):
    exported(images, "--psi")
    z = mg.randn(8, 64).numpy()
    assert main(["export", str(images), "-o", "plain.onnx"]) == 0
    truncated, plain = Generator("g.onnx"), Generator("plain.onnx")
    np.testing.assert_allclose(truncated(z, psi=0.5), plain(z / 2), rtol=0, atol=1e-6)
    np.testing.assert_allclose(truncated(z), plain(z), rtol=0, atol=1e-6)


def test_without_verification_the_file_says_so(images, capsys, monkeypatch):
    monkeypatch.setattr(exporter, "verify", lambda *_: pytest.fail("was verified"))
    assert exported(images, "--no-verify").metadata["verified"] == "no"
    assert capsys.readouterr().err == "not verified\n"
    assert verified("g.onnx") == 0


def test_raw_weights_and_steps(images):
    raw, average, earlier = exported(images, "--raw"), exported(images), exported(images, "--step", "2")
    assert (raw.metadata["ema"], average.metadata["ema"], earlier.metadata["step"]) == ("no", "yes", "2")
    trainer = load_trainer(images)
    trainer.ema = None
    weights = trainer.generator.state_dict()
    last = [name for name in weights if name.endswith("weight")][-1]  # behind it is no BatchNorm to be folded
    assert np.array_equal(raw.constants[last], weights[last].numpy())
    assert not np.array_equal(raw.constants[last], average.constants[last])
    for words in (["--best"], ["--raw", "--step", "2"]):
        exported(images, *words)
        assert verified("g.onnx", "--run", images) == 0


def test_a_best_checkpoint_that_is_no_other(images):
    best = max(int(path.stem[5:]) for path in (images / "best").glob("*.json"))
    assert exported(images, "--best").metadata["step"] == str(best)


def test_no_paths_of_this_machine(here):
    np.save("points of mine.npy", np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32))
    train(*RING, "--data", str(here / "points of mine.npy"), "--out", str(here / "run"))
    data = Path("run/generator.onnx").read_bytes()
    assert json.loads(Graph.load("run/generator.onnx").metadata["settings"])["data"] == "points of mine.npy"
    places = {str(here), str(here.parent), str(Path.home()) + "/", os.getcwd(), str(Path(mg.__file__).parent), "/tmp"}
    assert [place for place in places if place.encode() in data] == []
    assert b".py" not in data


def test_triton_and_web(images, capsys):
    words = ["-o", "g.onnx", "--triton", "models", "--web", "page"]
    assert main(["export", str(images), *words]) == 0
    written, index, repository = (Path(line) for line in capsys.readouterr().out.splitlines())
    assert index.resolve() == Path("page/index.html").resolve()
    for copy in (repository / "1/model.onnx", Path("page/generator.onnx")):
        assert copy.read_bytes() == written.read_bytes()
    assert "dims: [ 64 ]" in (repository / "config.pbtxt").read_text()
    assert len(json.loads(Path("page/model.json").read_text())["directions"][0]) == 64


def test_the_file_that_is_there_stays_until_another_is_right(images, capsys, monkeypatch):
    exported(images)
    before = Path("g.onnx").read_bytes()
    monkeypatch.setitem(LIMITS, "fp32", (-1, -1))
    monkeypatch.setattr(sys.modules["minigan.export.verify"], "MOST_ROUNDING", 0.0)
    said = refused(capsys, "export", images, "-o", "g.onnx", "--raw")
    assert "g.onnx: not written, for it does not equal the engine: proof: " in said
    assert Path("g.onnx").read_bytes() == before


# Verify ----------------------------------------------------------------------------------------------------


def test_verify_prints_a_table_and_writes_json(images, capsys):
    path = images / "generator.onnx"
    assert verified(path, "--json", "report.json", "--run", images) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["check", "figure", "limit"]
    report = json.loads(Path("report.json").read_text(), parse_constant=pytest.fail)
    assert report["passed"] is True
    assert report["variant"] == {"dtype": "fp32", "output": "float", "optimize": "speed", "fp32_edges": False}
    names = [check["name"] for check in report["checks"]]
    assert len(names) == len(table) - 1 == len(set(names))
    assert all(line.startswith(name) for line, name in zip(table[1:], names, strict=True))
    assert {"constants whose sha256 is another", "BatchNorm: mean |train - eval|"} < set(names)
    assert {name.partition(":")[0] for name in names} > {
        "proof",
        "batch 1",
        "batch 7",
        "batch 64",
        "batch 1 against 64",
    }


def test_verify_fails_with_1(images, capsys):
    graph = Graph.load(images / "generator.onnx")
    name = next(name for name in graph.constants if name.endswith("weight"))
    graph.constants[name] = graph.constants[name].copy()
    graph.constants[name].flat[0] = np.nan
    graph.save("g.onnx")
    for words in ([], ["--run", images]):
        assert verified("g.onnx", *words, "--json", "report.json") == 1
        out, err = capsys.readouterr()
        assert "FAILED" in out
        assert err == ""
        report = json.loads(Path("report.json").read_text(), parse_constant=pytest.fail)
        assert report["passed"] is False
        assert None in [check["figure"] for check in report["checks"] if not check["passed"]]

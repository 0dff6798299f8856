"""`minigan export` and `minigan verify` as a user meets them, and what `train` leaves; bad input of every kind."""

import json
import os
import random
import shutil
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from onnx_files import graph as small_graph

import minigan as mg
from minigan import nn
from minigan.cli import main

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from minigan.export import Generator, export_onnx, exporter  # noqa: E402  # after the skips
from minigan.export.graph import Graph, Value  # noqa: E402
from minigan.export.verify import LIMITS  # noqa: E402
from minigan.gan.runs import load_trainer  # noqa: E402
from minigan.gan.trainer import Trainer  # noqa: E402

pytestmark = pytest.mark.skipif(mg.get_default_device().type != "cpu", reason="settings.device names the CPU")

SMALL = ["batch=16", "lr_decay=0", "limit=64", "score_samples=32", "checkpoint_every=2", "score_every=4", "log_every=2"]
RING = ["ring", "--steps", "6", "--set", "width=8", "--set", "sample_every=6"]
IMAGES = ["glyphs", "--steps", "4", "--set", "width=4", "--set", "size=16", "--set", "sample_every=4"]
FLIPS, CUTS = 100, 30


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working folder, and no report, which takes longer than these runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minigan.gan.callbacks.write_report", lambda path: None)
    return tmp_path


def train(*words):
    assert main(["train", *words, *(word for setting in SMALL for word in ("--set", setting)), "--quiet"]) == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of two short, finished runs."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minigan.gan.callbacks.write_report", lambda path: None)
        train(*RING, "--out", str(folder / "ring"))
        train(*IMAGES, "--out", str(folder / "images"))
    return folder


@pytest.fixture
def ring(made):
    return made / "ring"


@pytest.fixture
def images(made):
    return made / "images"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The file of a generator without a run."""
    mg.manual_seed(0)
    layers = (nn.Linear(4, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 12), nn.Unflatten(1, (3, 2, 2)), nn.Tanh())
    path = tmp_path_factory.mktemp("file") / "generator.onnx"
    export_onnx(nn.Sequential(*layers).eval(), path, latent=4)
    return path


def content(folder):
    """Every file and its bytes."""
    return {path: path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def refused(capsys, *words):
    """The one line of a command that changes nothing."""
    before = content(".")
    capsys.readouterr()
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), err
    assert err.startswith("minigan: ")
    assert err.count("\n") == 1
    assert len(err) < 1000
    assert content(".") == before
    return err


def verified(*words):
    return main(["verify", *(str(word) for word in words)])


# After a training ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ring", "images"])
def test_train_leaves_a_verified_file(made, name):
    run = made / name
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
    assert main(["resume", "run", "--steps", "8", "--quiet"]) == 0
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


def exported(run, *words, out="g.onnx"):
    assert main(["export", str(run), "-o", out, *words]) == 0
    return Graph.load(out)


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


# Bad files -------------------------------------------------------------------------------------------------


def test_what_is_no_model(file, images, capsys):
    Path("text.onnx").write_text("not a model")
    Path("empty.onnx").touch()
    Path("noise.onnx").write_bytes(random.Random(0).randbytes(5000))
    Path("folder.onnx").mkdir()
    for name in ("text.onnx", "empty.onnx", "noise.onnx", "folder.onnx", "nosuch.onnx"):
        assert name in refused(capsys, "verify", name)
        assert name in refused(capsys, "verify", name, "--run", images)
        assert name in refused(capsys, "sample", name, "-n", "1", "--out", "s.npy")


def test_cut_short(file, capsys):
    data = file.read_bytes()
    lengths = {0, 1, len(data) - 1, *random.Random(1).sample(range(len(data)), CUTS)}
    for length in lengths:
        Path("g.onnx").write_bytes(data[:length])
        assert "g.onnx: " in refused(capsys, "verify", "g.onnx"), length


def test_flipped_bits(file, here, capsys):
    """Found, or refused in one line, or in a place that does not matter: then the samples are the same."""
    data, numbers = file.read_bytes(), random.Random(2)
    z = mg.randn(4, 4).numpy()
    expected = Generator(file)(z)
    codes = []
    for i in range(FLIPS):
        # a half of them where the nodes are, which are few beside weights, hashes and proof
        place = numbers.randrange(len(data)) if i % 2 else data.index(b"Gemm") + numbers.randrange(-60, 300)
        flipped = bytearray(data)
        flipped[place] ^= 1 << numbers.randrange(8)
        Path("g.onnx").write_bytes(flipped)
        codes.append(verified("g.onnx"))
        out, err = capsys.readouterr()
        assert codes[-1] in (0, 1, 2), (place, err)
        if codes[-1] == 2:
            assert err.startswith("minigan: g.onnx"), (place, err)
            assert err.count("\n") == 1
        else:
            assert ("FAILED" in out) == (codes[-1] == 1), (place, err)
            assert err == "", place
        if codes[-1] == 0:
            np.testing.assert_allclose(Generator("g.onnx")(z), expected, rtol=0, atol=1e-5)
        assert content(".").keys() == {Path("g.onnx")}
    assert all(codes.count(code) > FLIPS // 20 for code in (1, 2))
    assert codes.count(0) < FLIPS // 3


def foreign_domain(model):
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))


def unknown_operator(model):
    model.graph.node[0].op_type = "Fantasy"


def other_operator(model):
    node = next(node for node in model.graph.node if node.op_type == "Tanh")
    node.op_type = "Softsign"


def graph_within(model):
    inner = onnx.helper.make_graph([], "inner", [], [])
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("body", inner))


def no_output(model):
    del model.graph.output[:]


def no_opset(model):
    del model.opset_import[:]


def later_opset(model):
    model.opset_import[0].version = 99


def sequence(model):
    kind = onnx.helper.make_tensor_sequence_value_info("z", onnx.TensorProto.FLOAT, None)
    model.graph.input[0].CopyFrom(kind)


def fewer_bytes(model):
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]


def no_type(model):
    model.graph.initializer[0].data_type = 0


def unknown_type(model):
    model.graph.initializer[0].data_type = 77


def elsewhere(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "nosuch.bin"


def outside(model):
    elsewhere(model)
    model.graph.initializer[0].external_data[0].value = "../nosuch.bin"


def odd_offset(model):
    elsewhere(model)
    entry = model.graph.initializer[0].external_data.add()
    entry.key, entry.value = "offset", "-5"


DAMAGE = {
    foreign_domain: "com.example", unknown_operator: "Fantasy", other_operator: "Softsign", graph_within: "graph",
    no_output: "not an ONNX model", no_opset: "not an ONNX model", later_opset: "", sequence: "'z' is not a tensor",
    fewer_bytes: "", no_type: "", unknown_type: "", elsewhere: "nosuch.bin", outside: "outside of the folder",
    odd_offset: "nosuch.bin",
}  # fmt: skip


def test_names_that_are_no_text(file, capsys):
    Path("g.onnx").write_bytes(file.read_bytes().replace(b"/0/Gemm", b"/0/\xffemm"))
    assert "g.onnx: damaged: a name in it is no text" in refused(capsys, "verify", "g.onnx")


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_files_of_other_kinds(file, images, capsys, damage):
    model = onnx.load(file)
    damage(model)
    Path("g.onnx").write_bytes(model.SerializeToString())
    said = refused(capsys, "verify", "g.onnx")
    assert said.startswith("minigan: g.onnx")
    assert DAMAGE[damage] in said


@pytest.mark.parametrize(
    ("z", "word"),
    [
        (("z", "float64", ("batch", 6)), "inconsistent type"), (("z", "float32", ("batch", "any")), "any"),
        (("z", "float32", ("batch", 5)), "g.onnx"), (("noise", "float32", ("batch", 6)), "noise"),
        (("z", "float32", (4, 6)), "g.onnx"), (("z", "float32", ()), "g.onnx"),
    ],
    ids=["dtype", "free size", "size", "name", "fixed batch", "no axes"],
)  # fmt: skip
def test_wrong_inputs(capsys, z, word):
    name, dtype, shape = z
    graph = small_graph(variant='{"dtype": "fp32", "output": "float", "optimize": "speed"}')
    graph.inputs[0] = Value(name, np.dtype(dtype), shape)
    for node in graph.nodes:
        node.inputs = [name if given == "z" else given for given in node.inputs]
    graph.save("g.onnx")
    said = refused(capsys, "verify", "g.onnx")
    assert "g.onnx" in said
    assert word in said


def test_a_file_of_another_program(capsys):
    small_graph().save("g.onnx")
    assert "g.onnx: was not written by minigan export" in refused(capsys, "verify", "g.onnx")


def test_missing_and_short_external_data(file, capsys):
    graph = Graph.load(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minigan.export.graph._LARGE", 64)
        data = graph.save("g.onnx", external=True)
    assert verified("g.onnx") == 0
    whole = data.read_bytes()
    for kept in (whole[: len(whole) // 2], b""):
        data.write_bytes(kept)
        assert f"{data.name}: shorter than it should be" in refused(capsys, "verify", "g.onnx")
    data.write_bytes(bytes(len(whole)))
    assert verified("g.onnx") == 1
    data.unlink()
    assert f"{data.name}: No such file" in refused(capsys, "verify", "g.onnx")


# Bad words -------------------------------------------------------------------------------------------------

WRONG = {
    "export": "Missing argument 'RUN'",
    "export nosuch": "nosuch: not a run folder",
    "export empty": "empty: not a run folder",
    "export file.txt": "file.txt: not a run folder",
    "export {run} -o x.pt": "x.pt: expected a name that ends in .onnx",
    "export {run} -o x": "x: expected a name that ends in .onnx",
    "export {run} -o no/such/x.onnx": "there is no folder no/such",
    "export {run} -o file.txt/x.onnx": "there is no folder file.txt",
    "export {run} -o taken.onnx": "taken.onnx: Is a directory",
    "export {run} -o {long}.onnx": "File name too long",
    "export {run} --step 3": "no checkpoint of step 3; there are: [",
    "export {run} --step two": "'--step'",
    "export {run} --dtype fp8": "'--dtype'",
    "export {run} --output jpeg": "'--output'",
    "export {run} --optimize fun": "'--optimize'",
    "export {run} --opset 16": "'--opset'",
    "export {run} --opset 24": "'--opset'",
    "export {ring} --output uint8 -o x.onnx": "output uint8 is for images",
    "verify": "Missing argument 'FILE'",
    "verify nosuch.onnx": "nosuch.onnx: No such file",
    "verify {run}/generator.onnx --run nosuch": "nosuch: not a run folder",
    "verify {run}/generator.onnx --run empty": "empty: not a run folder",
    "verify {run}/generator.onnx --run {ring}": "generator.onnx: is of another run than",
    "verify {ring}/generator.onnx --run {run}": "no checkpoint of step 6",
    "verify {run}/generator.onnx --json report.txt": "report.txt: expected a name that ends in .json",
    "verify {run}/generator.onnx --json no/such.json": "there is no folder no",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_usage(line, images, ring, capsys):
    Path("empty").mkdir()
    Path("taken.onnx").mkdir()
    Path("file.txt").touch()
    before = content(images)
    words = [word.format(run=images, ring=ring, long="x" * 300) for word in line.split()]
    assert WRONG[line] in refused(capsys, *words)
    assert content(images) == before


def test_damaged_runs(images, here, capsys):
    for name in ("config.toml", "checkpoints/step-000004.safetensors"):
        shutil.copytree(images, here / "run")
        path = here / "run" / name
        path.write_bytes(path.read_bytes()[:100])
        refused(capsys, "export", "run", "--step", 4)
        shutil.rmtree(here / "run")


@contextmanager
def small_files(limit):
    """No file may grow beyond the limit, as on a full disk."""
    import resource  # POSIX has it

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_full_disk(images, capsys):
    exported(images, "--raw")
    size = Path("g.onnx").stat().st_size
    for limit in (0, size - 1):
        for name in ("g.onnx", "new.onnx"):
            with small_files(limit):
                said = refused(capsys, "export", images, "-o", name)
            assert said == f"minigan: {name}: File too large\n"
    assert main(["export", str(images), "-o", "g.onnx"]) == 0


def test_weights_that_are_nan(images, capsys, monkeypatch):
    load = Trainer.load_state_dict

    def spoiled(trainer, state):
        load(trainer, state)
        with mg.no_grad():
            next(trainer.generator.parameters()).view(-1)[0] = float("nan")

    monkeypatch.setattr(Trainer, "load_state_dict", spoiled)
    said = refused(capsys, "export", images, "-o", "g.onnx")
    assert "g.onnx: not written, for it does not equal the engine: proof: max |file - engine|: nan" in said
    assert main(["export", str(images), "-o", "g.onnx", "--no-verify"]) == 0
    assert verified("g.onnx") == 1

"""`minigan export` and `minigan verify` with bad files, wrong words, damaged runs, a full disk: one line, no change."""

import os
import random
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from onnx_files import graph as small_graph

import minigan as mg
from minigan import nn
from minigan.cli import main

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import export_parts  # after the skips
import onnx
from export_parts import content, exported, refused, verified

from minigan.export import Generator, export_onnx
from minigan.export.graph import Graph, Value
from minigan.gan.trainer import Trainer

pytestmark = pytest.mark.skipif(mg.get_default_device().type != "cpu", reason="settings.device names the CPU")
FLIPS, CUTS = 100, 30
here, trained = export_parts.here, export_parts.trained  # fixtures
ring, images = export_parts.ring, export_parts.images


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The file of a generator without a run."""
    mg.manual_seed(0)
    layers = (nn.Linear(4, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 12), nn.Unflatten(1, (3, 2, 2)), nn.Tanh())
    path = tmp_path_factory.mktemp("file") / "generator.onnx"
    export_onnx(nn.Sequential(*layers).eval(), path, latent=4)
    return path


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

"""Every recipe's generator as a file: verified, read back, in every opset and variant; and files of two parts."""

import os
import shutil

import numpy as np
import pytest

import minigan as mg

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from minigan.export import ExportError, Generator, OnnxError, export_onnx, exporter, load_onnx, verify  # noqa: E402
from minigan.export import graph as graphs  # noqa: E402
from minigan.export.exporter import Subject, Variant, build  # noqa: E402
from minigan.export.graph import Graph  # noqa: E402
from minigan.export.verify import Check, Report  # noqa: E402
from minigan.gan.recipes import NAMES, POINTS, get_recipe  # noqa: E402

pytestmark = pytest.mark.skipif(mg.get_default_device().type != "cpu", reason="files are written from the CPU")
CHANNELS = {"stacked": 3}
IR = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}  # of each opset, as the runtimes of its time want it
POINT_NETWORKS = ("quick", "unrolled", "pacgan")


def generator(name, *changes, seed=0):
    """A recipe's G in evaluation mode, and its settings: narrow, BatchNorm's statistics from some batches."""
    mg.manual_seed(seed)
    settings = get_recipe(name).defaults
    settings = settings.changed(["width=4"] * hasattr(settings, "width")).changed(changes)
    shape = (2,) if name in POINTS else (CHANNELS.get(name, 1), settings.size, settings.size)
    network, _ = get_recipe(name).networks(settings, shape)
    with mg.no_grad():
        for _ in range(3):
            network(mg.randn(8, settings.latent))
    return network.eval(), settings


def export(name, path, *changes, **options):
    """Both; the second is the report of the check."""
    network, settings = generator(name, *changes)
    metadata = {"latent_distribution": settings.latents}
    return network, export_onnx(network, path, latent=settings.latent, metadata=metadata, **options)


def again(path):
    """What becomes of a file that is read back and exported."""
    return build(Subject.of(load_onnx(path)), Variant()).to_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe(name, tmp_path):
    path = tmp_path / "generator.onnx"
    network, report = export(name, path)
    assert report.passed
    folded = "BatchNormalization" not in {node.op for node in Graph.load(path).nodes}
    assert folded == (name != "dcgan-28")  # which has a Slice before it
    assert again(path) == path.read_bytes()
    z = mg.randn(5, *Generator(path).latent_shape)
    with mg.no_grad():
        for found in (Generator(path)(z.numpy()), load_onnx(path)(z).numpy()):
            np.testing.assert_allclose(found, network(z).numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("networks", POINT_NETWORKS)
def test_networks_of_points(networks, tmp_path):
    path = tmp_path / "generator.onnx"
    assert export("ring", path, f"networks={networks}")[1].passed
    assert again(path) == path.read_bytes()


@pytest.mark.parametrize("name", ["glyphs", "dcgan-32"])
def test_every_opset(name, tmp_path):
    z = mg.randn(3, get_recipe(name).defaults.latent).numpy()
    expected = None
    for opset, ir in IR.items():
        path = tmp_path / f"{opset}.onnx"
        export(name, path, opset=opset, verified=False)
        assert Graph.load(path).opset == opset
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (samples,) = session.run(None, {"z": z})
        expected = samples if expected is None else expected
        np.testing.assert_allclose(samples, expected, rtol=0, atol=1e-6)
        assert onnx.load(path).ir_version == ir
    for opset in (16, 24, 0, "17"):
        with pytest.raises(ExportError, match="opset"):
            export(name, tmp_path / "other.onnx", opset=opset)
    assert not (tmp_path / "other.onnx").exists()


VARIANTS = [
    {"dtype": "fp16"}, {"dtype": "fp16-storage"}, {"output": "uint8"}, {"optimize": "size"},
    {"dtype": "fp16", "output": "uint8"}, {"dtype": "fp16-storage", "output": "uint8"},
]  # fmt: skip


@pytest.mark.parametrize("name", ["glyphs", "gan"])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: " ".join(variant.values()))
def test_variants(name, variant, tmp_path):
    path, plain = tmp_path / "generator.onnx", tmp_path / "plain.onnx"
    network, report = export(name, path, **variant)
    assert report.passed
    assert verify(path).passed
    export(name, plain)
    if variant.get("dtype") or variant.get("optimize"):
        assert path.stat().st_size < plain.stat().st_size
    samples, expected = Generator(path).sample(9), Generator(plain).sample(9)
    if "output" in variant:
        expected = np.rint(127.5 * expected + 127.5).transpose(0, 2, 3, 1)
        assert samples.dtype == np.uint8
        assert np.abs(samples.astype(int) - expected).max() <= 1
    else:
        np.testing.assert_allclose(samples, expected, rtol=0, atol=5e-3)
    with mg.no_grad():  # the engine reads the variant, too
        z = mg.randn(4, *Generator(path).latent_shape)
        difference = np.abs(load_onnx(path)(z).numpy().astype(float) - Generator(path)(z.numpy()))
    assert difference.max() <= (1 if "output" in variant else 5e-3)


def test_functions(tmp_path):
    """Without names of weights; one that has a parameter psi gets it, another gets z·psi."""
    table, weight, z = mg.randn(3, 4), mg.randn(4, 5), mg.randn(6, 4)
    path = tmp_path / "g.onnx"
    assert export_onnx(lambda z, labels: (z + table[labels]) @ weight, path, latent=4, classes=3).passed
    labels = np.array([0, 1, 2, 2, 1, 0])
    np.testing.assert_allclose(Generator(path)(z.numpy(), labels), ((z + table[labels]) @ weight).numpy(), atol=1e-5)
    for function in (lambda z, psi=1.0: z + psi, lambda z: z + 1):
        assert export_onnx(function, path, latent=4, psi=True).passed
        expected = function(z, 0.25) if function.__code__.co_argcount == 2 else function(z / 4)
        np.testing.assert_allclose(Generator(path)(z.numpy(), psi=0.25), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("generator", "options", "line"),
    [
        (3, {"latent": 4}, "expected a Module or a function, got int"),
        (mg.tanh, {}, "expected latent="),
        (mg.tanh, {"latent": 0}, "latent: got 0"),
        (mg.tanh, {"latent": "4"}, "latent: got '4'"),
        (mg.tanh, {"latent": (3, -1)}, r"latent: got \(3, -1\)"),
        (mg.tanh, {"latent": 4, "metadata": {"step": 3}}, "metadata: step is 3, expected a text"),
        (lambda z: z > 0, {"latent": 4}, "is bool: expected float32"),
        (lambda z: z.double(), {"latent": 4}, "is float64: expected float32"),
        (lambda z: (z, z), {"latent": 4}, "one Tensor, got tuple"),
    ],
)
def test_what_cannot_be_exported(tmp_path, generator, options, line):
    with pytest.raises(ExportError, match=line):
        export_onnx(generator, tmp_path / "g.onnx", **options)
    assert names(tmp_path) == []


# Files of two parts ----------------------------------------------------------------------------------------


@pytest.fixture
def two_parts(monkeypatch):
    """All files are large."""
    monkeypatch.setattr(graphs, "INLINE_LIMIT", 0)
    monkeypatch.setattr(graphs, "_LARGE", 64)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_external_data(two_parts, tmp_path):
    path = tmp_path / "generator.onnx"
    network, report = export("glyphs", path)
    assert report.passed
    model, data = sorted(tmp_path.iterdir(), key=lambda one: one.suffix, reverse=True)
    assert (model.name, data.suffix) == ("generator.onnx", ".bin")
    assert data.name.startswith("generator-")
    assert data.stat().st_size > model.stat().st_size
    assert verify(path).passed
    z = mg.randn(3, 64)
    with mg.no_grad():
        expected = network(z).numpy()
        np.testing.assert_allclose(load_onnx(path)(z).numpy(), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(Generator(path)(z.numpy()), expected, rtol=0, atol=1e-5)
    moved = tmp_path / "moved"
    moved.mkdir()
    for one in (model, data):
        shutil.move(one, moved)
    assert verify(moved / "generator.onnx").passed


def test_external_data_where_asked_for(tmp_path):
    export("glyphs", tmp_path / "generator.onnx", "width=80", verified=False)
    graph = Graph.load(tmp_path / "generator.onnx")
    data = graph.save(tmp_path / "two.onnx", external=True)
    assert data.stat().st_size >= 1 << 20
    assert verify(tmp_path / "two.onnx").passed
    for name, array in Graph.load(tmp_path / "two.onnx").constants.items():
        assert array.tobytes() == graph.constants[name].tobytes()


def test_data_are_replaced_with_their_file(two_parts, monkeypatch, tmp_path):
    path = tmp_path / "generator.onnx"
    (tmp_path / "generator-of-mine.bin").touch()
    (tmp_path / "other-0123456789ab.bin").touch()
    kept = {"generator.onnx", "generator-of-mine.bin", "other-0123456789ab.bin"}
    seen = set()
    for changes in ((), ("latent=5",), (), ()):
        export("glyphs", path, *changes)
        (data,) = set(names(tmp_path)) - kept
        seen.add(data)
    assert len(seen) == 2
    monkeypatch.undo()
    export("glyphs", path)  # now it has all inside
    assert set(names(tmp_path)) == kept


@pytest.mark.parametrize("changes", [(), ("latent=5",)], ids=["the same data", "other data"])
@pytest.mark.parametrize("failure", ["check", "disk", "interrupt"])
def test_an_export_that_fails_takes_nothing_away(two_parts, monkeypatch, tmp_path, changes, failure):
    path = tmp_path / "generator.onnx"
    export("glyphs", path)
    before = {one: one.read_bytes() for one in tmp_path.iterdir()}

    def fail(*_):
        raise {"disk": OSError(28, "No space left on device"), "interrupt": KeyboardInterrupt}[failure]

    if failure == "check":
        monkeypatch.setattr(exporter, "verify", lambda *_: Report("", {}, [Check("all", 1.0, "≤ 0")]))
    elif failure == "disk":
        monkeypatch.setattr(graphs, "write_atomically", fail)  # there was room for the data alone
    else:
        monkeypatch.setattr(exporter, "verify", fail)
    with pytest.raises((OnnxError, OSError, KeyboardInterrupt)):
        export("glyphs", path, *changes)
    assert {one: one.read_bytes() for one in tmp_path.iterdir()} == before


def test_killed_between_data_and_file(two_parts, monkeypatch, tmp_path):
    """The old file is whole at every instant, and the next export clears away what was left."""
    folder = tmp_path / "models"
    folder.mkdir()
    export("glyphs", folder / "generator.onnx")
    old = Generator(folder / "generator.onnx").sample(2)
    instants = []

    def photograph(name):
        write = getattr(graphs, name, None) or getattr(graphs.os, name)

        def called(*arguments):
            instants.append(shutil.copytree(folder, tmp_path / str(len(instants))))
            return write(*arguments)

        monkeypatch.setattr(graphs.os if name == "replace" else graphs, name, called)

    photograph("write_atomically")
    photograph("replace")
    export("glyphs", folder / "generator.onnx", "latent=5")
    monkeypatch.undo()
    assert len(instants) == 4  # the data's name, the file, its name on trial, its name
    assert [len(list(instant.glob("*.bin"))) for instant in instants] == [1, 2, 2, 2]
    for instant in instants:
        assert np.array_equal(Generator(instant / "generator.onnx").sample(2), old)
        export("glyphs", instant / "generator.onnx")
        assert names(instant) == ["generator.onnx"]


def test_two_exports_to_one_folder_take_turns(tmp_path, monkeypatch):
    """Else one could put the other's unverified file in place. While one verifies, the folder is locked."""
    fcntl = pytest.importorskip("fcntl")
    G = mg.nn.Sequential(mg.nn.Linear(4, 2), mg.nn.Tanh()).eval()
    seen = []

    def looking(path, reference=None):
        handle = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)
        seen.append(path)
        return verify(path, reference)

    monkeypatch.setattr("minigan.export.exporter.verify", looking)
    export_onnx(G, tmp_path / "g.onnx", latent=4)
    assert len(seen) == 1
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # and free again
    os.close(handle)

"""The runner: the samples of a file are those of its formula, and what it cannot do is said in one line."""

import re
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_files import CLASSES, FLOAT, LATENT, expected, graph

import minigan as mg
from minigan.export import session
from minigan.export.graph import Graph, Node, Value
from minigan.export.runner import BATCH, Generator

onnxruntime = pytest.importorskip("onnxruntime")
ENGINES = ("onnxruntime", "numpy")


@pytest.fixture
def saved(tmp_path):
    """Writes a graph and returns its path."""

    def save(model, name="generator.onnx", **options):
        model.save(tmp_path / name, **options)
        return tmp_path / name

    return save


def same(found, wanted):
    """Equal but for rounding: of floats, or of a level that lies between two."""
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    if found.dtype == np.uint8:
        return np.abs(found.astype(int) - wanted).max(initial=0) <= 1
    return np.abs(found - wanted).max(initial=0) <= 2e-6


# Samples -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@given(
    output=st.sampled_from(["float", "uint8"]),
    labels=st.booleans(),
    psi=st.none() | st.floats(0, 1.5, width=32),
    n=st.sampled_from([0, 1, 7, BATCH, 2 * BATCH + 9]),
    seed=st.integers(0, 2**31),
    distribution=st.sampled_from(["normal", "uniform"]),
)
def test_samples_are_what_the_formula_gives(tmp_path_factory, engine, output, labels, psi, n, seed, distribution):
    model = graph(output, labels, psi is not None, latent_distribution=distribution)
    path = tmp_path_factory.mktemp("model") / "g.onnx"
    model.save(path)
    generator = Generator(path, engine=engine)
    psi = 1.0 if psi is None else psi
    assert same(generator.sample(n, seed, psi=psi), expected(model, n, seed, psi=psi))
    if labels:
        chosen = np.random.default_rng(seed).integers(0, CLASSES, n)
        assert same(generator.sample(n, seed, chosen, psi), expected(model, n, seed, chosen, psi))
        assert same(generator.sample(n, seed, 2, psi), expected(model, n, seed, np.full(n, 2), psi))


def test_a_run_and_its_file_show_the_same(saved):
    from minigan.export import export_onnx
    from minigan.gan.recipes import get_recipe
    from minigan.gan.trainer import Trainer

    trainer = Trainer(get_recipe("ring").defaults.changed(["limit=100", "batch=20", "width=16", "device=cpu"]))
    path = saved(graph())
    export_onnx(trainer.generator.eval(), path, latent=trainer.settings.latent)
    assert np.abs(Generator(path).sample(300, seed=3) - trainer.sample(300, seed=3).numpy()).max() <= 1e-5


def test_streams_begin_where_they_are_told(saved):
    generator = Generator(saved(graph(labels=True)))
    whole = generator.sample(3 * BATCH + 5, seed=9)
    parts = list(generator.stream(3 * BATCH + 5, seed=9, start=2 * BATCH))
    assert [len(part) for part in parts] == [BATCH, 5]
    assert np.array_equal(np.concatenate(parts), whole[2 * BATCH :])
    assert same(generator.sample(20, seed=9), whole[:20])  # whatever n is


@pytest.mark.parametrize("engine", ENGINES)
def test_latents_of_ones_own(saved, engine):
    model = graph(labels=True, psi=True)
    generator = Generator(saved(model), engine=engine)
    assert (generator.latent_shape, generator.sample_shape, generator.classes) == ((LATENT,), (3, 4, 5), CLASSES)
    z = mg.randn(8, LATENT, device="cpu").numpy()
    wanted = generator(z, psi=0.5)
    assert same(generator(z, [0, 1, 2, 0, 1, 2, 0, 1], psi=0.5), wanted)  # the classes take turns
    assert same(generator(mg.from_numpy(z), psi=0.5), wanted)
    assert same(generator(z.astype(np.float64), psi=0.5), wanted)
    assert same(generator(np.asfortranarray(z), psi=0.5), wanted)
    assert same(generator(np.repeat(z, 2, axis=1)[:, ::2], psi=0.5), wanted)


def one_node(op, shape, out, name="latents", dtype=FLOAT):
    return Graph([Value(name, dtype, shape)], [Value("x", dtype, out)], [Node(op, "/n", [name], ["x"])], {})


@pytest.mark.parametrize(
    ("shape", "out"),
    [
        (("N", 3), ("N", 3)),
        ((4, 3), (4, 3)),  # a batch of its own: 4, 4, and 2 filled up
        (("N", 3), ("M", "K")),  # sizes that only a sample tells
        ((4, 3), ("M", "K")),
        (("N", 3, 1, 1), ("N", 3, 1, 1)),  # as PyTorch's DCGAN has them
    ],
)
def test_files_from_elsewhere(saved, shape, out):
    generator = Generator(saved(one_node("Tanh", shape, out)))
    z = mg.randn(10, 3, generator=mg.Generator(name="samples").manual_seed(1), device="cpu").numpy()
    assert same(generator.sample(10, seed=1), np.tanh(z).reshape(10, *shape[1:]))


def test_half_precision(saved):
    generator = Generator(saved(one_node("Tanh", ("N", 3), ("N", 3), dtype=np.dtype("float16"))))
    found = generator(np.full((2, 3), 0.5))
    assert found.dtype == np.float16
    assert np.allclose(found, np.tanh(0.5), atol=1e-3)


# What cannot be ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("z", "message"),
    [
        (np.zeros((2, 5), np.float32), r"z: got float32 of shape \(2, 5\), expected floating .* \(n, 6\)"),
        (np.zeros(6, np.float32), r"z: got float32 of shape \(6,\)"),
        (np.zeros((1, 2, 6), np.float32), r"z: got float32 of shape \(1, 2, 6\)"),
        (np.zeros((2, 6), np.int64), "z: got int64"),
        (np.array([["a"] * 6]), "z: got <U1"),
    ],
)
def test_wrong_latents(saved, engine, z, message):
    with pytest.raises(ValueError, match=message):
        Generator(saved(graph()), engine=engine)(z)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (3, "labels: got 3 to 3, expected 0 to 2"),
        ([0, -1], "labels: got -1 to 0, expected 0 to 2"),
        ([0, 1, 2], r"labels: got int64 of shape \(3,\), expected whole numbers, \(2,\)"),
        ([0.0, 1.0], "labels: got float64"),
    ],
)
def test_wrong_labels(saved, labels, message):
    with pytest.raises(ValueError, match=message):
        Generator(saved(graph(labels=True)))(np.zeros((2, LATENT)), labels)


def test_what_the_model_does_not_have(saved):
    plain = Generator(saved(graph()))
    with pytest.raises(ValueError, match="labels: .* has no classes"):
        plain.sample(2, labels=1)
    with pytest.raises(ValueError, match="psi: .* was exported without truncation"):
        plain.sample(2, psi=0.5)
    conditional = graph(labels=True)
    with pytest.raises(ValueError, match=r"labels: got shape \(3,\), expected one class, or one for each of 2"):
        Generator(saved(conditional)).sample(2, labels=[0, 1, 2])
    del conditional.metadata["classes"]
    unsaid = Generator(saved(conditional))
    assert same(unsaid.sample(4, labels=2), expected(conditional, 4, labels=np.full(4, 2)))
    with pytest.raises(ValueError, match="labels: needed"):
        unsaid.sample(2)


def damaged(path, how):
    """Makes a good file one that cannot be used."""
    content = path.read_bytes()
    if how == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "a picture":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    elif how == "missing":
        path.unlink()
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    else:
        (data,) = path.parent.glob("*.bin")
        if how == "without its data":
            data.unlink()
        else:
            data.write_bytes(data.read_bytes()[:100])
    return path


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "how",
    ["cut short", "empty", "a picture", "missing", "a folder", "without its data", "with data cut short"],
)
def test_files_that_cannot_be_used(saved, engine, how):
    model = graph(shape=(3, 300, 300))  # large enough for external data
    path = damaged(saved(model, external="data" in how), how)
    with pytest.raises((ValueError, OSError), match=r"generator.onnx|generator-\w+.bin") as caught:
        Generator(path, engine=engine)
    assert "\n" not in str(caught.value)


def test_inputs_that_no_generator_has(saved):
    for shape in (("N", "anything"), ("N",), ()):
        with pytest.raises(ValueError, match=r"has the inputs latents float32 .*; expected one, z, of shape \(batch"):
            Generator(saved(one_node("Tanh", shape, shape)))
    with pytest.raises(ValueError, match="has the inputs latents int64"):
        Generator(saved(one_node("Abs", ("N", 3), ("N", 3), dtype=np.dtype("int64"))))
    with pytest.raises(ValueError, match=r"latents is a tensor\(bool\), expected one of tensor\(float\), "):
        Generator(saved(one_node("Not", ("N", 3), ("N", 3), dtype=np.dtype("bool"))))
    two = one_node("Tanh", ("N", 3), ("N", 3))
    two.inputs.append(Value("truncation", FLOAT, ()))
    with pytest.raises(ValueError, match="truncation float32"):
        Generator(saved(two))


def test_a_batch_that_was_baked_in(saved):
    model = graph()
    model.constants["/shape"] = np.array([3, 3, 4, 5])
    command = [sys.executable, "-m", "minigan", "sample", saved(model), "-n", "2"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert re.fullmatch(r"minigan: .*generator.onnx: cannot run on z \(2, 6\): .+\n", run.stderr)


def test_what_is_not_installed(saved, monkeypatch):
    path = saved(graph())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'minigan\[cpu\]'"):
        Generator(path)
    assert Generator(path, engine="numpy").provider == "numpy"


def test_nothing_is_loaded_before_it_is_used():
    code = "import sys, minigan.export.runner, minigan.export.shards, minigan.export.triton; print(sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'minigan.export.runner'" in out
    assert not [name for name in ("'onnx'", "'onnxruntime'", "'minigan.gan'", "'PIL'", "'cupy'") if name in out]


# Where it runs -----------------------------------------------------------------------------------------


@pytest.fixture
def fallback(monkeypatch):
    """ONNX Runtime as it is on a machine with its GPU build and no GPU: it silently falls back to the CPU."""
    asked = SimpleNamespace(providers=None, options=None, preloaded=0)
    genuine = onnxruntime.InferenceSession

    def open_on_cpu(path, options, providers):
        asked.providers, asked.options = providers, options
        return genuine(path, options, providers=["CPUExecutionProvider"])

    def preload():
        asked.preloaded += 1
        print("Failed to load libcudnn.so.9")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [session.TENSORRT, session.CUDA, session.CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", open_on_cpu)
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    return asked


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_provider_that_this_build_lacks(saved, provider):
    path = saved(graph())
    message = f"generator.onnx: asked for {session.PROVIDERS[provider][0]}, runs on CPU.*: .* was built without it"
    with pytest.raises(ValueError, match=message):
        Generator(path, provider, require_provider=True)
    with pytest.warns(UserWarning, match=message) as caught:
        generator = Generator(path, provider)
    assert len(caught) == 1
    assert caught[0].filename == __file__  # where the user asked
    assert generator.provider == "cpu"


def test_silent_fallback_is_noticed(saved, fallback, capsys):
    path = saved(graph())
    for provider in ("auto", "cuda", "tensorrt"):
        with pytest.raises(ValueError, match="runs on CPUExecutionProvider: .* found no GPU"):
            Generator(path, provider, require_provider=True)
    assert fallback.providers == [session.TENSORRT, session.CUDA, session.CPU]
    with pytest.warns(UserWarning, match="asked for CUDAExecutionProvider"):
        assert Generator(path, "cuda").provider == "cpu"
    assert fallback.preloaded == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Generator(path, "auto").provider == "cpu"
        assert Generator(path, "cpu", require_provider=True).provider == "cpu"
    assert fallback.preloaded == 5  # not for the CPU
    assert capsys.readouterr().out == ""  # which is for results


def test_threads_and_spinning(saved, fallback):
    path = saved(graph())
    Generator(path, "cpu", threads=3, spinning=False)
    assert fallback.options.intra_op_num_threads == 3
    assert fallback.options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    Generator(path, "cpu")
    assert fallback.options.intra_op_num_threads == 0  # ONNX Runtime's own choice
    with pytest.raises(RuntimeError):
        fallback.options.get_session_config_entry("session.intra_op.allow_spinning")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"provider": "gpu"}, "provider: got 'gpu', expected one of auto, cpu, cuda, tensorrt"),
        ({"threads": 0}, "threads: got 0"),
        ({"engine": "torch"}, "engine: got 'torch', expected 'onnxruntime' or 'numpy'"),
        ({"engine": "numpy", "provider": "cuda"}, "runs on the CPU"),
        ({"engine": "numpy", "threads": 2}, "minigan.set_num_threads"),
    ],
)
def test_wrong_settings(saved, settings, message):
    with pytest.raises(ValueError, match=message):
        Generator(saved(graph()), **settings)


class GpuArray(np.ndarray):
    """An array that says of itself what CuPy's do; its memory is the host's, so that the CPU can run on it."""

    __cuda_array_interface__ = property(lambda self: {})
    device = property(lambda self: SimpleNamespace(id=0))
    data = property(lambda self: SimpleNamespace(ptr=self.ctypes.data))


def test_arrays_on_a_gpu_are_bound_where_they_are(saved, monkeypatch):
    """ONNX Runtime runs on the very addresses; only that "cuda" means the CPU is pretended."""
    calls = []
    fake = SimpleNamespace(
        empty=lambda *args: np.empty(*args).view(GpuArray),
        asarray=lambda array: array,
        ascontiguousarray=lambda array, dtype: np.require(array, dtype, "C").view(GpuArray),
        cuda=SimpleNamespace(get_current_stream=lambda: SimpleNamespace(synchronize=lambda: calls.append("wait"))),
    )
    genuine = onnxruntime.IOBinding

    class Recorded(genuine):
        def bind_input(self, name, device, *args):
            calls.append((name, device, args[-1]))
            super().bind_input(name, "cpu", *args)

        def bind_output(self, name, device, *args):
            calls.append((name, device, args[-1]))
            super().bind_output(name, "cpu", *args)

    model = graph(labels=True, psi=True)
    generator = Generator(saved(model))
    z = mg.randn(5, LATENT, device="cpu").numpy()
    wanted = generator(z, 1, 0.5)
    with pytest.raises(ValueError, match="z: is on a GPU, .* runs on the CPU"):
        generator(z.view(GpuArray))
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(generator, "provider", "cuda")
    monkeypatch.setattr(generator._engine._session, "io_binding", lambda: Recorded(generator._engine._session))
    found = generator(z.view(GpuArray), 1, 0.5)
    assert isinstance(found, GpuArray)
    assert np.array_equal(found, wanted)
    assert calls[0] == "wait"  # for what is still being written to z
    assert calls[1] == ("z", "cuda", z.ctypes.data)
    assert [call[:2] for call in calls[2:]] == [("labels", "cpu"), ("psi", "cpu"), ("samples", "cuda")]
    assert calls[4][2] == found.ctypes.data

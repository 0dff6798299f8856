"""Files that are not what was exported: `verify` must find each, without the run too.

A fault is in the file (nodes, constants or metadata were changed) or in the exporter (it wrote another generator, and
believed what it wrote). `hashes` is what an exporter with a fault does: the sha256 in the metadata are those of what
it wrote, so that nothing but the proof and the engine can tell.
"""

import base64
import copy
import json

import numpy as np
import pytest

import minigan as mg
import minigan.nn.functional as F
from minigan import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from minigan.export import ExportError, OnnxError, export_onnx  # after the skips
from minigan.export.exporter import Subject, Variant, build, write
from minigan.export.graph import Graph, Node, digest
from minigan.export.runs import open_generator, subject, verify_run
from minigan.export.verify import Check, Report, verify
from minigan.gan import runs
from minigan.gan.recipes import get_recipe

pytestmark = pytest.mark.skipif(mg.get_default_device().type != "cpu", reason="files are written from the CPU")
LATENT, CLASSES = 6, 4


class Small(nn.Module):
    """With a BatchNorm that is folded, and one that is behind an activation and stays."""

    def __init__(self):
        super().__init__()
        self.start = nn.Linear(LATENT, 36)
        self.conv1, self.norm1 = nn.ConvTranspose2d(4, 6, 4, 2, 1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.ConvTranspose2d(6, 4, 3, 2, 1, output_padding=1), nn.BatchNorm2d(4)
        self.out = nn.Conv2d(4, 3, 3, padding=1)
        nn.init.constant_(self.start.bias, 2)  # so that means matter

    def forward(self, z):
        x = self.start(z).view(-1, 4, 3, 3)
        x = F.leaky_relu(self.norm1(self.conv1(x)), 0.2)
        x = self.norm2(F.relu(self.conv2(x)))
        return mg.tanh(self.out(x - x.amax((2, 3), keepdim=True) / 2))


class Conditional(nn.Module):
    """With labels and a truncation."""

    def __init__(self):
        super().__init__()
        self.classes, self.out = nn.Embedding(CLASSES, LATENT), nn.Linear(LATENT, 5)

    def forward(self, z, labels, psi=1.0):
        return self.out(mg.tanh(self.classes(labels) + psi * z))


def settled(generator):
    """In evaluation mode, its statistics from some batches."""
    with mg.no_grad():
        for _ in range(4):
            generator(mg.randn(16, LATENT))
    return generator.eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A generator as the exporter takes it, and its file."""
    mg.manual_seed(1)
    what = Subject.of(settled(Small()), LATENT)
    path = tmp_path_factory.mktemp("small") / "generator.onnx"
    assert write(build(what, Variant()), path, what).passed
    assert [node.op for node in Graph.load(path).nodes].count("BatchNormalization") == 1
    return what, path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three steps on small images, and its file."""
    small = ("size=16", "width=4", "batch=16", "limit=64", "score_samples=32", "sample_every=9", "checkpoint_every=1")
    settings = get_recipe("dcgan-32").defaults.changed([*small, "steps=3"])
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minigan.gan.callbacks.write_report", lambda path: None)
        runs.train(settings, folder)
    what = subject(open_generator(folder))
    write(build(what, Variant()), folder / "generator.onnx", what)
    return folder


def passes(path, reference=None, run=None):
    """Whether a file passes; one that cannot be checked at all is refused in one line that names it."""
    try:
        report = verify(path, reference) if run is None else verify_run(path, run)
    except OnnxError as error:
        refusal = str(error)
    else:
        assert report.passed == ("FAILED" not in report.table())
        return report.passed
    assert "\n" not in refusal
    assert str(path) in refusal
    return False


def saved(graph, path, hashes=False):
    """The graph as a file; with `hashes`, with the sha256 of its own constants."""
    if hashes:
        graph.metadata["sha256"] = json.dumps({name: digest(array) for name, array in graph.constants.items()})
    graph.save(path)
    return path


# Nodes ---------------------------------------------------------------------------------------------------


def node(graph, op, number=0):
    return [one for one in graph.nodes if one.op == op][number]


def attribute(op, name, value, number=0):
    def change(graph):
        attributes = node(graph, op, number).attributes
        assert attributes[name] != value
        attributes[name] = value

    return change


def become(op, other, **attributes):
    def change(graph):
        one = node(graph, op)
        one.op, one.attributes = other, attributes

    return change


def swap(op):
    def change(graph):
        node(graph, op).inputs.reverse()

    return change


def without_bias(op, number=0):
    def change(graph):
        del node(graph, op, number).inputs[2:]
        graph.prune()

    return change


def transpose_kernel(op, number=0):
    def change(graph):
        name = node(graph, op, number).inputs[1]
        graph.constants[name] = np.ascontiguousarray(graph.constants[name].swapaxes(2, 3))

    return change


def skip(op, number=0):
    def change(graph):
        one = node(graph, op, number)
        graph.nodes.remove(one)
        for other in graph.nodes:
            other.inputs = [one.inputs[0] if name == one.outputs[0] else name for name in other.inputs]
        if one.outputs == ["samples"]:
            graph.nodes.append(Node("Identity", "/Identity", one.inputs, ["samples"]))

    return change


NODES = {
    "eps": attribute("BatchNormalization", "epsilon", 1e-3),
    "another slope": attribute("LeakyRelu", "alpha", 0.19),
    "ReLU for LeakyReLU": become("LeakyRelu", "Relu"),
    "LeakyReLU for ReLU": become("Relu", "LeakyRelu", alpha=0.2),
    "sigmoid for tanh": become("Tanh", "Sigmoid"),
    "no tanh": skip("Tanh"),
    "no BatchNorm": skip("BatchNormalization"),
    "no activation": skip("Relu"),
    "no bias of the Linear": without_bias("Gemm"),
    "no bias of the ConvTranspose": without_bias("ConvTranspose"),
    "no bias of the Conv": without_bias("Conv"),
    "kernel transposed": transpose_kernel("ConvTranspose"),
    "kernel of the Conv transposed": transpose_kernel("Conv"),
    "output_padding": attribute("ConvTranspose", "output_padding", [0, 0], 1),
    "pads": attribute("ConvTranspose", "pads", [0, 0, 0, 0]),
    "pads moved": attribute("ConvTranspose", "pads", [0, 0, 2, 2]),
    "pads of the Conv moved": attribute("Conv", "pads", [0, 0, 2, 2]),
    "strides": attribute("ConvTranspose", "strides", [1, 1]),
    "auto_pad": attribute("Conv", "dilations", [2, 2]),
    "inputs swapped": swap("Sub"),
    "mean for maximum": become("ReduceMax", "ReduceMean", axes=[2, 3], keepdims=1),
}


@pytest.mark.parametrize("name", NODES)
def test_changed_nodes(made, tmp_path, name):
    what, path = made
    graph = Graph.load(path)
    NODES[name](graph)
    changed = saved(graph, tmp_path / "changed.onnx", hashes=True)
    assert not passes(changed)
    assert not passes(changed, what.run)


def test_what_is_right_passes(made, tmp_path):
    what, path = made
    assert passes(path)
    assert passes(path, what.run)
    again = saved(Graph.load(path), tmp_path / "again.onnx", hashes=True)
    assert again.read_bytes() == path.read_bytes()


# A fault of the exporter: it writes another generator ------------------------------------------------------


def eps(layer):
    layer.eps = 1e-3


def variance(layer):
    n = 16 * (36 if layer.num_features == 6 else 144)
    layer.running_var *= (n - 1) / n


def mean(layer):
    layer.running_mean *= 1.001


def gamma(layer):
    with mg.no_grad():
        layer.weight[0] += 1e-3


@pytest.mark.parametrize("layer", ["norm1", "norm2"])
@pytest.mark.parametrize("fault", [eps, variance, mean, gamma])
def test_statistics(made, tmp_path, layer, fault):
    what, path = made
    wrong = copy.deepcopy(what.module)
    fault(getattr(wrong, layer))
    graph = build(Subject.of(wrong, LATENT), Variant())
    graph.metadata["proof"] = Graph.load(path).metadata["proof"]
    changed = saved(graph, tmp_path / "changed.onnx")
    assert not passes(changed)
    assert not passes(changed, what.run)
    with pytest.raises(ExportError, match="does not equal the engine"):
        write(graph, tmp_path / "generator.onnx", what)
    assert [one.name for one in tmp_path.iterdir()] == ["changed.onnx"]


def test_a_file_of_another_generator(made, tmp_path):
    """It proves itself, but the generator that it should be from tells them apart."""
    what, _ = made
    other = copy.deepcopy(what.module)
    gamma(other.norm2)
    file = saved(build(Subject.of(other, LATENT), Variant()), tmp_path / "g.onnx")
    assert passes(file)
    assert not passes(file, what.run)


# Constants -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hashes", [False, True], ids=["", "hashes"])
def test_every_constant(made, tmp_path, hashes):
    """One value of each in turn. Where the hashes were made anew, a change of 1e-3 may drown in places."""
    _, path = made
    numbers = np.random.default_rng(0)
    original = Graph.load(path)
    assert len(original.constants) >= 10
    for name, array in original.constants.items():
        graph = original.copy()
        changed = array.copy()
        place = numbers.integers(array.size)
        changed.flat[place] += np.asarray((1e-2 if hashes else 1e-3) if array.dtype == np.float32 else 1, array.dtype)
        graph.constants[name] = changed
        file = saved(graph, tmp_path / "changed.onnx", hashes)
        assert not passes(file), name


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("hashes", [False, True], ids=["", "hashes"])
def test_what_is_not_finite(made, tmp_path, value, hashes):
    what, path = made
    graph = Graph.load(path)
    for name in ("out.weight", "norm2.running_mean"):
        changed = graph.copy()
        changed.constants[name] = array = graph.constants[name].copy()
        array.flat[1] = value
        file = saved(changed, tmp_path / "changed.onnx", hashes)
        assert not passes(file)
        assert not passes(file, what.run)
        content = json.loads(verify(file).to_json(), parse_constant=pytest.fail)
        assert None in [check["figure"] for check in content["checks"]]


def test_generators_that_give_what_is_not_finite_are_not_written(tmp_path):
    generator = Small().eval()
    with mg.no_grad():
        generator.out.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ExportError, match="nan"):
        export_onnx(generator, tmp_path / "g.onnx", latent=LATENT)
    assert list(tmp_path.iterdir()) == []


# Metadata ------------------------------------------------------------------------------------------------


def without(name):
    return lambda metadata, other: metadata.pop(name)


def with_(name, text):
    return lambda metadata, other: metadata.update({name: text})


def one_hash_less(metadata, other):
    hashes = json.loads(metadata["sha256"])
    hashes.popitem()
    metadata["sha256"] = json.dumps(hashes)


def one_hash_more(metadata, other):
    metadata["sha256"] = json.dumps(json.loads(metadata["sha256"]) | {"more": "0" * 64})


def one_value_off(metadata, other):
    values = np.frombuffer(base64.b64decode(metadata["proof"]), "<f4").copy()
    values[len(values) // 2] += 2e-5
    metadata["proof"] = base64.b64encode(values.tobytes()).decode()


def nan_in_the_proof(metadata, other):
    values = np.frombuffer(base64.b64decode(metadata["proof"]), "<f4").copy()
    values[0] = np.nan
    metadata["proof"] = base64.b64encode(values.tobytes()).decode()


METADATA = {
    "no sha256": without("sha256"),
    "sha256 that are none": with_("sha256", "nothing"),
    "sha256 of nothing": with_("sha256", "{}"),
    "sha256 as numbers": with_("sha256", "[1, 2]"),
    "one sha256 less": one_hash_less,
    "one sha256 more": one_hash_more,
    "no proof": without("proof"),
    "proof that is none": with_("proof", "?"),
    "proof cut short": lambda metadata, other: metadata.update(proof=metadata["proof"][:-8]),
    "one value of the proof": one_value_off,
    "NaN in the proof": nan_in_the_proof,
    "proof of another": lambda metadata, other: metadata.update(proof=other["proof"]),
    "no variant": without("variant"),
    "variant that is none": with_("variant", "fp32"),
    "variant without an output": with_("variant", '{"dtype": "fp32"}'),
    "variant of another dtype": with_("variant", '{"dtype": "fp8", "output": "float", "optimize": "speed"}'),
    "variant of another output": with_("variant", '{"dtype": "fp32", "output": "uint8", "optimize": "speed"}'),
    "other latents": with_("latent_distribution", "uniform"),
}


@pytest.mark.parametrize("name", METADATA)
def test_changed_metadata(made, tmp_path, name):
    what, path = made
    mg.manual_seed(2)
    graph, other = Graph.load(path), build(Subject.of(settled(Small()), LATENT), Variant())
    METADATA[name](graph.metadata, other.metadata)
    changed = saved(graph, tmp_path / "changed.onnx")
    assert not passes(changed)
    assert not passes(changed, what.run)


def test_a_file_without_constants_needs_its_hashes_too(tmp_path):
    export_onnx(nn.Tanh().eval(), tmp_path / "g.onnx", latent=2)
    graph = Graph.load(tmp_path / "g.onnx")
    assert graph.constants == {}
    del graph.metadata["sha256"]
    assert not passes(saved(graph, tmp_path / "g.onnx"))


# Variants, labels, truncation --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variant", [Variant("fp16"), Variant("fp16-storage"), Variant(output="uint8"), Variant("fp16", "uint8")],
    ids=["fp16", "fp16-storage", "uint8", "fp16 uint8"],
)  # fmt: skip
def test_faults_in_variants(made, tmp_path, variant):
    what, _ = made
    original = build(what, variant)
    assert passes(saved(original.copy(), tmp_path / "right.onnx"), what.run)
    faults = ("ReLU for LeakyReLU", "no tanh", "no bias of the Conv", "output_padding", "inputs swapped")
    for name in (*faults, *["eps"] * (variant == Variant(output="uint8"))):  # float16 hides it
        graph = original.copy()
        NODES[name](graph)
        assert not passes(saved(graph, tmp_path / "changed.onnx", hashes=True)), name


def test_int8(made, tmp_path):
    what, _ = made
    graph = build(what, Variant("int8"))
    noise = verify(saved(graph, tmp_path / "changed.onnx"), what.run)
    assert [check.limit for check in noise.checks if "PSNR" in check.name][:4] == ["≥ 37", "≥ 45", "≥ 40", "≥ 45"]
    NODES["ReLU for LeakyReLU"](graph)
    assert not passes(saved(graph, tmp_path / "changed.onnx", hashes=True))


@pytest.mark.parametrize(
    "change",
    [
        lambda graph: node(graph, "Gather").inputs.reverse(),
        skip("Mul"),
        lambda graph: graph.constants.update({"classes.weight": graph.constants["classes.weight"][[1, 0, 2, 3]]}),
        lambda graph: graph.metadata.update(classes="3"),
        lambda graph: graph.metadata.pop("classes"),
        lambda graph: graph.metadata.update(classes="five"),
    ],
    ids=["labels for table", "no truncation", "classes exchanged", "one class less", "no classes", "five classes"],
)
def test_labels_and_truncation(tmp_path, change):
    what = Subject.of(Conditional().eval(), LATENT, CLASSES, psi=True)
    graph = build(what, Variant())
    assert passes(saved(graph, tmp_path / "right.onnx"))
    if node(graph, "Mul").inputs[0] == "psi":
        node(graph, "Mul").inputs.reverse()
    change(graph)
    changed = saved(graph, tmp_path / "changed.onnx", hashes=True)
    assert not passes(changed)
    assert not passes(changed, what.run)


# Samples that depend on the others of their batch ------------------------------------------------------------


class Mixing(nn.Module):
    def __init__(self, mix):
        super().__init__()
        self.mix, self.out = mix, nn.Linear(LATENT, 4)

    def forward(self, z):
        return self.mix(self.out(z))


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x - x.mean(0), lambda x: x - x.mean(0, keepdim=True), lambda x: x + x.flip(0), lambda x: x + x[0],
        lambda x: x + x[:1], lambda x: x.softmax(0), lambda x: x.cumsum(0), lambda x: x - x.amax(0),
        lambda x: x / x.abs().sum(), lambda x: (x @ x.T) @ x, lambda x: x.roll(1, 0),
        nn.BatchNorm1d(4, track_running_stats=False),
    ],
    ids=["mean", "kept", "flip", "first", "slice", "softmax", "cumsum", "max", "sum", "product", "roll", "norm"],
)  # fmt: skip
def test_samples_that_are_mixed(tmp_path, mix):
    with pytest.raises(ExportError):
        export_onnx(Mixing(mix).eval(), tmp_path / "g.onnx", latent=LATENT)
    assert list(tmp_path.iterdir()) == []


def test_samples_that_are_mixed_in_the_file_alone(made, tmp_path):
    what, path = made
    graph = Graph.load(path)
    tanh = node(graph, "Tanh")
    tanh.inputs, before = ["/mixed"], tanh.inputs[0]
    graph.nodes[-1:-1] = [
        Node("ReduceMean", "/mean", [before], ["/mean"], {"axes": [0], "keepdims": 1}),
        Node("Sub", "/mixed", [before, "/mean"], ["/mixed"]),
    ]
    report = verify(saved(graph, tmp_path / "changed.onnx"))
    assert not next(check for check in report.checks if check.name == "batch 1 against 64: max difference").passed


def test_instance_norm_is_no_mixing(tmp_path):
    generator = nn.Sequential(nn.Linear(LATENT, 32), nn.Unflatten(1, (2, 4, 4)), nn.InstanceNorm2d(2), nn.Tanh()).eval()
    assert export_onnx(generator, tmp_path / "g.onnx", latent=LATENT).passed


# With the run --------------------------------------------------------------------------------------------

IN_RUN = {
    "ReLU for LeakyReLU": become("Relu", "LeakyRelu", alpha=0.2),
    "no tanh": skip("Tanh"),
    "no bias": without_bias("ConvTranspose"),
    "kernel transposed": transpose_kernel("ConvTranspose"),
    "pads": attribute("ConvTranspose", "pads", [0, 0, 0, 0], 1),
    "no proof": lambda graph: graph.metadata.pop("proof"),
    "no variant": lambda graph: graph.metadata.pop("variant"),
    "no step": lambda graph: graph.metadata.pop("step"),
    "another step": lambda graph: graph.metadata.update(step="2"),
    "a step that is none": lambda graph: graph.metadata.update(step="two"),
}


@pytest.mark.parametrize("name", IN_RUN)
def test_a_file_against_its_run(run, tmp_path, name):
    graph = Graph.load(run / "generator.onnx")
    IN_RUN[name](graph)
    assert not passes(saved(graph, tmp_path / "changed.onnx", hashes=True), run=run)


def test_every_constant_against_the_run(run, tmp_path):
    """The smallest change is found, whatever hashes and proof the file has."""
    assert verify_run(run / "generator.onnx", run).passed
    original = Graph.load(run / "generator.onnx")
    for name, array in original.constants.items():
        graph = original.copy()
        graph.constants[name] = changed = array.copy()
        changed.flat[-1] += np.asarray(1e-6 if array.dtype == np.float32 else 1, array.dtype)
        assert not passes(saved(graph, tmp_path / "changed.onnx", hashes=True), run=run), name


def weight(generator):
    with mg.no_grad():
        next(p for p in generator.parameters() if p.ndim == 4)[0, 0, 0, 0] += 1e-3


def norm(change):
    return lambda generator: change(next(m for m in generator.modules() if isinstance(m, nn.BatchNorm2d)))


def statistics(layer):
    layer.running_mean += 1e-4


@pytest.mark.parametrize("change", [weight, norm(eps), norm(statistics)], ids=["weight", "eps", "statistics"])
def test_a_generator_that_is_not_the_run_s(run, tmp_path, change):
    """Its file proves itself, but not that it is the run's."""
    trainer = open_generator(run)
    change(trainer.generator)
    what = subject(trainer)
    assert write(build(what, Variant()), tmp_path / "g.onnx", what).passed
    assert passes(tmp_path / "g.onnx")
    assert not passes(tmp_path / "g.onnx", run=run)


def test_another_step(run, tmp_path):
    what = subject(open_generator(run, 2))
    graph = build(what, Variant())
    assert passes(saved(graph, tmp_path / "g.onnx"), run=run)
    graph.metadata["step"] = "3"
    assert passes(saved(graph, tmp_path / "g.onnx"))
    assert not passes(saved(graph, tmp_path / "g.onnx"), run=run)


# The report ----------------------------------------------------------------------------------------------


def test_report():
    checks = [Check("a", 1e-6, "≤ 1e-05"), Check("b", np.nan, "≤ 1"), Check("c", 41.0, "≥ 40"), Check("d", np.inf)]
    report = Report("g.onnx", {"dtype": "fp32"}, checks)
    assert not report.passed
    assert report.failures() == "b: nan, expected ≤ 1"
    assert report.table().splitlines() == [
        "check  figure  limit", "a      1e-06   ≤ 1e-05  ok", "b      nan     ≤ 1      FAILED",
        "c      41      ≥ 40     ok", "d      inf",
    ]  # fmt: skip
    content = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert [check["figure"] for check in content["checks"]] == [1e-6, None, 41.0, None]
    assert [check["passed"] for check in content["checks"]] == [True, False, True, True]
    assert (content["file"], content["passed"]) == ("g.onnx", False)
    assert Check("NaN below", float("nan"), "≥ 40").passed is False
    assert Report("g.onnx", {}, checks[:1]).passed

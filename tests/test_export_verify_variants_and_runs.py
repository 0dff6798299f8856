"""Files that are not what was exported, as in test_export_verify.py: those of variants, with labels, and of runs.

Generators whose samples depend on the others of their batch are here too, and the report.
"""

import json

import numpy as np
import pytest

import minigan as mg
from minigan import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import export_parts  # after the skips
from export_parts import (
    LATENT,
    NODES,
    attribute,
    become,
    eps,
    node,
    passes,
    saved,
    skip,
    transpose_kernel,
    without_bias,
)

from minigan.export import ExportError, export_onnx
from minigan.export.exporter import Subject, Variant, build, write
from minigan.export.graph import Graph, Node
from minigan.export.runs import open_generator, subject, verify_run
from minigan.export.verify import Check, Report, verify
from minigan.gan import runs
from minigan.gan.recipes import get_recipe

pytestmark = pytest.mark.skipif(mg.get_default_device().type != "cpu", reason="files are written from the CPU")
CLASSES = 4
made = export_parts.made  # a fixture


class Conditional(nn.Module):
    """With labels and a truncation."""

    def __init__(self):
        super().__init__()
        self.classes, self.out = nn.Embedding(CLASSES, LATENT), nn.Linear(LATENT, 5)

    def forward(self, z, labels, psi=1.0):
        return self.out(mg.tanh(self.classes(labels) + psi * z))


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

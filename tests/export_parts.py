"""What the tests of `minigan export` and `verify` share: short runs, a small generator, and faults for its file.

A test file takes the fixtures as names of its own (`here = export_parts.here`), once it knows that onnx is there.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import minigan as mg
import minigan.nn.functional as F
from minigan import nn
from minigan.cli import main
from minigan.export import OnnxError
from minigan.export.exporter import Subject, Variant, build, write
from minigan.export.graph import Graph, Node, digest
from minigan.export.runs import verify_run
from minigan.export.verify import verify

SMALL = ["batch=16", "lr_decay=0", "limit=64", "score_samples=32", "checkpoint_every=2", "score_every=4", "log_every=2"]
RING = ["ring", "--steps", "6", "--set", "width=8", "--set", "sample_every=6"]
IMAGES = ["glyphs", "--steps", "4", "--set", "width=4", "--set", "size=16", "--set", "sample_every=4"]
LATENT = 6

# Commands and what they are given ----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working folder, and no report, which takes longer than these runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minigan.gan.callbacks.write_report", lambda path: None)
    return tmp_path


def train(*words):
    assert main(["train", *words, *(word for setting in SMALL for word in ("--set", setting)), "--quiet"]) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of two short, finished runs."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minigan.gan.callbacks.write_report", lambda path: None)
        train(*RING, "--out", str(folder / "ring"))
        train(*IMAGES, "--out", str(folder / "images"))
    return folder


@pytest.fixture
def ring(trained):
    return trained / "ring"


@pytest.fixture
def images(trained):
    return trained / "images"


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
    assert err.startswith("minigan: "), err
    assert err.count("\n") == 1, err
    assert len(err) < 1000, err
    assert content(".") == before
    return err


def verified(*words):
    return main(["verify", *(str(word) for word in words)])


def exported(run, *words, out="g.onnx"):
    assert main(["export", str(run), "-o", out, *words]) == 0
    return Graph.load(out)


# A small generator and its file ------------------------------------------------------------------------------


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


# Faults, as changes of a graph or a layer --------------------------------------------------------------------


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
    "dilations": attribute("Conv", "dilations", [2, 2]),
    "inputs swapped": swap("Sub"),
    "mean for maximum": become("ReduceMax", "ReduceMean", axes=[2, 3], keepdims=1),
}


def eps(layer):
    layer.eps = 1e-3

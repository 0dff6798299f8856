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
from minigan import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import export_parts  # after the skips
from export_parts import LATENT, NODES, Small, eps, passes, saved, settled

from minigan.export import ExportError, export_onnx
from minigan.export.exporter import Subject, Variant, build, write
from minigan.export.graph import Graph
from minigan.export.verify import verify

pytestmark = pytest.mark.skipif(mg.get_default_device().type != "cpu", reason="files are written from the CPU")
made = export_parts.made  # a fixture


# Nodes ---------------------------------------------------------------------------------------------------


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

"""What can be traced, what is refused and where the error says it is, and how the parts of a file are named."""

import dataclasses

import numpy as np
import pytest
from harness import host

import minigan as mg
import minigan.nn.functional as F
from minigan import nn

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from minigan.export import ExportError, OnnxError, export_onnx, load_onnx  # noqa: E402  # after the skips
from minigan.export.exporter import Subject, Variant, build  # noqa: E402
from minigan.export.graph import Graph, Node, Value  # noqa: E402
from minigan.export.importer import OnnxModule  # noqa: E402


class Made(nn.Module):
    """A linear layer and then a function; `layer` is where errors are to be found."""

    def __init__(self, function, size=6):
        super().__init__()
        self.linear, self.layer = nn.Linear(4, size), Function(function)

    def forward(self, z, *labels):
        return self.layer(self.linear(z), *labels)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, *labels):
        return self.function(x, *labels)


def exported(function, tmp_path, **options):
    """Exported, which compares it with the engine at batches 1, 7 and 64."""
    return export_onnx(Made(function).eval(), tmp_path / "g.onnx", latent=4, **options)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.relu_(),
        lambda x: F.relu(x.view(-1, 2, 3), inplace=True),
        lambda x: x.view(x.size(0), -1).mul_(2).add_(1),
        lambda x: x + mg.zeros(len(x), 1, device=x.device),
        lambda x: mg.cat([x, mg.ones(x.shape[0], 2, device=x.device)], 1),
        lambda x: x.reshape(-1, 2).tanh().reshape(len(x), -1),
        lambda x: mg.stack([x, x], 1).flatten(0, 1).reshape(-1, 12),
        lambda x: x[: len(x), 1:],
        lambda x: x.unsqueeze(1).expand(-1, 3, -1).flatten(1),
        lambda x: x * mg.arange(6, device=x.device),
        lambda x: x.detach() + x,
        lambda x: mg.where(x > 0, x, mg.zeros_like(x)),
        lambda x: x.gather(1, (x > 0).long()),
        lambda x: x.new_tensor(np.eye(6, dtype=np.float32)) @ x.unsqueeze(2),
        lambda x: x,
        lambda x: x[:, None, ..., :2].repeat(1, 3, 1),
        lambda x: x.split(2, 1)[2] * x.chunk(3, 1)[0],
        lambda x: mg.einsum("ni,nj->nij", x, x),
        lambda x: x.norm(dim=1, keepdim=True) * x,
    ],
    ids=range(19),
)
def test_what_users_write(function, tmp_path):
    exported(function, tmp_path)
    export_onnx(load_onnx(tmp_path / "g.onnx"), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "g.onnx").read_bytes()


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x * F.one_hot(y, 6).float(),
        lambda x, y: x + mg.zeros(len(x), 6, device=x.device).scatter(1, y.unsqueeze(1), 1.0),
        lambda x, y: mg.zeros(len(x), 6, device=x.device).scatter_(1, y.view(-1, 1), 1) * x,
        lambda x, y: x * mg.eye(6, device=x.device)[y],
        lambda x, y: x.gather(1, y.unsqueeze(1)),
        lambda x, y: x + y.float().unsqueeze(1),
        lambda x, y: x * (y == 2).float()[:, None],
    ],
    ids=range(7),
)
def test_what_users_do_with_labels(function, tmp_path):
    exported(function, tmp_path, classes=6)
    export_onnx(load_onnx(tmp_path / "g.onnx"), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "g.onnx").read_bytes()


def part_in_place(x):
    x[:, 0] = x[:, 1]
    return x


def canvas(x):
    y = mg.zeros(len(x), 8, device=x.device)
    y[:, :6] = x
    return y


REFUSED = {
    "numpy": (lambda x: x + mg.from_numpy(np.tanh(x.numpy(force=True))), "Add takes a tensor that depends on the in"),
    "range of the batch": (lambda x: x + mg.arange(len(x)).unsqueeze(1), "Add takes a tensor that depends on"),
    "mean by hand": (lambda x: x - x.sum(0) / len(x), "a number that Div takes is 2 for 2 samples and 3 for 3"),
    "random": (lambda x: x + mg.randn(x.shape), "draws random numbers"),
    "scaled noise": (lambda x: x + mg.randn(x.shape) * mg.tensor(2.0), "draws random numbers"),
    "part in place": (part_in_place, r"changed in place \(indexed assignment\) through another view"),
    "canvas": (canvas, r"changed in place \(indexed assignment\) through another view"),
    "dropout": (lambda x: F.dropout(x), "draws random numbers"),
    "batch statistics": (lambda x: F.batch_norm(x, None, None, training=True), "normalises over the batch"),
    "a loss": (lambda x: F.binary_cross_entropy(x.sigmoid(), mg.full_like(x, 0.5), reduction="none"), "it is a loss"),
    "floor division": (lambda x: x // 0.3, "FloorDivide cannot be exported: ONNX has no exact one"),
    "rolled batch": (lambda x: x.roll(1, 0), "Roll along the batch"),
    "another path": (lambda x: x.tanh() if len(x) == 2 else x.sigmoid(), "with 2 samples it applies Tanh here, with 3"),
    "one path longer": (lambda x: x.tanh() if len(x) == 2 else x.tanh().tanh(), "applies 2 operations to 2 samples"),
}  # fmt: skip


@pytest.mark.skipif(mg.get_default_device().type != "cpu", reason="some of these are refused by the device before that")
@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_place(name, tmp_path):
    function, message = REFUSED[name]
    with pytest.raises(ExportError, match=message) as caught:
        exported(function, tmp_path)
    if name != "canvas":
        assert "layer (Function), test_export_trace.py:" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_refused_generators(tmp_path):
    path = tmp_path / "g.onnx"
    G = Made(lambda x: x)
    with pytest.raises(ExportError, match=r"the generator \(Made\) is in training mode.*call .eval"):
        export_onnx(G, path, latent=4)
    G.eval().layer.train()
    with pytest.raises(ExportError, match=r"layer \(Function\) is in training mode"):
        export_onnx(G, path, latent=4)
    with pytest.raises(ExportError, match="linear.weight is float64: expected float32"):
        export_onnx(Made(lambda x: x).eval().double(), path, latent=4)
    with pytest.raises(ExportError, match="expected latent="):
        export_onnx(G.eval(), path)
    with pytest.raises(ExportError, match="one Tensor, got tuple"):
        export_onnx(Made(lambda x: (x, x)).eval(), path, latent=4)
    with pytest.raises(ExportError, match=r"has shape \(6, 'batch'\): expected the batch as its first axis"):
        export_onnx(Made(lambda x: x.T).eval(), path, latent=4)
    with pytest.raises(ExportError, match="does not come from its inputs"):
        export_onnx(Made(lambda x: mg.ones(2, 2)).eval(), path, latent=4)
    with pytest.raises(ExportError, match="opset: got 16, expected 17 to 23"):
        export_onnx(G, path, latent=4, opset=16)
    with pytest.raises(ExportError, match="dtype: got 'fp8', expected one of fp32"):
        export_onnx(G, path, latent=4, dtype="fp8")
    with pytest.raises(ExportError, match="there is no folder"):
        export_onnx(G, tmp_path / "missing" / "g.onnx", latent=4)
    assert list(tmp_path.iterdir()) == []


def test_names_follow_the_state_dict():
    G = nn.Sequential()
    G.add_module("first", nn.Linear(4, 8, bias=False))
    G.add_module("norm", nn.BatchNorm1d(8))
    G.add_module("act", nn.LeakyReLU(0.2))
    G.add_module("late", nn.BatchNorm1d(8))
    G.add_module("last", nn.utils.weight_norm(nn.Linear(8, 2)))
    graph = build(Subject.of(G.eval(), 4), Variant(), verified=False)
    assert list(graph.constants) == [
        "first.weight", "first.bias", "late.weight", "late.bias", "late.running_mean", "late.running_var",
        "last.weight", "last.bias",
    ]  # fmt: skip
    assert [node.name for node in graph.nodes] == [
        "/first/Gemm", "/act/LeakyRelu", "/late/BatchNormalization", "/last/Gemm",
    ]  # fmt: skip
    assert ([v.name for v in graph.inputs], [v.name for v in graph.outputs]) == (["z"], ["samples"])


def test_a_name_that_is_taken():
    class G(nn.Module):
        def __init__(self):
            super().__init__()
            self.z, self.samples = nn.Parameter(mg.randn(4)), nn.Parameter(mg.randn(4))

        def forward(self, z):
            return z * self.z + self.samples

    graph = build(Subject.of(G().eval(), 4), Variant(), verified=False)
    assert list(graph.constants) == ["z_1", "samples_1"]


def test_a_shared_layer_is_written_once():
    layer = nn.Linear(4, 4)
    graph = build(Subject.of(nn.Sequential(layer, nn.Tanh(), layer).eval(), 4), Variant(), verified=False)
    assert list(graph.constants) == ["0.weight", "0.bias"]


def test_psi(tmp_path):
    class Truncated(nn.Module):
        def __init__(self):
            super().__init__()
            self.mapping, self.synthesis = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, z, psi=1.0):
            w = self.mapping(z)
            return self.synthesis(self.mapping.bias + psi * (w - self.mapping.bias))

    from minigan.export import Generator

    G = Truncated().eval()
    z = mg.randn(5, 4)
    for module, right in ((G, lambda psi: G(z, psi)), (G.synthesis, lambda psi: G.synthesis(z * psi))):
        export_onnx(module, tmp_path / "g.onnx", latent=4, psi=True)
        runner = Generator(tmp_path / "g.onnx", provider="cpu")
        for psi in (1.0, 0.5):
            np.testing.assert_allclose(runner(host(z), psi=psi), host(right(psi)), atol=1e-6)


def test_a_bias_that_is_already_there(tmp_path):
    """Folding BatchNorm makes a bias; the generator's own, added behind it, has the name that it would have."""

    class G(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(mg.randn(3, 2, 1, 1)), nn.Parameter(mg.randn(3))
            self.norm = nn.BatchNorm2d(3)

        def forward(self, z):
            return self.norm(F.conv2d(z.reshape(-1, 2, 2, 2), self.weight)) + self.bias.reshape(1, -1, 1, 1)

    G = G()
    G(mg.randn(8, 8))
    report = export_onnx(G.eval(), tmp_path / "g.onnx", latent=8)
    assert report.passed
    assert sorted(name for name in Graph.load(tmp_path / "g.onnx").constants if "/" not in name) == [
        "bias", "bias_1", "weight",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["batch", "graph", "metadata", "pixels", "samples", "z"])
def test_layers_of_any_name(name, tmp_path):
    class G(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = nn.Parameter(mg.randn(1, 3, 2, 2))
            self.add_module(name, nn.Embedding(4, 12))

        def forward(self, z, y):
            x = self.base.repeat(len(z), 1, 1, 1) * z.reshape(-1, 3, 2, 2)
            return (x + getattr(self, name)(y).reshape(-1, 3, 2, 2)).tanh()

    for output in ("float", "uint8"):
        assert export_onnx(G().eval(), tmp_path / "g.onnx", latent=12, classes=4, output=output).passed


def test_what_is_read_out_of_the_inputs_is_noticed(tmp_path):
    for function in (lambda x, y: x * int(y[0].item()), lambda x, y: x + int(y.sum().item())):
        with pytest.raises(
            ExportError, match=r"layer \(Function\).*a number that (Mul|Add) takes is \d+ for 2 samples"
        ):
            exported(function, tmp_path, classes=5)
    with pytest.raises(ExportError, match="a number that Mul takes is 0.5 for 2 samples and 0.75 for 3"):
        export_onnx(lambda z, psi=1.0: z * float(psi), tmp_path / "g.onnx", latent=4, psi=True)


def test_a_buffer_that_is_written_over(tmp_path):
    class G(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("k", mg.ones(4))

        def forward(self, z):
            self.k.fill_(3)
            return z * self.k

    with pytest.raises(ExportError, match="writes over k in place"):
        export_onnx(G().eval(), tmp_path / "g.onnx", latent=4)


def test_a_value_range_of_ones_own(tmp_path):
    G = nn.Sequential(nn.Linear(4, 12), nn.Sigmoid(), nn.Unflatten(1, (3, 2, 2))).eval()
    export_onnx(G, tmp_path / "g.onnx", latent=4, metadata={"value_range": "[0, 1]"})
    assert Graph.load(tmp_path / "g.onnx").metadata["value_range"] == "[0, 1]"
    with pytest.raises(OnnxError, match=r"images .* in \[-1, 1\]: this generator gives .* in \[0, 1\]"):
        export_onnx(G, tmp_path / "g.onnx", latent=4, output="uint8", metadata={"value_range": "[0, 1]"})


def test_an_imported_variant_is_not_exported_again(tmp_path):
    G = nn.Sequential(nn.Linear(4, 1024), nn.Tanh()).eval()
    export_onnx(G, tmp_path / "g.onnx", latent=4, dtype="fp16-storage")
    with pytest.raises(ExportError, match="imported from the variant .*fp16-storage.*: to export it again"):
        export_onnx(load_onnx(tmp_path / "g.onnx"), tmp_path / "again.onnx")
    export_onnx(G, tmp_path / "g.onnx", latent=4, opset=20)
    export_onnx(load_onnx(tmp_path / "g.onnx"), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "g.onnx").read_bytes()


Z = Value("z", np.dtype(np.float32), ("batch", 4))
FOREIGN = {
    "softmax of opset 11": (Node("Softmax", "/n", ["z"], ["y"], {}), 11, "is of opset 11"),
    "cumsum in reverse": (Node("CumSum", "/n", ["z", "/axis"], ["y"], {"reverse": 1}), 17, "has reverse, which"),
    "mode": (Node("BatchNormalization", "/n", ["z"] * 5, ["y"], {"training_mode": 1}), 17, "has training_mode, which"),
    "two outputs": (Node("MaxPool", "/n", ["z"], ["y", "i"], {"kernel_shape": [1, 1]}), 17, "has 2 outputs"),
    "operator": (Node("Loop", "/n", ["z"], ["y"], {}), 17, "operators that minigan does not write: Loop"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_are_not_misread(name, tmp_path):
    node, opset, message = FOREIGN[name]
    graph = Graph([Z], [dataclasses.replace(Z, name="y")], [node], {"/axis": np.array(1)})
    model = onnx.load_model_from_string(graph.to_bytes())
    model.opset_import[0].version = opset
    onnx.save_model(model, tmp_path / "g.onnx")
    with pytest.raises(OnnxError, match=message):
        load_onnx(tmp_path / "g.onnx")


def test_a_node_that_fails_is_named(tmp_path):
    graph = Graph([Z], [dataclasses.replace(Z, name="y")], [Node("Max", "/n", ["z", "z", "z"], ["y"])], {})
    graph.save(tmp_path / "g.onnx")
    with pytest.raises(OnnxError, match="Max /n: .*positional arguments"):
        load_onnx(tmp_path / "g.onnx")(mg.ones(2, 4))


def test_an_output_that_is_used_further():
    nodes = [Node("Tanh", "/a", ["z"], ["y"]), Node("Relu", "/b", ["y"], ["more"])]
    outputs = [dataclasses.replace(Z, name=name) for name in ("y", "more")]
    z = mg.randn(2, 4)
    assert (OnnxModule(Graph([Z], outputs, nodes, {}))(z) == z.tanh()).all()

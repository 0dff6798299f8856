"""What can be traced, what is refused and where the error says it is, and how the parts of a file are named."""

import numpy as np
import pytest

import minigan as mg
import minigan.nn.functional as F
from minigan import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from minigan.export import ExportError, export_onnx, load_onnx  # after the skips
from minigan.export.exporter import Subject, Variant, build


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
    "one path longer": (lambda x: x.tanh() if len(x) == 2 else x.tanh().tanh(), "2 operations .* and 3 to 3"),
}  # fmt: skip


@pytest.mark.skipif(mg.get_default_device().type != "cpu", reason="some of these are refused by the device before that")
@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_place(name, tmp_path):
    function, message = REFUSED[name]
    with pytest.raises(ExportError, match=message) as caught:
        exported(function, tmp_path)
    if name not in ("one path longer", "canvas"):
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
            np.testing.assert_allclose(runner(z.numpy(), psi=psi), right(psi).detach().numpy(), atol=1e-6)

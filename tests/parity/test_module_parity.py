"""Module, containers, nn.init, nn.utils and safetensors files against PyTorch's.

Intended differences:

- `load_state_dict` lists mis-shaped, missing and unexpected keys in words of its own; the exception is the same.
- A parametrized layer keeps its class and is deep-copied like any other.
- Random values differ, their distributions do not.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: parity with it is not checked")

import numpy as np
import safetensors.torch
from peer import BOTH, assert_same, family, host, outcome

import minigan as mg
import minigan.nn.utils
from minigan.serialization import load, save

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(4, 3, 8, 8))


def network(T):
    """Every kind of registration there is, in both libraries."""
    nn = T.nn

    class Block(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.conv = nn.Conv2d(size, size, 3, padding=1)
            self.norm = nn.BatchNorm2d(size)
            self.register_buffer("scale", T.ones(1))
            self.register_buffer("scratch", T.ones(2), persistent=False)
            self.register_buffer("nothing", None)
            self.register_parameter("unused", None)
            self.gain = nn.Parameter(T.ones(size, 1, 1))

        def forward(self, x):
            return self.norm(self.conv(x)) * self.gain * self.scale

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Block(3), Block(3)])
            self.heads = nn.ModuleDict({"real": nn.Linear(48, 2), "aux": nn.Linear(48, 3)})
            self.up = nn.Sequential(nn.ConvTranspose2d(3, 3, 4, 2, 1), nn.LeakyReLU(0.2), nn.AvgPool2d(4))
            self.shared = self.heads["real"]
            self.tied = nn.Linear(48, 3)
            self.tied.weight = self.heads["aux"].weight
            self.extra = nn.Sequential()
            self.extra.add_module("act", nn.Tanh())

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            x = self.extra(self.up(x)).flatten(1)
            return self.heads["real"](x).sum() + (self.heads["aux"](x) * self.tied(x)).sum() + self.shared(x).sum()

    return Net()


def pair(make=network):
    """minigan's module and PyTorch's, with PyTorch's values, in float64."""
    ours, theirs = make(mg).double(), make(torch).double()
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.from_numpy(RANDOM.normal(size=tuple(p.shape))))
    ours.load_state_dict({name: t.numpy() for name, t in theirs.state_dict().items()})
    return ours, theirs


def names(pairs):
    return [name for name, _ in pairs]


LISTINGS = {
    "state_dict": lambda m: list(m.state_dict()),
    "shapes": lambda m: [tuple(t.shape) for t in m.state_dict().values()],
    "prefix": lambda m: list(m.state_dict(prefix="net.")),
    "parameters": lambda m: names(m.named_parameters()),
    "parameters here": lambda m: names(m.named_parameters(recurse=False)),
    "duplicates": lambda m: names(m.named_parameters(prefix="p", remove_duplicate=False)),
    "buffers": lambda m: names(m.named_buffers()),
    "modules": lambda m: names(m.named_modules()),
    "all modules": lambda m: names(m.named_modules(prefix="m", remove_duplicate=False)),
    "children": lambda m: names(m.named_children()),
    "classes": lambda m: [type(module).__name__ for module in m.modules()],
    "slices": lambda m: list(m.up[:1].state_dict()) + list(m.blocks[1:].state_dict()),
}


@pytest.mark.parametrize("name", LISTINGS)
def test_listings(name):
    assert LISTINGS[name](network(mg)) == LISTINGS[name](network(torch))


def test_forward_backward_and_buffers():
    ours, theirs = pair()
    for T, net in zip(BOTH, (ours, theirs), strict=True):
        net(T.tensor(X)).backward()
    for (name, p), (_, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        np.testing.assert_allclose(host(p.grad), host(q.grad), rtol=1e-9, atol=1e-9, err_msg=name)
    for name, t in ours.state_dict().items():
        np.testing.assert_allclose(host(t), host(theirs.state_dict()[name]), rtol=1e-12, err_msg=name)


def test_repr_of_nested_containers():
    def make(T):
        nn = T.nn
        return nn.Sequential(nn.Sequential(nn.Tanh(), nn.Sequential()), nn.ModuleDict({"a": nn.Tanh()}))

    assert repr(make(mg)) == repr(make(torch))
    assert repr(mg.nn.Parameter(mg.ones(2, device="cpu"))) == repr(torch.nn.Parameter(torch.ones(2)))


MISUSES = {
    "tensor as parameter": lambda T, m: setattr(m.tied, "weight", T.ones(3, 48)),
    "number as module": lambda T, m: setattr(m, "up", 3),
    "number as buffer": lambda T, m: setattr(m.blocks[0], "scale", 3),
    "unknown attribute": lambda T, m: m.missing,
    "dot in a name": lambda T, m: m.add_module("a.b", T.nn.Tanh()),
    "empty name": lambda T, m: m.register_parameter("", T.nn.Parameter(T.ones(1))),
    "name taken": lambda T, m: m.register_buffer("forward", T.ones(1)),
    "no module": lambda T, m: m.add_module("x", 3),
    "unknown submodule": lambda T, m: m.get_submodule("up.7"),
    "unknown parameter": lambda T, m: m.get_parameter("up.0.wight"),
    "unknown buffer": lambda T, m: m.get_buffer("up.0.weight"),
    "index": lambda T, m: m.up[3],
    "integer dtype": lambda T, m: m.to(T.int64),
    "missing key": lambda T, m: m.load_state_dict({}),
    "wrong shape": lambda T, m: m.load_state_dict({"tied.bias": T.ones(4)}, strict=False),
    "not a dict": lambda T, m: m.load_state_dict([1]),
    "no forward": lambda T, m: T.nn.Module()(1),
    "spectral norm of nothing": lambda T, m: T.nn.utils.parametrizations.spectral_norm(m.up[1]),
    "no iterations": lambda T, m: T.nn.utils.parametrizations.spectral_norm(m.tied, n_power_iterations=0),
    "kaiming of a vector": lambda T, m: T.nn.init.kaiming_uniform_(T.ones(3)),
    "unknown gain": lambda T, m: T.nn.init.calculate_gain("swish"),
    "dirac of a matrix": lambda T, m: T.nn.init.dirac_(T.ones(3, 3)),
}


@pytest.mark.parametrize("name", MISUSES)
def test_exceptions_are_of_one_family(name):
    ours, theirs = (outcome(lambda T: MISUSES[name](T, network(T)), T) for T in BOTH)
    assert isinstance(theirs, Exception), f"PyTorch returned {theirs}"
    if name == "spectral norm of nothing":
        assert isinstance(ours, ValueError)
        return
    assert family(ours) is family(theirs), f"PyTorch raised {theirs!r}, minigan {ours!r}"


def test_incompatible_keys():
    results = [network(T).load_state_dict({"tied.bias": T.ones(3), "other": T.ones(1)}, strict=False) for T in BOTH]
    assert results[0].missing_keys == results[1].missing_keys
    assert results[0].unexpected_keys == results[1].unexpected_keys


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("differentiable", [True, False])
def test_hooks(differentiable):
    x = RANDOM.normal(size=(2, 3))

    def run(T):
        T.manual_seed(0)
        m = T.nn.Linear(3, 3).double()
        with T.no_grad():
            m.weight.copy_(T.tensor(x.T @ x))
            m.bias.fill_(1.0)
        seen = []
        m.register_forward_pre_hook(lambda module, args: args[0] * 2)
        m.register_forward_hook(lambda module, args, out: seen.extend([args[0].detach(), out.detach()]))
        m.register_forward_hook(lambda module, args, out: out.tanh())
        m.register_full_backward_hook(lambda module, gx, gy: seen.extend([*gx, *gy]))
        if differentiable:
            m.register_full_backward_hook(lambda module, gx, gy: (gx[0] * 3,))
        t = T.tensor(x, requires_grad=differentiable)
        (m(t) ** 2).sum().backward()
        return [*seen, t.grad, m.weight.grad, m.bias.grad]

    assert_same(*(run(T) for T in BOTH))


# Files ------------------------------------------------------------------------------------------------


def test_files_pass_both_ways(tmp_path):
    ours, theirs = pair()
    fresh = network(torch).double()
    save(ours.state_dict(), tmp_path / "ours")
    fresh.load_state_dict(safetensors.torch.load_file(tmp_path / "ours"))
    for name, t in fresh.state_dict().items():
        assert torch.equal(t, theirs.state_dict()[name]), name
    back = network(mg).double()
    safetensors.torch.save_file({k: t.clone() for k, t in theirs.state_dict().items()}, tmp_path / "theirs")
    back.load_state_dict(load(tmp_path / "theirs"))
    for name, t in back.state_dict().items():
        np.testing.assert_array_equal(host(t), host(theirs.state_dict()[name]), err_msg=name)


def test_every_dtype_of_pytorch(tmp_path):
    given = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in (
        torch.float16, torch.float32, torch.float64, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8,
        torch.bool,
    )}  # fmt: skip
    given["bfloat16"] = torch.randn(50).bfloat16()
    safetensors.torch.save_file(given, tmp_path / "x")
    back = load(tmp_path / "x")
    assert back.pop("bfloat16").tolist() == given.pop("bfloat16").float().tolist()
    for name, t in given.items():
        assert_same(back[name], t)


def test_torch_save_is_refused_with_advice(tmp_path):
    for zipped in (True, False):
        torch.save({"x": torch.ones(2)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(RuntimeError, match="is a pickle, as torch.save writes them.*safetensors.torch.save_file"):
            load(tmp_path / "x.pt")


# Init and utils ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "conv2d", "conv_transpose2d", "sigmoid", "tanh", "relu", "selu"])
def test_gains(name):
    assert mg.nn.init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name), rel=1e-15)


@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 2, 3, 3), (6, 6, 1, 2, 3)])
@pytest.mark.parametrize("groups", [1, 2])
def test_dirac_and_eye(shape, groups):
    if shape[0] % groups == 0:
        assert_same(*(T.nn.init.dirac_(T.empty(*shape), groups) for T in BOTH))
    assert_same(*(T.nn.init.eye_(T.empty(shape[0], 5)) for T in BOTH))


SPREADS = {
    "trunc_normal_": lambda T, x: T.nn.init.trunc_normal_(x, 0.5, 2.0, -1.0, 2.0),
    "xavier_uniform_": lambda T, x: T.nn.init.xavier_uniform_(x, 3.0),
    "xavier_normal_": lambda T, x: T.nn.init.xavier_normal_(x),
    "kaiming_uniform_": lambda T, x: T.nn.init.kaiming_uniform_(x, 5**0.5),
    "kaiming_normal_": lambda T, x: T.nn.init.kaiming_normal_(x, mode="fan_out", nonlinearity="relu"),
    "orthogonal_": lambda T, x: T.nn.init.orthogonal_(x, 2.0),
}


@pytest.mark.parametrize("name", SPREADS)
@pytest.mark.parametrize("shape", [(64, 48), (32, 16, 3, 3)])
def test_random_fillings_have_one_spread(name, shape):
    torch.manual_seed(0)
    ours, theirs = (np.sort(host(SPREADS[name](T, T.empty(*shape))).ravel()) for T in BOTH)
    scale = theirs.std()
    for q in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert abs(np.quantile(ours, q) - np.quantile(theirs, q)) < 0.12 * scale


@pytest.mark.parametrize("kind", [2.0, 1.0, float("inf"), 3.0])
def test_clip_grad_norm(kind):
    def run(T):
        ps = [T.nn.Parameter(T.tensor(X[i])) for i in range(3)]
        for p, g in zip(ps, X[1:], strict=False):
            p.grad = T.tensor(g)
        total = T.nn.utils.clip_grad_norm_(ps, 1.5, norm_type=kind)
        T.nn.utils.clip_grad_value_(ps, 0.05)
        return [total, *(p.grad for p in ps)]

    assert_same(*(run(T) for T in BOTH))


def test_vectors():
    def run(T):
        ps = [T.nn.Parameter(T.tensor(x)) for x in (X[0], X[1, 0], X[2, 0, 0, 0])]
        vector = T.nn.utils.parameters_to_vector(ps)
        T.nn.utils.vector_to_parameters(vector * 2, ps)
        return [vector.detach(), *(p.detach() for p in ps)]

    assert_same(*(run(T) for T in BOTH))


LAYERS = {
    "linear": (lambda nn: nn.Linear(3, 5), X[:, :, 0, 0]),
    "conv": (lambda nn: nn.Conv2d(3, 5, 3), X),
    "conv_transpose": (lambda nn: nn.ConvTranspose2d(3, 5, 3), X),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("form", ["new", "old"])
def test_spectral_norm_step_by_step(layer, form):
    make, x = LAYERS[layer]

    def build(T):
        wrap = T.nn.utils.parametrizations.spectral_norm if form == "new" else T.nn.utils.spectral_norm
        return wrap(make(T.nn), n_power_iterations=2)

    ours, theirs = pair(build)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert names(ours.named_parameters()) == names(theirs.named_parameters())
    for training in (True, True, False):
        grads = []
        for T, m in zip(BOTH, (ours, theirs), strict=True):
            m.train(training)
            m.zero_grad()
            (m(T.tensor(x)) ** 2).sum().backward()
            (m(T.tensor(x)) * m(T.tensor(x))).sum().backward()  # two passes before one backward, as in a GAN
            grads.append([p.grad for p in m.parameters()])
        assert_same(grads[0], grads[1])
        for name, t in ours.state_dict().items():
            np.testing.assert_allclose(host(t), host(theirs.state_dict()[name]), rtol=1e-10, err_msg=name)


def test_older_spectral_norm_can_be_initialised_before_its_first_call():
    def run(T):
        m = T.nn.utils.spectral_norm(T.nn.Linear(3, 3, bias=False).double(), n_power_iterations=500)
        m.weight.data.copy_(T.tensor(X[0, 0, :3, :3]))
        return [m.weight_orig, m(T.tensor(X[1, :, :3, 0])), m.weight.detach()]

    assert_same(*(run(T) for T in BOTH))


@pytest.mark.parametrize("layer", LAYERS)
def test_spectral_norm_weights_move_both_ways(layer, tmp_path):
    make, x = LAYERS[layer]
    ours, theirs = pair(lambda T: T.nn.utils.parametrizations.spectral_norm(make(T.nn)))
    save(ours.state_dict(), tmp_path / "x")
    theirs.load_state_dict(safetensors.torch.load_file(tmp_path / "x"))
    assert_same(*(m.eval()(T.tensor(x)) for T, m in zip(BOTH, (ours, theirs), strict=True)))
    for T, m in zip(BOTH, (ours, theirs), strict=True):
        T.nn.utils.parametrize.remove_parametrizations(m, "weight")
    assert sorted(ours.state_dict()) == sorted(theirs.state_dict()) == ["bias", "weight"]
    assert_same(*(m(T.tensor(x)) for T, m in zip(BOTH, (ours, theirs), strict=True)))

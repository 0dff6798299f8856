"""Layers computed together give what they give one by one, to the bit, and nobody can tell that they were."""

import os
import subprocess
import sys

import numpy as np
import pytest
from harness import channels_last, small_pieces
from hypothesis import given
from hypothesis import strategies as st

import minigan as mg
from minigan import nn
from minigan.kernels.cpu import rows
from minigan.nn.fusion import is_fusion_enabled
from minigan.observe import Observer
from minigan.ops.bias import AddBias
from minigan.ops.norm import Normalize, Standardize
from minigan.ops.piecewise import LeakyRelu


class Applied(Observer):
    """The names of the operations that the modules of a net are made of, in order."""

    LAYERS = {
        "AddBias", "Conv", "ConvTranspose", "LeakyRelu", "LeakyReluFromInput", "Linear", "Normalize", "Standardize",
    }  # fmt: skip

    def __init__(self):
        self.names = []

    def operation(self, op, inputs, params, result, began):
        if op.__name__ in self.LAYERS:
            self.names.append(op.__name__ + ("" if params.get("slope") is None else f"({params['slope']})"))


def activation(draw, inplace):
    slope = draw(st.sampled_from([0.2, 0, 1, 0.5, -0.3, 1.7]))
    return draw(st.sampled_from([nn.ReLU(inplace), nn.LeakyReLU(slope, inplace), nn.Tanh(), nn.Identity()]))


@st.composite
def nets(draw):
    """Convolutions, batch norms, linear layers and activations in any order that fits."""
    channels, layers = draw(st.sampled_from([1, 2, 3])), []
    first = channels
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from([nn.Conv2d, nn.ConvTranspose2d, None]))
        if kind is not None:
            wider = draw(st.sampled_from([1, 2, 4]))
            kernel, padding = draw(st.sampled_from([(3, 1), (1, 0)]))
            layers.append(kind(channels, wider, kernel, 1, padding, bias=draw(st.booleans())))
            channels = wider
        if draw(st.booleans()):
            layers.append(nn.BatchNorm2d(channels, affine=draw(st.booleans())))
        if draw(st.booleans()) and layers and isinstance(layers[-1], (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)):
            layers.append(activation(draw, draw(st.booleans())))
        if draw(st.booleans()):
            layers.append(activation(draw, False))
    if draw(st.booleans()):
        layers += [nn.Flatten(), nn.Linear(channels * 30, 4), activation(draw, False), nn.BatchNorm1d(4)]
        layers.append(activation(draw, draw(st.booleans())))
    return nn.Sequential(*layers), (draw(st.sampled_from([2, 3, 8])), first, 6, 5)


def run(net, x, training, fused):
    """Output, all gradients, second derivatives, and what has changed in the state."""
    net.train(training)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    x = x.detach().requires_grad_()
    watch = Applied()
    with mg.fusion(fused), watch:
        y = net(x)
        first = watch.names
        parameters = list(net.parameters())
        (gx,) = mg.autograd.grad((y * y).sum(), [x], create_graph=True)
        second = mg.autograd.grad((gx * gx).sum(), [x, *parameters], allow_unused=True)
        running = {name: value.clone() for name, value in net.state_dict().items()}
        net.zero_grad()
        z = net(x)
        (z * z * z).sum().backward()
    found = [y, gx, x.grad, *second, *(p.grad for p in parameters), *running.values()]
    net.load_state_dict(state)
    return [None if g is None else g.detach().cpu().numpy().copy() for g in found], first


def same(found, expected):
    """To the bit; but a CUDA kernel that does several things makes its sums in another order than one for each."""
    exact = mg.get_default_device().type in ("cpu", "strict")
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert np.isfinite(a).all()
            rounding = 0 if exact or b.dtype.kind != "f" else np.finfo(b.dtype).eps
            tolerance = 1000 * rounding * max(1, np.abs(b).max(initial=0))
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@given(nets(), st.booleans(), st.booleans(), st.sampled_from([mg.float32, mg.float64]), st.integers(0, 99))
def test_fused_nets_are_the_same_to_the_bit(net_and_shape, training, pieces, dtype, seed):
    (net, shape), _ = net_and_shape, mg.manual_seed(seed)
    net.to(dtype)
    for module in net:
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.affine:
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    x = channels_last(mg.randn(*shape, dtype=dtype))
    if pieces:
        with small_pieces():
            found, expected = run(net, x, training, True), run(net, x, training, False)
    else:
        found, expected = run(net, x, training, True), run(net, x, training, False)
    same(found[0], expected[0])


def test_what_is_computed_together():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.ConvTranspose2d(4, 2, 3), nn.ReLU(inplace=True), nn.ReLU(), nn.BatchNorm2d(2), nn.LeakyReLU(-0.1),
    )  # fmt: skip
    x = mg.randn(2, 3, 8, 8)
    assert run(net, x, True, True)[1][:8] == [
        "Conv", "AddBias(0.2)", "Conv", "Normalize(0.0)", "ConvTranspose", "AddBias(0.0)", "LeakyRelu(0)", "Normalize",
    ]  # fmt: skip
    assert run(net, x, True, False)[1][:9] == [
        "Conv", "AddBias", "LeakyRelu(0.2)", "Conv", "Normalize", "LeakyRelu(0)", "ConvTranspose", "AddBias",
        "LeakyRelu(0)",
    ]  # fmt: skip
    assert "Standardize(0.0)" in run(net, x, False, True)[1]


def hooked(register):
    def change(net):
        getattr(net[0], register)(lambda *_: None)

    return change


def hooked_activation(register):
    def change(net):
        getattr(net[1], register)(lambda *_: None)

    return change


class MyReLU(nn.ReLU):
    def forward(self, input):
        return super().forward(input) + 1


def subclass(net):
    net[1] = MyReLU()


def replaced(net):
    net[1].forward = lambda x: x + 1


NOT_TOGETHER = {
    "a forward hook": hooked("register_forward_hook"),
    "a backward hook": hooked("register_full_backward_hook"),
    "a forward hook of the activation": hooked_activation("register_forward_hook"),
    "a forward pre-hook of the activation": hooked_activation("register_forward_pre_hook"),
    "a backward hook of the activation": hooked_activation("register_full_backward_hook"),
    "another class": subclass,
    "a replaced forward": replaced,
}


@pytest.mark.parametrize("change", NOT_TOGETHER.values(), ids=NOT_TOGETHER)
@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3)], ids=lambda layer: type(layer).__name__)
def test_layers_that_somebody_looks_between_are_called_one_by_one(layer, change):
    net = nn.Sequential(type(layer)(3) if isinstance(layer, nn.BatchNorm2d) else nn.Conv2d(3, 3, 3), nn.ReLU())
    x = mg.randn(2, 3, 4, 4)
    assert run(net, x, True, True)[1] != run(net, x, True, False)[1]
    change(net)
    found, expected = run(net, x, True, True), run(net, x, True, False)
    assert found[1] == expected[1]
    same(found[0], expected[0])


def test_hooks_see_what_they_always_saw():
    net, seen = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), []
    net[0].register_forward_hook(lambda module, args, y: seen.append(y.min().item()))
    net(mg.randn(4, 3, 4, 4))
    assert seen[0] < 0


@pytest.mark.parametrize("method", ["enters", "leaves"])
def test_who_watches_modules_sees_every_one(method):
    class Watch(Observer):
        pass

    seen = []
    setattr(Watch, method, lambda self, module, *_: seen.append(type(module).__name__))
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
    with Watch():
        net(mg.randn(2, 3, 4, 4))
    assert sorted(seen) == ["BatchNorm2d", "Conv2d", "ReLU", "Sequential"]


def test_the_profiler_measures_what_runs():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
    with mg.profiler.profile() as p:
        net(mg.randn(2, 3, 4, 4)).sum().backward()
    assert "LeakyRelu" not in {row.name for row in p.rows()}
    with mg.fusion(False), mg.profiler.profile() as p:
        net(mg.randn(2, 3, 4, 4)).sum().backward()
    assert "LeakyRelu" in {row.name for row in p.rows()}


def test_the_switch():
    assert is_fusion_enabled()
    with mg.fusion(False):
        with mg.fusion(True):
            assert is_fusion_enabled()
        assert not is_fusion_enabled()
    mg.fusion(False)
    assert not is_fusion_enabled()
    mg.fusion(True)
    with pytest.raises(KeyError), mg.fusion(False):
        raise KeyError
    assert is_fusion_enabled()


@pytest.mark.parametrize(("value", "enabled"), [("0", "False"), ("1", "True")])
def test_the_environment_turns_it_off(value, enabled):
    code = "from minigan.nn.fusion import is_fusion_enabled; print(is_fusion_enabled())"
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "MINIGAN_FUSION": value}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert found.stdout.strip() == enabled


def test_the_module_tree_is_the_same():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    keys, text = list(net.state_dict()), repr(net)
    net(mg.randn(2, 3, 4, 4)).sum().backward()
    assert list(net.state_dict()) == keys
    assert repr(net) == text


def test_an_error_names_the_layer():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
    with pytest.raises(RuntimeError) as caught:
        net(mg.randn(2, 4, 4, 4))
    assert caught.value.__notes__ == [f"in Sequential.0: {net[0]!r}"]


@pytest.mark.parametrize("op", [AddBias, Normalize, Standardize, LeakyRelu])
def test_values_that_are_not_numbers_stay(op):
    x = mg.tensor(np.full((2, 2), np.nan, np.float32))
    vectors = [mg.ones(2) for _ in range(4)]
    if op is LeakyRelu:
        y = mg.ops.piecewise.leaky_relu(x, 0.2)
    elif op is AddBias:
        y = mg.ops.bias.add_bias(x, vectors[0], 0.0)
    elif op is Normalize:
        y = mg.ops.norm.normalize(x, None, None, (0,), 1e-5, 0.0)[0]
    else:
        y = mg.ops.norm.standardize(x, *vectors, 1e-5, 0.0)
    assert y.isnan().all()


@pytest.mark.parametrize("shape", [(64, 32, 16, 16), (3000, 100), (32, 3, 63, 61)], ids=str)
@pytest.mark.skipif("config.getoption('--device') not in ('cpu', 'strict')", reason="of the CPU's threads")
def test_the_number_of_threads_changes_no_bit(shape):
    """Arrays that are large enough for several pieces."""
    layer = nn.BatchNorm1d(shape[1]) if len(shape) == 2 else nn.BatchNorm2d(shape[1])
    layers = [layer, nn.LeakyReLU(0.2)]
    if len(shape) == 4:
        layers += [nn.Conv2d(shape[1], 4, 1), nn.ReLU()]
    net = nn.Sequential(*layers)
    x = channels_last(mg.randn(*shape))
    assert len(rows.rows_of(x.B.to_numpy(x.array), (0, *range(2, len(shape)))).pieces) > 1
    threads = mg.get_num_threads()
    found = []
    try:
        for number in (1, 2, 3):
            mg.set_num_threads(number)
            found.append(run(net, x, True, True)[0])
    finally:
        mg.set_num_threads(threads)
    same(found[1], found[0])
    same(found[2], found[0])

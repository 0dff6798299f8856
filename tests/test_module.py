"""Module: registration, walking, conversion, state, hooks, text and errors; and the containers."""

import copy
import gc
import traceback
import weakref

import numpy as np
import pytest

import minigan as mg
from minigan.nn.containers import ModuleDict, ModuleList, ParameterDict, ParameterList, Sequential
from minigan.nn.module import Module
from minigan.nn.parameter import Parameter


class Affine(Module):
    """x·Wᵀ + b, with a counter of its calls."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.weight = Parameter(mg.randn(outputs, inputs))
        self.bias = Parameter(mg.zeros(outputs))
        self.register_buffer("calls", mg.zeros((), dtype=mg.int64))

    def extra_repr(self):
        return f"{self.inputs}, {self.outputs}"

    def forward(self, x):
        if x.shape[-1] != self.inputs:
            raise self._shape_error(x, f"(..., {self.inputs})")
        self.calls += 1
        return x.matmul(self.weight.t()) + self.bias


class Double(Module):
    def forward(self, x):
        return 2 * x


class Block(Module):
    def __init__(self, size):
        super().__init__()
        self.main = Sequential(Affine(size, size), Double(), Affine(size, size))
        self.register_buffer("scratch", mg.ones(2), persistent=False)
        self.register_buffer("scale", mg.ones(1))

    def forward(self, x):
        return self.main(x) * self.scale


class Net(Module):
    def __init__(self):
        super().__init__()
        self.first = Affine(2, 3)
        self.block = Block(3)
        self.tied = self.first

    def forward(self, x):
        return self.block(self.first(x))


def host(x):
    return x.detach().cpu().numpy()


# Parameter --------------------------------------------------------------------------------------------


def test_parameter_shares_memory_and_version_of_its_data():
    data = mg.zeros(3)
    p = Parameter(data)
    data.fill_(2)
    assert p.tolist() == [2, 2, 2]
    assert p._version == data._version == 1
    assert p.requires_grad
    assert p.is_leaf
    assert isinstance(p, mg.Tensor)
    assert not Parameter(data, requires_grad=False).requires_grad


def test_parameter_of_a_result_is_a_leaf():
    x = mg.ones(2, requires_grad=True)
    p = Parameter(x * 2)
    (p * p).sum().backward()
    assert p.grad.tolist() == [4, 4]
    assert x.grad is None


def test_parameter_text_default_and_errors():
    assert repr(Parameter(mg.ones(1, device="cpu"))) == "Parameter containing:\ntensor([1.], requires_grad=True)"
    assert Parameter().shape == (0,)
    with pytest.raises(TypeError, match="expected a Tensor, got list"):
        Parameter([1.0])
    with pytest.raises(RuntimeError, match="only floating tensors"):
        Parameter(mg.arange(3))


def test_parameter_deepcopy_stays_a_parameter():
    p = Parameter(mg.ones(2))
    p.name = "kept"
    q = copy.deepcopy(p)
    q.data.fill_(5)
    assert type(q) is Parameter
    assert q.name == "kept"
    assert p.tolist() == [1, 1]


# Registration -----------------------------------------------------------------------------------------


def test_names_in_order_and_shared_ones_once():
    net = Net()
    names = [name for name, _ in net.named_parameters()]
    assert names == [
        "first.weight", "first.bias", "block.main.0.weight", "block.main.0.bias", "block.main.2.weight",
        "block.main.2.bias",
    ]  # fmt: skip
    assert len(list(net.parameters())) == 6
    assert len(list(net.named_parameters(remove_duplicate=False))) == 8
    assert list(net.parameters(recurse=False)) == []
    assert [name for name, _ in net.block.named_parameters(prefix="b")][0] == "b.main.0.weight"
    assert [name for name, _ in net.named_buffers()] == [
        "first.calls", "block.scratch", "block.scale", "block.main.0.calls", "block.main.2.calls",
    ]  # fmt: skip
    assert [name for name, _ in net.named_children()] == ["first", "block"]
    assert [name for name, _ in net.named_modules()] == [
        "", "first", "block", "block.main", "block.main.0", "block.main.1", "block.main.2",
    ]  # fmt: skip
    assert len(list(net.modules())) == 7
    assert len(list(net.buffers())) == 5
    assert list(net.children()) == [net.first, net.block]


def test_assignment_moves_a_name_between_tables():
    m = Module()
    m.x = 3
    m.x = Parameter(mg.ones(1))
    assert "x" not in m.__dict__
    assert list(m.state_dict()) == ["x"]
    m.x = None
    assert m.x is None
    assert list(m.parameters()) == []
    m.x = Double()
    assert "x" not in m._parameters
    assert [name for name, _ in m.named_children()] == ["x"]
    del m.x
    assert not hasattr(m, "x")


def test_buffers_take_tensors_and_stay_buffers():
    m = Module()
    m.register_buffer("b", mg.zeros(1))
    m.b = mg.ones(2)
    assert m.state_dict()["b"].shape == (2,)
    m.b = None
    assert m.state_dict() == {}
    with pytest.raises(TypeError, match="is a buffer"):
        m.b = 3


def test_wrong_registrations():
    m = Affine(2, 2)
    with pytest.raises(TypeError, match="expected a Parameter or None, got Tensor"):
        m.weight = mg.ones(2, 2)
    with pytest.raises(KeyError, match="without dots"):
        m.register_buffer("a.b", mg.ones(1))
    with pytest.raises(KeyError, match="already has"):
        m.register_parameter("forward", Parameter(mg.ones(1)))
    with pytest.raises(TypeError, match="expected a Module or None, got int"):
        m.add_module("child", 3)
    m.child = Double()
    with pytest.raises(TypeError, match="expected a Module or None"):
        m.child = 3
    with pytest.raises(AttributeError, match="no attribute 'wieght'"):
        m.wieght  # noqa: B018  # the access is the test

    class Forgot(Module):
        def __init__(self):
            self.weight = Parameter(mg.ones(1))

    with pytest.raises(AttributeError, match=r"super\(\).__init__\(\)"):
        Forgot()


def test_lookup_by_dotted_name():
    net = Net()
    assert net.get_submodule("block.main.1") is net.block.main[1]
    assert net.get_submodule("") is net
    assert net.get_parameter("first.weight") is net.first.weight
    assert net.get_buffer("block.scale") is net.block.scale
    assert "block" in dir(net)
    for find, name in (
        (net.get_submodule, "block.nothing"),
        (net.get_parameter, "first.calls"),
        (net.get_buffer, "a"),
    ):
        with pytest.raises(AttributeError, match=f"looking for '{name}'"):
            find(name)


# The whole tree ---------------------------------------------------------------------------------------


def test_apply_visits_children_first():
    order = []
    net = Net()
    assert net.apply(lambda m: order.append(type(m).__name__)) is net
    assert order == ["Affine", "Affine", "Double", "Affine", "Sequential", "Block", "Net"]


def test_train_eval_and_requires_grad():
    net = Net()
    assert all(m.training for m in net.modules())
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    assert net.train().block.main[0].training
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())
    assert not net(mg.ones(1, 2)).requires_grad


def test_zero_grad():
    net = Net()
    net(mg.ones(1, 2)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad(set_to_none=False)
    assert all(not host(p.grad).any() for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_conversion_keeps_parameters_and_converts_gradients():
    net = Net()
    before = list(net.parameters())
    values = [host(p).copy() for p in before]
    net(mg.ones(1, 2)).sum().backward()
    assert net.double() is net
    assert all(p is q for p, q in zip(net.parameters(), before, strict=True))
    assert all(p.dtype == p.grad.dtype == mg.float64 for p in net.parameters())
    assert net.block.scale.dtype == mg.float64
    assert net.first.calls.dtype == mg.int64  # integers are left alone
    for p, value in zip(net.parameters(), values, strict=True):
        np.testing.assert_array_equal(host(p), value.astype(np.float64))
    assert net.tied.weight is net.first.weight
    assert net.half().block.scale.dtype == mg.float16
    assert net.float().first.weight.dtype == mg.float32
    assert net.to(mg.float64).first.weight.dtype == mg.float64
    assert net.to(mg.ones(1)).first.weight.dtype == mg.float32
    assert net.to(dtype=mg.float16).first.weight.dtype == mg.float16
    assert net.type(mg.float32).first.weight.dtype == mg.float32


def test_no_conversion_changes_nothing():
    net = Net()
    versions = [p._version for p in net.parameters()]
    net.float().to(mg.get_default_device())
    assert versions == [p._version for p in net.parameters()]
    with pytest.raises(TypeError, match="expected a floating dtype, got int64"):
        net.to(mg.int64)


def test_moving_keeps_parameters_values_and_gradients():
    net = Net().cpu()
    net(mg.ones(1, 2, device="cpu")).sum().backward()
    before, values = list(net.parameters()), [(p.tolist(), p.grad.tolist()) for p in net.parameters()]
    net.to("strict", mg.float64)
    assert all(p is q for p, q in zip(net.parameters(), before, strict=True))
    assert {str(t.device) for p in net.parameters() for t in (p, p.grad)} == {"strict"}
    assert {str(b.device) for b in net.buffers()} == {"strict"}
    assert net(mg.ones(1, 2, device="strict", dtype=mg.float64)).requires_grad
    net.cpu().float()
    assert [(p.tolist(), p.grad.tolist()) for p in net.parameters()] == values
    assert net.first.calls.tolist() == 2


def test_cuda_says_what_is_missing():
    if mg.get_default_device().type == "cuda":
        pytest.skip("a CUDA device is here")
    with pytest.raises(RuntimeError, match="cuda"):
        Net().cuda()


def test_deepcopy_is_independent_and_keeps_tying():
    net = Net()
    twin = copy.deepcopy(net)
    with mg.no_grad():
        twin.first.weight.fill_(7)
    assert twin.tied.weight is twin.first.weight
    assert not np.array_equal(host(net.first.weight), host(twin.first.weight))
    twin.load_state_dict(net.state_dict())
    x = mg.randn(3, 2)
    np.testing.assert_array_equal(host(net(x)), host(twin(x)))


# State ------------------------------------------------------------------------------------------------


def test_state_dict_keys_and_shared_memory():
    net = Net()
    state = net.state_dict()
    assert list(state) == [
        "first.weight", "first.bias", "first.calls", "block.scale", "block.main.0.weight", "block.main.0.bias",
        "block.main.0.calls", "block.main.2.weight", "block.main.2.bias", "block.main.2.calls", "tied.weight",
        "tied.bias", "tied.calls",
    ]  # fmt: skip
    assert not any(t.requires_grad for t in state.values())
    state["first.bias"].fill_(4)
    assert net.first.bias.tolist() == [4, 4, 4]
    assert net.state_dict(prefix="net.", keep_vars=True)["net.first.bias"] is net.first.bias


def test_load_state_dict_takes_tensors_and_arrays_of_any_dtype():
    net, other = Net(), Net().double()
    state = {name: host(t) if "weight" in name else t for name, t in other.state_dict().items()}
    result = net.load_state_dict(state)
    assert result == ([], [])
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    for name, t in net.state_dict().items():
        np.testing.assert_array_equal(host(t), host(other.state_dict()[name]).astype(host(t).dtype))
    assert net.first.weight.dtype == mg.float32
    assert net.first.weight.requires_grad


def test_load_state_dict_records_nothing():
    m, source = Affine(1, 1), Affine(1, 1)
    m.load_state_dict(source.state_dict(keep_vars=True))
    assert m.weight.is_leaf
    (m.weight * m.weight).sum().backward()
    assert m.weight.grad is not None
    assert source.weight.grad is None


def test_load_state_dict_bumps_versions():
    m = Affine(1, 1)
    y = (m.weight * m.weight).sum()
    m.load_state_dict(m.state_dict())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_load_state_dict_reports_everything_and_changes_nothing():
    net = Net()
    before = {name: host(t).copy() for name, t in net.state_dict().items()}
    state = {name: t + 1 for name, t in net.state_dict().items()}
    state["first.wieght"] = state.pop("first.weight")
    del state["block.scale"]
    state["something.else"] = mg.ones(1)
    state["first.bias"] = mg.ones(4)
    state["tied.bias"] = "three"
    with pytest.raises(RuntimeError) as caught:
        net.load_state_dict(state)
    text = str(caught.value)
    assert text.startswith("load_state_dict for Net:\n")
    assert "missing key 'first.weight'" in text
    assert "missing key 'block.scale'" in text
    assert "unexpected key 'first.wieght' (did you mean 'first.weight'?)" in text
    assert "unexpected key 'something.else'\n" in text + "\n"
    assert "'first.bias': got shape (4,), expected (3,)" in text
    assert "'tied.bias': got str, expected a Tensor or a NumPy array" in text
    for name, t in net.state_dict().items():
        np.testing.assert_array_equal(host(t), before[name])


def test_load_state_dict_not_strict():
    net = Net()
    result = net.load_state_dict({"first.bias": mg.ones(3), "extra": mg.ones(1)}, strict=False)
    assert net.first.bias.tolist() == [1, 1, 1]
    assert result.unexpected_keys == ["extra"]
    assert "first.weight" in result.missing_keys
    with pytest.raises(RuntimeError, match=r"'first.bias': got shape \(1,\), expected \(3,\)$"):
        net.load_state_dict({"first.bias": mg.ones(1)}, strict=False)
    with pytest.raises(TypeError, match="expected a dict of tensors, got Net"):
        net.load_state_dict(net)


def test_names_that_older_files_lack():
    class Counted(Affine):
        _optional = ("calls",)

    net = Sequential(Counted(1, 1))
    state = net.state_dict()
    del state["0.calls"]
    assert net.load_state_dict(state) == ([], [])
    del state["0.bias"]
    with pytest.raises(RuntimeError, match="missing key '0.bias'$"):
        net.load_state_dict(state)


# Hooks ------------------------------------------------------------------------------------------------


def test_forward_hooks_see_and_replace():
    seen = []
    m = Double()
    with m.register_forward_pre_hook(lambda module, args: seen.append(("pre", module, args[0].tolist()))):
        first = m.register_forward_pre_hook(lambda module, args: args[0] + 1)
        second = m.register_forward_hook(lambda module, args, out: seen.append(("post", out.tolist())))
        third = m.register_forward_hook(lambda module, args, out: out * 10)
        assert m(mg.tensor([1.0])).tolist() == [40]
    assert seen == [("pre", m, [1]), ("post", [4])]
    for handle in (first, second, third):
        handle.remove()
        handle.remove()
    assert m(mg.tensor([1.0])).tolist() == [2]
    assert len(seen) == 2


def test_full_backward_hook():
    m = Affine(2, 1)
    calls = []
    handle = m.register_full_backward_hook(lambda module, gx, gy: calls.append((module, gx, gy)))
    x = mg.randn(3, 2, requires_grad=True)
    (m(x) * 2 + x.sum()).sum().backward()
    ((module, gx, gy),) = calls
    assert module is m
    np.testing.assert_allclose(host(gy[0]), np.full((3, 1), 2.0))
    np.testing.assert_allclose(host(gx[0]), 2 * host(m.weight).repeat(3, 0), rtol=1e-6)
    np.testing.assert_allclose(host(x.grad), host(gx[0]) + 3, rtol=1e-6)
    assert type(gx) is type(gy) is tuple
    handle.remove()
    m(x).sum().backward()
    assert len(calls) == 1


def test_full_backward_hook_may_replace_the_gradient():
    m = Double()
    m.register_full_backward_hook(lambda module, gx, gy: (gx[0] * 100,))
    x = mg.ones(2, requires_grad=True)
    m(x).sum().backward()
    assert x.grad.tolist() == [200, 200]
    (g,) = mg.autograd.grad((m(x) ** 2).sum(), x, create_graph=True)
    (gg,) = mg.autograd.grad(g.sum(), x)
    assert g.tolist() == [800, 800]
    assert gg.tolist() == [80000, 80000]  # the hook is called on the way back through the gradient as well


def test_full_backward_hook_without_a_differentiable_input():
    m = Affine(2, 1)
    calls = []
    m.register_full_backward_hook(lambda module, gx, gy: calls.append((gx, gy[0].shape)))
    m(mg.ones(3, 2)).sum().backward()
    assert calls == [((None,), (3, 1))]
    with mg.no_grad():
        m(mg.ones(3, 2))
    assert len(calls) == 1


def test_full_backward_hook_refuses_other_signatures():
    class Sum(Module):
        def forward(self, x, y):
            return x + y

    class Pair(Module):
        def forward(self, x):
            return x, x

    for module, count in ((Sum(), 2), (Pair(), 1)):
        module.register_full_backward_hook(lambda *args: None)
        with pytest.raises(RuntimeError, match="one tensor out"):
            module(*[mg.ones(1, requires_grad=True) for _ in range(count)])


def test_hooked_calls_leave_nothing_alive():
    gc.disable()
    try:
        m = Affine(2, 2)
        m.register_full_backward_hook(lambda *args: None)
        y = m(mg.ones(1, 2, requires_grad=True))
        node = weakref.ref(y.grad_fn)
        y.sum().backward()
        del y
        assert node() is None
    finally:
        gc.enable()


# Text and errors --------------------------------------------------------------------------------------


def test_repr():
    assert repr(Double()) == "Double()"
    assert repr(Net().block) == (
        "Block(\n"
        "  (main): Sequential(\n"
        "    (0): Affine(3, 3)\n"
        "    (1): Double()\n"
        "    (2): Affine(3, 3)\n"
        "  )\n"
        ")"
    )  # fmt: skip


def raised(call):
    with pytest.raises(Exception) as caught:  # noqa: PT011  # the callers check the text
        call()
    return caught.value


def test_shape_error_names_the_layer_and_both_shapes():
    error = raised(lambda: Affine(10, 5)(mg.ones(3, 7)))
    assert type(error) is RuntimeError
    assert str(error) == "Affine(10, 5): got input of shape (3, 7), expected (..., 10); weight has shape (5, 10)"


def test_an_error_carries_the_qualified_name_once():
    net = Net()
    net.block.main[2] = Affine(4, 3)
    error = raised(lambda: net(mg.ones(1, 2)))
    assert error.__notes__ == ["in Net.block.main.2: Affine(4, 3)"]
    assert "in Net.block.main.2: Affine(4, 3)\n" in "".join(traceback.format_exception(error))
    assert raised(lambda: Affine(2, 2)(mg.ones(1))).__notes__ == ["in Affine(2, 2)"]


def test_an_error_in_a_container_or_a_nested_call():
    class Direct(Module):
        def __init__(self):
            super().__init__()
            self.inner = Block(2)

        def forward(self, x):
            return self.inner.main[0](x)  # a grandchild, called past its parents

    class Broken(Module):
        def __init__(self):
            super().__init__()
            self.child = Double()

        def forward(self, x):
            raise KeyError("lost")

    assert raised(lambda: Direct()(mg.ones(3))).__notes__ == ["in Direct.inner.main.0: Affine(2, 2)"]
    assert raised(lambda: Sequential(Broken())(1)).__notes__ == ["in Sequential.0: Broken"]


def test_an_error_from_a_module_that_is_not_part_of_the_caller():
    stranger = Affine(2, 2)

    class Caller(Module):
        def forward(self, x):
            return stranger(x)

    assert raised(lambda: Sequential(Caller())(mg.ones(3))).__notes__ == ["in Affine(2, 2)"]


def test_an_error_in_a_hook_names_the_module_too():
    m = Sequential(Double())
    m[0].register_forward_hook(lambda *args: 1 / 0)
    assert raised(lambda: m(mg.ones(1))).__notes__ == ["in Sequential.0: Double()"]


def test_no_forward():
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        Module()(1)


# Containers -------------------------------------------------------------------------------------------


def test_sequential():
    net = Sequential(Double(), Double())
    assert net(3) == 12
    assert len(net.append(Double())) == 3
    assert net(1) == 8
    assert Sequential()(5) == 5
    named = Sequential({"up": Double(), "down": Affine(1, 1)})
    assert [name for name, _ in named.named_children()] == ["up", "down"]
    assert named[0] is named.up
    assert named[-1] is named.down
    assert list(named[1:].state_dict()) == ["down.weight", "down.bias", "down.calls"]
    assert [type(m).__name__ for m in named] == ["Double", "Affine"]
    with pytest.raises(IndexError, match="index 2 is out of range for 2 entries"):
        named[2]
    with pytest.raises(TypeError, match="expected a Module, got int"):
        Sequential(3)


def test_sequential_edits_renumber():
    a, b, c = Double(), Double(), Double()
    net = Sequential(a, b)
    net.insert(1, c)
    assert list(net) == [a, c, b]
    del net[0]
    assert [name for name, _ in net.named_children()] == ["0", "1"]
    assert net.pop() is b
    net[0] = b
    net.extend([a])
    assert list(net) == [b, a]


def test_module_list():
    a, b, c = (Affine(1, 1) for _ in range(3))
    layers = ModuleList([a]).extend([b])
    layers += [c]
    assert list(layers) == [a, b, c]
    assert list(layers[1:]) == [b, c]
    assert isinstance(layers[1:], ModuleList)
    layers.insert(0, c)
    assert layers[0] is c
    del layers[1:3]
    assert len(layers) == 2
    assert list(ModuleList([a]).state_dict()) == ["0.weight", "0.bias", "0.calls"]


def test_module_dict():
    a, b = Double(), Affine(1, 1)
    heads = ModuleDict({"a": a})
    heads["b"] = b
    assert list(heads) == list(heads.keys()) == ["a", "b"]
    assert list(heads.values()) == [a, b]
    assert dict(heads.items()) == {"a": a, "b": b}
    assert "b" in heads
    assert list(heads.state_dict()) == ["b.weight", "b.bias", "b.calls"]
    assert heads.pop("a") is a
    del heads["b"]
    assert len(heads) == 0
    heads.update([("c", a)])
    assert heads["c"] is a
    heads.clear()
    assert len(heads) == 0
    with pytest.raises(TypeError, match="expected a Module or None, got int"):
        heads["x"] = 3


def test_parameter_list_and_dict():
    p = Parameter(mg.ones(2))
    plist = ParameterList([p, mg.zeros(1)])
    assert plist[0] is p
    assert isinstance(plist[1], Parameter)
    assert list(plist.state_dict()) == ["0", "1"]
    assert len(list(plist.parameters())) == 2
    assert len(plist.append(p)) == 3
    pdict = ParameterDict({"w": p})
    pdict["v"] = mg.zeros(3)
    assert list(pdict.state_dict()) == ["w", "v"]
    assert repr(pdict) == "ParameterDict(w: (2,) float32, v: (3,) float32)"
    with pytest.raises(TypeError, match="expected a Parameter or Tensor, got int"):
        plist.append(3)

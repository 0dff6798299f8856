"""The graph and the sweep: what is recorded, computed, kept, freed and refused."""

import ctypes
import math
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

import minigan as mg
from minigan.graph import REGISTRY, Node, Op, apply
from minigan.testing import check_no_leaks


def values(tensor):
    return tensor.detach().cpu().numpy()


def leaf(*data, dtype=mg.float64):
    return mg.tensor(list(data), dtype=dtype, requires_grad=True)


# Order and depth ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_gradients_of_large_weights_are_not_copied(kind):
    """They own their memory, though it is the pool's and not NumPy's. A view of them is copied."""
    linear = kind == "linear"
    layer = mg.nn.Linear(512, 1024, device="cpu") if linear else mg.nn.Conv2d(256, 256, 3, device="cpu")
    x = mg.ones(*((2, 512) if linear else (2, 256, 4, 4)), device="cpu")
    with mg.conv_algorithm("winograd"):
        layer(x).sum().backward()
    assert isinstance(layer.weight.grad.array.base, ctypes.Array)
    w = mg.zeros(layer.weight.numel(), device="cpu", requires_grad=True)
    shaped = w.reshape(layer.weight.shape)
    (mg.nn.functional.linear(x, shaped) if linear else mg.nn.functional.conv2d(x, shaped)).sum().backward()
    assert w.grad.array.flags.owndata


def test_any_order_of_derivative():
    x = leaf(0.7)
    y = mg.sin(x)
    for expected in (math.cos(0.7), -math.sin(0.7), -math.cos(0.7), math.sin(0.7), math.cos(0.7)):
        (y,) = mg.autograd.grad(y, x, create_graph=True)
        assert y.item() == pytest.approx(expected, abs=1e-14)


def test_depth_is_limited_by_memory_alone():
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y + 1
    y.backward()
    assert x.grad.item() == 1
    del y  # a chain this long must also be freed without recursion


def test_a_value_used_many_times_gets_the_sum():
    x = leaf(2.0)
    y = x * x
    (y * y + y + y * x).backward()
    assert x.grad.item() == 4 * 8 + 4 + 3 * 4


def test_gradients_add_up_over_backwards_until_zeroed():
    x = leaf(3.0)
    (x * x).backward()
    (x * x).backward()
    assert x.grad.item() == 12


def test_a_leaf_is_its_own_gradient():
    x = leaf(1.0)
    x.backward()
    assert x.grad.item() == 1
    assert mg.autograd.grad(x, x)[0].item() == 1


# What is computed --------------------------------------------------------------------------------------


class Spy(Op):
    """y = x, and says when its gradient is asked for."""

    calls: list = []

    @staticmethod
    def forward(ctx, B, x, *, tag):
        return x + 0

    @staticmethod
    def vjp(ctx, gy):
        Spy.calls.append(ctx.tag)
        return gy


def test_backward_with_inputs_computes_only_what_they_need():
    Spy.calls.clear()
    a, b = leaf(1.0), leaf(1.0)
    loss = (apply(Spy, a, tag="a") * apply(Spy, b, tag="b")).sum()
    loss.backward(inputs=[a])
    assert Spy.calls == ["a"]
    assert b.grad is None
    assert a.grad.item() == 1


def test_weight_gradients_nobody_asked_for_are_not_computed(monkeypatch):
    weight_grads = []
    monkeypatch.setattr(
        REGISTRY["Matmul"], "vjp", staticmethod(lambda ctx, gz: (weight_grads.append(tuple(ctx.needs)), (gz, None))[1])
    )
    x, w = mg.ones(2, 2, requires_grad=True), mg.ones(2, 2, requires_grad=True)
    (x @ w).sum().backward(inputs=[x])
    assert weight_grads == [(True, False)]


def test_grad_of_an_unused_input():
    x, y = leaf(1.0), leaf(1.0)
    with pytest.raises(RuntimeError, match="input 1.*not used.*allow_unused"):
        mg.autograd.grad((x * 2).sum(), [x, y])
    assert mg.autograd.grad((x * 2).sum(), [x, y], allow_unused=True)[1] is None
    assert mg.autograd.grad((x * 2).sum(), y, allow_unused=True, materialize_grads=True)[0].item() == 0


def test_grad_of_an_intermediate_value():
    x = leaf(3.0)
    y = x * x
    z = (y * y).sum()
    gy, gx = mg.autograd.grad(z, [y, x])
    assert (gy.item(), gx.item()) == (18, 108)


def test_nothing_is_recorded_without_need():
    x = mg.ones(3)
    assert (x * 2).grad_fn is None
    with mg.no_grad():
        assert (leaf(1.0) * 2).grad_fn is None


# Modes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [mg.no_grad, mg.inference_mode, lambda: mg.set_grad_enabled(False)])
def test_modes_survive_an_exception(mode):
    with pytest.raises(KeyError), mode():
        raise KeyError
    assert mg.is_grad_enabled()

    @mode()
    def fails():
        assert not mg.is_grad_enabled()
        raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert mg.is_grad_enabled()


def test_modes_as_bare_decorators_and_nested():
    @mg.no_grad
    def off():
        with mg.enable_grad():
            assert mg.is_grad_enabled()
        return mg.is_grad_enabled()

    assert off() is False
    assert mg.is_grad_enabled()
    mg.set_grad_enabled(False)
    assert not mg.is_grad_enabled()
    mg.set_grad_enabled(True)


def test_one_switch_can_be_entered_while_active():
    switch = mg.no_grad()
    with switch:
        with switch:
            pass
        assert not mg.is_grad_enabled()
    assert mg.is_grad_enabled()


def test_set_grad_enabled_as_a_decorator_leaves_the_outside_alone():
    @mg.set_grad_enabled(False)
    def off():
        return mg.is_grad_enabled()

    assert mg.is_grad_enabled()
    assert off() is False


def test_modes_belong_to_their_thread():
    seen = []
    with mg.no_grad():
        thread = threading.Thread(target=lambda: seen.append(mg.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_a_mode_refuses_a_generator_function():
    with pytest.raises(TypeError, match="generator function"):

        @mg.no_grad()
        def numbers():
            yield 1


# Hooks -------------------------------------------------------------------------------------------------


def test_hooks_see_and_replace_gradients():
    x = leaf(1.0)
    y = x * 2
    seen = []
    y.register_hook(lambda g: seen.append(g.item()))
    handle = y.register_hook(lambda g: g * 10)
    x.register_hook(lambda g: g + 1)
    (y * 3).sum().backward(retain_graph=True)
    assert seen == [3]
    assert x.grad.item() == 61
    handle.remove()
    x.grad = None
    (y * 3).sum().backward()
    assert x.grad.item() == 7


def test_retain_grad_keeps_the_gradient_of_an_intermediate_value():
    x = leaf(2.0)
    y = x * x
    y.retain_grad()
    (y * 5).sum().backward()
    assert y.grad.item() == 5


# What is kept and freed --------------------------------------------------------------------------------


def test_saved_values_are_freed_as_the_sweep_goes():
    """A byte budget: while a gradient passes through a chain, what lies behind it is already gone."""
    x = mg.ones(1000, dtype=mg.float64, requires_grad=True)
    alive = []

    def squared(y):
        z = y * y
        alive.append(weakref.ref(z.grad_fn))
        return z

    y = x
    for _ in range(10):
        y = squared(y)
    counts = []
    node = y.grad_fn
    while isinstance(node, Node):
        probe = node

        def count(g, probe=probe):
            counts.append(sum(ref() is not None and ref().saved_inputs is not None for ref in alive))

        node.hooks = {0: count}
        node = next(parent for parent in node.parents if parent is not None)
    del node, probe
    y.sum().backward()
    assert counts == list(range(10, 0, -1))


@pytest.mark.skipif("config.getoption('--device') == 'cuda'", reason="tracemalloc sees no memory of a GPU")
def test_a_byte_budget_for_the_sweep():
    """When the gradient reaches the front of a chain of 20, few arrays are left of the 20 that were saved."""
    size, left = 2**17, []
    array = 8 * size
    x = mg.ones(size, dtype=mg.float64, requires_grad=True)
    tracemalloc.start()
    try:
        y = x * x
        y.register_hook(lambda g: left.append(tracemalloc.get_traced_memory()[0] / array))
        for _ in range(20):
            y = y * y
        loss = y.sum()
        del y
        assert tracemalloc.get_traced_memory()[0] / array > 19  # they are all saved
        loss.backward()
        peak = tracemalloc.get_traced_memory()[1] / array
    finally:
        tracemalloc.stop()
    assert left[0] < 6
    assert peak < 26  # what was saved, and the gradients of one step


def test_nothing_waits_for_the_garbage_collector():
    x = leaf(1.0, 2.0)

    def step():
        (g,) = mg.autograd.grad((x * x).sum(), x, create_graph=True)
        (g * g).sum().backward()

    check_no_leaks(step, repeat=20)


def test_gradients_do_not_share_memory():
    x, y = leaf(1.0), leaf(1.0)
    seed = mg.ones(1, dtype=mg.float64)
    (x + y).backward(seed)
    x.grad.zero_()
    assert (y.grad.item(), seed.item()) == (1, 1)
    gx, gy = mg.autograd.grad((x + y).sum(), [x, y])
    gx += 5
    assert gy.item() == 1


def test_the_gradient_of_a_sum_can_be_written_to():
    x = mg.ones(4, requires_grad=True)
    x.sum().backward()
    x.grad[0] = 7
    assert x.grad.tolist() == [7, 1, 1, 1]


# Backward again, and rules for ops; messages are in test_errors.py --------------------------------------


def test_backward_twice_with_retain_graph():
    x = leaf(1.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 4


def test_what_was_freed_is_missed_only_where_it_is_needed():
    x, w = leaf(1.0), leaf(3.0)
    h = mg.exp(x)
    h.sum().backward()
    loss = (h * w).sum()
    assert mg.autograd.grad(loss, w, retain_graph=True)[0].item() == values(h).item()
    for again in (
        lambda: loss.backward(inputs=[x], retain_graph=True),  # not silently nothing
        lambda: mg.autograd.grad(loss, x, allow_unused=True, retain_graph=True),
        lambda: mg.autograd.grad((h + x).sum(), x),  # nor a part of the gradient
    ):
        with pytest.raises(RuntimeError, match="Exp: its saved values were freed"):
            again()


def test_gradients_of_a_graph_do_not_share_memory():
    x, y = leaf(1.0), leaf(1.0)
    w = leaf(2.0)
    gx, gy = mg.autograd.grad(((x + y) * w).sum(), [x, y], create_graph=True)
    gx.mul_(10)
    assert (gx.item(), gy.item()) == (20, 2)
    seed = leaf(1.0)
    (g,) = mg.autograd.grad(x.clone(), x, seed, create_graph=True)
    assert not g.B.shares_memory(g.array, seed.array)
    assert mg.autograd.grad(g, seed)[0].item() == 1


def test_the_gradient_of_a_quotient_by_something_tiny():
    x, y = leaf(0.0, 1e-25, dtype=mg.float32), leaf(1e-25, 1e-30, dtype=mg.float32)
    (x / y).sum().backward()  # y² is 0 in float32
    assert y.grad.tolist() == pytest.approx([0.0, -1e35], rel=1e-5)


def test_an_exception_in_a_hook_leaves_gradients_and_mode_alone():
    x, w = leaf(1.0), leaf(1.0)

    def fails(g):
        raise KeyError

    w.register_hook(fails)
    with pytest.raises(KeyError):
        (x * w).sum().backward()
    assert (x.grad, w.grad, mg.is_grad_enabled()) == (None, None, True)


def test_two_threads_train_at_once():
    def train(seed):
        generator = mg.Generator().manual_seed(seed)

        def numbers(*shape):
            return mg.randn(*shape, generator=generator, dtype=mg.float64)

        net = mg.nn.Sequential(mg.nn.Conv2d(1, 4, 3), mg.nn.BatchNorm2d(4), mg.nn.ReLU(), mg.nn.Flatten()).double()
        with mg.no_grad():
            for p in net.parameters():
                p.copy_(numbers(*p.shape) * 0.1)
        images = numbers(8, 1, 6, 6)
        optimiser = mg.optim.Adam(net.parameters(), 0.01)
        for _ in range(10):
            optimiser.zero_grad()
            loss = ((net(images) - 1) ** 2).mean()
            (g,) = mg.autograd.grad(loss, net[0].weight, create_graph=True)
            (loss + (g * g).sum()).backward()
            optimiser.step()
            with mg.no_grad():
                net(images)
        return [values(p).copy() for p in net.parameters()]

    alone = {seed: train(seed) for seed in (1, 2)}
    together = {}
    threads = [threading.Thread(target=lambda seed=seed: together.update({seed: train(seed)})) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        for a, b in zip(alone[seed], together[seed], strict=True):
            np.testing.assert_array_equal(a, b)


def test_numpy_scalars_do_not_widen_float32(monkeypatch):
    """Every intermediate value of a step that is full of NumPy's float64 numbers."""
    made = []
    wrap = mg.graph.wrap

    def watched(array, *rest):
        made.append(array.dtype)
        return wrap(array, *rest)

    monkeypatch.setattr(mg.graph, "wrap", watched)
    monkeypatch.setattr(mg.autograd, "wrap", watched)
    f = np.float64
    net = mg.nn.Sequential(
        mg.nn.ConvTranspose2d(2, 4, 4, 2, 1), mg.nn.BatchNorm2d(4, eps=f(1e-5)), mg.nn.LeakyReLU(f(0.2)),
        mg.nn.Conv2d(4, 2, 3), mg.nn.InstanceNorm2d(2), mg.nn.Softplus(f(1.0), f(20.0)),
        mg.nn.Dropout(f(0.3)), mg.nn.Tanh(),
    )  # fmt: skip
    optimiser = mg.optim.Adam(net.parameters(), f(1e-3), betas=(f(0.5), f(0.9)))
    x = mg.randn(2, 2, 4, 4).requires_grad_()
    y = net(x).clamp(f(-0.5), f(0.5)) * f(2) + f(1)
    (g,) = mg.autograd.grad(y.sum(), x, create_graph=True)
    penalty = ((g.flatten(1).norm(f(2), 1) - f(1)) ** f(2)).mean() * f(10)
    (y.mean() + penalty).backward()
    mg.nn.utils.clip_grad_norm_(net.parameters(), f(1.0))
    optimiser.step()
    assert made
    assert {dtype for dtype in made if dtype.kind == "f"} == {mg.float32}
    assert {p.dtype for p in net.parameters()} == {p.grad.dtype for p in net.parameters()} == {mg.float32}


def test_half_precision_adds_up_in_single():
    many = mg.ones(70_000, dtype=mg.float16).requires_grad_()
    for function, expected in ((mg.mean, 1), (mg.norm, 70_000**0.5), (lambda x: (x * 300).var(), 0)):
        y = function(many)
        assert y.dtype == mg.float16
        assert y.item() == pytest.approx(expected, rel=1e-3)
    rows, bias = mg.ones(5000, 3, dtype=mg.float16), mg.zeros(3, dtype=mg.float16).requires_grad_()
    (rows + bias).backward(mg.ones(5000, 3, dtype=mg.float16))
    assert bias.grad.tolist() == [5000] * 3  # in float16, 2048 + 1 is 2048


def test_an_op_cannot_save_an_intermediate_array():
    class Bad(Op):
        @staticmethod
        def forward(ctx, B, x):
            ctx.half = x / 2
            return x

    with pytest.raises(AttributeError):
        apply(Bad, leaf(1.0))


def test_vjp_cannot_read_the_cache():
    class Cached(Op):
        @staticmethod
        def forward(ctx, B, x):
            ctx.cache = x * 2
            return x * 2

        @staticmethod
        def vjp(ctx, gy):
            return gy * ctx.cache

    with pytest.raises(RuntimeError, match="may not read the cache"):
        apply(Cached, leaf(1.0)).sum().backward()

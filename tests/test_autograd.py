"""The graph and the sweep: what is recorded, computed, kept, freed and refused."""

import math
import threading
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


# In place ----------------------------------------------------------------------------------------------


def test_in_place_on_a_base_reaches_its_views():
    x = leaf(1.0, 2.0, 3.0)
    y = x * 1
    view = y[1:]
    y.mul_(10)
    view.sum().backward()
    assert x.grad.tolist() == [0, 10, 10]


def test_in_place_on_a_view_reaches_its_base():
    x = leaf(1.0, 2.0, 3.0)
    y = x * 1
    y[1:].mul_(10)
    assert values(y).tolist() == [1, 20, 30]
    y.sum().backward()
    assert x.grad.tolist() == [1, 10, 10]


def test_in_place_on_a_view_of_a_view_of_a_transpose():
    x = mg.arange(6.0).double().requires_grad_()
    y = (x * 1).reshape(2, 3)
    y.t()[1].mul_(mg.tensor([10.0, 100.0], dtype=mg.float64))
    (y * y).sum().backward()
    expected = 2 * np.arange(6.0) * np.array([1, 100, 1, 1, 10_000, 1])
    assert np.array_equal(values(x.grad), expected)


def test_augmented_indexed_assignment():
    x = leaf(1.0, 2.0, 3.0)
    y = x * 1
    y[0] *= 4
    y[mg.tensor([2])] = 0.0
    y.sum().backward()
    assert x.grad.tolist() == [4, 1, 0]


def test_assignment_carries_the_gradient_of_what_was_assigned():
    x, canvas = leaf(2.0, 3.0), mg.zeros(4, dtype=mg.float64)
    canvas[1:3] = x * x
    (canvas * 2).sum().backward()
    assert x.grad.tolist() == [8, 12]


def test_copying_a_leaf_into_a_buffer_keeps_them_apart():
    x, buffer = leaf(2.0), mg.zeros(1, dtype=mg.float64)
    buffer.copy_(x)
    (buffer * 3).sum().backward()
    assert x.grad.item() == 3
    assert not buffer.is_leaf


def test_second_derivative_through_an_assignment():
    x = leaf(2.0, 3.0)
    y = x * 1
    y[0] = x[1] ** 3
    (g,) = mg.autograd.grad((y * y).sum(), x, create_graph=True)
    assert g.tolist() == [0, 6 * 3.0**5 + 2 * 3.0]
    (h,) = mg.autograd.grad(g.sum(), x)
    assert h.tolist() == [0, 30 * 3.0**4 + 2]


# Errors ------------------------------------------------------------------------------------------------


def test_backward_of_more_than_a_number():
    with pytest.raises(RuntimeError, match=r"scalar outputs.*\(2,\).*\.sum\(\)"):
        (leaf(1.0, 2.0) * 2).backward()


def test_backward_without_a_graph():
    with pytest.raises(RuntimeError, match="does not require grad"):
        mg.ones(1).backward()


def test_backward_twice():
    x = leaf(1.0)
    y = mg.exp(x)
    y.backward()
    with pytest.raises(RuntimeError, match=r"Exp.*freed.*detach\(\).*retain_graph=True"):
        y.backward()


def test_backward_twice_with_retain_graph():
    x = leaf(1.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 4


def test_in_place_change_of_a_saved_value():
    x = leaf(1.0, 2.0)
    h = x * 1
    y = mg.exp(h)
    y.add_(1)
    with pytest.raises(RuntimeError, match=r"Exp: the output, of shape \(2,\).*inplace.*add_.*clone"):
        y.sum().backward()
    y = h * h
    h.zero_()
    with pytest.raises(RuntimeError, match=r"Mul: input 0.*version 1, expected 0; last changed by zero_"):
        y.sum().backward()


def test_change_through_data_is_noticed():
    w = leaf(2.0)
    y = (w * w).sum()
    w.data.clamp_(-1, 1)
    with pytest.raises(RuntimeError, match="last changed by clamp_"):
        y.backward()


def test_in_place_on_a_leaf():
    x = leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match="leaf.*no_grad"):
        x.add_(1)
    with pytest.raises(RuntimeError, match="view of a leaf"):
        x[0].add_(1)
    with mg.no_grad():
        x.add_(1)
    assert x.detach().tolist() == [2, 3]


def test_create_graph_on_backward_says_what_to_call():
    with pytest.raises(RuntimeError, match=r"autograd\.grad\(loss, inputs, create_graph=True\)"):
        leaf(1.0).backward(create_graph=True)


def test_gradient_of_the_wrong_shape():
    with pytest.raises(RuntimeError, match=r"gradient of shape \(3,\).*output of\s+shape \(2,\)"):
        (leaf(1.0, 2.0) * 2).backward(mg.ones(3, dtype=mg.float64))


def test_mixed_float_dtypes_name_both():
    with pytest.raises(RuntimeError, match="float32 and float64"):
        mg.ones(2) + mg.ones(2, dtype=mg.float64)


def test_shapes_that_do_not_broadcast_name_both():
    with pytest.raises(RuntimeError, match=r"\(2,\).*\(3,\)"):
        mg.ones(2) + mg.ones(3)


def test_detect_anomaly_names_the_line():
    x = leaf(0.0)
    with mg.autograd.detect_anomaly():
        y = mg.sqrt(x) * 1  # the culprit
        with pytest.raises(RuntimeError, match=r"(?s)Sqrt: the gradient of input 0.*infinite.*# the culprit"):
            y.sum().backward()


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


def test_cuda_without_cupy_says_what_to_install():
    if mg.cuda.is_available():
        pytest.skip("a GPU is here: the message for machines without one cannot be shown")
    with pytest.raises(RuntimeError, match=r"device 'cuda'.*(CuPy|GPU)"):
        mg.ones(1, device="cuda")

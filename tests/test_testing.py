"""`minigan.testing`: what it must catch, and what it must say."""

import math

import numpy as np
import pytest

import minigan as mg
from minigan.graph import Op, apply
from minigan.testing import check_adjoint, check_grads, check_no_leaks, check_vjp_fast, live_nodes, recorded_ops
from minigan.testing.strict import StrictArray


def wrong_cube(first=1.0, second=1.0, fast=1.0):
    """x³ with factors that do not belong in its first and second derivative, and in its fast one."""

    class Cube(Op):
        @staticmethod
        def forward(ctx, B, x):
            ctx.save_inputs(True)
            return x * x * x

        @staticmethod
        def vjp(ctx, gy):
            x = ctx.inputs[0]
            correct = 3 * x * x
            if second != 1:
                correct = 3 * (second * x + (1 - second) * x.detach()) * x
            return gy * (first * correct)

        @staticmethod
        def vjp_fast(ctx, B, gy):
            return gy * (fast * 3 * ctx.input_arrays[0] ** 2)

    return lambda x: apply(Cube, x)


def x64(*shape):
    return (mg.rand(*shape) + 0.5).double()


# check_grads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [mg.float64, mg.float32])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_right_derivatives_pass(dtype, order):
    check_grads(lambda x, y: mg.exp(x) @ y / (1 + x.sum()), (x64(2, 3).to(dtype), x64(3).to(dtype)), order)


def test_a_factor_of_999_thousandths_is_caught():
    with pytest.raises(AssertionError, match=r"order 1, input 0 of shape \(4,\).*analytic.*numeric.*differ by"):
        check_grads(wrong_cube(first=0.999), (x64(4),))


def test_a_wrong_second_derivative_is_caught():
    check_grads(wrong_cube(second=0.999), (x64(4),), order=1)
    with pytest.raises(AssertionError, match=r"order 2, input 0"):
        check_grads(wrong_cube(second=0.999), (x64(4),), order=2)


def test_a_gradient_of_zero_under_a_cotangent_of_ones_is_still_checked():
    """Σ softmax is 1, so its gradient is 0, and a factor in it would not be seen."""
    check_grads(lambda x: mg.softmax(x, 0), (x64(4),))
    with pytest.raises(AssertionError):
        check_grads(lambda x: mg.softmax(wrong_cube(first=2)(x), 0), (x64(4),))


def test_the_message_names_the_function_and_its_ops():
    def double(x):
        return x * 2 + x.detach()

    with pytest.raises(AssertionError, match=r"double \(Add, Mul\): order 1, input 0 of shape \(2,\) float64"):
        check_grads(double, (x64(2),))
    with pytest.raises(AssertionError, match="twice: order 1"):
        check_grads(double, (x64(2),), name="twice")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_never_pass(value):
    with pytest.raises(AssertionError):
        check_grads(lambda x: x * value, (x64(2),))
    with pytest.raises(AssertionError):
        check_grads(lambda x: x * x, (x64(2) * value,))
    with pytest.raises(AssertionError):
        check_grads(wrong_cube(first=value), (x64(2),))


def test_inputs_without_influence_count_as_zero():
    check_grads(lambda x, y: x * x, (x64(2), x64(3)))
    check_grads(lambda x: x.detach() * 0 + 1, (x64(2),))
    with pytest.raises(AssertionError, match="input 1"):
        check_grads(lambda x, y: x * y.detach(), (x64(2), x64(2)))


def test_several_outputs_and_other_arguments():
    check_grads(lambda x, dim, i: (x.sum(dim), x[i] ** 2, x.argmax()), (x64(2, 3), 1, mg.tensor([1, 0])))
    with pytest.raises(AssertionError, match="input 1 of shape"):
        check_grads(lambda n, x: (x * n, x * x.detach()), (3, x64(2)))


def test_empty_and_zero_dimensional_tensors():
    check_grads(lambda x, y: x * y, (x64(0, 3), x64(3)))
    check_grads(lambda x: x.sin(), (x64(1)[0],))


def test_a_gradient_of_another_dtype_is_caught():
    class Drifts(Op):
        @staticmethod
        def forward(ctx, B, x):
            return x * 2

        @staticmethod
        def vjp(ctx, gy):
            return (gy * 2).double()

    with pytest.raises(AssertionError, match="dtype float64"):
        check_grads(lambda x: apply(Drifts, x), (x64(2).float(),), order=1)


def test_complex_steps():
    for f in (mg.exp, lambda x: mg.tanh(2 * x + 1).sum() / 3, lambda x: mg.softmax(x, 0) @ x, lambda x: x**2.5):
        check_grads(f, (x64(3),), method="complex")
    with pytest.raises(AssertionError, match="order 1"):
        check_grads(wrong_cube(first=1 + 1e-8), (x64(3),), method="complex")
    with pytest.raises(TypeError, match="not analytic"):
        check_grads(mg.abs, (x64(3),), method="complex")
    check_grads(mg.abs, (x64(3),), method="auto")


def test_works_inside_no_grad_and_leaves_arguments_alone():
    x = x64(3)
    with mg.no_grad():
        check_grads(mg.exp, (x,))
    assert not x.requires_grad
    assert x.grad is None


# The others --------------------------------------------------------------------------------------------


def test_vjp_fast_is_held_to_vjp():
    check_vjp_fast(wrong_cube(), (x64(3),))
    check_vjp_fast(lambda x, y: mg.sigmoid(x) * mg.tanh(y), (x64(3).float(), x64(2, 3).float()))
    for fast in (1.0001, math.nan):
        with pytest.raises(AssertionError, match="by vjp_fast"):
            check_vjp_fast(wrong_cube(fast=fast), (x64(3),))


def test_adjoints():
    a, x, y = x64(2, 3), x64(3), x64(2)
    check_adjoint(lambda x: a @ x, lambda y: a.T @ y, x, y)
    with pytest.raises(AssertionError, match="differ by"):
        check_adjoint(lambda x: a @ x, lambda y: 1.000001 * (a.T @ y), x, y)
    with pytest.raises(AssertionError, match="differ by"):
        check_adjoint(lambda x: a @ x * math.nan, lambda y: a.T @ y, x, y)


def test_leaks_are_named():
    kept = []
    x = x64(3).requires_grad_()
    check_no_leaks(lambda: mg.autograd.grad((x * x).sum(), x, create_graph=True)[0].sum().backward())
    with pytest.raises(AssertionError, match=r"6 nodes are alive after 3 calls \(3 \w+, 3 \w+\)"):
        check_no_leaks(lambda: kept.append(mg.exp(x * 2)))
    assert {node.name() for node in live_nodes()} >= {"Exp", "Mul"}


def test_recorded_ops():
    x = x64(3).requires_grad_()
    assert recorded_ops(x) == set()
    assert recorded_ops(x * 2, mg.exp(x)) == {"Mul", "Exp"}


# The strict device -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stray", [np.asarray, np.exp, np.sum, np.shape, np.stack, lambda a: np.ones(3) + a, lambda a: a + np.ones(3)]
)
def test_numpy_refuses_strict_arrays(stray):
    with pytest.raises(TypeError):
        stray(mg.ones(3, device="strict").array)


def test_strict_arrays_compute():
    x = mg.arange(6.0, device="strict").reshape(2, 3).requires_grad_()
    (x * x / 2)[:, 1:].sum().backward()
    assert isinstance(x.grad.array, StrictArray)
    assert x.grad.tolist() == [[0, 1, 2], [0, 4, 5]]
    with pytest.raises(TypeError, match=r"\.cpu\(\)"):
        x.detach().numpy()
    with pytest.raises(RuntimeError, match="one device, got strict and cpu"):
        x + mg.ones(3, device="cpu")

"""Changes in place: the graph stays true to them, or a backward that needed the old value says so."""

import numpy as np
import pytest

import minigan as mg
from minigan.testing import check_no_leaks


def values(tensor):
    return tensor.detach().cpu().numpy()


def leaf(*data, dtype=mg.float64):
    return mg.tensor(list(data), dtype=dtype, requires_grad=True)


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


def test_assignment_to_data_leaves_the_old_values_to_the_graph():
    """As spectral norm of older scripts does between two calls of a network: u.data = …"""
    w, u = leaf(3.0), mg.tensor([2.0], dtype=mg.float64)
    first = w * u
    u.data = mg.tensor([5.0], dtype=mg.float64)
    (first + w * u).sum().backward()
    assert w.grad.tolist() == [7.0]


def test_assignment_to_the_data_of_a_leaf_is_noticed():
    w = leaf(3.0)
    y = w * w
    w.data = w.data * 2
    with pytest.raises(RuntimeError, match="Mul: input 0.*assignment to .data"):
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


def test_a_diagonal_is_a_view():
    x = leaf(1.0, 2.0, 3.0, 4.0)
    y = (x * 1).reshape(2, 2)
    y.diagonal().mul_(10)
    y.diagonal(1).fill_(0.0)
    assert values(y).tolist() == [[10, 0], [3, 40]]
    y.sum().backward()
    assert x.grad.tolist() == [10, 0, 1, 10]


def test_a_copy_and_its_source_keep_their_own_gradients():
    x, w = leaf(1.0), leaf(1.0)
    y, z = x * 2, mg.exp(w)
    y.copy_(z)
    y.retain_grad()
    z.retain_grad()
    (y * 2 + z * 3).sum().backward()
    assert (y.grad.item(), z.grad.item(), x.grad.item()) == (2, 5, 0)


def test_changing_a_copy_leaves_its_source_alone():
    x = leaf(1.0)
    y, z = x * 2, mg.exp(x)
    y.copy_(z)
    y.add_(1)  # what exp saved is z, not y
    z.sum().backward()
    assert x.grad.item() == values(z).item()


@pytest.mark.parametrize("overwrite", [mg.Tensor.zero_, lambda y: y.fill_(3.0), mg.Tensor.normal_])
def test_a_tensor_overwritten_by_constants_has_gradient_zero(overwrite):
    x = leaf(1.0, 2.0)
    y = x * 2
    overwrite(y)
    assert y.requires_grad
    y.sum().backward()
    assert x.grad.tolist() == [0, 0]


def test_second_derivative_of_what_was_written_over_a_value():
    x = leaf(2.0, 3.0)
    y = x**3
    y.copy_(x * x)
    (g,) = mg.autograd.grad((y * y).sum(), x, create_graph=True)
    assert g.tolist() == [32, 108]
    (h,) = mg.autograd.grad(g.sum(), x)
    assert h.tolist() == [48, 108]


def test_retain_grad_follows_a_tensor_through_its_changes():
    x = leaf(1.0, 2.0)
    y = x * 2
    y.retain_grad()
    y.mul_(3)
    y[0] = 5.0
    (y * y).sum().backward()
    assert y.grad.tolist() == [10, 24]


def test_a_view_knows_what_its_base_became():
    canvas = mg.zeros(3, dtype=mg.float64)
    view = canvas[1:]
    canvas.copy_(leaf(1.0, 2.0, 3.0) * 2)
    assert view.requires_grad
    assert not view.is_leaf
    with pytest.raises(RuntimeError, match=r"\.detach\(\)\.numpy\(\)"):
        view.numpy()


def test_many_views_of_views():
    x = leaf(1.0, 2.0)
    y = x * 1
    view = y
    for _ in range(5000):
        view = view.reshape(1, 2) if view.ndim == 1 else view.reshape(2)
    y.mul_(2)
    view.mul_(3)
    y.sum().backward()
    assert x.grad.tolist() == [6, 6]


def test_a_view_that_is_itself_a_leaf_is_not_changed():
    view = mg.ones(3)[1:].requires_grad_()
    with pytest.raises(RuntimeError, match="add_: a leaf tensor that requires grad"):
        view.add_(1)


def test_detach_in_place_is_not_for_views():
    with pytest.raises(RuntimeError, match=r"detach_: a view.*\.detach\(\)"):
        (leaf(1.0, 2.0) * 2)[0].detach_()


def test_a_step_of_an_optimiser_between_forward_and_backward_is_noticed():
    w = leaf(1.0)
    loss = (w * w).sum()
    w.grad = mg.ones_like(w)
    mg.optim.SGD([w], lr=0.1).step()
    with pytest.raises(RuntimeError, match=r"Mul: input 0.*last changed by SGD\.step"):
        loss.backward()


def test_changes_in_place_leave_no_nodes():
    x = mg.randn(10, dtype=mg.float64).requires_grad_()

    def step():
        y = x * 1
        y.retain_grad()
        y[1:].mul_(2)
        y.reshape(2, 5).t()[1].add_(1)
        y[y > 0] = 0.5
        y.mul_(x)
        y.copy_(x * x)
        (g,) = mg.autograd.grad((y * y).sum(), x, create_graph=True)
        (g * g).sum().backward()

    check_no_leaks(step)

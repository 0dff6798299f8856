"""autograd.Function: forward and backward of the user's own, in PyTorch's form."""

import pytest

import minigan as mg
from minigan.autograd import Function, grad
from minigan.testing import check_grads, check_no_leaks


class Reverse(Function):
    """Gradient reversal, as in domain-adversarial training."""

    @staticmethod
    def forward(ctx, x, alpha):
        ctx.alpha = alpha
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.neg() * ctx.alpha, None


class Product(Function):
    """Two inputs and the result, y = x·eᶻ."""

    @staticmethod
    def forward(ctx, x, z):
        assert not mg.is_grad_enabled()
        y = x * z.exp()
        ctx.save_for_backward(x, z, y)
        return y

    @staticmethod
    def backward(ctx, gradient):
        x, z, y = ctx.saved_tensors
        return gradient * z.exp() if ctx.needs_input_grad[0] else None, gradient * y


def test_gradient_reversal():
    x = mg.tensor([1.0, -2.0], requires_grad=True)
    y = Reverse.apply(x, 0.5)
    assert y.tolist() == x.tolist()
    (3 * y).sum().backward()
    assert x.grad.tolist() == [-1.5, -1.5]


def test_the_result_does_not_share_the_inputs_memory():
    x = mg.ones(3, requires_grad=True)
    y = Reverse.apply(x, 1.0)
    y.mul_(2)
    assert x.tolist() == [1, 1, 1]
    y.sum().backward()
    assert x.grad.tolist() == [-2, -2, -2]


def test_derivatives_to_third_order():
    x, z = mg.randn(3, 4).double(), mg.randn(4).double().expand(3, 4)
    check_grads(Product.apply, [x, z.clone()], order=3)


def test_needs_input_grad():
    seen = []

    class Spy(Product):
        @staticmethod
        def backward(ctx, gradient):
            seen.append(ctx.needs_input_grad)
            return Product.backward(ctx, gradient)

    Spy.apply(mg.ones(2), mg.ones(2, requires_grad=True)).sum().backward()
    Spy.apply(mg.ones(2, requires_grad=True), mg.ones(2)).sum().backward()
    assert seen == [(False, True), (True, False)]


def test_constants_are_kept_as_they_are():
    class Scale(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(None, mg.full((2,), 3.0))
            return x * 3

        @staticmethod
        def backward(ctx, gradient):
            nothing, factor = ctx.saved_tensors
            assert nothing is None
            return gradient * factor

    x = mg.ones(2, requires_grad=True)
    assert grad(Scale.apply(x).sum(), x)[0].tolist() == [3, 3]


def test_a_saved_input_changed_in_place_is_noticed():
    x = mg.ones(2, requires_grad=True) * 1
    y = Product.apply(x, mg.zeros(2, requires_grad=True))
    x.add_(1)
    with pytest.raises(RuntimeError, match="Product: input 0.*modified by an inplace operation"):
        y.sum().backward()


def test_nothing_is_recorded_where_nothing_is_wanted():
    assert Product.apply(mg.ones(2), mg.ones(2)).grad_fn is None
    with mg.no_grad():
        assert Product.apply(mg.ones(2, requires_grad=True), mg.ones(2)).grad_fn is None
    assert Product.apply(mg.ones(2, requires_grad=True), mg.ones(2)).grad_fn.name() == "Product"


def test_a_second_backward_needs_the_graph():
    x = mg.ones(2, requires_grad=True)
    y = Product.apply(x, x * 1).sum()
    y.backward(retain_graph=True)
    first = x.grad.tolist()
    y.backward()
    assert x.grad.tolist() == [2 * g for g in first]
    with pytest.raises(RuntimeError, match="freed by an earlier backward"):
        y.backward()


def test_no_cycles():
    x = mg.ones(2, requires_grad=True)

    def step():
        (g,) = grad(Product.apply(x, x * 1).sum(), x, create_graph=True)
        g.square().sum().backward()

    check_no_leaks(step)


def wrong(returned):
    class Wrong(Function):
        @staticmethod
        def forward(ctx, x, y):
            return x + y

        @staticmethod
        def backward(ctx, gradient):
            return returned

    return Wrong.apply(mg.ones(2, requires_grad=True), mg.ones(2))


def test_errors():
    with pytest.raises(RuntimeError, match=r"Wrong.backward: got 1 gradients, expected one for each of 2 arguments"):
        wrong(mg.ones(2)).sum().backward()
    with pytest.raises(RuntimeError, match=r"Wrong.backward: got a gradient of shape \(3,\) for argument 0"):
        wrong((mg.ones(3), None)).sum().backward()

    class NoTensor(Function):
        @staticmethod
        def forward(ctx, x):
            return x.tolist()

    with pytest.raises(RuntimeError, match=r"NoTensor.forward: expected it to return one Tensor, got list"):
        NoTensor.apply(mg.ones(2))


def test_without_tensors_it_is_a_plain_call():
    class Ones(Function):
        @staticmethod
        def forward(ctx, size):
            return mg.ones(size)

    assert Ones.apply(3).tolist() == [1, 1, 1]

"""nn.utils: clipping, vectors of parameters, parametrizations and spectral normalisation."""

import copy
import math

import numpy as np
import pytest

import minigan as mg
from minigan import nn
from minigan.nn.module import Module
from minigan.nn.parameter import Parameter
from minigan.nn.utils import (
    clip_grad_norm_,
    clip_grad_value_,
    parameters_to_vector,
    parametrizations,
    remove_spectral_norm,
    remove_weight_norm,
    spectral_norm,
    vector_to_parameters,
    weight_norm,
)
from minigan.nn.utils.parametrize import is_parametrized, register_parametrization, remove_parametrizations


class Affine(Module):
    """x·Wᵀ + b for a matrix W, or any tensor taken as one."""

    def __init__(self, *shape):
        super().__init__()
        self.weight = Parameter(mg.randn(*shape, dtype=mg.float64))
        self.bias = Parameter(mg.zeros(shape[0], dtype=mg.float64))

    def forward(self, x):
        return x.matmul(self.weight.reshape(self.bias.shape[0], -1).t()) + self.bias


def host(x):
    return x.detach().cpu().numpy()


def with_gradients(*gradients, dtype=mg.float32):
    """Parameters with these gradients, and one that has none."""
    made = []
    for g in gradients:
        p = Parameter(mg.zeros(len(g), dtype=dtype))
        p.grad = mg.tensor(g, dtype=dtype)
        made.append(p)
    return [*made, Parameter(mg.zeros(1, dtype=dtype))]


# Clipping ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "total"), [(2, 5.0), (2.0, 5.0), (1, 7.0), (math.inf, 4.0), (3, 91 ** (1 / 3))])
def test_clip_grad_norm(kind, total):
    params = with_gradients([3.0, 0.0], [-4.0], dtype=mg.float64)
    norm = clip_grad_norm_(iter(params), 0.5, kind)
    assert norm.item() == pytest.approx(total, rel=1e-12)
    scale = 0.5 / (total + 1e-6)
    np.testing.assert_allclose(host(params[0].grad), [3 * scale, 0], rtol=1e-12)
    np.testing.assert_allclose(host(params[1].grad), [-4 * scale], rtol=1e-12)
    assert not norm.requires_grad


def test_clip_grad_norm_leaves_small_gradients():
    params = with_gradients([3.0], [4.0])
    clip_grad_norm_(params, 100.0)
    assert [p.grad.tolist() for p in params[:2]] == [[3], [4]]


def test_clip_grad_norm_of_one_tensor_of_none_and_of_several_dtypes():
    (p, _) = with_gradients([3.0, 4.0])
    assert clip_grad_norm_(p, 1.0).item() == 5
    assert clip_grad_norm_([Parameter(mg.ones(1))], 1.0).item() == 0
    mixed = with_gradients([3.0]) + with_gradients([4.0], dtype=mg.float64)
    assert clip_grad_norm_(mixed, 1.0).item() == 5
    assert [p.grad.dtype for p in mixed if p.grad is not None] == [mg.float32, mg.float64]


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # NumPy's, of ∞·0
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_clip_grad_norm_of_non_finite_gradients(bad):
    with pytest.raises(RuntimeError, match="clip_grad_norm_: the gradients' norm"):
        clip_grad_norm_(with_gradients([1.0, bad]), 1.0, error_if_nonfinite=True)
    assert not math.isfinite(clip_grad_norm_(with_gradients([1.0, bad]), 1.0).item())


def test_clip_grad_value():
    params = with_gradients([3.0, -0.1], [-4.0])
    clip_grad_value_(params, 0.5)
    np.testing.assert_array_equal(host(params[0].grad), np.array([0.5, -0.1], np.float32))
    assert params[1].grad.tolist() == [-0.5]


# Vectors ----------------------------------------------------------------------------------------------


def test_parameters_to_vector_and_back():
    a, b = Parameter(mg.tensor([[1.0, 2.0], [3.0, 4.0]])), Parameter(mg.tensor(5.0))
    vector = parameters_to_vector([a, b])
    assert vector.tolist() == [1, 2, 3, 4, 5]
    (vector * vector).sum().backward()
    assert a.grad.tolist() == [[2, 4], [6, 8]]
    assert b.grad.item() == 10
    vector_to_parameters(-vector, iter([a, b]))
    assert a.tolist() == [[-1, -2], [-3, -4]]
    assert b.item() == -5
    assert a.is_leaf
    for size in (4, 6):
        with pytest.raises(RuntimeError, match=rf"got a vector of shape \({size},\), expected \(5,\)"):
            vector_to_parameters(mg.ones(size), [a, b])


# Parametrizations ----------------------------------------------------------------------------------------


class Square(Module):
    def forward(self, x):
        return x * x


def test_register_and_remove_parametrization():
    m = Affine(1, 2)
    original, start = m.weight, host(m.weight).copy()
    register_parametrization(m, "weight", Square())
    register_parametrization(m, "weight", Square())
    assert is_parametrized(m)
    assert is_parametrized(m, "weight")
    assert not is_parametrized(m, "bias")
    np.testing.assert_allclose(host(m.weight), start**4)
    assert [name for name, _ in m.named_parameters()] == ["bias", "parametrizations.weight.original"]
    assert m.parametrizations.weight.original is original
    m(mg.ones(1, 2, dtype=mg.float64)).sum().backward()
    np.testing.assert_allclose(host(original.grad), 4 * start**3)
    with pytest.raises(RuntimeError, match="Affine.weight is computed"):
        m.weight = Parameter(mg.ones(1, 2))
    with pytest.raises(RuntimeError, match="Affine.weight is computed"):
        m.weight = None
    remove_parametrizations(m, "weight")
    assert m.weight is original
    np.testing.assert_allclose(host(m.weight), start**4)
    assert list(m.state_dict()) == ["bias", "weight"]
    register_parametrization(m, "weight", Square())
    remove_parametrizations(m, "weight", leave_parametrized=False)
    np.testing.assert_allclose(host(m.weight), start**4)


def test_parametrization_of_nothing():
    with pytest.raises(ValueError, match="Square has no parameter 'weight' to parametrize"):
        register_parametrization(Square(), "weight", Square())
    with pytest.raises(ValueError, match="no parametrization of 'weight'"):
        remove_parametrizations(Affine(1, 1), "weight")


# Spectral normalisation ------------------------------------------------------------------------------------

NEW = {"make": parametrizations.spectral_norm, "u": "parametrizations.weight.0._u"}


def called(m, *args, **kwargs):
    """The older form takes effect with the first call."""
    spectral_norm(m, *args, **kwargs)(mg.ones(1, m.weight_orig.numel() // m.bias.numel(), dtype=mg.float64))
    return m


OLD = {"make": called, "u": "weight_u"}
FORMS = pytest.mark.parametrize("form", [NEW, OLD], ids=["new", "old"])


def sigma(w, dim):
    return np.linalg.svd(np.moveaxis(w, dim, 0).reshape(w.shape[dim], -1), compute_uv=False)[0]


@FORMS
@pytest.mark.parametrize(("shape", "dim"), [((4, 3), 0), ((3, 5), 1), ((4, 3, 2, 2), 0), ((4, 3, 2, 2), -3)])
def test_power_iteration_reaches_the_singular_value(form, shape, dim):
    m = Affine(*shape)
    w = host(m.weight).copy()
    assert form["make"](m, n_power_iterations=200, dim=dim) is m
    np.testing.assert_allclose(host(m.weight), w / sigma(w, dim), rtol=1e-9)


def test_state_dict_names():
    m = parametrizations.spectral_norm(Affine(4, 3), dim=0)
    sizes = {name: t.shape for name, t in m.state_dict().items()}
    assert list(sizes) == [
        "bias", "parametrizations.weight.original", "parametrizations.weight.0._u", "parametrizations.weight.0._v",
    ]  # fmt: skip
    assert list(sizes.values()) == [(4,), (4, 3), (4,), (3,)]
    m = spectral_norm(Affine(4, 3))
    assert list(m.state_dict()) == ["bias", "weight_orig", "weight_u", "weight_v"]
    assert [name for name, _ in m.named_parameters()] == ["bias", "weight_orig"]


@FORMS
def test_vectors_move_in_training_only(form):
    m = form["make"](Affine(5, 5), dim=0)
    u = m.state_dict()[form["u"]]
    before = host(u).copy()
    m.eval()
    first = host(m.weight)
    np.testing.assert_array_equal(host(m.weight), first)
    np.testing.assert_array_equal(host(u), before)
    m.train()
    m(mg.ones(1, 5, dtype=mg.float64))
    assert not np.array_equal(host(u), before)
    assert np.linalg.norm(host(u)) == pytest.approx(1)


@FORMS
def test_gradient_is_that_of_w_over_sigma_with_constant_vectors(form):
    m = form["make"](Affine(3, 4), dim=0).eval()
    weight = m.get_parameter("parametrizations.weight.original" if form is NEW else "weight_orig")
    state = m.state_dict()
    u, v = host(state[form["u"]]), host(state[form["u"][:-1] + "v"])
    w, c = host(weight).copy(), np.random.default_rng(0).normal(size=(3, 4))
    loss = (m.weight * mg.tensor(c)).sum()
    (g,) = mg.autograd.grad(loss, weight, create_graph=True)
    s = u @ w @ v  # d⟨c, w/s⟩ = ⟨c, dw⟩/s - ⟨c, w⟩/s²·uᵀdw v
    np.testing.assert_allclose(host(g), c / s - (c * w).sum() / s**2 * np.outer(u, v), rtol=1e-10)
    (gg,) = mg.autograd.grad((g * g).sum(), weight)
    step, d = 1e-6, np.random.default_rng(1).normal(size=(3, 4))

    def squared(x):
        s = u @ x @ v
        return ((c / s - (c * x).sum() / s**2 * np.outer(u, v)) ** 2).sum()

    numeric = (squared(w + step * d) - squared(w - step * d)) / (2 * step)
    assert (host(gg) * d).sum() == pytest.approx(numeric, rel=1e-6)


@FORMS
def test_two_forward_passes_before_one_backward(form):
    m = form["make"](Affine(1, 4), dim=0)
    x = mg.randn(3, 4, dtype=mg.float64)
    (m(x) - m(-x)).sum().backward()  # as D(real) - D(fake)
    assert all(np.isfinite(host(p.grad)).all() for p in m.parameters())


@FORMS
def test_survives_deepcopy_and_state(form):
    m = form["make"](Affine(3, 3), dim=0)
    m(mg.ones(1, 3, dtype=mg.float64))
    twin = copy.deepcopy(m).eval()
    np.testing.assert_array_equal(host(twin.weight), host(m.eval().weight))
    with mg.no_grad():
        twin.get_parameter("parametrizations.weight.original" if form is NEW else "weight_orig").fill_(1)
    assert not np.array_equal(host(twin.weight), host(m.weight))
    other = form["make"](Affine(3, 3), dim=0).eval()
    other.load_state_dict(m.state_dict())
    np.testing.assert_array_equal(host(other.weight), host(m.weight))


@FORMS
def test_removal_leaves_the_normalised_weight(form):
    m = Affine(3, 3)
    original = m.weight
    form["make"](m, dim=0).eval()
    expected = host(m.weight).copy()
    remove_spectral_norm(m)
    assert m.weight is original
    np.testing.assert_allclose(host(m.weight), expected, rtol=1e-12)
    assert sorted(m.state_dict()) == ["bias", "weight"]
    with pytest.raises(ValueError, match="Affine has no spectral norm on 'weight'"):
        remove_spectral_norm(m)


def test_a_vector_is_divided_by_its_norm():
    m = Affine(3, 1)
    b = mg.tensor([3.0, 0.0, 4.0], dtype=mg.float64)
    m.bias = Parameter(b)
    parametrizations.spectral_norm(m, "bias", dim=0)
    np.testing.assert_allclose(host(m.bias), [0.6, 0, 0.8])
    assert list(m.state_dict()) == ["weight", "parametrizations.bias.original"]


@FORMS
def test_spectral_norm_refuses(form):
    with pytest.raises(ValueError, match="no parameter 'kernel'"):
        form["make"](Affine(1, 1), "kernel", dim=0)
    with pytest.raises(ValueError, match="at least 1 power iteration, got 0"):
        form["make"](Affine(1, 1), n_power_iterations=0, dim=0)


def test_default_dim_is_that_of_the_output_channels():
    for layer in (nn.ConvTranspose2d, nn.Conv2d):
        assert parametrizations.spectral_norm(layer(3, 5, 2)).parametrizations.weight[0]._u.shape == (5,)
        assert spectral_norm(layer(3, 5, 2)).weight_u.shape == (5,)


def test_the_older_form_can_be_initialised_before_its_first_call():
    m = spectral_norm(Affine(2, 2), n_power_iterations=50)
    mg.nn.init.eye_(m.weight.data)
    m.weight.data.mul_(3)
    assert m.weight_orig.tolist() == [[3, 0], [0, 3]]
    m(mg.ones(1, 2, dtype=mg.float64))
    np.testing.assert_allclose(host(m.weight), np.eye(2), atol=1e-12)
    assert len(remove_spectral_norm(m)._forward_pre_hooks) == 0
    twin = copy.deepcopy(spectral_norm(Affine(2, 2)))
    twin(mg.ones(1, 2, dtype=mg.float64))
    assert len(twin._forward_pre_hooks) == 0
    assert twin.weight.tolist() != twin.weight_orig.tolist()
    early = remove_spectral_norm(spectral_norm(Affine(2, 2)))
    assert sorted(early.state_dict()) == ["bias", "weight"]


# Weight norm ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [0, 1, -1, None])
def test_weight_norm(dim):
    m = nn.Conv1d(3, 4, 2).double()
    before = m.weight.tolist()
    weight_norm(m, dim=dim)
    axes = None if dim is None else tuple(d for d in range(3) if d != dim % 3)
    v, g = host(m.weight_v), host(m.weight_g)
    np.testing.assert_allclose(
        g, np.linalg.norm(v.reshape(-1)) if dim is None else (v**2).sum(axes, keepdims=True) ** 0.5
    )
    np.testing.assert_allclose(host(m.weight), before, rtol=1e-14)
    with mg.no_grad():
        m.weight_g.mul_(2)
        m.weight_v.mul_(3)
    np.testing.assert_allclose(host(m.weight), 2 * np.array(before), rtol=1e-14)
    assert list(m.state_dict()) == ["bias", "weight_g", "weight_v"]
    m(mg.ones(1, 3, 5, dtype=mg.float64)).square().sum().backward()
    assert m.weight_g.grad.shape == m.weight_g.shape
    twin = copy.deepcopy(m)
    assert remove_weight_norm(m) is m
    assert m.weight.tolist() == twin.weight.tolist()
    assert sorted(m.state_dict()) == ["bias", "weight"]


def test_weight_norm_refuses():
    with pytest.raises(ValueError, match="no parameter 'gain'"):
        weight_norm(nn.Linear(2, 2), "gain")
    with pytest.raises(ValueError, match="no weight norm on 'weight'"):
        remove_weight_norm(spectral_norm(nn.Linear(2, 2)))

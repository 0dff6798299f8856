"""Penalties: against gradients worked out by hand, and their own gradients in D's weights by finite differences."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from values import close, host

import minigan as mg
from minigan import nn
from minigan.gan.penalties import clip_weights, dragan, gradient_penalty, lazy, r1, r2, spectral_normalize
from minigan.testing import check_grads

F = nn.functional
SHAPES = [(5, 3), (4, 2, 3), (3, 2, 4, 4)]


def normal(*shape, seed=1):
    return mg.randn(*shape, dtype=mg.float64, generator=mg.Generator().manual_seed(seed))


def stream():
    return mg.Generator().manual_seed(7)


class Cubic:
    """D(x) = Σ a·x³/3, whose gradient is a·x²; keeps what it is given."""

    def __init__(self, shape):
        self.a = normal(*shape[1:], seed=2)

    def __call__(self, x):
        self.x = x.detach()
        return (self.a * x * x * x / 3).flatten(1).sum(1)

    def squared_norms(self, x):
        return ((host(self.a) * x**2) ** 2).reshape(len(x), -1).sum(1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("target", [1.0, 0.0])
def test_gradient_penalty_is_of_one_norm_per_sample_on_the_line_between(shape, target):
    D, real, fake = Cubic(shape), normal(*shape), normal(*shape, seed=3)
    penalty = gradient_penalty(D, real, fake, weight=5.0, target=target, generator=stream())
    alpha = stream().uniform((shape[0], *[1] * (len(shape) - 1)), np.float64)
    x = alpha * host(real) + (1 - alpha) * host(fake)
    close(D.x, x)
    close(penalty, 5 * ((np.sqrt(D.squared_norms(x)) - target) ** 2).mean())


@pytest.mark.parametrize("shape", SHAPES)
def test_r1_and_r2_are_half_the_mean_squared_norm(shape):
    D, x = Cubic(shape), normal(*shape)
    for penalty in (r1, r2):
        close(penalty(D, x, 3.0), 1.5 * D.squared_norms(host(x)).mean())
        close(D.x, host(x))


@pytest.mark.parametrize("shape", SHAPES)
def test_dragan_looks_near_the_data(shape):
    D, real, draws = Cubic(shape), normal(*shape), stream()
    penalty = dragan(D, real, weight=2.0, generator=stream())
    noise = 0.5 * host(real).std(ddof=1) * draws.uniform(shape, np.float64)
    alpha = draws.uniform((shape[0], *[1] * (len(shape) - 1)), np.float64)
    x = host(real) + (1 - alpha) * noise
    close(D.x, x)
    close(penalty, 2 * ((np.sqrt(D.squared_norms(x)) - 1) ** 2).mean())


@given(n=st.integers(1, 6), size=st.integers(1, 4), weight=st.floats(0.1, 100))
def test_penalties_are_linear_in_weight_and_do_not_depend_on_the_order_of_samples(n, size, weight):
    D, x = Cubic((n, size)), normal(n, size)
    assert r1(D, x, weight).item() == pytest.approx(weight * r1(D, x.flip(0), 1.0).item(), rel=1e-9)


# The penalty's gradient reaches D's weights -------------------------------------------------------------


def dense(x, w1, b1, w2):
    return F.linear(mg.tanh(F.linear(x, w1, b1)), w2)


def convolutional(x, w1, b1, w2):
    return F.conv2d(mg.tanh(F.conv2d(x, w1, b1, stride=2, padding=1)), w2)  # a map of logits, as PatchGAN's


WEIGHTS = {
    dense: ((4, 3), [(6, 3), (6,), (1, 6)]),
    convolutional: ((3, 2, 6, 6), [(3, 2, 4, 4), (3,), (1, 3, 2, 2)]),
}
PENALTIES = {
    "gradient_penalty": lambda D, x: gradient_penalty(D, x, normal(*x.shape, seed=9), generator=stream()),
    "r1": r1,
    "r2": r2,
    "dragan": lambda D, x: dragan(D, x, generator=stream()),
}


@pytest.mark.parametrize("critic", WEIGHTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", PENALTIES)
def test_the_gradient_in_the_weights_is_right(critic, name):
    """A first derivative of the penalty is a second one of D; order 2 here is order 3 there."""
    shape, sizes = WEIGHTS[critic]
    x = normal(*shape)
    weights = [normal(*size, seed=10 + i) for i, size in enumerate(sizes)]
    check_grads(lambda *ws: PENALTIES[name](lambda x: critic(x, *ws), x), weights, order=2, rtol=1e-5)


@pytest.mark.parametrize("name", PENALTIES)
def test_samples_get_no_gradient(name):
    """A fake batch that was not detached must not carry the critic's penalty into G."""
    critic, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), mg.randn(4, 3, requires_grad=True)
    fake = x * 2
    penalty = {
        "gradient_penalty": lambda: gradient_penalty(critic, fake, fake),
        "r1": lambda: r1(critic, fake),
        "r2": lambda: r2(critic, fake),
        "dragan": lambda: dragan(critic, fake),
    }[name]()
    penalty.backward()
    assert x.grad is None
    assert np.abs(host(critic[0].weight.grad)).max() > 0


def test_each_sample_has_its_own_alpha_in_its_own_dtype_from_the_default_stream():
    seen = []

    def D(x):
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    for _ in range(2):
        assert gradient_penalty(D, mg.ones(500, 1, 2, 2), mg.zeros(500, 1, 2, 2)).dtype == mg.float32
    first, second = (host(x).reshape(500, 4) for x in seen)
    assert (first == first[:, :1]).all()  # one per sample
    assert len(np.unique(first)) > 450
    assert 0 <= first.min() < 0.02 < 0.98 < first.max() < 1
    assert abs(first.mean() - 0.5) < 0.07
    assert (first != second).any()


def test_batches_that_do_not_pair():
    with pytest.raises(ValueError, match=r"gradient_penalty: got samples of shapes \(4, 2\) \(real\) and \(3, 2\)"):
        gradient_penalty(nn.Linear(2, 1), mg.zeros(4, 2), mg.zeros(3, 2))


def test_nan_reaches_the_penalty():
    x = mg.full((2, 3), math.nan, dtype=mg.float64)
    for penalty in PENALTIES.values():
        assert math.isnan(penalty(lambda x: x.square().sum(1), x).item())


# Lazy, clipping, spectral normalisation -----------------------------------------------------------------


@given(weight=st.floats(0, 100), every=st.integers(1, 50), start=st.integers(0, 1000))
def test_lazy_weights_add_up_to_the_weight_of_every_step(weight, every, start):
    weights = [lazy(weight, every, step) for step in range(start, start + every)]
    assert sum(weights) == pytest.approx(every * weight)
    assert sum(w > 0 for w in weights) == (weight > 0)


def test_lazy_every_nothing():
    with pytest.raises(ValueError, match="got every=0, expected at least 1"):
        lazy(1.0, 0, 3)


def test_clipping_touches_what_is_out_of_range_only():
    D = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    D.load_state_dict(D.state_dict() | {"0.weight": mg.tensor([[3.0, 0.005]]), "0.bias": mg.tensor([-0.02])})
    clip_weights(D, 0.01)
    close(D[0].weight, [[0.01, 0.005]], 1e-6)
    close(D[0].bias, [-0.01], 1e-6)
    close(D[1].running_var, [1.0])  # a buffer is no weight
    assert all(p.requires_grad for p in D.parameters())


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_clipping_to_nothing(limit):
    with pytest.raises(ValueError, match="got limit"):
        clip_weights(nn.Linear(1, 1), limit)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.ConvTranspose2d(8, 4, 4, 2, 1))
        self.head = nn.Linear(4 * 8 * 8, 1)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


def test_spectral_normalisation_reaches_every_layer():
    D = Nested()
    assert spectral_normalize(D) is D
    for _ in range(200):
        D(mg.randn(1, 3, 8, 8))
    for layer, output in ((D.body[0], 0), (D.body[2], 1), (D.head, 0)):
        matrix = np.moveaxis(host(layer.weight), output, 0)
        assert np.linalg.svd(matrix.reshape(len(matrix), -1), compute_uv=False)[0] == pytest.approx(1.0, rel=1e-3)
    assert not any(name.endswith("weight") for name, _ in D.named_parameters())
    gradient_penalty(D, mg.randn(2, 3, 8, 8), mg.randn(2, 3, 8, 8)).backward()
    assert all(np.isfinite(host(p.grad)).all() for n, p in D.named_parameters() if "weight" in n)

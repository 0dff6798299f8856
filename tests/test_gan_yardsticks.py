"""Exact facts about GAN training that losses and penalties must reproduce, and published mistakes do not."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from values import host

import minigan as mg
from minigan import nn
from minigan.gan.losses import LOSSES
from minigan.gan.penalties import gradient_penalty, r1


def double(values, requires_grad=False):
    return mg.tensor(values, dtype=mg.float64, requires_grad=requires_grad)


def normal(*shape):
    return mg.randn(*shape, dtype=mg.float64)


# Gradient penalty -------------------------------------------------------------------------------------


@given(w=st.lists(st.floats(-3, 3).filter(lambda v: abs(v) > 1e-3), min_size=1, max_size=5))
def test_linear_critic(w):
    """(‖w‖ - 1)², with gradient 2(‖w‖ - 1)w/‖w‖, wherever real and fake samples are."""
    column = double([[v] for v in w], requires_grad=True)
    penalty = gradient_penalty(lambda x: x @ column, normal(6, len(w)), normal(6, len(w)), weight=1.0)
    penalty.backward()
    length = np.linalg.norm(w)
    assert penalty.item() == pytest.approx((length - 1) ** 2, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(host(column.grad)[:, 0], 2 * (length - 1) * np.array(w) / length, rtol=1e-9, atol=1e-12)


def half_norm(x):
    return 0.5 * x.square().flatten(1).sum(1)


HALF_NORM_SAMPLES = 40_000


@pytest.mark.parametrize("shape", [(9,), (1, 3, 3)])
def test_half_norm_critic(shape):
    """D = ½‖x‖², real ones(9), fake 0: E(3α - 1)² = 1."""
    real = mg.ones(HALF_NORM_SAMPLES, *shape, dtype=mg.float64)
    assert gradient_penalty(half_norm, real, 0 * real, weight=1.0).item() == pytest.approx(1.0, abs=0.03)


def _mistaken(alpha, norm):
    """The same penalty, written with another α or another norm."""
    x = (alpha * mg.ones(HALF_NORM_SAMPLES, 9, dtype=mg.float64)).requires_grad_()
    (slopes,) = mg.autograd.grad(half_norm(x).sum(), x, create_graph=True)
    return (norm(slopes) - 1).square().mean().item()


@pytest.mark.parametrize(
    ("alpha", "norm", "value"),
    [
        pytest.param(normal, lambda s: s.norm(dim=1), 5.21, id="normal alpha"),
        pytest.param(lambda n, _: mg.rand(n, 9, dtype=mg.float64), lambda s: s.norm(dim=1), 0.58, id="alpha per pixel"),
        pytest.param(lambda n, _: mg.rand(n, 1, dtype=mg.float64), mg.abs, 1 / 3, id="norm per element"),
    ],
)
def test_published_mistakes_are_told_apart_by_the_half_norm_critic(alpha, norm, value):
    assert _mistaken(alpha(HALF_NORM_SAMPLES, 1), norm) == pytest.approx(value, rel=0.05)


@pytest.mark.parametrize("dtype", [mg.float32, mg.float64])
def test_zero_critic(dtype):
    """‖∇D‖ has no slope at 0: value 1, and a finite gradient."""
    critic = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1)).to(dtype)
    for parameter in critic.parameters():
        nn.init.zeros_(parameter)
    penalty = gradient_penalty(critic, mg.randn(5, 4, dtype=dtype), mg.randn(5, 4, dtype=dtype), weight=1.0)
    penalty.backward()
    assert penalty.item() == 1.0
    gradients = [host(p.grad) for p in critic.parameters() if p.grad is not None]
    assert len(gradients) >= 2
    assert all(np.isfinite(g).all() for g in gradients)


# Losses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["minimax", "non-saturating", "relativistic-average"])
def test_equilibrium_of_the_discriminator(name):
    assert LOSSES[name].d(double([0.0] * 4), double([0.0] * 4)).item() == pytest.approx(2 * math.log(2), rel=1e-12)


@pytest.mark.parametrize("name", ["non-saturating", "relativistic"])
def test_equilibrium_of_the_generator(name):
    assert LOSSES[name].g(double([0.0] * 4), double([0.0] * 4)).item() == pytest.approx(math.log(2), rel=1e-12)


# The Dirac-GAN (Mescheder et al. 2018): real data at 0, G gives θ, D(x) = ψx, f'(0) = ½ -----------------


def dirac_field(loss, theta, psi, gamma=0.0):
    """The direction of simultaneous gradient descent, differentiable again: (-∂g/∂θ, -∂d/∂ψ)."""

    def D(x):
        return psi * x

    real, fake = double([[0.0]]), theta.reshape(1, 1)
    d = loss.d(D(real), D(fake)) + r1(D, real, weight=gamma)
    (for_theta,) = mg.autograd.grad(loss.g(D(fake)), theta, create_graph=True)
    (for_psi,) = mg.autograd.grad(d, psi, create_graph=True)
    return -for_theta, -for_psi


@pytest.mark.parametrize("name", ["minimax", "non-saturating"])
@pytest.mark.parametrize("h", [0.1, 0.5, 1.0])
def test_simultaneous_descent_on_the_dirac_gan_grows(name, h):
    """By √(1 + h²/4) a step, near the equilibrium."""
    at = double([3e-5, 4e-5])
    for _ in range(5):
        theta, psi = (at[i].clone().requires_grad_() for i in range(2))
        new = at + h * mg.stack(dirac_field(LOSSES[name], theta, psi)).detach()
        assert (new.norm() / at.norm()).item() == pytest.approx(math.sqrt(1 + h * h / 4), rel=1e-8)
        at = new


@pytest.mark.parametrize("name", ["minimax", "non-saturating"])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.9, 1.5, 4.0])
def test_r1_moves_the_dirac_gans_eigenvalues(name, gamma):
    """-γ/2 ± √(γ²/4 - ¼): stable for every γ > 0."""
    at = double(0.0, requires_grad=True), double(0.0, requires_grad=True)
    field = dirac_field(LOSSES[name], *at, gamma)
    jacobian = [
        [g.item() for g in mg.autograd.grad(v, at, retain_graph=True, allow_unused=True, materialize_grads=True)]
        for v in field
    ]
    root = np.emath.sqrt(gamma**2 / 4 - 0.25)
    found = np.sort_complex(np.linalg.eigvals(jacobian))
    np.testing.assert_allclose(found, np.sort_complex([-gamma / 2 - root, -gamma / 2 + root]), atol=1e-9)


# Wasserstein distance ---------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.1, 10.0, 50.0])
def test_the_best_linear_critic_overshoots_by_a_known_share(weight):
    """Of fakes that are real samples shifted by W, it measures W(1 + W/2λ): there the loss has no slope."""
    fake, shift = normal(16, 2), double([1.8, 2.4])
    slope = (shift / 3 * (1 + 3 / (2 * weight))).requires_grad_()

    def D(x):
        return x @ slope

    loss = LOSSES["wasserstein"].d(D(fake + shift), D(fake)) + gradient_penalty(D, fake + shift, fake, weight)
    (g,) = mg.autograd.grad(loss, slope)
    np.testing.assert_allclose(host(g), 0, atol=1e-9)


def test_a_critic_with_gradient_penalty_measures_the_wasserstein_distance():
    """Two Gaussians, one shifted by 3: W₁ = 3. With λ = 50 the overshoot is 3% (with 10, 15%)."""
    shift = mg.tensor([1.8, 2.4])
    critic = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    optimizer = mg.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.9))
    for _ in range(500):
        real, fake = mg.randn(128, 2) + shift, mg.randn(128, 2)
        loss = LOSSES["wasserstein"].d(critic(real), critic(fake)) + gradient_penalty(critic, real, fake, weight=50.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with mg.no_grad():
        estimate = -LOSSES["wasserstein"].d(critic(mg.randn(20_000, 2) + shift), critic(mg.randn(20_000, 2))).item()
    assert estimate == pytest.approx(3.0, rel=0.1)

"""Losses: against formulas written down again in NumPy, their derivatives, and what they refuse."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from values import host

import minigan as mg
from minigan import nn
from minigan.gan.losses import LOSSES, refuse_probabilities
from minigan.testing import check_grads

F = nn.functional
logits = st.lists(st.floats(-30, 30), min_size=1, max_size=8)


def double(values, requires_grad=False):
    return mg.tensor(values, dtype=mg.float64, requires_grad=requires_grad)


def cross_entropy(target, logit):
    """In extended precision and by the definition: -t·log σ - (1 - t)·log(1 - σ)."""
    x = np.asarray(logit, np.longdouble)
    return -target * -np.logaddexp(0, -x) - (1 - target) * -np.logaddexp(0, x)


# name: (D's side of r, f and the real target t; G's side of r, f)
ORACLES = {
    "minimax": (
        lambda r, f, t: cross_entropy(t, r).mean() + cross_entropy(0, f).mean(),
        lambda r, f: -cross_entropy(0, f).mean(),
    ),
    "non-saturating": (
        lambda r, f, t: cross_entropy(t, r).mean() + cross_entropy(0, f).mean(),
        lambda r, f: cross_entropy(1, f).mean(),
    ),
    "least-squares": (
        lambda r, f, t: ((r - t) ** 2).mean() / 2 + (f**2).mean() / 2,
        lambda r, f: ((f - 1) ** 2).mean() / 2,
    ),
    "wasserstein": (lambda r, f, t: f.mean() - r.mean(), lambda r, f: -f.mean()),
    "hinge": (
        lambda r, f, t: np.maximum(0, 1 - r).mean() + np.maximum(0, 1 + f).mean(),
        lambda r, f: -f.mean(),
    ),
    "relativistic": (
        lambda r, f, t: cross_entropy(1, r - f).mean(),
        lambda r, f: cross_entropy(1, f - r).mean(),
    ),
    "relativistic-average": (
        lambda r, f, t: cross_entropy(1, r - f.mean()).mean() + cross_entropy(0, f - r.mean()).mean(),
        lambda r, f: cross_entropy(0, r - f.mean()).mean() + cross_entropy(1, f - r.mean()).mean(),
    ),
}
SMOOTHING = ("minimax", "non-saturating", "least-squares")


def test_every_loss_has_an_oracle():
    assert set(ORACLES) == set(LOSSES)
    assert {name for name, loss in LOSSES.items() if loss.smooths} == set(SMOOTHING)


@pytest.mark.parametrize("name", LOSSES)
@given(pairs=st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30)), min_size=1, max_size=8), s=st.floats(0, 0.9))
def test_both_sides_are_the_published_formulas(name, pairs, s):
    r, f = np.array(pairs).T
    s = s if name in SMOOTHING else 0.0
    d, g = ORACLES[name]
    real, fake = double(r[:, None]), double(f[:, None])
    assert LOSSES[name].d(real, fake, smooth=s).item() == pytest.approx(float(d(r, f, 1 - s)), rel=1e-11, abs=1e-11)
    assert LOSSES[name].g(fake, real).item() == pytest.approx(float(g(r, f)), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives_to_second_order(name):
    real, fake = mg.randn(5, 1, dtype=mg.float64), mg.randn(5, 1, dtype=mg.float64)
    smooth = 0.1 if name in SMOOTHING else 0.0
    check_grads(lambda r, f: LOSSES[name].d(r, f, smooth), (real, fake))
    check_grads(lambda r, f: LOSSES[name].g(f, r), (real, fake))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [200.0, 1e4])
def test_extreme_logits_stay_finite_and_keep_their_dtype(name, size):
    real = mg.tensor([size, -size, 0.0], requires_grad=True)
    fake = mg.tensor([-size, size, 0.0], requires_grad=True)
    for value in (LOSSES[name].d(real, fake), LOSSES[name].g(fake, real)):
        assert value.dtype == mg.float32
        assert math.isfinite(value.item())
        for g in mg.autograd.grad(value, (real, fake), allow_unused=True):
            assert g is None or np.isfinite(host(g)).all()


@pytest.mark.parametrize("name", LOSSES)
def test_each_side_pulls_its_own_way(name):
    """Descent on d raises real logits above fake ones; descent on g raises the fake ones."""
    real, fake = double([0.1, -0.2], requires_grad=True), double([0.05, 0.3], requires_grad=True)
    by_real, by_fake = mg.autograd.grad(LOSSES[name].d(real, fake), (real, fake))
    assert (host(by_real) < 0).all()
    assert (host(by_fake) > 0).all()
    (by_fake,) = mg.autograd.grad(LOSSES[name].g(fake, real), fake)
    assert (host(by_fake) < 0).all()


@pytest.mark.parametrize("name", ["minimax", "non-saturating"])
def test_smoothing_puts_the_optimum_at_its_target(name):
    at = double([math.log(0.9 / 0.1)], requires_grad=True)  # σ = 0.9
    (g,) = mg.autograd.grad(LOSSES[name].d(at, double([0.0]), smooth=0.1), at)
    assert g.item() == pytest.approx(0.0, abs=1e-12)


# What is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(LOSSES) - set(SMOOTHING)))
def test_smoothing_where_there_are_no_labels(name):
    with pytest.raises(ValueError, match=f"{name} loss: it has no labels to smooth.*minimax, non-saturating, least"):
        LOSSES[name].d(mg.zeros(2), mg.zeros(2), smooth=0.1)


@pytest.mark.parametrize("smooth", [-0.1, 1.0, math.nan])
def test_smoothing_out_of_range(smooth):
    with pytest.raises(ValueError, match="got smooth=.*expected 0 or more and less than 1"):
        LOSSES["minimax"].d(mg.zeros(2), mg.zeros(2), smooth=smooth)


PROBABILITIES = {
    "sigmoid": lambda x: mg.sigmoid(x),
    "sigmoid, then reshaped": lambda x: mg.sigmoid(x).squeeze(1).reshape(-1, 1).transpose(0, 1)[:1].flip(0),
    "sigmoid, then clamped": lambda x: mg.sigmoid(x).clamp(1e-7, 1 - 1e-7).float(),
    "sigmoid of one part": lambda x: mg.cat([x, mg.sigmoid(x)]),
    "log-sigmoid": lambda x: F.logsigmoid(x),
    "softmax": lambda x: F.softmax(mg.cat([x, -x], 1), dim=1)[:, :1],
    "log-softmax": lambda x: F.log_softmax(mg.cat([x, -x], 1), dim=1)[:, 0],
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", PROBABILITIES)
def test_probabilities_are_refused(name, kind):
    fine = nn.Linear(3, 1)(mg.randn(4, 3))
    wrong = PROBABILITIES[kind](nn.Linear(3, 1)(mg.randn(4, 3)))
    expected = r"D's output went through a (sigmoid|softmax); remove it"
    with pytest.raises(ValueError, match=expected):
        LOSSES[name].d(wrong, fine)
    with pytest.raises(ValueError, match=expected):
        LOSSES[name].d(fine, wrong)
    with pytest.raises(ValueError, match=expected):
        LOSSES[name].g(wrong, fine)


def test_sigmoids_inside_a_discriminator_are_its_own_affair():
    x = mg.randn(4, 3, requires_grad=True)
    refuse_probabilities(F.silu(x).sum(1), nn.Sequential(nn.Linear(3, 3), nn.Sigmoid(), nn.Linear(3, 1))(x), x)
    with mg.no_grad():
        refuse_probabilities(mg.sigmoid(x))  # nothing to be known


def test_relativistic_losses_need_real_logits_in_pairs():
    for name in ("relativistic", "relativistic-average"):
        with pytest.raises(ValueError, match=f"{name} loss: G's side needs D's logits of real samples"):
            LOSSES[name].g(mg.zeros(4, 1))
    for side in (LOSSES["relativistic"].d, LOSSES["relativistic"].g):
        with pytest.raises(ValueError, match=r"shapes \(4, ?1?\).*expected the same"):
            side(mg.zeros(4), mg.zeros(4, 1))


def test_nan_does_not_become_a_number():
    for loss in LOSSES.values():
        assert math.isnan(loss.d(double([math.nan]), double([0.0])).item())
        assert math.isnan(loss.g(double([math.nan]), double([0.0])).item())

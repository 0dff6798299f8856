"""The losses of `minigan.nn.functional` against plain NumPy, at their ends too, and what they say when misused."""

import math

import numpy as np
import pytest
from values import close, host, normal, per_channel, sigmoid, t, uniform, z

import minigan as mg
import minigan.nn.functional as F


def smooth_l1(d, beta=1.0):
    d = np.abs(d)
    return np.where(d < beta, d**2 / (2 * beta), d - beta / 2)


X, Y, P, Q = normal(4, 3) * 2, normal(3, 4).T, uniform(4, 3), uniform(3, 4).T
SIGNS = np.sign(normal(4, 3))
LOSSES = {
    "mse": (lambda **k: F.mse_loss(t(X), t(Y), **k), (X - Y) ** 2),
    "l1": (lambda **k: F.l1_loss(t(X), t(Y), **k), np.abs(X - Y)),
    "smooth l1": (lambda **k: F.smooth_l1_loss(t(X), t(Y), **k), smooth_l1(X - Y)),
    "smooth l1, beta": (lambda **k: F.smooth_l1_loss(t(X), t(Y), beta=0.3, **k), smooth_l1(X - Y, 0.3)),
    "smooth l1, beta 0": (lambda **k: F.smooth_l1_loss(t(X), t(Y), beta=0.0, **k), np.abs(X - Y)),
    "huber": (lambda **k: F.huber_loss(t(X), t(Y), delta=0.3, **k), 0.3 * smooth_l1(X - Y, 0.3)),
    "hinge": (
        lambda **k: F.hinge_embedding_loss(t(X), t(SIGNS), 0.5, **k),
        np.where(SIGNS == 1, X, np.maximum(0, 0.5 - X)),
    ),
    "bce": (lambda **k: F.binary_cross_entropy(t(P), t(Q), **k), -Q * np.log(P) - (1 - Q) * np.log(1 - P)),
    "weighted bce": (
        lambda **k: F.binary_cross_entropy(t(P), t(Q), t(Q[0]), **k),
        Q[0] * (-Q * np.log(P) - (1 - Q) * np.log(1 - P)),
    ),
    "logits": (
        lambda **k: F.binary_cross_entropy_with_logits(t(X), t(Q), **k),
        -Q * np.log(sigmoid(X)) - (1 - Q) * np.log(1 - sigmoid(X)),
    ),
    "weighted logits": (
        lambda **k: F.binary_cross_entropy_with_logits(t(X), t(Q), t(Q[0]), pos_weight=t(P[0]), **k),
        Q[0] * (-P[0] * Q * np.log(sigmoid(X)) - (1 - Q) * np.log(1 - sigmoid(X))),
    ),
    "kl": (lambda **k: F.kl_div(t(X), t(Q), **k), Q * (np.log(Q) - X)),
    "kl of logs": (lambda **k: F.kl_div(t(X), t(Y), log_target=True, **k), np.exp(Y) * (Y - X)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss(name):
    loss, right = LOSSES[name]
    close(loss(reduction="none"), right)
    close(loss(), right.mean())
    close(loss(reduction="sum"), right.sum())
    with pytest.raises(ValueError, match="got reduction 'max', expected 'none', 'mean' or 'sum'"):
        loss(reduction="max")


def test_old_reductions():
    close(F.mse_loss(t(X), t(Y), size_average=False), ((X - Y) ** 2).sum())
    close(F.mse_loss(t(X), t(Y), size_average=True, reduction="sum"), ((X - Y) ** 2).mean())
    close(F.mse_loss(t(X), t(Y), reduce=False), (X - Y) ** 2)
    close(F.kl_div(t(X), t(Q), reduction="batchmean"), (Q * (np.log(Q) - X)).sum() / 4)


def test_bce_stays_finite_at_its_ends():
    x = t([0.0, 0.0, 1.0, 1.0], dtype=mg.float64, requires_grad=True)
    loss = F.binary_cross_entropy(x, t([0.0, 1.0, 0.0, 1.0], dtype=mg.float64), reduction="none")
    close(loss, [0.0, 100.0, 100.0, 0.0])
    (gradient,) = mg.autograd.grad(loss.sum(), x, create_graph=True)
    close(gradient, [0.0, -1e12, 1e12, 0.0])
    assert np.isfinite(host(mg.autograd.grad(gradient.sum(), x)[0])).all()


def test_bce_with_logits_is_exact_far_out():
    x = t([-50.0, -1000.0, 50.0, 1000.0, 0.0], dtype=mg.float64, requires_grad=True)
    zeros, ones = mg.zeros_like(x), mg.ones_like(x)
    loss = F.binary_cross_entropy_with_logits(x, zeros, reduction="none")
    close(loss, [math.exp(-50), 0, 50, 1000, math.log(2)], 1e-300 + 1e-15)
    np.testing.assert_allclose(host(loss)[0], math.exp(-50), rtol=1e-12)
    (gradient,) = mg.autograd.grad(F.binary_cross_entropy_with_logits(x, ones, reduction="sum"), x)
    close(gradient, [-1, -1, -math.exp(-50), 0, -0.5])


def class_losses(logp, target, weight, ignored, smoothing):
    """The loss and the weight of each target, one after the other."""
    losses, weights = [], []
    count = logp.shape[1]
    for n, *place in np.ndindex(*target.shape):
        c = target[(n, *place)]
        row = -logp[(n, slice(None), *place)] * weight
        keep = c != ignored
        losses.append(((1 - smoothing) * row[c] + smoothing / count * row.sum()) * keep)
        weights.append(weight[c] * keep)
    return np.reshape(losses, target.shape), np.sum(weights)


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2), (2, 3, 2, 3)])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(shape, smoothing, weighted):
    x = normal(*shape)
    target = np.random.default_rng(0).integers(0, 3, (shape[0], *shape[2:]))
    weight = uniform(3) if weighted else np.ones(3)
    w = t(weight) if weighted else None
    logp = x - np.log(np.exp(x).sum(1, keepdims=True))
    for ignored in (-100, 1):
        right, total = class_losses(logp, target, weight, ignored, smoothing)
        options = {"weight": w, "ignore_index": ignored, "label_smoothing": smoothing}
        close(F.cross_entropy(t(x), t(target), reduction="none", **options), right)
        close(F.cross_entropy(t(x), t(target), reduction="sum", **options), right.sum())
        close(F.cross_entropy(t(x), t(target), **options), right.sum() / total)
        if not smoothing:
            close(F.nll_loss(t(logp), t(target), w, ignore_index=ignored), right.sum() / total)
    soft = uniform(*shape)
    mixed = soft * (1 - smoothing) + smoothing / 3
    right = -(mixed * logp * per_channel(weight, len(shape))).sum(1)
    close(F.cross_entropy(t(x), t(soft), w, reduction="none", label_smoothing=smoothing), right)
    close(F.cross_entropy(t(x), t(soft), w, label_smoothing=smoothing), right.mean())


def test_cross_entropy_of_one_sample():
    x = normal(3)
    close(F.cross_entropy(t(x), t(2)), np.log(np.exp(x).sum()) - x[2])
    assert math.isnan(F.cross_entropy(t(x), t(-100)).item())  # a mean over nothing
    ignored = F.nll_loss(t([[-math.inf, 0.0], [0.0, 0.0]]), t([0, 1]), ignore_index=0, reduction="sum")
    assert ignored.item() == 0.0


ERRORS = [
    (lambda: F.binary_cross_entropy(z(2) + 1.5, z(2)), RuntimeError, "between 0 and 1"),
    (lambda: F.binary_cross_entropy(z(2) * math.nan, z(2)), RuntimeError, "between 0 and 1"),
    (lambda: F.binary_cross_entropy(z(2, 1), z(2)), ValueError, r"\(2, 1\) and target of shape \(2,\)"),
    (lambda: F.binary_cross_entropy_with_logits(z(2, 1), z(2)), ValueError, "expected the same shape"),
    (lambda: F.mse_loss(z(2), z(3)), RuntimeError, r"mse_loss: got input of shape \(2,\) and target of shape \(3,\)"),
    (lambda: F.mse_loss(z(2), z(2, dtype=mg.float64)), RuntimeError, "float32, float64"),
    (lambda: F.cross_entropy(z(2, 3), mg.tensor([3, 0])), IndexError, "target 3 is out of bounds: expected 0 to 2"),
    (lambda: F.cross_entropy(z(2, 3), mg.tensor([0, 0, 0])), ValueError, r"int64 target of shape \(3,\)"),
    (lambda: F.cross_entropy(z(2, 3), z(2)), RuntimeError, r"float32 target of shape \(2,\)"),
    (lambda: F.cross_entropy(z(2, 3), mg.tensor([0, 1]), z(4)), RuntimeError, r"weight of shape \(4,\), expected"),
    (lambda: F.nll_loss(z(2, 3), z(2)), RuntimeError, "classes of dtype float32"),
]  # fmt: skip


def test_classes_of_short_integers_and_none_at_all():
    x, weight = t([[1.0, 2.0, 4.0], [3.0, 5.0, 1.0]]), t([1.0, 2.0, 3.0])
    right = F.cross_entropy(x, t([2, 0]), weight)
    for dtype in (mg.uint8, mg.int32):
        assert F.cross_entropy(x, t([2, 0]).to(dtype), weight).item() == right.item()
    assert F.cross_entropy(t(np.zeros((0, 0))), t(np.zeros(0, np.int64)), reduction="none").shape == (0,)


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS)
def test_misuse(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_broadcast_targets_are_pointed_out():
    with pytest.warns(UserWarning, match=r"l1_loss: got input of shape \(2, 1\) and target of shape \(2,\)"):
        F.l1_loss(z(2, 1), z(2))

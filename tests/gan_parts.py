"""Tiny networks, data and losses, right and wrong, for the training loops of gan_loops.py."""

import numpy as np

import minigan as mg
from minigan import nn, optim
from minigan.nn import functional as F

N, Z = 16, 6


def images(n=N):
    """Blobs in [-1, 1] on 8×8 pixels: neighbours are alike, most pixels are background."""
    rng = np.random.default_rng(mg.randint(0, 2**31, (1,)).item())
    y, x = np.mgrid[:8, :8]
    cy, cx = rng.uniform(2, 6, (2, n, 1, 1))
    blobs = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 4) * 2 - 1
    return mg.tensor(blobs[:, None].astype(np.float32))


def ring(n=N):
    """Points on the unit circle."""
    angle = mg.randint(0, 8, (n,)) * (2 * np.pi / 8)
    return mg.stack([angle.cos(), angle.sin()], 1) + 0.01 * mg.randn(n, 2)


class ConvG(nn.Module):
    def __init__(self, norm=nn.BatchNorm2d, last=nn.Tanh, classes=0):
        super().__init__()
        self.classes = classes
        self.embed = nn.Embedding(classes, Z) if classes else None
        self.main = nn.Sequential(
            nn.Linear(Z, 64), nn.Unflatten(1, (16, 2, 2)), norm(16), nn.ReLU(True),
            nn.ConvTranspose2d(16, 8, 4, 2, 1), norm(8), nn.ReLU(True), nn.ConvTranspose2d(8, 1, 4, 2, 1), last(),
        )  # fmt: skip

    def forward(self, z, labels=None):
        return self.main(z if self.embed is None else z * self.embed(labels))


class ConvD(nn.Module):
    def __init__(self, norm=nn.BatchNorm2d, last=nn.Identity, classes=0, dropout=0.0):
        super().__init__()
        self.embed = nn.Embedding(classes, 64) if classes else None
        self.main = nn.Sequential(
            nn.Conv2d(2 if classes else 1, 8, 4, 2, 1), nn.LeakyReLU(0.2, True), nn.Conv2d(8, 16, 4, 2, 1), norm(16),
            nn.LeakyReLU(0.2, True), nn.Dropout(dropout), nn.Flatten(), nn.Linear(64, 1), last(),
        )  # fmt: skip

    def forward(self, x, labels=None):
        if self.embed is not None:
            x = mg.cat([x, self.embed(labels).view(-1, 1, 8, 8)], 1)
        return self.main(x)


def PointG():
    return nn.Sequential(nn.Linear(Z, 32), nn.ReLU(), nn.Linear(32, 2))


def PointD(last=nn.Identity):
    return nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1), last())


def plain(channels):
    return nn.Identity()


def bce(logits, target):
    return F.binary_cross_entropy_with_logits(logits, mg.full_like(logits, target))


class Logistic:
    d = staticmethod(lambda r, f: bce(r, 1.0) + bce(f, 0.0))
    g = staticmethod(lambda f: bce(f, 1.0))
    wrong = staticmethod(lambda f: bce(f, 0.0))


class Smooth(Logistic):
    d = staticmethod(lambda r, f: (bce(r, 0.9) + bce(f, 0.0)) / 2)


class Swapped(Logistic):
    d = staticmethod(lambda r, f: bce(r, 0.0) + bce(f, 1.0))
    g = staticmethod(lambda f: bce(f, 0.0))
    wrong = staticmethod(lambda f: bce(f, 1.0))


class Minimax(Logistic):
    g = staticmethod(lambda f: (1 - f.sigmoid()).log().mean())
    wrong = staticmethod(lambda f: -(1 - f.sigmoid()).log().mean())


class Probabilities:
    """For a D that ends in a sigmoid."""

    d = staticmethod(
        lambda r, f: F.binary_cross_entropy(r, mg.ones_like(r)) + F.binary_cross_entropy(f, mg.zeros_like(f))
    )
    g = staticmethod(lambda f: F.binary_cross_entropy(f, mg.ones_like(f)))
    wrong = staticmethod(lambda f: F.binary_cross_entropy(f, mg.zeros_like(f)))


class Softplus:
    d = staticmethod(lambda r, f: F.softplus(-r).mean() + F.softplus(f).mean())
    g = staticmethod(lambda f: F.softplus(-f).mean())
    wrong = staticmethod(lambda f: F.softplus(f).mean())


class Hinge:
    d = staticmethod(lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean())
    g = staticmethod(lambda f: -f.mean())
    wrong = staticmethod(lambda f: f.mean())


class HingeByMin(Hinge):
    d = staticmethod(lambda r, f: -mg.min(r - 1, mg.zeros_like(r)).mean() - mg.minimum(-f - 1, mg.zeros_like(f)).mean())


class Wasserstein(Hinge):
    d = staticmethod(lambda r, f: f.mean() - r.mean())


class LowForReal:
    """Wasserstein with the other sign, as some scripts have it."""

    d = staticmethod(lambda r, f: r.mean() - f.mean())
    g = staticmethod(lambda f: f.mean())
    wrong = staticmethod(lambda f: -f.mean())


class LeastSquares:
    d = staticmethod(lambda r, f: ((r - 1) ** 2).mean() + (f**2).mean())
    g = staticmethod(lambda f: F.mse_loss(f, mg.ones_like(f)))
    wrong = staticmethod(lambda f: F.mse_loss(f, mg.zeros_like(f)))


LOSSES = [
    Logistic, Smooth, Swapped, Minimax, Softplus, Hinge, HingeByMin, Wasserstein, LowForReal, LeastSquares,
]  # fmt: skip


def adam(network):
    return optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999))

"""The default: drawn digits, the best pictures that two minutes on two cores give.

Not from a paper; chosen by measurement (docs/results.md). Small networks at a high rate (Adam 2e-3 with β₁ = 0), held
by the R1 penalty at every fourth step (Mescheder and others, 2018): many cheap steps beat few of a larger network. A
fully connected layer in each network does most for the pictures; by the minibatch deviation (Karras and others, 2018)
D would see a collapse; the moving average of G is what is sampled.
"""

from __future__ import annotations

from minigan import nn
from minigan.gan.recipes.dcgan import ConvSettings, packed
from minigan.gan.settings import SettingsError
from minigan.gan.tricks import MinibatchStd

defaults = ConvSettings(
    recipe="glyphs", data="glyphs", size=28, steps=2500, batch=64, latent=64, width=24,
    loss="non-saturating", penalty="r1", penalty_weight=1.0, penalty_every=4,
    g_lr=2e-3, d_lr=2e-3, beta1=0.0, beta2=0.99, lr_decay=0.9, ema=0.995,
    log_every=25, sample_every=250, score_every=500, checkpoint_every=250,
)  # fmt: skip


def networks(settings: ConvSettings, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    """G and D for images whose sides are multiples of 4."""
    _, height, width = shape
    if height % 4 or width % 4:
        raise SettingsError(f"glyphs: images of {height}×{width}; height and width should be multiples of 4")
    n, places = settings.width, height // 4 * (width // 4)
    G = nn.Sequential(
        nn.Linear(settings.latent, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU(),
        nn.Linear(256, 2 * n * places, bias=False), nn.Unflatten(1, (2 * n, height // 4, width // 4)),
        nn.BatchNorm2d(2 * n), nn.ReLU(),
        nn.ConvTranspose2d(2 * n, n, 4, 2, 1, bias=False), nn.BatchNorm2d(n), nn.ReLU(),
        nn.ConvTranspose2d(n, shape[0], 4, 2, 1), nn.Tanh(),
    )  # fmt: skip
    D = nn.Sequential(
        nn.Conv2d(packed(shape, settings.pack)[0], n, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(n, 2 * n, 4, 2, 1), nn.LeakyReLU(0.2),
        MinibatchStd(4), nn.Flatten(),
        nn.Linear((2 * n + 1) * places, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1),
    )  # fmt: skip
    return G, D

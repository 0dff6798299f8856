"""A fully connected G against a convolutional D: the smallest pair that draws digits.

G 128-128-pixels with LeakyReLU and a sigmoid at the end; D two 5×5 convolutions of stride 2 with 64 and 128
channels, and one linear map. Not from a paper: a first network to take apart. Without the R1 penalty
G collapses: after 1200 steps its samples are 3% as far from each other as real ones.
"""

from __future__ import annotations

from minigan import nn
from minigan.gan.recipes.dcgan import packed
from minigan.gan.recipes.mlp import image_generator, mlp
from minigan.gan.settings import Settings

defaults = Settings(
    recipe="mlp-conv", data="glyphs", size=28, steps=5000, batch=64, latent=64,
    loss="non-saturating", penalty="r1", penalty_weight=1.0, g_lr=1e-3, d_lr=1e-3, beta1=0.0, beta2=0.99,
)  # fmt: skip


def networks(settings: Settings, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    """G and D for samples of this shape."""
    G = image_generator([*mlp([settings.latent, 128, 128], nn.LeakyReLU), nn.LeakyReLU()], 128, shape)
    channels, height, width = packed(shape, settings.pack)
    D = nn.Sequential(
        nn.Conv2d(channels, 64, 5, 2, 2), nn.LeakyReLU(0.2),
        nn.Conv2d(64, 128, 5, 2, 2), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(128 * -(-height // 4) * -(-width // 4), 1),
    )  # fmt: skip
    return G, D

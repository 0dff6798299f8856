"""WGAN-GP: a critic held to slope one by a penalty on its gradient between real and fake samples.

Gulrajani and others, 2017, "Improved training of Wasserstein GANs": λ = 10, one uniform α per sample, Adam 1e-4 with
β = (0.5, 0.9), five critic steps. The penalty is each sample's own, so the critic has no BatchNorm, which would
tie samples together, but InstanceNorm.
"""

from __future__ import annotations

from minigan.gan.recipes import dcgan
from minigan.nn import Module

defaults = dcgan.ConvSettings(
    recipe="wgan-gp", data="glyphs", size=32, steps=5000, batch=64, latent=100,
    loss="wasserstein", penalty="wgan-gp", penalty_weight=10.0, n_critic=5,
    g_lr=1e-4, d_lr=1e-4, beta1=0.5, beta2=0.9, width=64,
)  # fmt: skip


def networks(settings: dcgan.ConvSettings, shape: tuple[int, ...]) -> tuple[Module, Module]:
    """G and D for samples of this shape."""
    G = dcgan.generator(settings.latent, shape, settings.width)
    return G, dcgan.discriminator(dcgan.packed(shape, settings.pack), settings.width, norm="instance")

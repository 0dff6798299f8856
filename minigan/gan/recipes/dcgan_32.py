"""DCGAN for 32×32: one level fewer than the paper's; G 100→256→128→64, D 64→128→256→1.

Radford, Metz and Chintala, 2016, "Unsupervised representation learning with deep convolutional GANs"; sizes and
4×4 kernels as in PyTorch's example. BatchNorm in both, but at G's output and D's input.
"""

from __future__ import annotations

from minigan.gan.recipes import dcgan
from minigan.nn import Module

defaults = dcgan.ConvSettings(
    recipe="dcgan-32", data="glyphs", size=32, steps=5000, batch=64, latent=100,
    loss="non-saturating", g_lr=2e-4, d_lr=2e-4, beta1=0.5, width=64,
)  # fmt: skip


def networks(settings: dcgan.ConvSettings, shape: tuple[int, ...]) -> tuple[Module, Module]:
    """G and D for samples of this shape."""
    G = dcgan.generator(settings.latent, shape, settings.width)
    return G, dcgan.discriminator(dcgan.packed(shape, settings.pack), settings.width)

"""Hinge loss and spectral normalisation: D's layers are divided by their largest singular values.

Miyato and others, 2018, "Spectral normalization for generative adversarial networks" (and the hinge loss they used):
Adam 2e-4 with β = (0.5, 0.999), no norm but the spectral one in D. The networks are DCGAN's.
"""

from __future__ import annotations

from dataclasses import replace

from minigan.gan.recipes import dcgan, dcgan_32
from minigan.nn import Module

defaults = replace(dcgan_32.defaults, recipe="hinge-sn", loss="hinge", spectral_norm=True)


def networks(settings: dcgan.ConvSettings, shape: tuple[int, ...]) -> tuple[Module, Module]:
    """G and D for samples of this shape; the spectral norm is put on by the trainer."""
    G = dcgan.generator(settings.latent, shape, settings.width)
    return G, dcgan.discriminator(dcgan.packed(shape, settings.pack), settings.width, norm="")

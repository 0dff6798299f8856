"""WGAN: a critic with clipped weights estimates the Wasserstein distance.

Arjovsky, Chintala and Bottou, 2017. No sigmoid; RMSprop 5e-5; weights clamped to ± 0.01; five critic steps for one
of G, 100 in the first 25 and in every 500th. The networks are DCGAN's.
"""

from __future__ import annotations

from minigan.gan.recipes import dcgan, dcgan_32

defaults = dcgan.ConvSettings(
    recipe="wgan", data="glyphs", size=32, steps=5000, batch=64, latent=100,
    loss="wasserstein", clip_weights=0.01, n_critic=5, critic_warmup=25,
    optimizer="rmsprop", g_lr=5e-5, d_lr=5e-5, width=64,
)  # fmt: skip
networks = dcgan_32.networks

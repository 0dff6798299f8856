"""LSGAN: least squares instead of cross-entropy, so that samples far on the right side still get a gradient.

Mao and others, 2017, "Least squares generative adversarial networks": targets 0 and 1 for D, 1 for G; Adam 2e-4 with
β₁ = 0.5. The networks are DCGAN's.
"""

from __future__ import annotations

from dataclasses import replace

from minigan.gan.recipes import dcgan_32

defaults = replace(dcgan_32.defaults, recipe="lsgan", loss="least-squares")
networks = dcgan_32.networks

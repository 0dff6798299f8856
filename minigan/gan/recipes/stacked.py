"""Stacked glyphs: three digits as the channels of one image, a thousand modes to cover.

After Srivastava and others, 2017 (VEEGAN), and Lin and others, 2018 (PacGAN), with drawn digits in place of MNIST's:
DCGAN's networks, D judging two samples at once.
"""

from __future__ import annotations

from dataclasses import replace

from minigan.gan.recipes import dcgan_32

defaults = replace(dcgan_32.defaults, recipe="stacked", data="stacked", pack=2)
networks = dcgan_32.networks

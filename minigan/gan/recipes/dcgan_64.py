"""DCGAN for 64×64: G 100→512→256→128→64, D 64→128→256→512→1.

Radford, Metz and Chintala, 2016, "Unsupervised representation learning with deep convolutional GANs"; sizes and
4×4 kernels as in PyTorch's example (the authors had 5×5 kernels, twice the width and batches of 128). Meant for a
folder of photographs: `minigan train dcgan-64 --data path/to/images`.
"""

from __future__ import annotations

from dataclasses import replace

from minigan.gan.recipes import dcgan_32

defaults = replace(dcgan_32.defaults, recipe="dcgan-64", size=64, steps=25_000)
networks = dcgan_32.networks  # one level deeper, because the images are twice as large

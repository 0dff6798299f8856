"""Twenty-five Gaussians on a 5×5 grid: as the ring, with more modes to lose.

Lin and others, 2018, "PacGAN": modes at {-4, -2, 0, 2, 4}², σ = 0.05. Networks as in the recipe `ring`.
"""

from __future__ import annotations

from dataclasses import replace

from minigan.gan.recipes import ring

defaults = replace(ring.defaults, recipe="grid", data="grid", steps=12_000)
networks = ring.networks

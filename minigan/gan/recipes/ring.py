"""Eight Gaussians on a ring: the smallest problem on which a GAN loses modes.

`networks=quick`: MLPs of LeakyReLU, trained with the R1 penalty: what we found best (G is deep because the map must be
steep: whatever it puts between two modes is lost). `networks=unrolled`: the demo of Metz and others, 2017, two layers
of 128 tanh units. `networks=pacgan`: Lin and others, 2018, G 4×400 BatchNorm ReLU, D 3×200 maxout. The published
failure is the experiment `ring-plain` of bench/recipes.py, its figures are in docs/results.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from minigan import nn
from minigan.gan.recipes.mlp import Maxout, mlp
from minigan.gan.settings import Settings, setting


@dataclass(frozen=True)
class PointSettings(Settings):
    """What the recipes for points of the plane add."""

    networks: str = setting("quick", "which protocol's networks", choices=("quick", "unrolled", "pacgan"))
    width: int = setting(128, "units in each hidden layer of the quick networks", low=1)


defaults = PointSettings(
    recipe="ring", data="ring", steps=6000, batch=256, latent=2,
    loss="non-saturating", penalty="r1", penalty_weight=0.1,
    g_lr=2e-3, d_lr=2e-3, beta1=0.0, beta2=0.99, lr_decay=1.0, ema=0.99,
    log_every=50, sample_every=1000, checkpoint_every=1000,
)  # fmt: skip


def networks(settings: PointSettings, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    """G and D for points."""
    latent, point, judged = settings.latent, shape[0], shape[0] * settings.pack
    if settings.networks == "pacgan":
        G = mlp([latent, 400, 400, 400, 400, point], norm=True)
        D = [Maxout(judged, 200), Maxout(200, 200), Maxout(200, 200), nn.Linear(200, 1)]
    elif settings.networks == "unrolled":
        G, D = mlp([latent, 128, 128, point], nn.Tanh), mlp([judged, 128, 128, 1], nn.Tanh)
    else:
        width = settings.width
        G = mlp([latent, *[width] * 5, point], Leaky)
        D = mlp([judged, *[width] * 3, 1], Leaky)
    return nn.Sequential(*G), nn.Sequential(*D)


class Leaky(nn.LeakyReLU):
    """With a slope of 0.2, as GANs have it."""

    def __init__(self) -> None:
        super().__init__(0.2)

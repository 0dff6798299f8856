"""The first GAN: two fully connected networks, D with maxout and dropout.

Goodfellow and others, 2014, "Generative adversarial nets", as their published code has it: z uniform, G 1200-1200 ReLU
with a sigmoid at the end, D two maxout layers of 240 units with dropout (0.2 of the inputs, half of the hidden),
weights from U(-0.05, 0.05) in G and U(-0.005, 0.005) in D, SGD 0.1 with momentum 0.5, batches of 100. Their rate
falls by a factor of 1.000004 a step and the momentum rises to 0.7; here the rate falls linearly.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from minigan import nn
from minigan.gan.recipes.mlp import Maxout, image_generator, mlp
from minigan.gan.settings import Settings, setting


@dataclass(frozen=True)
class GANSettings(Settings):
    """What this recipe adds."""

    width: int = setting(1200, "units in each of G's two hidden layers", low=1)
    units: int = setting(240, "maxout units in each of D's two hidden layers", low=1)


defaults = GANSettings(
    recipe="gan", data="glyphs", size=28, steps=20_000, batch=100, latent=100, latents="uniform",
    loss="non-saturating", optimizer="sgd", g_lr=0.1, d_lr=0.1, beta1=0.5, lr_decay=0.9,
)  # fmt: skip


def networks(settings: GANSettings, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    """G and D for samples of this shape."""
    width, units = settings.width, settings.units
    G = image_generator([*mlp([settings.latent, width, width]), nn.ReLU()], width, shape)
    D = nn.Sequential(
        nn.Flatten(),
        nn.Dropout(0.2), Maxout(prod(shape) * settings.pack, units),
        nn.Dropout(0.5), Maxout(units, units),
        nn.Dropout(0.5), nn.Linear(units, 1),
    )  # fmt: skip
    for network, bound in ((G, 0.05), (D, 0.005)):
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                nn.init.uniform_(layer.weight, -bound, bound)
                nn.init.zeros_(layer.bias)
    return G, D

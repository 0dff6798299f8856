"""The networks of DCGAN (Radford, Metz and Chintala, 2016) in PyTorch's form, for images of 4·2ⁿ pixels.

4×4 kernels, stride 2, every layer doubles (or halves) the image. Shared by the recipes that train these networks
in other ways; weights start from N(0, 0.02²), the norms' gains from N(1, 0.02²).
"""

from __future__ import annotations

from dataclasses import dataclass

from minigan import nn
from minigan.gan.settings import Settings, SettingsError, setting


@dataclass(frozen=True)
class ConvSettings(Settings):
    """What a convolutional recipe adds."""

    width: int = setting(64, "channels of the layer next to the image; doubled towards the latent", low=1)


def generator(latent: int, shape: tuple[int, ...], width: int) -> nn.Sequential:
    """latent → 4×4 → … → shape: transposed convolutions with BatchNorm and ReLU, Tanh at the end."""
    channels, levels = shape[0], _levels(shape)
    outer = width * 2 ** (levels - 1)
    layers: list[nn.Module] = [nn.Unflatten(1, (latent, 1, 1))]
    layers += [nn.ConvTranspose2d(latent, outer, 4, 1, 0, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]
    while outer > width:
        layers += [nn.ConvTranspose2d(outer, outer // 2, 4, 2, 1, bias=False), nn.BatchNorm2d(outer // 2), nn.ReLU()]
        outer //= 2
    layers += [nn.ConvTranspose2d(outer, channels, 4, 2, 1, bias=False), nn.Tanh()]
    return nn.Sequential(*layers).apply(initialize)


def discriminator(shape: tuple[int, ...], width: int, norm: str = "batch") -> nn.Sequential:
    """shape → … → 4×4 → one logit: convolutions with LeakyReLU; `norm` is "batch", "instance", "layer" or ""."""
    outer = width
    layers: list[nn.Module] = [nn.Conv2d(shape[0], outer, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for _ in range(_levels(shape) - 1):
        layers.append(nn.Conv2d(outer, 2 * outer, 4, 2, 1, bias=norm != "batch"))
        outer *= 2
        layers += [*_norm(norm, outer), nn.LeakyReLU(0.2)]
    layers += [nn.Conv2d(outer, 1, 4, 1, 0, bias=False), nn.Flatten()]
    return nn.Sequential(*layers).apply(initialize)


def initialize(module: nn.Module) -> None:
    """DCGAN's first weights, for `Module.apply`."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def packed(shape: tuple[int, ...], pack: int) -> tuple[int, ...]:
    """What D is given when it judges `pack` samples at once: their channels side by side."""
    return (shape[0] * pack, *shape[1:])


def _levels(shape: tuple[int, ...]) -> int:
    """How many times 4×4 doubles to the image's size."""
    size = shape[-1]
    if len(shape) != 3 or shape[1] != size or size < 8 or size & (size - 1):
        raise SettingsError(
            f"this recipe's images are square with 8, 16, 32, 64, … pixels a side; the data has shape {shape}: "
            "give --set size=32 (or another power of two), or take a recipe for that shape (minigan recipes)"
        )
    return size.bit_length() - 3


def _norm(norm: str, channels: int) -> list[nn.Module]:
    if norm == "batch":
        return [nn.BatchNorm2d(channels)]
    if norm == "instance":
        return [nn.InstanceNorm2d(channels, affine=True)]
    return [nn.GroupNorm(1, channels)] if norm == "layer" else []

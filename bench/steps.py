"""Five training steps of GANs, the same code for minigan and PyTorch.

A step trains D (or a critic) once and G once, on a fixed batch of real samples and fresh latents: `STEPS` has them by
name, `WAYS` the ways in which `bench.cpu` has each library take them. Adam is each library's own, as it comes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Networks = tuple[Any, Any]


# Networks ------------------------------------------------------------------------------------------


def dcgan(nn: Any, widths: tuple[int, ...] = (512, 256, 128, 64), norm: str = "BatchNorm2d") -> Networks:
    """Generator and discriminator of the DCGAN paper, for images of 4 · 2ⁿ with n widths; `norm` is D's."""
    layers = [nn.ConvTranspose2d(100, widths[0], 4, 1, 0, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    generator = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1, bias=False), nn.Tanh())
    layers = [nn.Conv2d(3, widths[-1], 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for a, b in zip(widths[::-1], widths[-2::-1], strict=False):
        layers += [nn.Conv2d(a, b, 4, 2, 1, bias=False), getattr(nn, norm)(b, affine=True), nn.LeakyReLU(0.2)]
    discriminator = nn.Sequential(*layers, nn.Conv2d(widths[0], 1, 4, 1, 0, bias=False), nn.Flatten(0))
    return generator, discriminator


def tutorial(nn: Any) -> Networks:
    """TensorFlow's DCGAN tutorial, 28 × 28: 5 × 5 kernels with its "same" padding (the recipe dcgan-28)."""

    class Crop(nn.Module):
        """Off with the row and the column by which the transpose of a "same" convolution is too large."""

        def forward(self, x: Any) -> Any:
            return x[:, :, :-1, :-1]

    generator = nn.Sequential(
        nn.Linear(100, 7 * 7 * 256, bias=False), nn.BatchNorm1d(7 * 7 * 256), nn.LeakyReLU(0.3),
        nn.Unflatten(1, (256, 7, 7)),
        nn.ConvTranspose2d(256, 128, 5, 1, 2, bias=False), nn.BatchNorm2d(128), nn.LeakyReLU(0.3),
        nn.ConvTranspose2d(128, 64, 5, 2, 1, bias=False), Crop(), nn.BatchNorm2d(64), nn.LeakyReLU(0.3),
        nn.ConvTranspose2d(64, 1, 5, 2, 1, bias=False), Crop(), nn.Tanh(),
    )  # fmt: skip
    discriminator = nn.Sequential(
        nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(1, 64, 5, 2), nn.LeakyReLU(0.3), nn.Dropout(0.3),
        nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(64, 128, 5, 2), nn.LeakyReLU(0.3), nn.Dropout(0.3),
        nn.Flatten(), nn.Linear(7 * 7 * 128, 1), nn.Flatten(0),
    )  # fmt: skip
    return generator, discriminator


def perceptrons(nn: Any) -> Networks:
    """`gan.py` of the PyTorch-GAN collection: layers of neurons only."""
    layers = [nn.Linear(100, 128), nn.LeakyReLU(0.2)]
    for a, b in ((128, 256), (256, 512), (512, 1024)):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b, 0.8), nn.LeakyReLU(0.2)]
    generator = nn.Sequential(*layers, nn.Linear(1024, 784), nn.Tanh())
    discriminator = nn.Sequential(
        nn.Linear(784, 512), nn.LeakyReLU(0.2), nn.Linear(512, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1), nn.Flatten(0)
    )
    return generator, discriminator


# Steps ---------------------------------------------------------------------------------------------


class Training:
    """Both networks in training with the usual losses; each call is one step, and returns D's loss and G's.

    `losses()` is a step, too, but leaves them on the device: the terms of D's loss, then G's.

    `frozen`: D's parameters require no gradient while G learns, which says that its weight gradients are not wanted.
    Without, minigan is told by `backward(inputs=...)`; PyTorch computes them, as most of its users' scripts let it,
    and they are dropped before D learns again.
    """

    rate, betas = 2e-4, (0.5, 0.999)

    def __init__(
        self, lib: Any, networks: Networks, sample: tuple[int, ...], latent: tuple[int, ...], batch: int,
        channels_last: bool, frozen: bool,
    ) -> None:  # fmt: skip
        self.lib, self.frozen, self.latent = lib, frozen, (batch, *latent)
        self.generator, self.discriminator = networks
        self.real = lib.randn(batch, *sample)
        if channels_last:
            self.generator.to(memory_format=lib.channels_last)
            self.discriminator.to(memory_format=lib.channels_last)
            self.real = self.real.to(memory_format=lib.channels_last)
        self.g_adam = lib.optim.Adam(self.generator.parameters(), lr=self.rate, betas=self.betas)
        self.d_adam = lib.optim.Adam(self.discriminator.parameters(), lr=self.rate, betas=self.betas)
        self.ones, self.zeros = lib.ones(batch), lib.zeros(batch)
        self.bce = lib.nn.BCEWithLogitsLoss()
        self.randn, self.rand = lib.randn, lib.rand  # where a test gives both libraries the same numbers

    def __call__(self) -> tuple[float, float]:
        *of_d, of_g = self.losses()
        return sum(loss.item() for loss in of_d), of_g.item()

    def losses(self) -> tuple[Any, ...]:
        fake = self.generator(self.randn(*self.latent))
        self.d_adam.zero_grad()
        on_real = self.bce(self.discriminator(self.real), self.ones)
        on_real.backward()
        on_fake = self.bce(self.discriminator(fake.detach()), self.zeros)
        on_fake.backward()
        self.d_adam.step()
        g_loss = self.teach_generator(lambda: self.bce(self.discriminator(fake), self.ones))
        return on_real, on_fake, g_loss

    def teach_generator(self, loss_of: Callable[[], Any]) -> Any:
        """One step of G on the loss that `loss_of` finds."""
        self.g_adam.zero_grad()
        with self.held():
            loss = loss_of()
            if self.frozen or self.lib.__name__ == "torch":
                loss.backward()
            else:
                loss.backward(inputs=list(self.generator.parameters()))
        self.g_adam.step()
        return loss

    @contextmanager
    def held(self) -> Iterator[None]:
        """D's parameters require no gradient inside, if that is the way."""
        parameters = list(self.discriminator.parameters()) if self.frozen else []
        for p in parameters:
            p.requires_grad_(False)
        yield
        for p in parameters:
            p.requires_grad_(True)


class Wasserstein(Training):
    """WGAN-GP: the critic's slope is held to 1 by a penalty, whose gradient is a gradient's gradient."""

    rate, betas = 1e-4, (0.0, 0.9)

    def losses(self) -> tuple[Any, ...]:
        critic, lib = self.discriminator, self.lib
        with lib.no_grad():  # a critic learns several times for each time of G, from samples of its own
            fake = self.generator(self.randn(*self.latent))
        self.d_adam.zero_grad()
        loss = critic(fake).mean() - critic(self.real).mean() + 10 * self.penalty(fake)
        loss.backward()
        self.d_adam.step()
        g_loss = self.teach_generator(lambda: -critic(self.generator(self.randn(*self.latent))).mean())
        return loss, g_loss

    def penalty(self, fake: Any) -> Any:
        """E(‖∇D‖ - 1)² between real and fake samples."""
        alpha = self.rand(len(fake), 1, 1, 1)
        between = (alpha * self.real + (1 - alpha) * fake).requires_grad_()
        (slopes,) = self.lib.autograd.grad(self.discriminator(between).sum(), between, create_graph=True)
        return (slopes.flatten(1).norm(2, dim=1) - 1).square().mean()


def dcgan64(lib: Any, batch: int, channels_last: bool = False, frozen: bool = False) -> Training:
    """DCGAN, 64 × 64 (z 100 → 512 → 256 → 128 → 64 → 3, and back to one logit)."""
    return Training(lib, dcgan(lib.nn), (3, 64, 64), (100, 1, 1), batch, channels_last, frozen)


def dcgan32(lib: Any, batch: int, channels_last: bool = False, frozen: bool = False) -> Training:
    """DCGAN, 32 × 32 (z 100 → 256 → 128 → 64 → 3)."""
    return Training(lib, dcgan(lib.nn, (256, 128, 64)), (3, 32, 32), (100, 1, 1), batch, channels_last, frozen)


def dcgan28(lib: Any, batch: int, channels_last: bool = False, frozen: bool = False) -> Training:
    """TensorFlow's tutorial, 28 × 28, 5 × 5 kernels, with dropout."""
    return Training(lib, tutorial(lib.nn), (1, 28, 28), (100,), batch, channels_last, frozen)


def wgan_gp(lib: Any, batch: int, channels_last: bool = False, frozen: bool = False) -> Training:
    """WGAN-GP on DCGAN's 32 × 32 networks, instance norm in the critic."""
    networks = dcgan(lib.nn, (256, 128, 64), "InstanceNorm2d")
    return Wasserstein(lib, networks, (3, 32, 32), (100, 1, 1), batch, channels_last, frozen)


def mlp(lib: Any, batch: int, channels_last: bool = False, frozen: bool = False) -> Training:
    """PyTorch-GAN's gan.py, 784 values; without images there is one layout only."""
    return Training(lib, perceptrons(lib.nn), (784,), (100,), batch, False, frozen)


@dataclass(frozen=True)
class Step:
    """What makes a step's function, the batch that it is timed with, and whether it has images."""

    make: Callable[..., Training]
    batch: int
    images: bool = True


STEPS = {
    "dcgan64": Step(dcgan64, 64), "dcgan32": Step(dcgan32, 64), "dcgan28": Step(dcgan28, 128),
    "wgan-gp": Step(wgan_gp, 64), "mlp": Step(mlp, 64, images=False),
}  # fmt: skip


@dataclass(frozen=True)
class Way:
    """A library, and how it is used."""

    label: str
    library: str
    channels_last: bool = False
    frozen: bool = False

    def step(self, name: str, batch: int) -> Training:
        """The step of this name, taken in this way."""
        return STEPS[name].make(importlib.import_module(self.library), batch, self.channels_last, self.frozen)


WAYS = {
    "minigan": Way("minigan", "minigan"),
    "minigan-frozen": Way("minigan, D frozen", "minigan", frozen=True),
    "torch": Way("PyTorch NCHW", "torch"),
    "torch-frozen": Way("PyTorch NCHW, D frozen", "torch", frozen=True),
    "torch-channels-last": Way("PyTorch channels_last", "torch", channels_last=True),
    "torch-channels-last-frozen": Way("PyTorch channels_last, D frozen", "torch", channels_last=True, frozen=True),
}
OURS = "minigan"  # the way that is compared with the best of PyTorch's

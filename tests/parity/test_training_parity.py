"""Whole trainings against PyTorch: one script run under both names, from the same weights and data.

In float64 losses, parameters, buffers and optimiser steps must stay within 1e-9 over 20 steps. The scripts are
written as public GAN code is.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: parity with it is not checked")

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import safetensors.torch
from peer import BOTH, assert_same_gradients, host

import minigan as mg

STEPS = 20


def same_weights(net: Any, seed: int) -> Any:
    """The network in float64, its state drawn from a seed; running statistics stay as they are."""
    random = np.random.default_rng(seed)
    T = mg if isinstance(net, mg.nn.Module) else torch
    net = net.double()
    state = {}
    for key, value in net.state_dict().items():
        shape = tuple(value.shape)
        if "running" in key or "batches" in key:
            state[key] = value
        elif key.endswith(("_u", "_v")):
            vector = random.normal(size=shape)
            state[key] = T.tensor(vector / np.linalg.norm(vector))
        else:
            state[key] = T.tensor(random.normal(0, 0.1, size=shape))
    net.load_state_dict(state)
    with T.no_grad():
        for module in net.modules():
            if "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None:
                module.weight += 1.0
    return net


def batches(shape: tuple[int, ...], seed: int = 0) -> Iterator[np.ndarray]:
    random = np.random.default_rng(seed)
    while True:
        yield random.normal(size=shape)


# The networks ----------------------------------------------------------------------------------------------------


def generator(T: Any, z: int = 16, width: int = 8) -> Any:
    """DCGAN for 32 × 32 images."""
    nn = T.nn
    layers = []
    for a, b, stride, padding in [(z, 4 * width, 1, 0), (4 * width, 2 * width, 2, 1), (2 * width, width, 2, 1)]:
        layers += [nn.ConvTranspose2d(a, b, 4, stride, padding, bias=False), nn.BatchNorm2d(b), nn.ReLU(True)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh())


def discriminator(T: Any, width: int = 8, norm: Any = None, wrap: Any = None) -> Any:
    """DCGAN for 32 × 32 images; `norm(channels, size)` makes a normalisation, `wrap` changes the convolutions."""
    nn = T.nn
    norm = norm or (lambda channels, size: nn.BatchNorm2d(channels))
    wrap = wrap or (lambda layer: layer)
    layers = [wrap(nn.Conv2d(3, width, 4, 2, 1)), nn.LeakyReLU(0.2, inplace=True)]
    for i in (1, 2):
        a, b = width * i, width * (i + 1)
        layers += [wrap(nn.Conv2d(a, b, 4, 2, 1, bias=False)), norm(b, 16 // 2**i), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, wrap(nn.Conv2d(3 * width, 1, 4, 1, 0)), nn.Flatten(0))


# The scripts -----------------------------------------------------------------------------------------------------


def dcgan(T: Any) -> tuple[list, list]:
    netG, netD = same_weights(generator(T), 1), same_weights(discriminator(T), 2)
    criterion = T.nn.BCEWithLogitsLoss()
    optimizerD = T.optim.Adam(netD.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizerG = T.optim.Adam(netG.parameters(), lr=2e-4, betas=(0.5, 0.999))
    losses = []
    images, noise = batches((8, 3, 32, 32), 1), batches((8, 16, 1, 1), 2)
    for _ in range(STEPS):
        netD.zero_grad()
        real = T.tensor(next(images))
        label = T.full((8,), 1.0, dtype=T.float64)
        errD_real = criterion(netD(real).view(-1), label)
        errD_real.backward()
        fake = netG(T.tensor(next(noise)))
        label.fill_(0.0)
        errD_fake = criterion(netD(fake.detach()).view(-1), label)
        errD_fake.backward()
        optimizerD.step()
        netG.zero_grad()
        label.fill_(1.0)
        errG = criterion(netD(fake).view(-1), label)
        errG.backward()
        optimizerG.step()
        losses.append((errD_real + errD_fake).item() + errG.item())
    return [netG, netD], losses


def gradient_penalty(T: Any, critic: Any, real: Any, fake: Any, alpha: Any) -> Any:
    interpolates = (alpha * real + (1 - alpha) * fake).requires_grad_(True)
    scores = critic(interpolates)
    gradients = T.autograd.grad(
        outputs=scores, inputs=interpolates, grad_outputs=T.ones_like(scores), create_graph=True, retain_graph=True,
        only_inputs=True,
    )[0]  # fmt: skip
    return ((gradients.view(gradients.size(0), -1).norm(2, dim=1) - 1) ** 2).mean()


def wgan_gp(T: Any, norm: str) -> tuple[list, list]:
    def make(channels, size):
        if norm == "instance":
            return T.nn.InstanceNorm2d(channels, affine=True)
        return T.nn.LayerNorm((channels, size, size)) if norm == "layer" else T.nn.GroupNorm(4, channels)

    netG, critic = same_weights(generator(T), 1), same_weights(discriminator(T, norm=make), 2)
    optimizerC = T.optim.Adam(critic.parameters(), lr=1e-4, betas=(0.0, 0.9))
    optimizerG = T.optim.Adam(netG.parameters(), lr=1e-4, betas=(0.0, 0.9))
    losses = []
    images, noise, mixing = batches((4, 3, 32, 32), 1), batches((4, 16, 1, 1), 2), np.random.default_rng(3)
    for _ in range(STEPS):
        for _ in range(2):
            real, z = T.tensor(next(images)), T.tensor(next(noise))
            with T.no_grad():
                fake = netG(z)
            alpha = T.tensor(mixing.uniform(size=(4, 1, 1, 1)))
            optimizerC.zero_grad()
            loss = critic(fake).mean() - critic(real).mean() + 10 * gradient_penalty(T, critic, real, fake, alpha)
            loss.backward()
            optimizerC.step()
        for p in critic.parameters():
            p.requires_grad = False
        optimizerG.zero_grad()
        loss_g = -critic(netG(T.tensor(next(noise)))).mean()
        loss_g.backward()
        optimizerG.step()
        for p in critic.parameters():
            p.requires_grad = True
        losses += [loss.item(), loss_g.item()]
    return [netG, critic], losses


def spectral_hinge(T: Any) -> tuple[list, list]:
    spectral_norm = T.nn.utils.parametrizations.spectral_norm
    netG = same_weights(generator(T), 1)
    netD = same_weights(discriminator(T, norm=lambda *_: T.nn.Identity(), wrap=spectral_norm), 2)
    F = T.nn.functional
    optimizerD = T.optim.Adam(netD.parameters(), lr=4e-4, betas=(0.0, 0.9))
    optimizerG = T.optim.Adam(netG.parameters(), lr=1e-4, betas=(0.0, 0.9))
    losses = []
    images, noise = batches((4, 3, 32, 32), 1), batches((4, 16, 1, 1), 2)
    for _ in range(STEPS):
        fake = netG(T.tensor(next(noise)))
        optimizerD.zero_grad(set_to_none=True)
        loss_d = F.relu(1.0 - netD(T.tensor(next(images)))).mean() + F.relu(1.0 + netD(fake.detach())).mean()
        loss_d.backward()
        optimizerD.step()
        optimizerG.zero_grad(set_to_none=True)
        loss_g = -netD(fake).mean()
        loss_g.backward()
        optimizerG.step()
        losses += [loss_d.item(), loss_g.item()]
    netD.eval()
    netG.eval()
    losses.append(netD(netG(T.tensor(next(noise)))).sum().item())
    return [netG, netD], losses


def wgan_clipping(T: Any) -> tuple[list, list]:
    """The MLP of older scripts: Variable, .data, RMSprop, weight clipping."""
    nn, Variable = T.nn, T.autograd.Variable

    def mlp(sizes, normalize):
        layers = []
        for a, b in zip(sizes[:-2], sizes[1:-1], strict=True):
            layers.append(nn.Linear(a, b))
            if normalize:
                layers.append(nn.BatchNorm1d(b, 0.8))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))

    netG = same_weights(nn.Sequential(*mlp([8, 16, 32, 49], True), nn.Tanh()), 1)
    netD = same_weights(mlp([49, 32, 16, 1], False), 2)
    optimizer_G = T.optim.RMSprop(netG.parameters(), lr=5e-4)
    optimizer_D = T.optim.RMSprop(netD.parameters(), lr=5e-4)
    losses = []
    images, noise = batches((16, 49), 1), batches((16, 8), 2)
    for i in range(STEPS):
        real = Variable(T.tensor(next(images)).type(T.DoubleTensor))
        optimizer_D.zero_grad()
        z = Variable(T.DoubleTensor(next(noise)))
        fake = netG(z).detach()
        loss_D = -T.mean(netD(real)) + T.mean(netD(fake))
        loss_D.backward()
        optimizer_D.step()
        for p in netD.parameters():
            p.data.clamp_(-0.2, 0.2)
        if i % 5 == 0:
            optimizer_G.zero_grad()
            loss_G = -T.mean(netD(netG(z)))
            loss_G.backward()
            optimizer_G.step()
            losses.append(loss_G.item())
        losses.append(loss_D.data.item())
    return [netG, netD], losses


def conditional_lsgan(T: Any) -> tuple[list, list]:
    """Embedded labels, upsampling, dropout that drops nothing, MSELoss, SGD with momentum, StepLR."""
    nn = T.nn

    class Generator(nn.Module):
        def __init__(self):
            super().__init__()
            self.label_emb = nn.Embedding(4, 6)
            self.l1 = nn.Sequential(nn.Linear(6, 8 * 4 * 4))
            self.conv_blocks = nn.Sequential(
                nn.BatchNorm2d(8), nn.Upsample(scale_factor=2), nn.Conv2d(8, 8, 3, stride=1, padding=1),
                nn.BatchNorm2d(8, 0.8), nn.LeakyReLU(0.2, inplace=True), nn.Upsample(scale_factor=2, mode="bilinear"),
                nn.Conv2d(8, 1, 3, stride=1, padding=1, padding_mode="reflect"), nn.Tanh(),
            )  # fmt: skip

        def forward(self, noise, labels):
            out = self.l1(T.mul(self.label_emb(labels), noise))
            return self.conv_blocks(out.view(out.shape[0], 8, 4, 4))

    class Discriminator(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(4, 16 * 16)
            self.features = nn.Sequential(
                nn.Conv2d(2, 8, 3, 2, 1),
                nn.PReLU(8),
                nn.Dropout2d(0.0),
                nn.InstanceNorm2d(8),
                nn.Conv2d(8, 16, 3, 2, 1),
                nn.SiLU(),
                nn.AvgPool2d(2),
            )
            self.head = nn.Linear(16 * 2 * 2, 1)

        def forward(self, image, labels):
            plane = self.embed(labels).view(-1, 1, 16, 16)
            return self.head(T.flatten(self.features(T.cat((image, plane), 1)), 1))

    netG, netD = same_weights(Generator(), 1), same_weights(Discriminator(), 2)
    loss = nn.MSELoss()
    optimizer_G = T.optim.SGD(netG.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    optimizer_D = T.optim.SGD(netD.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    schedules = [T.optim.lr_scheduler.StepLR(o, 7, 0.5) for o in (optimizer_G, optimizer_D)]
    losses = []
    images, noise, random = batches((4, 1, 16, 16), 1), batches((4, 6), 2), np.random.default_rng(3)
    for _ in range(STEPS):
        valid, zero = T.ones(4, 1, dtype=T.float64), T.zeros(4, 1, dtype=T.float64)
        labels = T.LongTensor(random.integers(0, 4, 4).tolist())
        optimizer_G.zero_grad()
        fake = netG(T.tensor(next(noise)), labels)
        g_loss = loss(netD(fake, labels), valid)
        g_loss.backward()
        optimizer_G.step()
        optimizer_D.zero_grad()
        d_loss = (loss(netD(T.tensor(next(images)), labels), valid) + loss(netD(fake.detach(), labels), zero)) / 2
        d_loss.backward()
        optimizer_D.step()
        for schedule in schedules:
            schedule.step()
        losses += [g_loss.item(), d_loss.item(), optimizer_G.param_groups[0]["lr"]]
    return [netG, netD], losses


def r1_and_average(T: Any) -> tuple[list, list]:
    """Softplus losses, R1 penalty, minibatch deviation, AdamW, clipped gradients, averaged weights."""
    nn, F = T.nn, T.nn.functional

    class Critic(nn.Module):
        def __init__(self):
            super().__init__()
            self.from_rgb = nn.Conv2d(3, 8, 1)
            self.conv = nn.Conv2d(8, 16, 3, padding=1)
            self.conv2 = nn.Conv2d(17, 16, 3, padding=1)
            self.linear = nn.Linear(16 * 8 * 8, 1)

        def forward(self, x):
            x = F.leaky_relu(self.from_rgb(x), 0.2)
            x = F.interpolate(F.leaky_relu(self.conv(x), 0.2), scale_factor=0.5, mode="bilinear", align_corners=False)
            std = (x.var(0, unbiased=False) + 1e-8).sqrt().mean()
            x = T.cat([x, std.expand(x.size(0), 1, *x.shape[2:])], dim=1)
            x = F.avg_pool2d(F.gelu(self.conv2(x)), 2)
            return self.linear(x.flatten(1)).squeeze(1)

    netG, netD = same_weights(generator(T), 1), same_weights(Critic(), 2)
    average = copy.deepcopy(netG).eval()
    optimizer_G = T.optim.AdamW(netG.parameters(), lr=1e-3, betas=(0.0, 0.99), weight_decay=0.01)
    optimizer_D = T.optim.AdamW(netD.parameters(), lr=1e-3, betas=(0.0, 0.99), amsgrad=True)
    losses = []
    images, noise = batches((4, 3, 32, 32), 1), batches((4, 16, 1, 1), 2)
    for i in range(STEPS):
        real = T.tensor(next(images), requires_grad=True)
        fake = netG(T.tensor(next(noise)))
        scores = netD(real)
        loss = F.softplus(-scores).mean() + F.softplus(netD(fake.detach())).mean()
        if i % 2 == 0:
            (gradient,) = T.autograd.grad(scores.sum(), real, create_graph=True)
            loss = loss + 0.5 * 10 * gradient.square().sum([1, 2, 3]).mean()
        optimizer_D.zero_grad()
        loss.backward()
        length = nn.utils.clip_grad_norm_(netD.parameters(), 1.0)
        optimizer_D.step()
        optimizer_G.zero_grad()
        loss_g = F.softplus(-netD(fake)).mean()
        loss_g.backward()
        nn.utils.clip_grad_value_(netG.parameters(), 0.01)
        optimizer_G.step()
        with T.no_grad():
            for p_average, p in zip(average.parameters(), netG.parameters(), strict=True):
                p_average.copy_(p.lerp(p_average, 0.9))
            for b_average, b in zip(average.buffers(), netG.buffers(), strict=True):
                b_average.copy_(b)
        losses += [loss.item(), loss_g.item(), length.item()]
    losses.append(average(T.tensor(next(noise))).sum().item())
    return [netG, netD, average], losses


SCRIPTS = {
    "dcgan": dcgan,
    "wgan_gp with instance norm": lambda T: wgan_gp(T, "instance"),
    "wgan_gp with layer norm": lambda T: wgan_gp(T, "layer"),
    "wgan_gp with group norm": lambda T: wgan_gp(T, "group"),
    "spectral norm and hinge": spectral_hinge,
    "wgan with clipping": wgan_clipping,
    "conditional lsgan": conditional_lsgan,
    "r1 and averaged weights": r1_and_average,
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_twenty_steps(name: str) -> None:
    (ours, our_losses), (theirs, their_losses) = (SCRIPTS[name](T) for T in BOTH)
    np.testing.assert_allclose(our_losses, their_losses, rtol=0, atol=1e-9)
    for net, peer in zip(ours, theirs, strict=True):
        start = peer.state_dict()
        assert list(net.state_dict()) == list(start)
        for key, value in net.state_dict().items():
            np.testing.assert_allclose(host(value), host(start[key]), rtol=0, atol=1e-9, err_msg=key)


def test_the_scripts_move_the_weights() -> None:
    """Otherwise agreeing would be easy. (Biases before a normalisation or in a difference of means may stay.)"""
    for name, script in SCRIPTS.items():
        nets, losses = script(torch)
        assert np.isfinite(losses).all()
        assert np.ptp(losses) > 1e-3, name
        for net, seed in zip(nets[:2], (1, 2), strict=True):
            fresh = same_weights(copy.deepcopy(net), seed).state_dict()
            for key, p in net.named_parameters():
                assert p.ndim == 1 or (p - fresh[key]).abs().max() > 1e-4, f"{name}: {key} did not change"


# Layer by layer in float32 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [generator, discriminator])
def test_each_layer_in_float32(make: Any) -> None:
    ours, theirs = (same_weights(make(T), 1).float() for T in BOTH)
    x = np.random.default_rng(0).normal(size=(8, 16, 1, 1) if make is generator else (8, 3, 32, 32)).astype("float32")
    for layer, peer in zip(ours, theirs, strict=True):
        found = []
        for T, module in zip(BOTH, (layer, peer), strict=True):
            leaf = T.tensor(x, requires_grad=True)
            y = module(leaf * 1)  # some layers write over their input
            weight = np.random.default_rng(1).normal(size=tuple(y.shape)).astype("float32")
            y.backward(T.tensor(weight))
            found.append([y, leaf.grad, *(p.grad for p in module.parameters()), *module.buffers()])
        assert_same_gradients(*found, equal_nan=False)
        x = host(found[1][0])


# Weights go both ways ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dcgan", "spectral norm and hinge", "conditional lsgan"])
def test_trained_weights_go_both_ways(name: str, tmp_path: Any) -> None:
    (ours, _), (theirs, _) = (SCRIPTS[name](T) for T in BOTH)
    for i, (net, peer) in enumerate(zip(ours, theirs, strict=True)):
        mg.save(net.state_dict(), tmp_path / f"{i}.safetensors")
        loaded = safetensors.torch.load_file(tmp_path / f"{i}.safetensors")
        for p in peer.state_dict().values():
            p.zero_()
        assert str(peer.load_state_dict(loaded)) == "<All keys matched successfully>"
        safetensors.torch.save_file(peer.state_dict(), tmp_path / f"{i}.back.safetensors")
        before = {key: host(value).copy() for key, value in net.state_dict().items()}
        for p in net.state_dict().values():
            p.zero_()
        net.load_state_dict(mg.load(tmp_path / f"{i}.back.safetensors"))
        for key, value in net.state_dict().items():
            np.testing.assert_array_equal(host(value), before[key], err_msg=key)

"""A first GAN: eight Gaussians on a ring, learnt in a minute on a CPU.

    python docs/first_gan.py [steps]

The generator maps 2-d noise to points of the plane, the discriminator tells them from real ones. The
discriminator's loss carries the R1 penalty, γ/2·‖∇D(real)‖², whose own gradient is a gradient of a gradient.
Every so often it prints how many of the eight modes have at least 1% of 2,000 samples within three standard deviations,
and how many of all samples are that near to one (a perfect generator: 8 of 8 and 98.9%).
"""

import math
import sys
import time

import minigan as mg
from minigan import nn, optim
from minigan.nn import functional as F

STD, LATENT, BATCH, GAMMA = 0.05, 2, 256, 0.1

angles = mg.arange(8) * (2 * math.pi / 8)
MODES = mg.stack([mg.cos(angles), mg.sin(angles)], dim=1)


def real_points(n):
    return MODES[mg.randint(8, (n,))] + STD * mg.randn(n, 2)


def mlp(inputs, outputs, width=128):
    return nn.Sequential(
        nn.Linear(inputs, width), nn.LeakyReLU(0.2),
        nn.Linear(width, width), nn.LeakyReLU(0.2),
        nn.Linear(width, outputs),
    )  # fmt: skip


def score(generator):
    """Modes found, and the share of samples near a mode."""
    with mg.no_grad():
        points = generator(mg.randn(2000, LATENT))
        distance = (points[:, None] - MODES).norm(dim=2)
        nearest = distance.min(dim=1)
        near = nearest.values < 3 * STD
        found = sum(int((nearest.indices[near] == mode).sum()) >= 20 for mode in range(8))
    return found, float(near.float().mean())


def picture(points, size=21):
    """The points as characters, denser where there are more."""
    counts = [[0] * (2 * size) for _ in range(size)]
    for x, y in points.tolist():
        column, row = int((x + 1.3) / 2.6 * 2 * size), int((1.3 - y) / 2.6 * size)
        if 0 <= row < size and 0 <= column < 2 * size:
            counts[row][column] += 1
    return "\n".join("".join(" .:*#"[min(4, math.ceil(c / 8))] for c in line) for line in counts)


def main(steps):
    mg.manual_seed(0)
    generator, discriminator = mlp(LATENT, 2), mlp(2, 1)
    g_adam = optim.Adam(generator.parameters(), lr=1e-3, betas=(0.0, 0.99))
    d_adam = optim.Adam(discriminator.parameters(), lr=1e-3, betas=(0.0, 0.99))
    start = time.perf_counter()
    for step in range(1, steps + 1):
        real = real_points(BATCH).requires_grad_()
        fake = generator(mg.randn(BATCH, LATENT))

        d_adam.zero_grad()
        on_real = discriminator(real)
        d_loss = F.softplus(-on_real).mean() + F.softplus(discriminator(fake.detach())).mean()
        (slope,) = mg.autograd.grad(on_real.sum(), real, create_graph=True)
        (d_loss + GAMMA / 2 * slope.square().sum(1).mean()).backward()
        d_adam.step()

        g_adam.zero_grad()
        g_loss = F.softplus(-discriminator(fake)).mean()
        g_loss.backward(inputs=list(generator.parameters()))
        g_adam.step()

        if step % (steps // 10) == 0:
            modes, near = score(generator)
            print(
                f"step {step:5d}  D {d_loss.item():.3f}  G {g_loss.item():.3f}  modes {modes} of 8  "
                f"near a mode {near:6.1%}  {time.perf_counter() - start:5.1f} s"
            )
    with mg.no_grad():
        print(picture(generator(mg.randn(2000, LATENT))))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8000)

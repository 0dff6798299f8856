"""One DCGAN-64 training step (z 100 → 512 → 256 → 128 → 64 → 3, k4; Adam), the same code for minigan and PyTorch.

Run as a script in a process of its own by the other benches:

    python -m bench.dcgan64 minigan|torch|torch-channels-last [batch] [steps]

prints one line of JSON: milliseconds of each step, and memory in MB (after import, and at its peak).
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any


def memory_mb(field: str) -> float:
    """A field of this process's status: VmRSS (now) or VmHWM (the most so far)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024


def networks(nn: Any) -> tuple[Any, Any]:
    """Generator and discriminator of the DCGAN paper, 64 × 64, in the widths of PyTorch's example."""
    widths = [512, 256, 128, 64]
    layers = [nn.ConvTranspose2d(100, 512, 4, 1, 0, bias=False), nn.BatchNorm2d(512), nn.ReLU()]
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    generator = nn.Sequential(*layers, nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), nn.Tanh())
    layers = [nn.Conv2d(3, 64, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for a, b in zip(widths[::-1], widths[-2::-1], strict=False):
        layers += [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)]
    discriminator = nn.Sequential(*layers, nn.Conv2d(512, 1, 4, 1, 0, bias=False), nn.Flatten(0))
    return generator, discriminator


def training_step(lib: Any, batch: int, channels_last: bool) -> Any:
    """A function that makes one step of D on a real and a fake batch, and one of G."""
    nn, optim = lib.nn, lib.optim
    generator, discriminator = networks(nn)
    real = lib.randn(batch, 3, 64, 64)
    if channels_last:
        generator = generator.to(memory_format=lib.channels_last)
        discriminator = discriminator.to(memory_format=lib.channels_last)
        real = real.to(memory_format=lib.channels_last)
    g_adam = optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    d_adam = optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    bce = nn.BCEWithLogitsLoss()
    ones, zeros = lib.ones(batch), lib.zeros(batch)

    def step() -> float:
        fake = generator(lib.randn(batch, 100, 1, 1))
        d_adam.zero_grad()
        bce(discriminator(real), ones).backward()
        bce(discriminator(fake.detach()), zeros).backward()
        d_adam.step()
        g_adam.zero_grad()
        loss = bce(discriminator(fake), ones)
        loss.backward(inputs=list(generator.parameters()))
        g_adam.step()
        return loss.item()

    return step


def main(which: str, batch: int, steps: int) -> dict:
    """Time `steps` steps after two to warm up."""
    lib = importlib.import_module(which.split("-")[0])
    lib.set_num_threads(2)
    imported = memory_mb("VmRSS")
    step = training_step(lib, batch, which.endswith("channels-last"))
    milliseconds = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        step()
        milliseconds.append((time.perf_counter() - start) * 1e3)
    return {"which": which, "batch": batch, "ms": milliseconds[2:], "imported": imported, "peak": memory_mb("VmHWM")}


if __name__ == "__main__":
    arguments = sys.argv[1:]
    numbers = [int(a) for a in arguments[1:]]
    print(json.dumps(main(arguments[0], *(numbers + [64, 3][len(numbers) :]))))

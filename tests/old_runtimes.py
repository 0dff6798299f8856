"""Do files load, and give what the engine gives, in ONNX Runtime 1.15, 1.20 and the newest?

    python tests/old_runtimes.py [FOLDER]

Makes a virtual environment for each version in FOLDER (those that are there are used as they are) or in a temporary
one; writes files of every kind with the exporter; runs each in each environment at batch 1, 3 and 8, in a process that
has NumPy and ONNX Runtime only. Prints a table of max |file - engine|, and exits with 1 if a file does not load or
differs by more than its variant may. Needs Python 3.11, the last that ONNX Runtime 1.15 has wheels for.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

import minigan as mg
import minigan.nn.functional as F
from minigan import nn
from minigan.export import export_onnx
from minigan.export.exporter import DTYPES, OUTPUTS, Subject
from minigan.export.session import reason
from minigan.export.variants import pixels
from minigan.export.verify import LIMITS, WORST_PSNR, psnr
from minigan.gan.recipes import NAMES, POINTS, get_recipe

RUNTIMES = {
    "1.15.1": ("onnxruntime==1.15.1", "numpy<2"),  # its wheels were built for NumPy 1
    "1.20.1": ("onnxruntime==1.20.1",),
    "newest": ("onnxruntime",),
}
BATCHES = (1, 3, 8)
LATENT, CLASSES, IMAGE = 16, 3, (4, 6, 6)

CHILD = """
import sys, numpy, onnxruntime
path, data, out = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 4
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
inputs = dict(numpy.load(data))
feeds = [{name: x[:n] if x.ndim else x for name, x in inputs.items()} for n in BATCHES]
numpy.savez(out, *(session.run(["samples"], feed)[0] for feed in feeds))
""".replace("BATCHES", str(BATCHES))


@dataclass(frozen=True)
class File:
    """A generator, and how it is exported."""

    name: str
    module: nn.Module
    latent: int = LATENT
    classes: int = 0
    psi: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> tuple[Path, Path, np.ndarray]:
        """The file, its inputs as .npz, and what the engine gives for each batch, one after the other."""
        path = folder / f"{self.name.replace(' ', '-')}.onnx"
        about: dict[str, Any] = {"latent": self.latent, "classes": self.classes, "psi": self.psi}
        export_onnx(self.module.eval(), path, verified=False, **about, **self.options)
        subject = Subject.of(self.module, **about)
        feeds: dict[str, Any] = subject.draw(max(BATCHES), "old runtimes", psi=0.7)
        np.savez(path.with_suffix(".npz"), **feeds)
        samples = subject.run(feeds)
        samples = np.concatenate([samples[:n] for n in BATCHES])
        return path, path.with_suffix(".npz"), pixels(samples) if "uint8" in self.options.values() else samples

    def difference(self, found: np.ndarray, expected: np.ndarray) -> tuple[str, bool]:
        """In words, and whether it is small enough."""
        if (found.shape, found.dtype) != (expected.shape, expected.dtype):
            return f"{found.dtype} {found.shape} for {expected.dtype} {expected.shape}", False
        largest = float(np.abs(found.astype(np.float64) - expected).max())
        dtype = self.options.get("dtype", "fp32")
        if dtype == "fp32" and self.options.get("optimize") == "size":
            dtype = "fp16-storage"
        if dtype == "int8":
            worst = float(psnr(found, expected).min())
            return f"{largest:.1e} ({worst:.0f} dB)", worst >= WORST_PSNR
        limit = 1.0 if found.dtype == np.uint8 else LIMITS[dtype][0] * max(1.0, float(np.abs(expected).max()))
        return f"{largest:.1e}", largest <= limit


# Generators -----------------------------------------------------------------------------------------------


class Conditional(nn.Module):
    """Labels choose an embedding; psi draws the latents' image under a mapping towards a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(LATENT, 24), nn.LeakyReLU(0.2))
        self.mean = nn.Parameter(mg.randn(24))
        self.classes = nn.Embedding(CLASSES, 8)
        self.layers = nn.Sequential(nn.Linear(32, 64), nn.Unflatten(1, (4, 4, 4)), nn.BatchNorm2d(4), nn.ReLU())
        self.last = nn.ConvTranspose2d(4, 3, 4, 2, 1)

    def forward(self, z: mg.Tensor, labels: mg.Tensor, psi: Any = 1.0) -> mg.Tensor:
        w = self.mean + psi * (self.mapping(z) - self.mean)
        return self.last(self.layers(mg.cat([w, self.classes(labels)], 1))).tanh()


class Labelled(Conditional):
    """Without psi: it multiplies the latents."""

    def forward(self, z: mg.Tensor, labels: mg.Tensor) -> mg.Tensor:  # type: ignore[override]
        return super().forward(z, labels)


class Attention(nn.Module):
    """Self-attention over positions, as in SAGAN."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(channels, channels, 1) for _ in range(3))

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        q, k, v = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        weights = F.softmax(q.transpose(1, 2) @ k / q.shape[1] ** 0.5, -1)
        return x + (v @ weights.transpose(1, 2)).reshape(x.shape)


class Calculation(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[mg.Tensor], mg.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return self.function(x)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "upsample nearest": lambda: nn.Upsample(scale_factor=2),
    "upsample bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "upsample bilinear aligned": lambda: nn.UpsamplingBilinear2d(size=(9, 11)),
    "conv k3 reflect": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "conv k3 replicate": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="replicate"),
    "conv k3 circular": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
    "conv groups dilation": lambda: nn.Conv2d(4, 6, 3, padding=2, groups=2, dilation=2),
    "conv asymmetric": lambda: nn.Sequential(nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(4, 6, 5, 2)),
    "conv transpose k5 s2": lambda: nn.ConvTranspose2d(4, 6, 5, 2, 2, output_padding=1),
    "conv transpose groups": lambda: nn.ConvTranspose2d(4, 6, 4, 2, 1, groups=2),
    "conv 1d": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(4, 6, 3), nn.ConvTranspose1d(6, 2, 4, 2, 1)),
    "conv 3d": lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Conv3d(2, 3, 2), nn.ConvTranspose3d(3, 2, 2)),
    "batch norm first": lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "instance norm": lambda: nn.InstanceNorm2d(4, affine=True),
    "layer norm": lambda: nn.LayerNorm(IMAGE),
    "pixel shuffle": lambda: nn.PixelShuffle(2),
    "pixel unshuffle": lambda: nn.PixelUnshuffle(2),
    "reflection pad": lambda: nn.ReflectionPad2d((1, 2, 3, 0)),
    "replication pad": lambda: nn.ReplicationPad2d((1, 2, 3, 0)),
    "average pool": lambda: nn.AvgPool2d(2),
    "attention": lambda: Attention(4),
    "prelu": lambda: nn.PReLU(4),
    "gelu silu": lambda: nn.Sequential(nn.GELU(), nn.SiLU()),
    "elu selu": lambda: nn.Sequential(nn.ELU(), nn.SELU()),
    "glu softplus": lambda: nn.Sequential(nn.GLU(1), nn.Softplus(), nn.LogSigmoid(), nn.Hardtanh()),
    "maxout": lambda: nn.Sequential(nn.Flatten(), nn.Maxout(prod(IMAGE), 10, 3)),
    "log softmax": lambda: nn.LogSoftmax(1),
    "deviation": lambda: Calculation(lambda x: x / x.std((2, 3), keepdim=True) + x.var(1, keepdim=True)),
    "normalised": lambda: Calculation(lambda x: F.normalize(x, dim=1)),
    "reductions": lambda: Calculation(lambda x: mg.stack([x.sum(1), x.mean(1), x.amax(1), x.norm(dim=1)], 1)),
    "einsum": lambda: Calculation(lambda x: mg.einsum("nchw,ndhw->ncd", x, x.sin())),
    "slices": lambda: Calculation(lambda x: mg.cat([x[:, ::2, 1:5], x.flip(3)[:, 1:, 2:], x.roll(1, 1)[:, :, :4]], 1)),
    "where": lambda: Calculation(lambda x: mg.where((x > 0) & (x < 1) | ~(x > -1), x.exp(), x.abs().sqrt())),
    "rounding": lambda: Calculation(lambda x: x.round() + x.floor() + x.ceil() + x.trunc() + x.sign() + x.clamp(-1, 1)),
    "cumsum": lambda: Calculation(lambda x: x.cumsum(2) + x.erf() + x.cos()),
    "argmax": lambda: Calculation(lambda x: x + x.argmax(1, keepdim=True).float()),
    "gather": lambda: Calculation(lambda x: x.gather(1, x.argmax(1, keepdim=True))),
    "one hot": lambda: Calculation(lambda x: F.one_hot(x.argmax(1), 4).float()),
}  # fmt: skip


def files() -> Iterator[File]:
    """All that are tried."""
    mg.manual_seed(0)
    for name in NAMES:
        yield recipe(name)
    for name in ("glyphs", "dcgan-32"):
        one = recipe(name)
        for dtype in DTYPES:
            for output in OUTPUTS:
                yield File(
                    f"{name} {dtype} {output}", one.module, one.latent, options={"dtype": dtype, "output": output}
                )
        for dtype in ("fp32", "int8"):
            yield File(f"{name} {dtype} size", one.module, one.latent, options={"dtype": dtype, "optimize": "size"})
    for dtype in DTYPES:
        yield File(f"labels psi {dtype}", Conditional(), classes=CLASSES, psi=True, options={"dtype": dtype})
    yield File("labels", Labelled(), classes=CLASSES)
    yield File("labels scaled", Labelled(), classes=CLASSES, psi=True)
    yield File("scaled", nn.Sequential(nn.Linear(LATENT, 2), nn.Tanh()), psi=True)
    for name, layer in LAYERS.items():
        yield File(
            name, with_statistics(nn.Sequential(nn.Linear(LATENT, prod(IMAGE)), nn.Unflatten(1, IMAGE), layer()))
        )


def recipe(name: str) -> File:
    """The generator of a recipe, for samples of the size that it is made for."""
    of = get_recipe(name)
    size = of.defaults.size or 28
    G, _ = of.networks(of.defaults, (2,) if name in POINTS else (3, size, size))
    return File(name, with_statistics(G, of.defaults.latent), of.defaults.latent)


def with_statistics(module: nn.Module, latent: int = LATENT) -> nn.Module:
    """After a few batches, from which BatchNorm has its statistics."""
    with mg.no_grad():
        for _ in range(5):
            module(mg.randn(16, latent))
    return module


# Environments ---------------------------------------------------------------------------------------------


def environment(folder: Path, packages: tuple[str, ...]) -> Path:
    """The Python of a virtual environment with these packages, made if it is not there."""
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        (folder / "made").touch()
    return python


def outcome(python: Path, file: File, path: Path, data: Path, expected: np.ndarray) -> tuple[str, bool]:
    """What comes of a file in an environment, and whether that is right."""
    out = path.with_suffix(".out.npz")
    out.unlink(missing_ok=True)
    child = subprocess.run([python, "-c", CHILD, path, data, out], capture_output=True, text=True)
    if child.returncode:
        last = (child.stderr.strip().splitlines() or [f"ended with {child.returncode}"])[-1]
        return reason(Exception(last)).replace(f"{path.parent}/", ""), False
    return file.difference(np.concatenate(list(np.load(out).values())), expected)


def outcomes(file: File, folder: Path, pythons: list[Path]) -> list[tuple[str, bool]]:
    """The same for each environment."""
    try:
        written = file.write(folder)
    except ValueError as error:  # what the exporter raises
        return [(str(error), False)] * len(pythons)
    return [outcome(python, file, *written) for python in pythons]


def main() -> int:
    failures = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary).absolute()
        pythons = [environment(folder / name, packages) for name, packages in RUNTIMES.items()]
        ask = "import onnxruntime; print(onnxruntime.__version__)"
        versions = [subprocess.run([p, "-c", ask], stdout=subprocess.PIPE, text=True).stdout.strip() for p in pythons]
        print(f"| file | {' | '.join(versions)} |\n|---|{'---|' * len(versions)}")
        for file in files():
            results = outcomes(file, Path(temporary), pythons)
            cells = [text if right else f"**{text}**" for text, right in results]
            print(f"| {file.name} | {' | '.join(cells)} |", flush=True)
            failures += not all(right for _, right in results)
    print(f"\n{failures or 'no'} files failed")
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())

"""The classifier of glyphs whose features the scores use: its network, its shipped weights, and how they were trained.

    python -m minigan.gan.classifier --out glyph_classifier.safetensors

trains it anew, on glyphs that no GAN is trained on. Besides the digit, its features must tell the factors that the
glyph was drawn from (slant, thickness, …), and are normalised: trained for the digit alone they vary in about 5
directions, mostly with the thickness; so they vary in about 15, and see shifts twice and speckles five times as well.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import time
from pathlib import Path

import numpy as np

import minigan as mg
from minigan import Tensor, nn, optim
from minigan.data.glyphs import glyphs
from minigan.data.source import Data
from minigan.nn import functional as F

WEIGHTS = Path(__file__).parent / "weights" / "glyph_classifier.safetensors"
SHA256 = "542e8043a99c4f22436c0b5a4f3083e79d28f351a03588caee5f3899f1b0861f"
FEATURES = 64
_START = 1 << 40  # the first of its own glyphs: no data set for a GAN reaches so far
_FACTORS = ("thickness", "slant", "rotation", "scale", "width", "shift_x", "shift_y")


class GlyphClassifier(nn.Module):
    """Three convolutions of stride 2 and two linear layers, for (N, 1, s, s) images in [-1, 1] with s from 25 to 32.

    >>> model = GlyphClassifier()
    >>> model.features(mg.zeros(5, 1, 28, 28)).shape, model(mg.zeros(5, 1, 32, 32)).shape
    ((5, 64), (5, 10))
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.LeakyReLU(0.1),
            nn.Conv2d(16, 32, 5, stride=2, padding=2), nn.LeakyReLU(0.1),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.LeakyReLU(0.1),
            nn.Flatten(),
        )  # fmt: skip
        self.to_features = nn.Sequential(  # of about one variance each: no factor drowns the others in a distance
            nn.Linear(64 * 4 * 4, FEATURES), nn.BatchNorm1d(FEATURES, affine=False)
        )  # fmt: skip
        self.to_logits = nn.Linear(FEATURES, 10)

    def features(self, images: Tensor) -> Tensor:
        """What the last layer sees (N, 64), before its activation: what the scores compare."""
        _, channels, height, width = images.shape
        if channels != 1 or not (25 <= height <= 32 and 25 <= width <= 32):
            raise ValueError(
                f"GlyphClassifier: got images of shape {tuple(images.shape)}, expected one channel and 25 to 32 pixels "
                "a side; for other images give --features a network of your own"
            )
        return self.to_features(self.convolutions(images))

    def logits(self, features: Tensor) -> Tensor:
        """The last layer alone, for those who want features and logits of one pass."""
        return self.to_logits(F.leaky_relu(features, 0.1))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.features(images))


def load_classifier(path: Path = WEIGHTS) -> GlyphClassifier:
    """The trained classifier, in eval mode and with its parameters frozen; refuses weights that are not the shipped.

    >>> load_classifier()(glyphs(3).batch([0, 1, 2])[0]).argmax(1).tolist() == glyphs(3).labels.tolist()
    True
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ValueError(
            f"{path}: its sha256 is {found[:16]}…, expected {SHA256[:16]}…: these are not the weights that scores "
            "are compared by; install minigan again"
        )
    state = mg.get_rng_state()
    model = GlyphClassifier()
    mg.set_rng_state(state)  # scoring must not move the stream that training draws from
    model.load_state_dict(mg.load(io.BytesIO(content)))
    return model.eval().requires_grad_(False)


def accuracy(model: GlyphClassifier, data: Data) -> float:
    """The share of the samples whose label the model gives."""
    with mg.no_grad():
        parts = np.array_split(np.arange(len(data)), -(-len(data) // 500))
        given = np.concatenate([model(data.batch(part)[0]).argmax(1).numpy() for part in parts])
    return float((given == data.labels).mean())


def train(n: int = 60_000, epochs: int = 4, batch: int = 100) -> GlyphClassifier:
    """A classifier trained on n glyphs, half of each size, sharp and blurred, clean and noisy."""
    mg.manual_seed(0)
    model, to_factors = GlyphClassifier(), nn.Linear(FEATURES, len(_FACTORS))
    sources = [glyphs(n // 2, 28, start=_START), glyphs(n // 2, 32, start=_START + n // 2)]
    factors = [np.stack([data.factors[name] for name in _FACTORS], axis=1) for data in sources]
    middle, spread = np.mean(factors, axis=(0, 1)), np.std(factors, axis=(0, 1))
    batches = [(source, first) for source in (0, 1) for first in range(0, n // 2, batch)]
    optimizer = optim.Adam([*model.parameters(), *to_factors.parameters()], lr=2e-3)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(batches))
    for epoch in range(epochs):
        for number in mg.random.stream("order").permutation(len(batches)):
            source, first = batches[number]
            indices = np.arange(first, min(first + batch, n // 2))
            images, labels = sources[source].batch(indices)
            features = model.features(_disturbed(images))
            wanted = mg.from_numpy(((factors[source][indices] - middle) / spread).astype(np.float32))
            digit_loss = F.cross_entropy(model.logits(features), labels)
            factor_loss = F.mse_loss(to_factors(features), wanted)
            optimizer.zero_grad()
            (digit_loss + factor_loss).backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: digits {digit_loss.item():.4f}, factors {factor_loss.item():.4f}", flush=True)
    return model.eval()


def _disturbed(images: Tensor) -> Tensor:
    """Each image somewhat blurred and noisy, as a generator's are."""
    blur, noise = mg.rand(2, len(images), 1, 1, 1)
    images = images + blur * (F.avg_pool2d(images, 3, 1, 1, count_include_pad=False) - images)
    return images + 0.2 * noise * mg.randn_like(images)


def main() -> None:
    """Train, print the accuracy on glyphs never seen, write the weights and print their sha256."""
    parser = argparse.ArgumentParser(prog="python -m minigan.gan.classifier", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    out = parser.parse_args().out
    start = time.perf_counter()
    model = train()
    print(f"trained in {time.perf_counter() - start:.0f} s")
    for size in (28, 32):
        print(f"{size} × {size}: {accuracy(model, glyphs(10_000, size)):.2%} of 10,000 held-out glyphs")
    mg.save(model.state_dict(), out)
    print(f"{out}: {out.stat().st_size:,} bytes, sha256 {hashlib.sha256(out.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()

"""The layers of DCGAN-64 one by one: forward, and the gradients of the input and of the weight, each on its own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.steps import WAYS

PARTS = ("forward", "input gradient", "weight gradient")
LAYOUTS = ("minigan", "torch", "torch-channels-last")  # freezing means nothing here
BATCH = 64


@dataclass(frozen=True)
class Layer:
    """A 4 × 4 convolution, or (`transposed`) one turned round; `size` is the side of the larger image."""

    name: str
    inputs: int
    outputs: int
    size: int
    stride: int = 2
    padding: int = 1
    transposed: bool = False

    @property
    def small(self) -> int:
        """The side of the smaller image."""
        return (self.size + 2 * self.padding - 4) // self.stride + 1

    def flops(self, batch: int) -> int:
        """Of each part, by the direct algorithm: a multiplication and an addition for every term of its sums."""
        return 2 * batch * self.inputs * self.outputs * 16 * self.small**2


LAYERS = {
    layer.name: layer
    for layer in (
        Layer("64² · 3 → 64", 3, 64, 64),
        Layer("32² · 64 → 128", 64, 128, 32),
        Layer("16² · 128 → 256", 128, 256, 16),
        Layer("8² · 256 → 512", 256, 512, 8),
        Layer("4² · 512 → 1, valid", 512, 1, 4, stride=1, padding=0),
        Layer("z 100 → 512 · 4², transposed", 100, 512, 4, stride=1, padding=0, transposed=True),
    )
}


def measures(way: str, batch: int) -> dict[str, Callable[[], Callable[[], Any]]]:
    """For "layer/part": a function that prepares it, and returns the call to time."""
    found: dict[str, Callable[[], Callable[[], Any]]] = {}
    for layer in LAYERS.values():
        parts = _parts(WAYS[way].library, layer, batch, way != "torch")
        found |= {f"{layer.name}/{part}": prepare for part, prepare in zip(PARTS, parts, strict=True)}
    return found


def _parts(library: str, layer: Layer, batch: int, channels_last: bool) -> tuple[Callable[[], Callable[[], Any]], ...]:
    """The three parts of one layer. Images lie as a layer before would have left them: minigan's are channels last."""
    lib: Any = importlib.import_module(library)
    make = lib.nn.ConvTranspose2d if layer.transposed else lib.nn.Conv2d
    module = make(layer.inputs, layer.outputs, 4, layer.stride, layer.padding, bias=False)
    if channels_last:
        module.to(memory_format=lib.channels_last)

    def image(channels: int, side: int) -> Any:
        if channels_last:
            return lib.randn(batch, side, side, channels).permute(0, 3, 1, 2)
        return lib.randn(batch, channels, side, side)

    sides = (layer.small, layer.size) if layer.transposed else (layer.size, layer.small)
    x, slope = image(layer.inputs, sides[0]), image(layer.outputs, sides[1])

    def forward() -> Callable[[], Any]:
        def call() -> Any:
            with lib.no_grad():
                return module(x)

        return call

    def gradient(of_input: bool) -> Callable[[], Any]:
        module.weight.requires_grad_(not of_input)
        given = x.detach().requires_grad_(of_input)
        y = module(given)  # outside the time; what it keeps for the gradient is there, as it is in training
        return lambda: lib.autograd.grad(y, given if of_input else module.weight, slope)

    return forward, lambda: gradient(True), lambda: gradient(False)

"""Fusion nobody sees: in a `Sequential`, a layer and the ReLU or LeakyReLU behind it are computed as one.

The layer (Linear, a BatchNorm, or a convolution with or without bias) is called with the slope of the activation, and
makes one pass over memory where two layers make several. Results and gradients are the same to the bit. Two layers are
only called as one where nobody could tell: they are of exactly those classes, nothing is hooked on between them, and
no `Observer` watches modules being called. `mg.fusion(False)`, or MINIGAN_FUSION=0 in the environment, turns it off.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from minigan.nn.module import Module
from minigan.nn.modules.activation import LeakyReLU, ReLU
from minigan.nn.modules.conv import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from minigan.nn.modules.linear import Linear
from minigan.nn.modules.norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from minigan.observe import watches_modules

_LAYERS = (
    BatchNorm1d, BatchNorm2d, BatchNorm3d, Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d,
    Linear,
)  # fmt: skip
_FORWARD: dict[type[Module], Any] = {
    layer: layer.forward for layer in (*_LAYERS, ReLU, LeakyReLU)
}  # a replaced one is not known here

_enabled = os.environ.get("MINIGAN_FUSION") != "0"


class fusion:
    """Switch fusion on or off: at once when called, and back again when used as a context manager.

    >>> with fusion(False):
    ...     is_fusion_enabled()
    False
    >>> is_fusion_enabled()
    True
    """

    def __init__(self, enabled: bool) -> None:
        global _enabled
        self._previous = _enabled
        _enabled = bool(enabled)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        global _enabled
        _enabled = self._previous


def is_fusion_enabled() -> bool:
    """Whether layers may be computed together."""
    return _enabled


def fused(modules: Iterable[Module]) -> Iterator[tuple[Module, float | None]]:
    """The modules to call one after the other, each with the slope of an activation that it takes over.

    >>> from minigan import nn
    >>> [(type(module).__name__, slope) for module, slope in fused([nn.BatchNorm2d(3), nn.LeakyReLU(0.2), nn.ReLU()])]
    [('BatchNorm2d', 0.2), ('ReLU', None)]
    """
    together = _enabled and not watches_modules()
    waiting: Module | None = None  # a layer that may take over what comes next
    for module in modules:
        if waiting is not None:
            slope = _slope(module)
            yield waiting, slope
            waiting = None
            if slope is not None:
                continue
        if together and _takes_slope(module):
            waiting = module
        else:
            yield module, None
    if waiting is not None:
        yield waiting, None


def _takes_slope(module: Module) -> bool:
    kind = type(module)
    return kind in _LAYERS and _as_written(module) and not (module._forward_hooks or module._backward_hooks)


def _slope(module: Module) -> float | None:
    """Of an activation that a layer can take over."""
    kind: Any = type(module)
    if kind not in (ReLU, LeakyReLU) or not _as_written(module):
        return None
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        return None
    slope = 0.0 if kind is ReLU else module.negative_slope
    return slope if type(slope) in (int, float) and 0 <= slope <= 1 else None


def _as_written(module: Module) -> bool:
    """Nobody has replaced its `forward`."""
    return type(module).forward is _FORWARD[type(module)] and "forward" not in module.__dict__

"""How well two networks are, by evidence: where a NaN began, which units are dead, which gradients are gone.

Pure questions about networks and states; `minigan.gan.trainer` asks the first before it goes on or saves,
`minigan.gan.watch` the others, and raises the alarms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

import minigan as mg
from minigan import nn
from minigan.nn import Module
from minigan.tensor import Tensor

if TYPE_CHECKING:
    from minigan.gan.trainer import Trainer


def non_finite(state: Any, path: str = "") -> list[str]:
    """The paths of the tensors in nested mappings and lists that hold a NaN or an infinity.

    >>> non_finite({"G": {"0.weight": mg.tensor([0.0, 1.0]), "0.bias": mg.tensor([float("nan")])}, "steps": 5})
    ['G.0.bias']
    """
    if isinstance(state, Tensor):
        return [] if state.isfinite().all() else [path]
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(state, Mapping):
        parts = state.items()
    elif isinstance(state, (list, tuple)):
        parts = enumerate(state)
    return [found for name, part in parts for found in non_finite(part, f"{path}.{name}" if path else str(name))]


@np.errstate(all="ignore")
def explain_non_finite(trainer: Trainer, event: str) -> str:
    """One line: what happened, the weight, output or gradient where numbers are not finite, and what to try."""
    return f"{event}. Not finite: {_place(trainer)}. Try a lower learning rate, clip_norm, or a penalty on D"


def first_bad_output(network: Module, name: str, x: Tensor) -> str | None:
    """The first layer whose output is not finite, as text.

    >>> import minigan as mg
    >>> from minigan import nn
    >>> G = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> _ = nn.init.constant_(G[2].weight, float("inf"))
    >>> first_bad_output(G, "G", mg.ones(1, 2))
    'the output of G.2 (Linear)'
    """
    found: list[str] = []

    def look(path: str, layer: Module, output: Tensor) -> None:
        if not found and not output.isfinite().all():
            found.append(f"the output of {name}.{path} ({type(layer).__name__})")

    with _looking(network, look):
        network(x)
    return found[0] if found else None


def dead_units(network: Module, x: Tensor) -> dict[str, float]:
    """For each ReLU, the share of its channels that are 0 for every sample and at every place.

    >>> from minigan import nn
    >>> G = nn.Sequential(nn.Linear(2, 4), nn.ReLU())
    >>> _ = nn.init.zeros_(G[0].weight), nn.init.constant_(G[0].bias, -1.0)
    >>> dead_units(G, mg.ones(3, 2))
    {'1 (ReLU)': 1.0}
    """
    shares: dict[str, float] = {}

    def look(path: str, layer: Module, output: Tensor) -> None:
        if isinstance(layer, nn.ReLU):
            alive = (output != 0).transpose(0, 1).flatten(1).any(1)
            shares[f"{path} (ReLU)"] = 1 - alive.float().mean().item()

    with _looking(network, look), mg.no_grad():
        network(x)
    return shares


@np.errstate(over="ignore")  # an infinite norm says enough
def gradient_norms(network: Module) -> dict[str, float]:
    """The norm of the gradient of each weight that has one; biases, which a norm layer may make idle, are left out.

    >>> D = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1))
    >>> _ = nn.init.zeros_(D[2].weight)
    >>> D(mg.ones(1, 2)).sum().backward()
    >>> gradient_norms(D)["0.weight"]
    0.0
    """
    return {
        path: p.grad.norm().item() for path, p in network.named_parameters() if p.grad is not None and p.grad.ndim > 1
    }


def _place(trainer: Trainer) -> str:
    networks = {"G": trainer.G, "D": trainer.D}
    for name, network in networks.items():
        if bad := non_finite(network.state_dict(), name):
            return f"the weight {_last(bad)}"
    with mg.no_grad():
        z = trainer.latents(trainer.settings.batch)
        place = first_bad_output(trainer.G, "G", z)
        for x in (trainer.next_real(), trainer.G(z)):
            place = place or first_bad_output(trainer.D, "D", trainer.presented(x))
    for name, network in networks.items():
        if not place and (bad := non_finite({path: p.grad for path, p in network.named_parameters()}, name)):
            place = f"the gradient of {_last(bad)}"
    return place or "no weight, and now no output or gradient: the loss or the penalty itself overflows"


def _last(paths: list[str]) -> str:
    """The one nearest to the loss: from there a bad gradient spreads to those before it."""
    return paths[-1] + (f" (and {len(paths) - 1} before it)" if len(paths) > 1 else "")


@contextmanager
def _looking(network: Module, look: Callable[[str, Module, Tensor], None]) -> Iterator[None]:
    """Within: `look(path, layer, output)` is called for each layer, the inner ones before what they are in."""

    def hook(path: str) -> Callable[..., None]:
        return lambda layer, _inputs, output: look(path, layer, output)

    handles = [layer.register_forward_hook(hook(path)) for path, layer in network.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""What `--dry-run` shows: a run's settings, networks, and what three of its steps cost. Nothing is written."""

from __future__ import annotations

import statistics
import sys
from time import perf_counter

import minigan as mg
from minigan.cli.common import settings_of, table
from minigan.cli.progress import duration
from minigan.gan.recipes import get_recipe
from minigan.gan.settings import Settings
from minigan.gan.trainer import Trainer, evaluation
from minigan.nn import Module
from minigan.tensor import Tensor

STEPS = 3


def rehearse(settings: Settings) -> str:
    """The text to show. Raises what training would raise before its first step.

    >>> from minigan.gan.recipes import get_recipe
    >>> print(rehearse(get_recipe("ring").defaults.changed(["limit=500", "batch=8"])).splitlines()[0])
    recipe ring: Eight Gaussians on a ring: the smallest problem on which a GAN loses modes.
    """
    recipe = get_recipe(settings.recipe)
    trainer = Trainer(settings)
    z, real = trainer.latents(settings.batch), trainer.next_real()
    if settings.pack > 1:
        real = real.reshape(-1, settings.pack * real.shape[1], *real.shape[2:])
    trainer.steps_done = settings.critic_warmup  # the steps within it take much longer than the others
    seconds = statistics.median(timed_step(trainer) for _ in range(STEPS))
    parts = [
        f"recipe {recipe.name}: {recipe.summary}",
        "settings (* not the recipe's default)\n" + settings_table(settings, recipe.defaults),
        f"data {trainer.data!r}: {trainer.data.values.nbytes / 2**20:.1f} MiB",
        "G\n" + layer_table(trainer.G, z),
        "D\n" + layer_table(trainer.D, real),
        *(f"warning: {message}" for message in trainer.warnings),
        f"time: {seconds:.3g} s a step, so {duration(seconds * settings.steps)} for {settings.steps} steps on "
        f"{trainer.device}, without pictures and scores",
        f"memory: {peak_memory()}",
    ]
    return "\n\n".join(parts)


def timed_step(trainer: Trainer) -> float:
    """Seconds that one step takes; its losses are read, so a GPU has done it."""
    start = perf_counter()
    trainer.step()
    return perf_counter() - start


def settings_table(settings: Settings, defaults: Settings) -> str:
    """Name, value and, where it is not the default, the default."""
    rows = []
    for spec in settings_of(settings):
        value, default = getattr(settings, spec.name), getattr(defaults, spec.name)
        same = value == default
        rows.append((" " if same else "*", spec.name, shown(value), "" if same else f"(default {shown(default)})"))
    return table(rows)


def shown(value: object) -> str:
    """A setting's value as one would type it; the empty text as ''.

    >>> shown(True), shown(1e-3), shown("")
    ('true', '0.001', "''")
    """
    return str(value).lower() if isinstance(value, bool) else str(value) or "''"


def layer_table(network: Module, x: Tensor) -> str:
    """Each layer with the shape of its output for one sample and its number of parameters; their sum.

    >>> print(layer_table(mg.nn.Sequential(mg.nn.Linear(2, 3), mg.nn.ReLU()), mg.zeros(4, 2)))
    0  Linear(in_features=2, out_features=3, bias=True)  (3,)  9
    1  ReLU()                                            (3,)  0
                                                               9
    """
    rows: list[tuple[str, ...]] = []
    names = {layer: name for name, layer in network.named_modules()}

    def note(layer: Module, args: tuple, out: Tensor) -> None:
        count = sum(p.numel() for p in layer.parameters())
        title = f"{type(layer).__name__}({layer.extra_repr()})"
        rows.append((names[layer], title, str(tuple(out.shape[1:])), f"{count:,}"))

    handles = [layer.register_forward_hook(note) for layer in names if is_layer(layer, names[layer])]
    with evaluation(network), mg.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    total = sum(p.numel() for p in network.parameters())
    return table([*rows, ("", "", "", f"{total:,}")], right=(3,))


def is_layer(module: Module, name: str) -> bool:
    """Whether it computes something itself: nothing but parametrizations (as spectral normalisation's) is below it."""
    inside = "parametrizations" in name.split(".")
    return not inside and all(child == "parametrizations" for child, _ in module.named_children())


def peak_memory() -> str:
    """The most memory that this process has had, in words."""
    try:
        import resource
    except ImportError:  # Windows
        return "not known on this system"
    unit = 1 if sys.platform == "darwin" else 1024
    return (
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:.0f} MiB at the peak, of the whole process"
    )

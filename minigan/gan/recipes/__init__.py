"""The recipes, one file each: what a paper trained, with which networks, loss, optimisers and data.

A recipe is its default settings and a function that builds G and D for samples of a given shape. What the settings
mean to a run is in `minigan.gan.trainer`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from minigan.gan.settings import Settings, SettingsError
from minigan.nn import Module

NAMES = (
    "glyphs", "gan", "mlp-conv", "dcgan-28", "dcgan-32", "dcgan-64", "wgan", "wgan-gp", "lsgan", "hinge-sn", "ring",
    "grid", "stacked",
)  # fmt: skip
POINTS = ("ring", "grid")  # those whose samples are points, not images


@dataclass(frozen=True)
class Recipe:
    """A name, one line about it, its default settings, and what builds its networks."""

    name: str
    summary: str
    defaults: Any  # of a subclass of Settings
    build: Callable[[Any, tuple[int, ...]], tuple[Module, Module]]

    def networks(self, settings: Any, shape: tuple[int, ...]) -> tuple[Module, Module]:
        """G and D for samples of this shape."""
        if (len(shape) == 1) != (self.name in POINTS):
            kind = "points" if len(shape) == 1 else "images"
            fitting = ", ".join(name for name in NAMES if (name in POINTS) == (len(shape) == 1))
            raise SettingsError(f"the recipe {self.name} is not for {kind} of shape {shape}; those that are: {fitting}")
        return self.build(settings, shape)


def get_recipe(name: str) -> Recipe:
    """The recipe of this name.

    >>> get_recipe("dcgan-64").defaults.batch
    64
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, 1, 0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SettingsError(f"no recipe {name!r}; {hint}there are: {', '.join(NAMES)}")
    module = import_module(f"minigan.gan.recipes.{name.replace('-', '_')}")
    assert isinstance(module.defaults, Settings)
    return Recipe(name, (module.__doc__ or "").splitlines()[0], module.defaults, module.networks)

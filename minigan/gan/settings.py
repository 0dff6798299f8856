"""The settings that every recipe has: one frozen, flat dataclass, so that a run can be written down and compared.

A recipe's own file adds what only it has (layer widths) and its defaults. Here: types, bounds and meanings, and the
ways in from text (`--set`, TOML). Not here: which settings go together; see `minigan.gan.sanity`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

_TYPES = {"int": int, "float": float, "str": str, "bool": bool}
_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class SettingsError(ValueError):
    """A setting that does not exist, has a wrong type or is out of bounds."""


def setting(
    default: Any, meaning: str, *, low: float = -math.inf, high: float = math.inf, choices: tuple[str, ...] = ()
) -> Any:
    """A field of a settings dataclass: its default, one line of meaning, and what values it may have."""
    return field(default=default, metadata={"meaning": meaning, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """What every recipe lets one choose.

    >>> Settings().changed(["batch=32", "loss=hinge"]).batch
    32
    >>> Settings().changed(["bacth=32"])
    Traceback (most recent call last):
    minigan.gan.settings.SettingsError: no setting 'bacth'; did you mean 'batch'?
    """

    recipe: str = setting("", "the recipe these settings are for")
    # what is learnt, and for how long
    data: str = setting("glyphs", "a name (minigan data list) or the path of a file or folder")
    size: int = setting(0, "height and width that images are brought to; 0: as they are", low=0)
    limit: int = setting(0, "learn from the first so many samples; 0: all", low=0)
    flip: bool = setting(False, "mirror half of the images")
    seed: int = setting(0, "what every random stream starts from", low=0)
    steps: int = setting(1000, "updates of G", low=1)
    batch: int = setting(64, "samples in a batch", low=1)
    # the game
    latent: int = setting(100, "size of G's input", low=1)
    latents: str = setting("normal", "distribution of G's input", choices=("normal", "uniform"))
    loss: str = setting(
        "non-saturating",
        "what D and G minimise",
        choices=(
            "minimax", "non-saturating", "least-squares", "wasserstein", "hinge", "relativistic",
            "relativistic-average",
        ),
    )  # fmt: skip
    penalty: str = setting("", "added to D's loss", choices=("", "wgan-gp", "r1", "r2", "dragan"))
    penalty_weight: float = setting(10.0, "λ of WGAN-GP and DRAGAN, γ of R1 and R2", low=0)
    penalty_every: int = setting(1, "lazy regularisation: the penalty every so many D steps, so much stronger", low=1)
    spectral_norm: bool = setting(False, "spectral normalisation of D's layers")
    clip_weights: float = setting(0.0, "clamp D's weights to ± this after each step; 0: no", low=0)
    n_critic: int = setting(1, "D steps for one G step", low=1)
    critic_warmup: int = setting(
        0, "WGAN's schedule: 100 D steps for each of the first so many G steps, and every 500th", low=0
    )
    pack: int = setting(1, "PacGAN: samples that D judges together", low=1)
    # the optimisers; rates of their own for G and D are TTUR
    optimizer: str = setting("adam", "update rule", choices=("adam", "rmsprop", "sgd"))
    g_lr: float = setting(2e-4, "G's learning rate", low=0)
    d_lr: float = setting(2e-4, "D's learning rate", low=0)
    beta1: float = setting(0.5, "Adam's β₁, SGD's momentum", low=0, high=1)
    beta2: float = setting(0.999, "Adam's β₂", low=0, high=1)
    lr_decay: float = setting(0.0, "rates fall linearly to (1 - this) of themselves over the run", low=0, high=1)
    clip_norm: float = setting(0.0, "gradients scaled down to this norm; 0: no", low=0)
    clip_value: float = setting(0.0, "gradients clamped to ± this; 0: no", low=0)
    # tricks
    ema: float = setting(0.0, "decay of the moving average of G that is sampled and scored; 0: none", low=0, high=1)
    smooth: float = setting(0.0, "one-sided label smoothing: real targets are 1 - this", low=0, high=0.5)
    noise: float = setting(0.0, "instance noise on D's input: standard deviation at step 0", low=0)
    noise_steps: int = setting(0, "the noise falls linearly to none in so many steps; 0: over the whole run", low=0)
    augment: str = setting("", "DiffAugment: any of translation, cutout, color, with commas between")
    # the run
    device: str = setting("cpu", "where it computes")
    graph: bool = setting(True, "on a GPU, capture a step once and replay it, where only values change")
    log_every: int = setting(10, "a line of metrics every so many steps", low=1)
    sample_every: int = setting(250, "a picture of samples every so many steps", low=1)
    score_every: int = setting(0, "scores every so many steps; 0: at the end only", low=0)
    score_samples: int = setting(2500, "samples that a score is made of", low=16)
    checkpoint_every: int = setting(250, "a checkpoint every so many steps", low=1)
    keep: int = setting(3, "how many of the last checkpoints are kept", low=1)
    on_collapse: str = setting("warn", "what the collapse alarm does", choices=("warn", "stop", "rollback"))

    def __post_init__(self) -> None:
        for spec in fields(self):
            _check(spec, getattr(self, spec.name))

    def changed(self, changes: Mapping[str, Any] | Iterable[str]) -> Self:
        """These settings with some changed: a mapping of names to values, or texts `name=value`."""
        if not isinstance(changes, Mapping):
            changes = dict(map(_split, changes))
        known = {spec.name: spec for spec in fields(self)}
        values = {}
        for name, value in changes.items():
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1, 0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
                raise SettingsError(f"no setting {name!r}; {hint}")
            values[name] = _parse(known[name], value)
        return dataclasses.replace(self, **values)

    def to_dict(self) -> dict[str, Any]:
        """Name to value, in the order of definition."""
        return {spec.name: getattr(self, spec.name) for spec in fields(self)}

    def differences(self, other: Settings) -> list[str]:
        """One text for each setting whose value is another in `other`: `loss: hinge → wasserstein`."""
        mine, theirs = self.to_dict(), other.to_dict()
        return [
            f"{name}: {mine.get(name, 'absent')} → {theirs.get(name, 'absent')}"
            for name in dict.fromkeys([*mine, *theirs])
            if mine.get(name) != theirs.get(name)
        ]


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SettingsError(f"got {text!r}, expected name=value, as in batch=32")
    return name.strip().replace("-", "_"), value.strip()


def _parse(spec: dataclasses.Field, value: Any) -> Any:
    """The value in the field's own type: from text, or from TOML, where 1 may stand for 1.0."""
    kind = _TYPES[str(spec.type)]
    try:
        if isinstance(value, str) and kind is not str:
            return _TRUTH[value.lower()] if kind is bool else kind(value)
        if kind is float and type(value) is int:
            return float(value)
    except (KeyError, ValueError, OverflowError):
        raise SettingsError(f"{spec.name}: got {value!r}, expected {_expected(spec)}") from None
    return value


def _check(spec: dataclasses.Field, value: Any) -> None:
    rules = spec.metadata
    fits = type(value) is _TYPES[str(spec.type)]
    if fits and isinstance(value, (int, float)):
        most = 2**63 if type(value) is int else math.inf  # the largest whole number that TOML and NumPy have
        fits = rules["low"] <= value <= rules["high"] and abs(value) < most  # NaN is refused too
    if fits and rules["choices"]:
        fits = value in rules["choices"]
    if not fits:
        near = difflib.get_close_matches(str(value), rules["choices"], 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        if type(value) is int and value >= 2**63:
            hint = ", below 2⁶³"
        raise SettingsError(f"{spec.name}: got {value!r}, expected {_expected(spec)}{hint}")


def _expected(spec: dataclasses.Field) -> str:
    """In words: `a number of at least 1 (samples in a batch)`."""
    rules = spec.metadata
    words = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false"}[str(spec.type)]
    if rules["choices"]:
        words = "one of " + ", ".join(choice or "'' (none)" for choice in rules["choices"])
    elif rules["low"] > -math.inf:
        words += f" from {rules['low']:g} to {rules['high']:g}" if rules["high"] < math.inf else f" ≥ {rules['low']:g}"
    return f"{words} ({rules['meaning']})"

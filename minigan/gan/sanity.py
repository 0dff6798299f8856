"""Before step 0: settings and networks that do not go together are refused, doubtful ones warned of."""

from __future__ import annotations

from collections.abc import Callable

import minigan as mg
from minigan import nn
from minigan.gan.augment import diff_augment
from minigan.gan.losses import LOSSES
from minigan.gan.settings import Settings, SettingsError
from minigan.gan.tricks import MinibatchStd, pack
from minigan.nn import Module
from minigan.tensor import Tensor

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_ON_PROBABILITIES = (nn.Sigmoid, nn.Softmax, nn.LogSigmoid, nn.LogSoftmax)
_SHAPES_ONLY = (nn.Flatten, nn.Unflatten, nn.Identity)
_LEAST_SAMPLES = 20  # of which scores can be made


def check(settings: Settings, G: Module, D: Module, shape: tuple[int, ...], samples: int) -> list[str]:
    """Warnings, one line each; raises SettingsError where the combination cannot work. `samples`: how many there are.

    >>> from minigan.gan.recipes import get_recipe
    >>> settings = get_recipe("dcgan-32").defaults.changed({"penalty": "wgan-gp"})
    >>> check(settings, *get_recipe("dcgan-32").networks(settings, (1, 32, 32)), (1, 32, 32), 60_000)
    Traceback (most recent call last):
    minigan.gan.settings.SettingsError: penalty=wgan-gp with BatchNorm in D (layer 3): the penalty is on each ...
    """
    if refused := [text for is_so, text in _refusals(settings, G, D, shape, samples) if is_so]:
        raise SettingsError("; ".join(refused))
    _try_out(settings, G, D, shape)
    return [text for is_so, text in _doubts(settings, D, samples) if is_so]


def device(name: str) -> mg.device:
    """The device of this name, which is there; else a SettingsError.

    >>> device("tpu")
    Traceback (most recent call last):
    minigan.gan.settings.SettingsError: device 'tpu' is unknown: expected one of cpu, cuda...
    """
    try:
        mg.zeros(1).to(name)
        return mg.device(name)
    except RuntimeError as error:
        raise SettingsError(str(error)) from None


def _refusals(s: Settings, G: Module, D: Module, shape: tuple[int, ...], samples: int) -> list[tuple[bool, str]]:
    norm = _first(D, _BATCH_NORMS)
    last = [layer for layer in D.modules() if not (list(layer.children()) or isinstance(layer, _SHAPES_ONLY))][-1]
    smoothed = [name for name, loss in LOSSES.items() if loss.smooths]
    judged = s.batch // s.pack
    groups = [min(layer.group_size, judged) for layer in D.modules() if isinstance(layer, MinibatchStd)]
    return [
        (
            norm is not None and s.penalty in ("wgan-gp", "dragan"),
            f"penalty={s.penalty} with BatchNorm in D (layer {norm}): the penalty is on each sample's own gradient, "
            "and BatchNorm ties the samples of a batch together; take the recipe wgan-gp, or norm layers per sample",
        ),
        (isinstance(last, _ON_PROBABILITIES), f"D ends in {last}: the losses expect logits; remove it"),
        (
            bool(s.smooth) and not LOSSES[s.loss].smooths,
            f"smooth={s.smooth} with loss={s.loss}, which has no labels to smooth; those that have: {smoothed}",
        ),
        (s.batch % s.pack > 0, f"batch={s.batch} does not divide into packs of {s.pack} (pack={s.pack})"),
        (
            any(judged % size for size in groups if size),
            f"batch={s.batch} gives D {judged} inputs at a time; MinibatchStd needs groups of {groups}",
        ),
        (
            (s.batch == 1 and _first(G, _BATCH_NORMS) is not None) or (judged == 1 and norm is not None),
            f"batch={s.batch}, pack={s.pack} with BatchNorm: there is no spread in a batch of 1",
        ),
        (samples < _LEAST_SAMPLES, f"the data have {samples} samples; expected at least {_LEAST_SAMPLES}"),
        (bool(s.augment) and len(shape) != 3, f"augment={s.augment} is for images; the data are points"),
        (s.flip and len(shape) != 3, "flip=true is for images; the data are points"),
        (s.ema == 1, "ema=1 never takes in a step of G; expected less than 1"),
        (s.optimizer == "adam" and max(s.beta1, s.beta2) == 1, "beta1 and beta2 should be less than 1 for Adam"),
        (s.optimizer == "sgd" and s.beta1 == 1, "beta1=1, as SGD's momentum, never forgets; expected less than 1"),
        (
            s.on_collapse == "rollback" and not s.score_every,
            "on_collapse=rollback goes back to the checkpoint with the best score, and with score_every=0 there is "
            "none: set score_every=250, say",
        ),
    ]


def _doubts(s: Settings, D: Module, samples: int) -> list[tuple[bool, str]]:
    norm = _first(D, _BATCH_NORMS) is not None
    return [
        (
            s.loss == "wasserstein" and not (s.clip_weights or s.penalty or (s.spectral_norm and not norm)),
            "loss=wasserstein and nothing holds the critic's slope: set clip_weights, penalty=wgan-gp or spectral_norm",
        ),
        (bool(s.clip_weights and s.penalty), f"clip_weights and penalty={s.penalty} both hold D: one is enough"),
        (bool(s.clip_weights) and s.spectral_norm, "clip_weights and spectral_norm both hold D: one is enough"),
        (
            bool(s.clip_weights) and s.optimizer == "adam" and s.beta1 > 0,
            "clip_weights with momentum (Adam's beta1 > 0) is unstable, says WGAN's paper: optimizer=rmsprop",
        ),
        (
            s.penalty in ("r1", "r2") and norm,
            f"penalty={s.penalty} with BatchNorm in D: the gradient at one sample depends on the others",
        ),
        (
            s.spectral_norm and norm,
            "spectral_norm with BatchNorm in D, which scales each layer up again: take hinge-sn",
        ),
        (
            s.critic_warmup > 0 and s.loss != "wasserstein",
            f"critic_warmup with loss={s.loss}: 100 steps ahead, D is sure of every sample and teaches G little",
        ),
        (s.penalty_every > 1 and not s.penalty, "penalty_every without a penalty does nothing"),
        (bool(s.penalty) and s.penalty_weight == 0, f"penalty={s.penalty} with penalty_weight=0 does nothing"),
        (bool(s.noise_steps) and not s.noise, "noise_steps without noise does nothing"),
        (s.flip and s.data in ("glyphs", "stacked", "mnist"), "flip=true: most mirrored digits are no digits"),
        (s.g_lr == 0 or s.d_lr == 0, "a learning rate of 0: that network never moves"),
        (s.batch > samples, f"batch={s.batch} of {samples} samples: each is in every batch, some twice"),
        (
            s.ema**s.steps > 0.5 and s.steps >= 100,  # shorter runs are rehearsals
            f"ema={s.ema:g} over {s.steps} steps: the average that is sampled is still {s.ema**s.steps:.0%} the first, "
            "untrained G",
        ),
    ]


def _try_out(s: Settings, G: Module, D: Module, shape: tuple[int, ...]) -> None:
    """Both networks on zeros, in eval mode: do the shapes meet?"""
    modes = G.training, D.training
    G.eval(), D.eval()
    with mg.no_grad():
        made = _answer(G, mg.zeros(2 * s.pack, s.latent), f"G does not take latents of size {s.latent}")
        if tuple(made.shape[1:]) != shape:
            raise SettingsError(f"G makes samples of shape {tuple(made.shape[1:])}, the data has {shape}")
        judged = _answer(D, pack(made, s.pack), f"D does not take samples of shape {shape}, {s.pack} at a time")
        if judged.shape not in ((2, 1), (2,)):
            raise SettingsError(f"D gives {tuple(judged.shape)} for 2 inputs, expected one logit each: (2, 1)")
        if s.augment:
            _answer(lambda x: diff_augment(x, s.augment, mg.Generator(name="trial")), made, f"augment={s.augment}")
    G.train(modes[0]), D.train(modes[1])


def _answer(network: Callable[[Tensor], Tensor], x: Tensor, otherwise: str) -> Tensor:
    try:
        return network(x)
    except (RuntimeError, ValueError) as error:
        raise SettingsError(f"{otherwise}: {error}") from None


def _first(network: Module, kinds: tuple[type[Module], ...]) -> str | None:
    """The path of the first layer of these kinds."""
    return next((name for name, layer in network.named_modules() if isinstance(layer, kinds)), None)

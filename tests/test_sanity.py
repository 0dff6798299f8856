"""What is refused and what is warned of before step 0: each combination planted, and the shipped ones silent."""

import re

import pytest

import minigan as mg
from minigan import nn
from minigan.gan.recipes import NAMES, POINTS, get_recipe
from minigan.gan.sanity import check
from minigan.gan.settings import SettingsError
from minigan.gan.trainer import Trainer
from minigan.gan.tricks import MinibatchStd

pytestmark = pytest.mark.skipif(mg.get_default_device().type != "cpu", reason="settings.device names the CPU")


def report(recipe, shape=None, samples=60_000, D=None, G=None, **changes):
    """The warnings about a recipe's networks, or these."""
    recipe = get_recipe(recipe)
    settings = recipe.defaults.changed(({"width": 4} if hasattr(recipe.defaults, "width") else {}) | changes)
    shape = shape or ((2,) if recipe.name in POINTS else (1, settings.size, settings.size))
    networks = recipe.networks(settings, shape)
    return check(settings, G or networks[0], D or networks[1], shape, samples)


def critic(*last, channels=1):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 32 * 32, 1), *last)


@pytest.mark.parametrize("recipe", NAMES)
def test_shipped_recipes_raise_no_doubt(recipe):
    assert report(recipe) == []


REFUSED = {
    "wgan-gp and BatchNorm": ("dcgan-32", {"penalty": "wgan-gp"}, r"penalty=wgan-gp with BatchNorm in D \(layer 3\)"),
    "dragan and BatchNorm": ("lsgan", {"penalty": "dragan"}, "penalty=dragan with BatchNorm in D"),
    "sigmoid": ("dcgan-32", {"D": critic(nn.Sigmoid())}, r"D ends in Sigmoid\(\): the losses expect logits"),
    "log sigmoid": ("dcgan-32", {"D": critic(nn.LogSigmoid())}, "D ends in LogSigmoid"),
    "smooth without labels": ("hinge-sn", {"smooth": 0.1}, "smooth=0.1 with loss=hinge, which has no labels"),
    "packs": ("stacked", {"shape": (3, 32, 32), "batch": 65}, "batch=65 does not divide into packs of 2"),
    "groups": ("lsgan", {"D": critic(MinibatchStd(4), nn.Linear(2, 1)), "batch": 6}, "batch=6 gives D 6 inputs"),
    "groups of packs": (
        "lsgan",
        {"D": critic(MinibatchStd(4), nn.Linear(2, 1), channels=2), "batch": 12, "pack": 2},
        "batch=12 gives D 6 inputs",
    ),
    "a batch of one": ("dcgan-28", {"batch": 1}, "batch=1, pack=1 with BatchNorm: there is no spread"),
    "a batch of one pack": ("lsgan", {"batch": 2, "pack": 2}, "batch=2, pack=2 with BatchNorm"),
    "few samples": ("ring", {"samples": 19}, "the data have 19 samples; expected at least 20"),
    "augmented points": ("ring", {"augment": "cutout"}, "augment=cutout is for images"),
    "mirrored points": ("ring", {"flip": True}, "flip=true is for images"),
    "unknown augmentation": ("lsgan", {"augment": "cutuot"}, "unknown change 'cutuot'.*did you mean 'cutout'"),
    "frozen average": ("lsgan", {"ema": 1.0}, "ema=1 never takes in a step"),
    "Adam": ("lsgan", {"beta2": 1.0}, "beta1 and beta2 should be less than 1"),
    "SGD": ("gan", {"beta1": 1.0}, "beta1=1, as SGD's momentum, never forgets"),
    "rollback to nothing": ("lsgan", {"on_collapse": "rollback"}, "with score_every=0 there is none"),
    "G's shape": ("lsgan", {"G": nn.Linear(100, 5)}, r"G makes samples of shape \(5,\), the data has \(1, 32, 32\)"),
    "D's shape": ("lsgan", {"D": nn.Conv2d(1, 1, 4)}, r"D gives \(2, 1, 29, 29\) for 2 inputs"),
    "D's input": ("lsgan", {"D": critic(channels=3)}, r"D does not take samples of shape \(1, 32, 32\), 1 at a time: "),
    "G's input": ("lsgan", {"G": nn.Linear(99, 5)}, r"G does not take latents of size 100: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    recipe, changes, message = REFUSED[name]
    with pytest.raises(SettingsError, match=message) as error:
        report(recipe, **changes)
    assert "\n" not in str(error.value)


DOUBTED = {
    "nothing holds the critic": ("lsgan", {"loss": "wasserstein"}, "nothing holds the critic's slope"),
    "a norm undoes it": ("lsgan", {"loss": "wasserstein", "spectral_norm": True}, "nothing holds the critic's slope"),
    "clip and penalty": ("wgan-gp", {"clip_weights": 0.01, "optimizer": "rmsprop"}, "both hold D"),
    "clip and spectral norm": ("hinge-sn", {"clip_weights": 0.01, "optimizer": "rmsprop"}, "both hold D"),
    "clip and momentum": ("wgan", {"optimizer": "adam"}, "clip_weights with momentum"),
    "r1 and BatchNorm": ("lsgan", {"penalty": "r1"}, "penalty=r1 with BatchNorm in D"),
    "spectral norm and BatchNorm": ("dcgan-32", {"spectral_norm": True}, "spectral_norm with BatchNorm in D"),
    "warmup": ("lsgan", {"critic_warmup": 25}, "critic_warmup with loss=least-squares"),
    "lazy nothing": ("lsgan", {"penalty_every": 4}, "penalty_every without a penalty"),
    "weightless": ("ring", {"penalty_weight": 0.0}, "penalty=r1 with penalty_weight=0"),
    "noise that is none": ("lsgan", {"noise_steps": 10}, "noise_steps without noise"),
    "mirrored digits": ("lsgan", {"flip": True}, "most mirrored digits are no digits"),
    "G does not move": ("lsgan", {"g_lr": 0.0}, "a learning rate of 0"),
    "small data": ("lsgan", {"samples": 50}, "batch=64 of 50 samples"),
    "slow average": ("lsgan", {"ema": 0.9999, "steps": 1000}, "ema=0.9999 over 1000 steps: .* still 90% the first"),
}


@pytest.mark.parametrize("name", DOUBTED)
def test_doubted(name):
    recipe, changes, message = DOUBTED[name]
    (warning,) = [line for line in report(recipe, **changes) if re.search(message, line)]
    assert "\n" not in warning


def test_several_reasons_are_said_at_once():
    with pytest.raises(SettingsError, match=r"smooth=0\.1 .*; ema=1"):
        report("lsgan", loss="hinge", smooth=0.1, ema=1.0)


def test_what_makes_sense_is_neither():
    assert report("hinge-sn", loss="wasserstein") == []  # the spectral norm holds the critic
    assert report("wgan-gp", ema=0.999) == []
    assert report("stacked", (1, 32, 32)) == []  # one channel is fine
    assert report("gan", (3, 28, 28)) == []
    assert report("hinge-sn", penalty="r1", D=critic(MinibatchStd(4), nn.Linear(2, 1))) == []
    assert report("ring", steps=4) == []  # a rehearsal; its average of 0.99 does not matter


def test_modes_and_random_numbers_are_as_before():
    recipe = get_recipe("gan")  # has dropout
    G, D = recipe.networks(recipe.defaults, (1, 28, 28))
    D.eval()
    before = mg.random.state_dict()
    check(recipe.defaults, G, D, (1, 28, 28), 100)
    assert (G.training, D.training) == (True, False)
    assert repr(mg.random.state_dict()) == repr(before)


@pytest.mark.parametrize("recipe", NAMES)
@pytest.mark.parametrize("data", ["ring", "swiss-roll", "glyphs", "stacked"])
def test_every_recipe_takes_any_data_or_says_why_not(recipe, data):
    settings = get_recipe(recipe).defaults
    points = data in ("ring", "swiss-roll")
    changes = {"data": data, "limit": 40, "batch": 8, "steps": 1, "n_critic": 1, "critic_warmup": 0}
    changes |= {"size": 0} if points else {"size": 16}
    changes |= {"width": 4} if hasattr(settings, "width") else {}
    if points == (recipe in POINTS):
        trainer = Trainer(settings.changed(changes))
        trainer.step()
        assert trainer.sample(2).shape == (2, *trainer.data.shape)
    else:
        with pytest.raises(SettingsError, match=rf"the recipe {recipe} is not for {'points' if points else 'images'}"):
            Trainer(settings.changed(changes))


@pytest.mark.parametrize("recipe", [name for name in NAMES if name not in POINTS])
@pytest.mark.parametrize("shape", [(1, 27, 27), (1, 28, 32), (3, 16, 16), (2, 4, 4), (1, 1, 1), (4, 8, 12)])
def test_odd_sizes_work_or_are_one_clear_line(recipe, shape):
    try:
        report(recipe, shape)
    except SettingsError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert str(shape) in str(error) or f"{shape[1]}×{shape[2]}" in str(error)  # noqa: PT017


@pytest.mark.parametrize("device", ["cpu:1", "tpu", "cuda:7", ""])
def test_a_device_that_is_not_there_is_a_setting_that_is_wrong(device):
    with pytest.raises(SettingsError, match=f"device '{device}'"):
        Trainer(get_recipe("ring").defaults.changed({"limit": 40, "device": device}))

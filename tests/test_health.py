"""What minigan.gan.health says about networks with planted faults, and that runs stop before a NaN is kept."""

import re

import numpy as np
import pytest

import minigan as mg
from minigan import nn
from minigan.cli import main
from minigan.gan import checkpoint, runs
from minigan.gan.health import dead_units, first_bad_output, gradient_norms, non_finite
from minigan.gan.recipes import get_recipe
from minigan.gan.trainer import Callback, NonFinite, Trainer

pytestmark = pytest.mark.skipif(mg.get_default_device().type != "cpu", reason="settings.device names the CPU")
SMALL = {
    "steps": 12, "batch": 16, "limit": 400, "width": 8, "score_samples": 40, "log_every": 2, "checkpoint_every": 4,
    "sample_every": 50,
}  # fmt: skip


def ring(**changes):
    return get_recipe("ring").defaults.changed({**SMALL, **changes})


class At(Callback):
    """Does something after a step."""

    def __init__(self, step, act):
        self.at, self.act = step, act

    def step(self, trainer, record):
        if trainer.steps_done == self.at:
            self.act(trainer)


class Overflow(nn.Module):
    def forward(self, x):
        return (x * 1e4).exp()


def spoil(network, path, value):
    def act(trainer):
        with mg.no_grad():
            getattr(trainer, network).get_parameter(path).view(-1)[0] = value

    return act


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_finds_tensors_at_any_depth(value):
    bad, good = mg.tensor([1.0, value]), mg.arange(3)
    state = {"a": [good, (good, {"b": bad})], "best": value, "none": None, "c": bad}
    assert non_finite(state) == ["a.1.1.b", "c"]
    assert non_finite({"a": [good, 1e38, "text"], "b": mg.tensor([True])}) == []


def test_first_bad_output_is_the_innermost_layer():
    inner = nn.Sequential(nn.Linear(2, 2), Overflow())
    network = nn.Sequential(nn.Linear(2, 2), inner, nn.Linear(2, 1))
    with mg.no_grad():
        assert first_bad_output(network, "D", mg.full((1, 2), 1e6)) == "the output of D.1.1 (Overflow)"
    assert not any(layer._forward_hooks for layer in network.modules())
    assert first_bad_output(nn.Linear(2, 2), "D", mg.ones(1, 2)) is None


def test_dead_units_counts_channels():
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.LeakyReLU())
    nn.init.zeros_(network[0].weight)
    with mg.no_grad():
        network[0].bias[:] = mg.tensor([1.0, -1.0, -1.0, -1.0])
    assert dead_units(network, mg.randn(5, 1, 3, 3)) == {"1 (ReLU)": 0.75}


def test_gradient_norms_are_those_of_weights_alone():
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    assert gradient_norms(network) == {}
    network(mg.randn(8, 2)).square().sum().backward()
    norms = gradient_norms(network)
    assert list(norms) == ["0.weight", "2.weight"]
    assert norms["2.weight"] == pytest.approx(np.linalg.norm(network[2].weight.grad.numpy()), rel=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("network", "path"), [("G", "2.weight"), ("G", "0.bias"), ("D", "4.weight"), ("D", "6.bias")])
def test_a_bad_weight_stops_the_run_and_is_named(tmp_path, network, path, value):
    with pytest.raises(NonFinite, match=rf"step 6, D's update.*Not finite: the weight {network}\.{path}\b") as error:
        runs.train(ring(), tmp_path / "run", callbacks=[At(5, spoil(network, path, value))])
    assert "the checkpoint of step 4 is whole" in str(error.value)
    assert "\n" not in str(error.value)
    assert checkpoint.steps(tmp_path / "run" / "checkpoints")[-1] == 4


@pytest.mark.parametrize("network", ["G", "D", "ema"])
@pytest.mark.parametrize("every", [{"checkpoint_every": 6}, {"score_every": 6}, {"sample_every": 6}])
def test_a_bad_weight_is_never_saved_scored_or_drawn(tmp_path, network, every):
    """It comes up after the last loss before a checkpoint, scores or a picture."""

    def act(trainer):
        module = trainer.ema.module if network == "ema" else getattr(trainer, network)
        with mg.no_grad():
            module.get_parameter("6.bias")[0] = float("nan")

    settings = ring(checkpoint_every=3).changed(every)
    with pytest.raises(NonFinite) as error:
        runs.train(settings, tmp_path / "run", callbacks=[At(6, act)])
    assert "6" in str(error.value).split(":")[0]
    for folder in ("checkpoints", "best"):
        for step in checkpoint.steps(tmp_path / "run" / folder):
            assert step < 6
            assert non_finite(checkpoint.load(tmp_path / "run" / folder, step)) == []
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_infinite_moments_are_not_saved_though_weights_are_finite():
    trainer = Trainer(ring())
    trainer.step()
    trainer.d_optimizer.state_dict()["state"][0]["exp_avg_sq"].fill_(float("inf"))
    with pytest.raises(NonFinite, match=r"not saved, for d_optimizer\.state\.0\.exp_avg_sq is bad"):
        trainer.state_dict()


def test_an_output_that_overflows_is_named():
    trainer = Trainer(ring())
    trainer.D.append(Overflow())
    spoil("D", "6.bias", 1e3)(trainer)
    with pytest.raises(
        NonFinite, match=r"step 1, D's update: the loss is (inf|nan)\. Not finite: the output of D\.7 \("
    ):
        trainer.step()


def test_a_gradient_that_is_not_finite_while_the_loss_is():
    """The slope of a root at 0: the loss is finite, all weights before it become NaN."""

    class Root(nn.Module):
        def forward(self, x):
            return (x * 0).sqrt() + x

    trainer = Trainer(ring(penalty=""))
    trainer.D.insert(3, Root())
    with pytest.raises(NonFinite, match=r"step 1, G's update: .* Not finite: the weight D\.2\.bias \(and 3"):
        trainer.step()


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_an_explosion_ends_in_one_line(tmp_path, capsys, optimizer):
    settings = SMALL | {"g_lr": 1e30, "d_lr": 1e30, "optimizer": optimizer}
    sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    assert main(["train", "ring", "--quiet", "--out", str(tmp_path / "run"), *sets]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"minigan: step \d+, [GD]'s update: .*Not finite: the .*Try a lower learning rate.*\n", err)
    for step in checkpoint.steps(tmp_path / "run" / "checkpoints"):
        assert non_finite(checkpoint.load(tmp_path / "run" / "checkpoints", step)) == []


@pytest.mark.parametrize("changes", [{"pack": 2}, {"ema": 0}, {"noise": 0.1}, {"loss": "relativistic", "penalty": ""}])
def test_explanations_work_with_every_way_d_is_fed(changes):
    trainer = Trainer(ring(**changes))
    trainer.D.append(Overflow())
    spoil("D", "6.bias", 1e3)(trainer)
    with pytest.raises(NonFinite, match=r"D\.7 \(Overflow\)"):
        trainer.step()

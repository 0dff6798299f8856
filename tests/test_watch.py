"""Alarms: each planted fault raises its own once, with evidence; healthy runs raise none; what a collapse leads to."""

import json

import numpy as np
import pytest

import minigan as mg
from minigan import nn
from minigan.cli import main
from minigan.data.source import Data
from minigan.gan import callbacks, checkpoint, runs, watch
from minigan.gan.recipes import NAMES, get_recipe
from minigan.gan.trainer import Callback, StopTraining, Trainer
from minigan.gan.watch import Watch

pytestmark = pytest.mark.skipif(mg.get_default_device().type != "cpu", reason="settings.device names the CPU")
RING = {
    "steps": 160, "batch": 64, "limit": 1000, "width": 32, "score_samples": 100, "log_every": 5, "ema": 0,
    "networks": "unrolled", "penalty": "", "lr_decay": 0,
    "sample_every": 10, "checkpoint_every": 20,
}  # fmt: skip


@pytest.fixture
def early(monkeypatch):
    """Alarms about variety from step 50 on: this ring is learnt by then."""
    monkeypatch.setattr(watch, "YOUNG", 50)


@pytest.fixture
def no_report(monkeypatch):
    """What is drawn at the end of a run takes longer than these runs."""
    monkeypatch.setattr(callbacks, "write_report", lambda path: None)


def ring(**changes):
    return get_recipe("ring").defaults.changed({**RING, **changes})


class Act(Callback):
    """Does something after each step from `first` on, and collects the warnings."""

    def __init__(self, act=lambda trainer: None, first=0):
        self.act, self.first, self.given = act, first, []

    def step(self, trainer, record):
        if trainer.steps_done >= self.first:
            self.act(trainer)

    def event(self, trainer, record):
        if "warning" in record:
            self.given.append((record["step"], record["warning"], record["message"]))


def warnings_of(settings, act=lambda trainer: None, first=0, data=None, prepare=lambda trainer: None):
    """The warnings of a run whose trainer is tampered with, without files."""
    planted = Act(act, first)
    trainer = Trainer(settings, data, [planted, Watch(run=None)])
    prepare(trainer)
    trainer.train()
    return planted.given


def flatten(trainer):
    """G's samples become all alike."""
    with mg.no_grad():
        last = [p for p in trainer.G.parameters() if p.ndim > 1][-1]
        last.mul_(0.001)


def kinds(given):
    return [kind for _, kind, _ in given]


# Healthy runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("recipe", "seed"), [("ring", 0), ("grid", 1)])
def test_healthy_points_raise_no_alarm(recipe, seed):
    changes = {"steps": 520, "batch": 32, "limit": 5000, "width": 32, "log_every": 5, "sample_every": 20, "seed": seed}
    assert warnings_of(get_recipe(recipe).defaults.changed(changes)) == []


@pytest.mark.parametrize("recipe", [name for name in NAMES if name not in ("ring", "grid", "dcgan-64")])
def test_the_first_steps_of_images_raise_no_alarm(recipe):
    settings = get_recipe(recipe).defaults
    small = {"width": 8} if hasattr(settings, "width") else {}
    small |= {"n_critic": 1, "critic_warmup": 0, "limit": 200, "batch": 8, "steps": 12, "log_every": 1}
    assert warnings_of(settings.changed({**small, "sample_every": 4})) == []


@pytest.mark.parametrize(
    "values",
    [
        np.full((100, 2), 0.5, np.float32),  # all the same
        np.random.default_rng(0).normal(0.5, 1e-4, (25, 2)).astype(np.float32),  # few, and nearly the same
        np.repeat(np.float32([[-1, 0], [1, 0]]), 50, 0),  # sorted by class
    ],
)
def test_data_with_little_variety_raise_no_collapse(values, early):
    given = warnings_of(ring(), data=Data("alike", values))
    assert "collapse" not in kinds(given)


def test_real_samples_are_taken_from_all_of_the_data():
    guard = Watch(run=None)
    guard.start(Trainer(ring(), Data("sorted", np.repeat(np.float32([[-1, 0], [1, 0]]), 500, 0))))
    assert guard._real_distance == pytest.approx(1, abs=0.02)  # half of the pairs are 2 apart


def test_a_run_is_the_same_with_and_without_the_watch():
    """Of BatchNorm's statistics and the random streams above all, also where data are flipped at random."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    settings = get_recipe("dcgan-32").defaults.changed(
        {"steps": 4, "batch": 8, "width": 4, "flip": True, "sample_every": 1, "log_every": 1}
    )
    states = []
    for watching in ([], [Watch(run=None)]):
        trainer = Trainer(settings, Data("noise", pixels, flip=True), watching)
        trainer.train()
        states.append(trainer.state_dict())
    for network in ("G", "D"):
        for name, value in states[0][network].items():
            np.testing.assert_array_equal(value.numpy(), states[1][network][name].numpy(), err_msg=f"{network}.{name}")


# Planted faults ----------------------------------------------------------------------------------------


def test_a_collapse_in_mid_run_is_found_within_a_few_probes(early):
    given = warnings_of(ring(), flatten, first=100)
    assert kinds(given).count("collapse") == 1
    step, _, message = next(line for line in given if line[1] == "collapse")
    assert step <= 140
    assert message.startswith("G has collapsed: mean distance ")
    assert "of real samples 1.2" in message


def test_a_generator_that_never_varied_is_found_when_it_has_had_time(early):
    for steps, expected in ((200, 100), (80, 50), (40, None)):
        given = warnings_of(ring(steps=steps), flatten)
        assert next((step for step, kind, _ in given if kind == "collapse"), None) == expected


def score(value, floor=0.8, high=None):
    high = value if high is None else high
    return {"value": value, "low": value, "high": high, "floor": floor, "better": "higher"}


@pytest.mark.parametrize("name", ["recall", "coverage", "classes", "modes"])
def test_a_score_that_falls_is_a_collapse_and_one_of_few_samples_is_not(name, early):
    def alarms(*scores):
        planted = Act()
        trainer = Trainer(ring(steps=400, sample_every=1000), callbacks=[planted, Watch(run=None)])
        guard = trainer.callbacks[1]
        guard.start(trainer)
        for trainer.steps_done, value in zip(range(60, 150, 10), scores, strict=False):
            trainer.emit({"step": trainer.steps_done, "scores": {name: value, "precision": score(0.0)}})
            guard.step(trainer, {})
            guard.step(trainer, {})  # of the next step: no new scores
        return planted.given

    low, good, wide = score(0.1), score(0.7), score(0.1, high=0.7)
    assert alarms(good, low, low)[0][:2] == (80, "collapse")
    assert len(alarms(good, low, low, low, good, low, low)) == 1
    assert alarms(good, low, good, low) == []
    assert alarms(good, wide, wide, wide) == []
    assert alarms(wide, low, low, low) == []
    assert alarms(low, low, low) == []  # it has never been good, and the run is young
    assert alarms(score(0.1, floor=0.0), *[score(0.0, floor=0.0)] * 3) == []
    assert alarms(good, *[score(float("nan"))] * 3) == []


def test_a_discriminator_that_is_sure():
    class Sure(nn.Module):
        """Knows real from fake: the ring has no points near its middle."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(mg.tensor([[40.0]]))

        def forward(self, x):
            return (x.square().sum(1, keepdim=True) - 0.5) * self.scale

    def prepare(trainer):
        trainer.D = Sure()
        trainer.d_optimizer = mg.optim.SGD(trainer.D.parameters(), lr=0.0)

    still = {"steps": 60, "penalty": "", "g_lr": 1e-9, "d_lr": 1e-9}
    given = warnings_of(ring(**still), prepare=prepare)
    assert kinds(given).count("discriminator") == 1
    step, _, message = next(line for line in given if line[1] == "discriminator")
    assert step == 25  # the fifth record
    assert "D(x) 1.000, D(G(z)) 0.000" in message
    undecided = warnings_of(ring(**still), prepare=lambda trainer: trainer.D[4].bias.data.fill_(20.0))
    assert "discriminator" not in kinds(undecided)  # it takes fakes for real too
    no_probabilities = warnings_of(ring(**still, loss="wasserstein"), prepare=prepare)
    assert "discriminator" not in kinds(no_probabilities)


@pytest.mark.parametrize("phase", ["D", "G"])
def test_gradients_that_vanish_at_some_layers(phase):
    def prepare(trainer):
        with mg.no_grad():
            getattr(trainer, phase)[2].weight.zero_()  # nothing reaches the layer before, nor it

    given = warnings_of(ring(steps=60), act=prepare, prepare=prepare)
    kind = f"{phase.lower()}-vanishing"
    assert kinds(given).count(kind) == 1
    message = next(message for _, kind_, message in given if kind_ == kind)
    assert f"gradients of {phase} have vanished (norms below 1e-07 at 0.weight" in message


@pytest.mark.parametrize("phase", ["D", "G"])
def test_gradients_that_explode(phase):
    def act(trainer):
        with mg.no_grad():
            for p in getattr(trainer, phase).parameters():
                p.mul_(1.5)

    given = warnings_of(ring(steps=125, networks="quick"), act, first=105)
    exploding = [line for line in given if line[1] == f"{phase.lower()}-exploding"]
    assert len(exploding) == 1
    assert exploding[0][0] > 100
    assert "at first at most" in exploding[0][2]
    assert "weight; at" in exploding[0][2]


def test_dead_units():
    def prepare(trainer):
        for i in (1, 3, 5):
            trainer.G[i] = nn.ReLU()
        with mg.no_grad():
            trainer.G[2].weight[:24], trainer.G[2].bias[:24] = 0.0, -100.0
            trainer.G[2].bias[24:] = 100.0

    given = warnings_of(ring(steps=40, networks="quick"), prepare=prepare)
    assert kinds(given).count("dead units") == 1
    assert "channels of G that are 0 for all of 128 latents: 3 (ReLU) 75%" in given[0][2]


def test_settings_that_are_doubtful_are_in_the_metrics_once(tmp_path, no_report):
    run = runs.train(ring(steps=4, d_lr=0), tmp_path / "run")
    runs.resume(run.path, steps=6)
    lines = [line for line in run.metrics() if "warning" in line]
    assert [(line["step"], line["warning"]) for line in lines] == [(0, "settings")]
    assert "a learning rate of 0" in lines[0]["message"]


# What a collapse leads to ------------------------------------------------------------------------------


def test_stop_ends_the_run_early_with_everything_written(tmp_path, early):
    run = runs.train(ring(on_collapse="stop"), tmp_path / "run", callbacks=[Act(flatten, 100)])
    lines = run.metrics()
    (warning,) = [line for line in lines if "warning" in line]
    assert 100 < warning["step"] <= 140
    assert "on_collapse=stop" in warning["message"]
    assert checkpoint.steps(run.checkpoints)[-1] == warning["step"] == lines[-1]["step"]
    assert "scores" in lines[-1]
    assert (run.samples / f"step-{warning['step']:06d}.png").exists()
    for name in ("curves.png", "report.html", "real.png"):
        assert (run.path / name).exists()
    assert "G has collapsed" in (run.path / "report.html").read_text("utf-8")


def test_stop_is_said_on_the_command_line(tmp_path, capsys, monkeypatch, no_report):
    monkeypatch.setattr(Watch, "_lost", lambda *_: "mean distance 0, of real samples 1")
    words = [word for name, value in RING.items() for word in ("--set", f"{name}={value}")]
    out = tmp_path / "run"
    assert main(["train", "ring", "--quiet", "--on-collapse", "stop", "--out", str(out), *words]) == 0
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert last.startswith("warning at step 10: G has collapsed: mean distance 0, of real")
    assert last.endswith("The run ends here, for on_collapse=stop")


ROLLBACK = {"on_collapse": "rollback", "score_every": 20}


class FlattenOnce(Act):
    """A collapse from a step on, that a rollback cures, by its lower rates."""

    def __init__(self, first):
        super().__init__(lambda trainer: flatten(trainer) if trainer.rate == 1 else None, first)


def test_rollback_goes_back_to_the_best_checkpoint(tmp_path, early, no_report):
    seen = []

    def look(trainer):
        seen.append((trainer.steps_done, trainer.rate, float(trainer.G[4].weight.abs().max())))

    run = runs.train(ring(**ROLLBACK), tmp_path / "run", callbacks=[Act(look), FlattenOnce(100)])
    (warning,) = [line for line in run.metrics() if "warning" in line]
    assert warning["warning"] == "collapse"
    assert "Back to the best checkpoint (step " in warning["message"]
    best = int(warning["message"].split("(step ")[1].split(")")[0])
    assert best < 120
    before, after = seen[warning["step"] - 1], seen[warning["step"]]
    assert (before[1], after[1]) == (1.0, 0.5)
    assert before[2] < 0.01 < after[2]
    assert seen[-1][0] == 160


def test_rollback_happens_three_times_and_then_only_warns(tmp_path, early, no_report):
    run = runs.train(ring(**ROLLBACK), tmp_path / "run", callbacks=[Act(flatten, 60)])
    lines = [line["message"] for line in run.metrics() if "warning" in line]
    assert ["Back to" in line for line in lines] == [True, True, True, False]
    state, _ = checkpoint.load_latest(run.checkpoints)
    assert (state["steps_done"], state["rate"]) == (160, 1 / 8)


def test_a_run_with_a_rollback_resumes_to_equal_bytes(tmp_path, early, no_report):
    class Kill(Exception):
        pass

    class KillAt(Callback):
        def step(self, trainer, record):
            if trainer.steps_done == self.at:
                raise Kill

    settings = ring(**ROLLBACK)
    whole = runs.train(settings, tmp_path / "whole", callbacks=[FlattenOnce(100)])
    (warning,) = [line for line in whole.metrics() if "warning" in line]
    assert "Back to" in warning["message"]
    killed, kill = tmp_path / "killed", KillAt()
    kill.at = 90
    with pytest.raises(Kill):
        runs.train(settings, killed, callbacks=[FlattenOnce(100), kill])
    for kill.at in (113, warning["step"], warning["step"] + 1, 151):  # before, at and after the rollback
        with pytest.raises(Kill):
            runs.resume(killed, callbacks=[FlattenOnce(100), kill])
    ended = runs.resume(killed, callbacks=[FlattenOnce(100)])
    assert ended.metrics_file.read_bytes() == whole.metrics_file.read_bytes()
    for mine, other in ((ended.checkpoints, whole.checkpoints), (ended.best, whole.best)):
        files = {path.name: path.read_bytes() for path in mine.glob("*.safetensors")}
        assert files == {path.name: path.read_bytes() for path in other.glob("*.safetensors")}


def test_a_damaged_best_checkpoint_does_not_end_the_run(tmp_path, early, no_report):
    def damage(trainer):
        for path in (tmp_path / "run" / "best").glob("*.safetensors"):
            path.write_bytes(b"damaged")

    settings = ring(**ROLLBACK | {"score_every": 90})
    run = runs.train(settings, tmp_path / "run", callbacks=[FlattenOnce(100), Act(damage, 95)])
    lines = [line["message"] for line in run.metrics() if "warning" in line]
    assert len(lines) == 1
    assert "Back to" not in lines[0]


def test_state_survives_json():
    one, other = Watch(run=None), Watch(run=None)
    one.given, one.counts, one.healthy, one.usual, one.rollbacks = ["collapse"], {"a": 2}, ["a"], [0.1], 2
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for name in ("given", "counts", "healthy", "usual", "rollbacks"):
        assert getattr(other, name) == getattr(one, name)


def test_stop_training_is_no_error():
    class Stop(Callback):
        def step(self, trainer, record):
            raise StopTraining("enough")

    trainer = Trainer(ring(), callbacks=[Stop()])
    trainer.train()
    assert (trainer.steps_done, trainer.stopped) == (1, "enough")

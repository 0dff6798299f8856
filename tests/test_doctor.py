"""minigan doctor: every planted mistake is named, and correct loops of many kinds get no word."""

import numpy as np
import pytest
from gan_loops import CORRECT, BatchOfBoth, Loop, Noisy, Penalised
from gan_parts import (
    LOSSES,
    ConvD,
    ConvG,
    Hinge,
    HingeByMin,
    Logistic,
    N,
    PointD,
    PointG,
    Softplus,
    Z,
    adam,
    images,
    ring,
)  # fmt: skip

import minigan as mg
from minigan import nn
from minigan.gan import recipes
from minigan.gan.doctor import diagnose, examine
from minigan.gan.recorder import recording
from minigan.gan.trainer import Trainer


def names(loop, foreign=False, **kwargs):
    """The names of what is found; `foreign`: without being told which network is which."""
    if not foreign:
        return [finding.name for finding in examine(loop.G, loop.D, loop.step, **kwargs)]
    with recording() as record:
        for _ in range(10):
            loop.step()
    return [finding.name for finding in diagnose(record)]


both_ways = pytest.mark.parametrize("foreign", [False, True], ids=["given", "found"])


@both_ways
@pytest.mark.parametrize("kind", CORRECT)
def test_silent_on_correct_code(kind, foreign):
    assert names(CORRECT[kind](), foreign) == []


@pytest.mark.parametrize("name", recipes.NAMES)
def test_silent_on_shipped_recipes(name):
    settings = recipes.get_recipe(name).defaults
    smaller = {"width": 4, "units": 16, "limit": 200, "batch": 32, "critic_warmup": 0}
    trainer = Trainer(settings.changed({key: smaller[key] for key in smaller.keys() & settings.to_dict().keys()}))
    assert examine(trainer.G, trainer.D, trainer.step) == []


# Planted mistakes -----------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("loss", [Logistic, Softplus, Hinge, HingeByMin], ids=lambda loss: loss.__name__)
def test_sigmoid_into_a_logits_loss(loss, foreign):
    assert names(Loop(D=ConvD(last=nn.Sigmoid), loss=loss), foreign) == ["sigmoid into a logits loss"]


def test_sigmoid_applied_in_the_loop():
    class Twice(Loop):
        def d_loss(self, real, fake):
            return self.loss.d(self.D(real), self.D(fake).sigmoid().squeeze(1))

    (finding,) = examine((loop := Twice()).G, loop.D, loop.step)
    assert finding.name == "sigmoid into a logits loss"
    assert "outside of the networks" in finding.message


@both_ways
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_generator_trained_on_fake_labels(loss, foreign):
    loop = Loop(loss=loss)
    loop.g_loss = lambda fake: loss.wrong(loop.D(fake))
    assert names(loop, foreign) == ["G trained on fake labels"]


@pytest.mark.parametrize("shift", [-3.0, -0.7, 0.5, 3.0])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_sides_wherever_the_logits_are(loss, shift):
    def build():
        D = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
        D[2].bias.data += shift
        return Loop(PointG(), D, loss, ring)

    assert names(build()) == []
    loop = build()
    loop.g_loss = lambda fake: loss.wrong(loop.D(fake))
    found = names(loop)
    saturated = loss in (Hinge, HingeByMin) and abs(shift) == 3  # D does not push one of the sides at all
    assert found == ["G trained on fake labels"] or (saturated and found == [])


@both_ways
@pytest.mark.parametrize("which", ["G", "D"])
@pytest.mark.parametrize("to_none", [True, False])
def test_zeroed_between_backward_and_step(which, to_none, foreign):
    loop = Loop()
    network, optimizer = (loop.G, loop.g_adam) if which == "G" else (loop.D, loop.d_adam)
    step = optimizer.step

    def late():
        network.zero_grad(set_to_none=to_none)
        step()

    optimizer.step = late
    assert names(loop, foreign) == ["gradients zeroed before the step"]


@both_ways
@pytest.mark.parametrize("which", ["G", "D"])
def test_never_zeroed(which, foreign):
    loop = Loop()
    optimizer = loop.g_adam if which == "G" else loop.d_adam
    optimizer.zero_grad = lambda: None
    assert names(loop, foreign) == ["gradients never zeroed"]


def still(which, how):
    loop = Loop()
    network, optimizer = (loop.G, loop.g_adam) if which == "G" else (loop.D, loop.d_adam)
    if how == "held":
        optimizer.param_groups[0]["params"] = [nn.Parameter(mg.zeros(1))]
    elif how == "rate":
        optimizer.param_groups[0]["lr"] = 0.0
    elif how == "requires_grad":
        network.requires_grad_(False)
    elif how == "zero" or which == "D":
        loss = "g_loss" if which == "G" else "d_loss"
        old = getattr(loop, loss)
        setattr(loop, loss, lambda *x: old(*x) * 0)
    else:
        loop.g_loss = lambda fake: loop.loss.g(loop.D(fake.detach()))
    return loop


@pytest.mark.parametrize("which", ["G", "D"])
@pytest.mark.parametrize(
    ("how", "reason"),
    [("held", "no optimiser"), ("rate", "learning rate is 0"), ("zero", "are 0"), ("detached", "no backward")],
)
def test_network_does_not_move(which, how, reason):
    loop = still(which, how)
    reason = "are 0" if which == "D" and how == "detached" else reason  # there is nothing before D to detach
    (finding,) = examine(loop.G, loop.D, loop.step)
    assert finding.name == "network does not move"
    assert f"parameter of {which} " in finding.message
    assert reason in finding.message


def test_frozen_network_does_not_move():
    loop = still("G", "requires_grad")
    loop.D.main[0].weight.requires_grad_()
    (finding,) = examine(loop.G, loop.D, lambda: loop.d_step(loop.G(loop.noise())))
    assert "requires_grad is False" in finding.message


@both_ways
def test_own_output(foreign):
    class Nested(Loop):
        def g_loss(self, fake):
            return self.loss.g(self.D(self.D(fake)))

    D = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))
    loop = Nested(nn.Linear(Z, 1), D, real=lambda: ring()[:, :1])
    assert names(loop, foreign) == ["D applied to its own output"]


@both_ways
@pytest.mark.parametrize("zeroed", [True, False])
def test_not_detached(zeroed, foreign):
    class Attached(Loop):
        def step(self):
            self.d_adam.zero_grad()
            if zeroed:
                self.g_adam.zero_grad()
            self.d_loss(self.real(), self.G(self.noise())).backward()
            self.d_adam.step()
            if zeroed:
                self.g_adam.zero_grad()
            self.g_loss(self.G(self.noise())).backward()
            self.g_adam.step()
            self.g_adam.zero_grad()

    loop = Attached()
    if foreign:
        assert names(loop, True) == ["fake batch not detached"]
        return
    (finding,) = examine(loop.G, loop.D, loop.step)
    assert finding.name == "fake batch not detached"
    assert ("wasted work" if zeroed else "also descends D's loss") in finding.message


def test_penalty_with_spectral_norm_and_detached_slopes():
    class Constant(Penalised):
        def slopes(self, x):
            return super().slopes(x).detach()

    assert names(Constant()) == ["penalty does not reach D"]


@both_ways
def test_penalty_without_create_graph(foreign):
    class Constant(Penalised):
        def slopes(self, x):
            x = x.detach().requires_grad_()
            return mg.autograd.grad(self.D(x).sum(), x)[0].flatten(1)

    assert names(Constant(), foreign) == ["penalty does not reach D"]


NOISE = {
    "randn": lambda: mg.randn(N, 1, 8, 8),
    "in place": lambda: mg.empty(N, 1, 8, 8).uniform_(-1, 1),
    "numpy": lambda: mg.tensor(np.random.default_rng(0).uniform(-1, 1, (N, 1, 8, 8)).astype(np.float32)),
    "scaled": lambda: 0.3 * mg.randn(N, 1, 8, 8),
}


@both_ways
@pytest.mark.parametrize("kind", NOISE)
def test_noise_as_data(kind, foreign):
    found = names(Loop(real=NOISE[kind]), foreign)
    assert found[0] == "noise passed as real data"


@both_ways
def test_latents_as_data(foreign):
    class Mixed(Loop):
        def noise(self):
            self.z = mg.randn(N, 2)
            return self.z

    loop = Mixed(nn.Linear(2, 2), PointD())
    loop.real = lambda: loop.z
    assert names(loop, foreign) == ["noise passed as real data"]


RANGES = {
    "[0, 1]": (lambda: (images() + 1) / 2, nn.Tanh),
    "[0, 255]": (lambda: (images() + 1) * 127.5, nn.Tanh),
    "standardised": (lambda: (images() + 0.5) * 2, nn.Tanh),
    "[-1, 1]": (images, nn.Sigmoid),
}


@both_ways
@pytest.mark.parametrize("kind", RANGES)
def test_wrong_range(kind, foreign):
    real, last = RANGES[kind]
    assert names(Loop(ConvG(last=last), real=real), foreign) == ["wrong input range"]


def test_range_of_the_given_batch():
    loop = Noisy()
    assert names(loop, real=images()) == []


@both_ways
def test_mixed_batch_norm(foreign):
    loop = BatchOfBoth()
    loop.D = ConvD()
    loop.d_adam = adam(loop.D)
    assert names(loop, foreign) == ["BatchNorm mixes real and fake"]


@both_ways
def test_generator_in_eval(foreign):
    loop = Loop()
    loop.G.eval()
    assert names(loop, foreign) == ["train/eval gap of G"]


def test_stale_running_statistics():
    loop = Loop()
    for _ in range(40):
        loop.G(loop.noise())
    assert names(loop) == []
    for layer in loop.G.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.fill_(5.0)
    (finding,) = examine(loop.G, loop.D, loop.step)
    assert finding.name == "train/eval gap of G"
    assert "layer main.2 of G (and 1 more)" in finding.message


# The record -----------------------------------------------------------------------------------------------


def test_message():
    loop = Loop(D=ConvD(last=nn.Sigmoid))
    (finding,) = examine(loop.G, loop.D, loop.step)
    text = str(finding)
    assert text.startswith("sigmoid into a logits loss: the output of D, in [0, 1] from a sigmoid (layer main.8 of D)")
    assert "cannot go below 1.0064" in text
    assert "gan_parts.py:" in text
    assert "\n" not in text


def test_then_is_called_once_enough_was_seen():
    seen = []
    loop = Loop()
    with recording(then=seen.append) as record:
        loop.step()
        assert not seen
        loop.step()
        assert seen == [record]
        events = len(record.events)
        loop.step()
    assert seen == [record]
    assert len(record.events) == events
    assert not mg.observe.observers


def test_then_is_called_at_the_end_where_little_was_seen():
    seen = []
    with recording(then=seen.append):
        mg.ones(1)
    assert len(seen) == 1


def test_nothing_stays_registered_after_an_error():
    def fails():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        examine(ConvG(), ConvD(), fails)
    assert not mg.observe.observers


def test_steps_are_the_same_with_and_without_the_doctor():
    states = []
    for watched in (False, True):
        mg.manual_seed(1)
        loop = Loop()
        if watched:
            examine(loop.G, loop.D, loop.step)
        else:
            loop.step()
            loop.step()
        states.append({**loop.G.state_dict(), **{f"D{k}": v for k, v in loop.D.state_dict().items()}})
    assert all(mg.equal(states[0][key], states[1][key]) for key in states[0])

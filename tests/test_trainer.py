"""The trainer's step against a loop written by hand, and what its settings do."""

import numpy as np
import pytest

import minigan as mg
from minigan import optim
from minigan.data.source import Data
from minigan.gan import penalties, tricks
from minigan.gan.losses import LOSSES
from minigan.gan.recipes import get_recipe
from minigan.gan.settings import SettingsError
from minigan.gan.trainer import Batches, Callback, NonFinite, StopTraining, Trainer
from minigan.nn import functional as F

pytestmark = pytest.mark.skipif(mg.get_default_device().type != "cpu", reason="settings.device names the CPU")


def images(n=20, size=32):
    pixels = np.random.default_rng(0).integers(0, 256, (n, size, size, 1), dtype=np.uint8)
    return Data("noise", pixels, labels=np.arange(n) % 10)


def points(n=200):
    return Data("points", np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32))


def make(recipe, data=None, **changes):
    settings = get_recipe(recipe).defaults.changed({"steps": 4, "batch": 8, "log_every": 1, **changes})
    return Trainer(settings, data or (points() if recipe in ("ring", "grid") else images()))


def weights(module):
    return {name: value.numpy().copy() for name, value in module.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def assert_close(a, b, rtol=1e-3, atol=2e-5):
    """Equal but for rounding, which Adam's first steps magnify where a gradient is almost 0."""
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=rtol, atol=atol, err_msg=name)


def test_a_dcgan_step_is_the_loop_of_the_paper():
    """As PyTorch's example has it: one fake batch for D and for G, cross-entropy with labels 1 and 0."""
    trainer = make("dcgan-32", width=4)
    settings, data = trainer.settings, trainer.data
    for _ in range(3):
        trainer.step()

    mg.manual_seed(settings.seed)
    G, D = get_recipe("dcgan-32").networks(settings, data.shape)
    g_adam = optim.Adam(G.parameters(), 2e-4, (0.5, 0.999))
    d_adam = optim.Adam(D.parameters(), 2e-4, (0.5, 0.999))
    batches = Batches(len(data), settings.batch, settings.seed)
    for _ in range(3):
        fake = G(mg.randn(8, 100))
        real = data.batch(next(batches))[0]
        on_real, on_fake = D(real), D(fake.detach())
        ones, zeros = mg.ones_like(on_real), mg.zeros_like(on_real)
        loss = F.binary_cross_entropy_with_logits(on_real, ones) + F.binary_cross_entropy_with_logits(on_fake, zeros)
        d_adam.zero_grad()
        loss.backward()
        d_adam.step()
        on_fake = D(fake)
        g_adam.zero_grad()
        F.binary_cross_entropy_with_logits(on_fake, ones).backward()
        g_adam.step()
    assert_close(weights(trainer.G), weights(G))
    assert_close(weights(trainer.D), weights(D))


def test_a_wgan_gp_step_by_hand():
    """Bit for bit: Adam would magnify rounding in the biases before a norm, whose gradients are 0."""
    trainer = make("wgan-gp", width=4, n_critic=2)
    settings, data = trainer.settings, trainer.data
    record = trainer.step()

    mg.manual_seed(settings.seed)
    G, D = get_recipe("wgan-gp").networks(settings, data.shape)
    adams = [optim.Adam(network.parameters(), 1e-4, (0.5, 0.9)) for network in (G, D)]
    batches = Batches(len(data), settings.batch, settings.seed)
    for _ in range(2):
        fake = G(mg.randn(8, 100))
        real = data.batch(next(batches))[0]
        on_real, on_fake = D(real), D(fake.detach())
        loss = on_fake.mean() - on_real.mean()
        loss = loss + penalties.gradient_penalty(D, real, fake.detach(), 10.0)
        adams[1].zero_grad()
        loss.backward(inputs=list(D.parameters()))
        adams[1].step()
    adams[0].zero_grad()
    (-D(fake).mean()).backward(inputs=list(G.parameters()))
    adams[0].step()
    assert_same(weights(trainer.G), weights(G))
    assert_same(weights(trainer.D), weights(D))
    assert record["penalty"] > 0


def test_clipping_packing_ema_and_noise_are_those_of_tricks():
    trainer = make(
        "ring", pack=2, ema=0.9, noise=0.1, clip_norm=0.01, penalty="", beta1=0.5, g_lr=1e-3, d_lr=1e-3, lr_decay=0.0
    )
    trainer.step()
    settings = trainer.settings
    mg.manual_seed(0)
    G, D = get_recipe("ring").networks(settings, (2,))
    ema = tricks.EMA(G, 0.9)
    adams = [optim.Adam(network.parameters(), 1e-3, (0.5, 0.99)) for network in (G, D)]

    def judge(x):
        return D(tricks.pack(tricks.instance_noise(x, 0, 0.1, 4), 2))

    fake = G(mg.randn(8, 2))
    real = trainer.data.batch(next(Batches(200, 8, 0)))[0]
    on_real = judge(real)
    loss = LOSSES["non-saturating"].d(on_real, judge(fake.detach()))
    for adam, network, objective in (
        (adams[1], D, lambda: loss),
        (adams[0], G, lambda: F.softplus(-judge(fake)).mean()),
    ):
        value = objective()
        adam.zero_grad()
        value.backward(inputs=list(network.parameters()))
        mg.nn.utils.clip_grad_norm_(network.parameters(), 0.01)
        adam.step()
    ema.update()
    assert_close(weights(trainer.D), weights(D))
    assert_close(weights(trainer.ema.module), weights(ema.module))
    assert trainer.generator is trainer.ema.module


def test_weights_are_clamped_and_critic_steps_counted():
    trainer = make("wgan", width=4, critic_warmup=1)
    trainer.step()
    assert trainer.d_steps_done == 100
    trainer.step()
    assert trainer.d_steps_done == 105
    assert all(p.abs().max().item() <= 0.01 for p in trainer.D.parameters())


def test_a_lazy_penalty_is_seen_every_so_often_and_so_much_stronger():
    trainer = make("ring", penalty_every=3)
    assert [("penalty" in trainer.step()) for _ in range(6)] == [True, False, False, True, False, False]
    often = make("ring").step()["penalty"]
    np.testing.assert_allclose(3 * often, make("ring", penalty_every=3).step()["penalty"], rtol=1e-5)


def test_rates_fall_linearly():
    trainer = make("ring", lr_decay=0.5, g_lr=0.1)
    rates = []
    for _ in range(4):
        trainer.step()
        rates.append(trainer.g_optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, [0.1, 0.0875, 0.075, 0.0625])


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains(loss):
    trainer = make("ring", loss=loss)
    before = weights(trainer.G)
    assert np.isfinite(trainer.step()["g_loss"])
    assert any((value != before[name]).any() for name, value in weights(trainer.G).items())


def test_a_penalty_of_each_kind_reaches_d():
    for penalty in ("wgan-gp", "r1", "r2", "dragan"):
        without = make("ring", penalty="")
        without.step()
        with_it = make("ring", penalty=penalty, penalty_weight=10.0)
        with_it.step()
        theirs = weights(without.D)
        assert any((value != theirs[name]).any() for name, value in weights(with_it.D).items()), penalty


def test_state_goes_on_exactly():
    straight = make("hinge-sn", width=4, ema=0.9)
    for _ in range(4):
        straight.step()
    first = make("hinge-sn", width=4, ema=0.9)
    for _ in range(2):
        first.step()
    state = first.state_dict()
    second = make("hinge-sn", width=4, ema=0.9, seed=0)
    mg.manual_seed(99)  # whatever another run left behind
    second.load_state_dict(state)
    for _ in range(2):
        second.step()
    for part in ("G", "D"):
        assert_same(weights(getattr(straight, part)), weights(getattr(second, part)))
    assert_same(weights(straight.generator), weights(second.generator))


def test_sampling_and_callbacks_change_nothing():
    quiet = make("dcgan-32", width=4)
    quiet.step(), quiet.step()
    watched = make("dcgan-32", width=4)
    watched.step(), watched.sample(300), watched.sample(5, seed=9), watched.step()
    assert_same(weights(quiet.G), weights(watched.G))
    np.testing.assert_allclose(quiet.sample(300)[:5].numpy(), quiet.sample(5).numpy(), atol=1e-6)
    assert quiet.G.training


def test_callbacks_are_called_in_order():
    calls = []

    class Note(Callback):
        def start(self, trainer):
            calls.append("start")

        def event(self, trainer, record):
            calls.append(f"event {record['step']}")

        def step(self, trainer, record):
            calls.append(f"step {record['step']}")
            if record["step"] == 3:
                raise StopTraining("enough")

        def end(self, trainer):
            calls.append("end")

        def close(self):
            calls.append("close")

    trainer = make("ring", log_every=2)
    trainer.callbacks.append(Note())
    trainer.train()
    assert calls == ["start", "step 1", "event 2", "step 2", "step 3", "end", "close"]
    assert trainer.stopped == "enough"


def test_an_infinite_loss_stops_before_the_weights_move():
    trainer = make("ring")
    trainer.step()
    trainer.G[2].weight.data.fill_(float("inf"))
    before = weights(trainer.D)
    with pytest.raises(NonFinite, match=r"step 2, D's update: the loss is .*the weight G.2.weight"):
        trainer.step()
    assert_same(before, weights(trainer.D))


def test_batches_visit_every_sample_once_an_epoch():
    batches = Batches(10, 4, seed=1)
    drawn = np.concatenate([next(batches) for _ in range(5)])
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert (drawn[:10] != drawn[10:]).any()
    later = Batches(10, 4, seed=1)
    later.load_state_dict({"drawn": 12})
    np.testing.assert_array_equal(next(later), drawn[12:16])


def test_data_of_another_shape_is_refused():
    with pytest.raises(SettingsError, match=r"28×28|\(1, 28, 28\)|powers? of two"):
        Trainer(get_recipe("dcgan-32").defaults, images(size=28))

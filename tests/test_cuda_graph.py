"""Steps captured once and replayed: bit for bit what the steps themselves compute, and an error for what cannot be."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

import minigan as mg
from minigan import graphs, nn
from minigan.gan.recipes import get_recipe
from minigan.gan.trainer import NonFinite, Trainer
from minigan.gan.tricks import EMA
from minigan.kernels.cuda import elementwise, random
from minigan.kernels.cuda.memory import OutOfMemoryError, Pools
from minigan.kernels.emulator import EmulatedDevice
from minigan.nn import functional as F
from minigan.testing import emulated  # noqa: F401  # makes the device known

DEVICES = [
    pytest.param(
        "cuda-emulated",
        marks=pytest.mark.skipif(shutil.which("g++") is None, reason="the emulator needs g++, and there is none"),
    ),
    pytest.param("cuda", marks=pytest.mark.skipif(not mg.cuda.is_available(), reason="there is no GPU")),
]
pytestmark = [pytest.mark.kernels]
STEPS = 50


@pytest.fixture(params=DEVICES)
def device(request):
    mg.manual_seed(0)
    return request.param


class Training:
    """A small DCGAN for 8 × 8 on a device, whose step draws its latents and may have dropout and a schedule."""

    def __init__(self, device, optimizer="Adam", dropout=0.0, schedule=False):
        mg.manual_seed(3)
        self.device, self.losses, self.captured = device, [], mg.cuda.graph(self.step, device=device)
        self.G = nn.Sequential(
            nn.ConvTranspose2d(5, 4, 4, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 3, 4, 2, 1),
            nn.Tanh(),
        ).to(device)  # fmt: skip
        self.D = nn.Sequential(
            nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Dropout(dropout), nn.Conv2d(4, 4, 3, 1, 1, bias=False),
            nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 4), nn.Flatten(),
        ).to(device)  # fmt: skip
        kind = getattr(mg.optim, optimizer)
        self.optimizers = [kind(network.parameters(), lr=1e-3) for network in (self.D, self.G)]
        self.schedules = [mg.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in self.optimizers if schedule]
        self.ema = EMA(self.G, 0.9)
        self.images = np.random.default_rng(0).uniform(-1, 1, (STEPS, 3, 3, 8, 8)).astype(np.float32)

    def step(self, real):
        d, g = self.optimizers
        fake = self.G(mg.randn(len(real), 5, 1, 1, device=self.device))
        d.zero_grad()
        on_real, on_fake = self.D(real), self.D(fake.detach())
        d_loss = F.binary_cross_entropy_with_logits(on_real, mg.ones_like(on_real)) + on_fake.exp().mean()
        d_loss.backward()
        d.step()
        g.zero_grad()
        g_loss = -F.logsigmoid(self.D(fake)).mean()
        g_loss.backward(inputs=list(self.G.parameters()))
        g.step()
        self.ema.update()
        for schedule in self.schedules:
            schedule.step()
        return d_loss, {"G": g_loss}

    def run(self, start, stop, captured):
        step = self.captured if captured else self.step
        for images in self.images[start:stop]:
            d_loss, rest = step(mg.tensor(images, device=self.device) if not captured else images)
            self.losses.append([d_loss.item(), rest["G"].item()])
        return self

    def state(self):
        networks = {"G": self.G, "D": self.D, "ema": self.ema}
        state = {f"{name}.{key}": t for name, part in networks.items() for key, t in part.state_dict().items()}
        for i, optimizer in enumerate(self.optimizers):
            saved = optimizer.state_dict()
            state |= {f"{i}.{n}.{key}": t for n, s in saved["state"].items() for key, t in s.items()}
            state[f"{i}.lr"] = mg.tensor(saved["param_groups"][0]["lr"])
        return {name: t.clone() for name, t in state.items()}

    def restored(self, state, random):
        self.G.load_state_dict({name[2:]: t for name, t in state.items() if name.startswith("G.")})
        self.D.load_state_dict({name[2:]: t for name, t in state.items() if name.startswith("D.")})
        self.ema.load_state_dict({name[4:]: t for name, t in state.items() if name.startswith("ema.")})
        for i, optimizer in enumerate(self.optimizers):
            saved = optimizer.state_dict()
            saved["state"] = {}
            for name, t in state.items():
                if name.startswith(f"{i}.") and name.count(".") == 2:
                    saved["state"].setdefault(int(name.split(".")[1]), {})[name.split(".")[2]] = t
            optimizer.load_state_dict(saved)
        mg.set_rng_state(random)
        return self


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        right = tensor.cpu().numpy()
        assert np.isfinite(right).all(), name
        np.testing.assert_array_equal(found[name].cpu().numpy(), right, name, strict=True)


@pytest.mark.parametrize(
    ("steps", "options"),
    [
        (STEPS, {}),
        (12, {"dropout": 0.3, "schedule": True}),
        (12, {"optimizer": "AdamW", "schedule": True}),
        (12, {"optimizer": "SGD"}),
    ],
)
def test_replays_are_steps(device, steps, options):
    plain = Training(device, **options).run(0, steps, False)
    random = mg.get_rng_state()
    captured = Training(device, **options).run(0, steps, True)
    assert captured.losses == plain.losses
    same(captured.state(), plain.state())
    np.testing.assert_array_equal(mg.get_rng_state()[:6], random[:6])
    assert int(captured.optimizers[0].state_dict()["state"].get(0, {}).get("step", steps)) == steps
    assert captured.ema.updates == captured.G[1].num_batches_tracked.item() == steps


@pytest.mark.parametrize(("steps", "again"), [(STEPS, False), (14, True)])
def test_a_checkpoint_after_replays_goes_on_with_the_same_bits(device, steps, again):
    """Into new networks, and, as after a rollback, into those of which a graph has been captured."""
    plain = Training(device).run(0, steps, False).state()
    first = Training(device).run(0, steps // 2, True)
    state, random = first.state(), mg.get_rng_state()
    if again:
        first.run(0, 6, True)
    second = (first if again else Training(device)).restored(state, random)
    same(second.run(steps // 2, steps, True).state(), plain)


def test_loading_between_replays_of_one_graph(device):
    def build():
        w = mg.ones(300, device=device, requires_grad=True)
        adam = mg.optim.Adam([w], lr=0.1)

        def step(x):
            adam.zero_grad()
            ((w - x) ** 2).sum().backward()
            adam.step()

        return w, adam, step

    xs = np.random.default_rng(0).standard_normal((9, 300)).astype(np.float32)
    w, adam, step = build()
    for x in xs[:6]:
        step(mg.tensor(x, device=device))
    halfway, state = w.detach().clone(), adam.state_dict()
    state["state"][0] = {name: t.clone() for name, t in state["state"][0].items()}
    for x in xs[6:]:
        step(mg.tensor(x, device=device))
    expected, (w, adam, step) = w, build()
    captured = mg.cuda.graph(step, device=device)
    for x in xs[:5]:
        captured(x[::-1].copy())
    adam.load_state_dict(state)
    w.data.copy_(halfway)
    for x in xs[6:]:
        captured(x)
    np.testing.assert_array_equal(w.detach().cpu().numpy(), expected.detach().cpu().numpy())


@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
@pytest.mark.parametrize("when", [0, 2, 3, 5])
def test_an_optimisers_state_that_comes_before_the_capture(device, optimizer, when):
    """Its memory is made, or filled by load_state_dict, as the step is captured: once, and not at each replay."""

    def run(captured):
        w = mg.ones(3, device=device, requires_grad=True)
        options = {"momentum": 0.9, "dampening": 0.5} if optimizer == "SGD" else {}
        rule = getattr(mg.optim, optimizer)([w], lr=0.05, **options)

        def step(x):
            rule.zero_grad()
            ((w - x) ** 2).sum().backward()
            rule.step()

        graphed = mg.cuda.graph(step, device=device, warmup=when)
        for i in range(8):
            if i == when and i:
                state = rule.state_dict()
                state["state"][0] = {name: t * 1.5 for name, t in state["state"][0].items() if t is not None}
                rule.load_state_dict(state)
            x = np.full(3, i, np.float32)
            graphed(x) if captured else step(mg.tensor(x, device=device))
        return w.tolist()

    assert run(True) == run(False)


def test_other_threads_do_not_notice(device):
    """While one captures, and while it does what the host does before a replay."""
    w, v = (mg.ones(3, device=device, requires_grad=True) for _ in range(2))
    mine, theirs = mg.optim.SGD([w], lr=0.5), mg.optim.SGD([v], lr=1.0)
    found, waits, versions = [], [], []

    def elsewhere():
        v.grad = mg.tensor([1.0, 2.0, 3.0], device=device)
        theirs.step()
        versions.append(v._version)
        found.append([v.tolist(), (mg.arange(2, device=device) + 1).tolist()])

    def wait():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        waits.append(len(found))

    def step(x):
        mine.zero_grad()
        (w * x).sum().backward()
        if len(waits) in (0, 1):
            wait()
        graphs.each_time(wait)
        mine.step()

    graphed = mg.cuda.graph(step, device=device, warmup=0)
    for _ in range(3):
        graphed(np.ones(3, np.float32))
    assert waits == [1, 2, 3, 4]
    assert found == [[[1.0 - i, 1.0 - 2 * i, 1.0 - 3 * i], [1, 2]] for i in range(1, 5)]
    assert versions == [versions[0] * i for i in range(1, 5)]
    assert w.tolist() == [-0.5, -0.5, -0.5]


def test_rates_that_change_between_replays_and_plain_steps_among_them(device):
    def losses(captured):
        training = Training(device)
        step = mg.cuda.graph(training.step, device=device, warmup=2) if captured else training.step
        found = []
        for i, images in enumerate(training.images[:12]):
            for optimizer in training.optimizers:
                optimizer.param_groups[0]["lr"] = 1e-2 / (i + 1)
            call = training.step if i == 7 else step
            found.append(call(mg.tensor(images, device=device))[0].item())
            parameters = [p for optimizer in training.optimizers for p in optimizer.param_groups[0]["params"]]
            found.append([p.grad.abs().max().item() for p in parameters])
        return found

    assert losses(True) == losses(False)


def test_labels(device):
    """Embeddings, classes of the batch norm, a projection, an auxiliary classifier: rows come up more than once."""

    class Conditional:
        def __init__(self):
            mg.manual_seed(3)
            self.G, self.D = nn.Linear(4 + 3, 8).to(device), nn.Linear(8 + 3, 3).to(device)
            self.embed, self.gain, self.project = (nn.Embedding(3, n).to(device) for n in (3, 8, 3))
            parts = (self.G, self.D, self.embed, self.gain, self.project)
            self.adam = mg.optim.Adam([p for part in parts for p in part.parameters()], lr=1e-2)
            self.weights = mg.tensor([1.0, 2.0, 0.5], device=device)

        def step(self, z, labels):
            fake = self.G(mg.cat([z, self.embed(labels)], dim=1)) * self.gain(labels)
            on_fake = self.D(mg.cat([fake, F.one_hot(labels, 3).float()], dim=1))
            loss = (on_fake * self.project(labels)).sum(1).exp().mean() + F.nll_loss(on_fake.log_softmax(1), labels)
            loss = loss + F.cross_entropy(on_fake, labels, self.weights, ignore_index=2, label_smoothing=0.1)
            self.adam.zero_grad()
            loss.backward()
            self.adam.step()
            return loss

    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(9, 4)).astype(np.float32), rng.integers(0, 3, 9)) for _ in range(12)]
    plain, graphed = Conditional(), Conditional()
    captured = mg.cuda.graph(graphed.step, device=device)
    for z, labels in batches:
        expected = plain.step(*(mg.tensor(part, device=device) for part in (z, labels))).item()
        assert np.isfinite(expected)
        assert captured(z, labels).item() == expected
    same(graphed.embed.state_dict(), plain.embed.state_dict())
    same(graphed.project.state_dict(), plain.project.state_dict())


def test_labels_of_the_host_are_looked_at(device):
    """While a step is captured, which they are no part of."""
    labels = mg.tensor([2, 5], device="cpu")
    x = mg.ones(2, 3, device="cpu")
    for look in (
        lambda: F.embedding(labels, x), lambda: F.one_hot(labels, 3), lambda: F.cross_entropy(x, labels),
    ):  # fmt: skip
        with pytest.raises(mg.cuda.CaptureError, match="out of|must be smaller"):
            mg.cuda.graph(lambda y, look=look: (look(), y)[1], device=device, warmup=0)(np.ones(2, np.float32))


@pytest.mark.parametrize("wrong", [3, -4])
def test_labels_that_are_not_there(device, wrong):
    """An error where the host can look, and NaN where it cannot."""
    x = mg.ones(3, 3, device=device)
    for step in (lambda t: F.embedding(t, x), lambda t: F.cross_entropy(x, t, reduction="none"), lambda t: x[t]):
        captured = mg.cuda.graph(step, device=device, warmup=1)
        labels = np.array([0, 2, 1])
        assert np.isfinite(captured(labels).tolist()).all()
        assert np.isfinite(captured(labels).tolist()).all()
        labels[1] = wrong
        assert np.isnan(captured(labels).reshape(3, -1)[:, 0].tolist()).tolist() == [False, True, False]
        with pytest.raises(IndexError, match="out of (range|bounds)"):
            step(mg.tensor(labels, device=device))


def test_values_move_within_their_memory(device):
    def step(x):
        x, y = x.clone(), x.clone()
        x[1:] = x[:-1]
        y[:-1].copy_(y[1:])
        return mg.stack([x, y])

    captured = mg.cuda.graph(step, device=device, warmup=1)
    for _ in range(3):
        found = captured(np.arange(300, dtype=np.float32)).tolist()
        assert found == [[0, *range(299)], [*range(1, 300), 299]]


def test_constants_are_new_at_each_replay(device):
    def step(x):
        y = mg.arange(3, device=device)
        y += (x > 0).long()
        return mg.cat([y.float(), mg.linspace(0, 1, 3, device=device) * x])

    captured = mg.cuda.graph(step, device=device, warmup=0)
    for x in (1.0, 2.0, -1.0, 4.0):
        found = captured(np.full(3, x, np.float32))
        assert found.tolist() == [*(i + (x > 0) for i in range(3)), 0, x / 2, x]


def test_arguments_of_all_kinds_and_other_shapes(device):
    calls = []

    def step(x, scale, *, parts):
        calls.append(x.shape)
        return {"y": (x * scale + parts[0]).sum(), "parts": [parts[1].clone()]}

    captured = mg.cuda.graph(step, device=device, warmup=1)
    for i in range(4):
        for size in (3, 5):
            x, parts = np.full(size, i, np.float32), (mg.ones(size, device=device), mg.tensor([i]))
            found = captured(x, 2.0, parts=parts)
            assert found["y"].item() == size * (2 * i + 1)
            assert found["parts"][0].tolist() == [i]
            assert found["parts"][0].dtype == mg.int64
    assert calls == [(3,), (5,)] * 2
    assert captured(np.ones(3, np.float32), 3.0, parts=parts[:0] + (mg.ones(3), mg.tensor([1])))["y"].item() == 12
    assert len(calls) == 5  # another scale is another step
    with pytest.raises(RuntimeError, match="requires grad, expected constants"):
        captured(mg.ones(3, requires_grad=True), 2.0, parts=parts)
    with pytest.raises(TypeError, match="unhashable"):
        captured({1}, 2.0, parts=parts)


def test_what_is_returned_is_written_over_and_its_version_counts(device):
    w = mg.ones(3, device=device, requires_grad=True)
    captured = mg.cuda.graph(lambda x: x * 2, device=device, warmup=0)
    y = captured(np.ones(3, np.float32))
    z = (w * y).sum()
    assert captured(np.zeros(3, np.float32)) is y
    assert y.tolist() == [0, 0, 0]
    with pytest.raises(RuntimeError, match="replay of a graph"):
        z.backward()


REFUSED = {
    "item()": lambda x: x.sum().item(),
    "truth value": lambda x: x if x.sum() > 0 else -x,
    "number": lambda x: float(x[0]),
    "tolist()": lambda x: x.tolist(),
    "tensor()": lambda x: x + mg.tensor([1.0, 2.0], device=x.device),
    "another device": lambda x: x.cpu(),
    "host": lambda x: mg.randperm(2, device=x.device),
    "random state": lambda x: (mg.rand(2, device=x.device), mg.get_rng_state()),
    "by a mask": lambda x: x[x > 0],
    "bounds of indices": lambda x: x.gather(0, (x > 0).long()),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_captured_is_named(device, what):
    captured, x = mg.cuda.graph(REFUSED[what], device=device, warmup=1), np.ones(2, np.float32)
    captured(x)
    with pytest.raises(mg.cuda.CaptureError, match="within a step that is being captured") as found:
        captured(x)
    assert what in str(found.value)
    assert "\n" not in str(found.value)
    assert mg.cuda.graph(lambda x: x + 1, device=device, warmup=0)(x).tolist() == [2, 2]


@pytest.mark.parametrize("what", ["argsort", "cumsum", "float16", "floor_divide"])
def test_what_is_no_kernel_is_named(what):
    """The emulator alone: with CuPy all of these are work of the GPU."""
    step = {
        "argsort": lambda x: x.argsort(), "cumsum": lambda x: x.cumsum(0), "float16": lambda x: x.half() + 1,
        "floor_divide": lambda x: x.floor_divide(2.0),
    }[what]  # fmt: skip
    with pytest.raises(mg.cuda.CaptureError, match=what):
        mg.cuda.graph(step, device="cuda-emulated", warmup=0)(np.ones(2, np.float32))


def test_memory_of_zeros_is_so_at_each_replay():
    device, x = EmulatedDevice(), np.ones(3, np.float32)
    with device.capture() as recording:
        total = device.zeros((3,), np.float32)
        elementwise.evaluate(device, "add", total, x, out=total)
    for _ in range(2):
        recording.replay()
        assert total.tolist() == [1, 1, 1]


def test_the_cpu_captures_nothing():
    with pytest.raises(RuntimeError, match="device 'cpu' cannot capture"):
        mg.cuda.graph(lambda: None, device="cpu")


# Random numbers -------------------------------------------------------------------------------------------------------


def test_host_and_device_draw_from_one_stream(device):
    draws = [(3, device), (5, "cpu"), (1, "cpu"), (12, device), (2, device), (9, "cpu"), (300, device)]
    expected = mg.Generator().manual_seed(3)
    mg.manual_seed(3)
    for n, where in draws:
        np.testing.assert_array_equal(mg.rand(n, device=where).cpu().numpy(), expected.uniform((n,)))
        np.testing.assert_array_equal(mg.get_rng_state()[:6], expected.get_state()[:6])
    state = mg.get_rng_state()
    after = mg.rand(4, device=device).tolist()
    mg.set_rng_state(state)
    assert mg.rand(4).tolist() == after
    mg.set_rng_state(state)
    assert mg.rand(4, device=device).tolist() == after


def test_threads_share_a_stream(device, monkeypatch):
    def slowly(*args, **kwargs):
        time.sleep(0.002)  # the other thread draws meanwhile, if it may
        advance(*args, **kwargs)

    advance = random._advance
    monkeypatch.setattr(random, "_advance", slowly)
    found = []
    graphed = mg.cuda.graph(lambda: mg.rand(8, device=device), device=device, warmup=0)
    ways = [
        lambda: mg.rand(8, device=device), lambda: mg.rand(8, device=device), lambda: graphed(),
        lambda: mg.random.default_generator.uniform((8,)),
    ]  # fmt: skip
    threads = [
        threading.Thread(target=lambda draw=draw: found.extend(draw().tolist() for _ in range(5))) for draw in ways
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sum(found, [])) == sorted(mg.Generator().manual_seed(0).uniform((160,)).tolist())


def test_one_thread_captures_at_a_time(device):
    inside = []

    def step(x):
        inside.append(1)
        most = len(inside)
        time.sleep(0.05)
        inside.pop()
        return x + most

    def run():
        found.append(mg.cuda.graph(step, device=device, warmup=0)(np.zeros(1, np.float32)).item())

    found = []
    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1, 1, 1]


def test_half_a_word_is_not_lost(device):
    """Left from before 64-bit numbers were drawn: the next uniform is made of it, on whichever device."""
    mg.manual_seed(3)
    found = [mg.rand(3, device=device), mg.rand(2, dtype=mg.float64), mg.rand(5, device=device)]
    mg.manual_seed(3)
    expected = [mg.rand(3), mg.rand(2, dtype=mg.float64), mg.rand(5)]
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x.cpu().numpy(), y.numpy(), strict=True)


def test_replays_draw_what_the_step_would(device):
    def step():
        x = mg.empty(7, device=device).uniform_(-1, 1)
        return mg.stack([x, mg.randn(7, device=device), F.dropout(x, 0.5), (mg.empty_like(x).bernoulli_(0.3))])

    def drawn(step):
        mg.manual_seed(5)
        found = []
        for i in range(8):
            if i == 5:
                mg.manual_seed(6)  # another key: the step is captured again
            if i in (4, 7):
                found.append(mg.rand(3).numpy())  # on the host, in between
            found.append(step().cpu().numpy())
        return [*found, mg.get_rng_state()[:6], mg.rand(3).numpy()]

    for x, y in zip(drawn(mg.cuda.graph(step, device=device, warmup=2)), drawn(step), strict=True):
        np.testing.assert_array_equal(x, y)


# The trainer ----------------------------------------------------------------------------------------------------------


class Kept(list):
    def records(self, device, *changes):
        settings = get_recipe("ring").defaults.changed(
            [f"device={device}", "limit=200", "batch=10", "steps=18", "log_every=3", *changes]
        )
        trainer = Trainer(settings)
        emit = trainer.emit
        trainer.emit = lambda record: (self.append(record), emit(record))
        trainer.train()
        return self, trainer


@pytest.mark.parametrize(
    "changes",
    [
        ["ema=0.9", "lr_decay=0.5"],
        ["penalty=r1", "penalty_every=2", "n_critic=2", "clip_norm=1"],
        ["loss=wasserstein", "penalty=wgan-gp", "spectral_norm=true", "optimizer=rmsprop"],
        ["loss=relativistic", "penalty=", "optimizer=sgd", "latents=uniform"],
    ],
)
def test_the_trainer_replays_and_nothing_changes(device, changes):
    (plain, _), (replayed, trainer) = (Kept().records(device, *changes, f"graph={on}") for on in ("false", "true"))
    assert plain == replayed
    assert len(plain) == 6
    kinds = 4 if "penalty_every=2" in changes else 2  # with a penalty or without, with gradients' norms or without
    assert 0 < len(trainer._graph._captured) <= kinds
    assert not trainer.warnings


def test_the_trainer_says_when_it_cannot(device):
    _, trainer = Kept().records(device, "noise=0.1")
    assert trainer._graph is None
    assert "noise=0.1 changes" in trainer.warnings[0]
    trainer = Trainer(get_recipe("ring").defaults.changed(["limit=200", "batch=10", "steps=6"]))
    assert trainer._graph is None
    assert not trainer.warnings  # on the CPU nobody asks


def test_the_trainer_goes_on_without_a_graph(device):
    settings = get_recipe("ring").defaults.changed([f"device={device}", "limit=200", "batch=10", "steps=9"])
    trainer, said = Trainer(settings), []
    trainer.emit = said.append
    trainer.D[0].register_forward_hook(lambda module, args, out: None)
    trainer.train()
    (warning,) = [record for record in said if "warning" in record]
    assert "a layer has hooks" in warning["message"]
    assert trainer.steps_done == 9


def test_a_loss_that_is_not_finite_ends_a_replayed_run(device):
    settings = get_recipe("ring").defaults.changed([f"device={device}", "limit=200", "batch=10", "steps=99"])
    trainer = Trainer(settings)
    for _ in range(20):
        trainer.step()
    assert trainer._graph._captured
    with mg.no_grad():
        trainer.D[0].weight.fill_(float("nan"))
    with pytest.raises(NonFinite, match="step 21, D's update: the loss is nan"):
        trainer.step()


# Precision and memory -------------------------------------------------------------------------------------------------


def test_precision_chooses_the_kernels(monkeypatch):
    launched, launch = [], EmulatedDevice.launch

    def noted(self, file, kernel, *rest):
        launched.append(kernel)
        launch(self, file, kernel, *rest)

    monkeypatch.setattr(EmulatedDevice, "launch", noted)
    x = mg.randn(2, 8, 8, 8)
    conv, linear = nn.Conv2d(8, 8, 3), nn.Linear(64, 16)
    right = [conv(x).detach().numpy(), linear(x.flatten(2)).detach().numpy()]
    assert mg.get_float32_matmul_precision() == "highest"
    try:
        for precision, name, most in (("highest", "", 1e-5), ("high", "tf32", 5e-3), ("medium", "bf16", 5e-2)):
            mg.set_float32_matmul_precision(precision)
            launched.clear()
            there = [layer.to("cuda-emulated") for layer in (conv, linear)]
            found = [there[0](x.to("cuda-emulated")), there[1](x.flatten(2).to("cuda-emulated"))]
            for y, expected in zip(found, right, strict=True):
                worst = np.abs(y.detach().cpu().numpy() - expected).max()
                assert worst < most
                assert precision == "highest" or worst > most / 1000
            products = [kernel for kernel in launched if kernel.startswith(("conv_forward", "gemm"))]
            assert len(products) >= 2
            assert all(name in kernel for kernel in products if "sum" not in kernel)
            for layer in there:
                layer.to("cpu")
            np.testing.assert_array_equal(conv(x).detach().numpy(), right[0])
        with pytest.raises(RuntimeError, match="got 'low', expected 'highest', 'high' or 'medium'"):
            mg.set_float32_matmul_precision("low")
    finally:
        mg.set_float32_matmul_precision("highest")


class CudaError(RuntimeError):
    status = 2


class Pool:
    """What of CuPy's pool is called: one of its own has room for 100 bytes; others ask for theirs."""

    def __init__(self, allocator=None):
        self.given, self.allocator, self.freed, self.limit = 0, allocator, 0, None

    def malloc(self, size):
        if self.allocator is None and self.given + size > 100:
            raise MemoryError("CuPy's own text")
        if self.allocator is not None:
            try:
                self.allocator(size)
            except CudaError:
                pytest.fail("CuPy would give back the pool's free blocks, into which captured kernels write")
        self.given += size
        return size

    def set_limit(self, size):
        self.limit = size

    def free_all_blocks(self):
        self.freed += 1

    def used_bytes(self):
        return self.given

    def total_bytes(self):
        return 2 * self.given


class Hook:
    def __enter__(self):
        return self


@pytest.fixture
def pools():
    default, allocators = Pool(), []

    def memory(size):  # the GPU has 200 bytes, and 50 more once the default pool has given back its reserve
        if size > 200 + 50 * default.freed:
            raise CudaError
        return size

    cuda = SimpleNamespace(
        set_allocator=allocators.append, MemoryPool=Pool, MemoryHook=Hook, Memory=memory,
        MemoryPointer=lambda memory, offset: memory, memory=SimpleNamespace(OutOfMemoryError=MemoryError),
        runtime=SimpleNamespace(memGetInfo=lambda: (2**30, 80 * 2**30), CUDARuntimeError=CudaError),
    )  # fmt: skip
    pools = Pools(SimpleNamespace(get_default_memory_pool=lambda: default, cuda=cuda))
    assert allocators == [pools.malloc]
    return pools


FULL = r"were asked for, and of 80.00 GiB are 1.00 GiB free.*help"


def test_memory_is_counted_and_its_lack_explained(pools):
    assert pools.malloc(50) == 50
    assert (pools.used(), pools.reserved(), pools.most_used()) == (50, 100, 100)
    private = pools.new()
    private.malloc(30)
    assert (pools.used(), pools.reserved()) == (110, 160)
    pools.count()
    pools._counting.malloc_postprocess(mem_size=64, mem_ptr=1)
    pools._counting.free_postprocess(mem_size=64)
    pools._counting.malloc_postprocess(mem_size=512, mem_ptr=0)  # it was not given
    assert pools.most_used() == 174
    with pytest.raises(OutOfMemoryError, match=rf"2.00 GiB {FULL}"):
        pools.malloc(2**31)
    del private
    assert pools.used() == 50
    assert issubclass(mg.cuda.OutOfMemoryError, RuntimeError)


def test_a_graphs_memory_comes_from_the_reserve_of_the_default_pool(pools, monkeypatch):
    private = pools.new()
    assert private.pool.limit == 0  # none, or CuPy would give back free blocks for it
    private.malloc(200)
    assert pools.default.freed == 0
    private.malloc(250)
    assert pools.default.freed == 1
    with pytest.raises(OutOfMemoryError, match=rf"2.00 GiB {FULL}"):
        private.malloc(2**31)
    monkeypatch.setattr(CudaError, "status", 700)  # some other error
    with pytest.raises(BaseException, match="captured kernels write"):
        private.malloc(2**31)


def test_one_gpu_is_used(monkeypatch):
    cuda = SimpleNamespace(is_available=lambda: True)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    with pytest.raises(RuntimeError, match="device 'cuda:1': minigan uses one GPU.*CUDA_VISIBLE_DEVICES=1"):
        mg.zeros(2, device="cuda:1")


@pytest.mark.skipif(mg.cuda.is_available(), reason="there is a GPU")
def test_memory_without_a_gpu():
    assert mg.cuda.memory_allocated() == mg.cuda.max_memory_allocated() == mg.cuda.memory_reserved() == 0
    mg.cuda.reset_peak_memory_stats()
    for call in (mg.cuda.Stream, mg.cuda.Event, mg.cuda.current_stream, mg.cuda.get_device_name):
        with pytest.raises(RuntimeError, match="device 'cuda' needs"):
            call()

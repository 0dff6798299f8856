"""Steps captured once and replayed: bit for bit what the steps themselves compute, and an error for what cannot be."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import minigan as mg
from minigan import graphs, nn
from minigan.gan.tricks import EMA
from minigan.kernels.cuda import elementwise
from minigan.kernels.emulator import EmulatedDevice
from minigan.nn import functional as F

pytestmark = [pytest.mark.kernels]
STEPS = 50


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

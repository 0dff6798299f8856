"""What a captured step may be given and make by itself: labels, constants, random numbers."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import minigan as mg
from minigan import nn
from minigan.kernels.cuda import random
from minigan.nn import functional as F

pytestmark = [pytest.mark.kernels]


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
    for one, other in ((graphed.embed, plain.embed), (graphed.project, plain.project)):
        np.testing.assert_array_equal(one.weight.detach().cpu().numpy(), other.weight.detach().cpu().numpy())


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

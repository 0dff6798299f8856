"""The trainer on a GPU: its steps are a graph, and it says when they cannot be."""

from __future__ import annotations

import pytest

import minigan as mg
from minigan.gan.recipes import get_recipe
from minigan.gan.trainer import NonFinite, Trainer

pytestmark = [pytest.mark.kernels]


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

"""The training loop: what happens in one step, in order, for every recipe.

Everything that watches, draws or writes is a callback (`minigan.gan.callbacks`); losses, penalties and tricks are
functions of their own, and this file only puts them together as the settings say. The unit is a step: one update
of G, after `n_critic` updates of D.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

import minigan as mg
from minigan import graphs, optim, random
from minigan.data.catalog import open_data
from minigan.data.source import Data
from minigan.gan import health, penalties, sanity, tricks
from minigan.gan.augment import diff_augment
from minigan.gan.losses import LOSSES
from minigan.gan.recipes import get_recipe
from minigan.gan.settings import Settings
from minigan.nn import Module
from minigan.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm
from minigan.random import Generator
from minigan.tensor import Tensor

Record = dict[str, Any]  # one line of metrics.jsonl


class Callback:
    """What a callback may do; each method does nothing unless it is overridden."""

    name = ""  # under which its state is kept in a checkpoint

    def start(self, trainer: Trainer) -> None:
        """Before the first step of this process, after a checkpoint was loaded."""

    def step(self, trainer: Trainer, record: Record) -> None:
        """After each step; `trainer.steps_done` counts it already."""

    def event(self, trainer: Trainer, record: Record) -> None:
        """For each line of metrics.jsonl: a step's metrics, scores, or a warning."""

    def end(self, trainer: Trainer) -> None:
        """After the last step, or when a callback raised StopTraining; not when the run broke off."""

    def close(self) -> None:
        """Whatever happened: let go of terminals and files."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on as if nothing had happened."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what `state_dict` gave."""


class NonFinite(RuntimeError):
    """A number became infinite or NaN: the message says in which step and phase, and where."""


class StopTraining(Exception):
    """Raised by a callback: end the run here, as if it had its steps; the message says why."""


class Trainer:
    """G, D, their optimisers and the data of one run, and the step that trains them.

    >>> import minigan as mg
    >>> from minigan.gan.recipes import get_recipe
    >>> trainer = Trainer(get_recipe("ring").defaults.changed(["steps=2", "limit=1000", "batch=50"]))
    >>> trainer.train()
    >>> trainer.sample(4).shape
    (4, 2)
    """

    def __init__(self, settings: Settings, data: Data | None = None, callbacks: Sequence[Callback] = ()) -> None:
        self.settings, self.callbacks = settings, list(callbacks)
        self.device = sanity.device(settings.device)
        self.data = data or open_data(
            settings.data, size=settings.size or None, limit=settings.limit or None, flip=settings.flip
        )
        mg.manual_seed(settings.seed)
        self.G, self.D = get_recipe(settings.recipe).networks(settings, self.data.shape)
        self.warnings = sanity.check(settings, self.G, self.D, self.data.shape, len(self.data))
        if settings.spectral_norm:
            penalties.spectral_normalize(self.D)
        self.G.to(self.device)
        self.D.to(self.device)
        self.ema = tricks.EMA(self.G, settings.ema) if settings.ema else None
        self.loss = LOSSES[settings.loss]
        self.g_optimizer = _optimizer(settings, self.G, settings.g_lr)
        self.d_optimizer = _optimizer(settings, self.D, settings.d_lr)
        self.batches = Batches(len(self.data), settings.batch, settings.seed)
        self.steps_done = self.d_steps_done = 0
        self.rate = 1.0  # a factor of both learning rates, lowered by a rollback
        self.stopped = ""  # why the run ended before its last step
        self.problems: list[str] = []  # why it does not go on from a newer checkpoint
        self._graph = self._captured_step()

    # One step -------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Steps until there are as many as the settings ask for."""
        try:
            for callback in self.callbacks:
                callback.start(self)
            try:
                while self.steps_done < self.settings.steps:
                    record = self.step()
                    if self.steps_done % self.settings.log_every == 0:
                        self.emit(record)
                    for callback in self.callbacks:
                        callback.step(self, record)
            except StopTraining as reason:
                self.stopped = str(reason)
            for callback in self.callbacks:
                callback.end(self)
        finally:
            for callback in self.callbacks:
                callback.close()

    def emit(self, record: Record) -> None:
        """One line of metrics.jsonl, and whoever else wants to know."""
        for callback in self.callbacks:
            callback.event(self, record)

    @np.errstate(all="ignore")  # a loss or weight that is not finite is said more plainly than by NumPy
    def step(self) -> Record:
        """D's updates, then G's."""
        settings = self.settings
        self._set_rates()
        critic_steps = tricks.critic_steps(self.steps_done, settings.n_critic, settings.critic_warmup)
        weights = tuple(
            penalties.lazy(settings.penalty_weight, settings.penalty_every, self.d_steps_done + i)
            for i in range(critic_steps)
        )
        logged = (self.steps_done + 1) % settings.log_every == 0
        reals = (self.next_real() for _ in range(critic_steps + self.loss.relative))
        if self._graph is None:
            values = {name: value.item() for name, value in self._updates(reals, weights, logged).items()}
        else:
            values = self._replayed(list(reals), weights, logged)
        self.steps_done += 1
        self.d_steps_done += critic_steps
        return {"step": self.steps_done, "epoch": round(self.batches.drawn / len(self.data), 3), **values}

    def _updates(self, reals: Iterable[Tensor], weights: Sequence[float], logged: bool) -> dict[str, Tensor]:
        """An update of D for each of the penalty's weights, then G's, and numbers about them.

        The last fake batch that D saw serves G too, so that G runs forward once for both.
        """
        reals, found = iter(reals), dict[str, Tensor]()
        for i, weight in enumerate(weights):
            with mg.set_grad_enabled(i == len(weights) - 1):
                fake = self.G(self.latents(self.settings.batch))
            self._d_step(next(reals), fake, weight, logged, found)
        self._g_step(next(reals) if self.loss.relative else None, fake, logged, found)
        return found

    def _d_step(self, real: Tensor, fake: Tensor, weight: float, logged: bool, found: dict[str, Tensor]) -> None:
        settings = self.settings
        on_real, on_fake = self.judge(real), self.judge(fake.detach())
        loss = self.loss.d(on_real, on_fake, smooth=settings.smooth)
        found |= {"d_loss": loss.detach(), "d_real": on_real.detach().mean(), "d_fake": on_fake.detach().mean()}
        if settings.penalty and weight:
            penalty = self._penalty(real, fake.detach(), weight)
            found["penalty"] = penalty.detach()
            loss = loss + penalty
        self._update("D", self.D, self.d_optimizer, loss, logged, found)
        if settings.clip_weights:
            penalties.clip_weights(self.D, settings.clip_weights)

    def _g_step(self, real: Tensor | None, fake: Tensor, logged: bool, found: dict[str, Tensor]) -> None:
        loss = self.loss.g(self.judge(fake), None if real is None else self.judge(real))
        found["g_loss"] = loss.detach()
        self._update("G", self.G, self.g_optimizer, loss, logged, found)
        if self.ema is not None:
            self.ema.update()

    def _update(
        self, phase: str, module: Module, optimizer: optim.Optimizer, loss: Tensor, logged: bool,
        found: dict[str, Tensor],
    ) -> None:  # fmt: skip
        """Gradients of `module` alone (nobody asked for the other network's), and one step down them."""
        settings = self.settings
        parameters = [p for p in module.parameters() if p.requires_grad]
        optimizer.zero_grad()
        loss.backward(inputs=parameters)
        if logged:
            found[f"{phase.lower()}_grad"] = get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not graphs.capturing():
            self._check_finite(phase, loss.item())
        if settings.clip_norm:
            clip_grad_norm_(parameters, settings.clip_norm)
        if settings.clip_value:
            clip_grad_value_(parameters, settings.clip_value)
        optimizer.step()

    def _check_finite(self, phase: str, loss: float) -> None:
        if not math.isfinite(loss):
            event = f"step {self.steps_done + 1}, {phase}'s update: the loss is {loss}"
            raise NonFinite(health.explain_non_finite(self, event))

    # The same as a graph ----------------------------------------------------------------------------------

    def _captured_step(self) -> Any:
        """`_updates` to be captured and replayed, where the device can; None, with a warning, where the settings do."""
        settings, kernels = self.settings, mg.zeros(1, device=self.device).B.kernels
        if not settings.graph or not hasattr(getattr(kernels, "device", None), "capture"):
            return None
        if settings.noise or settings.critic_warmup:
            what = f"noise={settings.noise}" if settings.noise else f"critic_warmup={settings.critic_warmup}"
            self.warnings.append(f"steps are not captured as a graph, which would be faster, for {what} changes them")
            return None

        def step(reals: list[Tensor], weights: tuple[float, ...], logged: bool) -> tuple[tuple[str, ...], Tensor]:
            found = self._updates(reals, weights, logged)
            return tuple(found), mg.stack([*found.values()])

        return mg.cuda.graph(step, device=self.device)

    def _replayed(self, reals: list[Tensor], weights: tuple[float, ...], logged: bool) -> dict[str, float]:
        try:
            layers = (*self.G.modules(), *self.D.modules())
            if any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers):
                raise mg.cuda.CaptureError("a layer has hooks, which no replay would call")
            names, values = self._graph(reals, weights, logged)
        except mg.cuda.CaptureError as error:
            self._graph, message = None, f"steps are not captured as a graph, which would be faster: {error}"
            self.emit({"step": self.steps_done + 1, "warning": "graph", "message": message})
            found = self._updates(reals, weights, logged)
            names, values = tuple(found), mg.stack([*found.values()])
        numbers = dict(zip(names, values.tolist(), strict=True))
        for phase in ("D", "G"):  # of a replay the update is done already
            self._check_finite(phase, numbers[f"{phase.lower()}_loss"])
        return numbers

    def _penalty(self, real: Tensor, fake: Tensor, weight: float) -> Tensor:
        if self.settings.penalty == "wgan-gp":
            return penalties.gradient_penalty(self.D, self.presented(real), self.presented(fake), weight)
        if self.settings.penalty == "dragan":
            return penalties.dragan(self.D, self.presented(real), weight)
        return penalties.r1(self.D, self.presented(real if self.settings.penalty == "r1" else fake), weight)

    def judge(self, x: Tensor) -> Tensor:
        """D's logits for samples."""
        return self.D(self.presented(x))

    def presented(self, x: Tensor) -> Tensor:
        """Samples as D is given them: augmented, noised and packed as the settings say."""
        settings = self.settings
        if settings.augment:
            x = diff_augment(x, settings.augment)
        if settings.noise:
            x = tricks.instance_noise(x, self.steps_done, settings.noise, settings.noise_steps or settings.steps)
        return tricks.pack(x, settings.pack) if settings.pack > 1 else x

    def latents(self, n: int, generator: Generator | None = None) -> Tensor:
        """Inputs of G, from the default random stream or from `generator`."""
        settings = self.settings
        return tricks.latents(n, settings.latent, settings.latents, generator=generator, device=self.device)

    def next_real(self) -> Tensor:
        """The next batch of real samples."""
        return self.data.batch(next(self.batches))[0].to(self.device)

    def _set_rates(self) -> None:
        settings = self.settings
        factor = self.rate * (1 - settings.lr_decay * self.steps_done / settings.steps)
        for optimizer, rate in ((self.g_optimizer, settings.g_lr), (self.d_optimizer, settings.d_lr)):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

    # Looking at it --------------------------------------------------------------------------------------

    @property
    def generator(self) -> Module:
        """The G to sample from: the moving average where there is one."""
        return self.G if self.ema is None else self.ema.module

    @np.errstate(all="ignore")
    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n samples that depend on `seed` and G only: no stream of the training is drawn from.

        The first samples of a seed are the same whatever n is, but for rounding.
        """
        z = self.latents(n, Generator(name="samples").manual_seed(seed))
        with evaluation(self.generator), mg.no_grad():
            samples = mg.cat([self.generator(part) for part in z.split(256)])
        if not samples.isfinite().all():
            raise NonFinite(health.explain_non_finite(self, f"step {self.steps_done}: G's samples are not finite"))
        return samples

    # Checkpoints ----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on; raises NonFinite rather than let a NaN be saved."""
        state = {
            "steps_done": self.steps_done,
            "d_steps_done": self.d_steps_done,
            "rate": self.rate,
            "G": self.G.state_dict(),
            "D": self.D.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "g_optimizer": self.g_optimizer.state_dict(),
            "d_optimizer": self.d_optimizer.state_dict(),
            "random": random.state_dict(),
            "batches": self.batches.state_dict(),
            "callbacks": {callback.name: callback.state_dict() for callback in self.callbacks if callback.name},
            "settings": self.settings.to_dict(),
        }
        if bad := health.non_finite(state):
            raise NonFinite(health.explain_non_finite(self, f"step {self.steps_done}: not saved, for {bad[0]} is bad"))
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was called."""
        self.steps_done, self.d_steps_done, self.rate = state["steps_done"], state["d_steps_done"], state["rate"]
        self.load_networks(state)
        self.batches.load_state_dict(state["batches"])
        for callback in self.callbacks:
            if callback.name in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][callback.name])
        random.load_state_dict(state["random"])  # last: building anything above may have drawn

    def load_networks(self, state: dict[str, Any]) -> None:
        """The networks and optimisers alone, as they were: the data and the random numbers go on from here."""
        self.G.load_state_dict(state["G"])
        self.D.load_state_dict(state["D"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.g_optimizer.load_state_dict(state["g_optimizer"])
        self.d_optimizer.load_state_dict(state["d_optimizer"])


class Batches(Iterator[np.ndarray]):
    """Indices of the next batch, for ever: each epoch in an order of its own, which is a function of the seed.

    A batch may end one epoch and begin the next, so every sample is seen equally often.

    >>> batches = Batches(5, 3, seed=0)
    >>> sorted(np.concatenate([next(batches), next(batches)])[:5].tolist())
    [0, 1, 2, 3, 4]
    """

    def __init__(self, samples: int, batch: int, seed: int) -> None:
        self.samples, self.batch, self.seed = samples, batch, seed
        self.drawn = 0  # samples since the beginning: the data cursor
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __next__(self) -> np.ndarray:
        indices = np.empty(self.batch, np.int64)
        filled = 0
        while filled < self.batch:
            epoch, place = divmod(self.drawn, self.samples)
            if epoch != self._epoch:
                order = Generator(name=f"epoch {epoch}").manual_seed(self.seed)
                self._epoch, self._order = epoch, order.permutation(self.samples)
            part = self._order[place : place + self.batch - filled]
            indices[filled : filled + len(part)] = part
            filled += len(part)
            self.drawn += len(part)
        return indices

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.drawn = state["drawn"]


@contextmanager
def evaluation(module: Module) -> Iterator[None]:
    """Within: `module` in eval mode; afterwards as it was."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _optimizer(settings: Settings, module: Module, lr: float) -> optim.Optimizer:
    parameters = list(module.parameters())
    if settings.optimizer == "adam":
        return optim.Adam(parameters, lr=lr, betas=(settings.beta1, settings.beta2))
    if settings.optimizer == "rmsprop":
        return optim.RMSprop(parameters, lr=lr)
    return optim.SGD(parameters, lr=lr, momentum=settings.beta1)

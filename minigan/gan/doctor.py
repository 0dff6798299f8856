"""The doctor: names mistakes in the wiring of a GAN's training step, with the evidence, from a record of a few steps.

Each rule below is one mistake that runs without an error. A rule speaks only where the record shows the mistake; what
it cannot tell it passes over. What is recorded, and how, is in `minigan.gan.recorder`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from minigan.gan.events import Push, Step, Sweep
from minigan.gan.recorder import Record, recording
from minigan.gan.story import Story, Update, holds, sources_of
from minigan.nn import Module
from minigan.nn.modules.norm import _BatchNorm
from minigan.tensor import Tensor

_CALLS = 10  # of `step`, at most: enough for two steps of a G that is trained once for five of D
_REAL = ("data", "random", "constant")  # where a sample comes from that no network made


@dataclass(frozen=True)
class Finding:
    """One mistake: its name, and a sentence with the evidence and what to do."""

    name: str
    message: str

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


def examine(G: Module, D: Module, step: Callable[[], Any], real: Tensor | None = None) -> list[Finding]:
    """Run `step`, which trains G and D, until each was trained twice, and name what is wrong in it.

    The steps are real ones: they change G and D. `real` is a batch of the data as it is, where `step` shows D
    something else.

    >>> import minigan as mg
    >>> from minigan import nn, optim
    >>> from minigan.nn import functional as F
    >>> G, D = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())
    >>> g_adam, d_adam = optim.Adam(G.parameters()), optim.Adam(D.parameters())
    >>> def step():
    ...     real, fake = mg.randn(64, 2) + 4, G(mg.randn(64, 2))
    ...     d_adam.zero_grad()
    ...     on_real, on_fake = D(real), D(fake.detach())
    ...     (F.softplus(-on_real) + F.softplus(on_fake)).mean().backward()
    ...     d_adam.step()
    ...     g_adam.zero_grad()
    ...     F.softplus(-D(fake)).mean().backward()
    ...     g_adam.step()
    >>> for finding in examine(G, D, step):
    ...     print(finding.name)
    sigmoid into a logits loss
    """
    with recording(G, D) as record:
        for _ in range(_CALLS):
            step()
            if record.full:
                break
    return diagnose(record, real)


def diagnose(record: Record, real: Tensor | None = None) -> list[Finding]:
    """What is wrong in the steps that were recorded; empty where nothing is.

    >>> diagnose(recording())
    []
    """
    story = Story(record, real)
    rules = (
        _sigmoid_twice, _wrong_side, _zeroed_too_soon, _never_zeroed, _does_not_move, _own_output, _not_detached,
        _penalty_stops, _noise_as_data, _wrong_range, _mixed_statistics, _evaluating, _stale_statistics,
    )  # fmt: skip
    return [finding for rule in rules for finding in rule(story)]


# What is passed in ----------------------------------------------------------------------------------------


def _sigmoid_twice(story: Story) -> Iterator[Finding]:
    """A sigmoid's output went where the loss applies one itself, or expects logits around ±1."""
    told = set()
    for loss in story.record.logits_losses:
        Ds = [call.network for call in loss.trace.calls if call.network in story.Ds]
        layer = loss.trace.squash.layer if loss.trace.squash else None
        if not Ds or (Ds[0], layer) in told:
            continue
        told.add((Ds[0], layer))
        kinds = {
            "BinaryCrossEntropyWithLogits": "binary_cross_entropy_with_logits", "LogSigmoid": "logsigmoid",
            "Softplus": "softplus",
        }  # fmt: skip
        kind = kinds.get(loss.op, "a second sigmoid" if loss.op == "Sigmoid" else "a hinge")
        least = "1" if kind == "a hinge" else "1.0064"
        yield Finding(
            "sigmoid into a logits loss",
            f"the output of {story.name(Ds[0])}, in [0, 1] from a sigmoid ({story.record.layer(layer)}), went "
            f"into {kind} ({loss.where}), which expects logits: the loss of D cannot go below {least}. Remove the "
            "sigmoid, or use a loss on probabilities",
        )


def _own_output(story: Story) -> Iterator[Finding]:
    for D in story.Ds:
        for call in story.calls(D):
            if any(source.network is D for source in call.sample.trace.calls):
                yield Finding(
                    "D applied to its own output",
                    f"what {story.name(D)} was given at {call.where}, of shape {call.sample.shape}, is computed from "
                    f"its own output. Give it samples: real ones, or {' or '.join(map(story.name, story.Gs))}'s",
                )
                break


def _noise_as_data(story: Story) -> Iterator[Finding]:
    for D in story.Ds:
        makers = [source for call in story.calls(D) for source in sources_of(call, D)]
        noise_in = any(given.source == "random" for maker in makers for given in maker.inputs)  # D may judge codes
        for call in story.judged(D, *_REAL):
            sample, evidence = call.sample, ""
            if sample.trace.drawn and noise_in:
                evidence = "is the random numbers of randn or rand themselves"
            elif sample.alike is not None and abs(sample.alike) < 0.1 and np.prod(sample.shape) >= 1000:
                evidence = f"is noise: the correlation of neighbouring pixels is {sample.alike:.3f}"
            if evidence:
                yield Finding(
                    "noise passed as real data",
                    f"the batch of shape {sample.shape} that {story.name(D)} learnt from as real at {call.where} "
                    f"{evidence}. Give it a batch of the data",
                )
                break


def _wrong_range(story: Story) -> Iterator[Finding]:
    limits = {"Tanh": (-1.0, 1.0), "Sigmoid": (0.0, 1.0)}
    for D in story.Ds:
        reals = [call.sample for call in story.judged(D, *_REAL)]
        fakes = [call.sample for call in story.judged(D, "network")]
        ends = {sample.trace.squash for sample in fakes if not sample.trace.affine}
        ops = {"" if squash is None else squash.op for squash in ends}
        if not reals or ops not in ({"Tanh"}, {"Sigmoid"}):
            continue
        (op,) = ops
        bottom, top = limits[op]
        low, high = min(sample.low for sample in reals), max(sample.high for sample in reals)
        if story.real is not None:
            low, high = story.real.min().item(), story.real.max().item()
        if min(sample.low for sample in fakes) < bottom or max(sample.high for sample in fakes) > top:
            continue  # noise or augmentation was added on the way: D's inputs do not show the data's range
        half = op == "Tanh" and 0 <= low < high
        if half or low < bottom - 0.2 or high > top + 0.2:
            what = "in half of G's range" if half else "some of them out of G's reach"
            yield Finding(
                "wrong input range",
                f"the real data are in [{low:.3g}, {high:.3g}], {what}: G ends in {op}, which gives "
                f"[{bottom:.0f}, {top:.0f}], so D can tell them apart by range alone. Scale the data to "
                f"[{bottom:.0f}, {top:.0f}]" + (", x ↦ 2x - 1 from [0, 1]" if half and high <= 1 else ""),
            )


def _mixed_statistics(story: Story) -> Iterator[Finding]:
    for D in story.Ds:
        for call in story.judged(D, "batch"):
            if call.normalizing:
                first = story.record.layer(call.normalizing[0])
                yield Finding(
                    "BatchNorm mixes real and fake",
                    f"{story.name(D)} was given real and fake samples in one batch of {call.sample.shape[0]} at "
                    f"{call.where}, and its {len(call.normalizing)} BatchNorm layers ({first} first) took their "
                    "statistics over both. Call D once on each, or use another norm",
                )
                break


# Gradients and steps --------------------------------------------------------------------------------------


def _wrong_side(story: Story) -> Iterator[Finding]:
    """G descends the loss that D descends on fakes, where it should do the opposite."""
    for D in story.Ds:
        fakes = [push for call in story.given(D, "network") for push in call.pushes]
        reals = [push for call in story.given(D, *_REAL) for push in call.pushes]
        d = [push for push in fakes if story.is_for(push.sweep, story.Ds)]
        g = [push for push in fakes if story.is_for(push.sweep, story.Gs)]
        r = [push for push in reals if story.is_for(push.sweep, story.Ds)]
        if not (d and g and r) or not _same_side(d, g, r):
            continue
        on_g, on_d = (float(np.mean([push.gradient.mean() for push in pushes])) for pushes in (g, d))
        yield Finding(
            "G trained on fake labels",
            f"G's loss moves {story.name(D)}'s output on fakes to where D's own loss moves it, not to where D puts "
            f"real samples (mean gradient per logit: {on_g:+.3f} from G's loss, {on_d:+.3f} from D's, at "
            f"{g[0].sweep.where}). Give G's loss the label of real samples",
        )


def _same_side(d: list[Push], g: list[Push], r: list[Push]) -> bool:
    """Whether G's gradients on fakes (g) go with D's on fakes (d), which go against D's on reals (r)."""
    targets = [_target(pushes) for pushes in (d, g, r)]
    if None not in targets:  # each loss pulls logits towards some value, as in LSGAN: compare those
        on_fake, on_g, on_real = targets
        return abs(on_g - on_fake) < abs(on_g - on_real)  # type: ignore[operator]  # none is None
    signs = [_sign(pushes) for pushes in (d, g, r)]
    return signs[0] == signs[1] == -signs[2] != 0


def _target(pushes: list[Push]) -> float | None:
    """The logit at which the gradient, as a rising line in the logit, is 0; None where it is no such line."""
    found = []
    for push in pushes:
        x, g = push.logits.astype(np.float64), push.gradient.astype(np.float64)
        if x.size < 3 or not x.std() > 1e-6 * (1 + abs(x).max()) or not g.std() > 1e-5 * abs(g).max():
            return None
        slope = ((x - x.mean()) * (g - g.mean())).mean() / x.var()
        if not slope * x.std() > 0.95 * g.std():  # the correlation
            return None
        found.append(x.mean() - g.mean() / slope)
    return float(np.median(found))


def _sign(pushes: list[Push]) -> int:
    """The sign that nearly all gradients have which are not 0; 0 if there is none."""
    g = np.concatenate([push.gradient for push in pushes])
    up, down = int((g > 0).sum()), int((g < 0).sum())
    return 0 if 10 * min(up, down) > max(up, down) or not up + down else 1 if up > down else -1


def _zeroed_too_soon(story: Story) -> Iterator[Finding]:
    for network, updates in story.updates.items():
        lost = sum(update.lost for update in updates)
        if lost:
            yield Finding(
                "gradients zeroed before the step",
                f"backward brought gradients to {story.name(network)}, but {lost} of {len(updates)} optimiser steps "
                f"found none (the first at {_step(story, updates, lambda u: u.lost).where}). Call zero_grad() before "
                "backward(), not between it and step()",
            )


def _never_zeroed(story: Story) -> Iterator[Finding]:
    for network, updates in story.updates.items():
        mixed = [update for update in updates if update.fresh and update.stale]
        if mixed:
            yield Finding(
                "gradients never zeroed",
                f"the step of {story.name(network)} at {_step(story, mixed).where} used gradients of "
                f"{len(mixed[0].stale)} earlier backward sweeps that the step before had used already, added to those "
                "of its own. Call zero_grad() before each backward()",
            )


def _step(story: Story, updates: list[Update], which: Callable[[Update], bool] = lambda update: True) -> Step:
    event = story.record.events[next(update.position for update in updates if which(update))]
    assert isinstance(event, Step)
    return event


def _does_not_move(story: Story) -> Iterator[Finding]:
    record = story.record
    steps = [event for event in record.events if isinstance(event, Step)]
    moving = {bool(record.moved & set(role)) for role in (story.Gs, story.Ds)}
    for network, updates in story.updates.items():
        parameters = [p for _, p, _ in record.parameters.get(network, ())]
        if network in record.moved or not parameters or any(update.lost for update in updates):
            continue
        if len(steps) < _CALLS and not any(holds(step, network, record) for step in steps):
            continue
        frozen = not any(p.requires_grad for p in parameters)
        if frozen and record.D is None and moving == {True}:
            continue  # a fixed network beside the trained ones
        yield Finding(
            "network does not move",
            f"no parameter of {story.name(network)} changed in {len(steps)} optimiser steps: "
            f"{_why_not(story, network, frozen)}",
        )


def _why_not(story: Story, network: Module, frozen: bool) -> str:
    record, name = story.record, story.name(network)
    steps = [event for event in record.events if isinstance(event, Step) and holds(event, network, record)]
    sweeps = [event for event in record.events if isinstance(event, Sweep)]
    ids = {id(p) for _, p, _ in record.parameters[network]}
    if frozen:
        return "requires_grad is False for all of them. Call requires_grad_(True) before its step"
    if not steps:
        return f"no optimiser that stepped holds them. Give an optimiser {name}.parameters(), and step it"
    if all(step.rate == 0 for step in steps):
        return "the learning rate is 0"
    if not any(ids & sweep.reached.keys() for sweep in sweeps):
        return "no backward reached them. Is what it made detached, or made under no_grad, in its own step?"
    return "the gradients that its optimiser found are 0. Is the loss saturated, or are they zeroed on the way?"


def _not_detached(story: Story) -> Iterator[Finding]:
    for D in story.Ds:
        if not story.judged(D, "network", "batch"):
            continue
        for G in story.Gs:
            ids = {id(p) for _, p, _ in story.record.parameters.get(G, ())}
            own = [sweep for update in story.updates[D] for sweep in update.fresh if story.is_for(sweep, story.Ds)]
            norms = {sweep: sqrt(sum(sweep.reached[p][0] for p in ids & sweep.reached.keys())) for sweep in own}
            leaking = [sweep for sweep, norm in norms.items() if norm != 0]
            if not leaking:
                continue
            used = any(sweep in leaking for update in story.updates[G] for sweep in update.fresh)
            harm = (
                f"they were not zeroed before {story.name(G)}'s step, which so also descends D's loss"
                if used
                else "wasted work, and wrong as soon as they are not zeroed before its own step"
            )
            yield Finding(
                "fake batch not detached",
                f"the backward of {story.name(D)}'s loss at {leaking[0].where} brought gradients (norm "
                f"{norms[leaking[0]]:.3g}) to {story.name(G)}: {harm}. Give D fake.detach() in its own step",
            )


def _penalty_stops(story: Story) -> Iterator[Finding]:
    """A gradient at D's input is part of D's loss, but no gradient flows through it."""
    for D in story.Ds:
        for sweep in (sweep for update in story.updates[D] for sweep in update.fresh):
            lost = sweep.slopes - sweep.passed
            where = sorted(slope.where for slope in lost if any(call.network is D for call in slope.calls))
            if where and story.is_for(sweep, story.Ds):
                yield Finding(
                    "penalty does not reach D",
                    f"the loss of {story.name(D)} at {sweep.where} has a term made of the gradient at its input "
                    f"({where[0]}), which is a constant to its weights. Call autograd.grad with "
                    "create_graph=True, and do not detach the result",
                )
                break


# Training and evaluation ----------------------------------------------------------------------------------


def _evaluating(story: Story) -> Iterator[Finding]:
    for G in story.Gs:
        for D in story.Ds:
            calls = [c for c in story.calls(D) if any(story.is_for(sweep, story.Gs) for sweep in c.sweeps)]
            own = [source for call in calls for source in sources_of(call) if source.network is G and source.evaluating]
            if own:
                names = sorted({type(layer).__name__ for layer in own[0].evaluating})
                yield Finding(
                    "train/eval gap of G",
                    f"{story.name(G)} was in eval mode when it made the samples that it learnt from ({own[0].where}): "
                    f"its {len(own[0].evaluating)} layers of {', '.join(names)} do not train as they are meant to. "
                    f"Call {story.name(G)}.train() before the step",
                )
                break


def _stale_statistics(story: Story) -> Iterator[Finding]:
    """Running statistics that, after enough batches, are still far from those of the last batch."""
    for G in story.Gs:
        far = []
        for layer, (mean, var) in story.record.batches.items():
            if isinstance(layer, _BatchNorm) and layer in set(G.modules()) and _settled(layer):
                shift = abs(layer.running_mean.numpy(force=True) - mean) / np.sqrt(var + layer.eps)
                ratio = (layer.running_var.numpy(force=True) + layer.eps) / (var + layer.eps)
                if np.median(shift) > 1 or abs(np.log(np.median(ratio))) > np.log(10):
                    far.append((layer, float(np.median(shift)), float(np.median(ratio))))
        if far:
            layer, shift, ratio = far[0]
            yield Finding(
                "train/eval gap of G",
                f"the running statistics of {story.record.layer(layer)} (and {len(far) - 1} more) are far from its "
                f"batches': mean off by {shift:.2g} deviations, variance by a factor {ratio:.2g}, so that samples made "
                "in eval() are unlike those that D sees. Check the momentum, and what G is given between its steps",
            )


def _settled(layer: Any) -> bool:
    """Whether the first values of the running statistics have been forgotten: (1 - momentum)ⁿ < 0.05."""
    if layer.running_mean is None or layer.num_batches_tracked is None:
        return False
    momentum = 1.0 if layer.momentum is None else layer.momentum
    return layer.num_batches_tracked.item() * momentum > 3

"""Optimisers and schedules against PyTorch's, in float64, with random options.

Intended differences: `betas` may be integers; a parameter twice in one group is an error, not a warning;
`load_state_dict` copies; centred RMSprop does not turn to NaN where rounding makes its variance negative;
`capturable`, `differentiable`, `named_parameters()` and `scheduler.step(epoch)` are not there.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: parity with it is not checked")

import inspect
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from peer import BOTH, family, host, outcome

import minigan as mg

SHAPES = [(3, 4), (), (5,), (2, 0), (2, 3, 2, 2)]


def number(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


DECAY = st.sampled_from([0, 0.01, 0.5])
SGD = st.fixed_dictionaries(
    {"lr": number(1e-4, 1)},
    optional={
        "momentum": st.sampled_from([0, 0.5, 0.95]), "dampening": number(0, 1), "weight_decay": DECAY,
        "maximize": st.booleans(),
    },
)  # fmt: skip
NESTEROV = st.fixed_dictionaries({"lr": number(1e-4, 1), "momentum": number(0.1, 1), "nesterov": st.just(True)})
ADAM = st.fixed_dictionaries(
    {},
    optional={
        "lr": number(1e-5, 1), "betas": st.tuples(number(0, 0.999), number(0, 0.9999)), "eps": number(1e-10, 1e-2),
        "weight_decay": DECAY, "amsgrad": st.booleans(), "maximize": st.booleans(),
    },
)  # fmt: skip
RMSPROP = st.fixed_dictionaries(
    {},
    optional={
        "lr": number(1e-5, 1), "alpha": number(0.5, 0.999), "eps": number(1e-8, 1e-2), "weight_decay": DECAY,
        "momentum": st.sampled_from([0, 0.5, 0.9]), "centered": st.booleans(), "maximize": st.booleans(),
    },
)  # fmt: skip
ADAGRAD = st.fixed_dictionaries(
    {},
    optional={
        "lr": number(1e-4, 1), "lr_decay": number(0, 1), "weight_decay": DECAY,
        "initial_accumulator_value": number(0, 1), "eps": number(1e-10, 1e-2), "maximize": st.booleans(),
    },
)  # fmt: skip
CASES = st.one_of(
    st.tuples(st.just("SGD"), st.one_of(SGD, NESTEROV)),
    st.tuples(st.sampled_from(["Adam", "AdamW"]), ADAM),
    st.tuples(st.just("RMSprop"), RMSPROP),
    st.tuples(st.just("Adagrad"), ADAGRAD),
)
CLASSES = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad")
missing = st.lists(st.lists(st.booleans(), min_size=len(SHAPES), max_size=len(SHAPES)), min_size=10, max_size=10)


def parameters(T: Any) -> list[Any]:
    random = np.random.default_rng(0)
    return [T.tensor(random.normal(size=shape), dtype=T.float64, requires_grad=True) for shape in SHAPES]


def step(T: Any, optimizer: Any, seed: int, absent: list[bool] | None = None) -> None:
    random = np.random.default_rng(seed)
    for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        g = T.tensor(random.normal(size=tuple(p.shape)), dtype=T.float64)
        p.grad = None if absent is not None and absent[i] else g
    optimizer.step()


def assert_close(ours: list[Any], theirs: list[Any]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(host(a), host(b), rtol=1e-12, atol=1e-12, equal_nan=False)


def assert_same_state(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """The same keys, and state that agrees; options by the names that both have."""
    assert set(ours["state"]) == set(theirs["state"])
    for key, state in theirs["state"].items():
        assert set(ours["state"][key]) == set(state)
        names = sorted(state)
        assert_close([ours["state"][key][name] for name in names], [state[name] for name in names])
        for name in names:
            assert str(ours["state"][key][name].dtype) == str(state[name].dtype).removeprefix("torch.")
    for a, b in zip(ours["param_groups"], theirs["param_groups"], strict=True):
        assert set(a) <= set(b)
        assert set(b) - set(a) <= {"capturable", "differentiable", "fused"}
        assert a == {name: b[name] for name in a}


@given(case=CASES, absent=missing)
def test_ten_steps(case: tuple[str, dict], absent: list[list[bool]]) -> None:
    name, options = case
    made = []
    for T in BOTH:
        params = parameters(T)
        optimizer = getattr(T.optim, name)(params, **options)
        for i in range(10):
            step(T, optimizer, i, absent[i])
        made.append((params, optimizer.state_dict()))
    (ours, our_state), (theirs, their_state) = made
    assert_close(ours, theirs)
    assert_same_state(our_state, their_state)


@pytest.mark.parametrize("name", CLASSES)
def test_signature(name: str) -> None:
    """The same arguments with the same defaults; those that can go by position, in the same order."""
    ours, theirs = (list(inspect.signature(getattr(T.optim, name)).parameters.values()) for T in BOTH)
    defaults = {p.name: p.default for p in theirs}
    assert {p.name: p.default for p in ours} == {p.name: defaults[p.name] for p in ours}
    assert set(defaults) - {p.name for p in ours} <= {"capturable", "differentiable"}
    positional = [p.name for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == [p.name for p in theirs][: len(positional)]


@pytest.mark.parametrize("name", CLASSES)
def test_groups(name: str) -> None:
    if name == "Adagrad" and torch.__version__ < "2.13":
        pytest.skip("PyTorch 2.11 makes no state for a group that is added to Adagrad, and its step raises KeyError")
    made = []
    for T in BOTH:
        params = parameters(T)
        optimizer = getattr(T.optim, name)([{"params": params[:2], "lr": 0.5}, {"params": params[2:4]}], lr=0.1)
        step(T, optimizer, 0)
        optimizer.add_param_group({"params": params[4], "weight_decay": 0.2})
        step(T, optimizer, 1)
        made.append((params, optimizer.state_dict()))
    assert_close(made[0][0], made[1][0])
    assert_same_state(made[0][1], made[1][1])


def converted(state_dict: Any, to: Any) -> Any:
    """A state dict of one library as one of the other."""
    if isinstance(state_dict, (mg.Tensor, torch.Tensor)):
        return to.tensor(host(state_dict))
    if isinstance(state_dict, dict):
        return {key: converted(value, to) for key, value in state_dict.items()}
    if isinstance(state_dict, list):
        return [converted(value, to) for value in state_dict]
    return state_dict


@given(case=CASES, absent=missing)
def test_state_dicts_pass_both_ways(case: tuple[str, dict], absent: list[list[bool]]) -> None:
    name, options = case
    expected = parameters(torch)
    uninterrupted = getattr(torch.optim, name)(expected, **options)
    for i in range(10):
        step(torch, uninterrupted, i, absent[i])
    for first, second in (BOTH, BOTH[::-1]):
        begun = parameters(first)
        optimizer = getattr(first.optim, name)(begun, **options)
        for i in range(5):
            step(first, optimizer, i, absent[i])
        params = [second.tensor(host(p), requires_grad=True) for p in begun]
        continued = getattr(second.optim, name)(params)  # its options come with the state
        continued.load_state_dict(converted(optimizer.state_dict(), second))
        for i in range(5, 10):
            step(second, continued, i, absent[i])
        assert_close(params, expected)


SCHEDULES = {
    "step": lambda S, o: S.StepLR(o, 3, 0.5),
    "multistep": lambda S, o: S.MultiStepLR(o, [2, 5, 5], 0.5),
    "exponential": lambda S, o: S.ExponentialLR(o, 0.9),
    "cosine": lambda S, o: S.CosineAnnealingLR(o, 4, 0.01),
    "lambda": lambda S, o: S.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "lambdas": lambda S, o: S.LambdaLR(o, [lambda epoch: 0.5**epoch, lambda epoch: 1 - epoch / 20]),
    "linear": lambda S, o: S.LinearLR(o, 0.25, 0.5, 4),
    "constant": lambda S, o: S.ConstantLR(o, 0.25, 3),
}


@pytest.mark.parametrize("second", [None, *SCHEDULES])
@pytest.mark.parametrize("first", SCHEDULES)
def test_schedules(first: str, second: str | None) -> None:
    """Each schedule, and each pair of them on one optimiser; saved and loaded half-way."""
    made = []
    for T in BOTH:
        params = parameters(T)
        optimizer = T.optim.SGD([{"params": params[:2], "lr": 0.5}, {"params": params[2:]}], lr=0.1)
        names = [first] if second is None else [first, second]
        schedules = [SCHEDULES[name](T.optim.lr_scheduler, optimizer) for name in names]
        rates = []
        for i in range(12):
            rates.append([group["lr"] for group in optimizer.param_groups])
            rates += [schedule.get_last_lr() for schedule in schedules]
            step(T, optimizer, i)
            for schedule in schedules:
                schedule.step()
                schedule.load_state_dict(schedule.state_dict())
        states = [schedule.state_dict() for schedule in schedules]
        made.append((params, rates, states))
    (ours, our_rates, our_states), (theirs, their_rates, their_states) = made
    np.testing.assert_allclose(our_rates, their_rates, rtol=1e-12, atol=1e-15)
    assert_close(ours, theirs)
    for a, b in zip(our_states, their_states, strict=True):
        assert set(a) <= set(b)
        assert (a["last_epoch"], a["base_lrs"], a["_step_count"]) == (b["last_epoch"], b["base_lrs"], b["_step_count"])


@pytest.mark.parametrize("name", SCHEDULES)
def test_resuming_by_last_epoch(name: str) -> None:
    rates = []
    for T in BOTH:
        optimizer = T.optim.SGD([{"params": p, "lr": 0.1, "initial_lr": 0.4} for p in parameters(T)[:2]])
        make = SCHEDULES[name]
        schedules = _WithLastEpoch(T.optim.lr_scheduler, 3)
        schedule = make(schedules, optimizer)
        rates.append([])
        for i in range(6):
            rates[-1].append(schedule.get_last_lr())
            step(T, optimizer, i)
            schedule.step()
    np.testing.assert_allclose(rates[0], rates[1], rtol=1e-12)


class _WithLastEpoch:
    """The schedules of a library, made with `last_epoch`."""

    def __init__(self, schedules: Any, last_epoch: int) -> None:
        self._schedules, self._last_epoch = schedules, last_epoch

    def __getattr__(self, name: str) -> Any:
        make = getattr(self._schedules, name)
        return lambda *args: make(*args, last_epoch=self._last_epoch)


ERRORS = {
    "empty": lambda T, w: T.optim.SGD([]),
    "tensor": lambda T, w: T.optim.SGD(w),
    "number": lambda T, w: T.optim.SGD([3]),
    "set": lambda T, w: T.optim.SGD([{"params": {w}}]),
    "non-leaf": lambda T, w: T.optim.SGD([w * 2]),
    "two groups": lambda T, w: T.optim.SGD([{"params": [w]}, {"params": [w]}]),
    "group": lambda T, w: T.optim.SGD([w]).add_param_group([w]),
    "no params": lambda T, w: T.optim.SGD([{"lr": 1}]),
    "lr": lambda T, w: T.optim.Adam([w], lr=-1.0),
    "nan": lambda T, w: T.optim.Adam([w], lr=float("nan")),
    "beta": lambda T, w: T.optim.Adam([w], betas=(0.5, 1.0)),
    "eps": lambda T, w: T.optim.RMSprop([w], eps=-1.0),
    "alpha": lambda T, w: T.optim.RMSprop([w], alpha=-1.0),
    "momentum": lambda T, w: T.optim.SGD([w], momentum=-1.0),
    "decay": lambda T, w: T.optim.AdamW([w], weight_decay=-1.0),
    "lr decay": lambda T, w: T.optim.Adagrad([w], lr_decay=-1.0),
    "nesterov": lambda T, w: T.optim.SGD([w], nesterov=True),
    "load": lambda T, w: T.optim.SGD([w]).load_state_dict(T.optim.SGD(parameters(T)).state_dict()),
    "schedule": lambda T, w: T.optim.lr_scheduler.StepLR([w], 2),
    "resume": lambda T, w: T.optim.lr_scheduler.StepLR(T.optim.SGD([w]), 2, last_epoch=2),
    "lambdas": lambda T, w: T.optim.lr_scheduler.LambdaLR(T.optim.SGD([w]), [abs, abs]),
    "linear": lambda T, w: T.optim.lr_scheduler.LinearLR(T.optim.SGD([w]), start_factor=0),
    "constant": lambda T, w: T.optim.lr_scheduler.ConstantLR(T.optim.SGD([w]), factor=2),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    ours, theirs = (outcome(lambda T: ERRORS[name](T, parameters(T)[0]), T) for T in BOTH)
    assert isinstance(theirs, Exception), "PyTorch accepts this"
    assert isinstance(ours, Exception), "minigan accepts this"
    assert family(ours) is family(theirs)


def test_the_order_of_steps_is_warned_of_in_both() -> None:
    for T in BOTH:
        schedule = T.optim.lr_scheduler.StepLR(T.optim.SGD(parameters(T)), 2)
        with pytest.warns(UserWarning, match=r"before `optimizer.step\(\)`"):
            schedule.step()

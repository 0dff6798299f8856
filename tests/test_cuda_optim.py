"""Update rules on the device, against the papers' formulas in float64, step after step."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigan.kernels import recording
from minigan.kernels.cuda import optim
from minigan.kernels.emulator.device import EmulatedDevice
from minigan.kernels.emulator.run import ORDERS

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(shutil.which("g++") is None, reason="the emulator needs g++, and there is none"),
]

Array = np.ndarray[Any, Any]
STEPS = 3
B1, B2, EPS = 0.8, 0.99, 1e-3


# What each rule subtracts, by its formula; the state is changed ------------------------------------------------------


def sgd(momentum: float, dampening: float, nesterov: bool) -> Any:
    def direction(g: Array, state: dict[str, Array], step: int, lr: float) -> Array:
        if not momentum:
            return lr * g
        state["b"] = momentum * state["b"] + (1 - dampening) * g
        return lr * (g + momentum * state["b"] if nesterov else state["b"])

    return direction


def adam(amsgrad: bool) -> Any:
    def direction(g: Array, state: dict[str, Array], step: int, lr: float) -> Array:
        state["m"] = B1 * state["m"] + (1 - B1) * g
        state["v"] = B2 * state["v"] + (1 - B2) * g**2
        if amsgrad:
            state["top"] = np.maximum(state["top"], state["v"])
        square = state["top" if amsgrad else "v"] / (1 - B2**step)
        return lr * state["m"] / (1 - B1**step) / (np.sqrt(square) + EPS)

    return direction


def rmsprop(centred: bool, momentum: float) -> Any:
    def direction(g: Array, state: dict[str, Array], step: int, lr: float) -> Array:
        state["v"] = B2 * state["v"] + (1 - B2) * g**2
        variance = state["v"]
        if centred:
            state["m"] = B2 * state["m"] + (1 - B2) * g
            variance = variance - state["m"] ** 2
        h = g / (np.sqrt(variance) + EPS)
        if momentum:
            h = state["b"] = momentum * state["b"] + h
        return lr * h

    return direction


def adagrad(g: Array, state: dict[str, Array], step: int, lr: float) -> Array:
    state["s"] = state["s"] + g**2
    return lr * g / (np.sqrt(state["s"]) + EPS)


# Name: the formula, its states, and the call with states s, weights w, step n and learning rate lr.
RULES: dict[str, tuple[Any, str, Any]] = {
    "sgd": (sgd(0, 0, False), "", lambda d, w, s, n, lr: optim.sgd_step(d, w, None, lr, 0.0, 0.0, False)),
    "momentum": (sgd(0.9, 0.3, False), "b", lambda d, w, s, n, lr: optim.sgd_step(d, w, s["b"], lr, 0.9, 0.3, False)),
    "nesterov": (sgd(0.9, 0, True), "b", lambda d, w, s, n, lr: optim.sgd_step(d, w, s["b"], lr, 0.9, 0.0, True)),
    "adam": (
        adam(False), "m v",
        lambda d, w, s, n, lr: optim.adam_step(d, w, s["m"], s["v"], None, n, lr, B1, B2, EPS),
    ),
    "amsgrad": (
        adam(True), "m v top",
        lambda d, w, s, n, lr: optim.adam_step(d, w, s["m"], s["v"], s["top"], n, lr, B1, B2, EPS),
    ),
    "rmsprop": (
        rmsprop(False, 0), "v", lambda d, w, s, n, lr: optim.rmsprop_step(d, w, s["v"], None, None, lr, B2, EPS, 0.0),
    ),
    "rmsprop, centred, with momentum": (
        rmsprop(True, 0.7), "v m b",
        lambda d, w, s, n, lr: optim.rmsprop_step(d, w, s["v"], s["m"], s["b"], lr, B2, EPS, 0.7),
    ),
    "adagrad": (adagrad, "s", lambda d, w, s, n, lr: optim.adagrad_step(d, w, s["s"], lr, EPS)),
}  # fmt: skip

shapes = st.lists(st.sampled_from([(1,), (3,), (0,), (2, 5), (257,), (31, 33), (4, 3, 2, 2), (4099,)]), max_size=4)
orders, watches = st.sampled_from(ORDERS), st.sampled_from([None, "bounds", "races"])
options = st.tuples(st.sampled_from([0.0, 0.1]), st.sampled_from([1.0, 0.9]), st.booleans())


def draw(rng: np.random.Generator, shapes: Any) -> list[Array]:
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def flat(arrays: list[Array]) -> Array:
    return np.concatenate([array.ravel() for array in arrays]).astype(np.float64)


def close(found: Array, right: Array) -> None:
    largest = np.abs(right).max(initial=1)  # of the terms of sums that cancel
    np.testing.assert_allclose(found, right, rtol=2e-5, atol=2e-6 * largest, equal_nan=False)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=12)
@given(shapes, options, orders, watches, st.integers(0, 99))
def test_steps(rule: str, shapes: Any, options: Any, order: str, watch: str | None, seed: int) -> None:
    formula, names, call = RULES[rule]
    device, rng = EmulatedDevice(order, seed, watch), np.random.default_rng(seed)
    parameters = draw(rng, [*shapes, (2,)])
    w, (decay, factor, maximize) = flat(parameters), options
    state = {name: np.zeros(w.size, np.float32) for name in names.split()}
    right = {name: np.zeros(w.size) for name in names.split()}
    for step in range(1, STEPS + 1):
        gradients, lr = draw(rng, [*shapes, (2,)]), 0.1 / step
        call(device, (parameters, gradients, decay, factor, maximize), state, step, lr)
        g = flat(gradients) * (-1 if maximize else 1) + decay * w
        w = factor * w - formula(g, right, step, lr)
        for name in state:
            close(state[name], right[name])
        close(flat(parameters), w)
        w = flat(parameters)  # errors do not add up
        right = {name: values.astype(np.float64) for name, values in state.items()}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("order", ORDERS)
def test_replays_have_the_numbers_of_their_own_step(rule: str, order: str) -> None:
    """A launch is captured, and then its call is made once more before each replay, with other numbers."""

    def steps(captured: bool) -> list[Array]:
        device, rng = EmulatedDevice(order, watch="bounds"), np.random.default_rng(0)
        parameters, gradients = draw(rng, [(7,), (300,)]), draw(rng, [(7,), (300,)])
        state = {name: np.zeros(307, np.float32) for name in RULES[rule][1].split()}
        now = [1]

        def call() -> None:
            step = now[0]
            weights = (parameters, gradients, 0.1 / step, 1 - 0.2 / step, True)
            RULES[rule][2](device, weights, state, step, 0.1 / step)

        if captured:
            with device.capture() as found:
                call()
            found.before.append(call)
        for step in range(1, 6):
            now[0] = step
            found.replay() if captured else call()
        return [*parameters, *state.values()]

    for found, right in zip(steps(True), steps(False), strict=True):
        assert np.isfinite(right).all()
        np.testing.assert_array_equal(found, right)


def test_more_numbers_than_there_is_room_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "NUMBERS", 20)
    device, weights = EmulatedDevice(), ([np.ones(2, np.float32)], [np.ones(2, np.float32)], 0.0, 1.0, False)
    with device.capture():
        for _ in range(4):  # of five numbers each
            optim.sgd_step(device, weights, None, 0.1, 0.0, 0.0, False)
        with pytest.raises(recording.CaptureError, match="more than 20 numbers of float32"):
            optim.sgd_step(device, weights, None, 0.1, 0.0, 0.0, False)


def test_a_capture_that_failed_leaves_no_table_behind() -> None:
    """Which would be found for the same arrays, and never was filled."""
    device, w, g = EmulatedDevice(), np.ones(2, np.float32), np.ones(2, np.float32)

    def call() -> None:
        optim.sgd_step(device, ([w], [g], 0.0, 1.0, False), None, 0.5, 0.0, 0.0, False)

    def fails() -> None:
        with device.capture():
            call()
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    call()
    assert w.tolist() == [0.5, 0.5]


def test_bias_corrections_are_exact_to_float32() -> None:
    """With β2 = 0.999, where 1 - β2 in float32 would have an error of 5e-5: the first step is lr·sign(g)."""
    device, w, g = EmulatedDevice(), np.zeros(9, np.float32), np.linspace(-3, 3, 9).astype(np.float32) + 0.1
    m, v, weights = np.zeros(9, np.float32), np.zeros(9, np.float32), ([w], [g], 0.0, 1.0, False)
    optim.adam_step(device, weights, m, v, None, 1, 0.01, 0.9, 0.999, 0.0)
    np.testing.assert_allclose(w, -0.01 * np.sign(g), rtol=1e-6, equal_nan=False)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("n", [1, 255, 257])
def test_the_naive_rung(n: int, order: str) -> None:
    rng = np.random.default_rng(n)
    w, g, m, v = draw(rng, [(n,)] * 4)
    v = abs(v)
    right, old = {"m": m.astype(np.float64), "v": v.astype(np.float64)}, w.astype(np.float64)
    optim.adam_naive_step(EmulatedDevice(order, watch="races"), w, g, m, v, 3, 0.1, B1, B2, EPS)
    close(w, old - adam(False)(g.astype(np.float64), right, 3, 0.1))
    close(m, right["m"])
    close(v, right["v"])


def test_nan_stays_in_the_largest_square() -> None:
    w, g, m, v, top = (np.zeros(2, np.float32) for _ in range(5))
    g[0], top[1] = np.nan, np.nan
    optim.adam_step(EmulatedDevice(), ([w], [g], 0.0, 1.0, False), m, v, top, 1, 0.1, B1, B2, EPS)
    assert np.isnan(top).all()
    assert np.isnan(w).all()


def test_adam_moves_28_bytes_a_value_and_one_launch_serves_all() -> None:
    """Reads w, g, m, v and writes w, m, v, in blocks of at most 4096 values."""
    launches = []

    class Counting(EmulatedDevice):
        def launch(self, file: str, kernel: str, grid: Any, block: Any, arguments: Any, shared: int = 0) -> None:
            from minigan.kernels.emulator import run

            reached = [array for ref in self.reached if (array := ref()) is not None]
            launches.append((grid, run(file, kernel, grid, block, arguments, watch="races", reached=reached)))

    sizes = [(5000,), (7,), (64, 3)]
    parameters, gradients = draw(np.random.default_rng(0), sizes), draw(np.random.default_rng(1), sizes)
    n = sum(p.size for p in parameters)
    m, v = np.zeros(n, np.float32), np.zeros(n, np.float32)
    device = Counting(watch="races")
    optim.adam_step(device, (parameters, gradients, 0.0, 1.0, False), m, v, None, 1, 0.1, B1, B2, EPS)
    ((grid, counts),) = launches
    assert grid == (4,)
    tables = 256 * 4 * 6  # each thread reads a piece's four numbers and two addresses
    assert (counts.loads * 4, counts.stores * 4) == (4 * n + tables, 3 * n)


def test_arrays_in_another_order_keep_it() -> None:
    """Their states are in C order all the same."""
    device, rng = EmulatedDevice(watch="bounds"), np.random.default_rng(0)
    w, g = (array.transpose(2, 0, 1) for array in draw(rng, [(3, 4, 2)] * 2))
    strides, right, b = w.strides, w - 0.1 * g, np.zeros(24, np.float32)
    optim.sgd_step(device, ([w], [g], 0.0, 1.0, False), b, 0.1, 0.9, 0.0, False)
    close(w, right)
    close(b, g.ravel())
    assert w.strides == strides


def test_wrong_arrays() -> None:
    w, device = np.zeros((2, 3), np.float32), EmulatedDevice()
    for parameter, gradient, error in ((w, w.T.copy(), "of shape"), (w.astype(float), w, "float32")):
        with pytest.raises((ValueError, TypeError), match=error):
            optim.sgd_step(device, ([parameter], [gradient], 0.0, 1.0, False), None, 0.1, 0.0, 0.0, False)
    with pytest.raises(ValueError, match="state of shape"):
        optim.sgd_step(device, ([w], [w], 0.0, 1.0, False), np.zeros(5, np.float32), 0.1, 0.9, 0.0, False)
    optim.sgd_step(device, ([], [], 0.0, 1.0, False), None, 0.1, 0.0, 0.0, False)

"""Random numbers on the device: uniforms are the CPU's bit for bit, normals are normal."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from minigan.kernels.cuda import random as cuda_random
from minigan.kernels.emulator import run
from minigan.kernels.emulator.device import EmulatedDevice
from minigan.kernels.emulator.run import ORDERS
from minigan.random import Generator

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(shutil.which("g++") is None, reason="the emulator needs g++, and there is none"),
]


@pytest.fixture(scope="module", autouse=True)
def small_grids() -> Iterator[None]:
    """So that threads go round their loops more than once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_random, "THREADS", 64)
        patch.setattr(cuda_random, "MOST_BLOCKS", 2)
        yield


keys = st.tuples(st.integers(0, 2**64 - 1), st.sampled_from(["", "latents"]))
orders, watches = st.sampled_from(ORDERS), st.sampled_from([None, "bounds", "races"])
sizes = st.sampled_from([0, 1, 2, 3, 5, 7, 8, 9, 31, 257, 2049])


def stream(key: Any) -> tuple[Generator, Any, np.ndarray]:
    """A stream of the CPU, and its key and position on the device."""
    cpu = Generator(name=key[1]).manual_seed(key[0])
    found, position = cuda_random.place_of(cpu.get_state())
    return cpu, found, np.array([position], np.uint64)


@given(keys, st.lists(sizes, min_size=1, max_size=4), orders, watches)
def test_uniforms_are_those_of_the_cpu(key: Any, draws: list[int], order: str, watch: str | None) -> None:
    cpu, key, position = stream(key)
    device = EmulatedDevice(order, 5, watch)
    for n in draws:
        np.testing.assert_array_equal(cuda_random.uniform(device, (n,), key, position), cpu.uniform((n,)), strict=True)
        assert cuda_random.place_of(cpu.get_state()) == (key, int(position[0]))


@given(keys, st.integers(0, 40), st.sampled_from([1, 9, 300]), orders)
def test_the_naive_rung(key: Any, start: int, n: int, order: str) -> None:
    cpu, key, position = stream(key)
    cpu.uniform((start,))
    position += np.uint64(start)
    y = np.full(n, np.nan, np.float32)
    arguments = [y, n, *key, position]
    run("random", "random_uniform_naive", (-(-n // 256),), (256,), arguments, order=order, watch="races")
    np.testing.assert_array_equal(y, cpu.uniform((n,)))


@given(keys, st.integers(0, 2**66), st.integers(0, 20))
def test_states_become_places_and_back(key: Any, position: int, n: int) -> None:
    _, key, _ = stream(key)
    position %= 2**64
    state = cuda_random.state_at(key, position)
    assert cuda_random.place_of(state) == (key, position)
    cpu = Generator()
    cpu.set_state(state)
    device, place = EmulatedDevice(), np.array([position], np.uint64)
    if position < 2**64 - n:
        np.testing.assert_array_equal(cuda_random.uniform(device, (n,), key, place), cpu.uniform((n,)))


def test_a_place_far_on_and_states_that_have_none() -> None:
    cpu = Generator().manual_seed(3)
    cpu.uniform((3,))
    cpu.uniform((2,), np.float64)  # steps over half a word, which a later draw takes up again
    with pytest.raises(ValueError, match="no place has that next"):
        cuda_random.place_of(cpu.get_state())
    state = Generator().get_state()
    state[1] = 1
    with pytest.raises(ValueError, match="no place has that next"):
        cuda_random.place_of(state)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropout_drops_where_the_cpu_does(p: float, order: str) -> None:
    cpu, key, position = stream((11, ""))
    device, x = EmulatedDevice(order, watch="races"), np.linspace(-1, 1, 517, dtype=np.float32).reshape(11, 47)
    cpu.uniform((5,))
    position += np.uint64(5)
    keep = cpu.uniform(x.shape) >= np.float32(p)
    right = keep * np.float32(1 / (1 - p) if p < 1 else 0)
    y, factors = cuda_random.dropout(device, x, p, key, position)
    np.testing.assert_array_equal(factors, right, strict=True)
    np.testing.assert_array_equal(y, x * right, strict=True)
    keep = cpu.uniform((30, 1, 1, 40)) >= np.float32(p)
    alone = cuda_random.dropout_factors(device, (30, 1, 1, 40), p, key, position)
    np.testing.assert_array_equal(alone, keep * np.float32(1 / (1 - p) if p < 1 else 0))
    with pytest.raises(ValueError, match="probability"):
        cuda_random.dropout(device, x, 1.5, key, position)


def test_a_uniform_that_is_the_probability_stays() -> None:
    cpu, key, position = stream((1, ""))
    u = cpu.uniform((9,))
    factors = cuda_random.dropout_factors(EmulatedDevice(), (9,), float(u[4]), key, position)
    np.testing.assert_array_equal(factors != 0, u >= u[4])


def box_muller(key: Any, block: int, n: int) -> np.ndarray:
    """Normals of two words each, from a block of the stream on, in float64."""
    words = np.random.Philox(key=key[0] | key[1] << 64, counter=block).random_raw(4 * -(-n // 8))
    u, v = (words % 2**32 + 0.5) / 2**32, (words >> 40) / 2**24
    pairs = np.sqrt(-2 * np.log(u)) * np.array([np.cos(2 * np.pi * v), np.sin(2 * np.pi * v)])
    return pairs.T.ravel()[:n]


@given(keys, st.integers(0, 30), sizes, orders, watches)
def test_normals_are_pairs_of_words(key: Any, start: int, n: int, order: str, watch: str | None) -> None:
    _, key, position = stream(key)
    position += np.uint64(start)
    y = cuda_random.normal(EmulatedDevice(order, 1, watch), (n,), key, position, 2.0, 3.0)
    first = -(-start // 8)
    assert position[0] == (8 * (first + -(-n // 8)) if n else start)
    np.testing.assert_allclose(y, 2 + 3 * box_muller(key, first, n), rtol=1e-5, atol=1e-5, equal_nan=False)


def test_normals_are_normal() -> None:
    """The largest of many tell whether all 32 bits of a word are used."""
    y = cuda_random.normal(EmulatedDevice(), (40_000,), (7, 0), np.zeros(1, np.uint64))
    np.testing.assert_allclose(y, box_muller((7, 0), 0, 40_000), rtol=1e-5, atol=1e-5, equal_nan=False)
    assert stats.kstest(y, "norm").pvalue > 0.01
    assert abs(np.corrcoef(y[::2], y[1::2])[0, 1]) < 0.03
    assert abs(np.corrcoef(y[::2] ** 2, y[1::2] ** 2)[0, 1]) < 0.03


def test_a_replay_with_the_same_arguments_draws_new_numbers() -> None:
    position = np.zeros(1, np.uint64)
    first, second = (cuda_random.uniform(EmulatedDevice(), (16,), (1, 2), position) for _ in range(2))
    assert not np.isin(first, second).any()

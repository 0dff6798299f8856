"""Random numbers on the device: the uniforms of minigan's streams bit for bit, normals, and dropout.

A stream is a key of two 64-bit integers, the seed and a hash of the stream's name, and a position: how many 32-bit
words were drawn. The position is an array of one uint64 on the device, which each draw reads and then moves on, so that
a captured graph draws new numbers at each replay. `place_of` and `state_at` turn a state of NumPy's Philox into them
and back. Normals are not those of the CPU, which are made one after the other, by rejection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["dropout", "dropout_factors", "normal", "place_of", "state_at", "uniform"]

Array = Any  # of NumPy or CuPy
Key = tuple[int, int]

WORDS = 8  # of 32 bits, in a block of the stream
THREADS = 256
MOST_BLOCKS = 2048


def uniform(device: Any, shape: Sequence[int], key: Key, position: Array) -> Array:
    """Uniforms in [0, 1), float32: what `minigan.random.Generator.uniform` draws from that place.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> position = np.zeros(1, np.uint64)
    >>> uniform(EmulatedDevice(), (3,), (5, 0), position), position
    (array([...], dtype=float32), array([3], dtype=uint64))
    """
    y = device.empty(tuple(shape), np.float32)
    if y.size:
        device.launch("random", "random_uniform", *_sizes(y.size), [y, y.size, *key, position])
        _advance(device, position, y.size)
    return y


def normal(
    device: Any, shape: Sequence[int], key: Key, position: Array, mean: float = 0.0, deviation: float = 1.0
) -> Array:
    """Normals, float32. They take whole blocks of the stream: the position becomes a multiple of 8."""
    y = device.empty(tuple(shape), np.float32)
    if y.size:
        arguments = [y, y.size, float(mean), float(deviation), *key, position]
        device.launch("random", "random_normal", *_sizes(y.size), arguments)
        _advance(device, position, -(-y.size // WORDS) * WORDS, whole=True)
    return y


def dropout(device: Any, x: Array, p: float, key: Key, position: Array) -> tuple[Array, Array]:
    """x·f and the factors f: 0 with probability p, else 1 / (1 - p); they take one uniform each."""
    y, factors = device.empty(x.shape, np.float32), device.empty(x.shape, np.float32)
    _dropout(device, x, y, factors, p, key, position)
    return y, factors


def dropout_factors(device: Any, shape: Sequence[int], p: float, key: Key, position: Array) -> Array:
    """The factors of `dropout` alone, for shapes that broadcast: whole channels, say."""
    factors = device.empty(tuple(shape), np.float32)
    _dropout(device, None, None, factors, p, key, position)
    return factors


def _dropout(
    device: Any, x: Array | None, y: Array | None, factors: Array, p: float, key: Key, position: Array
) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: got probability {p}, expected 0 to 1")
    if factors.size:
        scale = 1 / (1 - p) if p < 1 else 0.0
        arguments = [x, y, factors, factors.size, float(p), scale, *key, position]
        device.launch("random", "random_dropout", *_sizes(factors.size), arguments)
        _advance(device, position, factors.size)


def _sizes(n: int) -> tuple[tuple[int], tuple[int]]:
    """Grid and block of a draw: a thread for each block of the stream, of which n numbers may touch one more."""
    return (min(-(-(n // WORDS + 2) // THREADS), MOST_BLOCKS),), (THREADS,)


def _advance(device: Any, position: Array, words: int, whole: bool = False) -> None:
    device.launch("random", "random_advance", (1,), (1,), [position, words, int(whole)])


# NumPy's states -------------------------------------------------------------------------------------------------------


def place_of(state: np.ndarray) -> tuple[Key, int]:
    """Key and position of a state as `minigan.random.Generator.get_state` gives it.

    >>> place_of(state_at((5, 6), 1003))
    ((5, 6), 1003)
    """
    counter, key, buffer = state[:4], state[4:6], state[6:10]
    taken, half, left = (int(word) for word in state[10:])
    position = 2 * (4 * int(counter[0]) - 4 + taken) - half
    torn = half and (taken == 0 or int(buffer[taken - 1]) >> 32 != left)
    if any(counter[1:]) or position >= 2**64 or torn:
        raise ValueError(
            "random state: half a word is left from before 64-bit numbers were drawn: no place has that next"
        )
    return (int(key[0]), int(key[1])), position


def state_at(key: Key, position: int) -> np.ndarray:
    """The state of NumPy's Philox that has this position next, as `minigan.random.Generator.set_state` takes it."""
    bits = np.random.Philox(key=key[0] | key[1] << 64, counter=position // WORDS)
    np.random.Generator(bits).random(position % WORDS, dtype=np.float32)
    state = bits.state
    words = [*state["state"]["counter"], *state["state"]["key"], *state["buffer"]]
    words += [state["buffer_pos"], state["has_uint32"], state["uinteger"]]
    return np.array([int(word) for word in words], np.uint64)

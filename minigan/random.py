"""Random numbers from named, counter-based streams (Philox 4x64).

A stream is a 128-bit key (the seed and a hash of the stream's name) and a counter: the whole state is
thirteen integers, so a checkpoint can hold it, and any device can make the same uniforms from it.
The default stream serves `rand`, `randn`, dropout and initialisation, as in PyTorch.

A device that has kernels makes its float32 numbers itself, from a position in the stream that is in its memory: so a
captured step draws new ones at each replay. One of host and device has drawn last, and where the other is to draw, or
the state is asked for, it learns the position.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from minigan.backend import Array, Backend
from minigan.kernels.cpu.workers import parallel
from minigan.kernels.cuda import random as kernels
from minigan.kernels.recording import refuse

_STATE_WORDS = 13  # counter 4, key 2, buffer 4, buffer position, whether half a word is left, that half

_PIECE = 1 << 17  # numbers that one thread makes at a time


def _alone(method: Callable[..., Any]) -> Any:
    @wraps(method)
    def call(self: Generator, *args: Any, **kwargs: Any) -> Any:
        with self.drawing:
            return method(self, *args, **kwargs)

    return call


class Generator:
    """One stream. `name` tells streams with the same seed apart.

    >>> a, b = Generator().manual_seed(3), Generator().manual_seed(3)
    >>> bool((a.uniform((2, 2)) == b.uniform((2, 2))).all())
    True
    """

    def __init__(self, device: object = "cpu", name: str = "") -> None:
        self.device = device  # accepted for PyTorch's signature: a stream's numbers do not depend on it
        self.name = name
        self._positions: dict[Any, Array] = {}  # by device: one number in its memory
        self.drawing = threading.RLock()  # a device's draw and its step to the next position are one, as NumPy's are
        self.manual_seed(0)

    @_alone
    def manual_seed(self, seed: int) -> Generator:
        """Start the stream again from `seed`."""
        try:
            self._seed = int(seed) % 2**64
        except (TypeError, ValueError):
            raise TypeError(f"manual_seed: expected an integer, got {seed!r:.40}") from None
        digest = hashlib.blake2b(self.name.encode(), digest_size=8).digest() if self.name else b""
        self._bits = np.random.Philox(key=self._seed | int.from_bytes(digest, "little") << 64)
        self._numbers = np.random.Generator(self._bits)
        self._last: Any = None  # the device that has drawn last; None: the host
        return self

    def seed(self) -> int:
        """Start again from an unpredictable seed, and return it."""
        self.manual_seed(int.from_bytes(np.random.SeedSequence().generate_state(2).tobytes(), "little"))
        return self._seed

    def initial_seed(self) -> int:
        """The seed the stream was last started from."""
        return self._seed

    @_alone
    def get_state(self) -> np.ndarray:
        """The whole state as 13 unsigned 64-bit integers."""
        if self._last is not None:
            refuse(self._last, "asking for a random state")
            return kernels.state_at(self._key(), int(self._positions[self._last][0]))
        state = self._bits.state
        words = [*state["state"]["counter"], *state["state"]["key"], *state["buffer"]]
        words += [state["buffer_pos"], state["has_uint32"], state["uinteger"]]
        return np.array([int(word) for word in words], dtype=np.uint64)

    @_alone
    def set_state(self, words: np.ndarray) -> None:
        """Continue exactly where `get_state` was called."""
        words = np.asarray(words)
        if words.shape != (_STATE_WORDS,) or words.dtype != np.uint64:
            raise RuntimeError(
                f"random state: got {words.dtype} of shape {words.shape}, expected uint64 of shape (13,)"
            )
        self._seed, self._last = int(words[4]), None
        self._bits.state = {
            "bit_generator": "Philox",
            "state": {"counter": words[:4].copy(), "key": words[4:6].copy()},
            "buffer": words[6:10].copy(),
            "buffer_pos": int(words[10]),
            "has_uint32": int(words[11]),
            "uinteger": int(words[12]),
        }

    @_alone
    def uniform(self, shape: Sequence[int], dtype: np.typing.DTypeLike = np.float32) -> np.ndarray:
        """Uniforms in [0, 1): the top 24 bits of each 32-bit word (the top 53 of each 64 in float64)."""
        self._on_host()
        wide = np.float64 if np.dtype(dtype) == np.float64 else np.float32
        if wide == np.float32 and min(shape, default=0) > 0 and math.prod(shape) >= 2 * _PIECE:
            values = self._many_uniforms(math.prod(shape)).reshape(shape)
        else:
            values = self._numbers.random(tuple(shape), dtype=wide)
        if np.dtype(dtype) == np.float16:  # the top 11 bits: more would be rounded up to 1
            values = np.floor(values * 2**11) / 2**11
        return values.astype(dtype, copy=False)

    def _many_uniforms(self, size: int) -> np.ndarray:
        """The same float32 numbers and state after them, made on all threads: a counter starts anywhere."""
        values = np.empty(size, np.float32)
        with self._bits.lock:  # as NumPy does for one call
            state = self._bits.state
            head = state["has_uint32"] + 2 * (4 - state["buffer_pos"])  # what is left of the last four words
            self._numbers.random(dtype=np.float32, out=values[:head])
            pieces = (size - head) // _PIECE
            tail = head + pieces * _PIECE

            def draw(i: int) -> None:
                bits = np.random.Philox(key=state["state"]["key"], counter=state["state"]["counter"])
                numbers = np.random.Generator(bits.advance(i * _PIECE // 8))
                numbers.random(dtype=np.float32, out=values[head + i * _PIECE :][:_PIECE])

            parallel(draw, pieces)
            self._bits.advance(pieces * _PIECE // 8)
            self._numbers.random(dtype=np.float32, out=values[tail:])
        return values

    @_alone
    def normal(self, shape: Sequence[int], dtype: np.typing.DTypeLike = np.float32) -> np.ndarray:
        """Standard normals."""
        self._on_host()
        wide = np.float64 if np.dtype(dtype) == np.float64 else np.float32
        return self._numbers.standard_normal(tuple(shape), dtype=wide).astype(dtype, copy=False)

    @_alone
    def integers(self, low: int, high: int, shape: Sequence[int]) -> np.ndarray:
        """Integers in [low, high) as int64."""
        self._on_host()
        return self._numbers.integers(low, high, tuple(shape), dtype=np.int64)

    @_alone
    def permutation(self, n: int) -> np.ndarray:
        """0 … n-1 in random order, as int64."""
        self._on_host()
        return self._numbers.permutation(n).astype(np.int64, copy=False)

    # On a device ----------------------------------------------------------------------------------------

    def _on_host(self) -> None:
        """Have the host draw next."""
        if self._last is not None:
            self.set_state(self.get_state())

    def _key(self) -> tuple[int, int]:
        low, high = self._bits.state["state"]["key"]
        return int(low), int(high)

    def place(self, device: Any, whole: bool = False) -> tuple[tuple[int, int], Array] | None:
        """Have a device draw next: the stream's key, and the position in the device's memory.

        None where half a word is left that no position has next, as after some 64-bit numbers; a draw of `whole`
        blocks, or one that is captured, does without it.
        """
        if device not in self._positions:
            self._positions[device] = device.asarray(np.zeros(1, np.uint64))
        recording, key = device.recording, self._key()
        if recording is not None and recording.open:
            recording.locks[id(self.drawing)] = self.drawing
            recording.before.append(lambda: self.place(device, whole=True))
            recording.valid.append(lambda: self._key() == key)
        elif self._last is not device:
            state = self.get_state()
            try:
                position = kernels.place_of(state)[1]
            except ValueError:
                if not whole:
                    return None
                state[11] = 0  # of the half word
                position = kernels.place_of(state)[1]
            device.write(self._positions[device], np.array([position], np.uint64))
            self._last = device
        return key, self._positions[device]

    @_alone
    def __getstate__(self) -> dict[str, Any]:
        self._on_host()
        return {name: value for name, value in self.__dict__.items() if name != "drawing"} | {"_positions": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, drawing=threading.RLock())


_streams: dict[str, Generator] = {"": Generator()}
_base_seed = 0


def stream(name: str) -> Generator:
    """The stream of this name, made on first use from the last `manual_seed`.

    >>> stream("latents") is stream("latents")
    True
    """
    if name not in _streams:
        _streams[name] = Generator(name=name).manual_seed(_base_seed)
    return _streams[name]


default_generator = _streams[""]


def source(generator: Generator | None) -> Generator:
    """The generator itself, or the default one for None."""
    if generator is not None and not isinstance(generator, Generator):
        raise TypeError(f"expected a minigan.Generator or None as generator, got {type(generator).__name__}")
    return default_generator if generator is None else generator


def draw(kind: str, shape: Sequence[int], dtype: np.dtype, B: Backend, generator: Generator | None = None) -> Array:
    """An array of "uniform" or "normal" numbers on a backend: in float32 by its kernels, if it has any."""
    stream, device = source(generator), getattr(B.kernels, "device", None)
    with stream.drawing:
        if device is not None and dtype == np.float32:
            place = stream.place(device, whole=kind == "normal")
            if place is not None:
                return B.xp.asarray(getattr(kernels, kind)(device, shape, *place))
        return B.asarray(getattr(stream, kind)(shape, dtype))


def manual_seed(seed: int) -> Generator:
    """Start every named stream again from `seed`; returns the default one."""
    global _base_seed
    for generator in _streams.values():
        generator.manual_seed(seed)
    _base_seed = int(seed)
    return default_generator


def get_rng_state() -> np.ndarray:
    """State of the default stream."""
    return default_generator.get_state()


def set_rng_state(state: np.ndarray) -> None:
    """Set the state of the default stream."""
    default_generator.set_state(state)


def state_dict() -> dict[str, np.ndarray]:
    """The states of all named streams, for a checkpoint."""
    return {name: generator.get_state() for name, generator in _streams.items()}


def load_state_dict(states: dict[str, np.ndarray]) -> None:
    """Continue every stream where `state_dict` was called."""
    for name, state in states.items():
        stream(name).set_state(state)


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Accepted for PyTorch's sake; a run repeats from its seed anyway, and nothing changes."""

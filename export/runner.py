"""Samples from a generator in an ONNX file, drawn by ONNX Runtime or by minigan itself.

What an exported file takes and gives is said in `minigan.export`; a file from elsewhere will do too, if it has one
input of latents.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from minigan import random
from minigan.creation import from_numpy
from minigan.export.graph import OnnxError, Value
from minigan.export.session import NAMES, open_session, reason
from minigan.grad_mode import no_grad
from minigan.tensor import Tensor

BATCH = 50  # samples in one run: divides a shard, and on a CPU more are no faster
_DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(int64)": "int64",
    "tensor(int32)": "int32", "tensor(uint8)": "uint8",
}  # fmt: skip


class Generator:
    """A generator in an ONNX file.

    `provider` is "cpu", "cuda", "tensorrt", or "auto": CUDA where it works. ONNX Runtime falls back to the CPU when
    the one that was asked for does not work: that is a warning, or an error with `require_provider`; `.provider` says
    what it came to. `threads` are of one operation; without `spinning`, waiting threads sleep: slower, but they leave
    the processor to others. `engine="numpy"` needs no ONNX Runtime.

    >>> import minigan as mg, tempfile
    >>> from minigan.export import export_onnx
    >>> path = tempfile.mkdtemp() + "/generator.onnx"
    >>> _ = export_onnx(mg.nn.Sequential(mg.nn.Linear(4, 2), mg.nn.Tanh()).eval(), path, latent=4)
    >>> Generator(path, provider="cpu").sample(5, seed=3).shape
    (5, 2)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        provider: str = "auto",
        threads: int | None = None,
        engine: str = "onnxruntime",
        require_provider: bool = False,
        spinning: bool = True,
    ) -> None:
        self.path = Path(path)
        self._engine: _OnnxRuntime | _NumPy
        if engine == "onnxruntime":
            session = open_session(self.path, provider, threads, require_provider, spinning)
            self._engine = _OnnxRuntime(self.path, session)
        elif engine != "numpy":
            raise ValueError(f"engine: got {engine!r}, expected 'onnxruntime' or 'numpy'")
        elif provider not in ("auto", "cpu") or threads is not None:
            raise ValueError("engine='numpy' runs on the CPU, on the threads of minigan.set_num_threads")
        else:
            self._engine = _NumPy(self.path)
        self.metadata, self.provider = self._engine.metadata, self._engine.provider
        self._read_inputs(self._engine.inputs)
        self.classes = self._find_classes() if "labels" in self._extra else 0
        output = self._engine.output
        self.sample_shape, self.dtype = self._find_sample_shape(output.shape), output.dtype

    def _find_classes(self) -> int:
        stated = self.metadata.get("classes", "0")
        if not stated.isdecimal():
            raise OnnxError(f"{self.path}: its metadata give {stated!r} as the number of classes")
        return int(stated)

    def _find_sample_shape(self, stated: tuple[int | str, ...]) -> tuple[int, ...]:
        sizes = stated[1:]
        if stated and _known(sizes):
            return sizes
        z = np.zeros((self._batch or 1, *self.latent_shape))  # a foreign file need not say it: one sample does
        return self._engine.shape_of_one(self._feeds(z, 0 if "labels" in self._extra else None))

    def _read_inputs(self, inputs: list[Value]) -> None:
        z = next((one for one in inputs if one.name == "z"), inputs[0] if inputs else None)
        self._extra = {one.name for one in inputs if one is not z}
        sizes = z.shape[1:] if z else ()
        if z is None or z.dtype.kind != "f" or not sizes or not _known(sizes) or not self._extra <= {"labels", "psi"}:
            found = ", ".join(f"{one.name} {one.dtype} {list(one.shape)}" for one in inputs) or "none"
            raise OnnxError(
                f"{self.path}: has the inputs {found}; expected one, z, of shape (batch, latent), and labels and psi "
                "at most"
            )
        self._z, self._batch = z, z.shape[0] if isinstance(z.shape[0], int) else None
        self.latent_shape = sizes

    # Samples --------------------------------------------------------------------------------------------

    def sample(self, n: int, seed: int = 0, labels: Any = None, psi: float = 1.0) -> np.ndarray:
        """n samples, each of which depends on `seed` and its place only: the same as the run's own, but for rounding.

        `labels` is a class for all, or one for each; without, the classes take turns. `psi` below 1 draws latents
        towards their mean: better samples, more alike.
        """
        if n < 0:
            raise ValueError(f"sample: got {n} samples, expected 0 or more")
        samples = np.empty((n, *self.sample_shape), self.dtype)
        for i, batch in enumerate(self.stream(n, seed, labels, psi)):
            samples[i * BATCH : i * BATCH + len(batch)] = batch
        return samples

    def stream(
        self, n: int, seed: int = 0, labels: Any = None, psi: float = 1.0, start: int = 0
    ) -> Iterator[np.ndarray]:
        """The same samples in batches, from number `start` (a multiple of BATCH) on."""
        if np.ndim(labels) and np.shape(labels) != (n,):
            raise ValueError(f"labels: got shape {np.shape(labels)}, expected one class, or one for each of {n}")
        for first, z in latent_batches(self.latents, n, seed, start):
            chosen = labels[first : first + len(z)] if np.ndim(labels) else labels
            if labels is None and "labels" in self._extra:
                chosen = self._in_turn(first, len(z))
            yield self(z, chosen, psi)

    def latents(self, n: int, generator: random.Generator) -> Tensor:
        """n latents of the distribution that the generator was trained with."""
        from minigan.gan.tricks import latents  # training is not needed for anything else here

        distribution = self.metadata.get("latent_distribution", "normal")
        z = latents(n, math.prod(self.latent_shape), distribution, generator=generator, device="cpu")
        return z.reshape(n, *self.latent_shape)

    def __call__(self, z: Any, labels: Any = None, psi: float = 1.0) -> Any:
        """The samples of these latents, in one run; where z is on the GPU (CuPy), so are they, with no copy between.

        Without `labels`, the classes take turns.
        """
        feeds = self._feeds(z, labels, psi)
        z = feeds[self._z.name]
        xp = _namespace(z)
        samples = xp.empty((len(z), *self.sample_shape), self.dtype)
        size = self._batch or len(z) or 1
        for start in range(0, len(z), size):
            part, rest = samples[start : start + size], start + size - len(z)
            if rest > 0:  # the last part of a file with a batch of its own is filled up
                part = xp.empty((size, *self.sample_shape), self.dtype)
            self._engine.run({name: _rows(array, start, size) for name, array in feeds.items()}, part)
            if rest > 0:
                samples[start:] = part[: size - rest]
        return samples

    def _feeds(self, z: Any, labels: Any = None, psi: float = 1.0) -> dict[str, Any]:
        """The inputs as contiguous arrays of the file's dtypes, after checks."""
        if _on_gpu(z) and self.provider not in ("cuda", "tensorrt"):
            raise ValueError(f"z: is on a GPU, {self.path} runs on the CPU; use provider='cuda', or z.get()")
        z = _namespace(z).asarray(z)
        if z.shape[1:] != self.latent_shape or z.dtype.kind != "f":
            sizes = ", ".join(map(str, self.latent_shape))
            raise ValueError(f"z: got {z.dtype} of shape {z.shape}, expected floating numbers of shape (n, {sizes})")
        feeds = {self._z.name: _namespace(z).ascontiguousarray(z, self._z.dtype)}
        if "labels" in self._extra:
            feeds["labels"] = self._checked_labels(len(z), self._in_turn(0, len(z)) if labels is None else labels)
        elif labels is not None:
            raise ValueError(f"labels: {self.path} has no classes")
        if "psi" in self._extra:
            feeds["psi"] = np.array(psi, np.float32)
        elif psi != 1:
            raise ValueError(f"psi: {self.path} was exported without truncation")
        return feeds

    def _checked_labels(self, n: int, labels: Any) -> np.ndarray:
        chosen = np.asarray(labels)
        if chosen.shape not in ((), (n,)) or chosen.dtype.kind not in "iu":
            raise ValueError(f"labels: got {chosen.dtype} of shape {chosen.shape}, expected whole numbers, ({n},)")
        if chosen.size and (chosen.min() < 0 or (self.classes and chosen.max() >= self.classes)):
            raise ValueError(f"labels: got {chosen.min()} to {chosen.max()}, expected 0 to {self.classes - 1}")
        return np.ascontiguousarray(np.broadcast_to(chosen, n), np.int64)

    def _in_turn(self, first: int, n: int) -> np.ndarray:
        """The classes of n samples from number `first` on."""
        if not self.classes:
            raise ValueError(f"labels: needed, for {self.path} does not say how many classes it has")
        return np.arange(first, first + n) % self.classes


def latent_batches(
    latents: Callable[[int, random.Generator], Tensor], n: int, seed: int, start: int = 0
) -> Iterator[tuple[int, Tensor]]:
    """The latents of the samples from `start` (a multiple of BATCH) to n, as `Trainer.sample` draws them, in batches.

    Each with the number of its first sample. Those before `start` are drawn too, and dropped: how much of the random
    stream a normal number takes varies.
    """
    generator = random.Generator(name="samples").manual_seed(seed)
    for first in range(0, n, BATCH):
        z = latents(min(BATCH, n - first), generator)
        if first >= start:
            yield first, z


# Engines ------------------------------------------------------------------------------------------------


class _OnnxRuntime:
    def __init__(self, path: Path, session: Any) -> None:
        self._path, self._session = path, session
        self.provider = NAMES.get(session.get_providers()[0], session.get_providers()[0])
        self.metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
        self.inputs = [_value(path, one) for one in session.get_inputs()]
        self.output = _value(path, session.get_outputs()[0])

    def shape_of_one(self, feeds: dict[str, Any]) -> tuple[int, ...]:
        with self._explained(feeds):
            return self._session.run([self.output.name], feeds)[0].shape[1:]

    def run(self, feeds: dict[str, Any], out: Any) -> None:
        """Into `out`; no array is copied on its own device, and `feeds` and `out` live until the end of the run."""
        if _on_gpu(out):
            _namespace(out).cuda.get_current_stream().synchronize()  # ONNX Runtime has a stream of its own
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_input(name, *_place(array))
        binding.bind_output(self.output.name, *_place(out))
        with self._explained(feeds):
            self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    @contextmanager
    def _explained(self, feeds: dict[str, Any]) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # as in open_session
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
            raise OnnxError(f"{self._path}: cannot run on {shapes}: {reason(error)}") from None


class _NumPy:
    provider = "numpy"

    def __init__(self, path: Path) -> None:
        from minigan.export.importer import load_onnx

        self._module = load_onnx(path)
        graph = self._module._graph
        self.metadata, self.inputs, self.output = graph.metadata, graph.inputs, graph.outputs[0]

    def shape_of_one(self, feeds: dict[str, Any]) -> tuple[int, ...]:
        return self._given(feeds).shape[1:]

    def run(self, feeds: dict[str, Any], out: np.ndarray) -> None:
        out[...] = self._given(feeds)

    def _given(self, feeds: dict[str, Any]) -> np.ndarray:
        with no_grad():
            return self._module(*(from_numpy(feeds[one.name]) for one in self.inputs)).numpy(force=True)


def _value(path: Path, one: Any) -> Value:
    """What ONNX Runtime says of an input or output; a size that it does not know is '?'."""
    if one.type not in _DTYPES:
        raise OnnxError(f"{path}: {one.name} is a {one.type}, expected one of {', '.join(_DTYPES)}")
    sizes = tuple(size if isinstance(size, (int, str)) else "?" for size in one.shape)
    return Value(one.name, np.dtype(_DTYPES[one.type]), sizes)


def _known(sizes: tuple[int | str, ...]) -> TypeGuard[tuple[int, ...]]:
    return all(isinstance(size, int) for size in sizes)


def _on_gpu(array: Any) -> bool:
    return hasattr(array, "__cuda_array_interface__")


def _namespace(array: Any) -> Any:
    """NumPy or CuPy."""
    if not _on_gpu(array):
        return np
    import cupy

    return cupy


def _place(array: Any) -> tuple[str, int, type, tuple[int, ...], int]:
    """Device, its number, dtype, shape and address of an array of NumPy or CuPy, as IOBinding takes them."""
    if _on_gpu(array):
        return "cuda", array.device.id, array.dtype.type, array.shape, array.data.ptr
    return "cpu", 0, array.dtype.type, array.shape, array.ctypes.data


def _rows(array: Any, start: int, size: int) -> Any:
    """`size` rows from `start` on, filled up with zeros at the end; a scalar is for all."""
    if array.ndim == 0:
        return array
    rows = array[start : start + size]
    missing = size - len(rows)
    return _namespace(array).pad(rows, [(0, missing), *[(0, 0)] * (array.ndim - 1)]) if missing else rows

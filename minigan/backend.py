"""Backends: an array module, its kernels and its memory, for one device.

Everything above this file reaches arrays through a `Backend`, never through `numpy` or `cupy` by name.
`NumpyBackend` serves the CPU; `CupyBackend` is built on first use, so that importing minigan never
imports cupy. Tests add a third through `register_backend`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from minigan.kernels import cpu as cpu_kernels
from minigan.kernels.recording import refuse

Array = Any  # numpy.ndarray, cupy.ndarray or a test's stand-in


@dataclass(frozen=True, slots=True, init=False)
class device:
    """Where a tensor lives, spelled as in PyTorch.

    >>> device("cuda:0").index
    0
    >>> str(device("cpu"))
    'cpu'
    """

    type: str
    index: int | None

    def __init__(self, type: Any, index: Any = None) -> None:
        if isinstance(type, device):
            type, index = type.type, type.index
        name, _, number = str(type).partition(":")
        if number:
            if index is not None or not number.isdigit():
                raise RuntimeError(f"device {type!r}: expected a name like 'cpu', 'cuda' or 'cuda:0'")
            index = int(number)
        if name not in _factories:
            raise RuntimeError(f"device {type!r} is unknown: expected one of {', '.join(sorted(_factories))}")
        object.__setattr__(self, "type", name)
        object.__setattr__(self, "index", index)

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        return f"device(type={self.type!r}" + (")" if self.index is None else f", index={self.index})")


class Backend:
    """An array module `xp`, its `kernels`, and the four things NumPy and CuPy do differently."""

    device: device
    xp: Any
    kernels: Any
    array_type: type
    checks_indices = True  # of arrays that index arrays, whether they are out of bounds

    def asarray(self, host: np.ndarray) -> Array:
        """A device array holding the values of a NumPy array (without a copy where that is possible)."""
        raise NotImplementedError

    def constant(self, host: np.ndarray) -> Array:
        """As `asarray`, of values that are the same in each step: also within one that is being captured."""
        device = getattr(self.kernels, "device", None)
        if device is None or device.recording is None or not device.recording.open:
            return self.asarray(host)
        return self.xp.array(device.asarray(host))  # a copy, made by each replay: a step may write into it

    def to_numpy(self, array: Array) -> np.ndarray:
        """The values on the host (without a copy where that is possible)."""
        raise NotImplementedError

    def shares_memory(self, a: Array, b: Array) -> bool:
        """Whether writing to one could change the other."""
        raise NotImplementedError

    def sync(self) -> None:
        """Wait until everything queued on the device is done."""


class NumpyBackend(Backend):
    """NumPy arrays and the kernels of `minigan.kernels.cpu`."""

    xp: Any = np
    kernels: Any = cpu_kernels
    array_type: type = np.ndarray

    def __init__(self, where: device) -> None:
        if where.index not in (None, 0):
            raise RuntimeError(f"device '{where}': there is one CPU device; write 'cpu'")
        self.device = device("cpu")

    def asarray(self, host: np.ndarray) -> Array:
        return host

    def to_numpy(self, array: Array) -> np.ndarray:
        return array

    def shares_memory(self, a: Array, b: Array) -> bool:
        return np.may_share_memory(a, b)


class CupyBackend(Backend):
    """CuPy arrays. Built on first use of a CUDA device; says what is missing where it cannot be."""

    checks_indices = False

    def __init__(self, where: device) -> None:
        try:
            cupy: ModuleType = importlib.import_module("cupy")
        except ImportError as error:
            raise RuntimeError(
                f"device '{where}' needs CuPy: pip install 'minigan[cuda13]' (or 'minigan[cuda12]')"
            ) from error
        if not cupy.cuda.is_available():
            raise RuntimeError(
                f"device '{where}' needs an NVIDIA GPU and its driver: CuPy {cupy.__version__} is installed "
                "but finds no usable GPU; use device 'cpu'"
            )
        if where.index:
            raise RuntimeError(
                f"device '{where}': minigan uses one GPU, 'cuda'; to use another, start it with "
                f"CUDA_VISIBLE_DEVICES={where.index} in the environment"
            )
        kernels, others, gpu = (
            importlib.import_module(f"minigan.kernels.cuda.{name}") for name in ("kernels", "others", "device")
        )
        self.device = device("cuda", 0)
        self.gpu = gpu.CudaDevice(self.device.index)
        self.kernels = kernels.Kernels(self.gpu, others)
        self.xp = cupy
        self.array_type = cupy.ndarray

    def asarray(self, host: np.ndarray) -> Array:
        refuse(self.kernels.device, "a copy of values of the host")
        with self.xp.cuda.Device(self.device.index):
            return self.xp.asarray(host)

    def to_numpy(self, array: Array) -> np.ndarray:
        refuse(self.kernels.device, "a copy to the host")
        return self.xp.asnumpy(array)

    def shares_memory(self, a: Array, b: Array) -> bool:
        return self.xp.may_share_memory(a, b)

    def sync(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()


_factories: dict[str, Callable[[device], Backend]] = {"cpu": NumpyBackend, "cuda": CupyBackend}
_built: dict[device, Backend] = {}


def register_backend(name: str, factory: Callable[[device], Backend]) -> None:
    """Make `device(name)` known; `factory(device)` is called when it is first used."""
    _factories[name] = factory


_default_device: device | None = None  # None is the CPU; set by `set_default_device`


def get_backend(where: device | str | None = None) -> Backend:
    """The backend of a device, the default one if none is named.

    >>> get_backend("cpu").xp.__name__
    'numpy'
    """
    key = (_default_device or _CPU) if where is None else device(where)
    backend = _built.get(key)
    if backend is None:
        backend = _factories[key.type](key)
        # 'cuda' and 'cuda:0' are one device and must be one backend: tensors compare backends by identity.
        backend = _built.setdefault(backend.device, backend)
        _built[key] = backend
    return backend


_CPU = device("cpu")


def set_default_device(where: device | str | None) -> None:
    """The device of tensors created without `device=`; None goes back to the CPU."""
    global _default_device
    _default_device = None if where is None else get_backend(where).device


def get_default_device() -> device:
    """The device of tensors created without `device=`."""
    return _default_device or _CPU

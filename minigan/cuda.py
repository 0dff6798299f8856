"""The part of `torch.cuda` that scripts call, with or without a GPU. CuPy is imported on first need only.

The types `cuda.FloatTensor`, `cuda.LongTensor`, … are here, too.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from minigan import random
from minigan.backend import get_backend
from minigan.legacy import CUDA_TYPES as _CUDA_TYPES

globals().update(_CUDA_TYPES)


def is_available() -> bool:
    """Whether tensors can be put on a GPU: CuPy, the driver and a device are there.

    >>> device = "cuda" if is_available() else "cpu"
    """
    if find_spec("cupy") is None:
        return False
    try:
        get_backend("cuda")
    except RuntimeError:
        return False
    return True


def device_count() -> int:
    """The number of GPUs; 0 where there is none, or no CuPy."""
    return int(get_backend("cuda").xp.cuda.runtime.getDeviceCount()) if is_available() else 0


def current_device() -> int:
    """The index of the GPU that 'cuda' means."""
    index = get_backend("cuda").device.index
    assert index is not None
    return index


def manual_seed(seed: int) -> None:
    """Seed all random numbers: they do not depend on the device. Without a GPU, as in PyTorch, nothing happens."""
    if is_available():
        random.manual_seed(seed)


manual_seed_all = manual_seed


def empty_cache() -> None:
    """Give unused GPU memory back; without a GPU, nothing happens."""
    if is_available():
        get_backend("cuda").xp.get_default_memory_pool().free_all_blocks()


def synchronize(device: Any = None) -> None:
    """Wait until the GPU has done everything asked of it."""
    get_backend("cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else device).sync()

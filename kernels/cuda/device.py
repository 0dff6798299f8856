"""The device that kernels' launchers are given on a GPU: CuPy has the memory, and starts the kernels that NVRTC makes.

Kernels are compiled by `compile.py`, the same way on every machine, for the architecture at hand, when one of their
file is first launched. What was compiled stays in a cache on the disk.
"""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from ..recording import Recorder, Recording
from .compile import cubin
from .launch import checked, packed
from .memory import Allocator, Pools
from .source import Kernel, inlined, kernels_in, read

__all__ = ["CudaDevice"]

Array = Any  # of CuPy


class CudaDevice(Recorder):
    """Launches kernels on arrays of CuPy, in its current stream. `MINIGAN_SYNC=1`: waits for each, to find who failed.

    >>> device = CudaDevice()                                       # doctest: +SKIP
    >>> device.launch("optim", "sgd_step", (1,), (256,), [...])     # doctest: +SKIP
    """

    def __init__(self, index: int = 0) -> None:
        super().__init__()
        self.cupy = importlib.import_module("cupy")
        self.index = index
        self.arch = int(self.cupy.cuda.Device(index).compute_capability)
        self.sync = os.environ.get("MINIGAN_SYNC", "0") not in ("", "0")
        self.pools = Pools(self.cupy)
        self._kernels: dict[tuple[str, str], tuple[Kernel, Any]] = {}

    def empty(self, shape: Sequence[int], dtype: Any) -> Array:
        """Memory that a kernel is to fill."""
        return self.cupy.empty(tuple(shape), dtype)

    def zeros(self, shape: Sequence[int], dtype: Any) -> Array:
        """Memory of zeros."""
        return self.cupy.zeros(tuple(shape), dtype)

    def asarray(self, host: np.ndarray) -> Array:
        """The values of an array of NumPy in memory of the device."""
        if self.recording is None or not self.recording.open:
            return self.cupy.asarray(host)
        with self.cupy.cuda.using_allocator(self.pools.malloc):  # of the graph's pool others may have the memory, too
            array = self.empty(host.shape, host.dtype)
        self.write(array, host)
        return array

    def write(self, array: Array, host: np.ndarray) -> None:
        """Values of the host over those of an array, in the order of the current stream, by way of pinned memory."""
        if self.recording is not None and self.recording.open:
            self.recording.written.append((array, host))
        else:
            array[...] = self.cupy.asarray(host)  # which copies to pinned memory, and starts to copy from there

    def address(self, array: Array) -> int:
        """Where an array lies: a kernel may be given it in a table."""
        return array.data.ptr

    def memory(self, view: Array) -> tuple[Array, int]:
        """All values from the first to the last that a view reaches, and which of them is the view's first."""
        if view.flags.c_contiguous:
            return view, 0
        ends = [(size - 1) * stride // view.itemsize for size, stride in zip(view.shape, view.strides, strict=True)]
        below = -sum(end for end in ends if end < 0)
        size = below + sum(end for end in ends if end > 0) + 1
        pointer = self.cupy.cuda.MemoryPointer(view.data.mem, view.data.ptr - view.data.mem.ptr - below * view.itemsize)
        return self.cupy.ndarray((size,), view.dtype, pointer), below

    def launch(
        self, file: str, kernel: str, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any],
        shared: int = 0,
    ) -> None:  # fmt: skip
        """Start a kernel of a file of `minigan.kernels.cuda`, or of CUDA C."""
        found = self._kernels.get((file, kernel)) or self._compiled(file, kernel)
        signature, function = found
        launch = checked(signature, grid, block, shared)
        values = packed(signature, arguments, self.address)
        if shared > 48 << 10 and function.max_dynamic_shared_size_bytes < shared:
            function.max_dynamic_shared_size_bytes = shared
        if not self.sync or (self.recording is not None and self.recording.open):
            function(launch.grid, launch.block, values, shared_mem=shared)
            return
        try:
            function(launch.grid, launch.block, values, shared_mem=shared)
            self.cupy.cuda.get_current_stream().synchronize()
        except (self.cupy.cuda.runtime.CUDARuntimeError, self.cupy.cuda.driver.CUDADriverError) as error:
            shapes = ", ".join(str(a.shape) if hasattr(a, "shape") else str(a) for a in arguments)
            raise RuntimeError(
                f"kernel {kernel} failed with grid {launch.grid}, block {launch.block} and arguments {shapes}: {error}"
            ) from error

    @contextmanager
    def capture(self, beside: CudaRecording | None = None) -> Iterator[CudaRecording]:
        """Within: what is launched or copied on the device is not done, but becomes a graph of CUDA.

        It shares the memory that it uses on the way with the graph `beside`; both must not be replayed at one time.
        """
        cupy = self.cupy
        gc.collect()  # what is freed later would be so while the graph is made
        cupy.cuda.Device(self.index).synchronize()
        recording = CudaRecording(self, beside)
        self.recording = recording
        try:
            with cupy.cuda.using_allocator(recording.memory.malloc), recording.stream:
                recording.stream.begin_capture()
                try:
                    yield recording
                except BaseException:
                    with suppress(cupy.cuda.runtime.CUDARuntimeError):  # what raised may have ended it
                        recording.stream.end_capture()
                    raise
                recording.graph = recording.stream.end_capture()
        finally:
            self.recording = None
        recording.close()

    def _compiled(self, file: str, kernel: str) -> tuple[Kernel, Any]:
        text = inlined(file, "kernel.cu") if "__global__" in file else read(file)
        signatures = kernels_in(text)
        if kernel not in signatures:
            raise ValueError(f"kernel {kernel!r} is not in that source, which has {[*signatures]}")
        module = self.cupy.RawModule(path=str(cubin(text, self.arch)))
        found = self._kernels[file, kernel] = signatures[kernel], module.get_function(kernel)
        return found


class CudaRecording(Recording):
    """A graph of CUDA, and the pool that has the memory of its arrays: of which only other graphs are given any.

    The graph knows addresses alone. Memory that is freed goes back to the pool, which may give it to a later kernel of
    this graph, or to another graph: what is on the way from kernel to kernel need not outlive a replay.
    """

    graph: Any
    memory: Allocator
    stream: Any

    def __init__(self, device: CudaDevice, beside: CudaRecording | None) -> None:
        super().__init__(device)
        self.memory = device.pools.new() if beside is None else beside.memory
        # Not the default stream, which cannot be captured; and the pool has the memory of each stream apart.
        self.stream = device.cupy.cuda.Stream(non_blocking=True) if beside is None else beside.stream

    def start(self) -> None:
        """Launches the graph on the current stream."""
        self.graph.launch()

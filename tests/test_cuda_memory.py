"""The settings of `mg.cuda` and its memory, as far as they go without a GPU."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

import minigan as mg
from minigan import nn
from minigan.kernels.cuda.memory import OutOfMemoryError, Pools
from minigan.kernels.emulator import EmulatedDevice

pytestmark = [pytest.mark.kernels]


# Precision and memory -------------------------------------------------------------------------------------------------


def test_precision_chooses_the_kernels(monkeypatch):
    launched, launch = [], EmulatedDevice.launch

    def noted(self, file, kernel, *rest):
        launched.append(kernel)
        launch(self, file, kernel, *rest)

    monkeypatch.setattr(EmulatedDevice, "launch", noted)
    x = mg.randn(2, 8, 8, 8)
    conv, linear = nn.Conv2d(8, 8, 3), nn.Linear(64, 16)
    right = [conv(x).detach().numpy(), linear(x.flatten(2)).detach().numpy()]
    assert mg.get_float32_matmul_precision() == "highest"
    try:
        for precision, name, most in (("highest", "", 1e-5), ("high", "tf32", 5e-3), ("medium", "bf16", 5e-2)):
            mg.set_float32_matmul_precision(precision)
            launched.clear()
            there = [layer.to("cuda-emulated") for layer in (conv, linear)]
            found = [there[0](x.to("cuda-emulated")), there[1](x.flatten(2).to("cuda-emulated"))]
            for y, expected in zip(found, right, strict=True):
                worst = np.abs(y.detach().cpu().numpy() - expected).max()
                assert worst < most
                assert precision == "highest" or worst > most / 1000
            products = [kernel for kernel in launched if kernel.startswith(("conv_forward", "gemm"))]
            assert len(products) >= 2
            assert all(name in kernel for kernel in products if "sum" not in kernel)
            for layer in there:
                layer.to("cpu")
            np.testing.assert_array_equal(conv(x).detach().numpy(), right[0])
        with pytest.raises(RuntimeError, match="got 'low', expected 'highest', 'high' or 'medium'"):
            mg.set_float32_matmul_precision("low")
    finally:
        mg.set_float32_matmul_precision("highest")


class CudaError(RuntimeError):
    status = 2


class Pool:
    """What of CuPy's pool is called: one of its own has room for 100 bytes; others ask for theirs."""

    def __init__(self, allocator=None):
        self.given, self.allocator, self.freed, self.limit = 0, allocator, 0, None

    def malloc(self, size):
        if self.allocator is None and self.given + size > 100:
            raise MemoryError("CuPy's own text")
        if self.allocator is not None:
            try:
                self.allocator(size)
            except CudaError:
                pytest.fail("CuPy would give back the pool's free blocks, into which captured kernels write")
        self.given += size
        return size

    def set_limit(self, size):
        self.limit = size

    def free_all_blocks(self):
        self.freed += 1

    def used_bytes(self):
        return self.given

    def total_bytes(self):
        return 2 * self.given


class Hook:
    def __enter__(self):
        return self


@pytest.fixture
def pools():
    default, allocators = Pool(), []

    def memory(size):  # the GPU has 200 bytes, and 50 more once the default pool has given back its reserve
        if size > 200 + 50 * default.freed:
            raise CudaError
        return size

    cuda = SimpleNamespace(
        set_allocator=allocators.append, MemoryPool=Pool, MemoryHook=Hook, Memory=memory,
        MemoryPointer=lambda memory, offset: memory, memory=SimpleNamespace(OutOfMemoryError=MemoryError),
        runtime=SimpleNamespace(memGetInfo=lambda: (2**30, 80 * 2**30), CUDARuntimeError=CudaError),
    )  # fmt: skip
    pools = Pools(SimpleNamespace(get_default_memory_pool=lambda: default, cuda=cuda))
    assert allocators == [pools.malloc]
    return pools


FULL = r"were asked for, and of 80.00 GiB are 1.00 GiB free.*help"


def test_memory_is_counted_and_its_lack_explained(pools):
    assert pools.malloc(50) == 50
    assert (pools.used(), pools.reserved(), pools.most_used()) == (50, 100, 100)
    private = pools.new()
    private.malloc(30)
    assert (pools.used(), pools.reserved()) == (110, 160)
    pools.count()
    pools._counting.malloc_postprocess(mem_size=64, mem_ptr=1)
    pools._counting.free_postprocess(mem_size=64)
    pools._counting.malloc_postprocess(mem_size=512, mem_ptr=0)  # it was not given
    assert pools.most_used() == 174
    with pytest.raises(OutOfMemoryError, match=rf"2.00 GiB {FULL}"):
        pools.malloc(2**31)
    del private
    assert pools.used() == 50
    assert issubclass(mg.cuda.OutOfMemoryError, RuntimeError)


def test_a_graphs_memory_comes_from_the_reserve_of_the_default_pool(pools, monkeypatch):
    private = pools.new()
    assert private.pool.limit == 0  # none, or CuPy would give back free blocks for it
    private.malloc(200)
    assert pools.default.freed == 0
    private.malloc(250)
    assert pools.default.freed == 1
    with pytest.raises(OutOfMemoryError, match=rf"2.00 GiB {FULL}"):
        private.malloc(2**31)
    monkeypatch.setattr(CudaError, "status", 700)  # some other error
    with pytest.raises(BaseException, match="captured kernels write"):
        private.malloc(2**31)


def test_one_gpu_is_used(monkeypatch):
    cuda = SimpleNamespace(is_available=lambda: True)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    with pytest.raises(RuntimeError, match="device 'cuda:1': minigan uses one GPU.*CUDA_VISIBLE_DEVICES=1"):
        mg.zeros(2, device="cuda:1")


@pytest.mark.skipif(mg.cuda.is_available(), reason="there is a GPU")
def test_memory_without_a_gpu():
    assert mg.cuda.memory_allocated() == mg.cuda.max_memory_allocated() == mg.cuda.memory_reserved() == 0
    mg.cuda.reset_peak_memory_stats()
    for call in (mg.cuda.Stream, mg.cuda.Event, mg.cuda.current_stream, mg.cuda.get_device_name):
        with pytest.raises(RuntimeError, match="device 'cuda' needs"):
            call()

"""The emulator runs right kernels as a GPU would, and says of wrong ones what is wrong and where."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigan.kernels.emulator import EmulatorError, build, run
from minigan.kernels.emulator.run import ORDERS

pytestmark = pytest.mark.kernels


def kernel(body, head="", parameters="float *x, int n"):
    return f'#include "common.cuh"\n{head}\nextern "C" __global__ void f({parameters}) {{\n{body}\n}}'


def launch(source, *arguments, threads=64, blocks=1, **options):
    return run(source, "f", (blocks,), (threads,), arguments, **options)


def ramp(n=64):
    return np.arange(n, dtype=np.float32)


# What a kernel may do ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("watch", [None, "bounds", "races"])
def test_shared_memory_and_barriers(order, watch):
    x = ramp()
    source = kernel("__shared__ float s[64]; int i = threadIdx.x; s[i] = x[i]; __syncthreads(); x[i] = s[63 - i];")
    counts = launch(source, x, 64, order=order, seed=5, watch=watch)
    np.testing.assert_array_equal(x, ramp()[::-1])
    assert counts.barriers == 1
    if watch == "races":
        assert (counts.loads, counts.stores, counts.shared_loads, counts.shared_stores) == (64, 64, 64, 64)


@pytest.mark.parametrize("order", ORDERS)
def test_dynamic_shared_memory_and_grids(order):
    x = np.zeros(6 * 32, np.float32)
    body = """DYNAMIC_SHARED(float, s); s[threadIdx.x] = blockIdx.x; __syncthreads();
    x[blockIdx.x * 32 + threadIdx.x] = s[31 - threadIdx.x] + gridDim.x;"""
    launch(kernel(body), x, 0, threads=32, blocks=6, order=order, shared=128, watch="races")
    np.testing.assert_array_equal(x, np.repeat(np.arange(6), 32) + 6)


@given(st.sampled_from([32, 64, 96]), st.sampled_from(ORDERS), st.integers(0, 99))
def test_sums_over_a_warp_and_a_block(threads, order, seed):
    x = np.random.default_rng(seed).integers(-9, 9, threads).astype(np.float32)
    y = x.copy()
    source = kernel("__shared__ float partial[3]; x[threadIdx.x] = block_sum(x[threadIdx.x], partial);")
    launch(source, y, 0, threads=threads, order=order, seed=seed)
    np.testing.assert_array_equal(y, np.full(threads, x.sum()))


def test_two_threads_launch_at_once():
    body = "for (int k = 0; k < 100; k++) { float y = x[63 - i]; __syncthreads(); x[i] = y; __syncthreads(); }"
    source = kernel("int i = threadIdx.x; " + body)
    arrays = [ramp(), ramp()]
    threads = [threading.Thread(target=lambda x=x: [launch(source, x, 64) for _ in range(100)]) for x in arrays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for x in arrays:
        np.testing.assert_array_equal(x, ramp())


def test_shuffles_and_votes():
    x = ramp(32)
    body = """int i = threadIdx.x; float v = x[i]; unsigned all = 0xffffffffu, odd = __ballot_sync(all, i % 2);
    v = __shfl_down_sync(all, v, 1) + 100 * __shfl_up_sync(all, v, 2);
    bool right = odd == 0xaaaaaaaau && __any_sync(all, i == 7) && !__all_sync(all, i < 31);
    x[i] = right ? v : -1;"""
    launch(kernel(body), x, 0, threads=32)
    i = np.arange(32)
    np.testing.assert_array_equal(x, np.where(i < 31, i + 1, i) + 100 * np.where(i >= 2, i - 2, i))


def test_halves_of_a_warp_meet_apart():
    x = ramp(32)
    body = """unsigned half = threadIdx.x < 16 ? 0xffffu : 0xffff0000u;
    x[threadIdx.x] = __shfl_sync(half, x[threadIdx.x], threadIdx.x & 16);"""
    launch(kernel(body), x, 0, threads=32, order="shuffled", seed=1)
    np.testing.assert_array_equal(x, np.repeat([0, 16], 16))


def test_a_thread_that_has_ended_is_not_waited_for():
    x = ramp()
    launch(kernel("if (threadIdx.x >= n) return; __syncthreads(); x[threadIdx.x] = 1;"), x, 10)
    assert x[:10].tolist() == [1] * 10
    assert x[10] == 10


def test_asynchronous_copies_land_when_they_are_waited_for():
    x, y = ramp(8), np.zeros(8, np.float32)
    body = """__shared__ __align__(16) float s[8]; copy_async(s, x, true); commit_copies();
    copy_async(s + 4, x + 4, false); commit_copies(); y[0] = s[0];
    await_copies<1>(); y[1] = s[1]; y[2] = s[5]; await_copies<0>(); y[3] = s[5];"""
    launch(kernel(body, parameters="float *x, float *y"), x, y, threads=1)
    np.testing.assert_array_equal(y[:4], [np.nan, 1, np.nan, 0])


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_tensor_cores(precision):
    """Fragments as in the manual, operands of 10 and 7 bits of mantissa."""
    random = np.random.default_rng(0)
    depth = 8 if precision == "tf32" else 16
    a, b = random.normal(size=(16, depth)).astype(np.float32), random.normal(size=(depth, 8)).astype(np.float32)
    c = random.normal(size=(16, 8)).astype(np.float32)
    d = c.copy()
    load = {
        "tf32": "float p[4] = {a[g*8+t], a[(g+8)*8+t], a[g*8+t+4], a[(g+8)*8+t+4]}, q[2] = {b[t*8+g], b[(t+4)*8+g]};"
        "for (float &v : p) v = to_tf32(v); for (float &v : q) v = to_tf32(v);",
        "bf16": "auto A = [&](int r, int k) { return to_bf16(a[r*16+k], a[r*16+k+1]); };"
        "auto B = [&](int k) { return to_bf16(b[k*8+g], b[(k+1)*8+g]); };"
        "uint32_t p[4] = {A(g, 2*t), A(g+8, 2*t), A(g, 2*t+8), A(g+8, 2*t+8)}, q[2] = {B(2*t), B(2*t+8)};",
    }[precision]
    body = f"int g = threadIdx.x / 4, t = threadIdx.x % 4; {load} float *r = c + g * 8 + 2 * t;"
    body += f"float s[4] = {{r[0], r[1], r[64], r[65]}}; mma_{precision}(s, p, q);"
    body += "r[0] = s[0], r[1] = s[1], r[64] = s[2], r[65] = s[3];"
    launch(kernel(body, parameters="const float *a, const float *b, float *c"), a, b, d, threads=32, watch="races")
    bits = 13 if precision == "tf32" else 16
    exact = c + rounded(a, bits) @ rounded(b, bits)
    np.testing.assert_allclose(d, exact, atol=1e-5)
    assert np.abs(d - (c + a.astype(np.float64) @ b)).max() > 1e-5


def rounded(x, bits):
    """Without the last bits of the mantissa, to the nearest."""
    step = np.uint32(1 << bits)
    half = step >> np.uint32(1)
    return ((x.view(np.uint32) + half) // step * step).view(np.float32).astype(np.float64)


def test_tiny_numbers_are_zero_as_on_the_gpu():
    x = np.array([1e-30], np.float32)
    launch(kernel("x[0] *= 1e-10f;"), x, 0, threads=1)
    assert x[0] == 0
    assert np.float32(1e-30) * np.float32(1e-10) > 0  # and for everybody else they are what they were


# What it must not do ----------------------------------------------------------------------------------------------

# What is wrong: the watch that sees it, the kernel's body (from its line 4 on), and what is said.
WRONG = {
    "past the end": (
        "bounds",
        "x[threadIdx.x + 1] = 1;",
        "writes 4 bytes outside of every array: 4 bytes past the end of array 0, kernel.cu:4",
    ),
    "before the beginning": (
        "races",
        "float v = x[(int)threadIdx.x - 1]; x[threadIdx.x] = v;",
        "reads 4 bytes outside of every array: 4 bytes before array 0",
    ),
    "a shared array's end": (
        "bounds",
        """__shared__ float t[64], s[63]; t[threadIdx.x] = s[threadIdx.x] = x[threadIdx.x];
        __syncthreads(); x[threadIdx.x] = t[threadIdx.x] + s[threadIdx.x / 2];""",
        "past the end of a shared array, kernel.cu:4",
    ),
    "alignment": (
        "bounds",
        "if (threadIdx.x < 8) { float4 v = *(float4 *)(x + threadIdx.x); x[0] = v.x + v.y + v.z + v.w; }",
        "multiple of the size",
    ),
    "a division by zero": (None, "x[0] = 7 / (n - 64);", "an integer is divided by zero"),
    "no address": (None, "*(volatile float *)nullptr = 1;", "illegal memory access at"),
    "no barrier": (
        "races",
        """__shared__ float s[64]; s[threadIdx.x] = 1;
        x[threadIdx.x] = s[63 - threadIdx.x];""",
        "race: .* thread .* of its block, with no barrier between, kernel.cu:[45]",
    ),
    "no second barrier": (
        "races",
        """__shared__ float s[64];
        for (int k = 0; k < 2; k++) { s[threadIdx.x] = k; __syncthreads(); x[threadIdx.x] += s[63 - threadIdx.x]; }""",
        "race: ",
    ),
    "a race that does no harm": ("races", "x[0] = 1;", "race: writes what was written by"),
    "a race of blocks": ("races", "if (threadIdx.x == 0) x[0] += blockIdx.x;", "thread 0 of another block"),
    "no __syncwarp": (
        "races",
        """__shared__ float s[32]; if (threadIdx.x >= 32) return;
        s[threadIdx.x] = 1; x[threadIdx.x] = s[31 - threadIdx.x];""",
        "race: ",
    ),
    "different barriers": (
        None,
        """if (threadIdx.x < 32)
          __syncthreads();
        else
          __syncthreads();""",
        "different barriers, at lines 5 and 7",
    ),
    "lanes that never come": (
        None,
        "if (threadIdx.x < 16) __syncwarp(); else __syncthreads();",
        "never come|never reach",
    ),
    "lanes that have ended": (
        None,
        "if (threadIdx.x % 32 == 3) return; __syncthreads(); __syncwarp();",
        "lane 3, which has ended",
    ),
    "a mask without the caller": (None, "__shfl_sync(1u << 7, 1, 7);", "lacks lane"),
    "no barrier behind a copy": (
        "races",
        """__shared__ __align__(16) float s[256]; copy_async(s + 4 * threadIdx.x, x, true); commit_copies();
        await_copies<0>(); x[threadIdx.x] = s[255 - 4 * threadIdx.x];""",
        "race: reads",
    ),
    "half a warp for a tensor core": (
        None,
        "float c[4], a[4], b[2]; if (threadIdx.x % 32 < 16) mma_tf32(c, a, b);",
        "never come",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name):
    watch, body, message = WRONG[name]
    with pytest.raises(EmulatorError, match=f"kernel f: .*{message}"):
        launch(kernel(body), ramp(256)[:64], 64, blocks=2, watch=watch)
    launch(kernel("x[threadIdx.x] = 1;"), ramp(), 64, watch="races")  # and the next launch is a new one


def test_a_race_is_found_in_every_order():
    """Even where the result is right: in this order, each value is written before it is read."""
    body = """__shared__ float s[64]; s[threadIdx.x] = x[threadIdx.x];
    x[threadIdx.x] = threadIdx.x ? s[threadIdx.x - 1] : 0;"""
    for order in ORDERS:
        with pytest.raises(EmulatorError, match="race"):
            launch(kernel(body), ramp(), 64, order=order, watch="races")


# Arguments and compilers ------------------------------------------------------------------------------------------

ARGUMENTS = {
    "too few": ((ramp(),), TypeError, "got 1 arguments, expected 2: float \\*x, int n"),
    "dtype": ((np.ones(3), 1), TypeError, r"'float \*x' got an array of float64, expected float32"),
    "strides": ((ramp()[::2], 1), ValueError, "expected C order without gaps"),
    "no array": (([1.0], 1), TypeError, "got list, expected an array of float32"),
    "no integer": ((ramp(), 1.5), TypeError, "'int n' got 1.5, expected an integer"),
    "too large": ((ramp(), 2**31), OverflowError, "which int32 cannot hold"),
    "no number": ((ramp(), "1"), TypeError, "got str, expected a number"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_arguments(name):
    arguments, error, message = ARGUMENTS[name]
    with pytest.raises(error, match=message):
        launch(kernel("x[0] = n;"), *arguments)


def test_what_was_right_before_is_checked_again():
    """Checks of integers are remembered: not those of what is equal to them, and of no float, as -0.0 == 0.0."""
    source = kernel("x[0] = n; x[1] = copysignf(1, a);", parameters="float *x, int n, float a")
    x = ramp()
    for n, a in ((1, 0.0), (True, -0.0), (np.int64(2), 0.0), (1, -0.0)):
        launch(source, x, n, a)
        assert x[:2].tolist() == [n, np.copysign(1, a)]
    for wrong, message in ((1.0, "got 1.0, expected an integer"), (np.ones(1, int), "got ndarray, expected a number")):
        with pytest.raises(TypeError, match=f"'int n' {message}"):
            launch(source, x, wrong, 0.0)
    other = kernel("x[0] = n;", parameters="float *x, unsigned char n")
    launch(other, x, 255)
    launch(kernel("x[0] = n;"), x, 256)
    for wrong in (256, -1):
        with pytest.raises(OverflowError, match="unsigned char cannot hold|uint8 cannot hold"):
            launch(other, x, wrong)


def test_vectors_are_aligned():
    source = kernel("x[0].x = 1;", parameters="float4 *x")
    memory = np.zeros(16, np.float32)
    start = -memory.ctypes.data // 4 % 4
    launch(source, memory[start : start + 8], threads=1)
    assert memory[start] == 1
    with pytest.raises(ValueError, match="multiples of 4 values and of 16 bytes"):
        launch(source, memory[start + 1 : start + 9])
    with pytest.raises(ValueError, match="multiples of 4 values"):
        launch(source, memory[start : start + 7])


def test_sizes_of_a_launch():
    source = 'extern "C" __global__ void __launch_bounds__(64) f(float *x) { x[0] = 1; }'
    for grid, block, message in (
        ((1,), (65,), "65 threads, expected at most 64"),
        ((0,), (1,), "positive sizes"),
        ((1, 65536), (1,), "expected at most 65535 along y and z"),
    ):
        with pytest.raises(ValueError, match=message):
            run(source, "f", grid, block, [ramp()])
    for problem, message in (("order", "expected one of"), ("watch", "expected one of")):
        with pytest.raises(ValueError, match=message):
            run(source, "f", (1,), (1,), [ramp()], **{problem: "?"})
    with pytest.raises(ValueError, match="has \\['f'\\]"):
        run(source, "g", (1,), (1,), [ramp()])
    with pytest.raises(ValueError, match="expected CUDA C or one of .*gemm"):
        run("gemmm", "f", (1,), (1,), [])


def test_what_does_not_compile_is_shown_with_its_line():
    with pytest.raises(EmulatorError, match=r"kernel.cu:5:.*‘y’|kernel.cu:5:.*'y'"):
        launch(kernel("x[0] = 1;\ny = 1;"), ramp(), 1)


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    build._compiler.cache_clear()
    with pytest.raises(EmulatorError, match="no C\\+\\+ compiler found: the emulator needs g\\+\\+"):
        build._compiler()
    build._compiler.cache_clear()

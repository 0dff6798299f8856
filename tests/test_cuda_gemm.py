"""Matrix products by CUDA kernels, on the emulator: every rung against NumPy in float64."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigan.kernels.cuda import gemm as module
from minigan.kernels.cuda.gemm import MULTIPROCESSORS, PRECISIONS, RUNGS, choose, gemm, matmul, matmuls
from minigan.kernels.emulator.device import EmulatedDevice
from minigan.kernels.emulator.run import ORDERS, run

pytestmark = pytest.mark.kernels

SERIOUS = [rung for rung in RUNGS if not rung.plain]
TOLERANCES = {"highest": 0, "high": 1e-3, "medium": 1e-2}  # of products, for the rounding of their factors


def name(rung):
    return rung.kernel


def rounded(x, precision):
    """What the tensor cores are given: TF32 to nearest, ties away from zero, and bf16 to nearest, ties to even."""
    bits = x.view(np.uint32).astype(np.uint64)
    if precision == "high":
        bits = (bits + 0x1000) & 0xFFFFE000
    elif precision == "medium":
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return np.where(np.isfinite(x), bits.astype(np.uint32).view(np.float32), x)


@dataclass
class Case:
    """A product of the sizes, with leading axes, and what else gemm takes."""

    M: int
    N: int
    K: int
    lead: tuple[int, ...] = ()
    shared: str = ""  # which operand is a matrix for the whole stack
    transpose_a: bool = False
    transpose_b: bool = False
    bias: bool = False
    slope: float | None = None
    splits: int = 1
    gap: int = 0  # values by which everything is away from an aligned address
    seed: int = 0

    def operands(self):
        rng = np.random.default_rng(self.seed)

        def array(*shape):
            memory = rng.standard_normal(np.prod(shape, dtype=int) + 4 + self.gap, dtype=np.float32)
            begin = -memory.ctypes.data // 4 % 4 + self.gap
            return memory[begin : begin + np.prod(shape, dtype=int)].reshape(shape)

        lead_a, lead_b = (() if self.shared == which else self.lead for which in "ab")
        a = array(*lead_a, *((self.K, self.M) if self.transpose_a else (self.M, self.K)))
        b = array(*lead_b, *((self.N, self.K) if self.transpose_b else (self.K, self.N)))
        out = array(*self.lead, self.M, self.N)
        out[...] = np.nan
        return a, b, array(self.N) if self.bias else None, out

    def run(self, rung, device):
        a, b, bias, out = self.operands()
        before = [x.tobytes() for x in (a, b)]
        how = {"out": out, "rung": rung, "splits": self.splits}
        y = gemm(device, a, b, self.transpose_a, self.transpose_b, bias, self.slope, **how)
        assert y is out
        assert before == [x.tobytes() for x in (a, b)]
        return y

    def right(self, precision=None):
        """The result in float64, of operands as they are or rounded first, and the size of its terms."""
        a, b, bias, _ = self.operands()
        a, b = (np.float64(x if precision is None else rounded(x, precision)) for x in (a, b))
        a, b = a.swapaxes(-1, -2) if self.transpose_a else a, b.swapaxes(-1, -2) if self.transpose_b else b
        shift = np.zeros(self.N) if bias is None else np.float64(bias)
        y = np.einsum("...mk,...kn->...mn", a, b) + shift
        size = np.einsum("...mk,...kn->...mn", abs(a), abs(b)) + abs(shift)
        return y if self.slope is None else np.where(y > 0, y, self.slope * y), size

    def check(self, rung, y):
        exact = 1e-6 * max(self.K, 1) ** 0.5 + 1e-7
        right, size = self.right()
        assert y.shape == right.shape
        assert (abs(y - right) <= (exact + TOLERANCES[rung.precision]) * size).all()
        right, size = self.right(rung.precision)
        assert (abs(y - right) <= exact * size).all()


# First, as a kernel that writes beyond its arrays is stopped here. Tiles that are full and not, in both directions;
# rows that are aligned, that are not, and that would be if they began elsewhere; and a last split that is shorter.
WATCHED = [
    Case(3, 5, 7), Case(1, 1, 1), Case(132, 66, 20), Case(4, 8, 16, gap=1),
    Case(65, 129, 33, transpose_b=True, bias=True, slope=0.2),
    Case(68, 132, 36, (2,), "b", transpose_a=True, bias=True, splits=2), Case(5, 6, 40, (), "", True, True, splits=3),
]  # fmt: skip


@pytest.mark.parametrize("watch", ["bounds", "races"])
@pytest.mark.parametrize("rung", RUNGS, ids=name)
def test_stays_within_arrays_and_waits_for_what_others_write(rung, watch):
    for case in WATCHED:
        if rung.plain:
            case = Case(case.M, case.N, case.K, gap=case.gap)
        case.check(rung, case.run(rung, EmulatedDevice("shuffled", watch=watch)))


sides = st.one_of(st.integers(1, 20), st.integers(60, 70), st.integers(120, 150), st.sampled_from([64, 128, 132]))
depths = st.one_of(st.integers(0, 9), st.integers(10, 70), st.sampled_from([16, 32, 48, 64]))
plain = st.builds(Case, sides, sides, depths, seed=st.integers(0, 99))
cases = st.builds(
    Case, sides, sides, depths, st.sampled_from([(), (), (1,), (2,), (1, 3)]), st.sampled_from(["", "a", "b"]),
    st.booleans(), st.booleans(), st.booleans(), st.sampled_from([None, 0.0, 0.2]), st.sampled_from([1, 1, 2, 3]),
    st.sampled_from([0, 0, 1, 2]), st.integers(0, 99),
)  # fmt: skip


@pytest.mark.parametrize("rung", RUNGS, ids=name)
@settings(max_examples=12)
@given(st.data())
def test_every_rung_is_the_product_in_every_order(rung, data):
    case = data.draw(plain if rung.plain else cases)
    results = [case.run(rung, EmulatedDevice(order, seed=case.seed)) for order in ORDERS]
    case.check(rung, results[0])
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()


class Counting(EmulatedDevice):
    """Keeps what the launches counted."""

    def __init__(self):
        super().__init__(watch="races")
        self.counts = []

    def launch(self, file, kernel, grid, block, arguments, shared=0):
        self.counts.append((kernel, grid, run(file, kernel, grid, block, arguments, shared=shared, watch="races")))


@pytest.mark.parametrize("transposed", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("rung", RUNGS, ids=name)
def test_reads_what_is_claimed(rung, transposed):
    if rung.plain and any(transposed):
        return
    side, K = 128, 64
    device = Counting()
    Case(side, side, K, (), "", *transposed).run(rung, device)
    [(_, grid, counts)] = device.counts
    each = 2 * rung.tile * K  # values that a block reads
    if rung.tile == 16:
        assert counts.loads == (each if rung.kernel == "gemm_tiled" else 2 * 16 * 16 * K)
        assert counts.stores == 256
        assert counts.barriers == (2 * K / 16 if rung.kernel == "gemm_tiled" else 0)
        return
    blocks = np.prod(grid)
    assert blocks * each == side * side * K // (64 if rung.tile == 128 else 32)
    assert counts.loads == each / 4
    assert counts.stores == rung.tile**2 / (4 if rung.precision == "highest" else 2)
    assert counts.barriers == K / (1024 / rung.tile if rung.precision == "highest" else 16)
    instruction = {"highest": 0, "high": 16 * 8 * 8, "medium": 16 * 8 * 16}[rung.precision]
    assert counts.collectives == (rung.tile**2 * K / instruction if instruction else 0)


@pytest.mark.parametrize("rung", RUNGS, ids=name)
def test_nan_and_infinity_spread_as_they_do_in_sums(rung):
    a, b = np.ones((3, 20), np.float32), np.ones((20, 3), np.float32)
    a[1, 17], b[18, 2] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        right = a @ b
    for nan in (0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001):  # as a GPU makes it, of all bits, and of the last bit
        a.view(np.uint32)[1, 17] = nan
        np.testing.assert_array_equal(gemm(EmulatedDevice(), a, b, rung=rung), right)


@pytest.mark.parametrize("rung", SERIOUS, ids=name)
def test_stacks_that_one_launch_cannot_take(rung, monkeypatch):
    monkeypatch.setattr(module, "MOST_MATRICES", 2)
    for shared in ("", "a", "b"):
        case = Case(3, 5, 40, (5,), shared, transpose_a=True, bias=True, slope=0.2, splits=2, gap=1)
        case.check(rung, case.run(rung, EmulatedDevice()))


# Choices -------------------------------------------------------------------------------------------------------------

sizes = st.integers(1, 10_000)


@given(sizes, sizes, st.integers(0, 100_000), st.integers(1, 300), st.sampled_from(PRECISIONS))
def test_choice_gives_work_to_multiprocessors(M, N, K, matrices, precision):
    rung, splits = choose(M, N, K, matrices, precision)
    assert rung in SERIOUS
    assert rung.precision == precision
    tiles = -(-M // rung.tile) * -(-N // rung.tile) * matrices
    assert splits == 1 or (tiles * splits <= MULTIPROCESSORS and K // splits >= 128)
    assert tiles * (splits + 1) > MULTIPROCESSORS or K // (splits + 1) < 128
    assert choose(M, N, K, matrices, precision, arch=75)[0].minimum_arch == 75


@settings(max_examples=8)
@given(st.builds(Case, st.integers(1, 40), st.integers(1, 40), st.integers(1, 600), seed=st.integers(0, 99)))
def test_gemm_chooses_by_itself(case):
    a, b, _, _ = case.operands()
    for precision in PRECISIONS:
        rung, splits = choose(case.M, case.N, case.K, precision=precision)
        y = gemm(EmulatedDevice(), a, b, precision=precision)
        case.check(rung, y)
        np.testing.assert_array_equal(y, gemm(EmulatedDevice(), a, b, rung=rung, splits=splits))


# As the CPU's kernels: views, stacks and broadcasting ----------------------------------------------------------------


def stack(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


FACTORS = {
    "matrices": (stack(0, 3, 4), stack(1, 4, 5)),
    "transposed views": (stack(0, 4, 3).T, stack(1, 5, 4).T),
    "stacks": (stack(0, 2, 3, 4), stack(1, 2, 4, 5)),
    "a stack by a matrix": (stack(0, 2, 1, 3, 4), stack(1, 4, 5)),
    "a matrix by a stack of transposed views": (stack(0, 3, 4), stack(1, 2, 5, 4).swapaxes(1, 2)),
    "a stack of one by a stack": (stack(0, 1, 3, 4), stack(1, 2, 4, 5)),
    "stacks of one": (stack(0, 1, 3, 4), stack(1, 1, 1, 4, 5)),
    "different axes broadcast": (stack(0, 2, 1, 3, 4), stack(1, 3, 4, 5)),
    "views with gaps": (stack(0, 3, 8)[:, ::2], stack(1, 5, 4)[::-1].T),
    "no rows": (stack(0, 0, 4), stack(1, 4, 5)),
    "no inner values": (stack(0, 2, 3, 0), stack(1, 2, 0, 5)),
    "no matrices": (stack(0, 0, 3, 4), stack(1, 0, 4, 5)),
}


@pytest.mark.parametrize("factors", FACTORS.values(), ids=FACTORS.keys())
def test_matmul_is_numpys(factors):
    a, b = factors
    right = np.matmul(np.float64(a), np.float64(b))
    out = np.full(right.shape, np.nan, np.float32)
    assert matmul(EmulatedDevice(), a, b, out) is out
    np.testing.assert_allclose(out, right, rtol=1e-6, atol=1e-6, equal_nan=False)
    [alone] = matmuls(EmulatedDevice(), [factors])
    assert alone.shape == right.shape
    np.testing.assert_array_equal(alone, out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": stack(0, 5, 5)}, "expected one inner size"),
        ({"a": stack(0, 2, 3, 4), "b": stack(0, 3, 4, 5)}, "same leading axes"),
        ({"bias": stack(0, 3)}, "bias of shape"),
        ({"out": stack(0, 5, 3)}, "out of shape"),
        ({"precision": "low"}, "precision 'low'"),
        ({"rung": RUNGS[0], "slope": 0.2}, "one plain product"),
        ({"rung": RUNGS[1], "transpose_a": True, "a": stack(0, 4, 3)}, "one plain product"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        gemm(EmulatedDevice(), **{"a": stack(0, 3, 4), "b": stack(1, 4, 5), **change})
    with pytest.raises(ValueError, match="out of shape"):
        matmul(EmulatedDevice(), stack(0, 3, 4), stack(1, 4, 5), stack(2, 3, 4))

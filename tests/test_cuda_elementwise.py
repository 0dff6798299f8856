"""Generated elementwise kernels: each operation against NumPy in float64, dtypes and broadcasting as NumPy has them."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import LAYOUTS, broadcastable, seeds, shapes

from minigan.kernels.cuda import elementwise
from minigan.kernels.cuda.elementwise import Input, copy, evaluate, fill, helpers, merged, source_of
from minigan.kernels.cuda.operations import C_TYPES, OPERATIONS, result_types
from minigan.kernels.cuda.source import kernels_in
from minigan.kernels.emulator.device import EmulatedDevice
from minigan.kernels.emulator.run import ORDERS, run

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(shutil.which("g++") is None, reason="the emulator needs g++, and there is none"),
]

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module", autouse=True)
def small_grids() -> Iterator[None]:
    """So that threads go round their loops more than once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elementwise, "THREADS", 64)
        patch.setattr(elementwise, "MOST_BLOCKS", 2)
        yield


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


# What differs from the function of NumPy that has the operation's name.
ORACLES: dict[str, Callable[..., Array]] = {
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "sigmoid": sigmoid,
    "logsigmoid": lambda x: -np.logaddexp(0, -x),
    "tanh_backward": lambda g, y: g * (1 - y * y),
    "sigmoid_backward": lambda g, y: g * (y * (1 - y)),
    "leaky_relu": lambda x, slope: np.where(x > 0, x, np.where(slope == 0, np.where(np.isnan(x), x, 0), slope * x)),
    "leaky_relu_backward": lambda g, y, slope: np.where(y > 0, g, slope * g),
    "softplus": lambda x, beta, threshold: np.where(beta * x > threshold, x, np.logaddexp(0, beta * x) / beta),
    "clip": lambda x, low, high: np.minimum(np.maximum(x, low), high),
}
ARITY = {"where": 3, "clip": 3, "leaky_relu": 2, "leaky_relu_backward": 3, "softplus": 3, "tanh_backward": 2,
         "sigmoid_backward": 2, "erf": 1, "sigmoid": 1, "logsigmoid": 1, "rsqrt": 1}  # fmt: skip
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 0.5, -0.5, 30.0, -30.0, 1e-3, 100.0, -100.0)
# Units of rounding, relative and absolute: 1 - y² may cancel, and e^βx has the error of βx as a relative one.
ROUGH = {"tanh_backward": (1, 1), "sigmoid_backward": (1, 1), "softplus": (30, 0)}
DTYPES = [np.dtype(name) for name in ("float32", "float64", "int32", "int64", "bool")]


def arity(name: str) -> int:
    return ARITY.get(name) or getattr(np, name).nin


def oracle(name: str) -> Callable[..., Array]:
    return ORACLES.get(name) or getattr(np, name)


def typed(name: str, dtype: Any) -> tuple[np.dtype, ...] | None:
    """Dtypes of the operation on arrays of one dtype; None where there is no kernel."""
    dtypes = [np.dtype(bool if name == "where" and i == 0 else dtype) for i in range(arity(name))]
    try:
        return result_types(name, [np.empty(1, dtype) for dtype in dtypes])
    except TypeError:
        return None


@cache
def text_of_all(dtype: str) -> str:
    """All kernels of contiguous arrays of a dtype in one text, for it to be compiled once."""
    kernels = [helpers()]
    for name, operation in OPERATIONS.items():
        if types := typed(name, dtype):
            expression = operation.expression if types[0].kind == "f" else operation.whole
            stored = ["bool" if name == "where" and i == 0 else C_TYPES[np.dtype(dtype)] for i in range(arity(name))]
            inputs = tuple(Input(stored[i], C_TYPES[types[i]]) for i in range(arity(name)))
            kernels.append(source_of(expression or "", inputs, C_TYPES[types[-1]], 0, name))
    return "\n".join(kernels)


def values(name: str, dtype: Any, rng: np.random.Generator) -> list[Array]:
    """Every pair of special values, then random ones; all small integers for integers."""
    if np.dtype(dtype).kind == "f":
        few = SPECIAL[:8] if arity(name) == 3 else SPECIAL
        mixed = np.array(list(itertools.product(few, repeat=arity(name)))).T
        given = [np.concatenate([part, 4 * rng.standard_normal(99)]).astype(dtype) for part in mixed]
    else:
        low, high = (0, 5) if name == "power" else (-7, 8)
        given = [rng.integers(low, high, 211).astype(dtype) for _ in range(arity(name))]
    if name == "where":
        given[0] = given[0] > 0
    return given


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool"])
def test_every_operation(dtype: str, order: str) -> None:
    rng, seen = np.random.default_rng(len(dtype)), 0
    for name in OPERATIONS:
        types = typed(name, dtype)
        if types is None:
            continue
        given = values(name, dtype, rng)
        out = np.full(given[0].shape, 77, types[-1])
        kernel, text = f"{name}_contiguous", text_of_all(dtype)
        quads = [out.size // 4] if kernels_in(text)[kernel].parameters[-1].name == "quads" else []
        run(text, kernel, (2,), (64,), [*given, out, out.size, *quads], order=order, seed=3)
        with np.errstate(all="ignore"):
            wide = [x.astype(np.float64) if types[0] == np.float32 and x.dtype != bool else x for x in given]
            right = np.asarray(oracle(name)(*wide)).astype(types[-1])
        if types[-1].kind == "f":
            unit = 1e-6 if types[-1] == np.float32 else 1e-13
            rtol, atol = ROUGH.get(name, (1, 0))
            np.testing.assert_allclose(out, right, rtol=unit * rtol, atol=max(unit * atol, 1e-37), err_msg=name)
        else:
            np.testing.assert_array_equal(out, right, err_msg=name)
        seen += 1
    assert seen > {"float32": 45, "float64": 45, "int32": 20, "int64": 20, "bool": 12}[dtype]


# Dtypes and shapes, against NumPy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in ORACLES or name == "clip"])
def test_dtypes_are_those_of_numpy(name: str) -> None:
    function: Any = np.where if name == "where" else np.clip if name == "clip" else getattr(np, name)
    operands = [np.ones(2, dtype) for dtype in DTYPES] + [1, 1.0, True]
    for some in itertools.product(operands, repeat=arity(name)):
        if not isinstance(some[0] if arity(name) == 3 else max(some, key=np.ndim), np.ndarray):
            continue  # of numbers alone; NumPy's functions of three make an array of a first one
        try:
            right = function(*some).dtype
        except TypeError:
            right = None
        try:
            found = result_types(name, some)[-1]
        except TypeError:
            found = None
        wholes = all(getattr(x, "dtype", np.dtype(type(x))).kind in "ib" for x in some)
        missing = right not in C_TYPES or (wholes and not OPERATIONS[name].whole and right.kind != "f")
        assert found == (None if missing else right), [getattr(x, "dtype", x) for x in some]


# Each of these is compiled for up to 4 axes, so they are few.
CASES = {
    "add": lambda rng, shape: rng.standard_normal(shape).astype(np.float32),
    "where": lambda rng, shape: rng.integers(-9, 9, shape).astype(np.int32),
}


def placed(values: Array, layout: str) -> Array:
    """The same values, lying otherwise in memory."""
    if not values.ndim:
        return values
    if layout == "transposed":
        return np.ascontiguousarray(values.T).T
    if layout == "strided":
        gaps = np.zeros((*values.shape[:-1], 2 * values.shape[-1] + 1), values.dtype)
        gaps[..., 1::2] = values
        return gaps[..., 1::2]
    return np.flip(np.flip(values).copy()) if layout == "reversed" else values


@given(st.sampled_from(sorted(CASES)), st.data(), st.sampled_from(ORDERS), seeds)
def test_broadcasting_and_strides(name: str, data: st.DataObject, order: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 3 if name == "where" else 2
    shapes = data.draw(broadcastable(count, max_dims=4))
    arrays = [placed(CASES[name](rng, shape), data.draw(st.sampled_from(LAYOUTS))) for shape in shapes]
    if name == "where":
        arrays[0] = arrays[0] > 0
    kept = [array.copy() for array in arrays]
    out = evaluate(EmulatedDevice(order, seed, "bounds"), name, *arrays)
    right = getattr(np, name)(*arrays)
    np.testing.assert_array_equal(out, right, strict=True)
    for array, before in zip(arrays, kept, strict=True):
        np.testing.assert_array_equal(array, before)


MIXED = [
    ("add", np.int32, np.float32), ("divide", np.int64, np.int64), ("multiply", np.bool_, np.float32),
    ("less", np.int32, np.float32), ("add", np.int32, 2.5), ("power", np.float32, 2), ("power", np.float32, -1.5),
    ("subtract", 1, np.float32), ("multiply", np.float32, np.float32(3)), ("add", np.bool_, True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "first", "second"), MIXED)
def test_mixed_dtypes_and_numbers(name: str, first: Any, second: Any) -> None:
    rng = np.random.default_rng(0)
    given = [rng.integers(1, 9, 50).astype(x) if isinstance(x, type) else x for x in (first, second)]
    right = getattr(np, name)(*given)
    out = evaluate(EmulatedDevice(), name, *given)
    assert out.dtype == right.dtype
    np.testing.assert_allclose(out, right, rtol=1e-6, equal_nan=False)


def test_limits_may_be_left_out() -> None:
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    for low, high in ((None, 1.0), (-1.0, None), (-1.0, 1.0)):
        out = evaluate(EmulatedDevice(), "clip", x, low, high)
        np.testing.assert_array_equal(out, np.clip(x, low, high), strict=True)
    with pytest.raises(ValueError, match="exponent -1 of int32"):
        evaluate(EmulatedDevice(), "power", np.ones(2, np.int32), -1)


def test_functions_of_every_backend() -> None:
    x, g = np.linspace(-2, 2, 9, dtype=np.float32), np.arange(9, dtype=np.float32)
    np.testing.assert_allclose(elementwise.leaky_relu(EmulatedDevice(), x, 0.25), np.where(x > 0, x, x / 4))
    np.testing.assert_allclose(elementwise.leaky_relu_backward(EmulatedDevice(), g, x, 0.25), np.where(x > 0, g, g / 4))
    np.testing.assert_allclose(elementwise.erf(EmulatedDevice(), x), ORACLES["erf"](x), rtol=1e-6)


def test_results_lie_in_memory_as_the_first_array_of_their_shape_does() -> None:
    image = np.arange(120, dtype=np.float32).reshape(2, 5, 4, 3).transpose(0, 3, 1, 2)  # channels last
    bias = np.arange(3, dtype=np.float32).reshape(3, 1, 1)
    for operands in ((image, image), (bias, image), (image, 2.0)):
        out = evaluate(EmulatedDevice(watch="bounds"), "add", *operands)
        assert out.strides == image.strides
        np.testing.assert_array_equal(out, np.add(*operands))


def test_out_may_be_an_input_or_a_view() -> None:
    device = EmulatedDevice(order="shuffled", watch="bounds")
    x = np.arange(8, dtype=np.float32)
    assert evaluate(device, "multiply", x, x, out=x) is x
    np.testing.assert_array_equal(x, np.arange(8.0) ** 2)
    memory = np.zeros((3, 8), np.float64)
    evaluate(device, "add", x[::2], 1, out=memory[1, ::-2])
    np.testing.assert_array_equal(memory, [[0] * 8, [0, 37, 0, 17, 0, 5, 0, 1], [0] * 8])
    for wrong in (np.zeros(7, np.float32), np.zeros(8, np.int32)):
        with pytest.raises(ValueError, match="add: got out of"):
            evaluate(device, "add", x, 1, out=wrong)


# Copies --------------------------------------------------------------------------------------------------------------


@given(shapes(max_dims=4), st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS), st.sampled_from(ORDERS), seeds)
def test_copies_of_any_view_into_any_view(shape: Any, source: str, target: str, order: str, seed: int) -> None:
    device = EmulatedDevice(order, seed, "bounds")
    x = placed(np.random.default_rng(seed).standard_normal(shape).astype(np.float32), source)
    plain = copy(device, x)
    assert plain.flags.c_contiguous
    np.testing.assert_array_equal(plain, x)
    out = placed(np.zeros(shape, np.float32), target)
    copy(device, x, out)
    np.testing.assert_array_equal(out, x)


def test_casts() -> None:
    """Between all dtypes; their kernels are compiled together."""
    dtypes = [*DTYPES, np.dtype(np.uint8)]
    pairs = list(itertools.product(dtypes, repeat=2))
    text = "\n".join(source_of("x", (Input(C_TYPES[a], C_TYPES[a]),), C_TYPES[b], 0, f"{a}_to_{b}") for a, b in pairs)
    for source, target in pairs:
        x = np.array([0, 1, 2, 3.5, 100.25, 7, 0.25]).astype(source)
        y = np.full(7, 77, target)
        four = [1] if {source, target} <= {np.dtype(np.float32), np.dtype(np.int32)} else []
        run(text, f"{source}_to_{target}_contiguous", (1,), (32,), [x, y, 7, *four])
        np.testing.assert_array_equal(y, x.astype(target))


def test_cast_and_fill() -> None:
    device, x = EmulatedDevice(), np.arange(7, dtype=np.float32)
    np.testing.assert_array_equal(copy(device, x, dtype=np.int64), np.arange(7), strict=True)
    with pytest.raises(TypeError, match="to be the same"):
        copy(device, x, np.zeros(7, np.int32), dtype=np.int64)
    with pytest.raises(ValueError, match="does not fill"):
        copy(device, x, np.zeros((), np.float32))
    y = np.zeros((3, 5), np.float32)
    fill(device, y[:, 1:3], 2)
    np.testing.assert_array_equal(y, [[0, 2, 2, 0, 0]] * 3)


def test_six_axes_that_cannot_be_merged_and_no_more() -> None:
    x = np.arange(2**8, dtype=np.float32).reshape((2,) * 8)
    for axes in (6, 7):
        view = x[(0,) * (8 - axes)].transpose()
        if axes == 6:
            np.testing.assert_array_equal(copy(EmulatedDevice(watch="bounds"), view), view)
        else:
            with pytest.raises(ValueError, match="7 axes"):
                copy(EmulatedDevice(), view)


@given(shapes(max_dims=5), st.integers(1, 3), seeds)
def test_merging_keeps_every_address(shape: Any, count: int, seed: int) -> None:
    """The values that arrays have together, wherever in memory, are the same before and after."""
    rng = np.random.default_rng(seed)
    arrays = [np.empty([size if rng.random() < 0.7 else 1 for size in shape]).transpose() for _ in range(count)]
    arrays = [np.broadcast_to(array, shape[::-1]) for array in arrays] + [np.empty(shape).transpose()]
    strides = [tuple(stride // 8 for stride in array.strides) for array in arrays]
    sizes, steps = merged(shape[::-1], strides)

    def places(sizes: Any, steps: Any) -> list[Any]:
        index = np.indices(sizes).reshape(len(sizes), math.prod(sizes))
        return sorted(zip(*(np.array(s, int) @ index if s else [0] for s in steps), strict=True))

    assert places(sizes, steps) == places(shape[::-1], strides)


@given(st.permutations(range(4)), st.sampled_from([(2, 3, 4, 5), (3, 1, 2, 1), (2, 2, 2, 2)]))
def test_arrays_without_gaps_become_one_axis_in_any_order(order: Any, shape: Any) -> None:
    array = np.empty(shape, np.float32).transpose(order)
    assert merged(array.shape, [tuple(stride // 4 for stride in array.strides)] * 2) == ((array.size,), [(1,), (1,)])


def test_neighbouring_threads_take_neighbours_along_the_last_axis() -> None:
    text = source_of("x", (Input("float", "float"),), "float", 3)
    assert text.index("i2 = rest % size2") < text.index("i1 = rest % size1") < text.index("i0 = rest")


# Accesses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 4, 1023, 1024])
@pytest.mark.parametrize("offset", [0, 1])
def test_reads_16_bytes_at_a_time_where_they_are_aligned(n: int, offset: int) -> None:
    """Of the first 4·⌊n / 4⌋ values, in one instruction; unaligned arrays value by value."""
    memory = np.zeros((3, 2048), np.float32)
    start = -memory.ctypes.data % 16 // 4 + offset
    x, y, out = memory[:, start : start + n]
    x[:], y[:] = np.arange(n), 1
    kernel = helpers() + source_of("x + y", (Input("float", "float"),) * 2, "float", 0, "add")
    aligned = all(array.ctypes.data % 16 == 0 for array in (x, y, out))
    assert aligned == (offset == 0)
    counts = run(kernel, "add_contiguous", (1,), (64,), [x, y, out, n, n // 4 if aligned else 0], watch="races")
    np.testing.assert_array_equal(out, np.arange(n) + 1)
    accesses = n // 4 + n % 4 if aligned else n
    assert (counts.loads, counts.stores, counts.barriers) == (2 * accesses, accesses, 0)
    np.testing.assert_array_equal(evaluate(EmulatedDevice(watch="bounds"), "add", x, y), np.arange(n) + 1)


@settings(max_examples=3)
@given(st.sampled_from(ORDERS))
def test_no_races_in_the_strided_kernel(order: str) -> None:
    x, y = np.arange(280, dtype=np.float32).reshape(8, 5, 7), np.arange(5, dtype=np.float32).reshape(5, 1)
    np.testing.assert_array_equal(evaluate(EmulatedDevice(order, 1, "races"), "add", x, y), x + y)


def test_what_there_is_no_kernel_for() -> None:
    with pytest.raises(ValueError, match="unknown"):
        evaluate(EmulatedDevice(), "sinh", np.ones(1, np.float32))
    for name, operands in (("exp", [np.ones(1, np.float16)]), ("add", [np.ones(1, np.complex64), 1])):
        with pytest.raises(TypeError, match="there is no kernel"):
            evaluate(EmulatedDevice(), name, *operands)

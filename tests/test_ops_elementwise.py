"""Elementwise ops: a row each, checked by `harness.check`."""

import math
import operator

import numpy as np
import pytest
from harness import Row, check, elementwise
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    FAR_FROM_ZERO,
    NONZERO,
    POSITIVE,
    REAL,
    away_from,
    flags,
    grid,
    tensor_and,
    tensors,
    uniform,
    whole,
)

import minigan as mg
from minigan.ops.piecewise import leaky_relu, through_leaky_relu
from minigan.ops.smooth import logsigmoid, softplus

NUMBERS = st.sampled_from([2.5, -1.5, 3])


def elsewhere(x):
    """Another device than x's, that every machine has."""
    return "strict" if x.device.type == "cpu" else "cpu"


ROWS = [
    # Arithmetic
    Row("add", "Add", mg.add, elementwise(operator.add), tensors(REAL, REAL)),
    Row("add number", "Add", lambda x, a: a + (x + a), lambda x, a: x + 2 * a, tensor_and(NUMBERS)),
    Row(
        "add alpha", "Add Mul", lambda x, y: mg.add(x, y, alpha=0.5), lambda x, y: x + y / 2, tensors(REAL, REAL)
    ),
    Row("add in the old order", "Add Mul", lambda x, y: x.add(0.5, y), lambda x, y: x + y / 2, tensors(REAL, REAL)),
    Row(
        "addcmul", "Mul Add", lambda x, y, z: mg.addcmul(x, y, z, value=-2), lambda x, y, z: x - 2 * y * z,
        tensors(REAL, REAL, REAL),
    ),
    Row(
        "addcdiv in the old order", "Div Add", lambda x, y, z: x.addcdiv(-2, y, z), lambda x, y, z: x - 2 * y / z,
        tensors(REAL, REAL, FAR_FROM_ZERO),
    ),
    Row("sub", "Sub", mg.sub, elementwise(operator.sub), tensors(REAL, REAL)),
    Row("sub number", "Sub", lambda x, a: a - (x - a), lambda x, a: 2 * a - x, tensor_and(NUMBERS)),
    Row("mul", "Mul", mg.mul, elementwise(operator.mul), tensors(REAL, REAL)),
    Row("mul number", "Mul", lambda x, a: a * x * a, lambda x, a: x * a**2, tensor_and(NUMBERS)),
    Row("div", "Div", mg.div, elementwise(operator.truediv), tensors(REAL, FAR_FROM_ZERO)),
    Row(
        "div number", "Div", lambda x, a: a / (x / a), lambda x, a: a**2 / x, tensor_and(NUMBERS, domain=FAR_FROM_ZERO)
    ),
    Row("pow", "Pow", mg.pow, elementwise(math.pow), tensors(POSITIVE, REAL)),
    Row(
        "pow number", "Pow", mg.pow, lambda x, a: np.exp(a * np.log(x)),
        tensor_and(st.sampled_from([2, 3.5, 1, 0, -1, 0.5]), domain=POSITIVE), rtol=1e-12,
    ),
    Row("pow of negatives", "Pow", lambda x: x**3, lambda x: x * x * x, tensor_and(domain=NONZERO)),
    Row("number pow", "Pow", lambda y, a: a**y, lambda y, a: np.exp(y * np.log(a)), tensor_and(st.just(2.5))),
    Row("neg", "Neg", mg.neg, elementwise(operator.neg), tensors(REAL)),
    Row("reciprocal", "Div", mg.reciprocal, lambda x: x**-1.0, tensors(FAR_FROM_ZERO)),
    Row("rsqrt", "Pow", mg.rsqrt, elementwise(lambda x: 1 / math.sqrt(x)), tensors(POSITIVE)),
    Row(
        "lerp", "Mul Add Sub", mg.lerp, elementwise(lambda x, y, w: (1 - w) * x + w * y), tensors(REAL, REAL, REAL)
    ),
    Row(
        "remainder", "FloorDivide", lambda x: mg.remainder(x, 0.75), elementwise(lambda x: x % 0.75),
        tensors(away_from(-1.5, -0.75, 0, 0.75, 1.5)),
    ),
    Row(
        "floor_divide", "FloorDivide", lambda x: mg.floor_divide(x, 0.75), elementwise(lambda x: x // 0.75),
        tensors(away_from(-1.5, -0.75, 0, 0.75, 1.5)),
    ),
    # Smooth functions
    Row("exp", "Exp", mg.exp, elementwise(math.exp), tensors(REAL)),
    Row("expm1", "Expm1", mg.expm1, elementwise(math.expm1), tensors(REAL)),
    Row("sqrt", "Sqrt", mg.sqrt, elementwise(math.sqrt), tensors(POSITIVE)),
    Row("tanh", "Tanh", mg.tanh, elementwise(math.tanh), tensors(REAL)),
    Row("sigmoid", "Sigmoid", mg.sigmoid, elementwise(lambda x: (1 + math.tanh(x / 2)) / 2), tensors(REAL)),
    Row("log", "Log", mg.log, elementwise(math.log), tensors(POSITIVE)),
    Row("log1p", "Log1p", mg.log1p, elementwise(math.log1p), tensors(uniform(-0.7, 2))),
    Row("log2", "Log", mg.log2, elementwise(math.log2), tensors(POSITIVE)),
    Row("log10", "Log", mg.log10, elementwise(math.log10), tensors(POSITIVE)),
    Row("square", "Square", mg.square, elementwise(lambda x: x * x), tensors(REAL)),
    Row("sin", "Sin", mg.sin, elementwise(math.sin), tensors(REAL)),
    Row("cos", "Cos", mg.cos, elementwise(math.cos), tensors(REAL)),
    Row("erf", "Erf", mg.erf, elementwise(math.erf), tensors(REAL)),
    Row("erf far out", "Erf", mg.erf, elementwise(math.erf), tensors(uniform(-8, 8))),
    Row("softplus", "Softplus", softplus, elementwise(lambda x: math.log(1 + math.exp(x))), tensors(REAL)),
    Row(
        "softplus past its threshold", "Softplus", lambda x: softplus(x, 2.0, 1.0),
        elementwise(lambda x: x if 2 * x > 1 else math.log(1 + math.exp(2 * x)) / 2), tensors(away_from(0.5)),
    ),
    Row("logsigmoid", "LogSigmoid", logsigmoid, elementwise(lambda x: -math.log(1 + math.exp(-x))), tensors(NONZERO)),
    # Piecewise linear ones
    Row("abs", "Abs", mg.abs, elementwise(math.fabs), tensors(NONZERO)),
    Row("relu", "LeakyRelu", mg.relu, elementwise(lambda x: x if x > 0 else 0.0), tensors(NONZERO)),
    Row(
        "leaky_relu", "LeakyRelu", leaky_relu, elementwise(lambda x, a: x if x > 0 else a * x),
        tensor_and(st.sampled_from([0.01, 0.2, 1.0, 1.5]), domain=NONZERO),
    ),
    Row(
        "leaky_relu of negative slope", "LeakyReluFromInput", lambda x: leaky_relu(x, -0.3),
        elementwise(lambda x: x if x > 0 else -0.3 * x), tensors(NONZERO),
    ),
    Row(
        "through a leaky relu", "LeakyReluGrad",
        lambda x: through_leaky_relu(
            x, mg.linspace(-1, 1.1, x.numel(), dtype=x.dtype, device=x.device).reshape(x.shape), 0.2
        ),
        lambda x: np.where(np.linspace(-1, 1.1, x.size).reshape(x.shape) > 0, x, 0.2 * x), tensors(REAL),
    ),
    Row(
        "clamp", "Clamp", mg.clamp,
        lambda x, low, high: np.clip(x, -9 if low is None else low, 9 if high is None else high),
        tensor_and(
            st.shared(st.sampled_from([(-0.5, 1.0), (None, 1.0), (-0.5, None)]), key="clamp").map(lambda ends: ends[0]),
            st.shared(st.sampled_from([(-0.5, 1.0), (None, 1.0), (-0.5, None)]), key="clamp").map(lambda ends: ends[1]),
            domain=away_from(-0.5, 1.0),
        ),
    ),
    Row("clamp_min", "Clamp", lambda x: mg.clamp_min(x, 0.5), lambda x: np.maximum(x, 0.5), tensors(away_from(0.5))),
    Row("clamp_max", "Clamp", lambda x: x.clamp_max(0.5), lambda x: np.minimum(x, 0.5), tensors(away_from(0.5))),
    Row(
        "clamp between tensors", "Where", lambda x, a, b: mg.clamp(x, a, b),
        elementwise(lambda x, a, b: min(max(x, a), b)), tensors(grid(0.0), grid(0.03), grid(0.07)),
    ),
    Row("sign", "Step", mg.sign, elementwise(lambda x: math.copysign(1, x)), tensors(NONZERO)),
    Row("floor", "Step", mg.floor, elementwise(math.floor), tensors(away_from(-1, 0, 1))),
    Row("ceil", "Step", mg.ceil, elementwise(math.ceil), tensors(away_from(-1, 0, 1))),
    Row("round", "Step", mg.round, elementwise(round), tensors(away_from(-1.5, -0.5, 0.5, 1.5))),
    Row("trunc", "Step", mg.trunc, elementwise(math.trunc), tensors(away_from(-1, 0, 1))),
    Row("maximum", "Maximum", mg.maximum, elementwise(max), tensors(grid(0.0), grid(0.05))),
    Row(
        "maximum with number", "Maximum", mg.maximum, elementwise(max),
        tensor_and(st.just(0.5), domain=away_from(0.5)),
    ),
    Row("minimum", "Minimum", mg.minimum, elementwise(min), tensors(grid(0.0), grid(0.05))),
    Row(
        "where", "Where", lambda x, c, y: mg.where(c, x, y), elementwise(lambda x, c, y: x if c else y),
        tensors(REAL, flags, REAL),
    ),
    Row(
        "where with number", "Where", lambda x, c: mg.where(c, 2.0, x), elementwise(lambda x, c: 2.0 if c else x),
        tensors(REAL, flags),
    ),
    Row(
        "masked_fill", "Where", lambda x, m: x.masked_fill(m, -1.5), elementwise(lambda x, m: -1.5 if m else x),
        tensors(REAL, flags),
    ),
    # The same values somewhere else
    Row("clone", "Clone", mg.clone, np.array, tensors(REAL)),
    Row("contiguous", "", lambda x: x.contiguous() * 1, np.array, tensors(REAL)),
    Row(
        "cast", "Cast", lambda x: x.double().square().to(x.dtype), lambda x: x * x, tensors(REAL), dtypes=(mg.float32,)
    ),
    Row("move", "Move", lambda x: x.to(elsewhere(x)).to(x.device), np.array, tensors(REAL)),
    # In place
    Row("exp_", "Exp", lambda x: x.clone().exp_(), elementwise(math.exp), tensors(REAL)),
    Row("sigmoid_", "Sigmoid", lambda x: (2 * x).sigmoid_(), lambda x: (1 + np.tanh(x)) / 2, tensors(REAL)),
    Row("mul_ by itself", "Mul", lambda x: (lambda y: y.mul_(y))(x * 1), np.square, tensors(REAL)),
    Row(
        "add_ and mul_", "Add Mul", lambda x, a: (x * 2).add_(a).mul_(x), lambda x, a: (2 * x + a) * x,
        tensor_and(NUMBERS),
    ),
    # Nothing to differentiate
    *(
        Row(name, "", getattr(mg, name), np.vectorize(getattr(operator, name), otypes=[bool]), cases, order=0)
        for name in ("eq", "ne", "lt", "le", "gt", "ge")
        for cases in [tensors(whole(-2, 3), whole(-2, 3))]
    ),
    *(
        Row(f"logical_{name}", "", getattr(mg, f"logical_{name}"), np.vectorize(f, otypes=[bool]), cases, order=0)
        for name, f in {"and": operator.and_, "or": operator.or_, "xor": operator.xor}.items()
        for cases in [tensors(flags, flags)]
    ),
    Row("logical_not", "", mg.logical_not, np.vectorize(operator.not_, otypes=[bool]), tensors(flags), order=0),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
@given(data=st.data())
def test_rows(row, data):
    check(row, data.draw(row.cases), data.draw(st.sampled_from(row.dtypes)))


# What the rows keep away from -----------------------------------------------------------------------------


def gradient(f, *values):
    xs = [mg.tensor(value, dtype=mg.float64, requires_grad=True) for value in values]
    return [g.tolist() for g in mg.autograd.grad(f(*xs).sum(), xs)]


def test_gradients_at_kinks_are_pytorchs():
    assert gradient(mg.relu, [0.0, -0.0]) == [[0, 0]]
    assert gradient(mg.abs, [0.0]) == [[0]]
    assert gradient(lambda x: leaky_relu(x, 0.1), [0.0]) == [[0.1]]
    assert gradient(lambda x: mg.clamp(x, -1, 1), [-1.0, 1.0, 1.5]) == [[1, 1, 0]]


def test_equal_values_share_the_gradient():
    assert gradient(mg.maximum, [1.0, 2.0], [1.0, 0.0]) == [[0.5, 1], [0.5, 0]]
    assert gradient(mg.minimum, [1.0, 2.0], [1.0, 0.0]) == [[0.5, 0], [0.5, 1]]


def test_powers_of_zero():
    assert gradient(lambda x: x**2, [0.0]) == [[0]]
    assert gradient(lambda x: x**0, [0.0, 3.0]) == [[0, 0]]
    assert gradient(mg.pow, [0.0], [2.0]) == [[0], [0]]
    assert gradient(lambda y: 0.0**y, [2.0]) == [[0]]


def test_large_magnitudes_do_not_overflow():
    x = mg.tensor([-1e4, 1e4], dtype=mg.float64)
    assert mg.sigmoid(x).tolist() == [0, 1]
    assert mg.tanh(x).tolist() == [-1, 1]
    assert softplus(x).tolist() == [0, 1e4]
    assert logsigmoid(x).tolist() == [-1e4, 0]
    assert gradient(logsigmoid, [-1e4, 1e4]) == [[1, 0]]


def test_the_floor_of_a_quotient_is_exact():
    """1 / 0.1 rounds to 10, but 0.1 is a little more than a tenth: it goes into 1 nine times."""
    assert (mg.tensor(1.0, dtype=mg.float64) // 0.1).item() == 9
    assert (mg.tensor(1.0, dtype=mg.float64) % 0.1).item() == pytest.approx(0.1)


def test_integers_and_bools():
    """Where libraries of arrays differ."""
    flags, whole = mg.tensor([True, False]), mg.tensor([2, 3])
    for power in (lambda: whole**-1, lambda: 2 ** mg.tensor([1, -1]), lambda: whole ** mg.tensor([3, -1])):
        with pytest.raises(RuntimeError, match="Integers to negative integer powers"):
            power()
    assert (whole ** mg.tensor([3, 0])).tolist() == [8, 1]
    assert (2.0 ** mg.tensor([1, -1])).tolist() == [2, 0.5]
    assert flags.sign().tolist() == [True, False]
    assert flags.sign().dtype == mg.bool
    for limits in ({"min": 0}, {"max": 1}, {"min": 0, "max": 1}):
        assert flags.clamp(**limits).tolist() == [1, 0]
        assert flags.clamp(**limits).dtype == mg.int64
    short = mg.ones(3, dtype=mg.uint8).scatter_add(0, mg.tensor([0, 1, 0]), mg.tensor([200, 1, 100], dtype=mg.uint8))
    assert short.tolist() == [45, 2, 1]
    assert short.dtype == mg.uint8

"""Reductions, order, softmax: a row each, checked by `harness.check`."""

import itertools
import math

import numpy as np
import pytest
from harness import Row, check
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    DISTINCT,
    NONZERO,
    POSITIVE,
    REAL,
    an_axis,
    flags,
    placed,
    positive_shapes,
    shapes,
    some_axes,
    tensor_and,
)

import minigan as mg

keepdims = st.booleans()
filled = positive_shapes()


def reduced(over, *, domain=REAL, shape=None):
    """A tensor, axes to reduce, keepdim."""
    return tensor_and(over, keepdims, domain=domain, shape=shape)


def one_by_one(reduce):
    """An oracle from a function of a list of floats, by going through the entries of the result."""

    def oracle(x, dim=None, keepdim=False):
        over = (
            range(x.ndim) if dim is None else [d % x.ndim for d in ([dim] if isinstance(dim, int) else dim) if x.ndim]
        )
        lines = {}
        kept = tuple(1 if d in over else size for d, size in enumerate(x.shape))
        for at in itertools.product(*map(range, x.shape)):
            lines.setdefault(tuple(0 if d in over else i for d, i in enumerate(at)), []).append(float(x[at]))
        y = np.array([reduce(lines.get(at, [])) for at in itertools.product(*map(range, kept))], x.dtype)
        shape = kept if keepdim else tuple(size for d, size in enumerate(kept) if d not in over)
        return y.reshape(shape)

    return oracle


def along(rearrange):
    """An oracle from a function of one line of values, along an axis."""
    return lambda x, dim, *more: np.apply_along_axis(rearrange, dim, x, *more) if x.size else x


def variance(correction):
    return lambda line: sum((v - sum(line) / len(line)) ** 2 for v in line) / (len(line) - correction)


def p_norm(p):
    return lambda line: sum(abs(v) ** p for v in line) ** (1 / p)


@st.composite
def for_variance(draw):
    """At least two values, all different, to each variance."""
    shape = draw(shapes(1, 3, (2, 3, 4)))
    return draw(placed(shape, DISTINCT)), draw(some_axes(shape)), draw(keepdims)


@st.composite
def tops(draw):
    shape = draw(positive_shapes(1, 3))
    dim = draw(an_axis(shape))
    return draw(placed(shape, DISTINCT)), draw(st.integers(0, shape[dim])), dim, draw(st.booleans())


def top_of(x, k, dim, largest):
    order = np.argsort(-x if largest else x, dim).take(range(k), dim)
    return np.take_along_axis(x, order, dim), order


def with_place(find):
    def oracle(x, dim, keepdim):
        at = np.expand_dims(np.apply_along_axis(lambda line: list(line).index(find(line)), dim, x), dim)
        found = (np.take_along_axis(x, at, dim), at)
        return found if keepdim else [part.squeeze(dim) for part in found]

    return oracle


def shares(line):
    powers = [math.exp(v) for v in line]
    return [p / math.fsum(powers) for p in powers]


on_an_axis = tensor_and(an_axis, shape=shapes(1))
on_a_filled_axis = tensor_and(an_axis, domain=DISTINCT, shape=positive_shapes(1, 3))
extremes = reduced(some_axes, domain=DISTINCT, shape=filled)
places = tensor_and(an_axis, keepdims, domain=DISTINCT, shape=positive_shapes(1, 3))

ROWS = [
    Row("sum", "Sum", mg.sum, one_by_one(math.fsum), reduced(some_axes)),
    Row("mean", "Sum", mg.mean, one_by_one(lambda line: math.fsum(line) / len(line)), reduced(some_axes, shape=filled)),
    Row(
        "var", "Sum Square", lambda x, d, k: mg.var(x, d, keepdim=k), one_by_one(variance(1)), for_variance(),
        rtol=1e-12,
    ),
    Row(
        "var biased", "Sum Square", lambda x, d, k: mg.var(x, d, unbiased=False, keepdim=k), one_by_one(variance(0)),
        for_variance(), rtol=1e-12,
    ),
    Row(
        "std", "Sub Norm2", lambda x, d, k: mg.std(x, d, correction=0.5, keepdim=k),
        one_by_one(lambda line: math.sqrt(variance(0.5)(line))), for_variance(), rtol=1e-12,
    ),
    Row("amax", "Amax", mg.amax, one_by_one(max), extremes),
    Row("amin", "Amax", mg.amin, one_by_one(min), extremes),
    Row("max of all", "Amax", mg.max, one_by_one(max), tensor_and(domain=DISTINCT, shape=filled)),
    Row("max", "Take", lambda *args: mg.max(*args), with_place(max), places, view=None),
    Row("min", "Take", lambda *args: mg.min(*args), with_place(min), places, view=None),
    Row("cumsum", "Cumsum", mg.cumsum, along(lambda line: list(itertools.accumulate(line))), on_an_axis),
    Row("prod", "", mg.prod, one_by_one(math.prod), reduced(an_axis, shape=shapes(1)), view=None),
    Row("prod of all", "", lambda x: mg.prod(x) * 1, one_by_one(math.prod), tensor_and()),
    Row(
        "logsumexp", "Exp Log", mg.logsumexp, one_by_one(lambda line: math.log(math.fsum(map(math.exp, line)))),
        reduced(some_axes, shape=filled), view=None,
    ),
    Row(
        "norm", "Norm2", lambda x, d, k: mg.norm(x, 2, d, k), one_by_one(p_norm(2)),
        reduced(some_axes, domain=NONZERO),
    ),
    Row("norm of all", "Norm2", mg.norm, one_by_one(lambda line: math.hypot(*line)), tensor_and(domain=NONZERO)),
    *(
        Row(
            f"norm {p}", ops, lambda x, d, k, p=p: mg.norm(x, p, d, k), one_by_one(oracle),
            reduced(some_axes, domain=domain, shape=filled), rtol=1e-12, view=None,
        )
        for p, ops, domain, oracle in [
            (1, "Abs", NONZERO, p_norm(1)),
            (3, "Abs Pow", NONZERO, p_norm(3)),
            (1.5, "Abs Pow", POSITIVE, p_norm(1.5)),
            (math.inf, "Abs Amax", DISTINCT, lambda line: max(map(abs, line))),
            (-math.inf, "Abs Amax", DISTINCT, lambda line: min(map(abs, line))),
        ]
    ),
    Row("softmax", "Softmax", mg.softmax, along(shares), on_an_axis),
    Row(
        "log_softmax", "LogSoftmax", mg.log_softmax,
        along(lambda line: [v - math.log(sum(map(math.exp, line))) for v in line]), on_an_axis,
    ),
    Row(
        "sort", "Take", mg.sort, lambda x, d: (along(sorted)(x, d), np.argsort(x, d)), on_a_filled_axis,
    ),
    Row(
        "sort descending", "Take", lambda x, d: mg.sort(x, d, descending=True),
        lambda x, d: (along(lambda line: sorted(line)[::-1])(x, d), np.argsort(-x, d)), on_a_filled_axis,
    ),
    Row("topk", "Take", mg.topk, top_of, tops()),
    Row("argmax", "", mg.argmax, lambda *args: with_place(max)(*args)[1], places, order=0),
    Row("argmin", "", mg.argmin, lambda *args: with_place(min)(*args)[1], places, order=0),
    Row("argmax of all", "", mg.argmax, np.argmax, tensor_and(domain=DISTINCT, shape=filled), order=0),
    Row("all", "", mg.all, lambda x, d, k: np.all(x, d, keepdims=k), reduced(some_axes, domain=flags), order=0),
    Row("any", "", mg.any, lambda x, d, k: np.any(x, d, keepdims=k), reduced(some_axes, domain=flags), order=0),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
@given(data=st.data())
def test_rows(row, data):
    check(row, data.draw(row.cases), data.draw(st.sampled_from(row.dtypes)))


# What the rows keep away from -----------------------------------------------------------------------------


def gradient(f, values):
    x = mg.tensor(values, dtype=mg.float64, requires_grad=True)
    return mg.autograd.grad(f(x).sum(), x)[0].tolist()


def test_equal_extremes_share_the_gradient():
    assert gradient(mg.amax, [1.0, 3.0, 3.0]) == [0, 0.5, 0.5]
    assert gradient(lambda x: mg.amin(x, 0), [[1.0, 2.0], [1.0, 3.0]]) == [[0.5, 1], [0.5, 0]]


def test_the_norm_of_zero_has_slope_zero():
    assert gradient(mg.norm, [0.0, 0.0]) == [0, 0]
    x = mg.zeros(2, dtype=mg.float64, requires_grad=True)
    (g,) = mg.autograd.grad(mg.norm(x), x, create_graph=True)
    (h,) = mg.autograd.grad(g.sum(), x)
    assert np.isfinite(h.cpu().numpy()).all()


def test_the_product_of_zeros_has_exact_gradients():
    assert gradient(mg.prod, [2.0, 0.0, 3.0]) == [0, 6, 0]
    assert gradient(mg.prod, [2.0, 0.0, 0.0]) == [0, 0, 0]


def test_large_magnitudes_do_not_overflow():
    x = mg.tensor([1e4, -1e4, 1e4], dtype=mg.float64)
    assert mg.softmax(x, 0).tolist() == [0.5, 0, 0.5]
    assert mg.logsumexp(x, 0).item() == pytest.approx(1e4 + math.log(2), rel=1e-15)
    assert mg.log_softmax(x, 0).tolist() == pytest.approx([-math.log(2), -2e4 - math.log(2), -math.log(2)])


def test_nothing_to_reduce():
    assert mg.zeros(0).sum().item() == 0
    assert mg.zeros(0).prod().item() == 1
    assert math.isnan(mg.zeros(0).mean().item())
    assert math.isnan(mg.ones(1).var().item())
    with pytest.raises(RuntimeError, match="at least one value"):
        mg.amax(mg.zeros(0))

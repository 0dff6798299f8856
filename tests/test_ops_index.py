"""Selecting and writing by index: a row each, checked by `harness.check`."""

import itertools
import math

import numpy as np
import pytest
from harness import Row, check
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices
from strategies import FAR_FROM_ZERO, an_axis, flags, placed, positive_shapes, tensor_and

import minigan as mg
from minigan.graph import REGISTRY, apply
from minigan.ops.index import _ARRAY, getitem

# Cases: a tensor, how to index it, and sometimes the values to write -------------------------------------------


def slices(shape):
    """Slices of positive steps, integers, None and `...`."""
    steps_up = basic_indices(shape, allow_newaxis=True).filter(
        lambda index: all(
            not isinstance(part, slice) or part.step is None or part.step > 0
            for part in (index if isinstance(index, tuple) else (index,))
        )
    )
    return steps_up.map(lambda index: index if isinstance(index, tuple) else (index,))


@st.composite
def rows_of(draw, once=False):
    """Indices of a 3-d shape: integer arrays, with negative entries and, unless `once`, entries twice."""
    shape = draw(positive_shapes(3, 3))
    a, b, c = shape

    def indices(size, count):
        if once:
            order = draw(st.permutations(range(size)))[:count]
            return np.array([i - size if draw(st.booleans()) else i for i in order], dtype=np.int64)
        return np.array(draw(st.lists(st.integers(-size, size - 1), min_size=count, max_size=count)), dtype=np.int64)

    n = draw(st.integers(1, min(shape) if once else 4))
    kind = draw(st.sampled_from(["first", "last", "pair", "split pair", "matrix", "beside a slice"]))
    index = {
        "first": lambda: (indices(a, n),),
        "last": lambda: (..., indices(c, n)),
        "pair": lambda: (indices(a, n), indices(b, n)),
        "split pair": lambda: (indices(a, n), slice(None), indices(c, n)),
        "matrix": lambda: (slice(None), indices(b, n).reshape(n, 1)),
        "beside a slice": lambda: (slice(None, None, 2), indices(b, n)),
    }[kind]()
    return shape, index


@st.composite
def reads(draw):
    shape, index = draw(rows_of())
    return draw(placed(shape)), index


@st.composite
def read_cotangents(draw):
    """What `AddAt` is given: a gradient of x[index], the index, and x's shape."""
    shape, index = draw(rows_of())
    return draw(placed(np.empty(shape)[index].shape)), index, shape


@st.composite
def writes(draw):
    """Of values that broadcast, to places that come up once."""
    shape, index = draw(rows_of(once=True))
    target = np.empty(shape)[index].shape
    start = draw(st.integers(0, len(target)))
    return draw(placed(shape)), index, draw(placed(tuple(draw(st.sampled_from([s, 1])) for s in target[start:])))


@st.composite
def slice_writes(draw):
    shape = draw(positive_shapes(1, 3))
    index = draw(slices(shape).filter(lambda index: np.empty(shape)[index].size))  # nothing shares no memory
    return draw(placed(shape)), index, draw(placed(np.empty(shape)[index].shape))


@st.composite
def along_axis(draw, once=False, values=True):
    """A tensor, an axis, an index of its ndim (no larger elsewhere), and values of the index's shape."""
    shape = draw(positive_shapes(1, 3))
    dim = draw(an_axis(shape))
    at = dim % len(shape)
    count = draw(st.integers(1, shape[at] if once else 4))
    size = tuple(count if d == at else draw(st.integers(1, s)) for d, s in enumerate(shape))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    if once:
        orders = rng.random((*size[:at], shape[at], *size[at + 1 :])).argsort(at)
        index = orders.take(range(count), at)
    else:
        index = rng.integers(0, shape[at], size)
    case = (draw(placed(shape)), dim, index)
    return (*case, draw(placed(size))) if values else case


@st.composite
def vectors_of_rows(draw, shape):
    return np.array(draw(st.lists(st.integers(0, shape[0] - 1), max_size=5)), dtype=np.int64)


def index_tensors(index):
    """NumPy's arrays in an index as tensors."""
    if isinstance(index, tuple):
        return tuple(index_tensors(part) for part in index)
    return mg.tensor(index) if isinstance(index, np.ndarray) else index


def with_tensors(function):
    """A row's function, given index tensors for the index arrays of the case."""
    return lambda *args: function(*(index_tensors(arg) for arg in args))


# Oracles: one place at a time ---------------------------------------------------------------------------------


def places(shape, index):
    """The flat positions in an array of `shape` that an index names."""
    return np.arange(math.prod(shape)).reshape(shape)[index]


def added(y, index, shape):
    x = np.zeros(math.prod(shape))
    for at, value in zip(places(shape, index).ravel(), y.ravel(), strict=True):
        x[at] += value
    return x.reshape(shape)


def written(x, index, values):
    y = x.copy().ravel()
    at = places(x.shape, index)
    for place, value in zip(at.ravel(), np.broadcast_to(values, at.shape).ravel(), strict=True):
        y[place] = value
    return y.reshape(x.shape)


def one_by_one(step):
    """Scatter along an axis, `step(y, place in y, value)` for each place of the index."""

    def oracle(x, dim, index, src):
        y = x.copy()
        for at in itertools.product(*map(range, index.shape)):
            place = list(at)
            place[dim] = index[at]
            step(y, tuple(place), src[at] if np.ndim(src) else src)
        return y

    return oracle


def put(y, place, value):
    y[place] = value


def add(y, place, value):
    y[place] += value


def gathered(x, dim, index):
    y = np.zeros(index.shape)
    for at in itertools.product(*map(range, index.shape)):
        place = list(at)
        place[dim] = index[at]
        y[at] = x[tuple(place)]
    return y


def kept(keep):
    def oracle(x, k):
        y = x.copy()
        for i, j in itertools.product(*map(range, x.shape[-2:])):
            if not keep(j - i, k):
                y[..., i, j] = 0
        return y

    return oracle


# Functions ----------------------------------------------------------------------------------------------------


def add_at(y, index, shape):
    pattern = tuple(_ARRAY if isinstance(part, mg.Tensor) else part for part in index)
    return apply(REGISTRY["AddAt"], y, *(p for p in index if isinstance(p, mg.Tensor)), pattern=pattern, shape=shape)


def put_at(x, index, values):
    y = x * 1
    y[index] = values
    return y


@st.composite
def masked(draw, leading=False):
    shape = draw(positive_shapes(1, 3))
    mask = flags(np.random.default_rng(draw(st.integers(0, 99))), shape[:1] if leading else shape)
    return draw(placed(shape)), mask


@st.composite
def unslices(draw):
    shape = draw(positive_shapes(0, 3))
    index = draw(slices(shape))
    return draw(placed(np.empty(shape)[index].shape)), (*index, *([] if ... in index else [...])), shape


matrices = positive_shapes(2, 3)

ROWS = [
    Row("slice", "Slice", getitem, lambda x, i: x.ravel()[places(x.shape, i)], tensor_and(slices), view=True),
    Row(
        "unslice", "Unslice", lambda y, i, shape: apply(REGISTRY["Unslice"], y, pattern=i, shape=shape), added,
        unslices(),
    ),
    Row("take", "Take", with_tensors(getitem), lambda x, i: x.ravel()[places(x.shape, i)], reads()),
    Row("add_at", "AddAt", with_tensors(add_at), added, read_cotangents()),
    Row("put", "PutAt", with_tensors(put_at), written, writes()),
    Row(
        "put number", "PutAt", with_tensors(lambda x, i, v: put_at(x, i, 1.5)), lambda x, i, v: written(x, i, 1.5),
        writes(),
    ),
    Row("assign to a slice", "ViewAssign", put_at, written, slice_writes()),
    Row("take by mask", "Take", with_tensors(getitem), lambda x, m: np.extract(m, x), masked()),
    Row("take by a mask of rows", "Take", with_tensors(getitem), lambda x, m: np.compress(m, x, 0), masked(True)),
    Row("masked_select", "Take", with_tensors(mg.masked_select), lambda x, m: np.extract(m, x), masked()),
    Row(
        "index_select", "Take", with_tensors(lambda x, i: mg.index_select(x, 0, i)),
        lambda x, i: np.array([x[j] for j in i]).reshape(len(i), *x.shape[1:]),
        tensor_and(vectors_of_rows, shape=positive_shapes(1, 3)),
    ),
    Row("gather", "Take", with_tensors(mg.gather), gathered, along_axis(values=False)),
    Row("scatter", "PutAt", with_tensors(mg.scatter), one_by_one(put), along_axis(once=True)),
    Row(
        "scatter number", "PutAt", with_tensors(lambda x, d, i: mg.scatter(x, d, i, 2.5)),
        lambda x, d, i: one_by_one(put)(x, d, i, 2.5), along_axis(once=True, values=False),
    ),
    Row("scatter_add", "AddAt", with_tensors(mg.scatter_add), one_by_one(add), along_axis()),
    Row("tril", "Where", mg.tril, kept(lambda offset, k: offset <= k), tensor_and(st.integers(-2, 2), shape=matrices)),
    Row("triu", "Where", mg.triu, kept(lambda offset, k: offset >= k), tensor_and(st.integers(-2, 2), shape=matrices)),
    Row(
        "diagonal", "Diagonal", mg.diagonal, np.diagonal, tensor_and(st.integers(-2, 2), shape=matrices), view=True
    ),
    Row(
        "diagonal of other axes", "Diagonal", lambda x: mg.diagonal(x, 0, -1, 0), lambda x: np.diagonal(x, 0, -1, 0),
        tensor_and(shape=matrices), view=True,
    ),
    Row(
        "undiagonal", "Undiagonal", lambda y: apply(REGISTRY["Undiagonal"], y),
        lambda y: y[..., None] * np.eye(y.shape[-1]), tensor_and(shape=matrices),
    ),
    Row(
        "nonzero", "", lambda x: mg.nonzero(x > 0), lambda x: np.argwhere(x > 0), tensor_and(domain=FAR_FROM_ZERO),
        order=0,
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
@given(data=st.data())
def test_rows(row, data):
    check(row, data.draw(row.cases), data.draw(st.sampled_from(row.dtypes)))


def test_assigning_to_an_entry_twice_keeps_the_last():
    x = mg.zeros(3)
    x[mg.tensor([0, 0])] = mg.tensor([1.0, 2.0])
    assert x.tolist() == [2, 0, 0]

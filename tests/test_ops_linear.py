"""Products of matrices and tensors: a row each, checked by `harness.check`."""

import itertools
from functools import partial

import numpy as np
import pytest
from harness import Row, check
from hypothesis import given
from hypothesis import strategies as st
from strategies import broadcastable, placed, shapes, sides
from threadpoolctl import ThreadpoolController, threadpool_limits

import minigan as mg
from minigan.kernels.cpu import products, workers
from minigan.ops.linear import linear
from minigan.testing import check_adjoint

# Cases ------------------------------------------------------------------------------------------------------


@st.composite
def matrices(draw, batch=None):
    """X (…, m, k) and Y (…, k, n), whose leading axes broadcast unless `batch` says how many there are."""
    m, k, n = (draw(sides) for _ in range(3))
    if batch is None:
        first, second = draw(broadcastable(2, max_dims=2))
    else:
        first = second = draw(shapes(batch, batch))
    return draw(placed((*first, m, k))), draw(placed((*second, k, n)))


@st.composite
def with_vectors(draw, left, right):
    """As matrices, but one of them or both are vectors."""
    k = draw(sides)
    return draw(placed((k,) if left else (2, 3, k))), draw(placed((k,) if right else (2, k, 4)))


@st.composite
def added(draw, batch):
    """A row to add, and two matrices, or two stacks of them."""
    x, y = draw(matrices(batch=batch))
    return draw(placed(y.values.shape[-1:])), x, y


@st.composite
def affine(draw, bias):
    outer, inputs, outputs = draw(shapes(0, 2)), draw(sides), draw(sides)
    case = draw(placed((*outer, inputs))), draw(placed((outputs, inputs)))
    return (*case, draw(placed((outputs,)))) if bias else case


@st.composite
def three_matrices(draw):
    i, j, k = (draw(st.integers(1, 3)) for _ in range(3))
    return draw(placed((i, j))), draw(placed((j, k))), draw(placed((k, i)))


# An equation, and the same with letters for the axes of the ellipsis
EQUATIONS = {
    "ij,jk->ik": "ij,jk->ik",
    "ij,jk": "ij,jk->ik",
    "ij,kj": "ij,kj->ik",
    "bij,bjk->bik": "bij,bjk->bik",
    "i,i->": "i,i->",
    "i,j->ji": "i,j->ji",
    "ij,i,j->": "ij,i,j->",
    "ij->ji": "ij->ji",
    "ba": "ba->ab",
    "ij->": "ij->",
    "ij->j": "ij->j",
    "ii->i": "ii->i",
    "ii": "ii->",
    "iji,j->i": "iji,j->i",
    "iij,jk->ik": "iij,jk->ik",
    "ij,k->i": "ij,k->i",
    "ij , ij -> ij": "ij,ij->ij",
    "...ij,...jk->...ik": "abij,bjk->abik",
    "...i,i->...": "abi,i->ab",
    "i...,i...": "iab,ib->ab",
    "...,...->...": "ab,b->ab",
    "...ii->...i": "abii->abi",
    "ijk,il,jm->klm": "ijk,il,jm->klm",
}


@st.composite
def operands(draw, equation):
    terms = EQUATIONS[equation].split("->")[0].split(",")
    size = {letter: draw(sides.filter(lambda n: n < 4)) for letter in sorted(set("".join(terms)))}
    return tuple(draw(placed(tuple(size[c] for c in term))) for term in terms)


def term_by_term(equation, *arrays):
    """Σ over every letter of the product of the entries it names."""
    left, out = EQUATIONS[equation].split("->")
    terms = left.split(",")
    size = {c: n for term, x in zip(terms, arrays, strict=True) for c, n in zip(term, x.shape, strict=True)}
    letters = sorted(size)
    y = np.zeros([size[c] for c in out])
    for values in itertools.product(*(range(size[c]) for c in letters)):
        at = dict(zip(letters, values, strict=True))
        product = 1.0
        for term, x in zip(terms, arrays, strict=True):
            product *= x[tuple(at[c] for c in term)]
        y[tuple(at[c] for c in out)] += product
    return y


def rows_by_columns(x, y):
    return (x[..., :, :, None] * y[..., None, :, :]).sum(-2)


ROWS = [
    Row("matmul", "Matmul", mg.matmul, rows_by_columns, matrices(), order=3),
    Row("matmul operator", "Matmul", lambda x, y: x @ y, rows_by_columns, matrices()),
    Row("mm", "Matmul", mg.mm, rows_by_columns, matrices(batch=0)),
    Row("bmm", "Matmul", mg.bmm, rows_by_columns, matrices(batch=1)),
    Row("vector times matrices", "Matmul", mg.matmul, lambda x, y: (x[:, None] * y).sum(1), with_vectors(True, False)),
    Row("matrices times vector", "Matmul", mg.matmul, lambda x, y: (x * y).sum(-1), with_vectors(False, True)),
    Row("mv", "Matmul", lambda x, y: mg.mv(x[0], y), lambda x, y: (x[0] * y).sum(-1), with_vectors(False, True)),
    Row("dot", "Matmul", mg.dot, lambda x, y: (x * y).sum(), with_vectors(True, True)),
    Row("outer", "Mul", mg.outer, np.multiply.outer, with_vectors(True, True)),
    Row(
        "addmm", "Matmul Add", lambda z, x, y: mg.addmm(z, x, y, beta=0.5, alpha=2.0),
        lambda z, x, y: z / 2 + 2 * rows_by_columns(x, y), added(batch=0),
    ),
    Row("baddbmm", "Matmul Add", mg.baddbmm, lambda z, x, y: z + rows_by_columns(x, y), added(batch=1)),
    Row("linear", "Linear", linear, lambda x, w: (x[..., None, :] * w).sum(-1), affine(False), order=3),
    Row("linear with bias", "Linear", linear, lambda x, w, b: (x[..., None, :] * w).sum(-1) + b, affine(True), order=3),
    *(
        Row(
            f"einsum {equation}", "", partial(mg.einsum, equation), partial(term_by_term, equation),
            operands(equation), view=None,
        )
        for equation in EQUATIONS
    ),
    Row(
        "einsum of three", "Einsum", lambda x, y, z: mg.einsum("ij,jk,ki->ik", x, y, z), lambda x, y, z: (x @ y) * z.T,
        three_matrices(), order=3,
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
@given(data=st.data())
def test_rows(row, data):
    check(row, data.draw(row.cases), data.draw(st.sampled_from(row.dtypes)))


def integers(seed, *shape):
    return mg.tensor(np.random.default_rng(seed).integers(-4, 5, shape), dtype=mg.float64)


def test_adjoints_are_exact():
    a, w = integers(0, 3, 4), integers(1, 5, 4)
    check_adjoint(lambda x: a @ x, lambda y: a.T @ y, integers(2, 4, 2), integers(3, 3, 2))
    check_adjoint(lambda x: linear(x, w), lambda y: y @ w, integers(4, 2, 3, 4), integers(5, 2, 3, 5))
    check_adjoint(
        lambda x: mg.einsum("ij,jk->ki", a, x),
        lambda y: mg.einsum("ij,ki->jk", a, y),
        integers(6, 4, 2),
        integers(7, 2, 3),
    )


# Large products are made in parts ------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [1, 30, 10**9])
@given(case=matrices(), seed=st.integers(0, 2**32 - 1))
def test_the_parts_of_a_product_are_the_whole(part, case, seed):
    random = np.random.default_rng(seed)
    x, y = (random.integers(-4, 5, arg.values.shape).astype(np.float64) for arg in case)
    turned = random.normal(size=(y.shape[-1], 3)), random.normal(size=(3, 5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "PART", part)
        first, second = products.matmuls([(x, y), (turned[0].T[::-1].T, turned[1])])
        given_memory = np.full(first.shape, np.nan)
        products.matmul(x, y, given_memory)
    np.testing.assert_array_equal(first, np.matmul(x, y))
    np.testing.assert_array_equal(given_memory, first)
    np.testing.assert_allclose(second, turned[0][:, ::-1] @ turned[1], atol=1e-13)


def a_step_of_linear():
    """The output and the gradients of a layer that is large enough for several parts."""
    random = np.random.default_rng(0)
    shapes = (64, 700), (500, 700), (500,)
    x, w, b = (mg.tensor(random.normal(size=s), dtype=mg.float32, requires_grad=True) for s in shapes)
    y = linear(x, w, b)
    (y * y).sum().backward()
    return [values.detach().cpu().numpy().copy() for values in (y, x.grad, w.grad, b.grad)]


def test_the_same_bits_on_any_number_of_threads(monkeypatch):
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(workers, "_threads", threads)
        with threadpool_limits(threads):
            found.append(a_step_of_linear())
    assert all(np.array_equal(a, b) for others in found[1:] for a, b in zip(found[0], others, strict=True))


@pytest.mark.parametrize("size", [100, 600])
def test_blas_makes_products_on_one_thread(size, monkeypatch):
    """Where it would take several: its own way to split a product is not the same for all numbers of them."""
    seen, matmul = [], np.matmul
    blas = ThreadpoolController().select(user_api="blas")

    def spy(*args, **kwargs):
        seen.extend(library.get_num_threads() for library in blas.lib_controllers)
        return matmul(*args, **kwargs)

    monkeypatch.setattr(np, "matmul", spy)
    with threadpool_limits(2):
        products.matmul(np.ones((size, size)), np.ones((size, size)))
        products.matmul(np.ones((1, size * size)), np.ones((size * size, 1)))
    assert set(seen) == {1}

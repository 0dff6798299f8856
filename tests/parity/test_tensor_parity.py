"""The tensor surface against PyTorch: each row is run in both and must give the same.

Intended differences, tested at the end:

- float32 and float64 tensors do not mix: that raises and names both.
- `view` copies where PyTorch's would refuse the layout.
- `backward(create_graph=True)` raises; `grad(..., create_graph=True)` is the way.
- Changes made through `.data` are counted, so a backward that needed the old value raises.
- dtypes are NumPy's, shapes are plain tuples, type names start with "minigan.".
- 0-d integer tensors promote like any others; lists of NumPy or tensor scalars are lists of Python numbers.
- Python bools are no index. A tuple of integers is a shape for `FloatTensor` and its like.
- The sign of NaN is NaN. A seed gives other random numbers than in PyTorch.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: parity with it is not checked")

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from peer import BOTH, assert_same, assert_same_derivatives, derivatives, family, host, outcome

import minigan as mg

_random = np.random.default_rng(7)
TIED = np.array([[1.0, 3.0, 3.0, -2.0], [0.0, 0.0, 0.5, 0.0], [2.0, -1.0, 2.0, 2.0]])

# Differentiable operands: float64
FLOATS = {
    "x": _random.normal(size=(3, 4)),
    "y": _random.normal(size=(3, 4)),
    "row": _random.normal(size=4),
    "col": _random.normal(size=(3, 1)),
    "s": _random.normal(size=()),
    "one": _random.normal(size=(1,)),
    "v": _random.normal(size=4),
    "m": _random.normal(size=(4, 5)),
    "square": _random.normal(size=(4, 4)),
    "b": _random.normal(size=(2, 3, 4)),
    "c": _random.normal(size=(2, 4, 5)),
    "img": _random.normal(size=(2, 3, 4, 5)),
    "thin": _random.normal(size=(1, 3, 1, 4)),
    "e": _random.normal(size=(0, 3)),
    "pos": _random.uniform(0.5, 2.0, size=(3, 4)),
    "unit": _random.uniform(-0.9, 0.9, size=(3, 4)),
    "tied": TIED,
    "zeros": np.zeros((2, 3)),
    "holes": np.array([[1.5, 0.0, 2.0, -1.0], [0.0, 0.0, 3.0, 1.0], [0.5, 2.0, -1.5, 1.0]]),
    "big": np.array([-800.0, -30.0, -1.0, 0.0, 1.0, 30.0, 800.0]),
}
# The rest, as they are
OTHERS = {
    "i": np.array([[0, 2, 1, 3], [-1, 5, 4, -7], [3, 3, 0, 2]]),
    "j": np.array([[1, 2, 3, 4], [5, -2, 2, 3], [-3, 2, 7, 1]]),
    "i32": np.array([3, -1, 0, 2], np.int32),
    "i16": np.array([3, -1, 0, 2], np.int16),
    "i8": np.array([3, -1, 0, 2], np.int8),
    "u8": np.array([250, 3, 0, 17], np.uint8),
    "mask": np.array([[True, False, True, True], [False, False, True, False], [False, True, False, True]]),
    "rows": np.array([True, False, True]),
    "cols": np.array([False, True, True, False]),
    "at": np.array([2, 0, 2, 1]),
    "where": np.array([[0, 2, 1, 0], [2, 2, 0, 1]]),
    "perm": np.array([[3, 1, 0, 2], [0, 2, 1, 3], [1, 3, 2, 0]]),
    "f32": _random.normal(size=(3, 4)).astype(np.float32),
    "g32": _random.normal(size=(3, 4)).astype(np.float32),
    "s32": np.float32(0.75),
    "f16": np.array([0.5, -1.5, 2.0, 100.0], np.float16),
    "odd": np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5]),
}


def program(code: str, floats: list[str]):
    """A function of T and the named float operands that runs the statements and returns the last line."""
    *body, last = code.split("\n")

    def run(T, *tensors):
        names = {name: T.tensor(np.array(value)) for name, value in OTHERS.items() if name in used}
        names |= dict(zip(floats, tensors, strict=True)) | {"T": T, "np": np}
        exec("\n".join(body), names)
        return eval(last, names)

    used = set(compile(code, code, "exec").co_names)
    return run


def check(code: str, order: int = 2) -> None:
    code = code.replace("; ", "\n")
    names = compile(code, code, "exec").co_names
    floats = [name for name in FLOATS if name in names]
    run = program(code, floats)
    arrays = [FLOATS[name] for name in floats]
    if floats and order:
        assert_same_derivatives(run, arrays, order)
    ours, theirs = (outcome(lambda T: run(T, *map(T.tensor, arrays)), T) for T in BOTH)
    if isinstance(theirs, Exception):
        raise AssertionError(f"PyTorch raises in a row that should work: {theirs!r}") from theirs
    assert_same(ours, theirs)


def rows(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines() if line.strip()]


ARITHMETIC = """
x + y
x - row
x * col
x / pos
col + row
s * x
x + s
x + one
x + 2
2 - x
x * 2.5
1 / pos
x / 3
pos ** 2
pos ** 0.5
pos ** y
x ** 3
x ** 2
x ** 1
x ** 0
2 ** x
0.5 ** x
pos ** -1.5
-x
abs(x)
+x
e + 1
e * e
x % 0.3
x % pos
T.add(x, y, alpha=3)
T.sub(x, y, alpha=0.5)
x.add(y, alpha=-2)
x.sub(2)
T.mul(x, 2)
T.div(x, pos)
T.div(x, pos, rounding_mode="floor")
T.div(x, pos, rounding_mode="trunc")
T.remainder(x, pos)
T.pow(pos, 3)
T.pow(2.0, x)
T.neg(x)
T.lerp(x, y, 0.3)
T.lerp(x, y, pos)
x.reciprocal()
x + True
x * False
x - np.float64(2.0)
"""

UNARY = """
T.abs(x)
T.exp(x)
T.log(pos)
T.log1p(unit)
T.log2(pos)
T.log10(pos)
T.expm1(x)
T.sqrt(pos)
T.rsqrt(pos)
T.square(x)
T.sin(x)
T.cos(x)
T.tanh(x)
T.sigmoid(x)
T.erf(x)
T.relu(x)
T.sign(x)
T.floor(x)
T.ceil(x)
T.round(x)
T.trunc(x)
T.reciprocal(pos)
T.clone(x)
T.nn.functional.softplus(x)
T.nn.functional.softplus(x * 10, beta=2.0, threshold=5.0)
T.nn.functional.logsigmoid(x)
T.sigmoid(big)
T.tanh(big)
T.nn.functional.softplus(big)
T.nn.functional.logsigmoid(big)
T.exp(T.tensor([-800.0, 0.0]))
T.sqrt(odd)
T.exp(odd)
T.log(odd)
T.relu(odd)
T.sigmoid(odd)
T.isnan(odd)
T.isinf(odd)
T.isfinite(odd)
T.maximum(odd, T.zeros(6, dtype=T.float64))
odd.max()
odd.sum()
T.clamp(odd, -1, 1)
T.round(T.tensor([0.5, 1.5, 2.5, -0.5]))
x.exp().log1p().sqrt()
"""

CLAMP_WHERE = """
T.clamp(x, -0.5, 0.5)
T.clamp(x, min=0.1)
T.clamp(x, max=0.1)
x.clamp(min=0)
x.clamp(-1)
x.clip(-0.5, 0.5)
T.clamp(x, y, pos)
T.clamp(x, min=y)
T.clamp(x, max=y)
T.clamp(x, row)
T.clamp(tied, 0.0, 2.0)
T.clamp(x, 1.0, -1.0)
T.clamp(i, 0, 2)
T.clamp(i, 0.5, 2)
T.clamp(f32, 0, 1)
T.maximum(x, y)
T.minimum(x, row)
T.maximum(tied, tied.flip(0))
T.max(x, y)
T.min(x, col)
T.where(mask, x, y)
T.where(mask, x, 0.0)
T.where(mask, 1.0, x)
T.where(mask, x, row)
T.where(mask, s, x)
T.where(x > 0, x, y * 2)
T.where(mask, i, 1)
T.where(mask, 1.0, 2.0)
T.where(mask, 1, 2)
T.where(mask, True, False)
T.where(mask, i, 1.5)
T.where(mask)
x.where(mask, y)
x.masked_fill(mask, 2.5)
x.masked_fill(mask, 3)
x.masked_fill(mask, s)
x.masked_fill(rows[:, None], -1)
i.masked_fill(mask, 3)
x.masked_select(mask)
T.masked_select(x, cols)
T.masked_select(row, mask)
"""

COMPARISONS = """
x > y
x >= 0
x < row
x <= col
tied == tied.flip(1)
tied != 3
T.eq(tied, 3)
T.ne(tied, 3.0)
T.gt(x, y)
T.ge(x, y)
T.lt(x, 0)
T.le(x, 0)
i == 3
i > 1.5
i < f32
u8 == 250
mask == True
mask & ~mask
mask | rows[:, None]
mask ^ cols
i & 3
i | 8
i ^ j
~i
T.logical_and(mask, x > 0)
T.logical_or(x, y)
T.logical_xor(mask, cols)
T.logical_not(x)
T.logical_not(i)
T.equal(x, x)
T.equal(x, y)
T.allclose(x, x + 1e-9)
bool((x > 100).any())
x.any()
x.all()
mask.all(0)
mask.any(dim=1, keepdim=True)
3 in i
100 in i
1 < x
0.0 == zeros
(x == None) is False
(x != None) is True
"""

REDUCTIONS = """
x.sum()
x.sum(0)
x.sum(dim=1, keepdim=True)
x.sum((0, 1))
T.sum(b, dim=(0, -1))
b.sum([0, 2], keepdim=True)
x.sum(-1)
s.sum()
s.sum(0)
e.sum()
e.sum(0)
e.sum(1)
i.sum()
i32.sum()
u8.sum()
mask.sum()
mask.sum(0)
f32.sum()
f16.sum()
x.sum(dtype=T.float64)
i.sum(dtype=T.float32)
f32.sum(dtype=T.float64)
x.mean()
x.mean(0)
T.mean(b, (1, 2), keepdim=True)
b.mean(dim=-1)
i.mean(dtype=T.float32)
f16.mean()
x.var()
x.var(0)
x.var(dim=1, keepdim=True)
x.var(1, unbiased=False)
x.var(unbiased=False)
x.var(False)
x.var(dim=(0, 1), correction=0)
x.var(correction=2)
x.var(1, False)
b.var((0, 2), True, True)
T.var(x, 0, correction=0, keepdim=True)
x.std()
x.std(0)
x.std(1, unbiased=False)
x.std(False)
b.std(dim=(0, 1), correction=0, keepdim=True)
T.std(x, dim=1, correction=1)
x.max()
x.min()
x.max(0)
x.max(dim=1)
x.min(1, keepdim=True)
x.max(dim=-1)[1]
x.max(1).values
x.min(1).indices
tied.max()
tied.min()
tied.max(1)[0]
tied.amax(1)
tied.amin(0)
x.amax()
x.amin((0, 1))
b.amax(dim=(0, 2), keepdim=True)
T.amin(b, -1)
i.max()
i.min(1)
i.amax(0)
u8.max()
mask.max()
s.max()
s.max(0)
s.amax()
x.argmax()
x.argmin()
x.argmax(0)
x.argmax(dim=1, keepdim=True)
x.argmin(-1)
s.argmax()
i.argmax(1)
T.argmax(x, keepdim=True)
x.logsumexp(1)
x.logsumexp(0, keepdim=True)
T.logsumexp(b, (0, 2))
T.logsumexp(big, 0)
T.logsumexp(T.tensor([-float("inf"), -float("inf")]), 0)
x.cumsum(0)
x.cumsum(dim=1)
T.cumsum(b, -1)
i.cumsum(0)
mask.cumsum(1)
e.cumsum(0)
x.prod()
x.prod(0)
x.prod(1, keepdim=True)
holes.prod()
holes.prod(0)
holes.prod(1)
holes.prod(-1, keepdim=True)
zeros.prod(0)
s.prod()
e.prod()
e.prod(0)
i.prod()
mask.prod()
u8.prod()
one.prod()
x.norm()
x.norm(2)
x.norm(1)
x.norm(3)
x.norm(float("inf"))
x.norm(-float("inf"))
x.norm(0)
x.norm(p=2, dim=1)
x.norm(2, 1)
x.norm(2, dim=1, keepdim=True)
x.norm(1, dim=0)
x.norm(p="fro")
b.norm(dim=(1, 2))
b.norm(2, dim=(0, 2), keepdim=True)
T.norm(x, 2, 1)
T.norm(x, dim=1)
T.norm(x)
x.norm(0.5, dim=0)
x.view(3, -1).norm(2, dim=1)
s.norm()
x.softmax(1)
x.softmax(dim=0)
T.softmax(b, -1)
x.log_softmax(1)
T.log_softmax(b, dim=1)
T.softmax(big, 0)
T.log_softmax(big, 0)
T.softmax(f32, 1, dtype=T.float64)
x.any(1)
T.all(mask, dim=0)
T.all(e)
T.any(e)
e.all(0)
T.std(f32, 0)
"""

ORDER = """
x.sort()
x.sort(0)
x.sort(dim=1, descending=True)
x.sort(-1, True)[1]
T.sort(x, dim=0).values
x.argsort(1)
x.argsort(dim=0, descending=True)
tied.sort(dim=1, stable=True)
tied.sort(dim=1, descending=True, stable=True)
i.sort(dim=1, stable=True)
x.topk(2)
x.topk(2, 0)
x.topk(3, dim=1, largest=False)
T.topk(b, 1, -1)
x.topk(0)
row.topk(4)
u8.sort()
s.sort()
"""

LINEAR = """
x @ m
x.matmul(m)
T.matmul(v, v)
T.matmul(x, v)
T.matmul(col.flatten(), x)
T.matmul(b, m)
T.matmul(b, c)
T.matmul(x, c)
T.matmul(b, v)
T.matmul(col.flatten(), b)
T.matmul(img[:, :, :, :4], m)
T.matmul(thin, m)
T.matmul(e.T, e)
T.matmul(e, x)
T.matmul(x[:, :0], m[:0])
x.mm(m)
T.mm(x, m)
T.bmm(b, c)
b.bmm(c)
T.mv(x, v)
x.mv(v)
T.dot(v, row)
v.dot(row)
T.outer(v, col.flatten())
v.outer(row)
i @ j.T
T.mm(i, j.t())
T.einsum("ij,jk->ik", x, m)
T.einsum("ij,jk", x, m)
T.einsum("ij->ji", x)
T.einsum("ij->j", x)
T.einsum("ij->", x)
T.einsum("ij", x)
T.einsum("ji", x)
T.einsum("ii", square)
T.einsum("ii->i", square)
T.einsum("i,i->", v, row)
T.einsum("i,i", v, row)
T.einsum("i,j->ij", v, row)
T.einsum("bij,bjk->bik", b, c)
T.einsum("...ij,...jk->...ik", b, c)
T.einsum("...ij,jk->...ik", b, m)
T.einsum("b...,b...->b", b, b)
T.einsum("bij,ij->b", b, x)
T.einsum("ij,ij->ij", x, y)
T.einsum("ij,ij,j->i", x, y, row)
T.einsum("bchw,bcdk->bhd", img, img)
T.einsum("ij, jk -> ik", x, m)
T.einsum("ij,jk->ik", [x, m])
T.einsum("i...->...", x)
T.einsum("...->...", x)
T.einsum("ij,kj->ik", x, x)
T.einsum("iij->j", b[:, :2, :])
T.einsum("a,b,c->abc", v, row, v)
"""

SHAPES = """
x.reshape(4, 3)
x.reshape((2, 6))
x.reshape(-1)
x.reshape(2, -1)
x.view(-1)
x.view(4, 3)
x.view((2, -1))
x.view(-1, 2, 2)
x.view_as(y)
s.reshape(1, 1)
s.view(-1)
e.view(3, 0)
e.reshape(0, 7)
x.flatten()
T.flatten(b, 1)
b.flatten(0, 1)
b.flatten(start_dim=1, end_dim=-1)
s.flatten()
x.unflatten(1, (2, 2))
T.unflatten(x, 1, (2, -1))
x.unflatten(-1, (-1, 2))
thin.squeeze()
thin.squeeze(0)
thin.squeeze(1)
thin.squeeze(-2)
thin.squeeze((0, 2))
T.squeeze(thin, dim=2)
s.squeeze()
s.squeeze(0)
x.unsqueeze(0)
x.unsqueeze(-1)
x.unsqueeze(dim=1)
s.unsqueeze(0)
x.expand(2, 3, 4)
row.expand(3, 4)
col.expand(-1, 4)
col.expand((3, 4))
col.expand(2, -1, 4)
s.expand(2, 3)
one.expand(0)
row.expand_as(x)
row.broadcast_to((3, 4))
T.broadcast_to(col, (3, 4))
b.permute(2, 0, 1)
b.permute((0, 2, 1))
b.permute(-1, 0, 1)
T.permute(b, (1, 0, 2))
b.transpose(0, 1)
b.transpose(-1, -2)
T.transpose(x, 0, 1)
x.t()
T.t(row)
x.T
b.mT
b.movedim(0, 2)
b.movedim((0, 1), (1, 2))
T.movedim(img, -1, 1)
T.cat([x, y])
T.cat((x, y), 1)
T.cat([x, y], dim=-1)
T.cat([x, col], 1)
T.cat([x])
T.cat([e, e])
T.cat([T.zeros(0, dtype=T.float64), row])
T.cat([i, j])
T.cat([i, x])
T.cat([mask, i])
T.stack([x, y])
T.stack((x, y), 1)
T.stack([x, y], dim=-1)
T.stack([s, s])
x.split(2, 1)
x.split(3, dim=1)
x.split([1, 3], 1)
T.split(x, 1)
T.split(x, [1, 0, 2])
T.split(e, 1)
x.chunk(2)
x.chunk(2, 1)
x.chunk(3, dim=1)
T.chunk(x, 5, 1)
T.chunk(x, 1)
x.unbind()
x.unbind(1)
T.unbind(b, -1)
x.flip(0)
x.flip(0, 1)
x.flip([0, -1])
T.flip(b, [2])
T.flip(b, (0, 1))
x.roll(1)
x.roll(1, 0)
x.roll(-2, dims=1)
x.roll((1, 2), (0, 1))
x.roll(shifts=(1, -1), dims=(1, 0))
T.roll(b, 5, 2)
x.repeat(2, 1)
x.repeat(2, 1, 3)
x.repeat((1, 2))
row.repeat(3)
row.repeat(2, 3)
x.repeat(0, 1)
x.tile(2)
x.tile(2, 1)
x.tile((2, 1, 1))
T.tile(x, (1, 2))
T.repeat_interleave(x, 2, 1)
x.repeat_interleave(2)
x.repeat_interleave(3, dim=0)
x.narrow(1, 1, 2)
T.narrow(x, 0, 0, 0)
x.narrow(1, -3, 2)
x.gather(1, perm)
x.gather(1, perm[:, :2])
x.gather(0, where)
T.gather(x, -1, perm)
T.gather(tied, 1, T.zeros(3, 1, dtype=T.int64))
x.index_select(0, at)
T.index_select(x, 1, at)
x.index_select(-1, T.tensor([3]))
x.scatter(1, perm, y)
x.scatter(1, perm, 2.5)
x.scatter_add(1, perm, y)
T.scatter(x, 1, perm, y)
T.zeros(3, 4, dtype=T.float64).scatter(1, perm[:, :1], 1)
T.zeros(3, 4, dtype=T.float64).scatter_(1, perm[:, :1], 1.0)
x.tril()
x.triu(1)
T.tril(square, -1)
T.triu(b)
square.diagonal()
x.diagonal()
T.diagonal(b, dim1=1, dim2=2)
x.nonzero()
T.nonzero(tied)
tied.nonzero(as_tuple=True)
T.nn.functional.pad(x, (1, 2))
T.nn.functional.pad(x, (1, 2, 0, 1))
T.nn.functional.pad(x, (1, 2), value=3.5)
T.nn.functional.pad(x, (-1, 1))
T.nn.functional.pad(x, (-1, -1, 2, -1), "constant", 1.0)
T.nn.functional.pad(b, (1, 1, 2, 0, 0, 1))
T.nn.functional.pad(b, (1, 2), mode="reflect")
T.nn.functional.pad(img, (1, 2, 2, 1), mode="reflect")
T.nn.functional.pad(b, (1, 2), mode="replicate")
T.nn.functional.pad(img, (3, 1, 0, 2), mode="replicate")
T.nn.functional.pad(b, (1, 2), mode="circular")
T.nn.functional.pad(img, (1, 2, 2, 1), mode="circular")
T.nn.functional.pad(i, (1, 1))
T.nn.functional.pad(mask, (1, 1))
"""

INDEXING = """
x[0]
x[-1]
x[1, 2]
x[0:2]
x[:, 1:3]
x[::2, ::3]
x[-2:]
x[:, -1:]
x[5:]
x[2:1]
x[-10:2]
x[None]
x[:, None]
x[..., 0]
x[..., None]
x[0, ...]
x[...]
x[()]
s[None]
s[...]
s[()]
b[1, :, 2]
b[:, 0, None]
b[None, ..., None, 0]
b[..., 1:3, ::2]
x[mask]
x[rows]
x[:, cols]
x[rows, 1]
x[rows][:, cols]
x[x > 0]
b[:, mask]
b[0, mask]
b[T.tensor([True, False])]
b[..., cols]
x[at]
x[:, at]
x[at, at]
x[at, 1]
x[1, at]
x[[0, 2]]
x[[0, 2], [1, 3]]
x[:, [0, 2]]
x[at[:, None], at]
x[where]
x[where, where]
b[:, at, 1]
b[1, at]
b[0, :, at]
b[at % 2, :, at]
b[:, at, at]
b[None, at % 2, 0]
b[at % 2, None, at]
b[..., at]
b[at % 2, ..., at]
img[0, :, at % 4, 1:3]
img[:, at % 3, None, at]
x[T.tensor(1)]
x[T.tensor(1), 2]
x[:, T.tensor(-1)]
x[T.tensor([], dtype=T.int64)]
x[T.zeros(0, 2, dtype=T.int64)]
x[np.array([0, 2])]
x[np.int64(1)]
x[(0, 1)]
x[rows, at[:2]]
e[:, 1]
e[0:0]
e[T.tensor([], dtype=T.int64)]
i[i > 0]
mask[0]
x[0][1]
x[1:][0][2:]
x[slice(0, 2), T.tensor(1)]
x[:, ::2][:, 1]
x[T.tensor([0, -1])]
x[at, ...]
x[..., at, :]
x[at].sum(0)[at]
"""

PROMOTION = """
i + 1
i + 1.5
i * True
i / 2
i // 2
i % 3
i ** 2
i ** 0.5
2 ** j.abs()
i / j
i // j
i % j
i.div(j, rounding_mode="trunc")
i.div(j, rounding_mode="floor")
-i
abs(i)
i - 1
1 - i
7 // j
7 % j
7 / j
mask + mask
mask + 1
mask + 1.5
mask * 2
mask * mask
mask / 2
mask * x
mask.float() - 1
1 - mask.int()
u8 + u8
u8 + 10
u8 * 2
u8 - 1
u8 / 2
u8 // 2
u8 + 1.5
u8 + i32
u8 + i8
u8 + mask[0]
-u8
i32 + i
i32 + 1
i32 / i32
i16 + i32
i8 + u8
i8 * 2.5
i32 * 1.5
f32 + 1
f32 + 1.0
f32 * np.float64(2.0)
f32 + i
i * f32
f32 + i32
f32 * mask
f32 / i.abs().add(1)
f32 + s32
f32 ** 2
2.0 ** f32
f16 + 1
f16 * 2.5
f16 + i32
x + i
i + x
x * mask
x ** i.abs()
x.double() + f32.double()
i.exp()
i.abs().sqrt()
i.sin()
mask.exp()
u8.log1p()
i.sigmoid()
i.tanh()
i.square()
i.sign()
i.floor()
i.round()
i.relu()
i.reciprocal()
mask.int().abs()
T.maximum(i, j)
T.maximum(i32, i[0])
T.minimum(f32, i)
T.maximum(mask, cols)
T.where(mask, f32, i)
T.where(mask, i, i32)
T.where(mask, u8, True)
T.where(mask, f32, 2.0)
T.where(mask, f32, 2)
T.stack([i, j]).float().mean()
T.cat([f32, i])
T.cat([u8, i32])
T.lerp(f32, g32, 0.25)
T.sum(f16)
i.float().mean()
i.to(T.float64).mean()
f32.mean()
f32.var()
T.tensor(2) * f32
T.tensor(2.5) * i
T.tensor(2.5) + u8
T.tensor(True) + i32
T.tensor(2) * T.tensor(1.5)
x + s32.double()
i == i32
f32 > 1
(i > 0) * f32
(f32 > 0).float().mean()
(f32 > 0).sum()
(f32 > 0).sum() / 12
i.sum() / 12
mask.sum(0) / 3
i.add(1, alpha=2)
i.sub(j, alpha=2)
i.add(1.5)
"""

CREATION = """
T.tensor([1, 2])
T.tensor([1.0, 2])
T.tensor([[1, 2], [3, 4.5]])
T.tensor(3)
T.tensor(3.5)
T.tensor(True)
T.tensor([True, False])
T.tensor([True, 2])
T.tensor([True, 2.5])
T.tensor([])
T.tensor([[]])
T.tensor([[], []])
T.tensor((1, 2))
T.tensor([1, 2], dtype=T.float32)
T.tensor([1.7, -1.7], dtype=T.int64)
T.tensor([0, 2], dtype=T.bool)
T.tensor([1.5], dtype=T.float64)
T.tensor([1.5], dtype=T.float16)
T.tensor([1, 2], dtype=T.uint8)
T.tensor(np.array([1.5, 2.5]))
T.tensor(np.array([1, 2], np.int32))
T.tensor(np.float32(1.5))
T.tensor(np.float64(1.5))
T.tensor(np.int64(3))
T.tensor([np.float32(1.5)])
T.tensor([np.int64(3)])
T.tensor(np.array([[1.0, 2.0], [3.0, 4.0]]))
T.tensor([T.tensor(1.0), T.tensor(2.0)])
T.tensor([T.tensor(1), T.tensor(2)])
T.tensor([float("nan"), float("inf")])
T.tensor([1.0], requires_grad=True)
T.tensor([1, 2], device="cpu")
T.as_tensor([1, 2])
T.as_tensor(np.array([1.0]), dtype=T.float32)
T.from_numpy(np.arange(3.0))
T.from_numpy(np.arange(6).reshape(2, 3)[:, ::-1][:, ::-1])
T.zeros(2, 3)
T.zeros((2, 3))
T.zeros([2, 3])
T.zeros(())
T.zeros(0, 3)
T.zeros(2, dtype=T.int64)
T.zeros(2, dtype=T.bool)
T.ones(2, 3)
T.ones(2, dtype=T.uint8)
T.ones(3, requires_grad=True)
T.ones([2], dtype=T.float64)
T.full((2, 3), 1.5)
T.full((2,), 3)
T.full((2,), True)
T.full((2, 3), 1, dtype=T.float32)
T.full((), 2.0)
T.full([2], 7.0, dtype=T.int32)
T.full(size=(2,), fill_value=1.0)
T.empty(2, 3).shape
T.empty((2, 3), dtype=T.float64).dtype == T.float64
T.arange(5)
T.arange(5.0)
T.arange(1, 5)
T.arange(1, 5, 2)
T.arange(5, 1, -1)
T.arange(0, 1, 0.1)
T.arange(0, 1, 0.25, dtype=T.float64)
T.arange(3, dtype=T.float32)
T.arange(0)
T.arange(1.5, 4)
T.arange(start=1, end=4)
T.arange(0.0, 5, 1, dtype=T.int64)
T.linspace(0, 1, 5)
T.linspace(-1, 1, 7, dtype=T.float64)
T.linspace(0, 1, 1)
T.linspace(0, 10, 0)
T.linspace(3, -2, steps=4)
T.linspace(0, 10, 5, dtype=T.int64)
T.eye(3)
T.eye(2, 3)
T.eye(2, dtype=T.int64)
T.zeros_like(x)
T.ones_like(x)
T.ones_like(i)
T.zeros_like(x, dtype=T.int64)
T.ones_like(mask)
T.full_like(x, 2)
T.full_like(i, 2)
T.full_like(x, 2, dtype=T.float32)
T.empty_like(x).shape
T.rand(2, 3).shape
T.rand(2, 3).dtype == T.float32
T.randn((2, 3)).shape
T.randn(2, dtype=T.float64).dtype == T.float64
T.rand_like(x).shape
T.randn_like(f32).dtype == T.float32
T.randint(5, (2, 3)).shape
T.randint(5, (2, 3)).dtype == T.int64
T.randint(2, 3, (4,))
T.randint(low=1, high=2, size=(4,))
T.randint(0, 1, (2,), dtype=T.float32)
T.randperm(6).sort()[0]
T.randperm(0)
T.normal(0.0, 1.0, size=(2, 3)).shape
T.normal(x * 0, pos).shape
T.normal(T.zeros(3), 0.0)
T.normal(2.0, T.zeros(3))
T.bernoulli(T.ones(3))
T.bernoulli(T.zeros(3))
T.multinomial(T.tensor([0.0, 1.0, 0.0]), 3, replacement=True)
T.multinomial(T.tensor([[0.0, 1.0], [1.0, 0.0]]), 1)
T.get_default_dtype() == T.float32
x.new_zeros(2, 3)
x.new_ones((2,))
f32.new_full((2,), 3)
x.new_tensor([1, 2])
f32.new_tensor([1, 2])
i.new_tensor([1.0, 2.0])
x.new_empty(3).shape
x.new_zeros(2, dtype=T.int64)
"""

CASTING = """
x.to(T.float32)
x.to(dtype=T.float32)
x.to("cpu")
x.to(device="cpu")
x.to("cpu", T.float32)
x.to(T.device("cpu"))
x.to(f32)
x.to(T.float64) is x
x.to(x.device) is x
x.float()
x.double()
f32.double()
x.half()
(x * 3).int()
(x * 3).long()
x.bool()
tied.bool()
i.bool()
i.float()
i.double()
i.byte()
mask.long()
mask.float()
x.type(T.float32)
x.type(T.int64)
x.type("torch.FloatTensor")
x.type(T.FloatTensor)
x.type(T.LongTensor)
x.type_as(f32)
f32.type().rpartition(".")[2]
i.type().rpartition(".")[2]
mask.type().rpartition(".")[2]
x.double().type().rpartition(".")[2]
x.to(T.float32, copy=True)
x.to("cpu", non_blocking=True)
x.to(T.float32).to(T.float64)
x.is_floating_point()
i.is_floating_point()
x.numel()
x.nelement()
x.dim()
x.ndim
len(x)
x.size()
x.size(0)
x.size(-1)
x.shape[1]
x.element_size()
f16.element_size()
x.is_contiguous()
x.t().is_contiguous()
x.t().contiguous().is_contiguous()
x.stride()
x.t().stride()
x.is_cuda
str(x.cpu().device)
s.item()
i[0, 1].item()
mask[0, 0].item()
f32[0, 0].item()
one.item()
x.tolist()
i.tolist()
mask.tolist()
s.tolist()
e.tolist()
u8.tolist()
float(s.detach())
int(T.tensor(3.7))
bool(T.tensor(0.0))
bool(one)
float(f32[0, 0])
f"{T.tensor(1.5):.3f}"
"%.2f" % T.tensor(1.234)
range(10)[T.tensor(3)]
[1, 2, 3][T.tensor(1)]
round(T.tensor(2.567).item(), 2)
np.asarray(i.cpu())[1].tolist()
x.detach().cpu().numpy().tolist()
x.detach().requires_grad
x.data.requires_grad
x.is_leaf
(x * 1).is_leaf
(x * 1).grad_fn is None
x.grad is None
[r.tolist() for r in i]
list(T.arange(3))[2].item()
x.clone().detach().requires_grad_().requires_grad
T.from_dlpack(T.arange(4))
T.FloatTensor([1, 2])
T.FloatTensor([[1.5, 2], [3, 4]])
T.LongTensor([1, 2])
T.IntTensor([1])
T.ByteTensor([1, 0])
T.BoolTensor([True, False])
T.DoubleTensor([1.5])
T.HalfTensor([1.5])
T.FloatTensor(2, 3).shape
T.FloatTensor(2, 3).fill_(1.0)
T.FloatTensor()
T.FloatTensor(3).normal_().shape
T.FloatTensor(np.array([1.0, 2.0], np.float32))
T.Tensor(2, 3).shape
T.Tensor([1, 2])
T.Tensor([[1, 2]])
T.Tensor(2, 3).dtype == T.float32
T.Tensor().shape
T.autograd.Variable(T.FloatTensor(3, 1).fill_(1.0), requires_grad=False)
T.autograd.Variable(T.Tensor(3, 1).fill_(0.0), requires_grad=True).requires_grad
isinstance(x, T.Tensor)
isinstance(T.FloatTensor([1.0]), T.Tensor)
isinstance(x, T.FloatTensor)
isinstance(f32, T.FloatTensor)
T.FloatTensor([1.0]).type(T.LongTensor)
T.cuda.is_available() in (True, False)
T.cuda.device_count() >= 0
"""

IN_PLACE = """
z = x.clone(); z.add_(y); z
z = x.clone(); z.add_(y, alpha=3); z
z = x.clone(); r = z.add_(1); r is z
z = x.clone(); z += y; z
z = x.clone(); z -= row; z
z = x.clone(); z *= col; z
z = x.clone(); z /= pos; z
z = pos.clone(); z **= 2; z
z = x.clone(); z.sub_(y); z
z = x.clone(); z.sub_(y, alpha=2); z
z = x.clone(); z.mul_(y); z
z = x.clone(); z.mul_(2); z
z = x.clone(); z.div_(pos); z
z = x.clone(); z.neg_(); z
z = x.clone(); z.exp_(); z
z = pos.clone(); z.log_(); z
z = pos.clone(); z.sqrt_(); z
z = pos.clone(); z.rsqrt_(); z
z = pos.clone(); z.reciprocal_(); z
z = x.clone(); z.pow_(2); z
z = x.clone(); z.abs_(); z
z = x.clone(); z.sin_().cos_(); z
z = x.clone(); z.tanh_(); z
z = x.clone(); z.sigmoid_(); z
z = x.clone(); z.relu_(); z
z = x.clone(); z.floor_(); z
z = x.clone(); z.round_(); z
z = x.clone(); z.sign_(); z
z = x.clone(); z.clamp_(-0.5, 0.5); z
z = x.clone(); z.clamp_(min=0); z
z = x.clone(); z.clamp_(max=0); z
z = x.clone(); z.square_(); z
z = x.clone(); z.lerp_(y, 0.1); z
z = x.clone(); z.fill_(s); z
z = x.clone(); z.copy_(y); z
z = x.clone(); z.copy_(row); z
z = f32.clone(); z.copy_(x.detach()); z
z = i.clone(); z.copy_(x.detach() * 3); z
z = x.clone(); z.masked_fill_(mask, 2.0); z
z = x.clone(); z.masked_fill_(rows[:, None], s); z
z = x.clone(); z.scatter_(1, perm, y); z
z = x.clone(); z.scatter_(1, perm[:, :2], 7.0); z
z = x.clone(); z.scatter_add_(1, perm, y); z
z = x.clone(); z.tril_(); z
z = i.clone(); z += 1; z
z = i.clone(); z *= j; z
z = i.clone(); z //= 2; z
z = i.clone(); z %= 3; z
z = u8.clone(); z += 10; z
z = mask.clone(); z &= cols; z
z = mask.clone(); z |= cols; z
z = mask.clone(); z ^= cols; z
z = f32.clone(); z += i; z
z = f32.clone(); z *= mask; z
z = f32.clone(); z += 1e-3; z
z = x.clone(); z[0] = 1; z
z = x.clone(); z[0] = y[1]; z
z = x.clone(); z[:, 1] = s; z
z = x.clone(); z[1:, ::2] = y[:2, :2]; z
z = x.clone(); z[...] = row; z
z = x.clone(); z[:] = 0; z
z = x.clone(); z[None] = y; z
z = x.clone(); z[0, 1] = s; z
z = x.clone(); z[-1, -1] = 5.0; z
z = x.clone(); z[mask] = 0; z
z = x.clone(); z[mask] = s; z
z = x.clone(); z[mask] = y[mask]; z
z = x.clone(); z[rows] = row; z
z = x.clone(); z[rows, 1] = 2.0; z
z = x.clone(); z[:, cols] = col; z
z = x.clone(); z[at[:2]] = y[:2]; z
z = x.clone(); z[T.tensor([0, 2])] = row; z
z = x.clone(); z[[0, 2], [1, 3]] = v[:2]; z
z = x.clone(); z[:, [0, 2]] = col; z
z = x.clone(); z[[0, 2], 1:3] = 9.0; z
z = x.clone(); z[T.tensor([0, 2])] += 1; z
z = x.clone(); z[T.tensor([0, 0, 2])] += 1; z
z = x.clone(); z[z > 0] = 0; z
z = x.clone(); z[z > 0] *= 2; z
z = x.clone(); z[:, 0] *= 2; z
z = x.clone(); z[:, 0] += y[:, 1]; z
z = x.clone(); z[1] -= row; z
z = x.clone(); z[0], z[1] = z[1].clone(), z[0].clone(); z
z = x.clone(); z[:, 1:] = x[:, :-1]; z
z = x.clone(); z[0] = i[0]; z
z = x.clone(); z[0] = T.tensor([1, 2, 3, 4]); z
z = x.clone(); z[0] = z[1]; z
z = x.clone(); z[rows] = 1; z
z = x.clone(); z[T.tensor([], dtype=T.int64)] = 1; z
z = i.clone(); z[0] = 7; z
z = i.clone(); z[mask] = j[mask]; z
z = i.clone(); z[0] = 2.7; z
z = mask.clone(); z[0] = False; z
z = mask.clone(); z[0] = True; z
z = u8.clone(); z[:2] = 255; z
z = s.clone(); z[...] = 3; z
z = e.clone(); z[:] = 1; z
z = b.clone(); z[:, 1:, at] = 0.0; z
z = b.clone(); z[0, :, [0, 1]] = s; z
z = b.clone(); z[..., 0] = z[..., 1] * 2; z
z = b.clone(); z.normal_().shape
z = T.empty(3).normal_(2.0, 0.0); z
z = T.empty(3).fill_(1).bernoulli_(1.0); z
z = T.empty(4).random_(3, 4); z
z = T.zeros(3); z.data = T.ones(3); z
z = T.zeros(3); z.data.fill_(2); z
z = T.zeros(3); z.requires_grad_(); z.requires_grad
"""

# In-place changes of views and bases that are in the graph
VIEWS = """
z = x * 1; w = z[0]; w.mul_(2); z
z = x * 1; w = z[0]; w.mul_(2); w
z = x * 1; w = z[0]; w.mul_(2); z * w
z = x * 1; w = z[0]; z.mul_(2); w
z = x * 1; w = z[0]; z.mul_(y); w * z
z = x * 1; w = z[:, 1:3]; w += y[:, 1:3]; z ** 2
z = x * 1; w = z.view(-1); w[2:5] = 0; z
z = x * 1; w = z.view(2, 6); w[0] *= row.repeat(2)[:6]; z
z = x * 1; w = z.t(); w.exp_(); z
z = x * 1; w = z.t(); w[1] = col.flatten(); z
z = x * 1; w = z[1:]; q = w[:, 1]; q.mul_(3); z + 0
z = x * 1; w = z[1:]; q = w[:, 1]; q.mul_(3); w * w
z = x * 1; w = z[1:]; q = w[:, 1]; w.sin_(); q * 2
z = x * 1; w = z[1:]; q = w[:, 1]; z.sin_(); q * 2
z = x * 1; w = z[1:]; q = z[:, 0]; w.cos_(); q * q
z = x * 1; w = z[0]; q = z[1]; w.mul_(2); q.mul_(w); z
z = x * 1; w = z[0]; q = z[0]; w.mul_(y[0]); q.add_(row); z * w * q
z = x * 1; z[0] = z[1] * z[2]; z[1] = z[0] * 2; z
z = x * 1; z[:, 0] *= 2; z[0] *= y[0]; z
z = x * 1; z[0].mul_(2); z[0].mul_(y[0]); z
z = x * 1; z[0][1] = s; z
z = x * 1; z.view(-1)[3:7].fill_(0); z
z = x * 1; w = z.detach(); q = z * 2; q
z = T.zeros(3, 4, dtype=T.float64); z[0] = row; z[1] = v * row; z
z = T.zeros(3, 4, dtype=T.float64); w = z[1]; w.copy_(row); z * x
z = T.zeros(3, 4, dtype=T.float64); w = z[1]; z[1] = row; w * 2
z = T.zeros(3, 4, dtype=T.float64); w = z[:, 1]; w += col.flatten(); z.sum() * w
z = T.zeros(3, 4, dtype=T.float64); z.copy_(x); z *= y; z
z = T.zeros(4, dtype=T.float64); z[0:2] = x[0, :2]; z[2:] = z[:2] ** 2; z
z = T.empty(2, 3, 4, dtype=T.float64); z[0] = x; z[1] = x * y; z
z = x * 1; w = z.unsqueeze(0); w += 1; w *= z.clone(); z
z = x * 1; w = z.expand(2, 3, 4); z.mul_(2); w
z = x * 1; w = z.reshape(4, 3); w[0] = 1; z
z = b * 1; w = z.permute(2, 0, 1); w[1:3] *= 2; z
z = b * 1; w = z.transpose(1, 2).transpose(0, 1); w[0].zero_(); z * b
z = b * 1; w = z.movedim(0, 2)[0]; w.mul_(w.clone()); z
z = b * 1; w = z.flatten(1); w[:, ::3] = 2; z * z
z = b * 1; w = z[..., 1]; w[mask[:2, :3]] = 0; z
z = b * 1; w = z.narrow(2, 1, 2); w.mul_(s); z
z = b * 1; w = z[1]; w.relu_(); z
z = x * 1; w = z.squeeze(); w.mul_(2); z
z = x * 1; w = z[0]; w *= 2; w = z[0]; w *= 3; z
z = x + 1; z.relu_(); z * 2
z = x.exp(); w = z * y; z = z + 1; w + z
z = x * y; z.add_(x); z.mul_(2); z
z = x.clone(); q = z * 2; z.add_(1); q + z
z = x.clone(); z.add_(z); z
z = x.clone(); z.copy_(z * 2); z
z = x.clone(); z.copy_(z.flip(1)); z
z = x.clone(); z.clamp_(0).mul_(2); z
z = x * 1; z.relu_(); z
"""

ERRORS = """
T.zeros(3) + T.zeros(4)
T.zeros(2, 3) * T.zeros(3, 2)
T.zeros(2, 3) @ T.zeros(2, 3)
T.matmul(T.tensor(1.0), T.zeros(3))
T.mm(T.zeros(2, 3, 4), T.zeros(4, 2))
T.mm(T.zeros(3), T.zeros(3))
T.bmm(T.zeros(2, 3, 4), T.zeros(3, 4, 5))
T.bmm(T.zeros(3, 4), T.zeros(4, 5))
T.dot(T.zeros(3), T.zeros(4))
T.dot(T.zeros(3, 1), T.zeros(3, 1))
T.mv(T.zeros(3), T.zeros(3))
T.outer(T.zeros(2, 2), T.zeros(3))
T.einsum("ij,jk->ik", T.zeros(2, 3), T.zeros(4, 5))
T.einsum("ij->k", T.zeros(2, 3))
T.einsum("ij,jk->ik", T.zeros(2, 3))
T.einsum("ijk->i", T.zeros(2, 3))
T.zeros(2, 3).view(4, 2)
T.zeros(2, 3).reshape(-1, -1)
T.zeros(2, 3).reshape(5, -1)
T.zeros(0, 3).reshape(-1, 0)
T.zeros(2, 3).sum(2)
T.zeros(2, 3).sum((0, 0))
T.zeros(2, 3).mean(-3)
T.arange(3).mean()
T.tensor([True]).mean()
T.arange(3).var()
T.zeros(0).max()
T.zeros(0, 3).max(0)
T.zeros(0).argmax()
T.zeros(2, 3).unsqueeze(4)
T.zeros(2, 3).squeeze(4)
T.zeros(2, 3).transpose(0, 2)
T.zeros(2, 3).permute(0)
T.zeros(2, 3).permute(0, 0)
T.zeros(2, 3).expand(3, 3)
T.zeros(2, 3).expand(3)
T.zeros(2, 3, 4).t()
T.zeros(2, 3).flip(2)
T.zeros(2, 3).roll((1, 1), 0)
T.zeros(2, 3).split([1, 1], 1)
T.zeros(2, 3).split(0)
T.zeros(2, 3).chunk(0)
T.zeros(2, 3).repeat(2)
T.zeros(2, 3).unflatten(1, (2, 2))
T.zeros(2, 3).narrow(1, 2, 2)
T.zeros(2, 3).topk(4)
T.zeros(2, 3)[2]
T.zeros(2, 3)[0, 0, 0]
T.zeros(2, 3)[:, -4]
T.zeros(2, 3)[T.tensor([2])]
T.zeros(2, 3)[T.tensor([0.5])]
T.zeros(2, 3)[T.tensor([True, False, True])]
T.zeros(2, 3)[1.5]
T.zeros(2, 3)[::-1]
T.zeros(2, 3)[T.tensor([0, 1]), T.tensor([0, 1, 2])]
T.tensor(1.0)[0]
z = T.zeros(2, 3); z[0] = T.zeros(4)
z = T.zeros(2, 3); z[5] = 1
z = T.zeros(2, 3); z[T.tensor([True, True])] = T.zeros(3, 3)
z = T.zeros(2, 3); z.add_(T.zeros(3, 3))
z = T.zeros(3); z.add_(T.zeros(2, 3))
z = T.zeros(3, dtype=T.int64); z.add_(1.5)
z = T.zeros(3, dtype=T.int64); z += T.ones(3)
z = T.zeros(3, dtype=T.int64); z.div_(2)
z = T.zeros(3, dtype=T.bool); z += 1
z = T.zeros(1, 3).expand(2, 3); z.add_(1)
z = T.zeros(2, 3); z.copy_(T.zeros(4))
z = T.zeros(3, requires_grad=True); z.add_(1)
z = T.zeros(3, requires_grad=True); z[0] = 1
z = T.zeros(3, requires_grad=True); z[:2].mul_(2)
z = T.zeros(3, requires_grad=True); z.numpy()
z = T.zeros(3, dtype=T.int64); z.requires_grad_()
T.tensor([1, 2], requires_grad=True)
T.tensor([[1, 2], [3]])
T.zeros(2.5)
T.zeros("a")
T.arange(0, 5, 0)
T.arange(5, 0, 1)
T.randint(5, 5, (2,))
T.rand(2, 3).item()
bool(T.zeros(2))
if_ = 1 if T.zeros(2) else 0
len(T.tensor(1.0))
list(T.tensor(1.0))
range(3)[T.tensor(1.5)]
T.stack([])
T.cat([T.zeros(2, 3), T.zeros(2, 4)])
T.cat([T.tensor(1.0), T.tensor(2.0)])
T.cat([T.zeros(2), T.zeros(2)], 1)
T.stack([T.zeros(2), T.zeros(3)])
T.zeros(2, 3).gather(1, T.zeros(2, dtype=T.int64))
T.zeros(2, 3).gather(1, T.zeros(2, 3))
T.zeros(2, 3).index_select(0, T.tensor([5]))
T.zeros(2, 3).index_select(0, T.tensor([[0]]))
T.zeros(2, 3).masked_fill(T.zeros(2, 3), 1.0)
T.zeros(2, 3).masked_fill(T.zeros(4, dtype=T.bool), 1.0)
T.where(T.zeros(3), 1.0, 2.0)
T.zeros(3) + "a"
T.zeros(3) + None
T.zeros(3) + [1, 2, 3]
T.zeros(3) @ 2
T.zeros(3) < "a"
T.zeros(3, dtype=T.bool) - T.zeros(3, dtype=T.bool)
-T.zeros(3, dtype=T.bool)
~T.zeros(3)
T.zeros(3) & T.zeros(3)
T.clamp(T.zeros(3))
T.div(T.zeros(3), 2, rounding_mode="up")
T.tensor([1, 2]) ** -1
T.tensor([1, 2]) // 0
T.tensor([1, 2]) % 0
T.softmax(T.arange(3), 0)
T.norm(T.arange(3))
T.nn.functional.pad(T.zeros(2, 3), (1,))
T.nn.functional.pad(T.zeros(2, 3), (1, 1, 1, 1, 1, 1))
T.nn.functional.pad(T.zeros(1, 2, 3), (3, 3), mode="reflect")
T.nn.functional.pad(T.zeros(1, 2, 3), (4, 4), mode="circular")
T.nn.functional.pad(T.zeros(1, 2, 3), (1, 1), mode="mirror")
T.zeros(3).backward()
T.zeros(3, requires_grad=True).backward()
(T.zeros(3, requires_grad=True) * 2).backward()
T.from_numpy([1, 2])
T.from_numpy(np.array(["a"]))
T.zeros(3).to("gpu")
T.device("tpu9")
T.zeros(3).no_such_method()
T.no_such_function(1)
T.zeros(3).to(None, 5, "x")
np.asarray(T.zeros(3, requires_grad=True))
T.multinomial(T.tensor([0.5, 0.5]), 3)
T.multinomial(T.tensor([-0.5, 0.5]), 1)
T.tensor([1.0]).uniform_(2, 1)
T.normal(0.0, -1.0, (3,))
T.tril(T.zeros(3))
T.diagonal(T.zeros(3))
T.movedim(T.zeros(2, 3), (0, 1), (0,))
T.cumsum(T.zeros(3), 1)
T.sort(T.zeros(3), 1)
T.prod(T.zeros(3), 1)
T.unbind(T.zeros(2), 1)
T.tensor(1.0).unbind()
"""

# Both refuse these, with exceptions of another family
OTHER_ERRORS = """
T.zeros(0, 3).amax(0)
T.zeros(2, 3)["a"]
T.tensor(["a"])
T.tensor(None)
T.tensor({})
T.zeros(2, -1)
int(T.zeros(2))
T.cat([])
T.zeros(2, 3).gather(1, T.full((2, 1), 5))
T.zeros(2, 3).scatter(1, T.full((2, 1), 5), 1.0)
T.zeros(2, 3).masked_select(T.zeros(2, 3))
T.eye(-1)
T.linspace(0, 1, -1)
T.full((2,), "a")
T.Tensor("a")
"""

TABLES = {
    name.lower(): rows(table)
    for name, table in {
        "ARITHMETIC": ARITHMETIC, "UNARY": UNARY, "CLAMP_WHERE": CLAMP_WHERE, "COMPARISONS": COMPARISONS,
        "REDUCTIONS": REDUCTIONS, "ORDER": ORDER, "LINEAR": LINEAR, "SHAPES": SHAPES, "INDEXING": INDEXING,
        "PROMOTION": PROMOTION, "CREATION": CREATION, "CASTING": CASTING, "IN_PLACE": IN_PLACE, "VIEWS": VIEWS,
    }.items()
}  # fmt: skip


@pytest.mark.parametrize("row", [pytest.param(row, id=row) for table in TABLES.values() for row in table])
def test_row(row: str) -> None:
    if mg.get_default_device().type == "cuda" and row in ("x.is_cuda", "isinstance(f32, T.FloatTensor)"):
        pytest.skip("PyTorch's tensor is on the CPU, minigan's is not")
    check(row)


@pytest.mark.parametrize("row", [pytest.param(row, id=row) for row in rows(ERRORS)])
def test_error(row: str) -> None:
    code = row.replace("; ", "\n")
    ours, theirs = (outcome(lambda T: exec(code, {"T": T, "np": np}), T) for T in BOTH)
    assert isinstance(theirs, Exception), "PyTorch accepts this"
    assert_same(ours, theirs)


@pytest.mark.parametrize("row", [pytest.param(row, id=row) for row in rows(OTHER_ERRORS)])
def test_error_of_another_family(row: str) -> None:
    for T in BOTH:
        with pytest.raises((TypeError, ValueError, IndexError, RuntimeError)):
            exec(row, {"T": T, "np": np})


# Values without derivatives, or derivatives of the first order alone, where PyTorch has no more ------------

VALUES = """
x // 0.3
x // pos
T.floor_divide(x, pos)
T.div(x, pos, rounding_mode="floor")
x.scatter(1, perm[:, :2], y)
x.scatter(0, where[:1], y)
x.scatter_add(0, where, y)
2**62 + i // 3
(i * 2**58 + 1) // 3
(i * 2**58 + 1) % 7
T.div(i * 2**58 + 1, 7, rounding_mode="trunc")
"""


@pytest.mark.parametrize("row", [pytest.param(row, id=row) for row in rows(VALUES)])
def test_value(row: str) -> None:
    check(row, order=0)


FIRST_ORDER = """
e.mean()
e.mean(0)
zeros.norm()
zeros.norm(dim=1)
zeros.norm(1)
zeros.sqrt() * 0 + zeros.abs()
zeros.std(0)
"""


@pytest.mark.parametrize("row", [pytest.param(row, id=row) for row in rows(FIRST_ORDER)])
def test_first_order(row: str) -> None:
    check(row, order=1)


# Fuzz ------------------------------------------------------------------------------------------------------


@st.composite
def broadcastable(draw, count: int = 2, max_dims: int = 4) -> list[tuple[int, ...]]:
    """Shapes that broadcast together, with axes of size 0 and 1 among them."""
    whole = draw(st.lists(st.integers(0, 4), max_size=max_dims))
    shapes = []
    for _ in range(count):
        keep = draw(st.integers(0, len(whole)))
        shapes.append(tuple(draw(st.sampled_from([size, 1])) for size in whole[len(whole) - keep :]))
    return shapes


def values(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


BINARY = ["x + y", "x * y", "x - y", "x / (y * y + 1)", "T.maximum(x, y)", "T.where(x > y, x, y)", "(x * x + 1) ** y"]


@given(shapes=broadcastable(), code=st.sampled_from(BINARY))
def test_broadcasting(shapes, code) -> None:
    assert_same_derivatives(
        lambda T, x, y: eval(code, {"T": T, "x": x, "y": y}), [values(s, i) for i, s in enumerate(shapes)]
    )


@given(shapes=broadcastable(3))
def test_broadcasting_of_three(shapes) -> None:
    assert_same_derivatives(
        lambda T, x, y, z: T.where(x > 0, y * x, z.tanh()), [values(s, i) for i, s in enumerate(shapes)]
    )


@given(a=st.lists(st.integers(0, 3), max_size=3), b=st.lists(st.integers(0, 3), max_size=3))
def test_shapes_that_may_not_fit(a, b) -> None:
    def run(T):
        return T.zeros(a) + T.zeros(b)

    assert_same(*(outcome(run, T) for T in BOTH))


@st.composite
def indices(draw, shape: tuple[int, ...]) -> str:
    """Code of an index into a tensor of the shape: parts for its first axes, `...`, parts for its last."""
    front = draw(st.integers(0, len(shape)))
    back = draw(st.integers(front, len(shape)))
    ellipsis = ["..."] if back < len(shape) or front == 0 or draw(st.booleans()) else []
    parts = [draw(index_part(size)) for size in shape[:front]]
    return ", ".join(parts + ellipsis + [draw(index_part(size)) for size in shape[back:]])


@st.composite
def index_part(draw, size: int) -> str:
    """Code that indexes one axis (and makes another, with None)."""
    position = st.integers(-size, size - 1)
    pair = draw(st.lists(position, min_size=2, max_size=2, unique=True))  # so that several of them fit together
    kind = draw(st.sampled_from(["integer", "slice", "none", "tensor", "column", "list", "mask", "number"]))
    if kind == "slice":
        bound = st.none() | st.integers(-size - 1, size + 1)
        parts = draw(bound), draw(bound), draw(st.none() | st.integers(1, 3))
        return ":".join("" if v is None else str(v) for v in parts)
    if kind == "mask":
        return f"T.tensor({[i in (p % size for p in pair) for i in range(size)]})"
    return {
        "integer": str(pair[0]), "none": "None, :", "tensor": f"T.tensor({pair})", "list": str(pair),
        "column": f"T.tensor({[[p] for p in pair]})", "number": f"T.tensor({pair[0]})",
    }[kind]  # fmt: skip


def fits(index: str, shape: tuple[int, ...]) -> bool:
    try:
        eval(f"x[{index}]", {"T": torch, "x": torch.zeros(shape)})
    except IndexError:
        return False
    return True


SHAPE = (3, 4, 2, 5)


@settings(max_examples=300)
@given(index=indices(SHAPE))
def test_reading_by_index(index: str) -> None:
    def run(T, x):
        return eval(f"x[{index}]", {"T": T, "x": x})

    if fits(index, SHAPE):
        assert_same_derivatives(run, [values(SHAPE)])
    else:
        assert_same(*(outcome(lambda T: run(T, T.tensor(values(SHAPE))), T) for T in BOTH))


@settings(max_examples=300)
@given(index=indices(SHAPE), how=st.sampled_from(["= v", "= 2.0", "*= v", "+= v * v", "= v.exp()"]))
def test_writing_by_index(index: str, how: str) -> None:
    if not fits(index, SHAPE):
        return
    place = eval(f"np.arange({np.prod(SHAPE)}).reshape(SHAPE)", {"np": np, "SHAPE": SHAPE})
    taken = host(eval(f"x[{index}]", {"T": torch, "x": torch.tensor(place)}))
    if len(np.unique(taken)) < taken.size:
        return  # an entry written twice: either value may stay
    v = values(taken.shape, 1) if how != "= v" else values(taken.shape[-1:], 1)

    def run(T, x, v):
        names = {"T": T, "x": x * 1, "v": v}
        exec(f"before = x + 1\nx[{index}] {how}", names)
        return names["x"] * names["before"]

    assert_same_derivatives(run, [values(SHAPE), v])


VIEW_STEPS = [
    "v[0]",
    "v[1:]",
    "v[:, 0]",
    "v[..., ::2]",
    "v.t()",
    "v.view(-1)",
    "v.unsqueeze(0)",
    "v.transpose(0, -1)",
    "v.flatten(1)",
    "v.squeeze(0)",
    "v[None]",
    "v.permute(1, 0, 2)",
    "v.narrow(0, 1, 1)",
    "v.movedim(0, -1)",
]
CHANGES = [
    "mul_(2)",
    "add_(y)",
    "mul_(y)",
    "exp_()",
    "neg_()",
    "zero_()",
    "copy_(y)",
    "relu_()",
    "clamp_(-0.5, 0.5)",
    "sin_()",
    "tanh_()",
    "fill_(1.5)",
    "sub_(y, alpha=2)",
    "sigmoid_()",
]


@st.composite
def view_programs(draw) -> str:
    """Views of a tensor and of its views, each of which, or the base, may be changed in between."""
    lines = ["v0 = x * 1"]
    count = 1
    for _ in range(draw(st.integers(2, 6))):
        v = f"v{draw(st.integers(0, count - 1))}"
        if draw(st.booleans()):
            lines.append(f"v{count} = {draw(st.sampled_from(VIEW_STEPS)).replace('v', v, 1)}")
            count += 1
        else:
            lines.append(f"{v}.{draw(st.sampled_from(CHANGES))}")
    return "\n".join([*lines, "out = [" + ", ".join(f"v{i} * v{i}" for i in range(count)) + "]"])


@settings(max_examples=400)
@given(code=view_programs())
def test_programs_of_views(code: str) -> None:
    def run(T, x, y):
        names = {"T": T, "x": x, "y": y}
        exec(code, names)
        return names["out"]

    arrays = [values((2, 3, 4)), values((1,), 1)]
    try:
        derivatives(run, arrays, torch)
    except (RuntimeError, IndexError, TypeError):
        return  # a view that its layout does not allow, or a saved value that was changed
    assert_same_derivatives(run, arrays)


# Intended differences ----------------------------------------------------------------------------------------


def test_floats_of_two_sizes_do_not_mix() -> None:
    with pytest.raises(RuntimeError, match="float32.*float64|float64.*float32"):
        mg.ones(2) + mg.ones(2, dtype=mg.float64)
    assert (torch.ones(2) + torch.ones(2, dtype=torch.float64)).dtype == torch.float64


def test_integers_without_axes_promote_like_any_others() -> None:
    assert (mg.tensor(3) + mg.tensor([1], dtype=mg.uint8)).dtype == mg.int64
    assert (torch.tensor(3) + torch.tensor([1], dtype=torch.uint8)).dtype == torch.uint8


def test_view_copies_where_it_must() -> None:
    x = mg.arange(6).reshape(2, 3).t()
    assert x.view(-1).tolist() == torch.arange(6).reshape(2, 3).t().reshape(-1).tolist()
    with pytest.raises(RuntimeError):
        torch.arange(6).reshape(2, 3).t().view(-1)


def test_backward_refuses_create_graph() -> None:
    x = mg.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="autograd.grad"):
        (x * x).sum().backward(create_graph=True)


def test_changes_through_data_are_counted() -> None:
    def run(T):
        w = T.ones(2, requires_grad=True)
        y = (w * w).sum()
        w.data.mul_(3)
        y.backward()

    run(torch)  # PyTorch says nothing and gives a gradient of 6 for what was computed with 1
    with pytest.raises(RuntimeError, match="mul_"):
        run(mg)


def test_python_bools_are_no_index() -> None:
    assert torch.ones(2)[True].shape == (1, 2)
    with pytest.raises(IndexError, match="bool tensor"):
        mg.ones(2)[True]


def test_a_tuple_of_integers_is_a_shape_for_the_old_constructors() -> None:
    assert mg.FloatTensor((2, 3)).shape == (2, 3)
    assert torch.FloatTensor((2, 3)).tolist() == [2, 3]


def test_saved_values_survive_more_in_place_operations() -> None:
    def run(T):
        x = T.tensor([2.0, 3.0], requires_grad=True)
        z = x * 1
        z.mul_(z)  # PyTorch loses the second factor
        z.sum().backward()
        return x.grad.tolist()

    assert run(mg) == [4.0, 6.0]
    assert family(outcome(run, torch)) is RuntimeError


def test_dtypes_are_numpys() -> None:
    assert mg.float32 == np.dtype("float32")
    assert isinstance(mg.zeros(2, 3).shape, tuple)
    assert mg.tensor([1.0], device="cpu").type() == "minigan.FloatTensor"

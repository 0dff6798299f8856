"""Ops that move values: a row each, checked by `harness.check`."""

import math

import numpy as np
import pytest
from harness import Row, check, host
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    an_axis,
    broadcastable,
    placed,
    positive_shapes,
    shapes,
    tensor_and,
)

import minigan as mg
from minigan.graph import REGISTRY, apply
from minigan.ops.padding import pad

# Oracles: where each value of the result comes from, by counting -------------------------------------------


def numbered(shape):
    return np.arange(math.prod(shape)).reshape(shape)


def moved(rearrange):
    """An oracle that takes values from the places that `rearrange` moves their numbers to."""
    return lambda x, *args: x.ravel()[rearrange(numbered(x.shape), *args)]


def summed_to(x, shape):
    """Each entry goes to the one it would be a copy of."""
    to = np.broadcast_to(numbered(shape), x.shape).ravel()
    return np.bincount(to, x.ravel(), minlength=math.prod(shape)).reshape(shape).astype(x.dtype)


def by_letters(x, order):
    letters = "abcdef"[: x.ndim]
    return np.einsum(f"{letters}->{''.join(letters[d] for d in order)}", x)


def permutations(shape):
    return st.permutations(range(len(shape))).map(tuple)


# Cases ------------------------------------------------------------------------------------------------------


@st.composite
def expansions(draw):
    """A tensor and a larger shape it can be broadcast to."""
    small, other = draw(broadcastable(2))
    return draw(placed(small)), np.broadcast_shapes(small, other)


@st.composite
def reductions_to(draw):
    """A tensor and a smaller shape that was broadcast to its shape."""
    small, other = draw(broadcastable(2))
    return draw(placed(np.broadcast_shapes(small, other))), small


def other_shapes(shape):
    size = math.prod(shape)
    found = [shape[::-1], (1, *shape), (*shape, 1), (size,)]
    if size:
        found += [(-1,), (*shape[:1], -1)]
    return st.sampled_from(found)


@st.composite
def joinable(draw, count=3, same=False):
    """Tensors that differ along one axis at most, and that axis."""
    shape = draw(shapes(min_dims=1, max_dims=3))
    dim = draw(an_axis(shape))
    parts = []
    for _ in range(count):
        size = shape[dim] if same else draw(st.integers(0, 3))
        parts.append(draw(placed(tuple(size if d == dim % len(shape) else s for d, s in enumerate(shape)))))
    return (*parts, dim)


@st.composite
def pads(draw, mode):
    """A tensor and widths for its last axes, as `pad` takes them: (before, after) of the last axis first."""
    shape = draw(positive_shapes(1, 3))
    limit = {"reflect": lambda size: size - 1, "circular": lambda size: size}.get(mode, lambda size: 3)
    low = (lambda size: -(size // 2)) if mode == "constant" else (lambda size: 0)
    count = draw(st.integers(1, len(shape)))
    widths = [draw(st.integers(low(size), limit(size))) for size in shape[::-1][:count] for _ in range(2)]
    return draw(placed(shape)), tuple(widths)


def padded(mode):
    def oracle(x, widths):
        pairs = [(widths[i], widths[i + 1]) for i in range(0, len(widths), 2)][::-1]
        pairs = [(0, 0)] * (x.ndim - len(pairs)) + pairs
        y = np.pad(x, [(max(b, 0), max(a, 0)) for b, a in pairs], mode)
        return y[tuple(slice(max(-b, 0), size - max(-a, 0)) for (b, a), size in zip(pairs, y.shape, strict=True))]

    return oracle


BORDER = pad(mg.zeros(3, 4, requires_grad=True), (2, 1, 1, 2), "reflect").node.params


def folded(y):
    """Every value of y added to the entry of a (3, 4) array that reflection would have copied there."""
    places = np.pad(np.arange(12).reshape(3, 4), BORDER["widths"], "reflect")
    x = np.zeros(12)
    np.add.at(x, places, y)
    return x.reshape(3, 4)


def an_insertion(shape):
    return st.integers(-len(shape) - 1, len(shape))


def reps(shape):
    return st.lists(st.integers(0, 3), min_size=len(shape), max_size=len(shape) + 1).map(tuple)


def shifts_and_axes(shape):
    axes = st.lists(st.integers(0, len(shape) - 1), unique=True, min_size=1) if shape else st.just([])
    return axes.flatmap(lambda ds: st.tuples(st.tuples(*(st.integers(-4, 4) for _ in ds)), st.just(tuple(ds))))


def cuts(shape):
    return st.tuples(st.lists(st.integers(0, 2), max_size=3), an_axis(shape)).map(
        lambda drawn: (cut_to(drawn[0], shape[drawn[1]]), drawn[1])
    )


def cut_to(sizes, total):
    sizes = [size for i, size in enumerate(sizes) if sum(sizes[: i + 1]) <= total]
    return (*sizes, total - sum(sizes))


some = shapes(min_dims=1)

ROWS = [
    Row(
        "expand", "Expand", lambda x, shape: x.expand(shape), lambda x, shape: np.ones(shape) * x, expansions(),
        view=True,
    ),
    Row(
        "expand with -1", "Expand", lambda x: x.expand(2, *[-1] * x.ndim), lambda x: np.stack([x, x]), tensor_and(),
        view=True,
    ),
    Row("broadcast_to", "", mg.broadcast_to, lambda x, shape: np.ones(shape) * x, expansions(), view=None),
    Row("sum_to", "SumTo", lambda x, shape: apply(REGISTRY["SumTo"], x, shape=shape), summed_to, reductions_to()),
    Row("reshape", "Reshape", mg.reshape, moved(np.reshape), tensor_and(other_shapes), view=None),
    Row(
        "flatten", "Reshape", lambda x: mg.flatten(x, 1), lambda x: np.array([row.ravel() for row in x]),
        tensor_and(shape=positive_shapes(2)), view=None,
    ),
    Row(
        "unflatten", "Reshape", lambda x: mg.unflatten(x, 0, (x.shape[0], 1)), lambda x: x[:, None],
        tensor_and(shape=some), view=None,
    ),
    Row("squeeze", "Reshape", mg.squeeze, moved(np.squeeze), tensor_and(), view=None),
    Row(
        "squeeze dim", "Reshape", mg.squeeze, moved(lambda x, d: np.squeeze(x, d) if x.shape[d] == 1 else x),
        tensor_and(an_axis, shape=some), view=None,
    ),
    Row("unsqueeze", "Reshape", mg.unsqueeze, moved(np.expand_dims), tensor_and(an_insertion), view=None),
    Row("permute", "Permute", mg.permute, by_letters, tensor_and(permutations), view=True),
    Row("transpose", "Permute", mg.transpose, moved(np.swapaxes), tensor_and(an_axis, an_axis, shape=some), view=True),
    Row("T", "Permute", lambda x: x.T, moved(np.transpose), tensor_and(), view=True),
    Row("movedim", "Permute", mg.movedim, moved(np.moveaxis), tensor_and(an_axis, an_axis, shape=some), view=True),
    Row(
        "Flip", "Flip", lambda x, d: apply(REGISTRY["Flip"], x, dims=(d % x.ndim,)), moved(np.flip),
        tensor_and(an_axis, shape=some), view=True,
    ),
    Row(
        "flip", "Flip Clone", mg.flip, lambda x, ds: x[(slice(None, None, -1),) * x.ndim], tensor_and(permutations),
    ),
    Row(
        "roll", "Roll", lambda x, by: mg.roll(x, *by), moved(lambda x, by: np.roll(x, *by)),
        tensor_and(shifts_and_axes, shape=positive_shapes(1, 3)),
    ),
    Row(
        "roll flat", "Roll", mg.roll,
        lambda x, by: np.array([x.ravel()[(i - by) % x.size] for i in range(x.size)], x.dtype).reshape(x.shape),
        tensor_and(st.integers(-4, 4)),
    ),
    Row("cat", "Cat", lambda *xs: mg.cat(xs[:-1], xs[-1]), lambda *xs: np.concatenate(xs[:-1], xs[-1]), joinable()),
    Row(
        "stack", "Cat", lambda *xs: mg.stack(xs[:-1], xs[-1]), lambda *xs: np.stack(xs[:-1], xs[-1]),
        joinable(same=True),
    ),
    Row(
        "narrow", "Slice", lambda x, d: x.narrow(d, 1, x.shape[d] - 1), lambda x, d: np.delete(x, 0, d),
        tensor_and(an_axis, shape=positive_shapes(1)), view=True,
    ),
    Row(
        "split", "Slice", lambda x, cut: mg.split(x, *cut), lambda x, cut: np.split(x, np.cumsum(cut[0])[:-1], cut[1]),
        tensor_and(cuts, shape=some), view=True,
    ),
    Row(
        "split by size", "Slice", lambda x, d: mg.split(x, 2, d),
        lambda x, d: np.split(x, range(2, x.shape[d], 2), d), tensor_and(an_axis, shape=some), view=True,
    ),
    Row(
        "chunk", "Slice", lambda x: mg.chunk(x, 2), lambda x: [p for p in np.array_split(x, 2) if len(p)],
        tensor_and(shape=positive_shapes(1)), view=True,
    ),
    Row(
        "unbind", "Slice", lambda x, d: mg.unbind(x, d) + (x * 1,),
        lambda x, d: [*np.moveaxis(x, d, 0), x], tensor_and(an_axis, shape=positive_shapes(1, 3)), view=None,
    ),
    Row("tile", "Expand Clone", mg.tile, np.tile, tensor_and(reps)),
    Row("repeat", "Expand Clone", lambda x, by: x.repeat(*by), np.tile, tensor_and(reps)),
    Row(
        "repeat_interleave", "Expand", mg.repeat_interleave, np.repeat,
        tensor_and(st.integers(0, 3), an_axis, shape=some), view=None,
    ),
    Row("pad", "Pad", pad, padded("constant"), pads("constant")),
    Row(
        "pad with a value", "Pad", lambda x: pad(x, (1, 2), value=3.0),
        lambda x: np.pad(x, [(0, 0)] * (x.ndim - 1) + [(1, 2)], constant_values=3), tensor_and(shape=some),
    ),
    Row("pad reflect", "Border", lambda x, by: pad(x, by, "reflect"), padded("reflect"), pads("reflect")),
    Row("pad replicate", "Border", lambda x, by: pad(x, by, "replicate"), padded("edge"), pads("replicate")),
    Row("pad circular", "Border", lambda x, by: pad(x, by, "circular"), padded("wrap"), pads("circular")),
    Row(
        "fold a border", "BorderAdjoint", lambda y: apply(REGISTRY["BorderAdjoint"], y, **BORDER), folded,
        st.tuples(placed((6, 7))),
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
@given(data=st.data())
def test_rows(row, data):
    check(row, data.draw(row.cases), data.draw(st.sampled_from(row.dtypes)))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.reshape(3, 2),
        lambda x: x.view(-1),
        lambda x: x.T,
        lambda x: x[1:],
        lambda x: x[0],
        lambda x: x.unsqueeze(1),
        lambda x: x.split(1)[1],
        lambda x: x.permute(1, 0)[::2],
    ],
)
def test_writing_to_a_view_writes_to_its_base(view):
    x = mg.zeros(2, 3)
    y = view(x)
    y.add_(1)
    assert x.sum().item() == y.numel()
    x.fill_(5)
    assert y.tolist() == mg.full(y.shape, 5.0).tolist()


def test_an_expanded_tensor_cannot_be_written_to():
    with pytest.raises(RuntimeError, match="expanded"):
        mg.zeros(1).expand(3).add_(1)


@pytest.mark.parametrize("dtype", [mg.float64, mg.float32])
def test_expanded_inputs(dtype):
    """Memory in which several values are one."""
    from minigan.testing import check_grads

    x, w = mg.rand(1, 3).to(dtype), mg.rand(3).to(dtype)
    assert mg.matmul(x.expand(4, 3), w).tolist() == mg.matmul(x.repeat(4, 1), w).tolist()
    check_grads(lambda x, w: mg.matmul(x.expand(4, 3), mg.tanh(w.expand(2, 3)).T), (x, w))
    check_grads(lambda x: x.expand(4, 3).reshape(3, 4).cumsum(0), (x,))


def test_repeats_have_memory_of_their_own():
    """Merging the axes of an expanded tensor can leave a view, which nothing could be written into."""
    x = mg.ones(1, 1, 3)
    for y in (x.repeat(4, 1, 1), mg.tile(x, (4, 1, 1)), mg.repeat_interleave(x, 4, 0), x.repeat(1, 1, 1)):
        y.zero_()
        assert y.tolist() == mg.zeros(*y.shape).tolist()
    assert x.tolist() == [[[1, 1, 1]]]


@pytest.mark.parametrize("indexing", ["ij", "xy"])
def test_meshgrid(indexing):
    x, y, z = mg.arange(2.0, requires_grad=True), mg.arange(3), mg.tensor(5)
    grids = mg.meshgrid(x, y, z, indexing=indexing)
    for grid, right in zip(grids, np.meshgrid([0, 1], [0, 1, 2], [5], indexing=indexing), strict=True):
        np.testing.assert_array_equal(host(grid), right)
    grids[0].sum().backward()
    assert x.grad.tolist() == [3, 3]
    assert [g.tolist() for g in mg.meshgrid([y, y])] == [g.tolist() for g in mg.meshgrid(y, y)]
    with pytest.raises(RuntimeError, match="'ij' or 'xy'"):
        mg.meshgrid(y, indexing="yx")

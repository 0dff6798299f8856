"""Operations that move values without changing them: shape, order, joining.

Those marked `view` share memory with their input where the array module can. Selection by index is in
`minigan.ops.index`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minigan import graphs
from minigan.check import check_tensors, several, shape_of, whole
from minigan.dtypes import float16, float32, result_dtype
from minigan.graph import Op, apply
from minigan.ops.memory import Clone

if TYPE_CHECKING:
    from minigan.tensor import Tensor


def axis(dim: int, ndim: int, name: str) -> int:
    """`dim` counted from the front; negative values count from the back."""
    limit = max(ndim, 1)
    dim = whole(name, dim)
    if not -limit <= dim < limit:
        raise IndexError(f"{name}: dimension out of range: got {dim}, expected {-limit} to {limit - 1}")
    return dim % limit


# Broadcasting and its adjoint -------------------------------------------------------------------------


class Expand(Op):
    """y = x broadcast to `shape`"""

    view = True

    @staticmethod
    def forward(ctx, B, x, *, shape):
        return B.xp.broadcast_to(x, shape)

    @staticmethod
    def vjp(ctx, gy):
        return sum_to(gy, ctx.shapes[0])


def add_up(x: Any, axes: tuple[int, ...], keepdims: bool = False) -> Any:
    """An array's sum over axes. In float16, sums of more than 2048 ones would stay there: added up in float32."""
    if x.dtype == float16:
        return x.sum(axis=axes, keepdims=keepdims, dtype=float32).astype(float16)
    return x.sum(axis=axes, keepdims=keepdims)


class SumTo(Op):
    """The adjoint of Expand: sums the axes along which `shape` was broadcast"""

    @staticmethod
    def forward(ctx, B, x, *, shape):
        extra = x.ndim - len(shape)
        axes = tuple(range(extra)) + tuple(
            i + extra for i, size in enumerate(shape) if size == 1 and x.shape[i + extra] != 1
        )
        return B.xp.reshape(add_up(x, axes), shape)

    @staticmethod
    def vjp(ctx, gy):
        return broadcast_to(gy, ctx.shapes[0])


def sum_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x summed over the axes along which something of `shape` was broadcast to x's shape."""
    return x if x.array.shape == shape else apply(SumTo, x, shape=shape)


def broadcast_to(x: Tensor, shape: Sequence[int]) -> Tensor:
    """x repeated along new and one-sized axes, without a copy."""
    shape = tuple(shape)
    return x if x.array.shape == shape else apply(Expand, x, shape=shape)


def expand(x: Tensor, *sizes: Any) -> Tensor:
    """As `broadcast_to`; -1 keeps an axis as it is."""
    shape = shape_of(sizes, "expand")
    old = (1,) * (len(shape) - x.ndim) + x.array.shape
    return apply(Expand, x, shape=tuple(o if s == -1 else s for s, o in zip(shape, old, strict=False)))


def expand_as(x: Tensor, other: Tensor) -> Tensor:
    """x broadcast to the shape of another tensor."""
    return broadcast_to(x, other.shape)


# Shape and order --------------------------------------------------------------------------------------


class Reshape(Op):
    """The same values, in C order, under another shape"""

    view = True

    @staticmethod
    def forward(ctx, B, x, *, shape):
        return x.reshape(shape)

    @staticmethod
    def vjp(ctx, gy):
        return apply(Reshape, gy, shape=ctx.shapes[0])

    @staticmethod
    def vjp_fast(ctx, B, gy):
        return gy.reshape(ctx.shapes[0])


def reshape(x: Tensor, *shape: Any) -> Tensor:
    """The same values, in C order, under another shape; one size may be -1.

    Shares memory where the layout allows it, and copies where it does not (`view` too: image
    activations are channels-last in memory, which PyTorch's rule for `view` would refuse).
    """
    sizes = shape_of(shape, "reshape")
    if min(sizes, default=0) < -1:  # NumPy takes any negative size for -1
        raise RuntimeError(f"reshape: got shape {sizes}, expected sizes from 0 up, and -1 at most once")
    return apply(Reshape, x, shape=sizes)


def view(x: Tensor, *shape: Any) -> Tensor:
    """As `reshape`; given a dtype, as `Tensor.to`'s reinterpretation is not offered."""
    return reshape(x, *shape)


def view_as(x: Tensor, other: Tensor) -> Tensor:
    """x under the shape of another tensor."""
    return reshape(x, other.shape)


def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Axes start_dim … end_dim merged into one."""
    if x.ndim == 0:
        return reshape(x, 1)
    start, end = axis(start_dim, x.ndim, "flatten"), axis(end_dim, x.ndim, "flatten")
    if start > end:
        raise RuntimeError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
    shape = x.array.shape
    return reshape(x, *shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])


def unflatten(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """One axis split into several."""
    dim, sizes = axis(dim, x.ndim, "unflatten"), several(sizes)
    size, given = x.array.shape[dim], math.prod(s for s in sizes if s != -1)
    if list(sizes).count(-1) == 1 and given and size % given == 0:  # also where the tensor is empty
        sizes = [size // given if s == -1 else s for s in sizes]
    return reshape(x, *x.array.shape[:dim], *sizes, *x.array.shape[dim + 1 :])


def squeeze(x: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """Without the axes of size one (or those of `dim` that have it)."""
    drop = set(range(x.ndim)) if dim is None else {axis(d, x.ndim, "squeeze") for d in several(dim)}
    return reshape(x, tuple(size for i, size in enumerate(x.array.shape) if size != 1 or i not in drop))


def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """With a new axis of size one at `dim`."""
    dim = axis(dim, x.ndim + 1, "unsqueeze")
    return reshape(x, x.array.shape[:dim] + (1,) + x.array.shape[dim:])


class Permute(Op):
    """Axis i of the result is axis dims[i] of x"""

    view = True

    @staticmethod
    def forward(ctx, B, x, *, dims):
        return x.transpose(dims)

    @staticmethod
    def vjp(ctx, gy):
        inverse = [0] * len(ctx.dims)
        for i, d in enumerate(ctx.dims):
            inverse[d] = i
        return apply(Permute, gy, dims=tuple(inverse))


def permute(x: Tensor, *dims: Any) -> Tensor:
    """Axis i of the result is axis dims[i] of x."""
    order = tuple(axis(d, x.ndim, "permute") for d in shape_of(dims, "permute"))
    if sorted(order) != list(range(x.ndim)):
        raise RuntimeError(f"permute: got dims {dims} for a tensor with {x.ndim} axes, expected each axis once")
    return apply(Permute, x, dims=order)


def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two axes swapped."""
    order = list(range(x.ndim))
    if order:
        a, b = axis(dim0, x.ndim, "transpose"), axis(dim1, x.ndim, "transpose")
        order[a], order[b] = order[b], order[a]
    return apply(Permute, x, dims=tuple(order))


def t(x: Tensor) -> Tensor:
    """The transpose of a matrix; vectors and numbers as they are."""
    if x.ndim > 2:
        raise RuntimeError(f"t: expected at most 2 axes, got {x.ndim}; use transpose(dim0, dim1)")
    return transpose(x, 0, -1)


def movedim(x: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """Axes moved to new places, the others in their old order."""
    sources, targets = several(source), several(destination)
    if len(sources) != len(targets):
        raise RuntimeError(f"movedim: got {len(sources)} sources and {len(targets)} destinations, expected as many")
    sources = tuple(axis(d, x.ndim, "movedim") for d in sources)
    targets = tuple(axis(d, x.ndim, "movedim") for d in targets)
    order = [d for d in range(x.ndim) if d not in sources]
    for target, d in sorted(zip(targets, sources, strict=True)):
        order.insert(target, d)
    return permute(x, order[: x.ndim])  # a 0-d tensor's axis 0 is none


class Flip(Op):
    """The order along some axes reversed"""

    view = True

    @staticmethod
    def forward(ctx, B, x, *, dims):
        return B.xp.flip(x, dims)

    @staticmethod
    def vjp(ctx, gy):
        return apply(Flip, gy, dims=ctx.dims)


def flip(x: Tensor, *dims: Any) -> Tensor:
    """The order along some axes reversed, in memory of its own."""
    return apply(Flip, x, dims=tuple(axis(d, x.ndim, "flip") for d in shape_of(dims, "flip"))).clone()


class Roll(Op):
    """Values shifted along axes, those pushed off one end coming in at the other"""

    @staticmethod
    def forward(ctx, B, x, *, shifts, dims):
        return B.xp.roll(x, shifts, dims)

    @staticmethod
    def vjp(ctx, gy):
        return apply(Roll, gy, shifts=tuple(-s for s in ctx.shifts), dims=ctx.dims)


def roll(x: Tensor, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Tensor:
    """Values shifted along axes, those pushed off one end coming in at the other."""
    by = shape_of(several(shifts), "roll")
    if dims is None:
        return roll(flatten(x), by, (0,)).reshape(x.array.shape)
    along = tuple(axis(d, x.ndim, "roll") for d in several(dims))
    if len(by) != len(along):
        raise RuntimeError(f"roll: got {len(by)} shifts for {len(along)} dims, expected as many")
    return apply(Roll, x, shifts=by, dims=along)


# Joining and splitting --------------------------------------------------------------------------------


class Cat(Op):
    """Tensors one after the other along an axis"""

    @staticmethod
    def forward(ctx, B, *arrays, dim, sizes):
        while graphs.capturing() and len(arrays) > 8:  # of more, CuPy copies a table from the host
            arrays = tuple(B.xp.concatenate(arrays[i : i + 8], axis=dim) for i in range(0, len(arrays), 8))
        return B.xp.concatenate(arrays, axis=dim)

    @staticmethod
    def vjp(ctx, gy):
        starts = [sum(ctx.sizes[:i]) for i in range(len(ctx.sizes))]
        return tuple(
            narrow(gy, ctx.dim, start, size) if need else None
            for start, size, need in zip(starts, ctx.sizes, ctx.needs, strict=True)
        )


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors one after the other along an axis."""
    parts = list(several(tensors))
    check_tensors("cat", *parts)
    if not parts:
        raise RuntimeError("cat: expected a non-empty list of tensors")
    if any(part.ndim == 0 for part in parts):
        raise RuntimeError("cat: 0-d tensors cannot be joined; use stack")
    # PyTorch's old rule: a 1-d tensor with no values is skipped whatever the others' shape
    parts = [p for p in parts if p.array.shape != (0,)] or parts[:1]
    dim = axis(dim, parts[0].ndim, "cat")
    common = parts[0].dtype
    for part in parts:
        common = result_dtype("cat", common, part.dtype)
    return apply(Cat, *(p.to(common) for p in parts), dim=dim, sizes=tuple(p.shape[dim] for p in parts))


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape side by side along a new axis."""
    parts = several(tensors)
    check_tensors("stack", *parts)
    return cat([unsqueeze(part, dim) for part in parts], dim)


def meshgrid(*tensors: Tensor | Sequence[Tensor], indexing: str = "ij") -> tuple[Tensor, ...]:
    """One grid for each vector: the coordinate it gives to every point. "xy" swaps the first two axes.

    >>> import minigan as mg
    >>> rows, columns = meshgrid(mg.arange(2), mg.arange(3))
    >>> columns
    tensor([[0, 1, 2],
            [0, 1, 2]])
    """
    if indexing not in ("ij", "xy"):
        raise RuntimeError(f"meshgrid: expected indexing 'ij' or 'xy', got {indexing!r}")
    vectors: Any = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)) else tensors
    vectors = [reshape(v, -1) for v in vectors]
    sizes = [v.shape[0] for v in vectors]
    grids = [reshape(v, [-1 if j == i else 1 for j in range(len(sizes))]).expand(sizes) for i, v in enumerate(vectors)]
    if indexing == "xy" and len(sizes) > 1:
        return tuple(transpose(grid, 0, 1) for grid in grids)
    return tuple(grids)


def narrow(x: Tensor, dim: int, start: int, length: int) -> Tensor:
    """`length` entries along an axis, from `start` on."""
    dim = axis(dim, x.ndim, "narrow")
    size = x.array.shape[dim]
    start, length = whole("narrow", start), whole("narrow", length)
    first = start + size if start < 0 else start
    if not 0 <= first <= first + length <= size:
        raise RuntimeError(f"narrow: start {start} and length {length} exceed the size {size} of axis {dim}")
    return x[(slice(None),) * dim + (slice(first, first + length),)]


def split(x: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Pieces along an axis: of one size (the last may be smaller), or of the sizes given."""
    dim = axis(dim, x.ndim, "split")
    total = x.array.shape[dim]
    if not isinstance(split_size_or_sections, (list, tuple)):
        size = whole("split", split_size_or_sections)
        if size <= 0:
            raise RuntimeError(f"split: expected a positive size, got {size}")
        sizes = [min(size, total - start) for start in range(0, max(total, 1), size)]
    else:
        sizes = [whole("split", size) for size in split_size_or_sections]
        if sum(sizes) != total:
            raise RuntimeError(f"split: sizes {sizes} add up to {sum(sizes)}, expected {total} along axis {dim}")
    return tuple(narrow(x, dim, sum(sizes[:i]), size) for i, size in enumerate(sizes))


def chunk(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` pieces of nearly one size along an axis; of an empty one, `chunks` empty pieces."""
    if whole("chunk", chunks) <= 0:
        raise RuntimeError(f"chunk: expected a positive number of chunks, got {chunks}")
    total = x.array.shape[axis(dim, x.ndim, "chunk")]
    return split(x, -(-total // chunks) if total else [0] * chunks, dim)


def unbind(x: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The slices along an axis, without that axis."""
    front = (slice(None),) * axis(dim, x.ndim, "unbind")
    return tuple(x[(*front, i)] for i in range(x.array.shape[dim]))


def tile(x: Tensor, *dims: Any) -> Tensor:
    """x repeated dims[i] times along axis i."""
    times = shape_of(dims, "tile")
    if min(times, default=0) < 0:
        raise RuntimeError(f"tile: got repeats {times}, expected none below 0")
    times = (1,) * (x.ndim - len(times)) + times
    shape = (1,) * (len(times) - x.ndim) + x.array.shape
    paired = [size for pair in zip(times, shape, strict=True) for size in pair]
    spread = reshape(x, [size for s in shape for size in (1, s)]).expand(paired)
    return _own(spread).reshape([count * s for count, s in zip(times, shape, strict=True)])


def _own(spread: Tensor) -> Tensor:
    """A C-contiguous copy: merging the axes of an expanded tensor may leave a view whose values share memory."""
    return apply(Clone, spread, layout="C")


def repeat(x: Tensor, *sizes: Any) -> Tensor:
    """x repeated sizes[i] times along axis i; there must be a size for every axis."""
    times = shape_of(sizes, "repeat")
    if len(times) < x.ndim:
        raise RuntimeError(f"repeat: got {len(times)} sizes for a tensor with {x.ndim} axes, expected at least as many")
    return tile(x, times)


def repeat_interleave(x: Tensor, repeats: int, dim: int | None = None) -> Tensor:
    """Each entry along an axis repeated `repeats` times in place."""
    if whole("repeat_interleave", repeats) < 0:
        raise RuntimeError(f"repeat_interleave: got {repeats} repeats, expected 0 or more")
    if dim is None:
        x, dim = flatten(x), 0
    dim = axis(dim, x.ndim, "repeat_interleave")
    shape = x.array.shape
    spread = unsqueeze(x, dim + 1).expand(*shape[: dim + 1], repeats, *shape[dim + 1 :])
    return _own(spread).reshape(*shape[:dim], shape[dim] * repeats, *shape[dim + 1 :])

"""Selecting by index, and writing by index: slices, integers, masks, `gather` and `scatter`.

An index is split into a `pattern` of plain Python parts and the integer arrays that fill its places, so
that arrays reach the ops as inputs.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from minigan import graphs
from minigan.check import check_tensors, whole
from minigan.graph import Op, apply, wrap
from minigan.graphs import refuse
from minigan.inplace import assign
from minigan.ops.piecewise import masked_fill
from minigan.ops.shape import axis, broadcast_to, sum_to

if TYPE_CHECKING:
    from minigan.tensor import Tensor

_ARRAY = object()  # stands in a pattern where an integer array goes
ROWS = (_ARRAY,)  # one for the first axis


def _fill(pattern: tuple, arrays: tuple) -> tuple:
    waiting = iter(arrays)
    return tuple(next(waiting) if part is _ARRAY else part for part in pattern)


class Slice(Op):
    """y = x[pattern], for slices, integers, None and `...`: a view"""

    view = True

    @staticmethod
    def forward(ctx, B, x, *, pattern):
        return x[pattern]

    @staticmethod
    def vjp(ctx, gy):
        return apply(Unslice, gy, pattern=ctx.pattern, shape=ctx.shapes[0])


class Unslice(Op):
    """The adjoint of Slice: zeros with y written at x[pattern]"""

    @staticmethod
    def forward(ctx, B, y, *, pattern, shape):
        x = B.xp.zeros_like(y, shape=shape) if shape else B.xp.zeros((), y.dtype)  # CuPy takes () for no shape given
        x[pattern] = y
        return x

    @staticmethod
    def vjp(ctx, gx):
        return apply(Slice, gx, pattern=ctx.pattern)


class Take(Op):
    """y = x[pattern] with integer arrays in the pattern: a copy, in which entries may come up again"""

    @staticmethod
    def forward(ctx, B, x, *arrays, pattern):
        ctx.save_inputs(False, *(True for _ in arrays))
        return B.kernels.take_rows(x, *arrays) if pattern == ROWS else x[_fill(pattern, arrays)]

    @staticmethod
    def vjp(ctx, gy):
        rows = ctx.inputs[1:]
        return (apply(AddAt, gy, *rows, pattern=ctx.pattern, shape=ctx.shapes[0]), *(None for _ in rows))


class AddAt(Op):
    """The adjoint of Take: zeros with y added at x[pattern]"""

    @staticmethod
    def forward(ctx, B, y, *arrays, pattern, shape):
        ctx.save_inputs(False, *(True for _ in arrays))
        if pattern == ROWS:
            return B.kernels.add_rows(y, *arrays, shape[0])
        x = B.xp.zeros(shape, y.dtype)
        B.kernels.add_at(x, _fill(pattern, arrays), y)
        return x

    @staticmethod
    def vjp(ctx, gx):
        rows = ctx.inputs[1:]
        return (apply(Take, gx, *rows, pattern=ctx.pattern), *(None for _ in rows))


class PutAt(Op):
    """y = x with `values` written at x[pattern]; where an entry comes up twice, the last one counts"""

    @staticmethod
    def forward(ctx, B, x, values, *arrays, pattern):
        ctx.save_inputs(False, False, *(True for _ in arrays))
        y = B.xp.array(x)
        B.kernels.put_at(y, _fill(pattern, arrays), values)
        return y

    @staticmethod
    def vjp(ctx, gy):
        rows = ctx.inputs[2:]
        gx = apply(PutAt, gy, 0.0, *rows, pattern=ctx.pattern) if ctx.needs[0] else None
        gv = sum_to(apply(Take, gy, *rows, pattern=ctx.pattern), ctx.shapes[1]) if ctx.needs[1] else None
        return (gx, gv, *(None for _ in rows))


def _is_mask(part: Any) -> bool:
    return part.array.dtype.kind == "b" or part.array.dtype == np.uint8  # the latter in older scripts


def _axes_used(part: Any) -> int:
    if part is None or part is ...:
        return 0
    return part.ndim if hasattr(part, "array") and _is_mask(part) else 1


def _parse(x: Tensor, index: Any) -> tuple[tuple, list[Tensor]]:
    """The pattern of an index, and the integer tensors that go into it."""
    from minigan.creation import tensor

    pattern: list[Any] = []
    arrays: list[Tensor] = []
    parts = list(index) if isinstance(index, tuple) else [index]
    for i, part in enumerate(parts):
        if isinstance(part, (list, np.ndarray)):
            parts[i] = tensor(part, dtype=None if len(part) else np.int64, device=x.device)
    for i, part in enumerate(parts):
        if hasattr(part, "array"):  # a Tensor
            if _is_mask(part):
                at = sum(_axes_used(p) for p in parts[:i])
                if any(p is ... for p in parts[:i]):
                    at = x.ndim - sum(_axes_used(p) for p in parts[i:])
                if part.array.shape != x.array.shape[at : at + part.ndim]:
                    raise IndexError(
                        f"the shape of the mask {tuple(part.shape)} does not match the indexed tensor's "
                        f"{tuple(x.shape[at : at + part.ndim])} at axis {at}"
                    )
                places = part.nonzero(as_tuple=True)
            elif part.array.dtype.kind in "iu":
                if part.ndim == 0:
                    pattern.append(int(part.item()))
                    continue
                places = (part,)
            else:
                raise IndexError(f"tensors used as indices must be integer or bool, got {part.dtype}")
            arrays += places
            pattern += [_ARRAY] * len(places)
        elif part is None or part is ... or isinstance(part, slice):
            if isinstance(part, slice):
                if part.step is not None and operator.index(part.step) <= 0:
                    raise ValueError(f"slice step must be greater than zero, got {part.step}; use .flip(dim)")
                part = slice(*(None if v is None else operator.index(v) for v in (part.start, part.stop, part.step)))
            pattern.append(part)
        elif isinstance(part, (bool, np.bool_)):
            raise IndexError("indexing with a Python bool is not supported; index with a bool tensor")
        else:
            try:
                pattern.append(operator.index(part))
            except TypeError:
                raise IndexError(
                    f"got {part!r} as an index: expected an integer, a slice, `...`, None, or an integer or bool tensor"
                ) from None
    return tuple(pattern), arrays


def getitem(x: Tensor, index: Any) -> Tensor:
    """x[index]"""
    pattern, arrays = _parse(x, index)
    _check_range(x, pattern)
    if arrays:
        x, pattern = _integers_first(x, pattern)
        _check_arrays(x, pattern, arrays)
        return apply(Take, x, *arrays, pattern=pattern)
    # Without `...` a full set of integers would give a scalar, which shares no memory
    return apply(Slice, x, pattern=pattern if ... in pattern else (*pattern, ...))


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """x[rows] of the first axis, for an array of rows that the caller knows to be there, or cannot look at."""
    return apply(Take, x, rows, pattern=ROWS)


def _integers_first(x: Tensor, pattern: tuple) -> tuple[Tensor, tuple]:
    """x with the pattern's integers applied, and the rest of it.

    NumPy would count the integers among the arrays, and arrays with `...` between them as apart even if it
    stands for no axis.
    """
    if ... in pattern:
        at = pattern.index(...)
        free = x.ndim - sum(part is not None and part is not ... for part in pattern)
        pattern = pattern[:at] + (slice(None),) * free + pattern[at + 1 :]
    if not any(isinstance(part, int) for part in pattern):
        return x, pattern
    integers = [part if isinstance(part, int) else slice(None) for part in pattern if part is not None]
    return x[tuple(integers)], tuple(part for part in pattern if not isinstance(part, int))


def _check_range(x: Tensor, pattern: tuple) -> None:
    if pattern.count(...) > 1:
        raise IndexError("an index can have `...` only once")
    used = sum(part is not None and part is not ... for part in pattern)
    if used > x.ndim:
        hint = "" if x.ndim else "; its value is .item()"
        raise IndexError(f"too many indices: got {used} for a tensor with {x.ndim} axes{hint}")
    if ... not in pattern:
        at = 0
        for part in pattern:
            if isinstance(part, int) and not -x.shape[at] <= part < x.shape[at]:
                raise IndexError(f"index {part} is out of bounds for axis {at} with size {x.shape[at]}")
            at += part is not None


def _check_arrays(x: Tensor, pattern: tuple, arrays: list[Tensor]) -> None:
    """Where the backend would take another entry, in silence, for an index that is out of bounds."""
    if x.B.checks_indices:
        return
    try:
        np.broadcast_shapes(*(part.shape for part in arrays))
    except ValueError:
        shapes = ", ".join(str(tuple(part.shape)) for part in arrays)
        raise IndexError(f"shape mismatch: indexing tensors of shapes {shapes} do not broadcast together") from None
    at, waiting = 0, iter(arrays)
    for part in pattern:
        if part is _ARRAY and (index := next(waiting)).numel() and not graphs.capturing(x.B):
            low, high = int(index.array.min()), int(index.array.max())
            size = x.shape[at]
            if low < -size or high >= size:
                raise IndexError(
                    f"index {low if low < -size else high} is out of bounds for axis {at} with size {size}"
                )
        at += part is not None


def setitem(x: Tensor, index: Any, value: Any) -> None:
    """x[index] = value"""
    from minigan.creation import as_operand

    pattern, arrays = _parse(x, index)
    _check_range(x, pattern)
    if not arrays:
        if hasattr(value, "array"):
            value = value.to(x.dtype)
        assign(getitem(x, index), value, "indexed assignment")
        return
    value = value.to(x.dtype) if hasattr(value, "array") else as_operand(value, x)
    x, pattern = _integers_first(x, pattern)
    _check_arrays(x, pattern, arrays)
    assign(x, apply(PutAt, x, value, *arrays, pattern=pattern), "indexed assignment", made=True)


def index_select(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """The entries of an axis named by a vector of integers."""
    check_tensors("index_select", index)
    if index.ndim > 1 or index.array.dtype.kind not in "iu":
        raise IndexError(
            f"index_select: expected a vector of integers, got {index.dtype} of shape {tuple(index.shape)}"
        )
    dim = axis(dim, x.ndim, "index_select")
    _check_bounds(x, dim, index, "index_select", IndexError)
    return x[(slice(None),) * dim + (index,)]


def masked_select(x: Tensor, mask: Tensor) -> Tensor:
    """The values where the mask holds, as a vector."""
    check_tensors("masked_select", mask)
    return broadcast_to(x, mask.shape)[mask] if x.ndim < mask.ndim else x[broadcast_to(mask, x.shape)]


def nonzero(x: Tensor, *, as_tuple: bool = False) -> Any:
    """The indices of the non-zero entries: a matrix with a row each, or a vector per axis."""
    refuse(x.B, "an index by a mask, or nonzero(),")
    places = x.B.xp.nonzero(x.array if x.ndim else x.array.reshape(1))
    if as_tuple:
        return tuple(wrap(p, x.B, None) for p in places)
    return wrap(x.B.xp.stack(places, axis=1)[:, : x.ndim], x.B, None)


# Along one axis ---------------------------------------------------------------------------------------


def _check_bounds(x: Tensor, dim: int, index: Tensor, name: str, error: type[Exception]) -> None:
    """Negative indices count from the end in an array module, and nowhere in PyTorch but in x[index]."""
    check_tensors(name, index)
    size = x.array.shape[dim] if x.ndim else 1
    refuse(x.B, f"a check of the bounds of indices, of {name},")
    if index.array.size and not (int(index.array.min()) >= 0 and int(index.array.max()) < size):
        raise error(f"{name}: expected indices from 0 to {size - 1}, the size of axis {dim} being {size}, got others")


def _along(x: Tensor, dim: int, index: Tensor, name: str) -> list[Tensor]:
    """Index tensors that, together, name for each place of `index` the entry of x along axis `dim`."""
    check_tensors(name, index)
    if index.array.dtype.kind not in "iu":
        raise RuntimeError(f"{name}: expected an integer index, got {index.dtype}")
    if index.ndim != x.ndim:
        raise RuntimeError(
            f"{name}: index has shape {tuple(index.shape)} and x {tuple(x.shape)}: expected as many axes"
        )
    for i, (inner, outer) in enumerate(zip(index.shape, x.shape, strict=True)):
        if i != dim and inner > outer:
            raise RuntimeError(
                f"{name}: index of shape {tuple(index.shape)} is larger than x of shape {tuple(x.shape)} along axis {i}"
            )
    xp = x.B.xp
    places = []
    for i, size in enumerate(index.shape):
        shape = [1] * x.ndim
        shape[i] = size
        places.append(index if i == dim else wrap(xp.arange(size).reshape(shape), x.B, None))
    return places


def gather(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """y[i][j] = x[index[i][j]][j] for dim 0, and so on."""
    if x.ndim == 0:
        return gather(x.reshape(1), 0, index.reshape(1)).reshape(())
    dim = axis(dim, x.ndim, "gather")
    _check_bounds(x, dim, index, "gather", RuntimeError)
    return take_along(x, dim, index)


def take_along(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """As `gather`, of indices that are known to be in bounds."""
    if x.ndim == 0:
        return x.clone()
    return apply(Take, x, *_along(x, dim, index, "gather"), pattern=(_ARRAY,) * x.ndim)


def scatter(x: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None) -> Tensor:
    """x with x[index[i][j]][j] = src[i][j] for dim 0, and so on."""
    src = value if src is None else src
    if src is None:
        raise TypeError("scatter: expected `src` or `value`, got neither")
    dim = axis(dim, x.ndim, "scatter")
    _check_bounds(x, dim, index, "scatter", RuntimeError)
    places = _along(x, dim, index, "scatter")
    if hasattr(src, "array"):
        src = src[tuple(slice(size) for size in index.shape)]
    return apply(PutAt, x, src, *places, pattern=(_ARRAY,) * x.ndim)


def scatter_add(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """x with src[i][j] added to x[index[i][j]][j] for dim 0, and so on."""
    check_tensors("scatter_add", index, src)
    dim = axis(dim, x.ndim, "scatter_add")
    _check_bounds(x, dim, index, "scatter_add", RuntimeError)
    places = _along(x, dim, index, "scatter_add")
    src = src[tuple(slice(size) for size in index.shape)]
    return x + apply(AddAt, src, *places, pattern=(_ARRAY,) * x.ndim, shape=x.array.shape)


def tril(x: Tensor, diagonal: int = 0) -> Tensor:
    """x with zeros above a diagonal of its last two axes."""
    last = whole("tril", diagonal)
    return _triangle(x, lambda row, column: column - row <= last)


def triu(x: Tensor, diagonal: int = 0) -> Tensor:
    """x with zeros below a diagonal of its last two axes."""
    first = whole("triu", diagonal)
    return _triangle(x, lambda row, column: column - row >= first)


def _triangle(x: Tensor, keep: Any) -> Tensor:
    if x.ndim < 2:
        raise RuntimeError(f"tril, triu: expected at least 2 axes, got shape {tuple(x.shape)}")
    xp = x.B.xp
    rows, columns = x.shape[-2:]
    mask = keep(xp.arange(rows).reshape(rows, 1), xp.arange(columns).reshape(1, columns))
    return masked_fill(x, wrap(~mask, x.B, None), 0)


class Diagonal(Op):
    """y = the diagonal of the last two axes, which have one size: a view"""

    view = True

    @staticmethod
    def forward(ctx, B, x):
        return B.xp.einsum("...ii->...i", x)

    @staticmethod
    def vjp(ctx, gy):
        return apply(Undiagonal, gy)


class Undiagonal(Op):
    """The adjoint of Diagonal: zeros with y written on the diagonal"""

    @staticmethod
    def forward(ctx, B, y):
        x = B.xp.zeros((*y.shape, y.shape[-1]), y.dtype)
        B.xp.einsum("...ii->...i", x)[...] = y
        return x

    @staticmethod
    def vjp(ctx, gx):
        return apply(Diagonal, gx)


def diagonal(x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal of two axes, `offset` places above the main one, as a new last axis: a view."""
    if axis(dim1, x.ndim, "diagonal") == axis(dim2, x.ndim, "diagonal"):
        raise RuntimeError(f"diagonal: dim1 and dim2 must differ, got {dim1} and {dim2} for shape {tuple(x.shape)}")
    x = x.movedim((dim1, dim2), (-2, -1))
    rows, columns = x.shape[-2:]
    down, right = max(-whole("diagonal", offset), 0), max(offset, 0)
    size = max(min(rows - down, columns - right), 0)
    return apply(Diagonal, x[..., down : down + size, right : right + size])

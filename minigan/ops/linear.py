"""Products of matrices and tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minigan.check import check_tensors
from minigan.graph import Op, apply
from minigan.ops.arithmetic import add
from minigan.ops.piecewise import through_leaky_relu
from minigan.ops.shape import permute, reshape, sum_to, transpose

if TYPE_CHECKING:
    from minigan.backend import Array
    from minigan.tensor import Tensor


class Matmul(Op):
    """Z = X·Y over the last two axes, the others broadcast; GX = GZ·Yᵀ, GY = Xᵀ·GZ"""

    @staticmethod
    def forward(ctx, B, x, y):
        ctx.save_inputs(ctx.needs[1], ctx.needs[0])
        return B.kernels.matmul(x, y)

    @staticmethod
    def vjp(ctx, gz):
        x, y = ctx.inputs
        return (
            sum_to(apply(Matmul, gz, transpose(y, -1, -2)), ctx.shapes[0]) if ctx.needs[0] else None,
            sum_to(apply(Matmul, transpose(x, -1, -2), gz), ctx.shapes[1]) if ctx.needs[1] else None,
        )


class Linear(Op):
    """Y = leaky(X·Wᵀ + b); without a `slope` it is not leaky, and b may be left out.

    With G = GY·leaky'(Y): GX = G·W, GW = Gᵀ·X, Gb = Σ G.
    """

    @staticmethod
    def forward(ctx, B, x, w, b=None, *, slope):
        ctx.save_inputs(ctx.needs[1], ctx.needs[0], *([False] if b is not None else []))
        if slope is not None:
            ctx.save_output()
        y = B.kernels.matmul(x, w.T)
        B.kernels.add_bias(_rows(y), b, slope)
        return y

    @staticmethod
    def vjp(ctx, gy):
        x, w = ctx.inputs[:2]
        if ctx.slope is not None:
            gy = through_leaky_relu(gy, ctx.output, ctx.slope)
        gx = apply(Matmul, gy, w) if ctx.needs[0] else None
        gw = None
        if ctx.needs[1]:
            rows = reshape(gy, -1, gy.shape[-1]) if gy.shape[-1] else gy.new_zeros(math.prod(gy.shape[:-1]), 0)
            columns = reshape(x, rows.shape[0], x.shape[-1])
            gw = apply(Matmul, transpose(rows, 0, 1), columns)
        if len(ctx.parents) == 2:
            return gx, gw
        return gx, gw, sum_to(gy, ctx.shapes[2]) if ctx.needs[2] else None

    @staticmethod
    def vjp_fast(ctx, B, gy):
        x, w = ctx.input_arrays[:2]
        y = None if ctx.slope is None else _rows(ctx.output_array)
        needs_bias = len(ctx.parents) > 2 and ctx.needs[2]
        rows, gb = B.kernels.add_bias_backward(_rows(gy), y, ctx.slope, needs_bias)
        products = [(rows.reshape(gy.shape), w)] if ctx.needs[0] else []
        if ctx.needs[1]:
            products.append((rows.T, _rows(x)))
        found = iter(B.kernels.matmuls(products))
        return *(next(found) if need else None for need in ctx.needs[:2]), *([gb] if len(ctx.parents) > 2 else [])


def _rows(x: Array) -> Array:
    """As a matrix of all but the last axis by the last"""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def check_same_dtype(name: str, *tensors: Tensor | None) -> None:
    """Raise unless all have one floating dtype."""
    check_tensors(name, *(t for t in tensors if t is not None))
    kinds = [t.array.dtype for t in tensors if t is not None]
    if any(kind != kinds[0] for kind in kinds):
        raise RuntimeError(
            f"{name}: expected all tensors to have one dtype, got {', '.join(map(str, kinds))}; convert with .to(dtype)"
        )


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None, *, _slope: float | None = None) -> Tensor:
    """X·Wᵀ + b for W of shape (out, in).

    `_slope` is of a leaky ReLU to end with; only `minigan.nn.fusion` gives it.
    """
    check_same_dtype("linear", input, weight, bias)
    if input.ndim == 0 or weight.ndim != 2 or input.shape[-1] != weight.shape[1]:
        raise RuntimeError(
            f"linear: input of shape {tuple(input.shape)} and weight of shape {tuple(weight.shape)}: expected the "
            f"input's last axis to have the size of the weight's last axis"
        )
    if input.ndim == 1:
        return reshape(linear(reshape(input, 1, -1), weight, bias, _slope=_slope), -1)
    return apply(Linear, input, weight, *([] if bias is None else [bias]), slope=_slope)


def matmul(x: Tensor, y: Tensor) -> Tensor:
    """X·Y over the last two axes, the others broadcast; vectors count as a row (left) or a column (right)."""
    check_tensors("matmul", x, y)
    check_same_dtype("matmul", x, y)
    if x.ndim == 0 or y.ndim == 0:
        raise RuntimeError("matmul: both arguments need at least one axis, got a 0-d tensor; use *")
    rows = x if x.ndim > 1 else reshape(x, 1, -1)
    columns = y if y.ndim > 1 else reshape(y, -1, 1)
    if rows.shape[-1] != columns.shape[-2]:
        raise RuntimeError(
            f"matmul: shapes {tuple(x.shape)} and {tuple(y.shape)} cannot be multiplied: "
            f"{rows.shape[-1]} columns against {columns.shape[-2]} rows"
        )
    z = apply(Matmul, rows, columns)
    if y.ndim == 1:
        z = reshape(z, z.shape[:-1])
    return reshape(z, z.shape[:-2] + z.shape[-1:] if y.ndim > 1 else z.shape[:-1]) if x.ndim == 1 else z


def _exactly(name: str, x: Tensor, y: Tensor, ndim: int) -> Tensor:
    if x.ndim != ndim or y.ndim != ndim:
        raise RuntimeError(
            f"{name}: got shapes {tuple(x.shape)} and {tuple(y.shape)}, expected tensors with {ndim} axes; use matmul"
        )
    if ndim == 3 and x.shape[0] != y.shape[0]:
        raise RuntimeError(f"{name}: got {x.shape[0]} and {y.shape[0]} matrices, expected as many; use matmul")
    return matmul(x, y)


def mm(x: Tensor, y: Tensor) -> Tensor:
    """The product of two matrices."""
    return _exactly("mm", x, y, 2)


def bmm(x: Tensor, y: Tensor) -> Tensor:
    """The products of two stacks of matrices."""
    return _exactly("bmm", x, y, 3)


def mv(x: Tensor, y: Tensor) -> Tensor:
    """The product of a matrix and a vector."""
    if x.ndim != 2 or y.ndim != 1:
        raise RuntimeError(f"mv: got shapes {tuple(x.shape)} and {tuple(y.shape)}, expected a matrix and a vector")
    return matmul(x, y)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Σ x·y of two vectors."""
    return _exactly("dot", x, y, 1)


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta·input + alpha·mat1·mat2 for two matrices."""
    return add(input if beta == 1 else input * beta, mm(mat1, mat2), alpha=alpha)


def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta·input + alpha·batch1·batch2 for two stacks of matrices."""
    return add(input if beta == 1 else input * beta, bmm(batch1, batch2), alpha=alpha)


def outer(x: Tensor, y: Tensor) -> Tensor:
    """z[i, j] = x[i]·y[j]"""
    if x.ndim != 1 or y.ndim != 1:
        raise RuntimeError(f"outer: got shapes {tuple(x.shape)} and {tuple(y.shape)}, expected two vectors")
    return reshape(x, -1, 1) * reshape(y, 1, -1)


class Einsum(Op):
    """y = Σ x₁[s₁]·x₂[s₂]… over the letters missing from `out`.

    Each letter stands once in a subscript, and every letter of a subscript stands in `out` or in another
    one, so the gradient of an operand is an einsum of the same kind: `out` and that subscript trade places.
    """

    @staticmethod
    def forward(ctx, B, *arrays, subscripts, out):
        several = [sum(ctx.needs) > need for need in ctx.needs[: len(arrays)]]
        ctx.save_inputs(*several)
        return B.kernels.einsum(f"{','.join(subscripts)}->{out}", *arrays)

    @staticmethod
    def vjp(ctx, gy):
        gradients = []
        for i, target in enumerate(ctx.subscripts):
            others = [j for j in range(len(ctx.subscripts)) if j != i]
            gradients.append(
                apply(
                    Einsum, gy, *(ctx._input(j) for j in others),
                    subscripts=(ctx.out, *(ctx.subscripts[j] for j in others)), out=target,
                ) if ctx.needs[i] else None
            )  # fmt: skip
        return tuple(gradients)


def einsum(equation: str, *operands: Tensor | list[Tensor]) -> Tensor:
    """Sums of products in Einstein's notation.

    >>> import minigan as mg
    >>> mg.einsum("ij,ij->i", mg.ones(2, 3), mg.ones(2, 3))
    tensor([3., 3.])
    """
    if not isinstance(equation, str) or not operands or len(equation.replace("...", "").split("->")) > 2:
        raise TypeError(f"einsum: expected an equation such as 'ij,jk->ik' and its operands, got {equation!r}")
    given: Any = operands[0] if isinstance(operands[0], (list, tuple)) else operands
    tensors: list[Tensor] = list(given)
    check_same_dtype("einsum", *tensors)
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    for term in (*terms, out):
        letters = term.replace("...", "", 1)
        if letters and not (letters.isascii() and letters.isalpha()):
            raise RuntimeError(f"einsum: {term!r} of {equation!r}: expected letters, and `...` at most once")
    if len(terms) != len(tensors):
        raise RuntimeError(f"einsum: {equation!r} names {len(terms)} operands, got {len(tensors)}")
    terms, batch = _without_ellipsis(terms, tensors, equation)
    if arrow:
        out = out.replace("...", batch)
    else:
        letters = "".join(terms)
        out = batch + "".join(sorted(c for c in set(letters) if letters.count(c) == 1 and c not in batch))
    sizes: dict[str, int] = {}
    for i, (term, x) in enumerate(zip(terms, tensors, strict=True)):
        if len(term) != x.ndim:
            raise RuntimeError(f"einsum: {term!r} of {equation!r} has {len(term)} letters for shape {tuple(x.shape)}")
        for letter in sorted(set(term)):  # a letter that stands twice: the diagonal
            while term.count(letter) > 1:
                first = term.index(letter)
                second = term.index(letter, first + 1)
                x = x.diagonal(0, first, second)
                term = term.replace(letter, "", 2) + letter
        elsewhere = "".join(terms[:i] + terms[i + 1 :]) + out
        alone = [d for d, letter in enumerate(term) if letter not in elsewhere]
        if alone:
            x = x.sum(alone)
            term = "".join(letter for letter in term if letter in elsewhere)
        for letter, size in zip(term, x.shape, strict=True):
            if sizes.setdefault(letter, size) == 1:
                sizes[letter] = size
            elif size not in (1, sizes[letter]):
                raise RuntimeError(f"einsum: letter {letter!r} of {equation!r} has sizes {sizes[letter]} and {size}")
        terms[i], tensors[i] = term, x
    missing = [letter for letter in out if letter not in sizes]
    if missing:
        raise RuntimeError(f"einsum: {missing[0]!r} of the output of {equation!r} stands in no operand")
    tensors = [x.expand([sizes[c] for c in term]) for x, term in zip(tensors, terms, strict=True)]
    if len(tensors) == 1:
        return permute(tensors[0], [terms[0].index(letter) for letter in out])
    return apply(Einsum, *tensors, subscripts=tuple(terms), out=out)


def _without_ellipsis(terms: list[str], tensors: list[Tensor], equation: str) -> tuple[list[str], str]:
    """The terms with letters of their own in place of `...`, and the letters of the longest one."""
    spare = [chr(c) for c in range(ord("A"), ord("Z") + 1) if chr(c) not in equation]
    counts = [x.ndim - len(term.replace("...", "")) for term, x in zip(terms, tensors, strict=True)]
    longest = max([n for n, term in zip(counts, terms, strict=True) if "..." in term], default=0)
    batch = "".join(spare[:longest])
    return [t.replace("...", batch[longest - n :]) if n >= 0 else t for t, n in zip(terms, counts, strict=True)], batch

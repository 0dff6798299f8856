"""The methods that Tensor has because `minigan.ops` has a function of that name.

`x.exp()` is `exp(x)`, and `x.exp_()` is its result written over x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from minigan.inplace import assign
from minigan.ops import elementwise, index, linear, reduce, shape

if TYPE_CHECKING:
    from minigan.tensor import Tensor


def _in_place(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The in-place form of a function: its result written over its first argument."""
    name = f"{function.__name__}_"

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return assign(self, function(self, *args, **kwargs), name)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"`{function.__name__}`, written over this tensor."
    return method


def _swapped(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The reflected form of an operator: `2 - x`."""

    def method(self: Tensor, other: Any) -> Tensor:
        return function(other, self)

    return method


class Methods:
    """Base of Tensor: one line per function."""

    __slots__ = ()

    # minigan.ops.elementwise
    abs = elementwise.abs
    add = elementwise.add
    bitwise_and = elementwise.bitwise_and
    bitwise_not = elementwise.bitwise_not
    bitwise_or = elementwise.bitwise_or
    bitwise_xor = elementwise.bitwise_xor
    ceil = elementwise.ceil
    clamp = elementwise.clamp
    clone = elementwise.clone
    contiguous = elementwise.contiguous
    cos = elementwise.cos
    div = elementwise.div
    eq = elementwise.eq
    erf = elementwise.erf
    exp = elementwise.exp
    expm1 = elementwise.expm1
    floor = elementwise.floor
    floor_divide = elementwise.floor_divide
    ge = elementwise.ge
    gt = elementwise.gt
    isfinite = elementwise.isfinite
    isinf = elementwise.isinf
    isnan = elementwise.isnan
    le = elementwise.le
    lerp = elementwise.lerp
    log = elementwise.log
    log10 = elementwise.log10
    log1p = elementwise.log1p
    log2 = elementwise.log2
    logical_and = elementwise.logical_and
    logical_not = elementwise.logical_not
    logical_or = elementwise.logical_or
    logical_xor = elementwise.logical_xor
    lt = elementwise.lt
    masked_fill = elementwise.masked_fill
    maximum = elementwise.maximum
    minimum = elementwise.minimum
    mul = elementwise.mul
    ne = elementwise.ne
    neg = elementwise.neg
    pow = elementwise.pow
    reciprocal = elementwise.reciprocal
    relu = elementwise.relu
    remainder = elementwise.remainder
    round = elementwise.round
    rsqrt = elementwise.rsqrt
    sigmoid = elementwise.sigmoid
    sign = elementwise.sign
    sin = elementwise.sin
    sqrt = elementwise.sqrt
    square = elementwise.square
    sub = elementwise.sub
    tanh = elementwise.tanh
    trunc = elementwise.trunc
    clip = elementwise.clamp

    # minigan.ops.shape
    broadcast_to = shape.broadcast_to
    chunk = shape.chunk
    expand = shape.expand
    expand_as = shape.expand_as
    flatten = shape.flatten
    flip = shape.flip
    movedim = shape.movedim
    narrow = shape.narrow
    permute = shape.permute
    repeat = shape.repeat
    repeat_interleave = shape.repeat_interleave
    reshape = shape.reshape
    roll = shape.roll
    split = shape.split
    squeeze = shape.squeeze
    t = shape.t
    tile = shape.tile
    transpose = shape.transpose
    unbind = shape.unbind
    unflatten = shape.unflatten
    unsqueeze = shape.unsqueeze
    view = shape.view
    view_as = shape.view_as

    # minigan.ops.index
    diagonal = index.diagonal
    gather = index.gather
    index_select = index.index_select
    masked_select = index.masked_select
    nonzero = index.nonzero
    scatter = index.scatter
    scatter_add = index.scatter_add
    tril = index.tril
    triu = index.triu

    # minigan.ops.reduce
    all = reduce.all
    allclose = reduce.allclose
    amax = reduce.amax
    amin = reduce.amin
    any = reduce.any
    argmax = reduce.argmax
    argmin = reduce.argmin
    argsort = reduce.argsort
    cumsum = reduce.cumsum
    equal = reduce.equal
    logsumexp = reduce.logsumexp
    log_softmax = reduce.log_softmax
    max = reduce.max
    mean = reduce.mean
    min = reduce.min
    norm = reduce.norm
    prod = reduce.prod
    softmax = reduce.softmax
    sort = reduce.sort
    std = reduce.std
    sum = reduce.sum
    topk = reduce.topk
    var = reduce.var

    # minigan.ops.linear
    bmm = linear.bmm
    dot = linear.dot
    matmul = linear.matmul
    mm = linear.mm
    mv = linear.mv
    outer = linear.outer

    # In place
    abs_ = _in_place(elementwise.abs)
    add_ = _in_place(elementwise.add)
    ceil_ = _in_place(elementwise.ceil)
    clamp_ = _in_place(elementwise.clamp)
    cos_ = _in_place(elementwise.cos)
    div_ = _in_place(elementwise.div)
    erf_ = _in_place(elementwise.erf)
    exp_ = _in_place(elementwise.exp)
    expm1_ = _in_place(elementwise.expm1)
    floor_ = _in_place(elementwise.floor)
    floor_divide_ = _in_place(elementwise.floor_divide)
    lerp_ = _in_place(elementwise.lerp)
    log_ = _in_place(elementwise.log)
    log1p_ = _in_place(elementwise.log1p)
    masked_fill_ = _in_place(elementwise.masked_fill)
    mul_ = _in_place(elementwise.mul)
    neg_ = _in_place(elementwise.neg)
    pow_ = _in_place(elementwise.pow)
    reciprocal_ = _in_place(elementwise.reciprocal)
    relu_ = _in_place(elementwise.relu)
    remainder_ = _in_place(elementwise.remainder)
    round_ = _in_place(elementwise.round)
    rsqrt_ = _in_place(elementwise.rsqrt)
    scatter_ = _in_place(index.scatter)
    scatter_add_ = _in_place(index.scatter_add)
    sigmoid_ = _in_place(elementwise.sigmoid)
    sign_ = _in_place(elementwise.sign)
    sin_ = _in_place(elementwise.sin)
    sqrt_ = _in_place(elementwise.sqrt)
    square_ = _in_place(elementwise.square)
    sub_ = _in_place(elementwise.sub)
    tanh_ = _in_place(elementwise.tanh)
    tril_ = _in_place(index.tril)
    triu_ = _in_place(index.triu)
    trunc_ = _in_place(elementwise.trunc)

    # Python's operators
    __add__ = elementwise.add
    __sub__ = elementwise.sub
    __mul__ = elementwise.mul
    __truediv__ = elementwise.div
    __floordiv__ = elementwise.floor_divide
    __mod__ = elementwise.remainder
    __pow__ = elementwise.pow
    __matmul__ = linear.matmul
    __radd__ = _swapped(elementwise.add)
    __rsub__ = _swapped(elementwise.sub)
    __rmul__ = _swapped(elementwise.mul)
    __rtruediv__ = _swapped(elementwise.div)
    __rfloordiv__ = _swapped(elementwise.floor_divide)
    __rmod__ = _swapped(elementwise.remainder)
    __rpow__ = _swapped(elementwise.pow)
    __iadd__ = add_
    __isub__ = sub_
    __imul__ = mul_
    __itruediv__ = div_
    __ifloordiv__ = floor_divide_
    __imod__ = remainder_
    __ipow__ = pow_
    __neg__ = elementwise.neg
    __abs__ = elementwise.abs
    __getitem__ = index.getitem
    __eq__ = elementwise.eq
    __ne__ = elementwise.ne
    __lt__ = elementwise.lt
    __le__ = elementwise.le
    __gt__ = elementwise.gt
    __ge__ = elementwise.ge
    __and__ = elementwise.bitwise_and
    __or__ = elementwise.bitwise_or
    __xor__ = elementwise.bitwise_xor
    __invert__ = elementwise.bitwise_not
    __hash__ = object.__hash__

    def where(self: Tensor, condition: Tensor, other: Any) -> Tensor:  # type: ignore[misc]  # self is a Tensor
        """This tensor where the condition holds, `other` elsewhere."""
        return elementwise.where(condition, self, other)

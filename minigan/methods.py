"""The methods that Tensor has because `minigan.ops` has a function of that name.

`x.exp()` is `exp(x)`, and `x.exp_()` is its result written over x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from minigan import fill, legacy
from minigan.graph import recording_order
from minigan.inplace import assign, keep_saved
from minigan.ops import arithmetic, compare, index, linear, memory, piecewise, reduce, shape, smooth

if TYPE_CHECKING:
    from minigan.tensor import Tensor


def _in_place(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The in-place form of a function: its result written over its first argument."""
    name = f"{function.__name__}_"

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        before = next(recording_order)
        new = function(self, *args, **kwargs)
        keep_saved(self, new, before)
        return assign(self, new, name, made=True)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"`{function.__name__}`, written over this tensor."
    return method


def _swapped(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The reflected form of an operator: `2 - x`."""

    def method(self: Tensor, other: Any) -> Tensor:
        return function(other, self)

    return method


def _unless_none(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """The comparison, left to Python where the other side is None: `x == None` is False."""

    def method(self: Tensor, other: Any) -> Any:
        return NotImplemented if other is None else function(self, other)

    return method


class Methods:
    """Base of Tensor: one line per function."""

    __slots__ = ()

    # elementwise: arithmetic, smooth, piecewise, compare, memory
    abs = piecewise.abs
    add = arithmetic.add
    addcdiv = arithmetic.addcdiv
    addcmul = arithmetic.addcmul
    bitwise_and = compare.bitwise_and
    bitwise_not = compare.bitwise_not
    bitwise_or = compare.bitwise_or
    bitwise_xor = compare.bitwise_xor
    ceil = piecewise.ceil
    clamp = piecewise.clamp
    clamp_max = piecewise.clamp_max
    clamp_min = piecewise.clamp_min
    clone = memory.clone
    contiguous = memory.contiguous
    cos = smooth.cos
    div = arithmetic.div
    eq = compare.eq
    erf = smooth.erf
    exp = smooth.exp
    expm1 = smooth.expm1
    floor = piecewise.floor
    floor_divide = arithmetic.floor_divide
    ge = compare.ge
    gt = compare.gt
    isclose = compare.isclose
    isfinite = compare.isfinite
    isinf = compare.isinf
    isnan = compare.isnan
    le = compare.le
    lerp = arithmetic.lerp
    log = smooth.log
    log10 = smooth.log10
    log1p = smooth.log1p
    log2 = smooth.log2
    logical_and = compare.logical_and
    logical_not = compare.logical_not
    logical_or = compare.logical_or
    logical_xor = compare.logical_xor
    lt = compare.lt
    masked_fill = piecewise.masked_fill
    maximum = piecewise.maximum
    minimum = piecewise.minimum
    mul = arithmetic.mul
    ne = compare.ne
    neg = arithmetic.neg
    pow = arithmetic.pow
    reciprocal = smooth.reciprocal
    relu = piecewise.relu
    remainder = arithmetic.remainder
    round = piecewise.round
    rsqrt = smooth.rsqrt
    sigmoid = smooth.sigmoid
    sign = piecewise.sign
    sin = smooth.sin
    sqrt = smooth.sqrt
    square = smooth.square
    sub = arithmetic.sub
    tanh = smooth.tanh
    trunc = piecewise.trunc
    clip = piecewise.clamp

    # shape
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

    # index
    diagonal = index.diagonal
    gather = index.gather
    index_select = index.index_select
    masked_select = index.masked_select
    nonzero = index.nonzero
    scatter = index.scatter
    scatter_add = index.scatter_add
    tril = index.tril
    triu = index.triu

    # reduce
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

    # linear
    addmm = linear.addmm
    baddbmm = linear.baddbmm
    bmm = linear.bmm
    dot = linear.dot
    matmul = linear.matmul
    mm = linear.mm
    mv = linear.mv
    outer = linear.outer

    # In place
    abs_ = _in_place(piecewise.abs)
    add_ = _in_place(arithmetic.add)
    addcdiv_ = _in_place(arithmetic.addcdiv)
    addcmul_ = _in_place(arithmetic.addcmul)
    ceil_ = _in_place(piecewise.ceil)
    clamp_ = _in_place(piecewise.clamp)
    clamp_max_ = _in_place(piecewise.clamp_max)
    clamp_min_ = _in_place(piecewise.clamp_min)
    cos_ = _in_place(smooth.cos)
    div_ = _in_place(arithmetic.div)
    erf_ = _in_place(smooth.erf)
    exp_ = _in_place(smooth.exp)
    expm1_ = _in_place(smooth.expm1)
    floor_ = _in_place(piecewise.floor)
    floor_divide_ = _in_place(arithmetic.floor_divide)
    lerp_ = _in_place(arithmetic.lerp)
    log_ = _in_place(smooth.log)
    log1p_ = _in_place(smooth.log1p)
    masked_fill_ = _in_place(piecewise.masked_fill)
    mul_ = _in_place(arithmetic.mul)
    neg_ = _in_place(arithmetic.neg)
    pow_ = _in_place(arithmetic.pow)
    reciprocal_ = _in_place(smooth.reciprocal)
    relu_ = _in_place(piecewise.relu)
    remainder_ = _in_place(arithmetic.remainder)
    round_ = _in_place(piecewise.round)
    rsqrt_ = _in_place(smooth.rsqrt)
    scatter_ = _in_place(index.scatter)
    scatter_add_ = _in_place(index.scatter_add)
    sigmoid_ = _in_place(smooth.sigmoid)
    sign_ = _in_place(piecewise.sign)
    sin_ = _in_place(smooth.sin)
    sqrt_ = _in_place(smooth.sqrt)
    square_ = _in_place(smooth.square)
    sub_ = _in_place(arithmetic.sub)
    tanh_ = _in_place(smooth.tanh)
    tril_ = _in_place(index.tril)
    triu_ = _in_place(index.triu)
    trunc_ = _in_place(piecewise.trunc)

    # fill: over the whole tensor
    copy_ = fill.copy_
    fill_ = fill.fill_
    zero_ = fill.zero_
    normal_ = fill.normal_
    uniform_ = fill.uniform_
    bernoulli_ = fill.bernoulli_
    random_ = fill.random_

    # of older scripts
    new = legacy.new
    resize_ = legacy.resize_
    resize_as_ = legacy.resize_as_

    # Python's operators
    __add__ = arithmetic.add
    __sub__ = arithmetic.sub
    __mul__ = arithmetic.mul
    __truediv__ = arithmetic.div
    __floordiv__ = arithmetic.floor_divide
    __mod__ = arithmetic.remainder
    __pow__ = arithmetic.pow
    __matmul__ = linear.matmul
    __radd__ = _swapped(arithmetic.add)
    __rsub__ = _swapped(arithmetic.sub)
    __rmul__ = _swapped(arithmetic.mul)
    __rtruediv__ = _swapped(arithmetic.div)
    __rfloordiv__ = _swapped(arithmetic.floor_divide)
    __rmod__ = _swapped(arithmetic.remainder)
    __rpow__ = _swapped(arithmetic.pow)
    __iadd__ = add_
    __isub__ = sub_
    __imul__ = mul_
    __itruediv__ = div_
    __ifloordiv__ = floor_divide_
    __imod__ = remainder_
    __ipow__ = pow_
    __neg__ = arithmetic.neg

    def __pos__(self: Any) -> Any:
        return self

    __abs__ = piecewise.abs
    __getitem__ = index.getitem
    __eq__ = _unless_none(compare.eq)
    __ne__ = _unless_none(compare.ne)
    __lt__ = compare.lt
    __le__ = compare.le
    __gt__ = compare.gt
    __ge__ = compare.ge
    __and__ = compare.bitwise_and
    __or__ = compare.bitwise_or
    __xor__ = compare.bitwise_xor
    __invert__ = compare.bitwise_not
    __hash__ = object.__hash__

    def where(self: Tensor, condition: Tensor, other: Any) -> Tensor:  # type: ignore[misc]  # self is a Tensor
        """This tensor where the condition holds, `other` elsewhere."""
        return piecewise.where(condition, self, other)

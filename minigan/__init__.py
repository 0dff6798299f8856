"""minigan: a from-scratch deep-learning engine that trains GANs, in PyTorch's dialect.

>>> import minigan as mg
>>> x = mg.tensor([1.0, 2.0, 3.0], requires_grad=True)
>>> (x**2).sum().backward()
>>> x.grad
tensor([2., 4., 6.])
"""

from math import inf, nan, pi

from numpy import finfo, iinfo

from minigan import autograd, backends, cuda, data, nn, ops, optim, profiler, random, testing, utils
from minigan.autograd import enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled
from minigan.backend import device, get_default_device, set_default_device
from minigan.creation import (
    arange,
    as_tensor,
    bernoulli,
    empty,
    empty_like,
    eye,
    from_dlpack,
    from_numpy,
    full,
    full_like,
    is_tensor,
    linspace,
    multinomial,
    normal,
    ones,
    ones_like,
    rand,
    rand_like,
    randint,
    randn,
    randn_like,
    randperm,
    tensor,
    zeros,
    zeros_like,
)
from minigan.cuda import get_float32_matmul_precision, set_float32_matmul_precision
from minigan.dtypes import (
    bool,
    double,
    dtype,
    float,
    float16,
    float32,
    float64,
    get_default_dtype,
    half,
    int,
    int8,
    int16,
    int32,
    int64,
    long,
    set_default_dtype,
    short,
    uint8,
)
from minigan.kernels.cpu.choose import conv_algorithm
from minigan.kernels.cpu.workers import get_num_threads, set_num_threads
from minigan.legacy import TYPES as _TYPES
from minigan.legacy import set_default_tensor_type
from minigan.memory_format import channels_last, contiguous_format, memory_format, preserve_format
from minigan.nn.fusion import fusion
from minigan.ops.arithmetic import add, addcdiv, addcmul, div, floor_divide, lerp, mul, neg, pow, remainder, sub
from minigan.ops.compare import (
    eq,
    ge,
    gt,
    isclose,
    isfinite,
    isinf,
    isnan,
    le,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    lt,
    ne,
)
from minigan.ops.index import (
    diagonal,
    gather,
    index_select,
    masked_select,
    nonzero,
    scatter,
    scatter_add,
    tril,
    triu,
)
from minigan.ops.linear import addmm, baddbmm, bmm, dot, einsum, matmul, mm, mv, outer
from minigan.ops.memory import clone
from minigan.ops.piecewise import (
    abs,
    ceil,
    clamp,
    clamp_max,
    clamp_min,
    floor,
    masked_fill,
    maximum,
    minimum,
    relu,
    round,
    sign,
    trunc,
    where,
)
from minigan.ops.reduce import (
    all,
    allclose,
    amax,
    amin,
    any,
    argmax,
    argmin,
    argsort,
    cumsum,
    equal,
    log_softmax,
    logsumexp,
    max,
    mean,
    min,
    norm,
    prod,
    softmax,
    sort,
    std,
    sum,
    topk,
    var,
)
from minigan.ops.shape import (
    broadcast_to,
    cat,
    chunk,
    flatten,
    flip,
    meshgrid,
    movedim,
    narrow,
    permute,
    repeat_interleave,
    reshape,
    roll,
    split,
    squeeze,
    stack,
    t,
    tile,
    transpose,
    unbind,
    unflatten,
    unsqueeze,
)
from minigan.ops.smooth import (
    cos,
    erf,
    exp,
    expm1,
    log,
    log1p,
    log2,
    log10,
    reciprocal,
    rsqrt,
    sigmoid,
    sin,
    sqrt,
    square,
    tanh,
)
from minigan.random import Generator, get_rng_state, manual_seed, set_rng_state, use_deterministic_algorithms
from minigan.serialization import load, save
from minigan.tensor import Tensor

__version__ = "0.1.0"
Size = tuple  # of shapes
clip, concat, numel = clamp, cat, Tensor.numel
globals().update(_TYPES)  # FloatTensor, LongTensor, …

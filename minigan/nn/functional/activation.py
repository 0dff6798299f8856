"""Activation functions. With `inplace=True` the result is written over the input."""

from __future__ import annotations

import math
import warnings

import minigan as mg
from minigan.nn.functional.linear import linear
from minigan.ops import piecewise, reduce, smooth
from minigan.tensor import Tensor


def _finish(x: Tensor, y: Tensor, inplace: bool, name: str) -> Tensor:
    return x._assign(y, f"{name} with inplace=True") if inplace else y


def _source(x: Tensor, inplace: bool) -> Tensor:
    """What to compute from: a copy if x itself, which the derivative needs, is to be overwritten."""
    return x.clone() if inplace else x


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0)

    >>> relu(mg.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    return _finish(input, piecewise.relu(input), inplace, "relu")


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where x > 0, negative_slope·x elsewhere"""
    x = _source(input, inplace) if negative_slope < 0 else input
    return _finish(input, piecewise.leaky_relu(x, negative_slope), inplace, "leaky_relu")


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x limited to [min_val, max_val]; the slope is 0 on the edges too"""
    y = mg.where(input <= min_val, min_val, mg.where(input >= max_val, max_val, input))
    return _finish(input, y, inplace, "hardtanh")


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """x limited to [0, 6]"""
    return hardtanh(input, 0.0, 6.0, inplace)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, α·(eˣ - 1) elsewhere"""
    x = _source(input, inplace)
    y = x.relu() + alpha * x.clamp(max=0).expm1()  # no `where`: it is slow, and eˣ may overflow in its other branch
    return _finish(input, y, inplace, "elu")


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """λ·elu(x, α) with the α and λ that keep mean 0 and variance 1 (Klambauer et al., 2017)"""
    scale, alpha = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
    return _finish(input, scale * elu(_source(input, inplace), alpha), inplace, "selu")


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x·Φ(x), Φ being the normal distribution function, or its 'tanh' approximation"""
    x = input
    if approximate == "tanh":
        return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)).tanh())
    if approximate != "none":
        raise RuntimeError(f"gelu: got approximate {approximate!r}, expected 'none' or 'tanh'")
    return 0.5 * x * (1 + (x * math.sqrt(0.5)).erf())


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x·σ(x)"""
    x = _source(input, inplace)
    return _finish(input, x * x.sigmoid(), inplace, "silu")


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x where x > 0, w·x elsewhere; w has one value, or one per channel (axis 1)"""
    if weight.numel() != 1:
        if input.ndim < 2 or weight.shape != (input.shape[1],):
            raise RuntimeError(
                f"prelu: got input of shape {tuple(input.shape)} and weight of shape {tuple(weight.shape)}: "
                "expected a weight with one value, or one for each channel (axis 1) of the input"
            )
        weight = weight.reshape(-1, *[1] * (input.ndim - 2))
    elif weight.ndim:
        weight = weight.reshape(())
    return mg.where(input > 0, input, weight * input)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + e^βx) / β, and x itself where βx > threshold"""
    return smooth.softplus(input, beta, threshold)


def logsigmoid(input: Tensor) -> Tensor:
    """log σ(x), exact for large |x|"""
    return smooth.logsigmoid(input)


def sigmoid(input: Tensor) -> Tensor:
    """σ(x) = 1 / (1 + e⁻ˣ)"""
    return input.sigmoid()


def tanh(input: Tensor) -> Tensor:
    """tanh x"""
    return input.tanh()


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: mg.dtype | None = None) -> Tensor:
    """eˣ / Σeˣ along an axis"""
    return reduce.softmax(input, _axis("softmax", input, dim, _stacklevel), dtype)


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: mg.dtype | None = None) -> Tensor:
    """log softmax, exact for very unequal x"""
    return reduce.log_softmax(input, _axis("log_softmax", input, dim, _stacklevel), dtype)


def gumbel_softmax(logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """A sample of the classes, softmax((logits + Gumbel noise)/τ); `hard`: one-hot, with the soft one's gradient.

    >>> gumbel_softmax(mg.randn(4, 3), hard=True).sum(-1)
    tensor([1., 1., 1., 1.])
    """
    noise = -(-mg.log1p(-mg.rand_like(logits))).log()
    soft = reduce.softmax((logits + noise) / tau, dim)
    if not hard:
        return soft
    one_hot = mg.zeros_like(soft).scatter(dim, soft.argmax(dim, keepdim=True), 1.0)
    return one_hot - soft.detach() + soft


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a·σ(b), where a and b are the halves of x along an axis"""
    if input.shape[dim] % 2:
        raise RuntimeError(f"glu: expected an even size along axis {dim}, got {input.shape[dim]}")
    half = input.shape[dim] // 2
    return input.narrow(dim, 0, half) * input.narrow(dim, half, half).sigmoid()


def _axis(name: str, x: Tensor, dim: int | None, stacklevel: int) -> int:
    if dim is not None:
        return dim
    dim = 0 if x.ndim in (0, 1, 3) else 1
    warnings.warn(f"{name}: no dim given, {dim} is taken; say dim={dim}", stacklevel=stacklevel)
    return dim


def maxout(input: Tensor, weight: Tensor, bias: Tensor | None = None, pieces: int = 2) -> Tensor:
    """max over j of x·Wᵢⱼ + bᵢⱼ, for every unit i (Goodfellow et al., 2013); beyond PyTorch.

    Rows i·pieces … (i+1)·pieces - 1 of the weight, of shape (units·pieces, in), are the pieces of unit i.

    >>> maxout(mg.tensor([2.0]), mg.tensor([[1.0], [-1.0]]))  # |x|
    tensor([2.])
    """
    if pieces < 1 or weight.shape[0] % pieces:
        raise RuntimeError(f"maxout: weight of shape {tuple(weight.shape)} does not divide into {pieces} pieces a unit")
    return linear(input, weight, bias).unflatten(-1, (weight.shape[0] // pieces, pieces)).amax(-1)

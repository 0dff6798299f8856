"""Products with weights (linear, bilinear, embedding), recurrent cells, and similarities of vectors."""

from __future__ import annotations

import minigan as mg
from minigan import graphs
from minigan.ops.index import take_rows
from minigan.ops.linear import check_same_dtype, linear
from minigan.tensor import Tensor

__all__ = ["bilinear", "cosine_similarity", "embedding", "gru_cell", "linear", "lstm_cell", "normalize", "one_hot"]


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x₁ᵀ·W·x₂ + b for W of shape (out, in1, in2), over the last axes."""
    check_same_dtype("bilinear", input1, input2, weight, bias)
    if input1.shape[:-1] != input2.shape[:-1] or (input1.shape[-1], input2.shape[-1]) != weight.shape[1:]:
        raise RuntimeError(
            f"bilinear: got inputs of shapes {tuple(input1.shape)} and {tuple(input2.shape)} and weight of shape "
            f"{tuple(weight.shape)}: expected (…, in1), (…, in2) and (out, in1, in2)"
        )
    y = mg.einsum("...i,oij,...j->...o", input1, weight, input2)
    return y if bias is None else y + bias


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """The rows of the weight that the input names; row `padding_idx` gets no gradient.

    >>> embedding(mg.tensor([1, 0]), mg.eye(2))
    tensor([[0., 1.],
            [1., 0.]])
    """
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise NotImplementedError("embedding: max_norm, scale_grad_by_freq and sparse are not supported")
    rows = weight.shape[0]
    if input.dtype.kind not in "iu":
        raise RuntimeError(f"embedding: got an input of dtype {input.dtype}, expected integers; use .long()")
    if not graphs.capturing(input.B) and ((input < 0) | (input >= rows)).any():  # in a graph there is nobody to look
        raise IndexError(f"embedding: index out of range: expected 0 to {rows - 1}, the rows of the weight")
    y = take_rows(weight, input) if input.ndim else weight[input].clone()  # a single row would be a view of the weight
    if padding_idx is None:
        return y
    if not -rows <= padding_idx < rows:
        raise RuntimeError(f"embedding: padding_idx {padding_idx} is not a row of a weight with {rows} rows")
    return mg.where((input == padding_idx % rows).unsqueeze(-1), y.detach(), y)


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """1 at the class along a new last axis, 0 elsewhere, as int64.

    >>> one_hot(mg.tensor([1, 0]), 3)
    tensor([[0, 1, 0],
            [1, 0, 0]])
    """
    if tensor.dtype != mg.int64:
        raise RuntimeError(f"one_hot: got classes of dtype {tensor.dtype}, expected int64; use .long()")
    if not tensor.numel() and num_classes < 1:
        raise RuntimeError("one_hot: a tensor without values does not tell the number of classes; give num_classes")
    hot = tensor.unsqueeze(-1)
    if graphs.capturing(tensor.B) and num_classes > 0:  # in a graph there is nobody to look
        return (hot == mg.arange(num_classes, device=tensor.device)).long()
    if tensor.numel() and tensor.min().item() < 0:
        raise RuntimeError("one_hot: class values must be non-negative")
    largest = tensor.max().item() if tensor.numel() else -1
    count = largest + 1 if num_classes == -1 else num_classes
    if largest >= count:
        raise RuntimeError(f"one_hot: class values must be smaller than num_classes: got {largest}, expected < {count}")
    return (hot == mg.arange(count, device=tensor.device)).long()


# Recurrent cells: one step, gates in PyTorch's order -----------------------------------------------------


def lstm_cell(
    input: Tensor,
    hx: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """c' = σ(f)·c + σ(i)·tanh(g), h' = σ(o)·tanh(c'), with i, f, g, o = x·W_ihᵀ + b_ih + h·W_hhᵀ + b_hh."""
    h, c = hx
    gates = linear(input, w_ih, b_ih) + linear(h, w_hh, b_hh)
    i, f, g, o = gates.chunk(4, -1)
    new_c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * new_c.tanh(), new_c


def gru_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """h' = (1 - z)·n + z·h, n = tanh(xₙ + r·hₙ), r = σ(xᵣ + hᵣ), z = σ(x_z + h_z), order r, z, n in the weights."""
    x_r, x_z, x_n = linear(input, w_ih, b_ih).chunk(3, -1)
    h_r, h_z, h_n = linear(hx, w_hh, b_hh).chunk(3, -1)
    z = (x_z + h_z).sigmoid()
    n = (x_n + (x_r + h_r).sigmoid() * h_n).tanh()
    return (1 - z) * n + z * hx


# Lengths and angles --------------------------------------------------------------------------------------


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x / max(‖x‖ₚ, eps) along an axis."""
    return input / input.norm(p, dim, keepdim=True).clamp(min=eps)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x₁·x₂ / (max(‖x₁‖, eps)·max(‖x₂‖, eps)) along an axis.

    >>> cosine_similarity(mg.tensor([1.0, 0.0]), mg.tensor([2.0, 0.0]), dim=0)
    tensor(1.)
    """
    return (normalize(x1, 2, dim, eps) * normalize(x2, 2, dim, eps)).sum(dim)

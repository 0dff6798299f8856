"""Layers that multiply by a weight: Linear, Bilinear, Maxout, Embedding, and the recurrent cells."""

from __future__ import annotations

import math
from typing import Any

import minigan.nn.functional as F
from minigan.creation import empty
from minigan.grad_mode import no_grad
from minigan.nn import init
from minigan.nn.module import Module
from minigan.nn.parameter import Parameter
from minigan.tensor import Tensor


class Identity(Module):
    """x itself; any arguments are accepted, so that it can stand in for any layer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return input


def _uniform(bound: float, *parameters: Parameter | None) -> None:
    for parameter in parameters:
        if parameter is not None:
            init.uniform_(parameter, -bound, bound)


class Linear(Module):
    """y = x·Wᵀ + b over the last axis, W of shape (out_features, in_features).

    >>> import minigan as mg
    >>> Linear(3, 2)(mg.zeros(5, 3)).shape
    (5, 2)
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(empty(out_features, in_features, device=device, dtype=dtype))
        self.register_parameter("bias", Parameter(empty(out_features, device=device, dtype=dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight and bias uniform in ±1 / √in_features."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        _uniform(1 / math.sqrt(self.in_features) if self.in_features else 0.0, self.bias)

    def forward(self, input: Tensor, *, _slope: float | None = None) -> Tensor:
        if input.ndim == 0 or input.shape[-1] != self.in_features:
            raise self._shape_error(input, f"(…, {self.in_features})")
        return F.linear(input, self.weight, self.bias, _slope=_slope)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Bilinear(Module):
    """y = x₁ᵀ·W·x₂ + b over the last axes, W of shape (out_features, in1_features, in2_features)."""

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if in1_features <= 0:
            raise ValueError(f"Bilinear: in1_features must be positive, got {in1_features}")
        self.in1_features, self.in2_features, self.out_features = in1_features, in2_features, out_features
        self.weight = Parameter(empty(out_features, in1_features, in2_features, device=device, dtype=dtype))
        self.register_parameter("bias", Parameter(empty(out_features, device=device, dtype=dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight and bias uniform in ±1 / √in1_features."""
        _uniform(1 / math.sqrt(self.in1_features), self.weight, self.bias)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        for x, features in ((input1, self.in1_features), (input2, self.in2_features)):
            if x.ndim == 0 or x.shape[-1] != features:
                raise self._shape_error(x, f"(…, {features})")
        return F.bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )


class Maxout(Linear):
    """max over `pieces` linear maps, for every output (Goodfellow et al., 2013); beyond PyTorch.

    The weight is that of Linear(in_features, out_features·pieces); the pieces of one output are neighbours.

    >>> import minigan as mg
    >>> layer = Maxout(3, 2, pieces=5)
    >>> layer(mg.zeros(4, 3)).shape, layer.weight.shape
    ((4, 2), (10, 3))
    """

    def __init__(
        self, in_features: int, out_features: int, pieces: int = 2, bias: bool = True, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        if pieces < 1:
            raise ValueError(f"Maxout: pieces must be positive, got {pieces}")
        super().__init__(in_features, out_features * pieces, bias, device, dtype)
        self.out_features, self.pieces = out_features, pieces

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]  # fusion gives a slope to Linear alone
        if input.ndim == 0 or input.shape[-1] != self.in_features:
            raise self._shape_error(input, f"(…, {self.in_features})")
        return F.maxout(input, self.weight, self.bias, self.pieces)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, pieces={self.pieces}"


class Embedding(Module):
    """A table of learned vectors: index i gives row i; row `padding_idx` starts at 0 and is not trained.

    >>> import minigan as mg
    >>> Embedding(10, 4)(mg.tensor([1, 7])).shape
    (2, 4)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if max_norm is not None or scale_grad_by_freq or sparse:
            raise NotImplementedError("Embedding: max_norm, scale_grad_by_freq and sparse are not supported")
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(f"Embedding: padding_idx {padding_idx} is not one of {num_embeddings} rows")
            padding_idx %= num_embeddings
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        if _weight is None:
            self.weight = Parameter(empty(num_embeddings, embedding_dim, device=device, dtype=dtype))
            self.reset_parameters()
        else:
            self.weight = Parameter(_weight)

    @classmethod
    def from_pretrained(cls, embeddings: Tensor, freeze: bool = True, padding_idx: int | None = None) -> Embedding:
        """A layer around given vectors (rows, dim), by default not trained."""
        rows, width = embeddings.shape
        layer = cls(rows, width, padding_idx, _weight=embeddings)
        layer.weight.requires_grad_(not freeze)
        return layer

    def reset_parameters(self) -> None:
        """Standard normal, and 0 in row `padding_idx`."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                self.weight[self.padding_idx].fill_(0)

    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(input, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


class _Cell(Module):
    """Base of the recurrent cells: four parameters, with `_gates` blocks of rows each."""

    _gates: int

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        rows = self._gates * hidden_size
        for name, shape in (("weight_ih", (rows, input_size)), ("weight_hh", (rows, hidden_size))):
            self.register_parameter(name, Parameter(empty(shape, device=device, dtype=dtype)))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, Parameter(empty(rows, device=device, dtype=dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Everything uniform in ±1 / √hidden_size."""
        _uniform(1 / math.sqrt(self.hidden_size) if self.hidden_size else 0.0, *self.parameters())

    def _state(self, x: Tensor, state: Tensor | None) -> Tensor:
        """The given state, or zeros, once it is known to fit x."""
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise self._shape_error(x, f"(N, {self.input_size}) or ({self.input_size},)")
        expected = (*x.shape[:-1], self.hidden_size)
        if state is None:
            return x.new_zeros(expected)
        if state.shape != expected:
            raise self._shape_error(state, f"a state of shape {expected}")
        return state

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class LSTMCell(_Cell):
    """One step of long short-term memory: (x, (h, c)) to (h', c'), gates in the order i, f, g, o.

    >>> import minigan as mg
    >>> h, c = LSTMCell(3, 5)(mg.zeros(2, 3))
    >>> h.shape, c.shape
    ((2, 5), (2, 5))
    """

    _gates = 4

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        h, c = (None, None) if hx is None else hx
        state = self._state(input, h), self._state(input, c)
        return F.lstm_cell(input, state, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)


class GRUCell(_Cell):
    """One step of a gated recurrent unit: (x, h) to h', gates in the order r, z, n."""

    _gates = 3

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        state = self._state(input, hx)
        return F.gru_cell(input, state, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)

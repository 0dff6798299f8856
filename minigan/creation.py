"""Making tensors: from data, from a rule, and at random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minigan import dtypes, random
from minigan.backend import Backend, get_backend
from minigan.check import check_tensors, fitting, new_shape, number, whole
from minigan.dtypes import checked_dtype
from minigan.graph import wrap
from minigan.graphs import refuse
from minigan.observe import observers
from minigan.tensor import Tensor

_SIGNED = {np.dtype("uint16"): np.dtype("int32"), np.dtype("uint32"): np.dtype("int64")}


def _finish(array: Any, B: Backend, requires_grad: bool) -> Tensor:
    return wrap(array, B, None).requires_grad_(requires_grad) if requires_grad else wrap(array, B, None)


def _host_array(data: Any, dtype: Any) -> np.ndarray:
    """A NumPy array with PyTorch's dtypes: Python floats are float32, integers int64."""
    if isinstance(data, (list, tuple)) and _holds_tensors(data):
        data = _without_tensors(data)
    try:
        array = np.asarray(data)
    except ValueError as error:
        raise ValueError(f"tensor: expected nested lists of one length per level ({error})") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"tensor: cannot make a tensor from {type(data).__name__} data of dtype {array.dtype}")
    if dtype is not None:
        dtype = checked_dtype("tensor", dtype)
        return array.astype(dtype, copy=False) if isinstance(data, np.ndarray) else fitting("tensor", array, dtype)
    if isinstance(data, (np.ndarray, np.generic)):
        return array
    return array.astype(dtypes.get_default_dtype()) if array.dtype.kind == "f" else array


def _holds_tensors(data: Any) -> bool:
    return isinstance(data, Tensor) or (isinstance(data, (list, tuple)) and any(_holds_tensors(d) for d in data))


def _without_tensors(data: Any) -> Any:
    if isinstance(data, Tensor):
        return data.tolist()
    return [_without_tensors(d) for d in data] if isinstance(data, (list, tuple)) else data


def tensor(
    data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False
) -> Tensor:
    """A new tensor with a copy of the data.

    >>> tensor([[1, 2], [3, 4]])
    tensor([[1, 2],
            [3, 4]])
    """
    if isinstance(data, Tensor):
        copy = data.detach().clone().to(device=device, dtype=dtype)
        return copy.requires_grad_(requires_grad)
    B = get_backend(device)
    refuse(B, "tensor(), a copy of values of the host,")
    return _finish(B.asarray(np.array(_host_array(data, dtype))), B, requires_grad)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """A tensor of the data, sharing its memory where that is possible."""
    if isinstance(data, Tensor):
        return data.to(device=device, dtype=dtype)
    if isinstance(data, np.ndarray):
        return from_numpy(data).to(device=get_backend(device).device, dtype=dtype)
    return tensor(data, dtype=dtype, device=device)


def is_tensor(x: Any) -> bool:
    """Whether x is a Tensor."""
    return isinstance(x, Tensor)


_RANK = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 2}


def as_operand(value: Any, like: Tensor) -> Tensor:
    """A number, array or Tensor as a Tensor of `like`'s dtype, on `like`'s device."""
    if isinstance(value, Tensor):
        if value.B is not like.B:
            raise RuntimeError(f"expected all tensors on one device, got {like.device} and {value.device}")
        if _RANK[value.dtype.kind] > _RANK[like.dtype.kind]:
            raise RuntimeError(f"a result of dtype {value.dtype} cannot be written into a tensor of dtype {like.dtype}")
        return value.to(like.dtype)
    host = fitting("in-place change", value, like.dtype)
    if host.ndim:
        refuse(like.B, "a change by an array of the host")
    # Of one number a kernel makes an array: nothing is copied from the host.
    return wrap(like.B.asarray(host) if host.ndim else like.B.xp.full((), host.item(), like.dtype), like.B, None)


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares the array's memory."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected a numpy.ndarray, got {type(array).__name__}")
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise TypeError(f"from_numpy: dtype {array.dtype} is not supported: expected a float, integer or bool dtype")
    B = get_backend("cpu")
    return wrap(B.asarray(array.astype(array.dtype.newbyteorder("="), copy=False)), B, None)


def from_dlpack(other: Any) -> Tensor:
    """A tensor that shares the memory of another library's array (`__dlpack__`)."""
    if not hasattr(other, "__dlpack__"):
        raise TypeError(f"from_dlpack: expected an array that has `__dlpack__`, got {type(other).__name__}")
    where = other.__dlpack_device__()[0] if hasattr(other, "__dlpack_device__") else 1
    B = get_backend("cuda" if where == 2 else "cpu")
    return wrap(B.xp.from_dlpack(other), B, None)


# From a rule ------------------------------------------------------------------------------------------


def _floating(dtype: Any) -> np.dtype:
    return dtypes.get_default_dtype() if dtype is None else checked_dtype("dtype", dtype)


def zeros(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, out: Any = None,
    layout: Any = None, pin_memory: bool = False,
) -> Tensor:  # fmt: skip
    """Zeros of a shape."""
    B = get_backend(device)
    return _finish(B.xp.zeros(new_shape(size, "zeros"), _floating(dtype)), B, requires_grad)


def ones(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, out: Any = None,
    layout: Any = None, pin_memory: bool = False,
) -> Tensor:  # fmt: skip
    """Ones of a shape."""
    B = get_backend(device)
    return _finish(B.xp.ones(new_shape(size, "ones"), _floating(dtype)), B, requires_grad)


def empty(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, memory_format: Any = None,
    layout: Any = None, pin_memory: bool = False,
) -> Tensor:  # fmt: skip
    """Memory of a shape, with whatever values stand there."""
    B = get_backend(device)
    return _finish(B.xp.empty(new_shape(size, "empty"), _floating(dtype)), B, requires_grad)


def full(
    size: Sequence[int],
    fill_value: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """One value in a shape."""
    B = get_backend(device)
    if dtype is None:
        dtype = {bool: dtypes.bool, int: dtypes.int64}.get(type(fill_value), dtypes.get_default_dtype())
    value = fitting("full", fill_value, checked_dtype("full", dtype)).item()
    return _finish(B.xp.full(new_shape((size,), "full"), value, np.dtype(dtype)), B, requires_grad)


def arange(
    start: Any = 0, end: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """start, start + step, … below end.

    >>> arange(5)
    tensor([0, 1, 2, 3, 4])
    """
    if end is None:
        start, end = 0, start
    start, end, step = (number("arange", bound) for bound in (start, end, step))
    if step == 0:
        raise RuntimeError("arange: step must not be 0")
    if (end - start) * step < 0:
        raise RuntimeError(f"arange: from {start} to {end} with step {step}: the bounds contradict the step's sign")
    if math.inf in (abs(start), abs(end)):
        raise RuntimeError(f"arange: expected finite bounds, got {start} and {end}")
    integers = all(isinstance(v, int) for v in (start, end, step))
    kind = dtypes.int64 if integers else dtypes.get_default_dtype()
    kind = kind if dtype is None else checked_dtype("arange", dtype)
    (count,) = new_shape((math.ceil((end - start) / step),), "arange")
    B = get_backend(device)
    values = (start + step * np.arange(count)).astype(kind)
    return _finish(B.constant(values), B, requires_grad)


def linspace(
    start: float,
    end: float,
    steps: int,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`steps` values from start to end, both included."""
    start, end, (steps,) = number("linspace", start), number("linspace", end), new_shape((steps,), "linspace")
    B = get_backend(device)
    return _finish(B.constant(np.linspace(start, end, steps).astype(_floating(dtype))), B, requires_grad)


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones on the diagonal of an n × m matrix."""
    n, m = new_shape((n, n if m is None else m), "eye")
    B = get_backend(device)
    return _finish(B.xp.eye(n, m, dtype=_floating(dtype)), B, requires_grad)


def _like(x: Tensor, dtype: Any, device: Any) -> dict[str, Any]:
    return {"dtype": x.dtype if dtype is None else dtype, "device": x.device if device is None else device}


def zeros_like(x: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, **_: Any) -> Tensor:
    """Zeros of x's shape, dtype and device."""
    return zeros(x.shape, **_like(x, dtype, device), requires_grad=requires_grad)


def ones_like(x: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, **_: Any) -> Tensor:
    """Ones of x's shape, dtype and device."""
    return ones(x.shape, **_like(x, dtype, device), requires_grad=requires_grad)


def empty_like(x: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, **_: Any) -> Tensor:
    """Memory of x's shape, dtype and device."""
    return empty(x.shape, **_like(x, dtype, device), requires_grad=requires_grad)


def full_like(
    x: Tensor,
    fill_value: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    **_: Any,
) -> Tensor:
    """One value in x's shape, dtype and device."""
    return full(x.shape, fill_value, **_like(x, dtype, device), requires_grad=requires_grad)


# At random --------------------------------------------------------------------------------------------


def _draw(shape: tuple, kind: str, generator: Any, dtype: Any, device: Any, requires_grad: bool) -> Tensor:
    B = get_backend(device)
    dtype = _floating(dtype)
    if dtype.kind != "f":
        raise RuntimeError(f"random numbers of dtype {dtype}: expected a floating dtype; for integers use randint")
    drawn = _finish(random.draw(kind, shape, dtype, B, generator), B, requires_grad)
    for observer in observers:
        observer.drawn(drawn)
    return drawn


def rand(
    *size: Any, generator: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Uniform in [0, 1)."""
    return _draw(new_shape(size, "rand"), "uniform", generator, dtype, device, requires_grad)


def randn(
    *size: Any, generator: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Standard normal."""
    return _draw(new_shape(size, "randn"), "normal", generator, dtype, device, requires_grad)


def rand_like(x: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, **_: Any) -> Tensor:
    """Uniform in [0, 1), of x's shape, dtype and device."""
    return rand(x.shape, **_like(x, dtype, device), requires_grad=requires_grad)


def randn_like(x: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, **_: Any) -> Tensor:
    """Standard normal, of x's shape, dtype and device."""
    return randn(x.shape, **_like(x, dtype, device), requires_grad=requires_grad)


def randint(
    low: int, high: Any = None, size: Any = None, *, generator: Any = None, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Integers in [low, high), as `randint(high, size)` or `randint(low, high, size)`."""
    if size is None:
        low, high, size = 0, low, high
    low, high = whole("randint", low), whole("randint", high)
    if high <= low:
        raise RuntimeError(f"randint: expected low < high, got {low} and {high}")
    B = get_backend(device)
    values = random.source(generator).integers(low, high, new_shape((size,), "randint"))
    return _finish(B.asarray(values.astype(dtypes.int64 if dtype is None else np.dtype(dtype))), B, requires_grad)


def randperm(n: int, *, generator: Any = None, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
    """0 … n-1 in random order."""
    B = get_backend(device)
    (n,) = new_shape((n,), "randperm")
    values = random.source(generator).permutation(n)
    return wrap(B.asarray(values.astype(dtypes.int64 if dtype is None else np.dtype(dtype))), B, None)


def bernoulli(p: Tensor, *, generator: Any = None) -> Tensor:
    """1 with probability p, else 0."""
    check_tensors("bernoulli", p)
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise RuntimeError("bernoulli: expected probabilities from 0 to 1, got others")
    u = rand(p.shape, generator=generator, dtype=p.dtype, device=p.device)
    return (u < p.detach()).to(p.dtype)


def normal(
    mean: Any = 0.0,
    std: Any = 1.0,
    size: Any = None,
    *,
    generator: Any = None,
    dtype: Any = None,
    device: Any = None,
) -> Tensor:
    """Normal with that mean and deviation, each a number or a Tensor."""
    if not isinstance(std, Tensor) and number("normal", std) < 0:
        raise RuntimeError(f"normal: expected std >= 0, got {std}")
    like = mean if isinstance(mean, Tensor) else std
    if isinstance(like, Tensor):
        shapes = [t.shape for t in (mean, std) if isinstance(t, Tensor)]
        try:
            shape = np.broadcast_shapes(*shapes)
        except ValueError:
            raise RuntimeError(f"normal: shapes {shapes[0]} and {shapes[-1]} do not broadcast") from None
        return randn(shape, generator=generator, dtype=like.dtype, device=like.device) * std + mean
    return randn(size, generator=generator, dtype=dtype, device=device) * std + mean


def multinomial(p: Tensor, num_samples: int, replacement: bool = False, *, generator: Any = None) -> Tensor:
    """Indices drawn in proportion to the values of each row."""
    check_tensors("multinomial", p)
    if p.ndim not in (1, 2) or whole("multinomial", num_samples) < 1:
        raise RuntimeError(
            f"multinomial: got {num_samples} samples of weights of shape {tuple(p.shape)}, expected at least 1 sample, "
            "and weights with 1 or 2 axes"
        )
    weights = p.detach().cpu().numpy().astype(np.float64)
    rows = weights.reshape(-1, weights.shape[-1])
    if not np.isfinite(rows).all() or (rows < 0).any() or (rows.sum(1) <= 0).any():
        raise RuntimeError("multinomial: expected finite, non-negative weights with a positive sum in each row")
    source = random.source(generator)
    if replacement:
        edges = np.cumsum(rows, 1) / rows.sum(1, keepdims=True)
        u = source.uniform((len(rows), num_samples), np.float64)
        drawn = (u[:, :, None] >= edges[:, None, :-1]).sum(2)
    else:
        if (np.count_nonzero(rows, 1) < num_samples).any():
            raise RuntimeError(
                f"multinomial: cannot draw {num_samples} without replacement from fewer positive weights"
            )
        # Of independent exponential waiting times with rates p, the shortest come in the right proportion.
        with np.errstate(divide="ignore"):
            waits = -np.log1p(-source.uniform(rows.shape, np.float64)) / rows
        drawn = np.argsort(waits, 1)[:, :num_samples]
    return tensor(drawn.reshape(*weights.shape[:-1], num_samples), dtype=dtypes.int64, device=p.device)

"""Running one piece of code under two names: `T` is minigan in the first run and PyTorch in the second.

What comes out must have the same types, shapes, dtypes and values; what is raised must be of one family.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import minigan as mg

BOTH = (mg, torch)
torch.set_num_threads(1)  # the tensors are small
FAMILIES = (IndexError, KeyError, TypeError, ValueError, AssertionError, RuntimeError)


def dtype_name(x: Any) -> str:
    """As 'float32', for either library's tensors."""
    return str(x.dtype).removeprefix("torch.")


def is_tensor(value: Any) -> bool:
    return isinstance(value, (mg.Tensor, torch.Tensor))


def host(x: Any) -> np.ndarray:
    """A tensor's values in NumPy."""
    return x.numpy(force=True)


def outcome(run: Callable[[Any], Any], T: Any) -> Any:
    """What `run(T)` returns, or the exception it raises."""
    try:
        return run(T)
    except Exception as error:
        return error


def family(error: BaseException) -> type:
    """The builtin exception that a caller would catch."""
    return next((kind for kind in FAMILIES if isinstance(error, kind)), type(error))


def assert_close(ours: np.ndarray, theirs: np.ndarray, tolerance: float, equal_nan: bool = False) -> None:
    """Equal up to `tolerance` times the largest magnitude there is, or 1 if that is more."""
    scale = max(1.0, np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0)) if theirs.dtype.kind == "f" else 1.0
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale, equal_nan=equal_nan)


TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "float16": 2e-3}


def assert_same(ours: Any, theirs: Any, equal_nan: bool = True) -> None:
    """The same structure of tensors and Python values."""
    if isinstance(theirs, BaseException):
        assert isinstance(ours, BaseException), f"PyTorch raised {theirs!r}, minigan returned {ours!r:.300}"
        assert family(ours) is family(theirs), f"PyTorch raised {theirs!r}, minigan {ours!r}"
    elif isinstance(ours, BaseException):
        raise AssertionError(f"PyTorch returned {theirs!r:.300}") from ours
    elif is_tensor(theirs):
        assert is_tensor(ours), f"expected a tensor, got {ours!r}"
        assert (tuple(ours.shape), dtype_name(ours)) == (tuple(theirs.shape), dtype_name(theirs))
        assert_close(host(ours), host(theirs), TOLERANCE.get(dtype_name(ours), 0), equal_nan)
    elif isinstance(theirs, (tuple, list)):
        assert isinstance(ours, (tuple, list))
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b, equal_nan)
    else:
        assert type(ours) is type(theirs), f"expected {theirs!r}, got {ours!r}"
        assert ours == theirs


def derivatives(run: Callable[..., Any], arrays: Sequence[np.ndarray], T: Any, order: int = 2) -> list[Any]:
    """The result of `run(T, *tensors)`, then its gradients and double gradients."""
    xs = [T.tensor(a, requires_grad=True) for a in arrays]
    result = run(T, *xs)
    return [result, *gradients(T, result, xs, order)]


def gradients(T: Any, result: Any, xs: list[Any], order: int = 2) -> list[Any]:
    """Gradients of a result, double gradients, and the gradients once more without a graph, with respect to xs.

    The gradients are of ⟨outputs, c⟩ for random c; the double ones of ⟨gradients, d⟩ for random d, with
    respect to xs and to c. What does not depend on an x has the gradient 0.
    """
    random = np.random.default_rng(0)

    def direction(x: Any, **kwargs: Any) -> Any:
        return T.tensor(random.normal(size=tuple(x.shape)), dtype=x.dtype, device=x.device, **kwargs)

    ys = [y for y in _leaves(result) if y.is_floating_point()]
    cs = [direction(y, requires_grad=True) for y in ys]
    gs = _grad(T, ys, xs, cs, create_graph=order > 1)
    if order == 1:
        return gs
    slopes = [(g * direction(x)).sum() for g, x in zip(gs, xs, strict=True)]
    again = _grad(T, ys, xs, cs, retain_graph=True)
    return gs + again + _grad(T, slopes, xs + cs)


def _leaves(result: Any) -> list[Any]:
    if is_tensor(result):
        return [result]
    return [y for part in result for y in _leaves(part)] if isinstance(result, (tuple, list)) else []


def _grad(T: Any, ys: Any, xs: Any, cs: Any = None, **options: bool) -> list[Any]:
    """Gradients of those ys that have any; 0 for an x that no y depends on."""
    pairs = [(y, c) for y, c in zip(ys, cs or [None] * len(ys), strict=True) if y.requires_grad]
    if not pairs:
        return [T.zeros_like(x) for x in xs]
    ys, cs = zip(*pairs, strict=True)
    gs = T.autograd.grad(ys, xs, cs, allow_unused=True, **options)
    return [T.zeros_like(x) if g is None else g for x, g in zip(xs, gs, strict=True)]


def assert_same_derivatives(run: Callable[..., Any], arrays: Sequence[np.ndarray], order: int = 2) -> None:
    """`run(T, *tensors)` agrees in its result, gradients and (for order 2) double gradients, or in refusing."""
    ours, theirs = (outcome(lambda T: derivatives(run, arrays, T, order), T) for T in BOTH)
    if isinstance(ours, Exception) or isinstance(theirs, Exception):
        assert_same(ours, theirs)
        return
    assert_same(ours[0], theirs[0])
    assert_same_gradients(ours[1:], theirs[1:])


def assert_same_gradients(ours: Sequence[Any], theirs: Sequence[Any], equal_nan: bool = True) -> None:
    """Tensors of the same shapes, dtypes and values."""
    for a, b in zip(map(host, ours), map(host, theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert_close(a, b, TOLERANCE.get(str(a.dtype), 0), equal_nan)

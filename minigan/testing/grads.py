"""Derivatives against numbers that no derivative code has touched.

A directional derivative in a random direction, under a random cotangent, meets every entry of the Jacobian
at once. The cotangent is never one of ones: the gradient of a batch norm is zero under that one, right or wrong.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigan import autograd, creation
from minigan.autograd import enable_grad, no_grad
from minigan.graph import wrap
from minigan.tensor import Tensor
from minigan.testing.graphs import recorded_ops

Many = tuple[Tensor, ...]
Function = Callable[..., Many]  # of floating tensors alone

# (rtol, atol) by dtype: of central differences in float64, and of the gradient itself in float32 and float16
_TOLERANCE = {"float64": (1e-6, 1e-8), "float32": (1e-3, 1e-4), "float16": (3e-2, 3e-2)}
_COMPLEX_RTOL, _COMPLEX_STEP = 1e-10, 1e-30


@dataclass(frozen=True)
class _Plan:
    """What stays the same while `check_grads` goes from order to order."""

    name: str
    order: int
    eps: float
    atol: float | None
    rtol: float | None
    method: str
    random: np.random.Generator


def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int = 2,
    *,
    eps: float = 5e-4,
    atol: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
    method: str = "real",
    name: str | None = None,
) -> None:
    """Assert that the derivatives of f at `args`, up to `order`, are right.

    f returns a Tensor or several; its floating Tensor arguments are differentiated, the others passed through.
    Order 1 compares ⟨u, ∂f·v⟩ by differences with ⟨∂fᵀ·u, v⟩ by `autograd.grad`; order 2 does the same with the
    function (x, u) ↦ ∂fᵀ·u, and so on. Each gradient must have its input's shape and dtype.

    The differences are always taken in float64, with f evaluated up to 3·eps away: keep values that far from
    kinks. They agree when the two differ by at most atol + rtol·Σ|terms|. `method="complex"` takes the first
    order's differences by a complex step, exact to rounding, for f made of analytic functions; "auto" does so
    where f can be evaluated on complex numbers.

    >>> import minigan as mg
    >>> check_grads(lambda x, y: mg.exp(x) * y, (mg.randn(3), mg.randn(2, 3)))
    """
    if method not in ("real", "complex", "auto"):
        raise ValueError(f"check_grads: got method {method!r}, expected 'real', 'complex' or 'auto'")
    places = [i for i, arg in enumerate(args) if isinstance(arg, Tensor) and arg.is_floating_point()]

    def of_floats(*xs: Tensor) -> Many:
        filled = list(args)
        for i, x in zip(places, xs, strict=True):
            filled[i] = x
        return _outputs(f(*filled))

    with enable_grad():
        label = name or _name(f, of_floats(*(_leaf(args[i]) for i in places)))
        plan = _Plan(label, order, eps, atol, rtol, method, np.random.default_rng(seed))
        _check(of_floats, [args[i] for i in places], [f"input {i}" for i in places], 1, plan)


def _check(f: Function, xs: list[Tensor], labels: list[str], level: int, plan: _Plan) -> None:
    """Order `level` of the plan, of which f is the vjp of the order before; then the orders after it."""
    leaves = [_leaf(x) for x in xs]
    ys = f(*leaves)
    us = [_like(_direction(y.shape, plan.random), y) for y in ys]
    gs = _gradients(ys, leaves, us)
    for i, (label, x, g) in enumerate(zip(labels, xs, gs, strict=True)):
        what = f"{plan.name}: order {level}, {label} of shape {tuple(x.shape)} {x.dtype}"
        if g.shape != x.shape or g.dtype != x.dtype:
            raise AssertionError(f"{what}: its gradient has shape {tuple(g.shape)} and dtype {g.dtype}")
        v = _host(_like(_direction(x.shape, plan.random), x))
        numeric, exact = _difference(f, xs, i, v, [_host(u) for u in us], level, plan)
        terms = _host(g) * v
        rtol, atol = _TOLERANCE[x.dtype.name]
        if exact and x.dtype == np.float64:
            rtol = _COMPLEX_RTOL
        rtol = rtol if plan.rtol is None else plan.rtol
        atol = atol if plan.atol is None else plan.atol
        _compare(what, _total(terms), numeric, atol + rtol * _total(np.abs(terms)))
    if level < plan.order:

        def vjp(*args: Tensor) -> Many:
            at, cotangents = args[: len(xs)], args[len(xs) :]
            at = tuple(x if x.requires_grad else _leaf(x) for x in at)
            return _gradients(f(*at), at, cotangents)

        _check(vjp, [*xs, *us], [*labels, *(f"cotangent {j}" for j in range(len(us)))], level + 1, plan)


def _compare(
    what: str, analytic: float, numeric: float, tolerance: float, names: tuple[str, str] = ("analytic", "numeric")
) -> None:
    difference = abs(analytic - numeric)
    # Written so that NaN and infinities fail
    if not (math.isfinite(analytic) and math.isfinite(numeric) and difference <= tolerance):
        raise AssertionError(
            f"{what}: {names[0]} {analytic:.12g}, {names[1]} {numeric:.12g}; they differ by {difference:.3g}, "
            f"more than {tolerance:.3g}"
        )


def _gradients(ys: Many, xs: Sequence[Tensor], us: Sequence[Tensor]) -> Many:
    """∂fᵀ·u, differentiable again, with zeros for what the outputs do not depend on."""
    roots = [(y, u) for y, u in zip(ys, us, strict=True) if y.requires_grad]
    if not roots:
        return tuple(creation.zeros_like(x) for x in xs)
    outputs, seeds = zip(*roots, strict=True)
    gs = autograd.grad(outputs, xs, seeds, create_graph=True, allow_unused=True, materialize_grads=True)
    return tuple(g for g in gs if g is not None)


def _difference(
    f: Function, xs: list[Tensor], i: int, v: np.ndarray, us: list[np.ndarray], level: int, plan: _Plan
) -> tuple[float, bool]:
    """⟨u, ∂f·v⟩ when only x_i moves along v, and whether it is exact to rounding."""
    if level == 1 and plan.method != "real":
        try:
            return _complex_step(f, xs, i, v, us), True
        except Exception:  # whatever an op says of numbers it was not made for
            if plan.method == "complex":
                raise

    def values(step: float) -> list[np.ndarray]:
        moved = [x.detach().double() for x in xs]
        moved[i] = _like(_host(xs[i]) + step * v, moved[i])
        return [_host(y) for y in f(*moved)]

    # (8(f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h, whose error is of order h⁴
    h = plan.eps
    rows = zip(us, values(h), values(-h), values(2 * h), values(-2 * h), strict=True)
    with np.errstate(invalid="ignore"):  # ∞ - ∞ is the NaN that will not pass
        return sum(_total(u * (8 * (a - b) - (c - d))) for u, a, b, c, d in rows) / (12 * h), False


def _complex_step(f: Function, xs: list[Tensor], i: int, v: np.ndarray, us: list[np.ndarray]) -> float:
    """Im ⟨u, f(x + ihv)⟩ / h: nothing is subtracted, so h may be as small as one likes."""
    moved = [_host(x).astype(np.complex128) for x in xs]
    moved[i] += 1j * _COMPLEX_STEP * v
    with no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        ys = f(*(wrap(x.B.asarray(array), x.B, None) for x, array in zip(xs, moved, strict=True)))
    if any(y.dtype.kind != "c" for y in ys):
        raise TypeError("check_grads: f is not analytic: it gives real values of complex ones")
    return sum(_total(u * _host(y).imag) for u, y in zip(us, ys, strict=True)) / _COMPLEX_STEP


def _outputs(result: Any) -> Many:
    """The floating tensors among what a function returned."""
    several = result if isinstance(result, (tuple, list)) else (result,)
    return tuple(y for y in several if isinstance(y, Tensor) and y.dtype.kind in "fc")


def _name(f: Callable[..., Any], ys: Many) -> str:
    name = getattr(f, "__name__", type(f).__name__)
    return f"{name} ({', '.join(sorted(recorded_ops(*ys)))})"


def _total(terms: np.ndarray) -> float:
    with np.errstate(invalid="ignore"):
        return float(terms.sum())


def _direction(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Entries of either sign and of magnitude 0.5 to 1.5: none too small to be seen, none too large a step."""
    return random.uniform(0.5, 1.5, shape) * random.choice([-1.0, 1.0], shape)


def _like(values: np.ndarray, x: Tensor) -> Tensor:
    return creation.tensor(values, dtype=x.dtype, device=x.device)


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


def _host(x: Tensor) -> np.ndarray:
    """The values in float64 (complex ones as they are)."""
    array = x.B.to_numpy(x.array)
    return array if array.dtype.kind == "c" else array.astype(np.float64)


# Other checks -----------------------------------------------------------------------------------------


def check_vjp_fast(f: Callable[..., Any], args: Sequence[Any], *, rtol: float | None = None, seed: int = 0) -> None:
    """Assert that the gradients of f are the same by `vjp_fast` as by `vjp`, where its ops have both.

    They must also be the same when one Tensor of `args` is differentiated and the others are constants.

    >>> import minigan as mg
    >>> check_vjp_fast(mg.tanh, (mg.randn(3),))
    """
    places = [i for i, arg in enumerate(args) if isinstance(arg, Tensor) and arg.is_floating_point()]
    truth = dict(zip(places, _gradients_of(f, args, places, False, seed), strict=True))
    ways = [(places, True), *(([i], fast) for i in places for fast in (False, True))]
    for wanted, fast in ways:
        for i, g in zip(wanted, _gradients_of(f, args, wanted, fast, seed), strict=True):
            alone = " differentiated alone" if len(wanted) < len(places) else ""
            what = f"{getattr(f, '__name__', 'f')}: input {i} of shape {tuple(args[i].shape)} {args[i].dtype}{alone}"
            _compare_arrays(f"{what}, by {'vjp_fast' if fast else 'vjp'}", truth[i], g, rtol)


def _compare_arrays(what: str, expected: Tensor, given: Tensor, rtol: float | None) -> None:
    if given.shape != expected.shape or given.dtype != expected.dtype:
        raise AssertionError(
            f"{what}: expected a gradient of shape {tuple(expected.shape)} and dtype {expected.dtype}, "
            f"got {tuple(given.shape)} and {given.dtype}"
        )
    a, b = _host(expected), _host(given)
    tolerance = (100 * float(np.finfo(given.dtype).eps) if rtol is None else rtol) * np.abs(a).max(initial=1.0)
    difference = np.abs(a - b).max(initial=0.0)
    if not difference <= tolerance < math.inf:  # so that NaN fails
        raise AssertionError(f"{what}: the gradient differs from vjp's by {difference:.3g}, more than {tolerance:.3g}")


def _gradients_of(f: Callable[..., Any], args: Sequence[Any], wanted: list[int], fast: bool, seed: int) -> Many:
    xs = [_leaf(arg) if i in wanted else arg for i, arg in enumerate(args)]
    ys = [y for y in _outputs(f(*xs)) if y.requires_grad]
    random = np.random.default_rng(seed)
    us = [_like(_direction(y.shape, random), y) for y in ys]
    leaves = [xs[i] for i in wanted]
    if not ys:
        return tuple(creation.zeros_like(x) for x in leaves)
    gs = autograd.grad(ys, leaves, us, create_graph=not fast, allow_unused=True, materialize_grads=True)
    return tuple(g for g in gs if g is not None)


def check_adjoint(
    linear: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    rtol: float = 1e-12,
) -> None:
    """Assert that ⟨A x, y⟩ = ⟨x, Aᵀ y⟩: exactly where all values are integers, else to rounding.

    >>> import minigan as mg
    >>> a, x, y = mg.randn(2, 3).double(), mg.randn(3).double(), mg.randn(2).double()
    >>> check_adjoint(lambda x: a @ x, lambda y: a.T @ y, x, y)
    """
    left = _host(linear(x)) * _host(y)
    right = _host(x) * _host(adjoint(y))
    whole = all(np.array_equal(part, np.rint(part)) for part in (left, right))
    tolerance = 0.0 if whole else rtol * (_total(np.abs(left)) + _total(np.abs(right)))
    _compare("check_adjoint", _total(left), _total(right), tolerance, ("⟨A x, y⟩", "⟨x, Aᵀ y⟩"))

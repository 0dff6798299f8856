"""Every rung against float64: fresh random inputs, outputs that are NaN beforehand, ‖found - exact‖ / ‖exact‖.

`checks()` names them all. A device is CuPy's or the emulator's; `small` leaves only sizes that an emulator can do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from bench.gpu.cases import NAMES, OPS, precision_of
from minigan.kernels.cuda import conv, elementwise, gemm, image, index, loss, norm, optim, reduce
from minigan.kernels.geometry import ConvGeometry

Array = np.ndarray[Any, Any]
Pairs = Iterator[tuple[Any, Array]]  # what a kernel made, and what it should be

# A naive sum adds up to a million values one after the other, and rounds as often.
LIMITS = {"fp32": 1e-5, "naive sums": 1e-4, "TF32": 2e-3, "bf16": 2e-2}
OPTIMIZERS = ("sgd_step", "adam_step", "adam_naive_step", "rmsprop_step", "adagrad_step")
REDUCE_RUNGS = ("naive", "rows", "columns", "strided")


class Poisoned:
    """A device whose new memory is NaN, so that what a kernel leaves unwritten is seen."""

    def __init__(self, device: Any) -> None:
        self.device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self.device, name)

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """Memory of which all bits are 1."""
        array = self.device.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[...] = 0xFF
        return array


@dataclass(frozen=True)
class Check:
    """What computes pairs from a device and random numbers, and how far they may be apart."""

    pairs: Callable[[Any, np.random.Generator], Pairs]
    limit: float

    def __call__(self, device: Any, seed: int) -> dict[str, Any]:
        """The largest error, and whether it is small enough; NaN never is."""
        errors = [relative(*pair) for pair in self.pairs(Poisoned(device), np.random.default_rng(seed))]
        worst = float(np.max(errors))  # NaN if there is one
        return {"difference": worst, "limit": self.limit, "passed": worst < self.limit, "seed": seed}


def relative(found: Any, exact: Array) -> float:
    """‖found - exact‖ / ‖exact‖

    >>> relative(np.float32([3, 4]), np.array([3.0, 5.0])) == 1 / 34**0.5
    True
    """
    host = np.asarray(found.get() if hasattr(found, "get") else found).astype(np.float64)
    if host.shape != exact.shape:
        raise ValueError(f"got shape {host.shape}, expected {exact.shape}")
    return float(np.linalg.norm(host - exact) / np.linalg.norm(exact))


def checks(small: bool = False) -> dict[str, Check]:
    """All of them, by name."""
    found: dict[str, Check] = {}
    for rung in gemm.RUNGS:
        found[f"gemm: {rung.name}"] = Check(partial(_products, rung, small), LIMITS[precision_of(rung)])
    for op, (name, tile) in product(OPS, conv.RUNGS.items()):
        if any(conv.fits(op, name, shape) for shape in map(_shape, SMALL)):  # a weight gradient has fewer
            found[f"{NAMES[op]}: {name}"] = Check(partial(_convolutions, op, name, small), LIMITS[precision_of(tile)])
    for name in ("naive", "best"):
        rung = None if name == "best" else name
        found[f"norm: {name}"] = Check(partial(_norms, rung, small), LIMITS["fp32"])
        found[f"losses: {name}"] = Check(partial(_losses, rung, small), LIMITS["naive sums" if rung else "fp32"])
    for name in REDUCE_RUNGS:
        limit = LIMITS["naive sums" if name == "naive" else "fp32"]
        found[f"reduce: {name}"] = Check(partial(_reductions, name, small), limit)
    for name in OPTIMIZERS:
        found[f"optim: {name}"] = Check(partial(_optimizer, name, small), LIMITS["fp32"])
    found["elementwise"] = Check(partial(_elementwise, small), LIMITS["fp32"])
    found["images"] = Check(partial(_images, small), LIMITS["fp32"])
    found["index"] = Check(partial(_indices, small), LIMITS["fp32"])
    return found


def _normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape, np.float32)


def _last(device: Any, x: Array) -> Any:
    """An image on the device, channels last in memory."""
    axes = 0, *range(2, x.ndim), 1
    return device.asarray(np.ascontiguousarray(x.transpose(axes))).transpose(0, x.ndim - 1, *range(1, x.ndim - 1))


def _wide(*arrays: Array) -> list[Array]:
    return [x.astype(np.float64) for x in arrays]


# Products and convolutions -------------------------------------------------------------------------------------------


def _products(rung: gemm.Rung, small: bool, device: Any, rng: np.random.Generator) -> Pairs:
    for M, N, K in [(37, 29, 53), (20, 132, 40)] + [(520, 392, 1030), (128, 4096, 700)] * (not small):
        for transpose_a, transpose_b in product((False, True), repeat=2):
            if rung.plain and (transpose_a or transpose_b):
                continue
            a = _normal(rng, *((K, M) if transpose_a else (M, K)))
            b = _normal(rng, *((N, K) if transpose_b else (K, N)))
            wide_a, wide_b = _wide(a.T if transpose_a else a, b.T if transpose_b else b)
            given = device.asarray(a), device.asarray(b)
            yield gemm.gemm(device, *given, transpose_a, transpose_b, rung=rung), wide_a @ wide_b
    if not rung.plain:  # two products of a stack with a bias, an activation, and the depth split
        a, b, bias = _normal(rng, 2, 20, 300), _normal(rng, 2, 300, 36), _normal(rng, 36)
        stacks = [device.asarray(v) for v in (a, b)]
        found = gemm.gemm(device, *stacks, bias=device.asarray(bias), slope=0.2, rung=rung, splits=3)
        exact = np.matmul(*_wide(a, b)) + bias
        yield found, np.where(exact > 0, exact, 0.2 * exact)


def trilinear(op: str, x: Array, w: Array, y: Array, g: ConvGeometry) -> Array:
    """In float64, tap by tap: what `conv`, `conv_transpose` or `conv_weight_grad` is, in two dimensions."""
    x, w, y = _wide(x, w, y)
    padded = np.pad(x, [(0, 0), (0, 0), *g.padding])
    result = np.zeros_like({"forward": y, "transpose": padded, "weight": w}[op])
    for a, b in np.ndindex(*g.kernel):
        steps = zip((a, b), g.dilation, g.stride, g.output, strict=True)
        window = (slice(None), slice(None), *(slice(k * d, k * d + s * (n - 1) + 1, s) for k, d, s, n in steps))
        tap = w[:, :, a, b]
        if op == "forward":
            result += np.tensordot(padded[window], tap, (1, 1)).transpose(0, 3, 1, 2)
        elif op == "transpose":
            result[window] += np.tensordot(y, tap, (1, 0)).transpose(0, 3, 1, 2)
        else:
            result[:, :, a, b] = np.tensordot(y, padded[window], ((0, 2, 3), (0, 2, 3)))
    if op != "transpose":
        return result
    (top, _), (left, _) = g.padding
    return result[:, :, top : top + g.input[0], left : left + g.input[1]]


# Geometry, batch, channels, filters. Each rung finds some here that it can do.
SMALL = (
    (ConvGeometry.conv((6, 5), (3, 3), 1, 1), 2, 12, 20),
    (ConvGeometry.conv((7, 8), (4, 4), 2, 1), 2, 3, 8),
    (ConvGeometry.conv((6, 6), (4, 4), 2, 1), 2, 32, 32),
    (ConvGeometry.conv((4, 4), (4, 4)), 3, 16, 1),
)
MIDDLE = (
    (ConvGeometry.conv((16, 16), (4, 4), 2, 1), 16, 128, 256),
    (ConvGeometry.conv((8, 8), (4, 4), 2, 1), 32, 256, 512),
    (ConvGeometry.conv((64, 64), (4, 4), 2, 1), 8, 3, 64),
    (ConvGeometry.conv((4, 4), (4, 4)), 64, 512, 1),
    (ConvGeometry.conv((4, 4), (4, 4)), 64, 512, 100),
    (ConvGeometry.conv((15, 17), (3, 3), 1, [(0, 2), (1, 1)], 2), 5, 36, 68),
)


def _shape(case: tuple[ConvGeometry, int, int, int]) -> conv.Shape:
    """As kernels see it."""
    stored = conv.Shape.of(*case)
    return stored.as_matrix() if case[0].is_gemm else stored


def _convolutions(op: str, rung: str, small: bool, device: Any, rng: np.random.Generator) -> Pairs:
    for case in SMALL + MIDDLE * (not small):
        (g, batch, channels, filters), shape = case, _shape(case)
        if not conv.fits(op, rung, shape):
            continue
        x, w = _normal(rng, batch, channels, *g.input), _normal(rng, filters, channels, *g.kernel)
        y = _normal(rng, batch, filters, *g.output)
        arrays = {"x": _last(device, x), "w": device.asarray(w), "y": _last(device, y)}
        pair = [arrays[name] for name in {"forward": "xw", "transpose": "yw", "weight": "xy"}[op]]
        for splits in {1, conv._split(op, rung, shape).splits} if rung != "naive" else {1}:
            yield OPS[op](device, *pair, g, plan=conv.Plan(rung, splits)), trilinear(op, x, w, y, g)


# Norms and losses ----------------------------------------------------------------------------------------------------


def _norms(rung: str | None, small: bool, device: Any, rng: np.random.Generator) -> Pairs:
    """Batch norm, instance norm and layer norm, each with an activation; and a bias with one."""
    eps, slope = 1e-5, 0.2
    for shape in [(6, 20, 5, 4)] + [(64, 128, 16, 16)] * (not small):
        vector = 1, shape[1], 1, 1
        w, b = _normal(rng, *vector), _normal(rng, *vector)
        for axes in ((0, 2, 3), (2, 3), (1, 2, 3)):
            x, gy = 3 + 2 * _normal(rng, *shape), _normal(rng, *shape)
            given = _last(device, x), device.asarray(w), device.asarray(b)
            y, m, v, r = norm.normalize(device, *given, axes, eps, slope, rung=rung)
            wide, g, wide_w, wide_b = _wide(x, gy, w, b)
            mean, variance = wide.mean(axes, keepdims=True), wide.var(axes, keepdims=True)
            root = 1 / np.sqrt(variance + eps)
            unit = (wide - mean) * root
            before = unit * wide_w + wide_b
            yield from [(y, np.where(before > 0, before, slope * before)), (m, mean), (v, variance), (r, root)]
            needs, shapes = (True, True, True), (shape, vector, vector)
            found = norm.normalize_backward(
                device, _last(device, gy), *given, m, r, axes, slope, needs, shapes, rung
            )  # fmt: skip
            g = np.where(before > 0, g, slope * g)
            h = g * wide_w
            gx = root * (h - h.mean(axes, keepdims=True) - unit * (h * unit).mean(axes, keepdims=True))
            exact = gx, (g * unit).sum((0, 2, 3), keepdims=True), g.sum((0, 2, 3), keepdims=True)
            yield from zip(found, exact, strict=True)


def _losses(rung: str | None, small: bool, device: Any, rng: np.random.Generator) -> Pairs:
    for n in [77] + [5000] * (not small):
        x, t = 3 * _normal(rng, n), rng.random(n, np.float32)
        given, (logits, targets) = (device.asarray(x), device.asarray(t)), _wide(x, t)
        for reduction in ("none", "mean", "sum"):
            losses = np.logaddexp(0, logits) - targets * logits
            exact = losses if reduction == "none" else np.array(getattr(losses, reduction)())
            yield loss.bce_with_logits(device, *given, reduction, rung), exact
        gx, _ = loss.bce_with_logits_backward(device, device.asarray(np.ones((), np.float32)), *given, "sum")
        yield gx, 1 / (1 + np.exp(-logits)) - targets
        rows, gy = 5 * _normal(rng, 9, n), _normal(rng, 9, n)
        wide, g = _wide(rows, gy)
        logs = wide - np.logaddexp.reduce(wide, 1, keepdims=True)
        shares = np.exp(logs)
        y = loss.softmax(device, device.asarray(rows), 1, rung)
        yield y, shares
        yield loss.log_softmax(device, device.asarray(rows), 1, rung), logs
        exact = shares * (g - (g * shares).sum(1, keepdims=True))
        yield loss.softmax_backward(device, device.asarray(gy), y, 1), exact
        classes = rng.integers(0, n, 9)
        found, _ = loss.cross_entropy(device, device.asarray(rows), device.asarray(classes), "mean")
        yield found, np.array(-logs[np.arange(9), classes].mean())


# Passes over memory --------------------------------------------------------------------------------------------------


def _reductions(rung: str, small: bool, device: Any, rng: np.random.Generator) -> Pairs:
    """Over axes that lie last in memory, first, and in a view's disorder, as far as the rung does them."""
    everywhere: list[Any] = [(1, 2), (0,), None]
    axes_of = {"rows": everywhere[::2], "columns": [(0,), (0, 1)]}.get(rung, everywhere)
    for shape in [(6, 7, 40)] + [(64, 300, 130)] * (not small):
        x = _normal(rng, *shape)
        for axes in axes_of:
            for name in ("sum", "mean", "max", "min"):
                exact = np.asarray(getattr(np, name)(x.astype(np.float64), axes))
                yield reduce.reduce(device, name, device.asarray(x), axes, rung=rung), exact
        if rung == "strided":
            turned = device.asarray(x).transpose(2, 0, 1)[::2]
            yield reduce.reduce(device, "sum", turned, (1,), rung=rung), x.astype(np.float64)[:, :, ::2].sum(0).T
        if rung == "rows":
            found = reduce.reduce(device, "argmax", device.asarray(x), (2,), rung=rung)
            yield found, x.argmax(2).astype(np.float64)


def _optimizer(name: str, small: bool, device: Any, rng: np.random.Generator) -> Pairs:
    """One step of parameters of several sizes, from a state that is not 0."""
    sizes = [5, 4096, 1, 70] + [300_000, 1 << 20] * (not small)
    lr, beta1, beta2, eps, step = 0.01, 0.5, 0.999, 1e-8, 3
    ws, gs = ([_normal(rng, size) for size in sizes] for _ in range(2))
    first, second = _normal(rng, sum(sizes)), rng.random(sum(sizes), np.float32) + 0.1
    w, g, m, v = _wide(np.concatenate(ws), np.concatenate(gs), first, second)
    own, given = ([device.asarray(x) for x in arrays] for arrays in (ws, gs))
    weights, states = (own, given, 0.0, 1.0, False), (device.asarray(first), device.asarray(second))
    if name == "sgd_step":
        optim.sgd_step(device, weights, states[0], lr, 0.9, 0.0, False)
        m = 0.9 * m + g
        w -= lr * m
    elif name == "rmsprop_step":
        optim.rmsprop_step(device, weights, states[1], None, None, lr, 0.9, eps, 0.0)
        v = 0.9 * v + 0.1 * g * g
        w -= lr * g / (np.sqrt(v) + eps)
    elif name == "adagrad_step":
        optim.adagrad_step(device, weights, states[1], lr, eps)
        v = v + g * g
        w -= lr * g / (np.sqrt(v) + eps)
    else:
        if name == "adam_step":
            optim.adam_step(device, weights, *states, None, step, lr, beta1, beta2, eps)
        else:
            ends = np.cumsum([0, *sizes])
            for number, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
                parts = (state[start:end] for state in states)
                optim.adam_naive_step(device, own[number], given[number], *parts, step, lr, beta1, beta2, eps)
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        w -= lr * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + eps)
    yield from zip((*own, *states), (*np.split(w, np.cumsum(sizes)[:-1]), m, v), strict=True)


def _elementwise(small: bool, device: Any, rng: np.random.Generator) -> Pairs:
    """Contiguous and strided, with a broadcast row."""
    rows, columns = (13, 37) if small else (1300, 1037)
    x, y, row = _normal(rng, rows, columns), _normal(rng, rows, columns), _normal(rng, columns)
    given = [device.asarray(v) for v in (x, y, row)]
    wide, other, wide_row = _wide(x, y, row)
    yield elementwise.evaluate(device, "multiply", *given[:2]), wide * other
    yield elementwise.evaluate(device, "add", given[0], given[2]), wide + wide_row
    yield elementwise.evaluate(device, "tanh", given[0].T), np.tanh(wide).T
    yield elementwise.leaky_relu(device, given[0][::2], 0.2), np.where(wide > 0, wide, 0.2 * wide)[::2]
    yield elementwise.copy(device, given[0].T), wide.T


def _images(small: bool, device: Any, rng: np.random.Generator) -> Pairs:
    """Pooling by 2 and upsampling by 2, and their gradients."""
    n, side, channels = (2, 8, 8) if small else (16, 32, 64)
    x, gy = _normal(rng, n, side, side, channels), _normal(rng, n, side // 2, side // 2, channels)
    given, slope = device.asarray(x), device.asarray(gy)
    wide, g = _wide(x, gy)
    windows = wide.reshape(n, side // 2, 2, side // 2, 2, channels)
    pooling = image.Pooling((side, side), (side // 2, side // 2), (2, 2), (2, 2))
    y, places = image.max_pool(device, given, pooling)
    largest = windows.max((2, 4), keepdims=True)
    yield y, largest[:, :, 0, :, 0]
    spread = g[:, :, None, :, None]
    yield image.max_pool_backward(device, slope, places, pooling), (spread * (windows == largest)).reshape(x.shape)
    yield image.average_pool(device, given, pooling), windows.mean((2, 4))
    wide_up = wide.repeat(2, 1).repeat(2, 2)
    yield image.upsample(device, given, (2 * side, 2 * side), (0.5, 0.5), "nearest"), wide_up
    found = image.upsample_backward(device, slope, (side // 4, side // 4), (0.5, 0.5), "nearest")
    yield found, g.reshape(n, side // 4, 2, side // 4, 2, channels).sum((2, 4))


def _indices(small: bool, device: Any, rng: np.random.Generator) -> Pairs:
    """Rows by their numbers, and added up, which come up more than once."""
    count, n, width = (5, 9, 7) if small else (1000, index.MOST_ROWS, 300)
    x, gy, rows = _normal(rng, count, width), _normal(rng, n, width), rng.integers(-count, count, n)
    wide, g = _wide(x, gy)
    yield index.take_rows(device, device.asarray(x), device.asarray(rows)), wide[rows]
    sums = np.zeros_like(wide)
    np.add.at(sums, rows, g)
    yield index.add_rows(device, device.asarray(gy), device.asarray(rows), count), sums

"""What is timed by rung: convolutions of DCGAN-64 and a matrix product, normalisation, Adam and a sum; with PyTorch's.

A case has makers for each of our rungs and for each of PyTorch's ways. A maker takes arrays from `Values` and returns
the call that is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

from bench.gpu.card import PRECISIONS
from bench.layers import LAYERS, Layer
from minigan.kernels.cuda import conv, gemm, norm, optim, reduce
from minigan.kernels.geometry import ConvGeometry

Call = Callable[[], Any]
CHOSEN = "chosen"  # what the engine calls: it chooses the rung and how the depth is split
OPS = {"forward": conv.conv, "transpose": conv.conv_transpose, "weight": conv.conv_weight_grad}
NAMES = {"forward": "forward", "transpose": "input gradient", "weight": "weight gradient"}
PRODUCT = 2048
ADAM = {"lr": 2e-4, "beta1": 0.5, "beta2": 0.999, "eps": 1e-8}


class Values:
    """Random numbers in one large array, of CuPy or PyTorch; arrays are taken from it one after the other."""

    def __init__(self, flat: Any) -> None:
        self.flat, self.at = flat, 0

    def take(self, *shape: int) -> Any:
        """So many of them, at an address that 16 bytes divide."""
        size = prod(shape)
        if self.at + size > len(self.flat):
            self.at = 0
        found = self.flat[self.at : self.at + size]
        if len(found) < size:
            raise ValueError(f"got shape {shape}, expected at most {len(self.flat)} values")
        self.at += -(-size // 8) * 8
        return found.reshape(shape)

    def image(self, batch: int, channels: int, side: int) -> Any:
        """[batch, channels, side, side], channels last in memory; of CuPy."""
        return self.take(batch, side, side, channels).transpose(0, 3, 1, 2)


@dataclass
class Case:
    """One thing to compute, at least so many operations and bytes, and who can: name → (precision, maker)."""

    name: str
    flops: int
    bytes: int
    ours: dict[str, tuple[str, Callable[[Any, Values], Call]]] = field(default_factory=dict)
    theirs: dict[str, tuple[str, Callable[[Any, dict[str, Values]], Call]]] = field(default_factory=dict)


def cases(batch: int) -> dict[str, Case]:
    """All, by name. G's layers are D's turned round: G's forward is D's input gradient, and the other way round."""
    found = [_convolution(layer, op, batch) for layer in LAYERS.values() for op in OPS]
    found += [_product(PRODUCT), *_norms(batch), _adam(), _sum(batch)]
    return {case.name: case for case in found}


def precision_of(rung: conv.Rung | gemm.Rung) -> str:
    """What it rounds operands to; its name says so."""
    return next((precision for precision in ("TF32", "bf16") if precision in rung.name), "fp32")


# Convolutions --------------------------------------------------------------------------------------------------------


def _convolution(layer: Layer, op: str, batch: int) -> Case:
    large, small = (layer.outputs, layer.inputs) if layer.transposed else (layer.inputs, layer.outputs)
    g = ConvGeometry.conv((layer.size,) * 2, (4, 4), layer.stride, layer.padding)
    sizes = batch, large, small
    values = batch * (large * layer.size**2 + small * layer.small**2) + large * small * 16
    case = Case(f"{layer.size}² · {large} ↔ {small} {NAMES[op]}", layer.flops(batch), 4 * values)
    stored = conv.Shape.of(g, *sizes)
    shape = stored.as_matrix() if g.is_gemm else stored
    for rung in conv.RUNGS:
        if conv.fits(op, rung, shape) and (op, rung) != ("weight", "thin"):
            plan = conv.Plan("naive") if rung == "naive" else conv._split(op, rung, shape)
            case.ours[rung] = precision_of(conv.RUNGS[rung]), partial(_our_convolution, op, g, sizes, {"plan": plan})
    for precision, setting in PRECISIONS.items():
        maker = partial(_our_convolution, op, g, sizes, {"precision": setting})
        case.ours[f"{CHOSEN} {precision}"] = precision, maker
        for last in (False, True):
            theirs = partial(_their_convolution, op, layer, sizes, precision, last)
            case.theirs[f"cuDNN {precision}{', channels_last' * last}"] = precision, theirs
    return case


def _our_convolution(
    op: str, g: ConvGeometry, sizes: tuple[int, int, int], how: dict[str, Any], device: Any, values: Values
) -> Call:
    batch, large, small = sizes
    x, y = values.image(batch, large, g.input[0]), values.image(batch, small, g.output[0])
    w = values.take(small, large, *g.kernel)
    pair = {"forward": (x, w), "transpose": (y, w), "weight": (x, y)}[op]
    return lambda: OPS[op](device, *pair, g, **how)


def _their_convolution(
    op: str, layer: Layer, sizes: tuple[int, int, int], precision: str, last: bool, torch: Any,
    values: dict[str, Values],
) -> Call:  # fmt: skip
    batch, large, small = sizes
    torch.backends.cudnn.allow_tf32 = precision == "TF32"
    flat = values["bf16" if precision == "bf16" else "fp32"]
    shapes = (batch, large, layer.size, layer.size), (small, large, 4, 4), (batch, small, layer.small, layer.small)
    x, w, y = (flat.take(*shape) for shape in shapes)
    if last:
        x, w, y = (v.contiguous(memory_format=torch.channels_last) for v in (x, w, y))
    how = [layer.stride] * 2, [layer.padding] * 2, [1, 1], False, [0, 0], 1
    if op == "forward":
        return lambda: torch.ops.aten.convolution(x, w, None, *how)
    mask = [op == "transpose", op == "weight", False]
    return lambda: torch.ops.aten.convolution_backward(y, x, w, None, *how, mask)


# The rest ------------------------------------------------------------------------------------------------------------


def _product(n: int) -> Case:
    case = Case(f"product {n}³", 2 * n**3, 12 * n**2)

    def ours(how: dict[str, Any], device: Any, values: Values) -> Call:
        a, b = values.take(n, n), values.take(n, n)
        return lambda: gemm.gemm(device, a, b, **how)

    def theirs(precision: str, torch: Any, values: dict[str, Values]) -> Call:
        torch.backends.cuda.matmul.allow_tf32 = precision == "TF32"
        flat = values["bf16" if precision == "bf16" else "fp32"]
        a, b = flat.take(n, n), flat.take(n, n)
        return lambda: torch.mm(a, b)

    for rung in gemm.RUNGS:
        case.ours[rung.kernel.removeprefix("gemm_")] = precision_of(rung), partial(ours, {"rung": rung})
    for precision, setting in PRECISIONS.items():
        case.ours[f"{CHOSEN} {precision}"] = precision, partial(ours, {"precision": setting})
        case.theirs[f"cuBLAS {precision}"] = precision, partial(theirs, precision)
    return case


def _norms(batch: int) -> Iterator[Case]:
    """BatchNorm with LeakyReLU of 64 channels of 32²; bytes as if statistics needed no reading of their own."""
    channels, side, slope = 64, 32, 0.2
    size, axes, vector = batch * channels * side**2, (0, 2, 3), (1, channels, 1, 1)
    forward = Case("BatchNorm + LeakyReLU 64 · 32² forward", 8 * size, 8 * size)
    backward = Case("BatchNorm + LeakyReLU 64 · 32² backward", 15 * size, 12 * size)

    def our_forward(rung: str | None, device: Any, values: Values) -> Call:
        x, w, b = values.image(batch, channels, side), values.take(*vector), values.take(*vector)
        return lambda: norm.normalize(device, x, w, b, axes, 1e-5, slope, rung=rung)

    def our_backward(rung: str | None, device: Any, values: Values) -> Call:
        x, gy = values.image(batch, channels, side), values.image(batch, channels, side)
        w, b = values.take(*vector), values.take(*vector)
        _, m, _, r = norm.normalize(device, x, w, b, axes, 1e-5, slope)
        rest = (m, r, axes, slope, (True, True, True), ((), vector, vector), rung)
        return lambda: norm.normalize_backward(device, gy, x, w, b, *rest)

    def their_forward(torch: Any, values: dict[str, Values]) -> Call:
        x, gy, w, b = _of_norm(torch, values["fp32"])
        return lambda: torch.nn.functional.leaky_relu(
            torch.nn.functional.batch_norm(x, None, None, w, b, training=True), slope
        )

    def their_backward(torch: Any, values: dict[str, Values]) -> Call:
        x, gy, w, b = _of_norm(torch, values["fp32"])
        aten = torch.ops.aten
        y, m, r = aten.native_batch_norm(x, w, b, None, None, True, 0.1, 1e-5)

        def call() -> Any:
            g = aten.leaky_relu_backward(gy, y, slope, False)
            return aten.native_batch_norm_backward(g, x, w, None, None, m, r, True, 1e-5, [True, True, True])

        return call

    def _of_norm(torch: Any, values: Values) -> tuple[Any, ...]:
        images = (values.take(batch, side, side, channels).permute(0, 3, 1, 2) for _ in range(2))
        return *images, values.take(channels), values.take(channels)

    for rung in ("naive", None):
        forward.ours[rung or f"{CHOSEN} fp32"] = "fp32", partial(our_forward, rung)
        backward.ours[rung or f"{CHOSEN} fp32"] = "fp32", partial(our_backward, rung)
    forward.theirs["PyTorch fp32"] = "fp32", their_forward
    backward.theirs["PyTorch fp32"] = "fp32", their_backward
    yield forward
    yield backward


def _adam() -> Case:
    """Of the parameters of DCGAN-64's generator."""
    widths = (100, 512, 256, 128, 64, 3)
    shapes: list[tuple[int, ...]] = [(a, b, 4, 4) for a, b in zip(widths, widths[1:], strict=False)]
    shapes += [(width,) for width in widths[1:-1] for _ in range(2)]
    size = sum(map(prod, shapes))
    case = Case("Adam, G's parameters", 12 * size, 28 * size)

    def arrays(values: Values) -> tuple[list[Any], list[Any]]:
        return [values.take(*shape) for shape in shapes], [values.take(*shape) for shape in shapes]

    def all_in_one(device: Any, values: Values) -> Call:
        weights, mean, square = arrays(values), values.take(size), abs(values.take(size))
        return lambda: optim.adam_step(device, (*weights, 0.0, 1.0, False), mean, square, None, 3, **ADAM)

    def naive(device: Any, values: Values) -> Call:
        pairs = list(zip(*arrays(values), strict=True))
        states = [(values.take(w.size), abs(values.take(w.size))) for w, _ in pairs]

        def call() -> None:
            for (w, g), (mean, square) in zip(pairs, states, strict=True):
                optim.adam_naive_step(device, w, g, mean, square, 3, **ADAM)

        return call

    def theirs(torch: Any, values: dict[str, Values]) -> Call:
        weights, gradients = arrays(values["fp32"])
        for w, g in zip(weights, gradients, strict=True):
            w.grad = g
        adam = torch.optim.Adam(weights, ADAM["lr"], (ADAM["beta1"], ADAM["beta2"]), fused=True, capturable=True)
        return adam.step

    case.ours |= {"naive": ("fp32", naive), f"{CHOSEN} fp32": ("fp32", all_in_one)}
    case.theirs["PyTorch, fused"] = "fp32", theirs
    return case


def _sum(batch: int) -> Case:
    """Over all but the channels, as a bias's gradient."""
    channels, side = 64, 32
    size = batch * channels * side**2
    case = Case("sum of each channel, 64 · 32²", size, 4 * size)

    def ours(rung: str | None, device: Any, values: Values) -> Call:
        x = values.image(batch, channels, side)
        return lambda: reduce.reduce(device, "sum", x, (0, 2, 3), rung=rung)

    def theirs(torch: Any, values: dict[str, Values]) -> Call:
        x = values["fp32"].take(batch, side, side, channels).permute(0, 3, 1, 2)
        return lambda: x.sum((0, 2, 3))

    for rung in ("naive", "strided", None):
        case.ours[rung or f"{CHOSEN} fp32"] = "fp32", partial(ours, rung)
    case.theirs["PyTorch fp32"] = "fp32", theirs
    return case

"""What every `.cu` file does, on small arrays of odd sizes, compared with NumPy: for `cuda_mutation`."""

from __future__ import annotations

from functools import partial

import numpy as np

from minigan.kernels import cpu
from minigan.kernels.cuda import conv, gemm, loss, norm, reduce
from minigan.kernels.geometry import ConvGeometry


def numbers(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def close(found, expected, tolerance=1e-4):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=tolerance * scale)


def products(file, device):
    """Several tiles, and along K more steps than a kernel holds at once."""
    a, b, bias = (
        numbers(72, 92),
        numbers(92, 76),
        numbers(76),
    )  # rows of a multiple of 4 values are copied asynchronously
    for rung in gemm.RUNGS:
        if rung.file != file:
            continue
        tolerance = {"highest": 1e-5, "high": 2e-3, "medium": 2e-2}[rung.precision]
        if rung.plain:
            close(gemm.gemm(device, a, b, rung=rung, splits=1), a @ b, tolerance)
            continue
        expected = a @ b + bias
        expected = np.maximum(expected, 0.2 * expected)
        for turned_a, turned_b in ((False, False), (True, True)):
            x, y = (np.ascontiguousarray(v.T) if turned else v for v, turned in ((a, turned_a), (b, turned_b)))
            for splits in (1, 2):
                found = gemm.gemm(device, x, y, turned_a, turned_b, bias, 0.2, rung=rung, splits=splits)
                close(found, expected, tolerance)


FORWARD, BACKWARD, WEIGHT = "forward", "transpose", "weight"
FUNCTIONS = {FORWARD: "conv", BACKWARD: "conv_transpose", WEIGHT: "conv_weight_grad"}
WIDE = ConvGeometry.conv((12, 12), (4, 4), stride=2, padding=1)
SPARSE = ConvGeometry.conv((7, 7), (1, 1), stride=2)  # three of its four phases have no tap
CONVOLUTIONS = (  # images, channels, filters: more than one tile each way, and more than one step along the depth
    (FORWARD, WIDE, (2, 20, 68)), (BACKWARD, WIDE, (2, 68, 20)), (WEIGHT, WIDE, (2, 20, 68)),
    (FORWARD, WIDE, (2, 20, 3)), (BACKWARD, WIDE, (2, 3, 20)), (BACKWARD, SPARSE, (2, 20, 20)),
)  # fmt: skip
COLOURS = tuple((op, WIDE, (5, 3, 72)) for op in (FORWARD, BACKWARD, WEIGHT))
DEEP = ((FORWARD, WIDE, (2, 64, 136)), (BACKWARD, WIDE, (2, 136, 64)), (BACKWARD, SPARSE, (2, 8, 32)))


def convolutions(file, device, cases=CONVOLUTIONS):
    """Every rung of a file, of each operation that has it."""
    for op, g, (batch, channels, filters) in cases:
        shape = conv.Shape.of(g, batch, channels, filters)
        x, w = numbers(batch, *g.input, channels).transpose(0, 3, 1, 2), numbers(filters, channels, *g.kernel)
        y = numbers(batch, *g.output, filters).transpose(0, 3, 1, 2)
        given = {FORWARD: (x, w), BACKWARD: (y, w), WEIGHT: (x, y)}[op]
        expected = getattr(cpu, FUNCTIONS[op])(*(v.astype(np.float64) for v in given), g)
        for rung, facts in conv.RUNGS.items():
            if conv.file_of(op, rung) == file and conv.fits(op, rung, shape):
                whole = rung == "naive" or facts.thin or g is SPARSE or (rung == "colours" and op != WEIGHT)
                splits = 1 if whole else 2
                found = getattr(conv, FUNCTIONS[op])(device, *given, g, plan=conv.Plan(rung, splits))
                close(found, expected, 2e-2 if "bf16" in rung else 2e-3 if "tf32" in rung or facts.hopper else 1e-5)


def norms(device):
    x, gy, w, b = numbers(5, 7, 7, 40), numbers(5, 7, 7, 40) + 0.1, numbers(40), numbers(40)
    for axes in ((0, 1, 2), (1, 2), (3,)):
        for rung in (None, "naive"):
            y, m, v, r = norm.normalize(device, x, w, b, axes, 1e-5, 0.2, rung=rung)
            expected = cpu.normalize(x.astype(np.float64), w.astype(np.float64), b.astype(np.float64), axes, 1e-5, 0.2)
            close(y, expected[0])
            shapes, needs = [x.shape, w.shape, b.shape], (True, True, True)
            found = norm.normalize_backward(device, gy, x, w, b, m, r, axes, 0.2, needs, shapes, rung=rung)
            doubles = (v.astype(np.float64) for v in (gy, x, w, b))
            right = cpu.normalize_backward(*doubles, expected[1], expected[3], axes, 0.2, needs, shapes)
            for one, other in zip(found, right, strict=True):
                close(one, other)
    image, slopes = x.transpose(0, 3, 1, 2), gy.transpose(0, 3, 1, 2)
    gx, gb = norm.add_bias_backward(device, slopes, image, 0.2, True)
    close(gx, np.where(image > 0, slopes, 0.2 * slopes))
    close(gb, gx.sum((0, 2, 3)))


def reductions(device):
    x = numbers(9, 40, 300)
    for axes in (None, (0,), (1,), (2,), (0, 2), (1, 2)):
        for name in ("sum", "max", "argmax"):
            if name != "argmax":
                close(getattr(reduce, name)(device, x, axes), getattr(x.astype(np.float64), name)(axes))
            elif axes is None or len(axes) == 1:
                axis = axes if axes is None else axes[0]
                np.testing.assert_array_equal(reduce.argmax(device, x, axis), x.argmax(axis))
    close(reduce.sum(device, numbers(20000)), numbers(20000).sum())


def losses(device):
    x, t = numbers(3000), (numbers(3000) > 0).astype(np.float32)
    double = x.astype(np.float64)
    each = np.logaddexp(0, double) - t * double
    for rung in (None, "naive"):
        close(loss.bce_with_logits(device, x, t, "mean", rung=rung), each.mean())
        scores = numbers(70, 300)
        powers = np.exp(scores.astype(np.float64) - scores.max(1, keepdims=True))
        close(loss.softmax(device, scores, rung=rung), powers / powers.sum(1, keepdims=True))


EXERCISES = {
    "gemm": partial(products, "gemm"),
    "gemm_tensor": partial(products, "gemm_tensor"),
    "conv": partial(convolutions, "conv"),
    "conv_transpose": partial(convolutions, "conv_transpose"),
    "conv_weight": partial(convolutions, "conv_weight"),
    "conv_tensor": partial(convolutions, "conv_tensor"),
    "conv_thin": partial(convolutions, "conv_thin", cases=COLOURS),
    "conv_hopper": partial(convolutions, "conv_hopper", cases=DEEP),
    "conv_hopper_weight": partial(convolutions, "conv_hopper_weight"),
    "norm": norms,
    "reduce": reductions,
    "loss": losses,
}

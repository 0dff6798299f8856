"""Do the tests notice wrong derivatives? Plants them one at a time, and runs the rows that should object.

    python tests/mutation_check.py

First the rows must pass on the code as it is. Then each mutation replaces a piece of the source of one function,
in this process only, and must make a row fail. Prints a table; exits with 1 if a mutation survives.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import hypothesis
from harness import Row, all_rows, check
from hypothesis import strategies as st

from minigan.graph import REGISTRY
from minigan.kernels.cpu import elementwise as elementwise_kernels
from minigan.kernels.cpu import norm as norm_kernels
from minigan.ops import linear, piecewise, reduce


@dataclass(frozen=True)
class Mutation:
    """In the source of `function`, `old` becomes `new`; one of `rows` must fail."""

    what: str
    function: Any
    old: str
    new: str
    rows: str  # names of rows, separated by commas


def op(name: str, part: str = "vjp") -> Any:
    return getattr(REGISTRY[name], part)


SWAPPED_PADDING = (
    "__import__('dataclasses').replace(ctx.geometry, padding=tuple(p[::-1] for p in ctx.geometry.padding))"
)
# r to first order around itself: right in value and slope, wrong in curvature
STRAIGHT_R = "r = (lambda v: rsqrt(v.detach()) - 0.5 * rsqrt(v.detach()) ** 3 * (v - v.detach()))(mean("

MUTATIONS = [
    Mutation("Add: no sum over broadcast axes", op("Add"), "sum_to(gz, ctx.shapes[0])", "gz", "add"),
    Mutation("Sub: sign", op("Sub"), "sum_to(-gz", "sum_to(gz", "sub"),
    Mutation("Mul: detached factor", op("Mul"), "gz * y", "gz * y.detach()", "mul"),
    Mutation("Mul: no sum over broadcast axes", op("Mul"), "sum_to(gz * x, ctx.shapes[1])", "gz * x", "mul"),
    Mutation("Div: detached divisor", op("Div"), "gz / y,", "gz / y.detach(),", "div"),
    Mutation("Div: dropped power", op("Div"), "x / y / y", "x / y", "div"),
    Mutation("Pow: detached base", op("Pow"), "x == 0, 1.0, x)", "x == 0, 1.0, x.detach())", "pow"),
    Mutation("Exp: detached output", op("Exp"), "ctx.output", "ctx.output.detach()", "exp"),
    Mutation("Log1p: dropped 1", op("Log1p"), "(1 + ctx.inputs[0])", "ctx.inputs[0]", "log1p"),
    Mutation("Sqrt: factor 0.999", op("Sqrt"), "gy / (", "0.999 * gy / (", "sqrt"),
    Mutation("Tanh: sign inside", op("Tanh"), "1 - y * y", "1 + y * y", "tanh"),
    Mutation("Tanh.vjp_fast: factor 0.999", op("Tanh", "vjp_fast"), "slope *= gy", "slope *= 0.999 * gy", "tanh"),
    Mutation("Sigmoid: factor 0.999", op("Sigmoid"), "gy * (y", "gy * (0.999 * y", "sigmoid"),
    Mutation("Sigmoid.vjp_fast: dropped factor", op("Sigmoid", "vjp_fast"), "slope *= y\n", "\n", "sigmoid"),
    Mutation(
        "Square: half the second derivative", op("Square"), "2 * ctx.inputs[0]",
        "ctx.inputs[0] + ctx.inputs[0].detach()", "square",
    ),
    Mutation("Erf: detached factor", op("Erf"), "-x * x", "-x * x.detach()", "erf"),
    Mutation("Softplus: dropped beta", op("Softplus"), "ctx.beta * ", "", "softplus past its threshold"),
    Mutation("LeakyRelu: slope times 0.999", op("LeakyRelu"), "ctx.slope", "0.999 * ctx.slope", "leaky_relu"),
    Mutation(
        "LeakyRelu.vjp_fast: wrong slope where negative", elementwise_kernels.masked, "_constant(slope,",
        "_constant(0.999 * slope,", "leaky_relu",
    ),
    Mutation("Clamp: a bound turned round", op("Clamp"), "x >= ctx.low", "x <= ctx.low", "clamp"),
    Mutation("Maximum: gradient to the smaller", piecewise._shares, "(1 - share)", "share", "maximum"),
    Mutation("Where: branches swapped", op("Where"), "where(condition, 0.0, gz)", "where(condition, gz, 0.0)", "where"),
    Mutation("Expand: factor 0.999", op("Expand"), "sum_to(gy", "sum_to(0.999 * gy", "expand"),
    Mutation("Permute: not inverted", op("Permute"), "inverse[d] = i", "inverse[i] = d", "permute"),
    Mutation("Roll: not turned back", op("Roll"), "-s for", "s for", "roll"),
    Mutation("Cat: starts off by one", op("Cat"), "ctx.sizes[:i]", "ctx.sizes[1 : i + 1]", "cat"),
    Mutation("Pad: gradient of the corner", op("Pad"), "slice(b, b + size)", "slice(0, size)", "pad"),
    Mutation(
        "BorderAdjoint: copies not added", op("BorderAdjoint", "forward"), "] += y[", "] = y[",
        "pad reflect,pad replicate",
    ),
    Mutation("Slice: detached", op("Slice"), "apply(Unslice, gy,", "apply(Unslice, gy.detach(),", "slice"),
    Mutation(
        "AddAt: entries that come up twice counted once", op("AddAt", "forward"),
        "B.kernels.add_at(x, _fill(pattern, arrays), y)", "x[_fill(pattern, arrays)] = y", "take,add_at",
    ),
    Mutation(
        "PutAt: what was overwritten keeps its gradient", op("PutAt"),
        "apply(PutAt, gy, 0.0, *rows, pattern=ctx.pattern)", "gy", "put,scatter",
    ),
    Mutation(
        "ViewAssign: what was overwritten keeps its gradient", op("ViewAssign"), "assign(hole, 0.0,",
        "assign(hole, g_new,", "assign to a slice",
    ),
    Mutation("Sum: factor 0.999", op("Sum"), "reshape(gy,", "reshape(0.999 * gy,", "sum"),
    Mutation("Amax: minimum taken for maximum", op("Amax"), "amax if ctx.sign > 0 else amin", "amax", "amin"),
    Mutation("Cumsum: not flipped", op("Cumsum"), "apply(Cumsum, flip(gy, ctx.dim)", "apply(Cumsum, gy", "cumsum"),
    Mutation("Norm2: detached norm", op("Norm2"), "y = ctx.output", "y = ctx.output.detach()", "norm"),
    Mutation("var: mean taken for a constant", reduce._centred, "x - mean(x", "x - mean(x.detach()", "var"),
    Mutation(
        "Softmax: dropped term", op("Softmax"), "gy - sum(gy * y, ctx.dim, keepdim=True)", "gy", "softmax"
    ),
    Mutation("LogSoftmax: detached output", op("LogSoftmax"), "ctx.output", "ctx.output.detach()", "log_softmax"),
    Mutation(
        "logsumexp: exponentials taken for constants", reduce.logsumexp, "exp(x - top)",
        "exp((x - top).detach() + 0 * x)", "logsumexp",
    ),
    Mutation("Matmul: detached factor", op("Matmul"), "transpose(y, -1", "transpose(y.detach(), -1", "matmul"),
    Mutation(
        "Matmul: no sum over broadcast axes", op("Matmul"), "gz), ctx.shapes[1])",
        "gz), gz.shape[:-2] + ctx.shapes[1][-2:])", "matmul",
    ),
    Mutation(
        "Linear: bias times 0.999", op("Linear"), "sum_to(gy, ctx.shapes[2])", "sum_to(0.999 * gy, ctx.shapes[2])",
        "linear with bias",
    ),
    Mutation("Linear: detached input", op("Linear"), "reshape(x, rows", "reshape(x.detach(), rows", "linear"),
    Mutation("Einsum: detached factor", op("Einsum"), "ctx._input(j)", "ctx._input(j).detach()", "einsum of three"),
    Mutation("einsum: a lone sum times 0.999", linear.einsum, "x.sum(alone)", "0.999 * x.sum(alone)", "einsum ij->j"),
    Mutation(
        "Conv: padding swapped", op("Conv"), "gy, w, geometry=ctx.geometry", f"gy, w, geometry={SWAPPED_PADDING}",
        "conv",
    ),
    Mutation(
        "ConvTranspose: detached kernel", op("ConvTranspose"), "apply(Conv, gx, w,", "apply(Conv, gx, w.detach(),",
        "conv_transpose",
    ),
    Mutation(
        "ConvWeightGrad: factor 0.999", op("ConvWeightGrad"), "apply(Conv, x, gw,", "apply(Conv, 0.999 * x, gw,",
        "conv_weight_grad",
    ),
    Mutation(
        "Normalize: mean term dropped", op("Normalize"), "h - mean(h, ctx.axes, keepdim=True)", "h",
        "batch norm of images",
    ),
    Mutation(
        "Normalize: statistics as constants", op("Normalize"), "centred * r", "centred * r.detach()",
        "batch norm of images",
    ),
    Mutation(
        "Normalize: wrong from order 3 on", op("Normalize"), "r = rsqrt(mean(", STRAIGHT_R, "batch norm of images"
    ),
    Mutation(
        "Normalize.vjp_fast: variance term dropped", norm_kernels._whole_backward,
        "x_hat *= along.mean(axis=axes, keepdims=True)\n", "x_hat *= 0\n", "batch norm of images",
    ),
    Mutation(
        "Standardize: slope of the variance", op("Standardize"), "r * r * scale * -0.5", "r * scale * -0.5",
        "standardize of 4 axes scaled",
    ),
    # No derivative is wrong in these
    Mutation("Exp: input overwritten", op("Exp", "forward"), "B.xp.exp(x)", "B.xp.exp(x, out=x)", "exp"),
    Mutation("Clone: no copy", op("Clone", "forward"), "B.xp.array(x, order=layout)", "x", "clone"),
    Mutation("Cast: gradient left in the other dtype", op("Cast"), "gy.to(ctx.source)", "gy", "cast"),
]  # fmt: skip


@contextlib.contextmanager
def planted(mutation: Mutation) -> Iterator[None]:
    """The function with its code replaced, for everyone who holds it."""
    function = inspect.unwrap(mutation.function)
    source = re.sub(r"\A(@.*\n)+", "", textwrap.dedent(inspect.getsource(function)))  # without decorators
    if source.count(mutation.old) != 1:
        sys.exit(f"{mutation.what}: expected {mutation.old!r} once in\n{source}")
    scope = dict(function.__globals__)
    exec("from __future__ import annotations\n" + source.replace(mutation.old, mutation.new), scope)
    original, function.__code__ = function.__code__, scope[function.__name__].__code__
    try:
        yield
    finally:
        function.__code__ = original


def failure(row: Row, runs: int) -> str | None:
    """What a row says when it fails, on fixed choices of cases.

    Several short runs, each from a seed of its own: within one, cases resemble each other.
    """

    @hypothesis.settings(
        max_examples=30, database=None, deadline=None, phases=[hypothesis.Phase.generate],
        report_multiple_bugs=False, suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(st.data())
    def run(data: st.DataObject) -> None:
        check(row, data.draw(row.cases), data.draw(st.sampled_from(row.dtypes)))

    for seed in range(runs):
        try:
            hypothesis.seed(seed)(run)()
        except Exception as error:  # a crash is a failure too
            text = str(error).strip().splitlines()
            return f"{type(error).__name__}: {text[0] if text else ''}"
    return None


def main() -> int:
    started = time.perf_counter()
    rows = {row.name: row for row in all_rows()}
    used = sorted({name for mutation in MUTATIONS for name in mutation.rows.split(",")})
    for name in used:
        if (message := failure(rows[name], 1)) is not None:
            print(f"row {name!r} fails without a mutation: {message}")
            return 1
    print(f"{len(used)} rows pass without a mutation\n")
    survivors = 0
    for mutation in MUTATIONS:
        with planted(mutation):
            found = ((name, failure(rows[name], 10)) for name in mutation.rows.split(","))
            caught = next((pair for pair in found if pair[1] is not None), None)
        survivors += caught is None
        print(f"{mutation.what:52} {'SURVIVES' if caught is None else f'caught by {caught[0]}: {caught[1]}'}"[:200])
    print(f"\n{len(MUTATIONS) - survivors} of {len(MUTATIONS)} caught, in {time.perf_counter() - started:.0f} s")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())

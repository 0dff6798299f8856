"""Where the time of a piece of training goes: each operation's calls, seconds, bytes and FLOP/s, forward and backward.

    with mg.profiler.profile() as p:
        step()
    print(p.table())

Times are the host's, from the call of an operation to its return, so they hold what recording it costs. An operation
that runs inside another (as part of a derivative, say) counts to the outer one. Nothing is measured, and nothing
costs time, outside of the `with` block.

Floating-point operations are counted for convolutions and products of matrices, as the *direct* algorithm has them:
a multiplication and an addition for each term of its sums. A faster algorithm does fewer, so its GFLOP/s may be more
than the processor can do. Other operations have no count.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from minigan.observe import Observer


@dataclass
class Span:
    """One call: what ran, when (`time.perf_counter`), and the bytes of the array it made."""

    name: str
    phase: str  # forward, backward or step
    began: float
    ended: float
    bytes: int
    flops: int = 0  # as `direct_flops` counts
    outermost: bool = True

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began


@dataclass
class Row:
    """All calls of one operation in one phase. `share` is of the whole block's time."""

    name: str
    phase: str
    calls: int = 0
    seconds: float = 0.0
    share: float = 0.0
    bytes: int = 0
    flops: int = 0

    @property
    def gflops(self) -> float:
        """Billions of floating-point operations per second; 0 where they are not counted."""
        return self.flops / max(self.seconds, 1e-9) / 1e9


class Profile(Observer):
    """What ran inside the `with` block."""

    def __init__(self) -> None:
        self.spans: list[Span] = []  # in the order in which they ended
        self.began = self.ended = 0.0

    def __enter__(self) -> Profile:
        super().__enter__()
        self.began = time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        self.ended = time.perf_counter()
        super().__exit__(*exc)

    def rows(self) -> list[Row]:
        """One row per operation and phase, the longest first; the last is the time outside of all operations."""
        total = max(self.ended - self.began, 1e-9)
        rows: dict[tuple[str, str], Row] = {}
        for span in self.spans:
            if span.outermost:
                row = rows.setdefault((span.name, span.phase), Row(span.name, span.phase))
                row.calls += 1
                row.seconds += span.seconds
                row.bytes += span.bytes
                row.flops += span.flops
        rest = Row("(between operations)", "", seconds=total - sum(row.seconds for row in rows.values()))
        ordered = [*sorted(rows.values(), key=lambda row: -row.seconds), rest]
        for row in ordered:
            row.share = row.seconds / total
        return ordered

    def table(self, limit: int = 30) -> str:
        """The rows as text, at most `limit` operations of them."""
        rows = self.rows()
        lines = [f"{'operation':<24}{'phase':<10}{'calls':>8}{'ms':>11}{'share':>8}{'MB made':>10}{'GFLOP/s':>9}"]
        for row in [*rows[:-1][:limit], rows[-1]]:
            lines.append(
                f"{row.name:<24}{row.phase:<10}{row.calls or '':>8}{row.seconds * 1e3:>11.2f}{row.share:>8.1%}"
                f"{row.bytes / 1e6:>10.1f}{f'{row.gflops:.1f}' if row.flops else '':>9}".rstrip()
            )
        return "\n".join(lines)

    def chrome_trace(self, path: str | Path) -> None:
        """Write all calls, nested ones too, as a file for chrome://tracing or ui.perfetto.dev."""
        events = [
            {
                "name": span.name, "cat": span.phase, "ph": "X", "pid": 0, "tid": 0,
                "ts": (span.began - self.began) * 1e6, "dur": span.seconds * 1e6,
                "args": {"bytes": span.bytes} | ({"flops": span.flops} if span.flops else {}),
            }
            for span in self.spans
        ]  # fmt: skip
        Path(path).write_text(json.dumps({"traceEvents": events}), encoding="utf-8")

    # What the engine reports --------------------------------------------------------------------------

    def operation(
        self, op: type, inputs: Sequence[Any], params: Mapping[str, Any], result: Any, began: float
    ) -> None:  # fmt: skip
        made = 0 if result.base is not None else result.array.nbytes  # a view makes no array
        shapes = [getattr(x, "shape", ()) for x in inputs]
        self._add(op.__name__, "forward", began, made, direct_flops(op.__name__, shapes, result.shape, params))

    def derivative(self, node: Any, gradient: Any, gradients: Sequence[Any], began: float) -> None:
        made = sum(g.array.nbytes for g in gradients if g is not None)
        flops = direct_flops(node.op.__name__, node.shapes, gradient.shape, node.params)
        products = sum(g is not None for g in gradients[:2])  # each like the forward one; a bias has none
        self._add(node.op.__name__, "backward", began, made, flops * products)

    def stepped(self, optimizer: Any, began: float) -> None:
        self._add(type(optimizer).__name__, "step", began, 0)

    def _add(self, name: str, phase: str, began: float, made: int, flops: int = 0) -> None:
        ended = time.perf_counter()
        for span in reversed(self.spans):  # those that ran inside this one
            if span.began < began:
                break
            span.outermost = False
        self.spans.append(Span(name, phase, began, ended, made, flops))


def direct_flops(op: str, inputs: Sequence[Sequence[int]], output: Sequence[int], params: Mapping[str, Any]) -> int:
    """Floating-point operations of an operation by the direct algorithm, from its shapes; 0 if they are not counted.

    The three convolutions sum the same terms: every weight meets every image at every position of the small side.

    >>> direct_flops("Linear", [(64, 100), (128, 100)], (64, 128), {}) == 2 * 64 * 100 * 128
    True
    """
    if op in ("Linear", "Matmul"):
        return 2 * prod(output) * inputs[0][-1]
    if op in ("Conv", "ConvTranspose", "ConvWeightGrad"):
        weight = output if op == "ConvWeightGrad" else inputs[1]
        return 2 * inputs[0][0] * prod(params["geometry"].output) * prod(weight)
    return 0


def profile() -> Profile:
    """Measure every operation in a `with` block.

    >>> import minigan as mg
    >>> x = mg.ones(4, 4, requires_grad=True)
    >>> with profile() as p:
    ...     x.exp().sum().backward()
    >>> sorted((row.name, row.phase, row.calls, row.bytes) for row in p.rows() if row.calls)[:2]
    [('Exp', 'backward', 1, 64), ('Exp', 'forward', 1, 64)]
    """
    return Profile()

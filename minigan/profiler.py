"""Where the time of a piece of training goes: each operation's calls, seconds and bytes, forward and backward.

    with mg.profiler.profile() as p:
        step()
    print(p.table())

Times are the host's, from the call of an operation to its return, so they hold what recording it costs. An operation
that runs inside another (as part of a derivative, say) counts to the outer one. Nothing is measured, and nothing
costs time, outside of the `with` block.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
        rest = Row("(between operations)", "", seconds=total - sum(row.seconds for row in rows.values()))
        ordered = [*sorted(rows.values(), key=lambda row: -row.seconds), rest]
        for row in ordered:
            row.share = row.seconds / total
        return ordered

    def table(self, limit: int = 30) -> str:
        """The rows as text, at most `limit` operations of them."""
        rows = self.rows()
        lines = [f"{'operation':<24}{'phase':<10}{'calls':>8}{'ms':>11}{'share':>8}{'MB made':>10}"]
        for row in [*rows[:-1][:limit], rows[-1]]:
            lines.append(
                f"{row.name:<24}{row.phase:<10}{row.calls or '':>8}{row.seconds * 1e3:>11.2f}{row.share:>8.1%}"
                f"{row.bytes / 1e6:>10.1f}"
            )
        return "\n".join(lines)

    def chrome_trace(self, path: str | Path) -> None:
        """Write all calls, nested ones too, as a file for chrome://tracing or ui.perfetto.dev."""
        events = [
            {
                "name": span.name, "cat": span.phase, "ph": "X", "pid": 0, "tid": 0,
                "ts": (span.began - self.began) * 1e6, "dur": span.seconds * 1e6, "args": {"bytes": span.bytes},
            }
            for span in self.spans
        ]  # fmt: skip
        Path(path).write_text(json.dumps({"traceEvents": events}), encoding="utf-8")

    # What the engine reports --------------------------------------------------------------------------

    def operation(
        self, op: type, inputs: Sequence[Any], params: Mapping[str, Any], result: Any, began: float
    ) -> None:  # fmt: skip
        made = 0 if result.base is not None else result.array.nbytes  # a view makes no array
        self._add(op.__name__, "forward", began, made)

    def derivative(self, node: Any, gradient: Any, gradients: Sequence[Any], began: float) -> None:
        self._add(node.op.__name__, "backward", began, sum(g.array.nbytes for g in gradients if g is not None))

    def stepped(self, optimizer: Any, began: float) -> None:
        self._add(type(optimizer).__name__, "step", began, 0)

    def _add(self, name: str, phase: str, began: float, made: int) -> None:
        ended = time.perf_counter()
        for span in reversed(self.spans):  # those that ran inside this one
            if span.began < began:
                break
            span.outermost = False
        self.spans.append(Span(name, phase, began, ended, made))


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

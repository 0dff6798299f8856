"""The tables of `bench.cpu` in Markdown, from the results of contests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bench.contest import Result
from bench.layers import LAYERS, PARTS
from bench.steps import OURS, WAYS

Results = Mapping[str, Result]
COMPARED = "minigan / PyTorch"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column is on the left, figures are on the right."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---", *["---:"] * (len(head) - 1)], *rows))


def number(value: float) -> str:
    """Three digits, more before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def spread(result: Result, name: str) -> str:
    """The median of the rounds, and their quartiles."""
    low, high = result.quartiles(name)
    return f"{number(result.median(name))} ({number(low)}–{number(high)})"


def best(results: Results, library: str, name: str) -> float | None:
    """The fastest median of a library's ways."""
    medians = [result.median(name) for way, result in results.items() if WAYS[way].library == library]
    return min(medians, default=None)


def ratio(results: Results, name: str) -> str:
    """Our median to the best of PyTorch's ways: below 1 is faster."""
    theirs = best(results, "torch", name)
    return f"{results[OURS].median(name) / theirs:.2f}" if theirs and OURS in results else ""


def rate(flops: int, ms: float | None, peak: float) -> str:
    """GFLOP/s, and as a part of the peak of matrix products."""
    if not flops or ms is None:
        return ""
    found = flops / ms / 1e6
    return f"{number(found)} ({found / peak:.0%})"


def steps(contests: Mapping[tuple[str, int], Results], ways: Sequence[str], peak: float) -> str:
    """Whole steps: a row for each (step, batch)."""
    labels = [WAYS[way].label for way in ways]
    head = ["step, ms", "batch", *labels, COMPARED, "GFLOP", "minigan GFLOP/s", "PyTorch GFLOP/s"]
    rows = []
    for (step, batch), results in contests.items():
        flops = max((result.flops for result in results.values()), default=0)
        ours = results[OURS].median(step) if OURS in results else None
        cells = [spread(results[way], step) if way in results else "" for way in ways]
        rates = [rate(flops, ours, peak), rate(flops, best(results, "torch", step), peak)]
        rows.append([step, str(batch), *cells, ratio(results, step), number(flops / 1e9) if flops else "", *rates])
    return markdown(head, rows)


def layers(results: Results, batch: int, peak: float) -> str:
    """Single layers: a row for each part of each."""
    head = ["layer", "part, ms", *(WAYS[way].label for way in results), COMPARED, "minigan GFLOP/s", "PyTorch GFLOP/s"]
    rows = []
    for layer in LAYERS.values():
        for part in PARTS:
            name = f"{layer.name}/{part}"
            cells = [spread(result, name) for result in results.values()]
            rates = [rate(layer.flops(batch), best(results, library, name), peak) for library in ("minigan", "torch")]
            rows.append([layer.name, part, *cells, ratio(results, name), *rates])
    return markdown(head, rows)


def memory(contests: Mapping[tuple[str, int], Results], ways: Sequence[str]) -> str:
    """Peak resident memory of the processes that took the steps."""
    rows = []
    for (step, batch), results in contests.items():
        cells = [f"{results[w].peak:.0f} ({results[w].imported:.0f})" if w in results else "" for w in ways]
        rows.append([step, str(batch), *cells])
    return markdown(["step, MB", "batch", *(WAYS[way].label for way in ways)], rows)


def growth(contests: Mapping[tuple[str, int], Results]) -> str:
    """One step with several batches: milliseconds for each, and how many times longer the largest takes."""
    step = next(iter(contests))[0]
    batches = [batch for _, batch in contests]
    rows = []
    for way in next(iter(contests.values())):
        medians = [results[way].median(step) for results in contests.values()]
        rows.append([WAYS[way].label, *map(number, medians), f"{medians[-1] / medians[0]:.2f}×"])
    rows.append([COMPARED, *(ratio(results, step) for results in contests.values()), ""])
    return markdown([f"{step}, ms", *(f"batch {b}" for b in batches), f"{batches[0]} → {batches[-1]}"], rows)

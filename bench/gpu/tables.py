"""The report of `bench.gpu` in Markdown, from the numbers that are kept as JSON beside it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from bench.gpu.card import PRECISIONS, Card
from bench.gpu.cases import CHOSEN, Case
from bench.gpu.ways import WAYS
from bench.tables import markdown, number

Numbers = Mapping[str, Any]

NOTES = {
    "checks": (
        "Every rung against float64 on fresh random inputs; its outputs are NaN beforehand. ‖found - exact‖ / ‖exact‖."
    ),
    "best": (
        "The layers of DCGAN-64 and what else a step does: our fastest rung and the one that the engine chooses, "
        "against the roofline (the more of FLOP / datasheet peak and bytes / measured bandwidth; bytes of fp32, each "
        "read and written once) and PyTorch's best operation of that precision (cuDNN in either layout; bf16 tensors "
        "for bf16). G's layers are D's turned round: its forward is the input gradient here. Last column: chosen / "
        "PyTorch, below 1 minigan is faster."
    ),
    "rungs": "All rungs, and all of PyTorch's operations: medians, quartiles in brackets.",
    "steps": (
        "Whole training steps, ms: medians of the rounds. tuned: channels_last, cudnn.benchmark, fused Adam, D frozen "
        "while G learns; graph: the whole step is one CUDA graph; compiled: torch.compile of both networks inside it "
        "(default mode, max-autotune). As it comes: eager, NCHW, TF32 in convolutions. Ratio: best of minigan / best "
        "of PyTorch at that precision, below 1 minigan is faster."
    ),
    "memory": "Peak memory that tensors of such steps had, MB.",
}


def section(name: str, *tables: str) -> str:
    """A heading, what the figures are, and the tables."""
    return "\n\n".join([f"## {name}", NOTES[name], *tables]) + "\n"


def report(found: Numbers, cases: Mapping[str, Case], full: bool) -> str:
    """The report of what is there; without `full`, what fits on a screen."""
    parts = [f"# minigan and PyTorch on a GPU\n\n{found['machine']}\n"]
    card = Card(**found["card"]) if "card" in found else None
    if card:
        parts.append(f"{card}\n")
    if "checks" in found:
        parts.append(section("checks", *checks(found["checks"], full)))
    timed = {**found.get("rungs", {}), **found.get("operations", {})}
    if timed and card:
        if full:
            parts.append(section("rungs", rungs(timed, cases, card), *failures(timed)))
        parts.append(section("best", best(timed, cases, card), *([] if full else failures(timed))))
    if "steps" in found:
        if full:
            parts.append(section("memory", steps(found["steps"], "mb")))
        lost = {f"{step}, {way}": facts for step, ways in found["steps"].items() for way, facts in ways.items()}
        parts.append(section("steps", steps(found["steps"], "times"), *failures(lost)))
    return "\n".join(parts)


def failures(found: Numbers) -> list[str]:
    """A line for each that has an error."""
    lines = [f"- {name.replace('|', ': ')}: {facts['error']}" for name, facts in found.items() if "error" in facts]
    return ["\n".join(lines)] if lines else []


def checks(found: Numbers, full: bool) -> Iterator[str]:
    """How many passed, and those that did not; or all."""
    bad = [name for name, facts in found.items() if not facts.get("passed")]
    yield f"{len(found) - len(bad)} of {len(found)} passed" + (f"; FAILED: {', '.join(bad)}" if bad else "")
    rows = []
    for name in found if full else bad:
        facts = found[name]
        said = facts.get("error") or ("passed" if facts["passed"] else f"FAILED (seed {facts['seed']})")
        rows.append([name, *(f"{facts[key]:.1e}" if key in facts else "" for key in ("difference", "limit")), said])
    if rows:
        yield markdown(["check", "difference", "limit", ""], rows)


def rungs(timed: Numbers, cases: Mapping[str, Case], card: Card) -> str:
    """A row for everything that was timed."""
    rows = []
    for case in cases.values():
        for name, (precision, _) in {**case.ours, **case.theirs}.items():
            facts = timed.get(f"{case.name}|{name}", {})
            if "ms" not in facts:
                continue
            ms, (low, high) = facts["ms"], facts["quartiles"]
            spread = f"{number(ms)} ({number(low)}–{number(high)})"
            rates = [number(case.flops / ms / 1e9), number(case.bytes / ms / 1e6)]
            rows.append([case.name, name, precision, spread, *rates, share(case, precision, ms, card)])
    return markdown(["", "rung", "precision", "ms", "TFLOP/s", "GB/s", "of the roofline"], rows)


def best(timed: Numbers, cases: Mapping[str, Case], card: Card) -> str:
    """A row for each case and precision: our fastest rung, the chosen one, and PyTorch's fastest."""
    head = ["", "precision", "fastest rung", "ms", "TFLOP/s", "of the roofline", "chosen, ms", "PyTorch, ms", "ratio"]
    rows = []
    for case in cases.values():
        for precision in PRECISIONS:
            ours, theirs = (
                sorted(
                    (timed[key]["ms"], name) for name, (at, _) in ways.items()
                    if at == precision and "ms" in timed.get(key := f"{case.name}|{name}", {})
                )
                for ways in (case.ours, case.theirs)
            )  # fmt: skip
            if not ours:
                continue
            chosen = next((ms for ms, name in ours if name.startswith(CHOSEN)), None)
            ms, name = next((pair for pair in ours if not pair[1].startswith(CHOSEN)), ours[0])
            cells = [number(ms), number(case.flops / ms / 1e9), share(case, precision, ms, card)]
            cells += [number(chosen) if chosen else "", number(theirs[0][0]) if theirs else ""]
            cells.append(f"{chosen / theirs[0][0]:.2f}" if chosen and theirs else "")
            rows.append([case.name, precision, name, *cells])
    return markdown(head, rows)


def share(case: Case, precision: str, ms: float, card: Card) -> str:
    """The least time to the one that was needed."""
    floor = card.floor(case.flops, case.bytes, precision)
    return f"{floor / ms:.0%}" if floor else ""


def steps(found: Mapping[str, Numbers], figure: str) -> str:
    """A row for each step and precision; `figure` is "times" or "mb"."""
    columns = list(dict.fromkeys((way.library, way.label) for way in WAYS.values()))
    columns.sort(key=lambda pair: pair[0] == "torch")
    names = {"minigan": "minigan", "torch": "PyTorch"}
    rows = []
    for step, ways in found.items():
        for precision in PRECISIONS:
            values = {
                (library, label): middle(ways.get(f"{library} {precision} {label}", {}), figure)
                for library, label in columns
            }
            cells = [number(value) if (value := values[column]) is not None else "" for column in columns]
            fastest = [
                min((v for (of, _), v in values.items() if of == library and v is not None), default=None)
                for library in names
            ]
            ours, theirs = fastest
            rows.append([step, precision, *cells, f"{ours / theirs:.2f}" if ours and theirs else ""])
    return markdown(["step", "precision", *(f"{names[of]} {label}" for of, label in columns), "ratio"], rows)


def middle(facts: Numbers, figure: str) -> float | None:
    """The figure, of times the median; None where there was an error."""
    if "error" in facts or not facts.get(figure):
        return None
    return statistics.median(facts["times"]) if figure == "times" else facts[figure]

"""The curves of a run: metrics.jsonl read, sorted into panels, and drawn, as one PNG or one SVG a panel.

Drawn by Matplotlib's object interface, loaded on use. The page around the SVGs is `report.py`'s.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from minigan.files import write_atomically

TRAINING = {
    "d_loss": "D loss",
    "g_loss": "G loss",
    "penalty": "penalty",
    "d_real": "D(x)",
    "d_fake": "D(G(z))",
    "d_grad": "D gradient",
    "g_grad": "G gradient",
}
SCORES = {
    "frechet": "Fréchet distance",
    "kid": "kernel distance (KID)",
    "inception": "inception score",
    "classes": "classes covered",
    "modes": "modes covered",
    "quality": "high quality",
    "distance": "mean pairwise distance",
    "reverse_kl": "reverse KL divergence",
}
GROUPS = (
    ("Losses", ("d_loss", "g_loss", "penalty")),
    ("Outputs of D (mean logit)", ("d_real", "d_fake")),
    ("Gradient norms", ("d_grad", "g_grad")),
    ("Precision and recall ↑", ("precision", "recall")),
    ("Density and coverage ↑", ("density", "coverage")),
)
LOGARITHMIC = ("d_grad", "g_grad")
COLOURS = ("#2f6fde", "#d9600b", "#0e8a6a", "#9455d3")  # each ≥ 3:1 on white and on near-black
INK, LINES, ALARM = "#505a68", "#c4cad2", "#b57b00"
DASHES = (0, (4, 3))
SVG_STYLE = f"""<style>
    svg {{ --ink: {INK}; --lines: {LINES}; color-scheme: light dark; }}
    @media (prefers-color-scheme: dark) {{ svg {{ --ink: #a9b3c0; --lines: #424b57; }} }}
    text {{ font-family: system-ui, sans-serif !important; }}
</style>"""
AXES = (0.105, 0.135, 0.865, 0.74)  # left, bottom, width, height of the axes in a panel's own picture
STYLE: dict[Any, Any] = {
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    **{"font.size": 8.5, "axes.titlesize": 9.5, "axes.titlecolor": INK, "axes.edgecolor": LINES},
    **{f"axes.spines.{side}": False for side in ("top", "right", "left")},
    **{"xtick.major.size": 0, "ytick.major.size": 0, "ytick.minor.size": 0},
    **{"axes.grid": True, "axes.grid.axis": "y", "grid.color": LINES, "grid.alpha": 0.45, "grid.linewidth": 0.6},
    **{"legend.fontsize": 8, "legend.handlelength": 1.4, "legend.columnspacing": 1.2, "legend.handletextpad": 0.5},
    **{"text.parse_math": False, "svg.fonttype": "none"},  # text stays text, dollars included
    "svg.hashsalt": "minigan",  # the same drawing, the same bytes
}


@dataclass(frozen=True)
class Series:
    """One number over the steps; a score (`better` is "lower" or "higher") has its interval and its floor."""

    name: str
    better: str
    steps: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    floor: np.ndarray

    @property
    def title(self) -> str:
        """The name as a heading, with an arrow where better is."""
        return self.name[:1].upper() + self.name[1:] + {"lower": "\u00a0↓", "higher": "\u00a0↑"}.get(self.better, "")


@dataclass(frozen=True)
class Panel:
    """Series that share one pair of axes."""

    title: str
    series: tuple[Series, ...]
    logarithmic: bool = False
    colours: tuple[str, ...] = COLOURS


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl in order; a last line that is only half there (a killed run) is left out.

    >>> import minigan as mg, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder) / "metrics.jsonl"
    ...     _ = file.write_text('{"step": 1, "d_loss": 1.4}\\n{"step": 2, "d_lo')
    ...     read_metrics(file)
    [{'step': 1, 'd_loss': 1.4}]
    """
    lines = Path(path).read_bytes().split(b"\n")
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}: expected one JSON object a line ({error})") from None
        if not is_record(record):
            raise ValueError(f'{path}, line {number}: expected an object with a whole "step", got {line[:60]!r}')
        records.append(record)
    return records


def is_record(record: Any) -> bool:
    """Whether what JSON held has a step, and scores that are tables, if any."""
    if not isinstance(record, dict):
        return False
    step, scores = record.get("step"), record.get("scores", {})
    counted = isinstance(step, int) and 0 <= step < 2**53
    return counted and isinstance(scores, dict) and all(isinstance(score, dict) for score in scores.values())


def finite(value: Any) -> float:
    """A number of a record that can be drawn, else NaN."""
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e100 else math.nan


def collect(records: Sequence[dict[str, Any]]) -> dict[str, Series]:
    """Every series of a run by its key in the records: training's in a fixed order, then the scores as they come.

    >>> collect([{"step": 1, "g_loss": 0.7}, {"step": 2, "g_loss": 0.8}])["g_loss"].values
    array([0.7, 0.8])
    """
    rows: dict[str, list[tuple[float, ...]]] = {key: [] for key in TRAINING}
    better: dict[str, str] = {}
    for record in records:
        for key in TRAINING.keys() & record.keys():
            rows[key].append((record["step"], finite(record[key]), math.nan, math.nan, math.nan))
        for key, score in record.get("scores", {}).items():
            rows.setdefault(key, []).append(
                (record["step"], *(finite(score.get(part)) for part in ("value", "low", "high", "floor")))
            )
            better[key] = "lower" if score.get("better") == "lower" else "higher"
    names = TRAINING | SCORES
    return {
        key: Series(names.get(key, key.replace("_", " ")), better.get(key, ""), *np.array(row, np.float64).T)
        for key, row in rows.items()
        if row
    }


def alarms(records: Sequence[dict[str, Any]]) -> list[tuple[int, str]]:
    """(step, kind) of every warning."""
    return [(record["step"], str(record["warning"])) for record in records if "warning" in record]


def panels(series: dict[str, Series]) -> list[Panel]:
    """What is read together, together: the panels of training, then the scores.

    >>> [panel.title for panel in panels(collect([{"step": 1, "g_loss": 0.7, "d_grad": 1.0}]))]
    ['Losses', 'Gradient norms']
    """
    group_of = {key: (title, keys) for title, keys in GROUPS for key in keys}
    found: dict[str, Panel] = {}
    for key, one in series.items():
        title, keys = group_of.get(key, (one.title, (key,)))
        found[title] = Panel(title, tuple(series[key] for key in keys if key in series), key in LOGARITHMIC)
    return list(found.values())


def smooth(values: np.ndarray) -> np.ndarray:
    """The mean over a window of a thirtieth of the values about each; NaN is left out of it."""
    window = np.ones(2 * (len(values) // 60) + 1)
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0), window)
    count = np.convolve(known, window)
    margin = len(window) // 2
    mean = total / np.where(count > 0, count, np.nan)
    return np.where(known, mean[margin : len(mean) - margin], np.nan)


def draw_panel(axes: Any, panel: Panel, last: float, warnings: Sequence[tuple[int, str]]) -> None:
    """Draw a panel on Matplotlib's axes, from step 0 to `last`."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    handles = []
    style = {"linewidth": 1.7, "markersize": 3.2}
    for colour, one in zip(cycle(panel.colours), panel.series, strict=False):
        values = np.where(one.values > 0, one.values, np.nan) if panel.logarithmic else one.values
        marker = "o" if one.better or np.isfinite(values).sum() < 3 else ""
        if one.better:
            axes.fill_between(one.steps, one.low, one.high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(one.steps, one.floor, color=colour, linestyle=DASHES, linewidth=1.1)
        else:
            axes.plot(one.steps, values, color=colour, alpha=0.3, linewidth=0.7)
            values = smooth(values)
        handles += axes.plot(one.steps, values, color=colour, marker=marker, label=one.name, **style)
    if panel.title == panel.series[0].title:  # which names its one line
        handles = []
    if any(np.isfinite(one.floor).any() for one in panel.series):
        handles.append(Line2D([], [], color=INK, linestyle=DASHES, linewidth=1.1, label="floor"))
    if panel.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        limit_to_most(axes, panel)
    for index, (step, kind) in enumerate(warnings):
        axes.axvline(step, color=ALARM, linewidth=1.1, alpha=0.8)
        if kind not in [earlier for _, earlier in warnings[:index]]:
            place = {"xy": (step, 1), "xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
            axes.annotate(kind, xytext=(-3, -3), rotation=90, ha="right", va="top", fontsize=7, color=ALARM, **place)
    axes.set_xlim(0, last)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}"))
    axes.set_title(panel.title, loc="left", fontweight="bold")
    if handles:
        axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1.01, 0.975), ncols=4, frameon=False)


def limit_to_most(axes: Any, panel: Panel) -> None:
    """Let the vertical axis hold 98% of the raw values and all of the smoothed: one spike must not flatten the rest."""
    raw = np.concatenate([one.values[np.isfinite(one.values)] for one in panel.series])
    if len(raw) >= 50 and not panel.series[0].better:
        means = np.concatenate([smooth(one.values) for one in panel.series])
        low, high = np.percentile(raw, [1, 99])
        low, high = min(low, np.nanmin(means)), max(high, np.nanmax(means))
        margin = 0.08 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)


def last_step(series: dict[str, Series]) -> float:
    """Where the horizontal axis ends."""
    return max([1.0, *(float(one.steps.max()) for one in series.values())])


def draw_curves(records: Sequence[dict[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw a run's losses, outputs of D, gradient norms and scores as one PNG of 1200 × 800.

    Training's numbers are smoothed over the light raw ones; scores have their confidence bands and, dashed, their
    floors; warnings are upright lines.

    >>> import minigan as mg, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_curves([{"step": 1, "d_loss": 1.4, "g_loss": 0.7}], pathlib.Path(folder) / "curves.png")
    """
    import matplotlib
    from matplotlib.figure import Figure

    series = collect(records)
    drawn = panels(series)
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 8), dpi=100, layout="constrained")
        columns = math.ceil(math.sqrt(len(drawn)))
        for index, panel in enumerate(drawn):
            axes = figure.add_subplot(-(-len(drawn) // columns), columns, index + 1)
            draw_panel(axes, panel, last_step(series), alarms(records))
        if not drawn:
            figure.text(0.5, 0.5, "nothing recorded yet", ha="center", fontsize=14)
        figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomically(path, buffer.getvalue())


def panel_svg(panel: Panel, last: float, warnings: Sequence[tuple[int, str]]) -> str:
    """One panel as SVG whose axes lie at AXES, in colours that follow the reader's light or dark setting."""
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.3))
        draw_panel(figure.add_axes(AXES), panel, last, warnings)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = (
        buffer.getvalue().replace(INK, "var(--ink)").replace(LINES, "var(--lines)").replace("<g ", SVG_STYLE + "<g ", 1)
    )
    return svg[svg.index("<svg") :]

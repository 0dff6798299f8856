"""report.html: a run folder as one page that needs nothing else, and two runs side by side.

The page loads no network, font or script: its looks are report.css, its one script is report.js, and every picture
is a data URI. Without scripts all is there but the slider. Whatever comes from a run is escaped.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from minigan.files import write_atomically
from minigan.gan import curves
from minigan.gan.curves import Panel, Series
from minigan.gan.run_folder import RunFolder

FRAMES = 30  # pictures of the film strip: a long run's report stays a few MB
POINTS = 400  # values of a series that the page can show below the curves
TABLES = ("settings", "data", "versions", "fork")  # of config.toml


class Run(RunFolder):
    """A run folder with its metrics read."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self.name = self.path.resolve().name
        self.records = self.metrics()
        self.series = curves.collect(self.records)
        self.step = max([record["step"] for record in self.records], default=0)

    def table(self, name: str) -> dict[str, Any]:
        """One of config.toml's tables; empty if there is none."""
        found = self.config.get(name)
        return found if isinstance(found, dict) else {}

    def pictures(self) -> list[tuple[int, Path]]:
        """(step, file) of the samples in order, thinned out evenly to FRAMES with the first and the last kept."""
        names = {path.stem.removeprefix("step-"): path for path in self.samples.glob("step-*.png")}
        found = sorted((int(step), path) for step, path in names.items() if step.isdecimal())
        kept = np.unique(np.linspace(0, len(found) - 1, min(FRAMES, len(found))).round().astype(int))
        return [found[index] for index in kept]


def write_report(run_folder: str | os.PathLike[str]) -> Path:
    """Write report.html, and curves.png, into a run folder, of what is there so far.

    >>> import minigan as mg, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (pathlib.Path(folder) / "config.toml").write_text('recipe = "ring"')
    ...     write_report(folder).name
    'report.html'
    """
    run = Run(run_folder)
    curves.draw_curves(run.records, run.path / "curves.png")
    last, warnings = curves.last_step(run.series), curves.alarms(run.records)
    about = [run.config.get("recipe", ""), f"step {run.step:,}", f"started {run.config.get('created', '?')}"]
    body = [
        f"<header><h1>{text(run.name)}</h1><p>{text(' · '.join(map(str, about)))}</p></header>",
        tiles(run),
        section("Warnings", warning_list(run), "warnings"),
        section("Samples", film(run, beside=figure(run.path / "real.png", "Real samples"))),
        section("Latent walk", figure(run.path / "walk.gif", "A closed walk through the latent space")),
        section("Curves", charts(curves.panels(run.series), last, warnings)),
        section("Scores", score_table({"": run}), "scores"),
        *(section(part.capitalize(), table((), run.table(part).items())) for part in TABLES),
        section("Go on from here", commands(run)),
    ]
    path = run.path / "report.html"
    write_page(path, run.name, body, last, run.series.values())
    return path


def write_comparison(run_a: str | os.PathLike[str], run_b: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Write one page that holds two runs against each other: settings that differ, samples, scores, curves overlaid.

    >>> import minigan as mg, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for loss in ("hinge", "lsgan"):
    ...         (run := pathlib.Path(folder) / loss).mkdir()
    ...         _ = (run / "config.toml").write_text(f'[settings]\\nloss = "{loss}"')
    ...     write_comparison(run.with_name("hinge"), run, run / "compare.html")
    ...     "<td>hinge</td><td>lsgan</td>" in (run / "compare.html").read_text()
    True
    """
    runs = {"A": Run(run_a), "B": Run(run_b)}
    last = max(curves.last_step(run.series) for run in runs.values())
    both = {key: one.title for run in runs.values() for key, one in run.series.items()}
    panels = []
    for key, title in both.items():
        found = [replace(run.series[key], name=letter) for letter, run in runs.items() if key in run.series]
        colours = tuple(colour for colour, run in zip(curves.COLOURS, runs.values(), strict=False) if key in run.series)
        panels.append(Panel(title, tuple(found), key in curves.LOGARITHMIC, colours))
    named = [replace(s, name=f"{s.name} {letter}") for letter, run in runs.items() for s in run.series.values()]
    films = "".join(f"<div><h3>{text(f'{letter}: {run.name}')}</h3>{film(run)}</div>" for letter, run in runs.items())
    title = f"{runs['A'].name} and {runs['B'].name}"
    body = [
        f"<header><h1>{text(title)}</h1><p>{text(f'A: {run_a} · B: {run_b}')}</p></header>",
        section("Settings that differ", differences(runs)),
        section("Samples", f'<div class="pair">{films}</div>'),
        section("Curves", charts(panels, last, [])),
        section("Scores", score_table(runs), "scores"),
    ]
    write_page(Path(out), title, body, last, named)


def text(value: Any) -> str:
    """A value as HTML text."""
    return escape(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def section(title: str, content: str, kind: str = "") -> str:
    """A titled part of the page; nothing where there is no content."""
    return f'<section class="{kind}"><h2>{text(title)}</h2>{content}</section>' if content else ""


def data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def figure(path: Path, caption: str) -> str:
    """A picture from a file, if the file is there."""
    if not path.exists():
        return ""
    source = data_uri(path.read_bytes(), path.suffix[1:])
    return f'<figure><img src="{source}" alt="{text(caption)}"><figcaption>{text(caption)}</figcaption></figure>'


def figures(value: float) -> str:
    """A number to four figures; a dash where there is none."""
    return "–" if np.isnan(value) else f"{value:.4g}"


def tiles(run: Run) -> str:
    """The first things to know: how far, how good, and how good it could be."""
    facts = [("Steps", f"{run.step:,}", f"of {run.table('settings').get('steps', '–')}")]
    for one in [one for one in run.series.values() if one.better][:4]:
        facts.append((one.title, figures(one.values[-1]), f"floor {figures(one.floor[-1])}"))
    cells = [f"<div><dt>{text(a)}</dt><dd>{text(b)}<small>{text(c)}</small></dd></div>" for a, b, c in facts]
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def warning_list(run: Run) -> str:
    items = [
        f"<li><strong>{text(record['warning'])}</strong> at step {record['step']:,}: {text(record.get('message'))}</li>"
        for record in run.records
        if "warning" in record
    ]
    return f"<ul>{''.join(items)}</ul>" if items else ""


def film(run: Run, beside: str = "") -> str:
    """The samples over the steps: one picture, a slider that chooses it, and the strip of all."""
    shown = [(step, data_uri(path.read_bytes(), "png")) for step, path in run.pictures()]
    if not shown:
        return f"<p>No samples yet.</p>{beside}"
    steps = ",".join(str(step) for step, _ in shown)
    strip = "".join(f'<img src="{source}" alt="Step {step:,}">' for step, source in shown)
    (step, source), end = shown[-1], len(shown) - 1
    return f"""<div class="film" data-steps="{steps}">
<div class="pair">
<figure><img class="frame" src="{source}" alt="Generated samples at step {step:,}">
<figcaption>Generated, from the same latents at every step</figcaption></figure>
{beside}
</div>
<label class="scrub">Step <input type="range" min="0" max="{end}" value="{end}"><output>{step:,}</output></label>
<div class="strip">{strip}</div>
</div>"""


def charts(panels: Iterable[Panel], last: float, warnings: list[tuple[int, str]]) -> str:
    """Every panel as a picture with a line at the step shown, and the numbers of that step below."""
    top, height = 1 - curves.AXES[1] - curves.AXES[3], curves.AXES[3]
    line = f'<i style="top:{top:.1%};height:{height:.1%}"></i>'
    plots = [
        f'<div class="plot"><img src="{data_uri(curves.panel_svg(panel, last, warnings).encode(), "svg+xml")}" '
        f'alt="Curves of {text(panel.title)} over the steps">{line}</div>'
        for panel in panels
    ]
    return f'<div class="charts">{"".join(plots)}</div><p class="readout"></p>' if plots else ""


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table whose rows start with their name; nothing where there are no rows."""
    lines = [
        f'<tr><th scope="row">{text(name)}</th>{"".join(f"<td>{text(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in rows
    ]
    top = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    top = top and f"<thead><tr>{top}</tr></thead>"
    return f'<div class="wide"><table>{top}<tbody>{"".join(lines)}</tbody></table></div>' if lines else ""


def score_table(runs: Mapping[str, Run]) -> str:
    """The last and the best value of every score, with its interval, beside its floor."""
    rows = []
    for key in dict.fromkeys(key for run in runs.values() for key, one in run.series.items() if one.better):
        for letter, run in runs.items():
            if key in run.series:
                one = run.series[key]
                last, low, high, floor = (figures(part[-1]) for part in (one.values, one.low, one.high, one.floor))
                rows.append((f"{letter} {one.title}".strip(), last, f"{low} to {high}", floor, best(one)))
    note = """<p class="note">The floor is the score of real samples against other real samples: what a perfect
generator would get. The interval says how far the score of as many other samples may lie off.</p>"""
    return rows and table(("Score", "Last", "Interval", "Floor", "Best"), rows) + note or ""


def best(one: Series) -> str:
    """The best value of a score, and when it was."""
    ranked = -one.values if one.better == "lower" else one.values
    if np.isnan(ranked).all():
        return "–"
    index = int(np.nanargmax(ranked))
    return f"{figures(one.values[index])} at step {one.steps[index]:,.0f}"


def differences(runs: Mapping[str, Run]) -> str:
    """The recipe, settings, data and versions that are not the same in both runs."""
    flat = []
    for run in runs.values():
        flat.append({"recipe": run.config.get("recipe", "–")})
        for name in TABLES:
            flat[-1] |= {f"{name}: {key}": value for key, value in run.table(name).items()}
    rows = [(key, *(one.get(key, "–") for one in flat)) for key in dict.fromkeys(key for one in flat for key in one)]
    return table(("", *runs), [row for row in rows if row[1] != row[2]]) or f"<p>None of {len(rows)}.</p>"


def commands(run: Run) -> str:
    """What can be done with this run at a command line."""
    place = shlex.quote(str(run.path))
    told = {
        "Go on training, exactly where it stopped": f"minigan resume {place}",
        "Draw new samples": f"minigan sample {place}",
        "Score it again, on more samples": f"minigan evaluate {place}",
        "Start a controlled comparison from here": f"minigan fork {place} --at {run.step} --set loss=lsgan",
    }
    lines = [f"<dt>{what}</dt><dd><code>{text(line)}</code></dd>" for what, line in told.items()]
    return f'<dl class="commands">{"".join(lines)}</dl>'


def write_page(path: Path, title: str, body: Iterable[str], last: float, series: Iterable[Series]) -> None:
    """Put the parts, the looks and the script together into one file."""
    files = resources.files("minigan.gan")
    looks, script = ((files / name).read_text("utf-8") for name in ("report.css", "report.js"))
    left, _, width, _ = curves.AXES
    lines = [line for one in series if (line := thinned(one))[1]]
    told = {"left": left, "width": width, "last": last, "series": lines}
    data = json.dumps(told, allow_nan=False).replace("<", "\\u003c")  # nothing in it can end the script element
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)} – minigan</title>
<style>
{looks}</style>
</head>
<body>
<main>
{"".join(body)}
</main>
<script type="application/json" id="page">{data}</script>
<script>
{script}</script>
</body>
</html>
"""
    write_atomically(path, page.encode())


def thinned(one: Series) -> tuple[str, list[int], list[float]]:
    """(name, steps, values) of a series for the page's script: POINTS at most, finite ones, to four figures."""
    known = np.flatnonzero(np.isfinite(one.values))
    known = known[np.unique(np.linspace(0, len(known) - 1, min(POINTS, len(known))).round().astype(int))]
    return one.name, [int(step) for step in one.steps[known]], [float(f"{value:.4g}") for value in one.values[known]]

"""The commands that look at what there is: sample, evaluate, compare, report, recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from minigan.cli.common import RecipeName, RunPath, output, table, warn

Step = Annotated[
    int | None, typer.Option("--step", help="The checkpoint after this step.", show_default="the last one")
]
Best = Annotated[bool, typer.Option("--best", help="The checkpoint with the best score.")]


def sample(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The folder of a run, or a generator's .onnx file.")],
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many.")] = 64,
    out: Annotated[
        Path | None,
        typer.Option("--out", help=".png; .npy for the numbers; .gif or .apng with --walk", show_default="samples.png"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other samples.")] = 0,
    walk: Annotated[
        int | None, typer.Option(min=1, metavar="FRAMES", help="Animate a closed walk through latent space.")
    ] = None,
    step: Step = None,
    best: Best = False,
) -> None:
    """Draw samples from a run or from an .onnx file.

    A sheet of images or a picture of points (.png), the numbers (.npy), or with --walk an animation in which the
    latents move along arcs.
    """
    from minigan.cli.sources import open_source, save_samples, save_walk

    if walk is None:
        out = output(out or Path("samples.png"), ".png", ".npy")
        save_samples(open_source(source, step, best), number, seed, out)
    else:
        out = output(out or Path("walk.gif"), ".gif", ".apng", ".png")
        save_walk(open_source(source, step, best), number, seed, walk, out)
    print(out)


def evaluate(
    run: RunPath,
    features: Annotated[
        Path | None, typer.Option(help="An ONNX file to take features from, as Inception's for FID.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=16, help="How many samples.", show_default="as in the run's settings")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the scores here too.")] = None,
    step: Step = None,
    best: Best = False,
) -> None:
    """Score a run's samples.

    Each score stands beside its floor, which real samples get against real ones, and with its 95% interval.
    """
    from minigan.gan.evaluate import Evaluator, table
    from minigan.gan.features import OnnxFeatures
    from minigan.gan.runs import load_trainer

    if json_file is not None:
        output(json_file, ".json")
    extractor = None if features is None else OnnxFeatures(features)
    trainer = load_trainer(run, step, best)
    warn(trainer.problems)
    settings = trainer.settings
    evaluator = Evaluator(
        trainer.data, features=extractor, samples=samples or settings.score_samples, seed=settings.seed
    )
    scores = evaluator(lambda n: trainer.sample(n, seed=settings.seed + 1))
    print(table(scores))
    if json_file is not None:
        content = {name: score.to_json() for name, score in scores.items()}
        json_file.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def compare(
    run: RunPath,
    other: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of another run.")],
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("comparison.html"),
) -> None:
    """Hold two runs against each other, on one page.

    Settings that differ, samples, scores and curves.
    """
    from minigan.gan.report import write_comparison

    write_comparison(run, other, output(out, ".html"))
    print(out)


def report(run: RunPath) -> None:
    """Write a run's report.html and curves.png anew."""
    from minigan.gan.report import write_report

    print(write_report(run))


def recipes(name: RecipeName = None) -> None:
    """List the recipes; with a name, all its settings."""
    from minigan.cli.common import settings_of
    from minigan.cli.rehearsal import shown
    from minigan.gan.recipes import NAMES, get_recipe

    if name is None:
        print(table([(each, get_recipe(each).summary) for each in NAMES]))
        return
    recipe = get_recipe(name)
    rows = []
    for spec in settings_of(recipe.defaults):
        choices = [shown(choice) for choice in spec.metadata["choices"]]
        meaning = spec.metadata["meaning"] + (f": {', '.join(choices)}" if choices else "")
        rows.append((spec.name, shown(getattr(recipe.defaults, spec.name)), meaning))
    print(f"{recipe.name}: {recipe.summary}\n\n{table(rows)}")

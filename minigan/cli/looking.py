"""The commands that look at what there is: sample, evaluate, compare, report, recipes."""

from __future__ import annotations

import json
import os
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
        str | None,
        typer.Option(
            "--out",
            metavar="PATH",
            help=".png; .npy for the numbers; .gif or .apng with --walk; a folder/ for many files",
            show_default="samples.png",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other samples.")] = 0,
    walk: Annotated[
        int | None, typer.Option(min=1, metavar="FRAMES", help="Animate a closed walk through latent space.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--format", metavar="png|npy", help="Of the files in a folder.", show_default="npy for points"),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="A class's number, or all in turn.", show_default="all, where there are any")
    ] = None,
    psi: Annotated[float, typer.Option(help="Truncation: below 1, better samples that are more alike.")] = 1.0,
    step: Step = None,
    best: Best = False,
) -> None:
    """Draw samples from a run or from an .onnx file.

    A sheet of images or a picture of points (.png), the numbers (.npy), or with --walk an animation in which the
    latents move along arcs. Into a folder go any number of samples, as single images or as numbers by the thousand;
    after an interruption the same command goes on where it was.
    """
    from minigan.cli.sources import open_source, save_samples, save_shards, save_walk

    path = Path(out or ("samples.png" if walk is None else "walk.gif"))
    folder = walk is None and (str(out).endswith(("/", os.sep)) or path.is_dir() or not path.suffix)
    if kind not in (None, "png", "npy"):
        raise ValueError(f"--format: got {kind!r}, expected png or npy")
    if kind is not None and not folder:
        raise ValueError(f"{path}: --format is for a folder: expected --out with a name that ends in /")
    if not folder:
        output(path, *((".png", ".npy") if walk is None else (".gif", ".apng", ".png")))
    opened = open_source(source, step, best, labels, psi)
    if folder:
        save_shards(opened, number, seed, path, kind)
    elif walk is None:
        save_samples(opened, number, seed, path)
    else:
        save_walk(opened, number, seed, walk, path)
    print(path)


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

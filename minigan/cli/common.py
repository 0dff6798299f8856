"""What several commands share: arguments, completions, tables as text, checks of files to write."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer


def recipe_names(incomplete: str) -> list[str]:
    """Completion of a recipe's name."""
    from minigan.gan.recipes import NAMES

    return [name for name in NAMES if name.startswith(incomplete)]


def setting_names(context: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Completion of `--set`: the settings of the recipe that was named (else the default one's), and their meanings."""
    from minigan.gan.recipes import NAMES, get_recipe

    words = [context.params.get("recipe"), *context.args]  # an unfinished line is not yet taken apart
    name = next((word for word in words if word in NAMES), NAMES[0])
    for spec in settings_of(get_recipe(name).defaults):
        if spec.name.startswith(incomplete):
            yield f"{spec.name}=", spec.metadata["meaning"]


def settings_of(settings: object) -> tuple:
    """The fields of a settings dataclass that a user chooses: all but the recipe's name."""
    from dataclasses import fields

    return tuple(spec for spec in fields(settings) if spec.name != "recipe")  # type: ignore[arg-type]  # a dataclass


RecipeName = Annotated[
    str | None,
    typer.Argument(metavar="RECIPE", show_default="glyphs", help="See: minigan recipes", autocompletion=recipe_names),
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
Changes = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Change a setting; may be repeated.", autocompletion=setting_names
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and the folder's name only.")]


def warn(messages: Sequence[str]) -> None:
    """On standard error, a line each."""
    for message in messages:
        print(f"warning: {message}", file=sys.stderr)


def output(path: Path, *suffixes: str) -> Path:
    """The path, if a file of one of these kinds can be written there: found out before there is work to lose."""
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}")
    return path


def table(rows: Sequence[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """Rows as lines with aligned columns; those whose numbers are in `right` are flush right.

    >>> print(table([("a", "1"), ("bcd", "23")], right=(1,)))
    a     1
    bcd  23
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = (
        [cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    )
    return "\n".join("  ".join(row).rstrip() for row in cells)

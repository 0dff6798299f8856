"""The commands about data: data list, data check, data preview."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minigan.cli.common import output, table


def data_names(incomplete: str) -> list[str]:
    """Completion of a data set's name; files are completed by the shell."""
    from minigan.data.catalog import NAMES

    return [name for name in NAMES if name.startswith(incomplete)]


Spec = Annotated[
    str,
    typer.Argument(metavar="DATA", help="A name (minigan data list), or a file or folder.", autocompletion=data_names),
]
Size = Annotated[int | None, typer.Option(min=1, help="Height and width that images are brought to.")]
Limit = Annotated[int | None, typer.Option(min=1, help="The first so many samples only.")]


def list_data() -> None:
    """The data sets that have names, and where their files are."""
    from minigan.data.catalog import NAMES, find

    rows = []
    for name in NAMES:
        place = find(name)
        if place.kind == "drawn":
            rows.append((name, "drawn, needs no files"))
        else:
            rows.append((name, f"{place.path}" if place.path.exists() else f"not there yet (--download): {place.path}"))
    print(table(rows))
    print("\nOr the path of a folder of images, or of an IDX, CIFAR-10, .npy or .npz file.")


def check(spec: Spec, size: Size = None, limit: Limit = None) -> int:
    """What is in the data, and which files would be left out and why.

    The exit code is 2 where nothing is left to learn from.
    """
    from minigan.data.catalog import check_data

    report = check_data(spec, size=size, limit=limit)
    print(report)
    return 0 if report.kept else 2


def preview(
    spec: Spec,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many samples.")] = 64,
    out: Annotated[Path, typer.Option("--out", help="The picture to write.")] = Path("preview.png"),
    size: Size = None,
    limit: Limit = None,
) -> None:
    """A picture of some samples, as training would get them."""
    from minigan.data.catalog import open_data
    from minigan.gan.pictures import sample_picture, save_png
    from minigan.random import Generator

    output(out, ".png")
    opened = open_data(spec, size=size, limit=limit)
    chosen = Generator(name="preview").manual_seed(0).permutation(len(opened))[:number]
    save_png(sample_picture(opened.batch(chosen)[0], opened), out)
    print(out)

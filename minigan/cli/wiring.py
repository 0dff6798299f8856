"""The commands that look into the machinery: profile, doctor, and run for scripts written for PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minigan.cli.common import Changes, RecipeName, output
from minigan.cli.training import resolve


def profile(
    recipe: RecipeName = None,
    changes: Changes = [],  # noqa: B006  # Typer copies it
    steps: Annotated[int, typer.Option(min=1, help="How many steps are measured, after one that is not.")] = 3,
    trace: Annotated[Path | None, typer.Option(help="Write all calls here, for ui.perfetto.dev (.json).")] = None,
) -> None:
    """Show where the time of a recipe's training step goes.

    Calls, seconds and bytes of each operation, forward and backward.
    """
    from minigan import profiler
    from minigan.gan.trainer import Trainer

    if trace is not None:
        output(trace, ".json")
    trainer = Trainer(resolve(recipe, None, {}, changes))
    trainer.step()
    with profiler.profile() as measured:
        for _ in range(steps):
            trainer.step()
    print(measured.table())
    if trace is not None:
        measured.chrome_trace(trace)


def doctor(recipe: RecipeName = None, changes: Changes = []) -> int:  # noqa: B006  # Typer copies it
    """Look for mistakes in the wiring of a recipe's training step.

    A few real steps are recorded; each mistake is named with its evidence. For a script: minigan run --doctor.
    """
    from minigan.gan.doctor import examine
    from minigan.gan.trainer import Trainer

    trainer = Trainer(resolve(recipe, None, {}, changes))
    findings = examine(trainer.G, trainer.D, trainer.step, trainer.next_real())
    for finding in findings:
        print(finding)
    if not findings:
        print(f"{trainer.settings.recipe}: nothing wrong found")
    return 1 if findings else 0


def run(
    script: Annotated[Path, typer.Argument(metavar="SCRIPT", help="A Python script that uses torch.")],
    args: Annotated[list[str] | None, typer.Argument(metavar="[ARGS]...", help="The script's own arguments.")] = None,
    doctor: Annotated[bool, typer.Option("--doctor", help="Say what is wrong in its wiring.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time goes.")] = False,
    glyphs: Annotated[bool, typer.Option("--glyphs", help="Draw digits where a data set's files are missing.")] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="End after so many steps of its optimisers.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Let the script download its data sets.")] = False,
) -> int:
    """Run a PyTorch script as it is, on minigan.

    Options go before the script's name; what follows it is the script's own.
    """
    from minigan.compat.run import run_script

    if not script.is_file():
        raise ValueError(f"{script}: no such script")
    return run_script(script, args or (), doctor=doctor, profile=profile, steps=steps, glyphs=glyphs, download=download)

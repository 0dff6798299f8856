"""The commands that train: train, resume, fork. The settings of a run come together here."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from minigan.cli.common import Changes, Quiet, RecipeName, RunPath

if TYPE_CHECKING:
    from minigan.gan.run_folder import RunFolder
    from minigan.gan.settings import Settings

Out = Annotated[
    Path | None, typer.Option("--out", show_default="runs/RECIPE-001, -002, …", help="Folder to create for the run.")
]


def train(
    recipe: RecipeName = None,
    data: Annotated[str | None, typer.Option(help="A name (minigan data list), or a file or folder.")] = None,
    out: Out = None,
    steps: Annotated[int | None, typer.Option(help="Updates of G.")] = None,
    seed: Annotated[int | None, typer.Option(help="What every random stream starts from.")] = None,
    device: Annotated[str | None, typer.Option(help="Where it computes: cpu, cuda, …")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML of settings, or the config.toml of a run.")] = None,
    changes: Changes = [],  # noqa: B006  # Typer copies it
    on_collapse: Annotated[
        Literal["warn", "stop", "rollback"] | None, typer.Option(help="What the collapse alarm does.")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the data set if it is not there.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard events too.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show settings, networks, time and memory of 3 steps; write nothing.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train a GAN and leave a run folder.

    In it: pictures, scores, curves, checkpoints and a report.

    Without arguments, two minutes on two cores learn to draw digits. Later beats earlier: the recipe's defaults,
    --config, the named options, --set.
    """
    options = {"data": data, "steps": steps, "seed": seed, "device": device, "on_collapse": on_collapse}
    settings = resolve(recipe, config, options, changes)
    if dry_run:
        from minigan.cli.rehearsal import rehearse

        print(rehearse(settings))
        return
    from minigan.cli.progress import Progress
    from minigan.gan import runs

    announce(runs.train(settings, out, callbacks=[Progress(quiet)], download=download, tensorboard=tensorboard), quiet)


def resume(
    run: RunPath,
    steps: Annotated[int | None, typer.Option(help="Go on to this many steps in all.")] = None,
    quiet: Quiet = False,
) -> None:
    """Go on with a run that was interrupted.

    The result is the same as if it had not been, bit for bit. With --steps, make a run longer.
    """
    from minigan.cli.progress import Progress
    from minigan.gan import runs

    announce(runs.resume(run, steps=steps, callbacks=[Progress(quiet)]), quiet)


def fork(
    run: RunPath,
    at: Annotated[int | None, typer.Option(help="Step of the checkpoint to start from.", show_default="last")] = None,
    changes: Changes = [],  # noqa: B006  # Typer copies it
    out: Out = None,
    quiet: Quiet = False,
) -> None:
    """Start a run from a checkpoint of another.

    With settings changed by --set, this is a controlled comparison.
    """
    from minigan.cli.progress import Progress
    from minigan.gan import runs

    announce(runs.fork(run, at, changes, out, callbacks=[Progress(quiet)]), quiet)


def announce(run: RunFolder, quiet: bool) -> None:
    """The one line on standard output, so that a script can take it; then the run's generator as a file."""
    from minigan.cli.deploying import export_after_training

    print(run.path, flush=True)
    export_after_training(run.path, quiet)


def resolve(recipe: str | None, config: Path | None, options: dict[str, Any], changes: list[str]) -> Settings:
    """The settings of a run: the recipe's defaults < the config file < named options that are given < `--set`.

    >>> resolve("ring", None, {"steps": 5, "seed": None}, ["batch=8"]).differences(resolve("ring", None, {}, []))
    ['steps: 5 → 6000', 'batch: 8 → 256']
    """
    from minigan.backend import get_backend
    from minigan.gan.recipes import NAMES, get_recipe
    from minigan.gan.settings import SettingsError

    stored = {} if config is None else read_config(config)
    name = stored.pop("recipe", None)
    if any(change.partition("=")[0].strip() == "recipe" for change in changes):
        raise SettingsError("recipe is not a setting to change: name it first, as in minigan train ring")
    settings = get_recipe(str(recipe or name or NAMES[0])).defaults
    try:
        settings = settings.changed(stored)
    except SettingsError as error:
        raise SettingsError(f"{config}: {error}") from None
    given = {option: value for option, value in options.items() if value is not None}
    settings = settings.changed(given).changed(changes)
    try:
        get_backend(settings.device)
    except RuntimeError as error:
        raise SettingsError(str(error)) from None
    return settings


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a TOML file: all of it, or its table [settings] where it has one, as a run's config.toml."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are
        raise ValueError(f"{path}: not a TOML file: {error}") from None
    settings = content.get("settings", content)
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: got settings = {settings!r}, expected a table [settings]")
    return settings

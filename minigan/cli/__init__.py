"""The command line, a thin skin over the library: `main` runs it and turns errors into one line and an exit code.

Exit codes: 0 done; 1 the doctor found something, or an error that should not have happened; 2 something that the user
can mend (a wrong option, setting, file, disk); 130 and 143 interrupted by SIGINT and SIGTERM.

A command is a function in one of the other files. Nothing at the top of those that are imported here needs more than
Typer: `minigan --help` should answer at once, and plain help, because loading Rich takes as long as Typer itself.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from minigan.cli import data, deploying, looking, training, wiring

UsageError: Any = typer.BadParameter.__base__  # Click's; newer versions of Typer carry Click within themselves


def minigan(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")] = False,
) -> None:
    """Train GANs, look inside the training, and keep what came of it."""
    if version:
        from minigan import __version__

        print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def application() -> typer.Typer:
    """All commands, in the order of the help."""
    app = group("First: minigan train, then open the report.html of the folder that it names.")
    app.callback(invoke_without_command=True)(minigan)
    commands: list[Callable[..., Any]] = [
        training.train, training.resume, training.fork, looking.sample, looking.evaluate, looking.compare,
        looking.report, looking.recipes, deploying.export, deploying.verify, wiring.profile, wiring.doctor,
    ]  # fmt: skip
    for command in commands:
        app.command()(command)
    app.command(context_settings={"allow_interspersed_args": False})(wiring.run)
    about_data = group()
    about_data.command("list")(data.list_data)
    about_data.command()(data.check)
    about_data.command()(data.preview)
    app.add_typer(about_data, name="data", help="List, check and look at data sets.")
    return app


def group(epilog: str | None = None) -> typer.Typer:
    """A group of commands, with plain help."""
    return typer.Typer(rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}, epilog=epilog)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line with these arguments (the process's own by default); returns the exit code.

    >>> main(["--version"])
    0.1.0
    0
    """
    words = list(sys.argv[1:] if args is None else args)
    command = next((word for word in words if not word.startswith("-")), None)
    if "--debug" in words and command != "run":  # what follows `run` may be the script's own
        words.remove("--debug")
        words.insert(0, "--debug")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without Greek letters is no reason to fail
    try:
        status = typer.main.get_command(application()).main(words, prog_name="minigan", standalone_mode=False)
        sys.stdout.flush()
        return status or 0
    except BrokenPipeError:  # nobody reads any more, as in `minigan recipes | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if words[:1] == ["--debug"]:
            traceback.print_exc()
        code, message = explain(error)
        print(f"minigan: {' '.join(message.split())}", file=sys.stderr)
        return code


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code and the line for an error.

    >>> explain(FileNotFoundError(2, "No such file or directory", "photos"))
    (2, 'photos: No such file or directory')
    """
    from minigan.gan.runs import Interrupted
    from minigan.gan.trainer import NonFinite

    if isinstance(error, UsageError):
        command = error.ctx.command_path if error.ctx else "minigan"
        return 2, f"{error.format_message()} ({command} --help)"
    if isinstance(error, Interrupted):
        return 128 + error.signal_number, str(error)
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return 130, "interrupted"
    if isinstance(error, ImportError) and not (error.name or "").startswith("minigan"):
        package = (error.name or "").partition(".")[0]  # without one, the library says itself what to install
        return 2, f"needs the package {package}: python -m pip install {package}" if package else str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return 2, f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return 2, f"out of memory ({error or 'no more given'}): try a smaller batch, size or limit"
    if isinstance(error, (ValueError, OSError, NonFinite)):
        return 2, str(error) or type(error).__name__
    return 1, f"{type(error).__name__}: {error} (run with --debug for the traceback)"

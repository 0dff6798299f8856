"""`run_script`: somebody's PyTorch script, run as it is, with minigan in PyTorch's place.

The script is `__main__`, with its own folder first on the path, as Python itself would run it. What it asks of PyTorch
and minigan lacks is named with the script's line; its other errors keep their traceback, without the runner's frames.
Which name stands for which module is in `minigan.compat.aliases`.
"""

from __future__ import annotations

import builtins
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import minigan
from minigan import profiler
from minigan.compat import datasets, notes
from minigan.compat.aliases import aliases, is_aliased, not_here
from minigan.data.files.check import DataError
from minigan.gan.doctor import diagnose
from minigan.gan.recorder import recording
from minigan.observe import Observer
from minigan.tensor import Tensor

_PACKAGE = os.path.dirname(minigan.__file__)


class _Enough(BaseException):
    """The script took as many optimiser steps as it was given. No `except Exception` of the script holds it up."""


class _Limit(Observer):
    """Ends the script after so many steps of all its optimisers together."""

    def __init__(self, steps: int) -> None:
        self.steps = self.left = steps

    def stepped(self, optimizer: Any, began: float) -> None:
        self.left -= 1
        if not self.left:
            raise _Enough(f"ended after {self.steps} optimiser steps, as asked for by --steps")


def run_script(
    path: str | os.PathLike,
    args: Sequence[str] = (),
    *,
    doctor: bool = False,
    profile: bool = False,
    steps: int | None = None,
    glyphs: bool = False,
    download: bool = False,
) -> int:
    """Run a script as `python path args` would, and return its exit status: 2 if it needs what minigan lacks.

    `steps` ends it after that many steps of all its optimisers together, `glyphs` draws digits where a data set's
    files are missing, `download` lets `download=True` of a data set be obeyed, `doctor` prints what is wrong with the
    wiring of the training (and 1 is returned if anything is), and `profile` where its time goes.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "script.py")
    >>> with open(path, "w") as file:
    ...     _ = file.write("import sys, torch; print(torch.ones(2), sys.argv[1:])")
    >>> run_script(path, ["--epochs", "3"])
    tensor([1., 1.]) ['--epochs', '3']
    0
    """
    if steps is not None and steps < 1:
        raise ValueError(f"run_script: steps must be at least 1, got {steps}")
    script = Path(path)
    try:
        source = script.read_bytes()
    except OSError as error:
        print(f"{script}: {error.strerror}", file=sys.stderr)
        return 2
    notes.forget()
    with ExitStack() as stack:
        record = stack.enter_context(recording()) if doctor else None
        times = stack.enter_context(profiler.profile()) if profile else None
        if steps is not None:
            stack.enter_context(_Limit(steps))
        stack.enter_context(_as_main(script, args))
        stack.enter_context(aliases())
        stack.enter_context(datasets.allowing(glyphs=glyphs, download=download))
        status = _status(script, source)
    if times is not None:
        print("\n" + times.table())
    findings = [] if record is None else diagnose(record)
    if record is not None and (findings or status == 0):
        print("\n" + ("\n".join(map(str, findings)) or f"{script}: nothing wrong found"))
    return status or int(bool(findings))


@contextmanager
def _as_main(script: Path, args: Sequence[str]) -> Iterator[None]:
    """`__main__`, `sys.argv` and `sys.path` as Python sets them for a script; all as it was afterwards."""
    main = ModuleType("__main__")
    folder = str(script.parent.resolve())
    vars(main).update(__file__=str(script.absolute()), __builtins__=builtins)
    modules, argv, search = dict(sys.modules), sys.argv, list(sys.path)
    sys.modules["__main__"], sys.argv = main, [str(script), *args]
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.modules["__main__"], sys.argv, sys.path[:] = modules["__main__"], argv, search
        for name in [name for name in sys.modules if name not in modules]:  # the script's own: another may have its own
            if _is_below(getattr(sys.modules[name], "__file__", None), folder):
                del sys.modules[name]


def _is_below(file: str | None, folder: str) -> bool:
    if file is None or not os.path.isabs(file) or "site-packages" in file or file.startswith(_PACKAGE):
        return False
    return Path(folder) in Path(file).resolve().parents


def _status(script: Path, source: bytes) -> int:
    """Run it as the module `__main__`; print what ends it early, if anything does; the exit status."""
    try:
        exec(compile(source, str(script), "exec", dont_inherit=True), vars(sys.modules["__main__"]))
    except _Enough as enough:
        print(f"{script}: {enough}", file=sys.stderr)
    except SystemExit as error:
        if isinstance(error.code, int | None):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    except BaseException as error:
        own = error.__traceback__
        while own is not None and own.tb_frame.f_code.co_filename != str(script):
            own = own.tb_next
        missing = _missing(error)
        if missing is not None:
            print(f"{_place(own, script)}: {missing}", file=sys.stderr)
            return 2
        traceback.print_exception(error.with_traceback(own))
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _missing(error: BaseException) -> str | None:
    """What minigan, or the disk, lacks, if that is what the error says."""
    if isinstance(error, DataError) or " is not in minigan" in str(error):
        return str(error)
    if isinstance(error, AttributeError) and isinstance(error.obj, Tensor):
        return not_here(f"torch.Tensor.{error.name}")
    if isinstance(error, ImportError) and error.name is not None and is_aliased(error.name):
        wanted = re.match(r"cannot import name '(\w+)'", str(error))  # `from torch.nn import LSTM`
        return not_here(f"{error.name}.{wanted[1]}" if wanted else error.name)
    return None


def _place(trace: TracebackType | None, script: Path) -> str:
    """As 'script.py:41': the innermost line of the script, or of a module beside it."""
    place = str(script)
    for frame, line in traceback.walk_tb(trace):
        file = frame.f_code.co_filename
        if file == str(script) or _is_below(file, str(script.parent.resolve())):
            place = f"{file if file == str(script) else os.path.relpath(file)}:{line}"
    return place

"""Runs in processes of their own, to be killed: by a signal at a chosen instant, or within a chosen system call.

Started as a script this is a server: it has imported everything and forks a child for each request, so that a run
costs its steps and not its imports.
"""

import builtins
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from minigan.gan.recipes import get_recipe
from minigan.gan.trainer import Callback

SMALL = (
    "steps=40", "sample_every=10", "checkpoint_every=8", "score_every=20", "score_samples=100", "limit=1000",
    "log_every=2", "width=16", "batch=32", "lr_decay=0",
)  # fmt: skip
CALLS = ("replace", "rename", "fsync", "unlink", "mkdir", "truncate", "rmdir")  # of the module os


def settings(*changes):
    """Those of a run that takes half a second."""
    return get_recipe("ring").defaults.changed([*SMALL, *changes])


def content(folder):
    """Every file but those that tell a time or a place; hidden ones are what a killed process left."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name[0] != ".")
    skipped = ("config.toml", "report.html", "curves.png")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name not in skipped}


class Break(Callback):
    """Breaks off after a step."""

    def __init__(self, at):
        self.at = at

    def step(self, trainer, record):
        if trainer.steps_done == self.at:
            raise ZeroDivisionError


class Server:
    """`run(...)` trains in a child and returns (status, what it said): 0 done, -9 killed, 130 interrupted, 2 error."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "default"},
        )  # fmt: skip

    def run(self, path, changes=(), **how):
        """Trains the recipe `ring` in a new folder, or goes on with the run that is there.

        `seconds` or `lines` (of metrics.jsonl): when `signal` is sent, SIGKILL by default; `call`: kill within the
        call to the system of this number; `limit`: bytes that a file may have; `report`: draw it at the end;
        `arguments`: of `resume`; `again`: seconds after which the signal comes again.
        """
        self.process.stdin.write(json.dumps({"path": str(path), "settings": list(changes), **how}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["status"], answer["said"]

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)


def serve():
    import matplotlib.backends.backend_agg  # noqa: F401
    import tomli_w  # noqa: F401
    from PIL import GifImagePlugin, PngImagePlugin  # noqa: F401

    import minigan.gan.runs  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile("w+") as said:
            pid = os.fork()
            if pid == 0:
                os._exit(child(request, said))
            code = os.waitstatus_to_exitcode(attend(pid, request))
            said.seek(0)
            print(json.dumps({"status": code, "said": said.read()}), flush=True)


def attend(pid, request):
    """Send the signal when it is due; returns the child's status."""
    began, sent = time.monotonic(), "seconds" not in request and "lines" not in request
    metrics = Path(request["path"]) / "metrics.jsonl"
    while True:
        done, status = os.waitpid(pid, 0 if sent else os.WNOHANG)
        if done:
            return status
        if "seconds" in request:
            due = time.monotonic() - began >= request["seconds"]
        else:
            due = metrics.exists() and metrics.read_bytes().count(b"\n") >= request["lines"]
        if due:
            os.kill(pid, request.get("signal", signal.SIGKILL))
            sent = "again" not in request
        time.sleep(request["again"] if due and not sent else 0.0005)


def child(request, said):
    from minigan.cli import explain
    from minigan.gan import callbacks, runs

    os.dup2(said.fileno(), 2)
    os.dup2(said.fileno(), 1)
    if not request.get("report"):
        callbacks.write_report = lambda path: None
    if "limit" in request:
        import resource  # POSIX has it

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"],) * 2)
    if "call" in request:
        die_within(request["call"])
    code = 0
    try:
        path = Path(request["path"])
        if path.exists():
            runs.resume(path, **request.get("arguments", {}))
        else:
            runs.train(settings(*request["settings"]), path)
        if "call" in request:
            print(count[0], file=said)
    except BaseException as error:
        code, line = explain(error)
        if code == 1:
            traceback.print_exc()
        print(line, file=said)
    said.flush()
    return code


count = [0]


def die_within(number):
    """SIGKILL before the `number`-th of the calls that change files; within it, half done, where it is a write."""

    def due():
        count[0] += 1
        return count[0] == number

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def deadly(call):
        def called(*args, **options):
            if due():
                die()
            return call(*args, **options)

        return called

    def opened(path, mode="r", **options):
        file = builtins_open(path, mode, **options)
        if "w" in mode or "a" in mode:
            write = file.write

            def half(data):
                if due():
                    write(data[: len(data) // 2])
                    file.flush()
                    die()
                return write(data)

            file.write = half
        return file

    builtins_open = builtins.open
    for name in CALLS:
        setattr(os, name, deadly(getattr(os, name)))
    from minigan import files
    from minigan.gan import run_folder

    files.open = run_folder.open = opened


if __name__ == "__main__":
    serve()

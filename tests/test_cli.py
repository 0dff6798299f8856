"""The command line as a user meets it: what it prints where, exit codes, one line an error, nothing left behind."""

import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import minigan as mg
from minigan.cli import main
from minigan.cli.progress import Progress, judged
from minigan.cli.training import resolve

COMMANDS = (
    "train", "resume", "fork", "sample", "evaluate", "compare", "report", "recipes", "export", "verify",
    "profile", "doctor", "run",
)  # fmt: skip
SMALL = ["batch=16", "limit=400", "score_samples=40", "checkpoint_every=4", "sample_every=8", "log_every=2", "width=8"]
SETS = [word for setting in SMALL for word in ("--set", setting)]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working folder, and the device that a user has."""
    monkeypatch.chdir(tmp_path)
    before = mg.get_default_device()
    mg.set_default_device("cpu")
    yield tmp_path
    mg.set_default_device(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short, finished run."""
    before = mg.get_default_device()
    mg.set_default_device("cpu")
    path = tmp_path_factory.mktemp("runs") / "ring"
    assert main(["train", "ring", "--steps", "8", "--out", str(path), "--quiet", *SETS]) == 0
    mg.set_default_device(before)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A short, finished run on images."""
    before = mg.get_default_device()
    mg.set_default_device("cpu")
    path = tmp_path_factory.mktemp("runs") / "glyphs"
    words = ["--set", "size=16", "--set", "width=4", "--steps", "2"]
    assert main(["train", "dcgan-32", "--out", str(path), "--quiet", *SETS, *words]) == 0
    mg.set_default_device(before)
    return path


def process(*words, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "minigan", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def content(folder):
    """Every file of a run but those that tell a time or a place, and its bytes."""
    skipped = ("report.html", "config.toml", ".lock")
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in skipped)
    return {path.relative_to(folder): path.read_bytes() for path in files}


# Help --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [[], *([name] for name in COMMANDS), ["data"], ["data", "check"], ["data", "preview"]]
)
def test_help(words, capsys):
    assert main([*words, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: {' '.join(['minigan', *words])} [OPTIONS]")
    assert not err


def test_help_lists_the_commands_with_whole_sentences(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^  (\w+) {2,}\S", out.partition("Commands:")[2], re.MULTILINE) == [*COMMANDS, "data"]
    assert "..." not in out.partition("Commands:")[2]  # no sentence was cut short


def test_help_loads_little():
    code = (
        "import sys; from minigan.cli import main; main(['--help']);"
        "print({'rich', 'PIL', 'matplotlib', 'onnxruntime', 'tomli_w', 'minigan.gan.trainer'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "set()"


def test_completion(capsys, monkeypatch):
    def completed(line):
        monkeypatch.setenv("_MINIGAN_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", f"minigan {line}")
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" "))))
        with pytest.raises(SystemExit):
            main([])
        return capsys.readouterr().out.split()

    assert completed("train ri") == ["ring"]
    assert completed("train ring --set net") == ["networks="]  # a setting that only this recipe has
    assert completed("train wgan --set net") == []
    assert completed("data check cif") == ["cifar10"]
    assert "resume" in completed("re")


# A whole session ---------------------------------------------------------------------------------------


def test_a_session(run, here, capsys):
    assert main(["train", "ring", "--steps", "8", *SETS]) == 0
    out, err = capsys.readouterr()
    assert out == "runs/ring-001\n"
    assert "step 8/8  epoch 0.32  " in err
    assert "scores at step 8: modes" in err
    assert content(here / "runs/ring-001") == content(run)  # neither the place nor --quiet matters

    assert main(["fork", "runs/ring-001", "--at", "4", "--set", "g_lr=0.01", "-q"]) == 0
    assert capsys.readouterr().out == "runs/ring-002\n"
    assert main(["compare", "runs/ring-001", "runs/ring-002"]) == 0
    assert "g_lr" in Path("comparison.html").read_text()
    Path("runs/ring-001/report.html").unlink()
    assert main(["report", "runs/ring-001"]) == 0
    assert Path("runs/ring-001/report.html").exists()


def test_sample(run, images, here, capsys):
    from PIL import Image

    assert main(["sample", str(run), "-n", "10", "--out", "a.npy"]) == 0
    assert main(["sample", str(run), "-n", "10", "--out", "b.npy", "--seed", "1"]) == 0
    assert main(["sample", str(run), "-n", "5", "--out", "c.npy", "--step", "4"]) == 0
    a, b, c = (np.load(f"{name}.npy") for name in "abc")
    assert a.shape == (10, 2)
    assert not np.allclose(a, b)
    assert not np.allclose(a[:5], c)
    from minigan.gan.runs import load_trainer

    assert np.array_equal(a, load_trainer(run).sample(10).numpy())

    capsys.readouterr()
    assert main(["sample", str(images)]) == 0
    assert capsys.readouterr().out == "samples.png\n"
    assert main(["sample", str(images), "--walk", "5", "-n", "2", "--best"]) == 0
    with Image.open("walk.gif") as animation:
        assert animation.n_frames > 1  # equal neighbours are one frame
    assert main(["sample", str(run), "--walk", "3", "--out", "walk.apng"]) == 0


def test_sample_from_onnx(here):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    def write(name, shape):
        z, x = (helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in "zx")
        graph = helper.make_graph([helper.make_node("Tanh", ["z"], ["x"])], "G", [z], [x])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, name)

    write("free.onnx", ["N", 3])
    write("fixed.onnx", [4, 3])
    assert main(["sample", "free.onnx", "-n", "10", "--out", "free.npy"]) == 0
    assert main(["sample", "fixed.onnx", "-n", "10", "--out", "fixed.npy"]) == 0
    z = mg.randn(10, 3, generator=mg.Generator(name="samples").manual_seed(0))
    assert np.allclose(np.load("free.npy"), np.tanh(z.numpy()), atol=1e-6)
    assert np.array_equal(np.load("free.npy"), np.load("fixed.npy"))  # 4, 4, and 2 filled up
    assert main(["sample", "free.onnx"]) == 0

    write("wrong.onnx", ["N", "anything"])
    assert main(["sample", "wrong.onnx"]) == 2
    assert main(["sample", "free.onnx", "--best"]) == 2


def test_evaluate_gives_the_scores_of_the_run(images, here, capsys):
    assert main(["evaluate", str(images), "--json", "scores.json"]) == 0
    scores = json.loads(Path("scores.json").read_text())
    assert capsys.readouterr().out.splitlines()[1].startswith("frechet ")
    lines = [json.loads(line) for line in (images / "metrics.jsonl").read_text().splitlines()]
    assert scores == next(line["scores"] for line in reversed(lines) if "scores" in line)


def test_recipes(capsys):
    assert main(["recipes"]) == 0
    assert "\nring " in capsys.readouterr().out
    assert main(["recipes", "ring"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^batch +256 +samples in a batch$", out, re.MULTILINE)
    assert re.search(r"^penalty .*: '', wgan-gp, r1, r2, dragan$", out, re.MULTILINE)


def test_data(here, capsys):
    assert main(["data", "list"]) == 0
    assert main(["data", "check", "ring", "--limit", "50"]) == 0
    assert "ring: 50 kept" in capsys.readouterr().out
    assert main(["data", "preview", "glyphs", "-n", "4", "--limit", "9"]) == 0
    assert Path("preview.png").exists()
    Path("empty").mkdir()
    assert main(["data", "check", "empty"]) == 2


def test_profile_and_doctor(here, capsys):
    assert main(["profile", "ring", "--steps", "1", "--trace", "trace.json", *SETS]) == 0
    assert re.search(r"^Linear +backward ", capsys.readouterr().out, re.MULTILINE)
    assert json.loads(Path("trace.json").read_text())["traceEvents"]
    assert main(["doctor", "ring", *SETS]) == 0
    assert capsys.readouterr().out == "ring: nothing wrong found\n"


def test_doctor_finds(here, capsys, monkeypatch):
    from minigan.gan.doctor import Finding

    monkeypatch.setattr("minigan.gan.doctor.examine", lambda *_: [Finding("a mistake", "its evidence")])
    assert main(["doctor", "ring", *SETS]) == 1
    assert capsys.readouterr().out == "a mistake: its evidence\n"


def test_run_gives_the_script_its_words(here, capsys):
    Path("script.py").write_text("import sys, torch; print(torch.ones(1), sys.argv[1:]); sys.exit(7)")
    assert main(["run", "script.py", "--steps", "3", "--debug", "--help"]) == 7
    assert capsys.readouterr().out == "tensor([1.]) ['--steps', '3', '--debug', '--help']\n"


# Settings ----------------------------------------------------------------------------------------------


def test_precedence(here, run):
    Path("plain.toml").write_text('recipe = "ring"\nbatch = 11\nseed = 1\nsteps = 1\n')
    got = resolve(None, Path("plain.toml"), {"seed": 2, "steps": 2, "data": None}, ["steps=3"])
    assert (got.recipe, got.batch, got.seed, got.steps, got.data) == ("ring", 11, 2, 3, "ring")
    assert resolve(None, run / "config.toml", {}, []).differences(resolve("ring", None, {"steps": 8}, SMALL)) == []
    assert resolve("grid", Path("plain.toml"), {}, []).recipe == "grid"
    assert resolve(None, None, {}, []).recipe == "glyphs"


def test_dry_run(here, capsys):
    assert main(["train", "hinge-sn", "--dry-run", *SETS, "--set", "width=4", "--set", "flip=true"]) == 0
    out, _ = capsys.readouterr()
    assert re.search(r"^\* +batch +16 +\(default 64\)$", out, re.MULTILINE)
    assert re.search(r"^ +seed +0$", out, re.MULTILINE)
    assert re.search(r"^0 +Conv2d\(1, 4, .*\) +\(4, 16, 16\) +64$", out, re.MULTILINE)  # spectral norm is no layer
    assert "warning: flip=true" in out
    assert "parametrizations" not in out
    assert re.search(r"^time: .* s a step, so \d+:\d\d for 5000 steps on cpu", out, re.MULTILINE)
    assert re.search(r"^memory: \d+ MiB", out, re.MULTILINE)
    assert list(here.iterdir()) == []


# Errors ------------------------------------------------------------------------------------------------

WRONG = {
    "trian": "Did you mean 'train'?",
    "--nonsense": "No such option: --nonsense",
    "train ring --step 5": "--steps",
    "train ring extra": "extra",
    "train rnig": "did you mean 'ring'?",
    "train ring --steps five": "'--steps'",
    "train ring --steps 0": "steps: got 0",
    "train ring --seed -1": "seed: got -1",
    "train ring --set": "--set",
    "train ring --set batch": "name=value",
    "train ring --set bacth=5": "did you mean 'batch'?",
    "train ring --set batch=": "batch: got ''",
    "train ring --set batch=1.5": "a whole number",
    "train ring --set g_lr=nan": "g_lr",
    "train ring --set loss=hing": "did you mean 'hinge'?",
    "train ring --set recipe=grid": "minigan train ring",
    "train ring --set flip=perhaps": "true or false",
    "train ring --set pack=3": "batch=256",
    "train ring --set augment=color": "augment",
    "train dcgan-32 --set penalty=wgan-gp": "BatchNorm",
    "train dcgan-32 --set size=30": "size=32",
    "train ring --device gpu": "'gpu'",
    "train ring --on-collapse panic": "--on-collapse",
    "train ring --data nosuch": "nosuch",
    "train ring --data no/such/folder": "no/such/folder: no such file",
    "train dcgan-32 --data mnist": "--download",
    "train dcgan-32 --data empty": "empty",
    "train ring --data bad.npy": "bad.npy",
    "train ring --config nosuch.toml": "nosuch.toml: No such file",
    "train ring --config bad.toml": "bad.toml: not a TOML file",
    "train ring --config noise.toml": "noise.toml: not a TOML file",
    "train ring --config typo.toml": "typo.toml: no setting 'bacth'; did you mean 'batch'?",
    "train --config odd.toml": "odd.toml",
    "train --config three.toml": "no recipe '3'",
    "train ring --config empty": "empty: Is a directory",
    "train ring --out empty": "empty: is there already",
    "train ring --dry-run --set batch=none": "batch",
    "resume": "Missing argument 'RUN'",
    "resume nosuch": "nosuch: not a run folder",
    "resume empty": "empty: not a run folder",
    "resume {run} --steps 4x": "--steps",
    "fork {run} --at 3": "no checkpoint at step 3; there are: [0, 4, 8]",
    "fork {run} --set bacth=3": "did you mean 'batch'?",
    "fork {run} --at 4 --set width=9": "do not fit",
    "sample nosuch": "nosuch: not a run folder",
    "sample nosuch.onnx": "nosuch.onnx: No such file",
    "sample bad.onnx": "bad.onnx: not an ONNX model",
    "sample {run} --out x.jpg": "x.jpg: expected a name that ends in .png or .npy",
    "sample {run} --out x.gif": ".png or .npy",
    "sample {run} --walk 4 --out x.npy": ".gif or .apng or .png",
    "sample {run} --out no/such/x.png": "there is no folder no/such",
    "sample {run} -n 0": "'-n'",
    "sample {run} --step 5": "no checkpoint of step 5",
    "sample {run} --labels 1": "--labels and --psi are for an .onnx file",
    "sample {run} --psi 0.5": "--labels and --psi are for an .onnx file",
    "sample {run} --format npy": "samples.png: --format is for a folder",
    "sample {run} --out new/ --format png": "ring: its samples are points; expected --format npy",
    "sample {run} --out no/such/": "no/such: No such file",
    "evaluate {run} --features nosuch.onnx": "nosuch.onnx: No such file",
    "evaluate {run} --json scores.txt": ".json",
    "evaluate {run} --samples 2": "--samples",
    "compare {run}": "Missing argument",
    "compare {run} nosuch": "nosuch: not a run folder",
    "compare {run} {run} --out x.pdf": ".html",
    "report nosuch": "nosuch: not a run folder",
    "recipes rnig": "did you mean 'ring'?",
    "data": "Missing command",
    "data chekc ring": "check",
    "data check nosuch": "nosuch",
    "data check bad.npy": "bad.npy",
    "data preview ring --out x.gif": ".png",
    "profile ring --steps 0": "--steps",
    "profile ring --trace t.txt": ".json",
    "doctor rnig": "did you mean 'ring'?",
    "run": "Missing argument 'SCRIPT'",
    "run nosuch.py": "nosuch.py: no such script",
    "run --setps 3 script.py": "--steps",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_usage(line, run, here, capsys):
    Path("empty").mkdir()
    Path("bad.toml").write_text("batch = = 3")
    Path("noise.toml").write_bytes(b"\xff\xfe\x00")
    Path("typo.toml").write_text("[settings]\nbacth = 3\n")
    Path("odd.toml").write_text("settings = 3\n")
    Path("three.toml").write_text("recipe = 3\n")
    Path("bad.npy").write_bytes(b"\x93NUMPY and nothing")
    Path("bad.onnx").write_bytes(b"nothing")
    before = sorted(here.rglob("*")), content(run)
    code = main(line.format(run=run).split())
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), err
    assert err.startswith("minigan: ")
    assert err.count("\n") == 1
    assert WRONG[line] in err
    assert (sorted(here.rglob("*")), content(run)) == before


@pytest.mark.parametrize("words", [["--debug", "resume", "nosuch"], ["resume", "nosuch", "--debug"]])
def test_debug_adds_the_traceback(words, capsys):
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("minigan: nosuch")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyError("odd"), 1, "KeyError: 'odd' (run with --debug for the traceback)"),
        (KeyboardInterrupt(), 130, None),
        (ModuleNotFoundError("No module", name="onnxruntime.capi"), 2, "python -m pip install onnxruntime"),
        (ImportError("needs onnxruntime"), 2, "minigan: needs onnxruntime"),
        (ImportError("cannot import", name="minigan.gan"), 1, "ImportError"),
        (PermissionError(13, "Permission denied", "runs"), 2, "minigan: runs: Permission denied"),
        (OSError(28, "No space left on device"), 2, "No space left"),
        (MemoryError(), 2, "out of memory"),
        (ValueError("two\nlines"), 2, "minigan: two lines"),
    ],
)
def test_errors_of_any_kind(error, code, line, capsys, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr("minigan.gan.recipes.get_recipe", fail)
    assert main(["recipes", "ring"]) == code
    err = capsys.readouterr().err
    assert line is None or (line in err and err.count("\n") == 1)


def test_losses_that_are_not_finite(here, capsys):
    assert main(["train", "ring", "--steps", "50", "--out", "run", *SETS, "--set", "g_lr=1e30", "-q"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith("minigan: ")
    assert "step" in err[-1]
    assert "run" in err[-1]


# As a process ------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(number, here):
    running = process("train", "ring", "--steps", "1000000", "--out", "run", *SETS)
    while running.poll() is None and not Path("run/checkpoints/step-000004.json").exists():
        time.sleep(0.02)
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (128 + number, "")
    assert re.search(r"^minigan: \w+: saved at step \d+; go on with: minigan resume run$", err, re.MULTILINE)
    assert "Traceback" not in err


@pytest.mark.parametrize("unbuffered", ["", "1"])  # noticed at the end, or by the first print
def test_nobody_reads(unbuffered, here):
    running = process("recipes", env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    running.stdout.close()
    assert running.wait(60) == 1
    assert running.stderr.read() == ""
    running.stderr.close()


def test_letters_that_the_terminal_lacks(here):
    running = process("recipes", "ring", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (0, "")
    assert "? of WGAN-GP" in out


# Progress ----------------------------------------------------------------------------------------------


def train_shown(progress, *changes):
    """A short training with nothing but this callback."""
    from minigan.gan.recipes import get_recipe
    from minigan.gan.trainer import Trainer

    Trainer(get_recipe("ring").defaults.changed([*SMALL, *changes]), callbacks=[progress]).train()


def test_lines_where_there_is_no_terminal(capsys):
    train_shown(Progress(), "steps=90", "log_every=1")
    out, err = capsys.readouterr()
    assert out == ""
    assert [int(re.match(r"step (\d+)/90 ", line)[1]) for line in err.splitlines()] == list(range(5, 91, 5))


def test_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    class Score(Progress):
        def end(self, trainer):
            scores = {"frechet": {"value": 3.1, "floor": 2.0}}
            trainer.emit({"step": trainer.steps_done, "scores": scores})
            trainer.emit({"step": trainer.steps_done, "warning": "collapse", "message": "[red]all alike"})

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    ticks = itertools.count()
    monkeypatch.setattr("minigan.cli.progress.monotonic", lambda: next(ticks) / 64)  # a refresh each 7 ticks
    train_shown(Score(), "steps=40")
    shown = terminal.getvalue()
    for part in ("step 40/40  epoch 1.60  ", "━━━", "scores at step 40: frechet 3.1 (floor 2)", ": [red]all alike"):
        assert part in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is hidden, and comes back
    assert list(dict.fromkeys(re.findall(r"step (\d+)/", shown))) == ["1", "8", "15", "22", "29", "36", "40"]


def test_bar_goes_when_the_run_breaks_off(monkeypatch):
    class Break(Progress):
        def step(self, trainer, record):
            super().step(trainer, record)
            raise ValueError("broken off")

    monkeypatch.setattr(sys, "stderr", terminal := io.StringIO())
    terminal.isatty = lambda: True
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(ValueError, match="broken off"):
        train_shown(Break(), "steps=9")
    assert terminal.getvalue().count("\x1b[?25h") == 1


def test_quiet_shows_warnings_alone(capsys):
    class Warn(Progress):
        def step(self, trainer, record):
            super().step(trainer, record)
            trainer.emit({"step": 1, "warning": "settings", "message": "was shown at the start"})
            trainer.emit({"step": 1, "warning": "collapse", "message": "all alike"})
            trainer.emit({"step": 1, "scores": {"modes": {"value": 8.0, "floor": 8.0}}})

    train_shown(Warn(quiet=True), "steps=1", "d_lr=0")
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith("warning: a learning rate of 0")
    assert second == "warning at step 1: all alike"


def test_probabilities_only_where_the_loss_has_them():
    assert judged(2.0, "minimax") == judged(2.0, "non-saturating") == "0.881"
    assert judged(2.0, "least-squares") == judged(2.0, "relativistic") == judged(2.0, "hinge") == "2.000"
    assert judged(1e4, "minimax") == "1.000"
    assert judged(-1e4, "minimax") == "0.000"

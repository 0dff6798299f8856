"""Samples by the thousand: every one where it belongs, whatever came between, and in little memory."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from onnx_files import CLASSES, expected, graph
from PIL import Image

import minigan as mg
from minigan.cli import main
from minigan.export import shards
from minigan.export.runner import BATCH, Generator
from minigan.export.shards import SHARD, write_shards

pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working folder, and the device that a user has."""
    monkeypatch.chdir(tmp_path)
    before = mg.get_default_device()
    mg.set_default_device("cpu")
    yield tmp_path
    mg.set_default_device(before)


def content(folder):
    """Every file, and its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def levels(images):
    """Images in [-1, 1] as uint8, channels last."""
    return np.rint(images * 127.5 + 127.5).astype(np.uint8).transpose(0, 2, 3, 1)


def sample(*words):
    return main(["sample", *map(str, words)])


# What is written ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["float", "uint8"])
def test_png_files(output, capsys):
    model = graph(output, latent_distribution="uniform")
    model.save("g.onnx")
    assert sample("g.onnx", "-n", 1040, "--seed", 5, "--out", "out/") == 0
    assert capsys.readouterr().out == "out\n"
    names = [f"{i // 1000:03}/{i:06}.png" for i in range(1040)]
    assert sorted(content("out")) == [*names, "samples.json"]
    found = np.stack([np.asarray(Image.open(f"out/{name}")) for name in names])
    wanted = expected(model, 1040, 5)
    assert np.abs(found.astype(int) - (levels(wanted) if output == "float" else wanted)).max() <= 1


def test_grey_png_files():
    graph(shape=(1, 4, 5)).save("g.onnx")
    assert sample("g.onnx", "-n", 3, "--out", "out") == 0  # no suffix: a folder
    with Image.open("out/000/000002.png") as image:
        assert image.mode == "L"


@pytest.mark.parametrize(("output", "shape"), [("float", (3, 4, 5)), ("uint8", (3, 4, 5)), ("float", (2,))])
def test_npy_files(output, shape, here):
    model = graph(output, labels=True, psi=True, shape=shape)
    model.save("g.onnx")
    (here / "v1.0").mkdir()  # is there: a folder
    kind = [] if shape == (2,) else ["--format", "npy"]  # points are never pictures
    assert sample("g.onnx", "-n", 2040, "--psi", 0.5, "--out", "v1.0", *kind) == 0
    assert sorted(content("v1.0")) == ["000.npy", "001.npy", "002.npy", "samples.json"]
    parts = [np.load(f"v1.0/{i:03}.npy") for i in range(3)]
    assert [len(part) for part in parts] == [1000, 1000, 40]
    assert np.array_equal(np.concatenate(parts), Generator("g.onnx").sample(2040, psi=0.5))
    file = io.BytesIO()
    np.save(file, parts[0])
    assert Path("v1.0/000.npy").read_bytes() == file.getvalue()


def test_labels():
    model = graph(labels=True, shape=(2,))
    model.save("g.onnx")
    for chosen, labels in ("", np.arange(70) % CLASSES), ("all", None), ("2", np.full(70, 2)):
        words = ["--labels", chosen] if chosen else []
        assert sample("g.onnx", "-n", 70, "--out", "x.npy", *words) == 0
        assert np.allclose(np.load("x.npy"), expected(model, 70, labels=labels), atol=2e-6)


def test_a_sheet_and_a_walk_are_the_same_from_floats_and_from_levels():
    for output in ("float", "uint8"):
        graph(output, labels=True).save(f"{output}.onnx")
        assert sample(f"{output}.onnx", "-n", 9, "--out", f"{output}.png") == 0
        assert sample(f"{output}.onnx", "-n", 2, "--walk", 5, "--out", f"{output}.gif") == 0
    a, b = (np.asarray(Image.open(f"{output}.png")).astype(int) for output in ("float", "uint8"))
    assert np.abs(a - b).max() <= 1
    assert a.std() > 50
    with Image.open("uint8.gif") as animation:
        assert animation.n_frames > 1  # equal neighbours are one frame


def test_from_a_run(capsys):
    from minigan.gan.runs import load_trainer

    words = ["limit=200", "batch=20", "score_samples=40", "width=8", "lr_decay=0"]
    sets = [word for one in words for word in ("--set", one)]
    assert main(["train", "ring", "--steps", "2", "--out", "run", "--quiet", *sets]) == 0
    assert sample("run", "-n", 1030, "--out", "out/") == 0
    found = np.concatenate([np.load(f"out/{i:03}.npy") for i in range(2)])
    assert np.allclose(found, load_trainer("run").sample(1030).numpy(), atol=1e-5)
    assert main(["resume", "run", "--steps", "4", "--quiet"]) == 0
    capsys.readouterr()
    assert sample("run", "-n", 1030, "--out", "out/") == 2  # other weights now
    assert "sha256" in capsys.readouterr().err


# Again and again ---------------------------------------------------------------------------------------


def test_goes_on_after_the_last_whole_shard(capsys):
    graph().save("g.onnx")
    words = ["g.onnx", "-n", 3040, "--format", "npy", "--out"]
    assert sample(*words, "whole") == sample(*words, "out") == 0
    os.rename("out/001.npy", "out/.001.npy.partial")  # killed within the second
    Path("out/002.npy").unlink()
    Path("out/003.npy").unlink()
    kept = os.stat("out/000.npy").st_mtime_ns
    Path("g.onnx").rename("moved.onnx")
    capsys.readouterr()
    assert sample("moved.onnx", *words[1:], "out") == 0
    assert re.match(r"1000/3040 samples\b.*\n1200/3040 samples ", capsys.readouterr().err)
    assert content("out") == content("whole")
    assert os.stat("out/000.npy").st_mtime_ns == kept
    assert sample("moved.onnx", *words[1:], "out") == 0  # nothing is left to do
    assert content("out") == content("whole")


KILLS = """
import os, sys
from pathlib import Path
import numpy as np
import killing
from minigan.export import shards

shards.SHARD, kind, folder, die_at = 4, sys.argv[1], Path(sys.argv[2]), 0
from PIL import PngImagePlugin

def stream(start):
    for first in range(start, 10, 2):
        yield np.arange(first * 12, (first + 2) * 12, dtype=np.uint8).reshape(2, 2, 2, 3)

def write(place):
    shards.write_shards(place, stream, 10, {"seed": 0}, kind)

def content(place):
    return {str(p.relative_to(place)): p.is_file() and p.read_bytes() for p in place.rglob("*")}

write(folder / "whole")
status = -9
while status == -9:
    die_at += 1
    place = folder / str(die_at)
    pid = os.fork()
    if pid == 0:
        killing.die_within(die_at)
        write(place)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for name, data in content(place).items() if place.exists() else ():
        assert name[0] == "." or content(folder / "whole")[name] == data, f"{name} is half written at call {die_at}"
    write(place)
    assert content(place) == content(folder / "whole"), f"other files after a kill at call {die_at}"
print(die_at)
"""


@pytest.mark.skipif(os.name != "posix", reason="forks")
@pytest.mark.parametrize("kind", ["png", "npy"])
def test_killed_within_any_call_to_the_system(kind, here):
    run = subprocess.run(
        [sys.executable, "-c", KILLS, kind, str(here)], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert int(run.stdout) > 15  # calls at which it was killed


def start(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "minigan", "sample", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_command_interrupted(number):
    graph(shape=(2,)).save("g.onnx")
    words = ["g.onnx", "-n", "40000", "--out"]
    running = start(*words, "out/")
    while running.poll() is None and not Path("out/000.npy").exists():
        time.sleep(0.002)
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert out == ""
    assert 1 <= len(list(Path("out").glob("0*"))) < 40  # interrupted within
    if number == signal.SIGINT:
        assert running.returncode == 130
        assert re.search(r"^minigan: interrupted: \d+000 of 40000 samples are in out; the same command .*$", err, re.M)
    assert sample(*words, "out/") == sample(*words, "whole/") == 0
    assert content("out") == content("whole")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["g.onnx", "--seed", "1"], "kind: seed 0 (not 1); give an empty or a new folder"),
        (["g.onnx", "-n", "12"], "number 10 (not 12)"),
        (["g.onnx", "--format", "npy"], "format png (not npy)"),
        (["g.onnx", "--labels", "1"], "labels all (not 1)"),
        (["g.onnx", "--psi", "0.5"], "psi 1.0 (not 0.5)"),
        (["other.onnx"], "sha256"),
    ],
)
def test_other_samples_are_refused(words, message, capsys):
    graph(labels=True, psi=True).save("g.onnx")
    graph(labels=True, psi=True, seed="1").save("other.onnx")
    assert sample("g.onnx", "-n", 10, "--out", "out") == 0
    before = content("out")
    capsys.readouterr()
    assert sample(words[0], "-n", 10, "--out", "out", *words[1:]) == 2
    err = capsys.readouterr().err
    assert err.startswith("minigan: out: holds samples of another kind: ")
    assert message in err
    assert err.count("\n") == 1
    assert content("out") == before


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("holiday.jpg", b"", "out: holds other files, and no samples.json"),
        ("samples.json", b"{", "out/samples.json: damaged"),
        ("samples.json", b"[1]", "out/samples.json: damaged"),
        ("samples.json", b"\xff", "out/samples.json: damaged"),
    ],
)
def test_other_folders_are_refused(name, data, message, capsys):
    graph().save("g.onnx")
    Path("out").mkdir()
    Path("out", name).write_bytes(data)
    assert sample("g.onnx", "--out", "out") == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert content("out") == {name: data}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("g.onnx --out no/such/", "no/such: No such file"),
        ("g.onnx --out g.onnx/", "g.onnx: File exists"),
        ("g.onnx --out x.png --format npy", "--format is for a folder"),
        ("g.onnx --out out/ --format jpg", "--format: got 'jpg', expected png or npy"),
        ("g.onnx --labels 1", "--labels: g.onnx has no classes"),
        ("g.onnx --psi 0.5", "psi: g.onnx was exported without truncation"),
        ("c.onnx --labels cat", "--labels: got 'cat', expected the number of a class, or all"),
        ("c.onnx --labels 3", "labels: got 3 to 3, expected 0 to 2"),
        ("points.onnx --out out/ --format png", "its samples are points; expected --format npy"),
        ("cut.onnx --out out/", "cut.onnx: not an ONNX model"),
        ("gone.onnx --out out/", "gone.onnx: No such file"),
    ],
)
def test_one_line_an_error(line, message, here, capsys):
    graph().save("g.onnx")
    graph(labels=True).save("c.onnx")
    graph(shape=(2,)).save("points.onnx")
    Path("cut.onnx").write_bytes(Path("g.onnx").read_bytes()[:200])
    before = sorted(here.rglob("*"))
    assert sample(*line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert sorted(here.rglob("*")) == before


def test_samples_that_are_not_finite(capsys):
    model = graph()
    model.constants["w"][0, 0] = np.nan
    model.save("g.onnx")
    assert sample("g.onnx", "-n", 70, "--out", "out") == 2
    assert "NaN or infinity in samples 0 to 49" in capsys.readouterr().err
    assert list(content("out")) == ["samples.json"]  # of images, none: not even a partial folder
    assert [path.name for path in Path("out").iterdir()] == ["samples.json"]


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
@pytest.mark.parametrize("kind", ["png", "npy"])
def test_full_disk(kind, here):
    code = (
        "import resource, signal, sys; from minigan.cli import main; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600));"
        f"sys.exit(main(['sample', 'g.onnx', '-n', '10', '--out', 'out', '--format', '{kind}']))"
    )
    graph(shape=(3, 30, 30)).save("g.onnx")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    name = {"png": "out/000", "npy": "out/000.npy"}[kind]
    assert (run.returncode, run.stderr) == (2, f"minigan: {name}: File too large\n")
    assert [path.name for path in Path("out").iterdir()] == ["samples.json"]


# Memory and progress -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "npy"])
def test_memory_is_that_of_a_batch(kind, monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 8 * BATCH)
    batch = np.zeros((BATCH, 3, 64, 64), np.float32)  # 2.4 MB

    def stream(start):
        for _ in range(start, 600, BATCH):
            yield batch + 1

    write_shards(Path("warm"), stream, BATCH, {}, kind)
    tracemalloc.start()
    write_shards(Path("out"), stream, 600, {}, kind)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * batch.nbytes


def test_a_batch_never_spans_two_shards():
    assert SHARD % BATCH == 0


def test_progress_in_lines(capsys):
    graph().save("g.onnx")
    assert sample("g.onnx", "-n", 2000, "--format", "npy", "--out", "out") == 0
    out, err = capsys.readouterr()
    assert out == "out\n"
    assert [int(line.split("/")[0]) for line in err.splitlines()] == list(range(100, 2001, 100))
    assert re.match(r"100/2000 samples  [\d.e+]+/s  \d+:\d\d left\n", err)


def test_progress_as_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    graph().save("g.onnx")
    assert sample("g.onnx", "-n", 500, "--format", "npy", "--out", "out") == 0
    shown = terminal.getvalue()
    assert "500/500 samples" in shown
    assert "━━━" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is hidden, and comes back


def test_the_manifest_says_what_the_samples_are():
    model = graph(labels=True, psi=True)
    model.save("g.onnx")
    assert sample("g.onnx", "-n", 5, "--seed", 7, "--psi", 0.5, "--out", "out") == 0
    manifest = json.loads(Path("out/samples.json").read_text())
    assert len(manifest.pop("sha256")) == 64
    assert manifest == {
        "source": "g.onnx", "labels": "all", "psi": 0.5, "seed": 7, "number": 5, "format": "png", "shard": 1000,
    }  # fmt: skip

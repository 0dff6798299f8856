"""Damaged input of every kind that is read here, through the command line: one clear line, and nothing left behind."""

import gzip
import io
import random
import shutil
import signal
import struct

import numpy as np
import pytest
from PIL import Image

import minigan as mg
from minigan.cli import main
from minigan.gan import runs
from minigan.gan.recipes import get_recipe

EACH = 14  # damaged inputs of each of 15 kinds: 210
SECONDS = 20  # in which each is answered
SMALL = (
    "steps=4", "batch=16", "width=8", "limit=300", "score_samples=20", "log_every=1", "checkpoint_every=2",
    "sample_every=4", "lr_decay=0",
)  # fmt: skip

pytestmark = pytest.mark.skipif(mg.get_default_device().type != "cpu", reason="settings.device names the CPU")


class Hang(BaseException):
    """No error that anybody catches."""


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """Own folders, no slow drawing, and an end to what hangs."""

    def ring(number, frame):
        raise Hang

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("minigan.gan.callbacks.write_report", lambda path: None)
    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was made longer, so that there is something left to do."""
    path = tmp_path_factory.mktemp("whole") / "run"
    runs.train(get_recipe("ring").defaults.changed(SMALL), path)
    config = path / "config.toml"
    config.write_text(config.read_text().replace("\nsteps = 4\n", "\nsteps = 5\n"))
    return path


# Damage ------------------------------------------------------------------------------------------------

ODD_VALUES = ("nan", "-1", '"text"', "[]", "{}", "1e400", "true", "99999999999999999999", '""', "[[[", "\x00", "null")


def damaged(data, numbers):
    """One way in which files go bad, or were never what their name says."""
    place = numbers.randrange(len(data))
    match numbers.randrange(8):
        case 0:
            return data[:place]
        case 1:  # the head is where formats are parsed
            place = numbers.randrange(min(len(data), 64))
            return data[:place] + bytes([data[place] ^ 1 << numbers.randrange(8)]) + data[place + 1 :]
        case 2:
            return data[:place] + numbers.randbytes(8) + data[place + 8 :]
        case 3:
            return data[:place] + bytes(len(data) - place)
        case 4:
            return data[:place] + data[place + numbers.randrange(1, 100) :]
        case 5:
            return data + numbers.randbytes(numbers.randrange(1, 100))
        case 6:
            return numbers.choice([b"", b"\0", b"\xff" * 9, b"[" * 50_000, b"PK\3\4", b"\x93NUMPY", b"\x1f\x8b", b"{}"])
        case _:
            return numbers.randbytes(len(data))


def damaged_text(data, numbers):
    """As `damaged`, or a value of another type: what hands do rather than disks."""
    if numbers.randrange(2):
        return damaged(data, numbers)
    lines = data.decode().splitlines()
    chosen = numbers.choice([i for i, line in enumerate(lines) if "=" in line or ":" in line])
    sign = "=" if "=" in lines[chosen] else ":"
    lines[chosen] = lines[chosen].partition(sign)[0] + f"{sign} {numbers.choice(ODD_VALUES)}"
    return "\n".join(lines).encode() + b"\n"


def ask(capsys, *words):
    """The exit code of a command that may be 0 or 2; for 2 there is one line that says why, and no other."""
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert code in (0, 2), err
    assert "Traceback" not in out + err
    assert all(line.startswith("minigan: ") for line in errors), err
    if code == 0 or (words[0] == "data" and " 0 kept, " in out):  # all files were left out, and are listed
        assert errors == [], err
    else:
        assert len(errors) == 1, err
        assert 20 < len(errors[0]) < 1000, err
    return code


# Runs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(EACH))
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("config.toml", damaged_text),
        ("checkpoints/step-000004.safetensors", damaged),
        ("checkpoints/step-000004.json", damaged_text),
        ("metrics.jsonl", damaged_text),
    ],
)
def test_runs(whole, tmp_path, capsys, name, damage, seed):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / name).write_bytes(damage((run / name).read_bytes(), random.Random(f"{name} {seed}")))
    files = {path for path in run.rglob("*") if path.name != ".lock"}
    steps = ("--step", 4) if seed % 2 else ()
    sampled = ask(capsys, "sample", run, "--out", tmp_path / "samples.npy", *steps)
    assert (sampled == 0) == (tmp_path / "samples.npy").exists()
    if name == "metrics.jsonl" or seed == 0:  # drawing takes its time
        ask(capsys, "report", run)
    files |= {run / "report.html", run / "curves.png"}
    if ask(capsys, "resume", run, "--quiet") == 2:
        assert {path for path in run.rglob("*") if path.name != ".lock"} <= files
    forked = ask(capsys, "fork", run, "--out", tmp_path / "fork", "--quiet", "--set", "steps=5")
    assert (forked == 0) == (tmp_path / "fork").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"run", "fork", "samples.npy"}


@pytest.mark.parametrize("seed", range(EACH))
def test_settings(whole, tmp_path, capsys, seed):
    config = tmp_path / "mine.toml"
    config.write_bytes(damaged_text((whole / "config.toml").read_bytes(), random.Random(f"settings {seed}")))
    out = tmp_path / "out"
    sets = [word for change in SMALL for word in ("--set", change)]
    if ask(capsys, "train", "ring", "--config", config, "--out", out, "--quiet", *sets) == 2:
        assert list(tmp_path.iterdir()) == [config]


# Data --------------------------------------------------------------------------------------------------

PICTURES = np.random.default_rng(0).integers(0, 256, (24, 28, 28), np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (24, 3072), np.uint8)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def picture(kind):
    file = io.BytesIO()
    smooth = Image.fromarray(PICTURES[:4, :4, 0]).resize((32, 32)).convert("RGB")
    smooth.save(file, kind)
    return file.getvalue()


def arrays(save, *args, **names):
    file = io.BytesIO()
    save(file, *args, **names)
    return file.getvalue()


LABELS = np.arange(24, dtype=np.uint8) % 10
FILES = {
    "png": ("photos/0.png", picture("PNG")),
    "jpeg": ("photos/0.jpg", picture("JPEG")),
    "webp": ("photos/0.webp", picture("WEBP")),
    "bmp": ("photos/0.bmp", picture("BMP")),
    "idx": ("train-images-idx3-ubyte", idx(PICTURES)),
    "idx labels": ("train-labels-idx1-ubyte", idx(LABELS)),
    "idx.gz": ("train-images-idx3-ubyte.gz", gzip.compress(idx(PICTURES), mtime=0)),
    "cifar": ("data_batch_1.bin", np.c_[LABELS, COLOUR].tobytes()),
    "npy": ("points.npy", arrays(np.save, PICTURES[:, :2, 0].astype(np.float32))),
    "npz": ("images.npz", arrays(np.savez_compressed, images=PICTURES, labels=LABELS)),
}


@pytest.mark.parametrize("seed", range(EACH))
@pytest.mark.parametrize("kind", FILES)
def test_data(tmp_path, capsys, kind, seed):
    name, data = FILES[kind]
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(damaged(data, random.Random(f"{kind} {seed}")))
    spec = path
    if name.startswith("photos"):
        spec = path.parent
        if seed % 2:  # the only file is damaged, or one of two
            (spec / "1.png").write_bytes(FILES["png"][1])
    elif kind == "idx labels":
        spec = path.with_name(FILES["idx"][0])
        spec.write_bytes(FILES["idx"][1])
    checked = ask(capsys, "data", "check", spec)
    recipe, width = ("ring", ("--set", "width=8")) if kind == "npy" else ("gan", ())
    out = tmp_path / "out"
    words = ("--steps", 1, "--set", "batch=4", "--set", "score_samples=16", "--set", "log_every=1", *width)
    if seed == 0 or checked == 2:
        trained = ask(capsys, "train", recipe, "--data", spec, "--out", out, "--quiet", *words)
        assert (trained == 0) == out.exists()
        assert checked == 0 or trained == 2
    assert {each.name for each in tmp_path.iterdir()} <= {"data", "cache", "out"}

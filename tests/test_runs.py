"""A run that can be trusted: killed, interrupted or out of disk, it goes on as if nothing had happened."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from killing import SMALL, Break, Server, content, settings

import minigan as mg
from minigan.data import DataError
from minigan.export.runs import export_run
from minigan.gan import checkpoint, runs
from minigan.gan.recipes import get_recipe
from minigan.gan.run_folder import RunError, RunFolder
from minigan.gan.trainer import Callback

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and locks of POSIX")

KILLS = int(os.environ.get("MINIGAN_KILLS", "20"))  # of each kind


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """The device and random streams of a new process, and no report, which takes longer than these runs."""
    monkeypatch.setattr("minigan.random._streams", {"": mg.random.default_generator})
    before = mg.get_default_device()
    mg.set_default_device("cpu")
    monkeypatch.setattr("minigan.gan.callbacks.write_report", lambda path: None)
    yield
    mg.set_default_device(before)


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    """A run that nothing happened to."""
    path = tmp_path_factory.mktemp("whole") / "run"
    assert server.run(path) == (0, "")
    once = content(path)
    assert server.run(path) == (0, "")  # there is nothing left to do
    assert content(path) == once
    assert {"metrics.jsonl", "real.png", "samples/step-000040.png", "best/step-000020.json"} < {*once}
    return path


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of it, to damage."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def finish(server, path, whole):
    """Resume, and compare every byte."""
    assert server.run(path) == (0, "")
    assert content(path) == content(whole)


# kill -9 -----------------------------------------------------------------------------------------------


def test_killed_at_any_time(server, whole, tmp_path):
    """By the clock, up to three times a run."""
    random_numbers = random.Random(1)
    kills = number = 0
    while kills < KILLS:
        path = tmp_path / str(number)
        for _ in range(3):
            status, said = server.run(path, seconds=random_numbers.uniform(0.01, 0.5))
            assert status in (0, -signal.SIGKILL), said
            kills += status != 0
        finish(server, path, whole)
        number += 1
        assert number < 4 * KILLS, "too few were killed: the times do not fit this machine"


def test_killed_within_any_call(server, whole, tmp_path):
    """Before a rename, a flush, a removal; within a write. Half of the runs are killed again where they go on."""
    random_numbers = random.Random(2)
    status, calls = server.run(tmp_path / "counted", call=-1)
    assert status == 0
    chosen = random_numbers.sample(range(1, int(calls) + 1), min(KILLS, int(calls)))
    for number in chosen:
        path = tmp_path / str(number)
        assert server.run(path, call=number)[0] == -signal.SIGKILL
        if number % 2:
            server.run(path, call=random_numbers.randrange(1, 40))
        finish(server, path, whole)


def test_killed_while_it_is_created(server, whole, tmp_path):
    """There is no run, or a whole one."""
    for number in range(1, 40):
        path = tmp_path / str(number)
        assert server.run(path, call=number)[0] == -signal.SIGKILL
        assert not path.exists() or checkpoint.load(path / "checkpoints", 0)["steps_done"] == 0
        if path.exists():
            break
    else:
        pytest.fail("none of these calls was after the creation")
    finish(server, path, whole)


def test_killed_while_it_draws(server, whole, tmp_path):
    """The report comes after the last checkpoint: resuming writes it."""
    path = tmp_path / "run"
    calls = int(server.run(tmp_path / "counted", call=-1, report=True)[1])
    assert server.run(path, call=calls - 3, report=True)[0] == -signal.SIGKILL
    assert not (path / "report.html").exists()
    assert server.run(path, report=True) == (0, "")
    assert content(path) == content(tmp_path / "counted")
    assert (path / "report.html").exists()


# Signals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(server, whole, tmp_path, number):
    random_numbers = random.Random(number)
    for repeat in range(4):
        path = tmp_path / str(repeat)
        status, said = server.run(path, lines=random_numbers.randrange(3, 20), signal=number)
        assert status == 128 + number
        step = re.fullmatch(rf"{number.name}: saved at step (\d+); go on with: minigan resume {path}\n", said)
        assert step, said
        assert checkpoint.steps(path / "checkpoints")[-1] == int(step[1])
        finish_interrupted(server, path, whole)


def finish_interrupted(server, path, whole):
    """As `finish`; the extra checkpoint may have pushed out an old one."""
    assert server.run(path) == (0, "")
    there, expected = content(path), content(whole)
    assert {name: data for name, data in there.items() if name in expected} == {
        name: data for name, data in expected.items() if name in there
    }
    assert {name for name in {*expected} - {*there} if "checkpoints" not in name} == set()


def test_a_second_signal_acts_at_once(server, whole, tmp_path):
    slow = ["width=512", "log_every=1", "sample_every=1", "score_every=1"]  # between the metrics and the next step
    status, said = server.run(tmp_path / "run", slow, lines=3, signal=signal.SIGTERM, again=0.002)
    assert (status, said) == (-signal.SIGTERM, "")


def test_processes_of_their_own(whole, tmp_path):
    """Through the command line; hash seeds differ between processes, and must not matter."""
    words = ["train", "ring", "--quiet", *(word for change in SMALL for word in ("--set", change)), "--out"]

    def minigan(*words, number=None):
        process = subprocess.Popen(
            [sys.executable, "-m", "minigan", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=tmp_path,
        )  # fmt: skip
        while number and process.poll() is None:
            if len(list(tmp_path.glob("a run/checkpoints/*.json"))) > 1:
                process.send_signal(number)
                number = None
        return *process.communicate(timeout=60), process.returncode

    *_, code = minigan(*words, "a run", number=signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert minigan("resume", "a run", "--quiet") == ("a run\n", "", 0)
    found = content(tmp_path / "a run")
    generator = found.pop("generator.onnx")  # which the command line adds
    assert found == content(whole)
    assert generator == export_run(whole, tmp_path / "generator.onnx")[0].read_bytes()


# A full disk -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [2000, 5000, 10_000, 20_000, 25_000])
def test_files_that_may_not_grow(server, whole, tmp_path, limit):
    """A limit of bytes for each file: the larger, the later it hurts."""
    path = tmp_path / "run"
    status, said = server.run(path, limit=limit)
    assert status == 2, "the limit hurts nobody: choose a smaller one"
    assert said.count("\n") == 1
    assert "File too large" in said
    if path.exists():
        state, problems = checkpoint.load_latest(path / "checkpoints")
        assert problems == []
        assert f"the checkpoint of step {state['steps_done']} is whole" in said
        assert f"minigan resume {path}" in said
    else:
        assert list(tmp_path.iterdir()) == []
    finish(server, path, whole)


def test_a_full_disk(server, whole, tmp_path):
    """A small one, made for this."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    try:
        for ballast in (380_000, 250_000, 200_000, 150_000):
            path = disk / str(ballast)
            (disk / "ballast").write_bytes(bytes(ballast))
            status, said = server.run(path)
            assert status == 2
            assert re.search(r"No space left on device.*\n$", said)
            if path.exists():
                state, problems = checkpoint.load_latest(path / "checkpoints")
                assert problems == []
                assert f"the checkpoint of step {state['steps_done']} is whole. Make room, then: minigan resume" in said
            (disk / "ballast").unlink()
            assert server.run(path) == (0, "")
            assert content(path) == content(whole)
            shutil.rmtree(path)
    finally:
        subprocess.run(["umount", disk], check=True)


# Places ------------------------------------------------------------------------------------------------


def test_out_that_is_taken(copy, tmp_path):
    before = content(copy)
    for start in (lambda out: runs.train(settings(), out), lambda out: runs.fork(copy, 32, [], out)):
        with pytest.raises(RunError, match=r"is there already; go on with it \(minigan resume"):
            start(copy)
        (tmp_path / "link").symlink_to("nowhere")
        with pytest.raises(RunError, match="is there already"):
            start(tmp_path / "link")
        (tmp_path / "link").unlink()
        with pytest.raises(RunError, match=r"config\.toml is a file"):
            start(copy / "config.toml" / "deeper" / "run")
    assert content(copy) == before


@pytest.mark.parametrize(
    "changes",
    [
        ["data=nosuch"], ["data=folder:nosuch"], ["limit=15"], ["data=glyphs", "size=7"], ["penalty=wgan-gp", "pack=3"],
        ["batch=1000000000000"], ["device=cuda:7"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_cannot_be_trained_leaves_no_folder(tmp_path, monkeypatch, changes):
    monkeypatch.chdir(tmp_path)
    try:
        wrong = settings(*changes)
        with pytest.raises((ValueError, RuntimeError, MemoryError)):
            runs.train(wrong, Path("run"), callbacks=[Break(1)])
    finally:
        left = {path.name for path in tmp_path.iterdir()}
    assert left == set() or changes == ["batch=1000000000000"]


def test_tensorboard_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(RunError, match="pip install"):
        runs.train(settings(), tmp_path / "run", tensorboard=True)
    assert list(tmp_path.iterdir()) == []


def test_names_of_runs_are_given_once(tmp_path, monkeypatch):
    """To processes that start at the same time too."""
    monkeypatch.chdir(tmp_path)
    data = mg.data.ring(100)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/ring-002").touch()
    made = []

    def create():
        made.append(RunFolder.create(None, settings(), data, lambda run: None).path.name)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [f"ring-{i:03d}" for i in (1, 3, 4, 5, 6, 7, 8, 9)]
    assert not [path for path in (tmp_path / "runs").iterdir() if path.name[0] == "."]


def test_two_processes_on_one_run(server, copy):
    with RunFolder(copy).locked():
        status, said = server.run(copy)
    assert status == 2
    assert said == f"{copy}: another process is training this run\n"
    assert server.run(copy)[0] == 0


def test_a_place_with_spaces_and_letters(server, tmp_path):
    path = tmp_path / "a füll 名 'run'"
    status, said = server.run(path, lines=3, signal=signal.SIGINT)
    assert status == 130
    command = said.rpartition("minigan ")[2]
    assert subprocess.run(f"printf '%s\\n' {command}", shell=True, capture_output=True, text=True).stdout == (
        f"resume\n{path}\n"
    )
    assert server.run(path)[0] == 0


def test_data_by_a_relative_path(tmp_path, monkeypatch):
    """The run can be resumed from another folder, and when the data have moved."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    points = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    for spec in ("points.npy", "npy:points.npy"):
        np.save("points.npy", points)
        with pytest.raises(ZeroDivisionError):
            runs.train(settings(f"data={spec}", "steps=12"), Path("run"), callbacks=[Break(9)])
        monkeypatch.chdir(tmp_path / "there")
        with pytest.raises(ZeroDivisionError):
            runs.resume("../here/run", callbacks=[Break(11)])
        os.rename("../here/points.npy", "moved.npy")
        with pytest.raises(DataError, match=r"points\.npy"):
            runs.resume("../here/run")
        config = Path("../here/run/config.toml")
        config.write_text(re.sub(r'\ndata = ".*"', '\ndata = "moved.npy"', config.read_text()))
        runs.resume("../here/run")
        np.save("moved.npy", points + 1)
        with pytest.raises(RunError, match="another fingerprint"):
            runs.resume("../here/run")
        shutil.rmtree("../here/run")
        monkeypatch.chdir(tmp_path / "here")


def test_data_of_the_callers_own(tmp_path):
    data = mg.data.ring(300, seed=5)
    runs.train(settings("steps=8"), tmp_path / "whole", data=data)
    with pytest.raises(ZeroDivisionError):
        runs.train(settings("steps=8"), tmp_path / "run", data=data, callbacks=[Break(3)])
    with pytest.raises(RunError, match="another fingerprint"):
        runs.resume(tmp_path / "run")
    runs.resume(tmp_path / "run", data=data)
    assert content(tmp_path / "run") == content(tmp_path / "whole")
    assert runs.fork(tmp_path / "run", None, ["steps=9"], tmp_path / "fork", data=data).metrics_file.exists()


def test_a_run_that_is_removed_meanwhile(tmp_path):
    class Remove(Callback):
        def step(self, trainer, record):
            if trainer.steps_done == 3:
                shutil.rmtree(tmp_path / "run")

    with pytest.raises(FileNotFoundError):
        runs.train(settings(), tmp_path / "run", callbacks=[Remove()])
    assert list(tmp_path.iterdir()) == []


# The same bytes ----------------------------------------------------------------------------------------


def test_a_seed_is_a_run(server, whole, tmp_path):
    assert server.run(tmp_path / "again") == (0, "")
    assert content(tmp_path / "again") == content(whole)
    assert server.run(tmp_path / "other", ["seed=1"]) == (0, "")
    there, expected = content(tmp_path / "other"), content(whole)
    assert there["samples/step-000040.png"] != expected["samples/step-000040.png"]


FEATURES = {
    "noise and packing": ("ring", ["noise=0.1", "pack=2"]),
    "BatchNorm and maxout": ("ring", ["networks=pacgan"]),
    "RMSprop, critic steps, clipping": (
        "ring", ["optimizer=rmsprop", "n_critic=3", "clip_weights=0.1", "penalty=", "loss=wasserstein"]
    ),
    "lazy penalty, uniform latents": ("ring", ["penalty_every=3", "latents=uniform"]),
    "relativistic": ("ring", ["loss=relativistic", "critic_warmup=2", "n_critic=2"]),
    "DRAGAN": ("ring", ["penalty=dragan", "smooth=0.1"]),
    "WGAN-GP, rates that fall": ("ring", ["penalty=wgan-gp", "lr_decay=1"]),
    "rollback": ("ring", ["on_collapse=rollback", "g_lr=0.1"]),
    "flip": ("dcgan-32", ["flip=true"]),
    "DiffAugment": ("dcgan-32", ["augment=translation,cutout,color", "ema=0.9"]),
    "spectral norm": ("dcgan-32", ["spectral_norm=true", "loss=hinge"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FEATURES)
def test_every_feature_goes_on_exactly(tmp_path, name):
    recipe, changes = FEATURES[name]
    small = ["width=8", "limit=300", "batch=16"] if recipe == "ring" else ["width=4", "limit=60", "batch=8", "size=16"]
    every = ["steps=6", "sample_every=2", "checkpoint_every=2", "score_every=2", "score_samples=20", "log_every=1"]
    chosen = get_recipe(recipe).defaults.changed([*every, *small, *changes])
    runs.train(chosen, tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        runs.train(chosen, tmp_path / "run", callbacks=[Break(5)])
    runs.resume(tmp_path / "run")
    assert content(tmp_path / "run") == content(tmp_path / "whole")

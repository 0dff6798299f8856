"""Checkpoints and settings of a run: damaged, changed, continued for longer, forked."""

import os
import random
import re
import shutil
from pathlib import Path

import pytest
from killing import Break, Server, content, settings

import minigan as mg
from minigan.data import DataError
from minigan.gan import checkpoint, runs
from minigan.gan.run_folder import RunError, RunFolder
from minigan.gan.settings import SettingsError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and locks of POSIX")


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


# Damage ------------------------------------------------------------------------------------------------


def flipped(data, random_numbers):
    place = random_numbers.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << random_numbers.randrange(8)]) + data[place + 1 :]


DAMAGE = {
    "cut": lambda data, numbers: data[: numbers.randrange(len(data))],
    "empty": lambda data, numbers: b"",
    "missing": lambda data, numbers: None,
    "null": lambda data, numbers: b"null",
    "a list": lambda data, numbers: b'["sha256"]',
    "deep": lambda data, numbers: b"[" * 100_000,
    "other types": lambda data, numbers: b'{"step": [], "sha256": 3}',
    "no text": lambda data, numbers: b"\xff\xfe\x00",
    "longer": lambda data, numbers: data + b"\0" * 8,
}


def damage(path, how, seed=0):
    data = (flipped if how == "a bit" else DAMAGE[how])(path.read_bytes(), random.Random(f"{how} {seed}"))
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)


@pytest.mark.parametrize("kind", ["json", "safetensors"])
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_named(copy, kind, how):
    damage(copy / f"checkpoints/step-000040.{kind}", how)
    state, (problem,) = checkpoint.load_latest(copy / "checkpoints")
    assert state["steps_done"] == 32
    assert problem.startswith(str(copy / "checkpoints/step-000040."))
    assert "\n" not in problem


@pytest.mark.parametrize(
    "damaged",
    [
        {"checkpoints/step-000040.safetensors": "a bit"},
        {"checkpoints/step-000040.json": "missing", "checkpoints/step-000032.safetensors": "cut"},
        {"checkpoints/step-000040.safetensors": "missing", "best/step-000040.safetensors": "cut"},
    ],
    ids=" ".join,
)
def test_the_one_before_is_used(server, whole, copy, damaged, capsys):
    for name, how in damaged.items():
        if (copy / name).exists():
            damage(copy / name, how)
    trainer = runs.load_trainer(copy)
    assert trainer.steps_done in (24, 32)
    assert all(f"this is step {trainer.steps_done}" in problem for problem in trainer.problems)
    assert len(trainer.problems) == sum("checkpoints" in name for name in damaged)
    finish(server, copy, whole)


def test_the_very_first_is_used(server, whole, tmp_path):
    """Its problems are told, and do not get into metrics.jsonl."""
    path = tmp_path / "run"
    server.run(path, lines=6)
    for file in (path / "checkpoints").glob("*[1-9]*.safetensors"):
        damage(file, "a bit")
    finish(server, path, whole)


def test_what_an_interrupted_run_found_later_is_gone(tmp_path, monkeypatch):
    """The run goes on from an earlier step, where neither the best nor the damaged checkpoint of later is known yet."""
    monkeypatch.setattr("minigan.gan.callbacks._merit", lambda values: float(next(merits)))
    merits = iter(range(100))  # each score is the best so far
    with pytest.raises(ZeroDivisionError):
        runs.train(settings("score_every=5"), tmp_path / "run", callbacks=[Break(29)])
    run = RunFolder(tmp_path / "run")
    assert (checkpoint.steps(run.checkpoints), checkpoint.steps(run.best)) == ([8, 16, 24], [5, 10, 15, 20, 25])
    damage(run.checkpoints / "step-000024.safetensors", "cut")
    with pytest.raises(ZeroDivisionError):
        runs.resume(run.path, callbacks=[Break(17)])
    assert (checkpoint.steps(run.checkpoints), checkpoint.steps(run.best)) == ([8, 16], [5, 10, 15])


def test_the_best_that_an_older_checkpoint_needs_is_kept(tmp_path, monkeypatch):
    """A rollback after a resume goes to where it would have gone before."""
    monkeypatch.setattr("minigan.gan.callbacks._merit", lambda values: float(next(merits)))
    merits = iter(range(100))
    runs.train(settings("score_every=5", "keep=2"), tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert (checkpoint.steps(run.checkpoints), checkpoint.steps(run.best)) == ([32, 40], [30, 35, 40])
    assert runs.load_trainer(run.path, best=True).steps_done == 40


def test_a_bit_anywhere_in_the_tensors_is_found(copy):
    file = copy / "checkpoints/step-000040.safetensors"
    whole = file.read_bytes()
    for seed in range(50):
        file.write_bytes(flipped(whole, random.Random(seed)))
        with pytest.raises(checkpoint.DamagedCheckpoint, match="step-000040.safetensors: damaged: its sha256"):
            checkpoint.load(copy / "checkpoints", 40)


@pytest.mark.parametrize("how", ["cut", "missing"])
@pytest.mark.parametrize("kind", ["json", "safetensors", "*"])
def test_nothing_whole_is_no_reason_to_start_over(copy, how, kind):
    for file in (copy / "checkpoints").glob(f"*.{kind}"):
        damage(file, how)
    before = content(copy)
    with pytest.raises(RunError, match=rf"none is whole: .*Start anew: minigan fork {copy} --at 20"):
        runs.resume(copy)
    shutil.rmtree(copy / "best")
    with pytest.raises(RunError, match=rf"Start anew: minigan train --config {copy}/config.toml"):
        runs.resume(copy)
    assert content(copy) == {name: data for name, data in before.items() if not name.startswith("best")}


def test_metrics_that_were_cut(server, whole, copy, tmp_path):
    """Refused: what is gone cannot be made again. A fork does without."""
    lines = copy / "metrics.jsonl"
    lines.write_bytes(lines.read_bytes()[: lines.stat().st_size // 2])
    for file in (copy / "checkpoints").glob("*40.*"):
        file.unlink()
    with pytest.raises(RunError, match=rf"metrics.jsonl: has \d+ bytes.*minigan fork {copy} --at 32"):
        runs.resume(copy)
    run = runs.fork(copy, 32, [], tmp_path / "fork")
    assert run.metrics()[-1]["step"] == 40
    assert len(run.metrics()) < len(RunFolder(whole).metrics())
    assert weights(run.path) == weights(whole)


def test_metrics_with_a_damaged_line(copy):
    data = (copy / "metrics.jsonl").read_bytes()
    (copy / "metrics.jsonl").write_bytes(data.replace(b'"step": 10', b'"step": 1\xff', 1))
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 5: expected one JSON object"):
        runs.resume(copy)


CONFIGS = {
    "missing": (None, "not a run folder"),
    "no TOML": ("[settings", "damaged"),
    "empty": ("", "expected recipe"),
    "unknown setting": (r"batch = 32 -> bacth = 32", "did you mean 'batch'"),
    "wrong type": (r'batch = 32 -> batch = "many"', "batch: got 'many', expected a whole number"),
    "a float": (r"batch = 32 -> batch = 3.2", "batch: got 3.2"),
    "not finite": (r"g_lr = \S+ -> g_lr = nan", "g_lr: got nan"),
    "out of bounds": (r"batch = 32 -> batch = 0", "batch: got 0"),
    "a table": (r"batch = 32 -> batch = {a = 1}", "batch: got"),
    "unknown recipe": (r'recipe = "ring" -> recipe = "rnig"', "did you mean 'ring'"),
    "another recipe": (r'recipe = "ring" -> recipe = "dcgan-28"', "recipe"),
    "settings of another": (r'\[settings\]\nrecipe = "ring" -> [settings]\nrecipe = "gan"', "same recipe"),
    "no settings": (r"\[settings\] -> [other]", r"a table \[settings\]"),
    "no data": (r"\[data\] -> [other]", r"\[data\] is None"),
    "an odd shape": (r"2,\n\] -> -2,\n]", r"\[data\] is"),
    "other data": (r"limit = 1000 -> limit = 999", "limit: 1000 → 999"),
    "another setting": (r"width = 16 -> width = 17", "width: 16 → 17"),
    "several": (r"width = 16 -> width = 17|batch = 32 -> batch = 33", "batch: 32 → 33; width: 16 → 17"),
    "another fingerprint": (r'fingerprint = ".... -> fingerprint = "0000', "another fingerprint"),
    "fewer steps": (r"\nsteps = 40 -> \nsteps = 20", "has done 40 steps already; got steps=20"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_is_damaged_or_changed(copy, name):
    changes, message = CONFIGS[name]
    config = copy / "config.toml"
    if changes is None:
        config.unlink()
    elif " -> " not in changes:
        config.write_text(changes)
    else:
        text = config.read_text()
        for change in changes.split("|"):
            old, new = change.split(" -> ")
            assert re.search(old, text), text
            text = re.sub(old, new, text, count=1 if name not in ("another recipe", "unknown recipe") else 0)
        config.write_text(text)
    before = content(copy)
    with pytest.raises(RunError, match=message) as caught:
        runs.resume(copy)
    assert "\n" not in str(caught.value)
    assert str(copy) in str(caught.value) or "fingerprint" in message
    assert content(copy) == before


# Longer runs and forks ---------------------------------------------------------------------------------


def weights(path, step=40):
    """What training goes on from, as bytes, without what only tells which run it was."""
    state = checkpoint.load(path / "checkpoints", step)
    for key in ("settings", "callbacks"):
        del state[key]
    return flat(state)


def flat(node):
    if isinstance(node, dict):
        return {str(key): flat(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [flat(value) for value in node]
    return node.numpy().tobytes() if isinstance(node, mg.Tensor) else repr(node)


def test_longer(server, whole, tmp_path):
    path = tmp_path / "run"
    assert server.run(path, ["steps=20"]) == (0, "")
    assert server.run(path, arguments={"steps": 40}) == (0, "")
    assert weights(path) == weights(whole)
    assert (path / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert RunFolder(path).settings.steps == 40


@pytest.mark.parametrize("change", ["lr_decay=0.5", "noise=0.1"])
def test_longer_is_refused_under_a_schedule(tmp_path, change):
    runs.train(settings("steps=4", change), tmp_path / "run")
    before = (tmp_path / "run/config.toml").read_bytes()
    with pytest.raises(RunError, match=r"steps: 4 → 8 \(the schedule.*minigan fork .* --at 4"):
        runs.resume(tmp_path / "run", steps=8)
    assert (tmp_path / "run/config.toml").read_bytes() == before


def test_a_fork_with_nothing_changed_is_its_parent(whole, tmp_path):
    """Also when it is interrupted, and from each checkpoint that there is."""
    for at in (24, 32, 40):
        path = tmp_path / str(at)
        if at == 24:
            with pytest.raises(ZeroDivisionError):
                runs.fork(whole, at, [], path, callbacks=[Break(25)])
            runs.resume(path)
        else:
            runs.fork(whole, at, [], path)
        there, expected = content(path), content(whole)
        common = [name for name in expected if name in there and name != "curves.png"]
        assert {name: there[name] for name in common} == {name: expected[name] for name in common}
        assert {"metrics.jsonl", "checkpoints/step-000040.safetensors"} < {*common}
        assert {name for name in expected if "best" in name} == {name for name in there if "best" in name}
        assert RunFolder(path).config["fork"] == {"from": str(whole), "at": at}


@pytest.mark.parametrize(
    "changes",
    [
        ["loss=hinge"], ["penalty=", "spectral_norm=false"], ["ema=0"], ["batch=16"], ["optimizer=sgd"], ["n_critic=2"],
        ["optimizer=rmsprop", "beta1=0.9"], ["limit=500"], ["seed=3"], ["steps=50", "lr_decay=1"], ["noise=0.1"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_fork_with_changes(whole, tmp_path, changes):
    run = runs.fork(whole, 32, changes, tmp_path / "fork")
    common = (whole / "metrics.jsonl").read_bytes()
    length = checkpoint.load(whole / "checkpoints", 32)["callbacks"]["metrics"]["length"]
    there = run.metrics_file.read_bytes()
    assert there[:length] == common[:length]
    assert there != common
    assert run.metrics()[-1]["step"] == run.settings.steps
    runs.load_trainer(run.path)
    runs.load_trainer(run.path, best=True)


def test_a_fork_that_gains_an_average(tmp_path):
    runs.train(settings("ema=0", "steps=8"), tmp_path / "run")
    run = runs.fork(tmp_path / "run", 8, ["ema=0.9", "steps=16"], tmp_path / "fork")
    state = checkpoint.load(run.checkpoints, 16)
    assert int(state["ema"]["updates"]) == 8


def test_a_fork_takes_its_own_betas(whole, tmp_path):
    """They are in the optimiser's state too, which comes from the parent."""
    run = runs.fork(whole, 32, ["beta1=0.7"], tmp_path / "fork")
    state = checkpoint.load(run.checkpoints, 40)
    assert state["g_optimizer"]["param_groups"][0]["betas"][0] == 0.7


def test_a_fork_of_a_fork_from_the_start(whole, tmp_path):
    runs.train(settings("steps=8"), tmp_path / "run")
    runs.fork(tmp_path / "run", 0, ["loss=hinge"], tmp_path / "fork")
    run = runs.fork(tmp_path / "fork", None, ["steps=16"], tmp_path / "again")
    assert [record["step"] for record in run.metrics() if "d_loss" in record] == list(range(2, 17, 2))


@pytest.mark.parametrize(
    ("at", "changes", "error", "message"),
    [
        (33, [], RunError, r"no checkpoint at step 33; there are: \[20, 24, 32, 40\]"),
        (32, ["width=17"], RunError, "do not fit"),
        (32, ["spectral_norm=true"], RunError, "do not fit"),
        (32, ["networks=pacgan"], RunError, "do not fit"),
        (32, ["data=glyphs"], SettingsError, "not for images"),
        (32, ["recipe=gan"], RunError, "its parent's recipe"),
        (32, ["bacth=3"], SettingsError, "did you mean 'batch'"),
        (32, ["data=nosuch"], DataError, "nosuch"),
    ],
)
def test_forks_that_are_refused(whole, tmp_path, at, changes, error, message):
    with pytest.raises(error, match=message):
        runs.fork(whole, at, changes, tmp_path / "fork")
    assert list(tmp_path.iterdir()) == []

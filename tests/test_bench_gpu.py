"""`bench.gpu` as far as it goes without a GPU: its checks on the emulator, its processes, its tables. No times."""

import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent))  # bench/ is there; plain `pytest` does not look for it

import minigan as mg
from bench.gpu import __main__ as command
from bench.gpu import checks, clock, tables
from bench.gpu.card import Card
from bench.gpu.cases import CHOSEN, Values, cases
from bench.gpu.child import sets
from bench.gpu.ways import WAYS, torch_training, ways_of
from bench.gpu.worker import Lost, Worker, answers
from bench.layers import LAYERS
from bench.machine import ROOT
from bench.steps import STEPS
from minigan.kernels.cuda import conv, gemm
from minigan.kernels.emulator.device import EmulatedDevice

needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="PyTorch is not installed: nothing to compare with")
H100 = Card("NVIDIA H100 80GB HBM3", 132, 1980.0, 50 << 20, 80 << 30, 3e12)
SMALL = checks.checks(small=True)


# The roofline ------------------------------------------------------------------------------------------------------


def test_the_roofline_is_what_takes_longer():
    assert H100.floor(989e9, 3e6, "bf16") == pytest.approx(1.0)
    assert H100.floor(989e9, 9e9, "bf16") == pytest.approx(3.0)
    assert H100.floor(67e9, 0, "fp32") == pytest.approx(1.0)
    assert "3.00 TB/s" in str(H100)
    for unknown in ("NVIDIA H100 PCIe", "NVIDIA A100-SXM4-80GB"):
        card = replace(H100, name=unknown)
        assert card.floor(1e12, 1e9, "fp32") is None
        assert "not known" in str(card)


def test_floating_point_operations_and_bytes():
    known = cases(2)
    layer = LAYERS["32² · 64 → 128"]
    for part in ("forward", "input gradient", "weight gradient"):
        case = known[f"32² · 64 ↔ 128 {part}"]
        assert case.flops == layer.flops(2)
        assert case.bytes == 4 * (2 * 64 * 32**2 + 2 * 128 * 16**2 + 64 * 128 * 16)
    assert known["4² · 512 ↔ 100 input gradient"].flops == 2 * 2 * 512 * 100 * 16  # G's first layer, forward


def test_sets_of_arrays_are_larger_than_the_cache():
    assert sets(1 << 20, 50 << 20) == 64
    assert sets(40 << 20, 50 << 20) * (40 << 20) >= 4 * (50 << 20)
    assert sets(1 << 30, 50 << 20) == 2


# Checks ------------------------------------------------------------------------------------------------------------


def test_every_rung_is_checked_and_timed():
    known = cases(2)
    timed = {rung for case in known.values() for rung in case.ours}
    assert timed >= {*conv.RUNGS}
    assert timed >= {rung.kernel.removeprefix("gemm_") for rung in gemm.RUNGS}
    assert {f"gemm: {rung.name}" for rung in gemm.RUNGS} <= {*SMALL}
    for case in known.values():
        for rung in case.ours:
            part = re.search("(forward|input gradient|weight gradient)$", case.name)
            if part and not rung.startswith(CHOSEN) and "Norm" not in case.name:
                assert f"{part[0]}: {rung}" in SMALL


@pytest.mark.kernels
@pytest.mark.parametrize("name", SMALL)
def test_checks_pass(name):
    found = SMALL[name](EmulatedDevice(), 7)
    assert found["passed"], found
    assert 0 <= found["difference"] < found["limit"]


class Zeros(EmulatedDevice):
    """New memory is 0, as on a GPU it may be, or even what the kernel before left there."""

    def empty(self, shape, dtype):
        return np.zeros(shape, dtype)


def test_what_is_not_written_or_wrong_fails():
    def nothing(device, rng):
        yield np.ones(3, np.float32), np.ones(3)
        yield device.empty((3,), np.float32), np.ones(3)

    def close(factor):
        def pairs(device, rng):
            yield np.ones(3, np.float32), np.ones(3)
            yield np.full(3, factor, np.float32), np.ones(3)

        return pairs

    found = checks.Check(nothing, math.inf)(Zeros(), 0)
    assert math.isnan(found["difference"])
    assert not found["passed"]
    assert checks.Check(close(1.00001), 1e-4)(EmulatedDevice(), 0)["passed"]
    assert not checks.Check(close(1.001), 1e-4)(EmulatedDevice(), 0)["passed"]
    with pytest.raises(ValueError, match=r"got shape \(1, 3\), expected \(3,\)"):
        checks.relative(np.ones((1, 3)), np.ones(3))


@pytest.mark.kernels
def test_cases_compute_what_they_are_named_for():
    """Those of small arrays: each rung's result has the shape of the chosen one's, and is close to it."""
    known = cases(1)
    for name in ("4² · 512 ↔ 1 forward", "4² · 512 ↔ 1 input gradient", "4² · 512 ↔ 1 weight gradient"):
        results = {}
        for rung in (CHOSEN + " fp32", "tiled", "blocked_any"):
            flat = np.random.default_rng(0).standard_normal(1 << 16).astype(np.float32)
            results[rung] = known[name].ours[rung][1](EmulatedDevice(), Values(flat))()
        for found in results.values():
            np.testing.assert_allclose(found, results["tiled"], rtol=1e-4, atol=1e-4)


@needs_torch
def test_both_libraries_compute_the_same_case():
    """PyTorch's operations on its CPU beside ours on the emulator would take long: shapes are enough."""
    import torch

    flat = torch.randn(1 << 22)
    values = {"fp32": Values(flat), "bf16": Values(flat.bfloat16())}
    for name, case in cases(1).items():
        for way, (_, maker) in case.theirs.items():
            if "product" in name or "Adam" in name or "3 ↔ 64" in name:
                continue
            found = maker(torch, values)()
            if "↔" in name and "input gradient" in name:
                large = [int(number) for number in re.findall(r"(\d+)² · (\d+)", name)[0]]
                assert tuple(found[0].shape) == (1, large[1], large[0], large[0]), way


# Times -------------------------------------------------------------------------------------------------------------


class FakeClock:
    """Each call takes so many milliseconds, and a replay as many as its calls."""

    def __init__(self, each):
        self.each, self.calls = each, 0

    def ms(self, work):
        before = self.calls
        work()
        return (self.calls - before) * self.each

    def call(self):
        self.calls += 1

    def captured(self, calls):
        return lambda: [call() for call in calls]


@pytest.mark.parametrize(("each", "times"), [(0.001, 50), (5.0, 3)])
def test_times_are_of_one_call(each, times):
    fake = FakeClock(each)
    found = clock.timed(fake, [fake.call] * 8, seconds=0.1)
    assert found["ms"] == pytest.approx(each)
    assert found["quartiles"] == pytest.approx([each, each])
    assert found["times"] >= times


def test_what_is_slow_is_timed_once():
    fake = FakeClock(80.0)
    assert clock.timed(fake, [fake.call] * 8, seconds=1)["ms"] == 80
    assert fake.calls == 2


# Processes ---------------------------------------------------------------------------------------------------------

CHILD = """
import json, os, sys, time
job = json.loads(sys.argv[1])
def say(**facts): print(json.dumps(facts), flush=True)
if job.get("broken"): sys.exit("no such library")
say(ready=True)
for line in sys.stdin:
    name = line.strip()
    if name == "dies": print("bad address", file=sys.stderr); os._exit(3)
    if name == "hangs": time.sleep(60)
    if name == "ends": say(error="context", ended=True); break
    say(ms=float(len(name)), pid=os.getpid())
"""


def fake(job):
    return Worker(job, (sys.executable, "-c", CHILD))


def test_another_process_goes_on_after_one_that_is_lost():
    found = answers({}, ["a", "dies", "bb", "ends", "ccc"], 60, fake)
    assert [facts.get("ms") for facts in found.values()] == [1, None, 2, None, 3]
    assert found["dies"]["error"] == "ended with code 3: bad address"
    assert found["ends"]["error"] == "context"
    assert len({found[name]["pid"] for name in ("a", "bb", "ccc")}) == 3


def test_who_hangs_is_ended():
    with fake({}) as worker:
        worker.ready(20)
        start = time.monotonic()
        with pytest.raises(Lost, match="no answer within 0 s"):
            worker.ask("hangs", 0.2)
        assert time.monotonic() - start < 10
    assert worker.process.poll() is not None


def test_nothing_is_asked_after_the_time_or_of_who_cannot_start():
    found = answers({}, ["a", "b"], -1, fake)
    assert "were over" in found["a"]["error"]
    found = answers({"broken": True}, ["a", "b"], 60, fake)
    assert [facts["error"] for facts in found.values()] == ["ended with code 1: no such library"] * 2


@pytest.mark.skipif(mg.cuda.is_available(), reason="of a machine without a GPU")
def test_a_child_says_in_one_line_why_it_cannot_work():
    job = {"role": "steps", "way": "minigan fp32 graph", "step": "dcgan32", "batch": 2, "seconds": 0}
    with Worker(job) as worker, pytest.raises(Lost, match="RuntimeError: device 'cuda'"):
        worker.ready(60)


def test_a_race_is_in_turns_and_who_fails_is_out():
    with fake({}) as one, fake({}) as two:
        one.ready(20)
        two.ready(20)
        two.process.kill()
        found = command.race({"one": one, "two": two}, 3, 60)
    assert found["one"]["times"] == [2, 2, 2]
    assert "ended with code -9" in found["two"]["error"]


# The command -------------------------------------------------------------------------------------------------------


def test_without_a_gpu_it_says_so():
    run = subprocess.run(
        [sys.executable, "-m", "bench.gpu"], cwd=ROOT, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 1
    assert re.fullmatch("bench.gpu needs an NVIDIA GPU: .*\n", run.stderr)


def test_wrong_options(capsys):
    for words, complaint in ((["--only", "speed"], "'speed' is none of"), (["--out", "nowhere/x.md"], "no folder")):
        with pytest.raises(SystemExit):
            command.main(words)
        assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(("passed", "status"), [(True, 0), (False, 1)])
def test_a_failed_check_is_the_exit_status(passed, status, monkeypatch, tmp_path, capsys):
    def found(job, names, seconds):
        facts = {"difference": 1.0, "limit": 1e-5, "passed": passed, "seed": 3}
        return dict.fromkeys(names, facts)

    monkeypatch.setattr(command, "gpu_missing", lambda: "")
    monkeypatch.setattr(command, "answers", found)
    monkeypatch.setattr(command, "_cupy_version", lambda: "14.2.0")
    out = tmp_path / "gpu.md"
    assert command.main(["--only", "checks", "--out", str(out)]) == status
    said = capsys.readouterr().out
    assert ("FAILED (seed 3)" in said) == (not passed)
    assert "gemm: v0 naive" in out.read_text()
    assert len(json.loads(out.with_suffix(".json").read_text())["checks"]) == len(checks.checks())


EVERYTHING = """
import json, sys
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    name = line.strip()
    if name == "card":
        said = CARD
    elif name == "memory":
        said = {"mb": 5.0}
    elif name.endswith("|thin"):
        said = {"error": "bad address"}
    else:
        said = {"ms": 1.0, "quartiles": [0.9, 1.1], "times": 9, "passed": True, "difference": 0, "limit": 1}
    print(json.dumps(said), flush=True)
"""


def test_all_sections(monkeypatch, tmp_path, capsys):
    """With processes that know all answers at once."""
    code = EVERYTHING.replace("CARD", repr(asdict(H100)))
    started = []

    def instead(job):
        started.append(job)
        return Worker(job, (sys.executable, "-c", code))

    monkeypatch.setattr(command, "gpu_missing", lambda: "")
    monkeypatch.setattr(command, "Worker", instead)
    monkeypatch.setattr(command, "answers", partial(answers, start=instead))
    monkeypatch.setattr(command, "_cupy_version", lambda: "14.2.0")
    out = tmp_path / "gpu.md"
    assert command.main(["--out", str(out)]) == 0
    said = capsys.readouterr().out
    found = [line.removeprefix("## ") for line in said.splitlines() if line.startswith("## ")]
    assert found == ["checks", "best", "steps"]  # the last is what is seen where only the end is kept
    assert len(said) < 12_000
    assert "thin: bad address" in said
    written = out.read_text()
    assert all(f"## {name}" in written for name in tables.NOTES)
    numbers = json.loads(out.with_suffix(".json").read_text())
    assert {step: [*ways] for step, ways in numbers["steps"].items()}.keys() == command.BATCHES.keys()
    racing = [(job["step"], job["way"], job["batch"]) for job in started if job["role"] == "steps"]
    library = [way for way in WAYS if find_spec("torch") or "torch" not in way]
    assert {way for step, way, batch in racing if step == "dcgan64" and batch == 128} == {*library}
    assert len(racing) == len({*racing})


def test_a_check_that_gave_no_answer_is_a_failed_one():
    lines = list(tables.checks({"a": {"error": "no answer within 40 s"}, "b": {"passed": True}}, False))
    assert lines[0] == "1 of 2 passed; FAILED: a"
    assert lines[1].splitlines()[-1] == "| a |  |  | no answer within 40 s |"


# Tables ------------------------------------------------------------------------------------------------------------


def test_the_table_of_rungs():
    known = cases(128)
    case = known["32² · 64 ↔ 128 forward"]
    quartiles = {"quartiles": [1.0, 2.0], "times": 9}
    times = {"naive": 8.0, "blocked": 0.5, "chosen fp32": 0.6, "cuDNN fp32": 0.4, "cuDNN fp32, channels_last": 0.3}
    timed = {f"{case.name}|{name}": {"ms": ms, **quartiles} for name, ms in times.items()}
    timed[f"{case.name}|tf32"] = {"error": "RuntimeError: bad address"}
    row = tables.best(timed, known, H100).splitlines()[-1]
    rate, floor = case.flops / 0.5e9, case.flops / 67e12 * 1e3
    assert row == (
        f"| {case.name} | fp32 | blocked | 0.5 | {rate:.3g} | {floor / 0.5:.0%} | 0.6 | 0.3 | 2.00 |"
    )  # fmt: skip
    assert tables.rungs(timed, known, H100).count("\n") == 6
    assert tables.failures(timed) == [f"- {case.name}: tf32: RuntimeError: bad address"]


def test_the_table_of_steps():
    ways = {
        "torch TF32 as it comes": {"times": [9.0, 8.0, 7.0], "mb": 500},
        "torch TF32 compiled, graph": {"times": [4.0], "mb": 300},
        "minigan TF32 graph": {"times": [3.0, 1.0, 2.0], "mb": 200},
        "minigan TF32 eager": {"times": [1.0], "error": "lost"},
    }
    found = {"machine": "", "steps": {"dcgan64": ways}}
    rows = tables.steps(found["steps"], "times").splitlines()
    assert rows[0].startswith("| step | precision | minigan eager | minigan graph | PyTorch as it comes |")
    assert rows[3] == "| dcgan64 | TF32 |  | 2 | 8 |  |  | 4 |  | 0.50 |"
    assert tables.steps(found["steps"], "mb").splitlines()[3].endswith("| 0.67 |")
    assert "- dcgan64, minigan TF32 eager: lost" in tables.report(found, {}, full=False)


# Ways --------------------------------------------------------------------------------------------------------------


def test_who_takes_which_steps():
    assert {way for step in STEPS for way in ways_of(step, compiled=True)} == {*WAYS}
    assert not any("autotune" in way for way in ways_of("wgan-gp", compiled=True))
    assert not any("compiled" in way for way in ways_of("dcgan64", compiled=False))


@needs_torch
@pytest.mark.parametrize("way", ["torch TF32 as it comes", "torch bf16 tuned"])
@pytest.mark.parametrize("step", ["dcgan32", "wgan-gp"])
def test_torch_takes_steps(way, step):
    import torch

    torch.set_num_threads(1)  # two that wait for each other take long where other tests run beside these
    training = torch_training(torch, WAYS[way], step, 2, "cpu")
    before = [p.detach().clone() for net in (training.generator, training.discriminator) for p in net.parameters()]
    losses = training.losses()
    after = [p for net in (training.generator, training.discriminator) for p in net.parameters()]
    assert all(math.isfinite(loss.item()) for loss in losses)
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_loss_of_d_has_all_terms():
    """Logits near 0 at first: ln 2 for real samples, for fake ones, and for G's."""
    of_d, of_g = STEPS["mlp"].make(mg, 64)()
    assert of_d == pytest.approx(2 * math.log(2), rel=0.2)
    assert of_g == pytest.approx(math.log(2), rel=0.2)

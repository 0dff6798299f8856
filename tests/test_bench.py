"""`bench.cpu`: that it runs and prints what it should, and that both libraries take the same steps. No times."""

import importlib
import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import minigan as mg
from minigan import nn

sys.path.append(str(Path(__file__).resolve().parent.parent))  # bench/ is there; plain `pytest` does not look for it

from bench import cpu, layers, machine, tables
from bench.contest import Contender, ContenderEnded, Result, contest
from bench.machine import ROOT
from bench.steps import OURS, STEPS, WAYS, dcgan
from minigan.profiler import profile

needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="PyTorch is not installed: nothing to compare with")
QUICK = {"threads": 1, "seconds": 0.0}


def bench_cpu(*words, **variables):
    command = [sys.executable, "-m", "bench.cpu", "--quick", "--threads", "1", *words]
    return subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True)


# The command -------------------------------------------------------------------------------------------------------


@needs_torch
def test_every_table(tmp_path):
    out = tmp_path / "cpu.md"
    run = bench_cpu("--steps", "mlp", "--ways", "minigan,torch", "--out", str(out))
    assert run.returncode == 0, run.stderr
    assert out.read_text().split() == run.stdout.split()
    found = {part.split(",")[0]: part for part in run.stdout.split("\n## ")[1:]}
    assert list(found) == list(cpu.SECTIONS)
    assert machine.machine() in run.stdout
    assert "| mlp | 4 |" in found["steps"]
    for name in layers.LAYERS:
        assert found["layers"].count(f"| {name} |") == len(layers.PARTS)
    assert "batch 2 | batch 4 |" in found["batch"]
    assert "| PyTorch NCHW |" in found["batch"]
    assert "| mlp | 4 |" in found["memory"]
    assert "Linear" in found["profile"]
    assert "GFLOP/s" in found["profile"]


def test_without_pytorch(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cpu, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)  # children are started in the right place from anywhere
    cpu.main(["--quick", "--threads", "1", "--steps", "mlp", "--only", "steps,memory"])
    said = capsys.readouterr().out
    assert "PyTorch is not installed" in said
    assert "| step, ms | batch | minigan | minigan, D frozen | minigan / PyTorch |" in said


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--only", "steps,speed"], "'speed' is none of steps"),
        (["--steps", "dcgan65"], "'dcgan65' is none of dcgan64"),
        (["--ways", "jax"], "'jax' is none of minigan"),
        (["--rounds", "0"], "1 or more"),
        (["--ways", "torch"], "the profile is of minigan"),
        (["--out", "nowhere/cpu.md"], "there is no folder nowhere"),
    ],
)
def test_wrong_options(words, complaint, capsys):
    with pytest.raises(SystemExit):
        cpu.main(words)
    assert complaint in capsys.readouterr().err


# Contests ----------------------------------------------------------------------------------------------------------


def test_a_contest_asks_everyone_in_every_round():
    found = contest([OURS, "minigan-frozen"], ["mlp"], 3, what="step", step="mlp", batch=2, **QUICK)
    assert list(found) == [OURS, "minigan-frozen"]
    for result in found.values():
        assert len(result.times["mlp"]) == 3
        assert 0 < result.imported < result.peak
        assert "Adam" in result.profile
        assert result.flops == found[OURS].flops > 0


def test_a_contender_that_fails_ends_the_contest():
    job = {"way": OURS, "what": "step", "step": "mlp", "batch": 2, **QUICK}
    with Contender(job) as contender:
        contender.answer()
        with pytest.raises(ContenderEnded, match="code 1"):
            contender.ask("another step")
    with Contender(job) as contender:
        contender.answer()
        contender.process.kill()
        contender.process.wait()
        with pytest.raises(ContenderEnded, match="code -9"):
            contender.ask("mlp")
    with pytest.raises(KeyboardInterrupt), Contender(job) as contender:
        raise KeyboardInterrupt
    assert contender.process.poll() is not None


def test_tables():
    ours, theirs, frozen = (Result({"mlp": times}, flops=n) for times, n in (([1, 2, 3], 8e9), ([8, 8], 0), ([4], 0)))
    contests = {("mlp", 64): {OURS: ours, "torch": theirs, "torch-frozen": frozen}}
    row = tables.steps(contests, list(WAYS), peak=8000).splitlines()[-1]
    assert row == "| mlp | 64 | 2 (1.5–2.5) |  | 8 (8–8) | 4 (4–4) |  |  | 0.50 | 8 | 4000 (50%) | 2000 (25%) |"
    lines = tables.growth(contests | {("mlp", 128): {OURS: theirs, "torch": ours, "torch-frozen": frozen}}).splitlines()
    assert lines[2:] == [
        "| minigan | 2 | 8 | 4.00× |",
        "| PyTorch NCHW | 8 | 2 | 0.25× |",
        "| PyTorch NCHW, D frozen | 4 | 4 | 1.00× |",
        "| minigan / PyTorch | 0.50 | 4.00 |  |",
    ]


# The steps ---------------------------------------------------------------------------------------------------------


def two_steps(name, way, state):
    """The losses of two steps in float64 without dropout; latents, images and weights are the same every time."""
    lib = importlib.import_module(WAYS[way].library)
    numbers = np.random.default_rng(1)

    def tensor(draw):
        return lambda *shape: lib.tensor(draw(shape))

    default = lib.get_default_dtype()
    lib.set_default_dtype(lib.float64)
    try:
        step = WAYS[way].step(name, 3)
        step.real = tensor(numbers.standard_normal)(*step.real.shape)
        step.randn, step.rand = tensor(numbers.standard_normal), tensor(numbers.random)
        for net, given in zip((step.generator, step.discriminator), state, strict=True):
            for module in net.modules():
                if type(module).__name__ == "Dropout":
                    module.p = 0.0
            if given:
                net.load_state_dict({key: lib.tensor(value) for key, value in given.items()})
            else:
                given.update({key: value.numpy(force=True).copy() for key, value in net.state_dict().items()})
        losses = [step() for _ in range(2)]
        assert all(p.requires_grad for p in step.discriminator.parameters())
    finally:
        lib.set_default_dtype(default)
    return losses


@cache
def our_steps(name):
    """The weights that minigan starts from, and its losses."""
    state = {}, {}
    return state, two_steps(name, OURS, state)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("way", [way for way in WAYS if way != OURS])
def test_every_way_takes_the_same_steps(name, way):
    if WAYS[way].library == "torch":
        torch = pytest.importorskip("torch", reason="PyTorch is not installed: no steps of its own to compare with")
        torch.set_num_threads(1)  # two that wait for each other take long where other tests run beside these
    state, ours = our_steps(name)
    np.testing.assert_allclose(two_steps(name, way, state), ours, rtol=1e-10)
    assert ours[0] != ours[1]


# Floating-point operations -----------------------------------------------------------------------------------------


def test_flops_of_a_step_by_hand():
    """G twice forward for nothing, D three times: only what is needed counts."""
    step = WAYS[OURS].step("mlp", 2)
    with profile() as p:
        step()
    g = [100 * 128, 128 * 256, 256 * 512, 512 * 1024, 1024 * 784]
    d = [784 * 512, 512 * 256, 256]
    forward = sum(g) + 3 * sum(d)
    weights = sum(g) + 2 * sum(d)  # D's are not wanted when G learns
    inputs = sum(g[1:]) + 2 * sum(d[1:]) + sum(d)  # nobody wants those of latents, nor of D's images when it learns
    assert sum(row.flops for row in p.rows()) == 2 * 2 * (forward + weights + inputs)


@pytest.mark.parametrize("layer", layers.LAYERS.values(), ids=lambda layer: layer.name)
def test_flops_of_layers(layer):
    make = nn.ConvTranspose2d if layer.transposed else nn.Conv2d
    side = layer.small if layer.transposed else layer.size
    x = mg.randn(2, layer.inputs, side, side, requires_grad=True)
    with profile() as p:
        make(layer.inputs, layer.outputs, 4, layer.stride, layer.padding, bias=False)(x).sum().backward()
    assert [row.flops for row in p.rows() if row.flops and row.phase == "forward"] == [layer.flops(2)]
    assert [row.flops for row in p.rows() if row.flops and row.phase == "backward"] == [2 * layer.flops(2)]


def test_the_layers_are_those_of_the_step():
    found = {
        (m.in_channels, m.out_channels, m.stride[0], m.padding[0], isinstance(m, nn.ConvTranspose2d))
        for net in dcgan(nn) for m in net.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))
    }  # fmt: skip
    mine = {(x.inputs, x.outputs, x.stride, x.padding, x.transposed) for x in layers.LAYERS.values()}
    assert mine < found


def test_the_peak_is_a_number():
    assert machine.sgemm_peak(1, 0.0, (64,)) > 0

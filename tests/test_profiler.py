"""The profiler: what it counts, that its times add up, and that it leaves no trace behind."""

import json
import time

import pytest

import minigan as mg
from minigan import nn, optim
from minigan.observe import observers
from minigan.profiler import profile


def counts(p):
    return {(row.name, row.phase): row.calls for row in p.rows() if row.calls}


def test_counts_each_phase():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    adam = optim.Adam(net.parameters())
    with profile() as p:
        net(mg.randn(5, 3)).sum().backward()
        adam.step()
    assert counts(p) == {
        ("Linear", "forward"): 2, ("Linear", "backward"): 2, ("Tanh", "forward"): 1, ("Tanh", "backward"): 1,
        ("Sum", "forward"): 1, ("Sum", "backward"): 1, ("Adam", "step"): 1,
    }  # fmt: skip


def test_operations_inside_a_derivative_count_to_it():
    x = mg.randn(3, requires_grad=True)
    with profile() as p:
        (g,) = mg.autograd.grad((x**3).sum(), x, create_graph=True)
        g.sum().backward()
    inner = [span for span in p.spans if not span.outermost]
    assert inner
    assert all(span.phase == "forward" for span in inner)
    assert counts(p)["Pow", "forward"] == 1
    assert counts(p)["Pow", "backward"] == 2


def test_times_add_up():
    with profile() as p:
        for _ in range(10):
            (mg.randn(40, 40) @ mg.randn(40, 40)).exp()
        time.sleep(0.01)
    rows = p.rows()
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert sum(row.seconds for row in rows) == pytest.approx(p.ended - p.began)
    assert rows[-1].seconds > 0.01
    assert all(row.seconds > 0 for row in rows)


def test_bytes():
    x = mg.zeros(10, 10)
    with profile() as p:
        x.reshape(100)  # a view
        x.exp()
    assert {row.name: row.bytes for row in p.rows() if row.calls} == {"Reshape": 0, "Exp": 400}


def test_table():
    with profile() as p:
        mg.ones(2).exp().log()
    lines = p.table(limit=1).splitlines()
    assert lines[0].split() == ["operation", "phase", "calls", "ms", "share", "MB", "made", "GFLOP/s"]
    assert len(lines) == 3
    assert lines[-1].startswith("(between operations)")


def test_chrome_trace(tmp_path):
    with profile() as p:
        mg.ones(2).exp().log()
    p.chrome_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert [event["name"] for event in events] == ["Exp", "Log"]
    assert events[0]["ts"] + events[0]["dur"] <= events[1]["ts"]


def flops(p):
    return {(row.name, row.phase): row.flops for row in p.rows() if row.flops}


def test_flops_of_a_small_net():
    """Against sums by hand: 2 · batch · channels · filters · taps · positions for each product that is asked for."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2, 2, groups=2), nn.Flatten(), nn.Linear(384, 5)
    )
    conv = 2 * 7 * 3 * 4 * 9 * 16  # 8×8 → 4×4
    transposed = 2 * 7 * 4 * (6 // 2) * 4 * 16  # 4×4 → 8×8, its small side is 4×4
    linear = 2 * 7 * 384 * 5
    with profile() as p:
        net(mg.randn(7, 3, 8, 8)).sum().backward()
    assert flops(p) == {
        ("Conv", "forward"): conv, ("Conv", "backward"): conv,  # no gradient of the image
        ("ConvTranspose", "forward"): transposed, ("ConvTranspose", "backward"): 2 * transposed,
        ("Linear", "forward"): linear, ("Linear", "backward"): 2 * linear,
    }  # fmt: skip
    row = next(row for row in p.rows() if row.flops)
    assert row.gflops == pytest.approx(row.flops / row.seconds / 1e9)


def test_flops_of_gradients_of_gradients():
    x, w = mg.randn(2, 3, 6, requires_grad=True), mg.randn(5, 3, 4, requires_grad=True)
    one = 2 * 2 * 3 * 5 * 4 * 3  # length 6 → 3
    with profile() as p:
        y = nn.functional.conv1d(x, w)
        (g,) = mg.autograd.grad((y * y).sum(), w, create_graph=True)
        g.square().sum().backward(inputs=[w])
    assert flops(p)["ConvWeightGrad", "backward"] == one  # of its second input, which is y; x needs none
    assert flops(p)["Conv", "forward"] == one
    assert flops(p)["Conv", "backward"] == 2 * one  # of the weight, in both sweeps


def test_flops_of_products_and_of_the_rest():
    with profile() as p:
        (mg.randn(3, 2, 4) @ mg.randn(4, 5)).exp()
    assert flops(p) == {("Matmul", "forward"): 2 * 3 * 2 * 4 * 5}
    lines = {line.split()[0]: line.split() for line in p.table().splitlines()}
    assert len(lines["Matmul"]) == len(lines["Exp"]) + 1  # blank where nothing is counted


def test_flops_in_the_trace(tmp_path):
    with profile() as p:
        (mg.randn(3, 4) @ mg.randn(4, 5)).exp()
    p.chrome_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    found = {event["name"]: event["args"].get("flops") for event in events}
    assert found["Matmul"] == 120
    assert found["Exp"] is None


def test_empty():
    with profile() as p:
        pass
    assert len(p.table().splitlines()) == 2


def test_leaves_nothing_behind_after_an_error():
    with pytest.raises(RuntimeError), profile() as p:
        mg.ones(2) + mg.ones(3)
    assert not observers
    mg.ones(2).exp()
    assert not counts(p)


def test_results_are_the_same():
    x = mg.randn(4, 3)
    net = nn.Linear(3, 2)
    expected = net(x)
    with profile():
        assert mg.equal(net(x), expected)


def test_profiles_nest():
    with profile() as outer:
        mg.ones(1).exp()
        with profile() as inner:
            mg.ones(1).log()
    assert counts(outer) == {("Exp", "forward"): 1, ("Log", "forward"): 1}
    assert counts(inner) == {("Log", "forward"): 1}

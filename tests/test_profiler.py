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
    assert lines[0].split() == ["operation", "phase", "calls", "ms", "share", "MB", "made"]
    assert len(lines) == 3
    assert lines[-1].startswith("(between operations)")


def test_chrome_trace(tmp_path):
    with profile() as p:
        mg.ones(2).exp().log()
    p.chrome_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert [event["name"] for event in events] == ["Exp", "Log"]
    assert events[0]["ts"] + events[0]["dur"] <= events[1]["ts"]


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

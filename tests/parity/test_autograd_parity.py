"""Autograd against PyTorch: random expressions, hooks, the options of `grad` and `backward`, slopes at kinks."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: parity with it is not checked")

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from peer import BOTH, assert_close, assert_same, assert_same_derivatives, derivatives, host, outcome

# Random expressions ----------------------------------------------------------------------------------------

# Each makes a new value from earlier ones, a and b, of shapes that depend on the draw; magnitudes stay small.
OPS = [
    "a + b", "a - b", "a * b", "a / (1 + b * b)", "a * 2 - 1", "1 / (2 + a.sin())", "a ** 2",
    "(a * a + 1) ** 0.5", "(a * a + 1) ** (b.tanh())", "a.tanh()", "a.sigmoid()", "a.sin()", "a.cos()",
    "(-a * a).exp()", "(a * a + 1).log()", "(a * a).log1p()", "(a * a + 1).sqrt()", "(a * a + 1).rsqrt()",
    "a.abs()", "a.relu()", "a.clamp(-0.5, 0.5)", "T.maximum(a, b)", "T.minimum(a, b)",
    "T.where(a > b, a, b * 2)", "a.erf()", "T.square(a)", "-a", "a.expm1().tanh()",
    "a.sum(0, keepdim=True) + b", "a.mean(-1, keepdim=True) * b", "a.amax(-1, keepdim=True) * b", "a.cumsum(0)",
    "a.logsumexp(-1, keepdim=True) + b", "a.softmax(-1)", "a.log_softmax(0).tanh()",
    "a.norm(dim=-1, keepdim=True) * b", "a.var(-1, correction=0, keepdim=True) + b",
    "(a.std(-1, correction=0, keepdim=True) + 1) * b",
    "a.flip(0)", "a.roll(1, -1)", "a.t() @ b", "a @ b.t()", "(a @ a.t()).tanh() @ b", "T.cat([a, b], 0)[1:]",
    "T.stack([a, b]).sum(0)", "a[:1] * b", "a[:, ::2].sum() + b", "a.reshape(-1)[:3].sum() * b",
    "a.expand(2, *a.shape).sum(0) * b", "T.einsum('ij,ik->jk', a, b)", "a.sort(-1)[0]",
    "a.gather(1, a.argsort(1))", "a.prod(1, keepdim=True) + b", "a.detach() * b", "a.tril() + b",
    "a.max(1, keepdim=True)[0] - b", "a.index_select(0, T.tensor([0, 0])).sum(0) + b",
    "a.masked_fill(a > 0.3, 0.1)", "a.topk(1)[0] * b", "T.lerp(a, b, 0.3)",
]  # fmt: skip
IN_PLACE = [
    "c.mul_(a)", "c.add_(b, alpha=2)", "c[0] = a[0]", "c[:, 0] *= 2", "c.tanh_()", "c.clamp_(-1, 1)",
    "c[:1].mul_(b[:1])",
]  # fmt: skip


@st.composite
def expressions(draw) -> str:
    """A program whose lines each make one value from two earlier ones; all of them end up in the result."""
    lines = ["v = [x, y, z]"]
    for i in range(3, 3 + draw(st.integers(1, 8))):
        lines.append(f"a, b = v[{draw(st.integers(0, i - 1))}], v[{draw(st.integers(0, i - 1))}]")
        if draw(st.integers(0, 4)):
            lines.append(f"v.append({draw(st.sampled_from(OPS))})")
        else:
            lines.append(f"c = a * 1\n{draw(st.sampled_from(IN_PLACE))}\nv.append(c)")
    return "\n".join(lines)


@settings(max_examples=600)
@given(code=expressions())
def test_random_expressions(code: str) -> None:
    random = np.random.default_rng(len(code))
    arrays = [random.normal(size=s) for s in [(3, 3), (3, 3), (1, 3)]]

    def run(T, x, y, z):
        names = {"T": T, "x": x, "y": y, "z": z}
        exec(code, names)
        total = sum(value.mean() for value in names["v"])
        return total, names["v"][-1]

    try:
        theirs = derivatives(run, arrays, torch)[1:]
    except RuntimeError:
        return  # shapes that do not fit, or a saved value that was changed
    if all(torch.isfinite(g).all() for g in theirs):
        assert_same_derivatives(run, arrays)


# Kinks and poles: the slope that is chosen -----------------------------------------------------------------

TIES = [0.0, 0.0, 1.0, 1.0, -1.0, 0.0]
KINKS = """
x.max()
x.min()
x.amax()
x.amin()
x.max(0)[0]
x.min(0)[0]
x.reshape(2, 3).amax(1)
x.reshape(2, 3).max(1)[0]
x.reshape(2, 3).amax((0, 1))
T.maximum(x, x.flip(0))
T.minimum(x, x * 1)
T.maximum(x, x.detach())
T.max(x, T.zeros(6, dtype=T.float64))
x.clamp(0, 1)
x.clamp(min=0)
x.clamp(max=1)
x.clamp(-1, 1)
x.clamp(0, 0)
x.clamp(T.zeros(6, dtype=T.float64), T.ones(6, dtype=T.float64))
x.relu()
x.abs()
x.sign()
x.floor()
x.round()
x.norm()
(x * 0).norm()
x.reshape(3, 2).norm(dim=1)
x.reshape(3, 2).norm(1, dim=1)
x.norm(1)
x.norm(float("inf"))
x.norm(3)
(x * 0).norm(3)
(x * 0).norm(1)
x.sqrt()
x.abs().sqrt()
x.rsqrt()
x ** 2
x ** 1
x ** 0
x ** 3
x ** 0.5
x ** 1.5
x.abs() ** T.tensor(2.0, dtype=T.float64)
x.abs() ** x.abs()
T.tensor(0.0, dtype=T.float64) ** x.abs()
0.0 ** x.abs()
2.0 ** x
x.log()
x.abs().log()
1 / x
x / x
x.prod()
x[2:4].prod()
x.reshape(2, 3).prod(0)
x.cumsum(0)
x.std()
(x * 0).std()
(x * 0).var()
x.softmax(0)
x.logsumexp(0)
T.where(x > 0, x.log(), x)
T.where(x > 0, x, 0.0).sqrt()
x.sort()[0]
x.topk(2)[0]
x.tanh()
x.remainder(1.0)
x % 0.7
"""


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of 0 · ∞
@pytest.mark.parametrize("code", [pytest.param(line, id=line) for line in KINKS.strip().splitlines()])
def test_kink(code: str) -> None:
    assert_same_derivatives(lambda T, x: eval(code, {"T": T, "x": x}), [np.array(TIES)], order=1)


# What backward and grad do -----------------------------------------------------------------------------------

PROGRAMS = {
    "accumulates": """
x = T.ones(3, requires_grad=True)
(x * x).sum().backward()
first = x.grad.clone()
(3 * x).sum().backward()
out = first, x.grad""",
    "gradient argument": """
x = T.ones(3, requires_grad=True)
(x * x).backward(T.tensor([1.0, 2.0, 3.0]))
out = x.grad""",
    "gradient by keyword": """
x = T.ones(3, requires_grad=True)
(x * x).backward(gradient=T.tensor([1.0, 2.0, 3.0]))
out = x.grad""",
    "one-element output of any shape": """
x = T.ones(3, requires_grad=True)
(x * x).sum().reshape(1, 1).backward()
out = x.grad""",
    "inputs": """
x = T.ones(3, requires_grad=True)
y = T.ones(3, requires_grad=True)
(x * y).sum().backward(inputs=[x])
out = x.grad, y.grad is None""",
    "inputs that are no leaves": """
x = T.ones(3, requires_grad=True)
h = x * 2
h.retain_grad()
(h * h).sum().backward(inputs=[h])
out = h.grad, x.grad is None""",
    "one input, not in a list": """
x = T.ones(3, requires_grad=True)
(x * 2).sum().backward(inputs=x)
out = x.grad""",
    "retain_graph": """
x = T.ones(3, requires_grad=True)
y = (x * x).sum()
y.backward(retain_graph=True)
y.backward()
out = x.grad""",
    "twice through a freed graph": """
x = T.ones(3, requires_grad=True)
y = (x * x).sum()
y.backward()
y.backward()""",
    "twice through a sum": """
x = T.ones(3, requires_grad=True)
h = x.exp()
h.sum().backward()
(h * 2).sum().backward()""",
    "retain_grad": """
x = T.ones(3, requires_grad=True)
h = x * 2
h.retain_grad()
(h * h).sum().backward()
out = h.grad, x.grad""",
    "retain_grad accumulates, in memory of its own": """
x = T.ones(3, requires_grad=True)
h = x * 2
k = x * 3
h.retain_grad()
k.retain_grad()
y = (h + k).sum()
y.backward(retain_graph=True)
k.grad.zero_()
a = h.grad.clone()
y.backward()
out = a, h.grad, k.grad""",
    "retain_grad of a leaf": """
x = T.ones(3, requires_grad=True)
x.retain_grad()
(x * 2).sum().backward()
out = x.grad""",
    "hook": """
x = T.ones(3, requires_grad=True)
seen = []
x.register_hook(lambda g: seen.append(g.clone()))
(x * x).sum().backward()
out = seen, x.grad""",
    "hook that replaces": """
x = T.ones(3, requires_grad=True)
x.register_hook(lambda g: g * 10)
(x * x).sum().backward()
out = x.grad""",
    "hooks in order": """
x = T.ones(3, requires_grad=True)
seen = []
for i in range(3):
    x.register_hook(lambda g, i=i: seen.append(i) or g * 2)
(x * x).sum().backward()
out = seen, x.grad""",
    "hook on an inner value": """
x = T.ones(3, requires_grad=True)
h = x * 2
h.register_hook(lambda g: g * 0.5)
h.retain_grad()
(h * h).sum().backward()
out = h.grad, x.grad""",
    "hooks run once, on the whole gradient": """
x = T.ones(3, requires_grad=True)
h = x * 2
seen = []
h.register_hook(lambda g: seen.append(g.sum().item()))
x.register_hook(lambda g: seen.append(g.sum().item()))
(h * h + h * 3 + x).sum().backward()
out = seen""",
    "order of hooks down a chain": """
x = T.ones(1, requires_grad=True)
seen = []
h = x
for i in range(5):
    h = h * 2
    h.register_hook(lambda g, i=i: seen.append(i))
h.sum().backward()
out = seen""",
    "removed hook": """
x = T.ones(3, requires_grad=True)
handle = x.register_hook(lambda g: g * 10)
handle.remove()
handle.remove()
(x * x).sum().backward()
out = x.grad""",
    "hook and grad": """
x = T.ones(3, requires_grad=True)
h = x * 2
h.register_hook(lambda g: g * 10)
x.register_hook(lambda g: g + 1)
y = (h * h).sum()
out = T.autograd.grad(y, x, retain_graph=True), T.autograd.grad(y, h)""",
    "hook before an in-place change": """
x = T.ones(3, requires_grad=True)
h = x * 2
h.register_hook(lambda g: g * 10)
h.mul_(3)
h.sum().backward()
out = x.grad""",
    "hook after an in-place change": """
x = T.ones(3, requires_grad=True)
h = x * 2
h.mul_(3)
h.register_hook(lambda g: g * 10)
h.sum().backward()
out = x.grad""",
    "hook without gradients": """
T.ones(3).register_hook(lambda g: g)""",
    "grad": """
x = T.ones(3, requires_grad=True)
y = T.full((3,), 2.0, requires_grad=True)
out = T.autograd.grad((x * y * y).sum(), (x, y)), x.grad is None""",
    "grad of one tensor": """
x = T.ones(3, requires_grad=True)
out = T.autograd.grad((x * x).sum(), x)""",
    "grad with grad_outputs": """
x = T.ones(3, requires_grad=True)
out = T.autograd.grad(x * x, x, T.tensor([1.0, 2.0, 3.0]))""",
    "grad of several outputs": """
x = T.ones(3, requires_grad=True)
out = T.autograd.grad([x * x, x.sum()], [x], [T.ones(3), None])""",
    "the penalty idiom": """
x = T.full((2, 3), 2.0, requires_grad=True)
w = T.full((3,), 0.5, requires_grad=True)
y = (x * x) @ w
g = T.autograd.grad(outputs=y, inputs=x, grad_outputs=T.ones_like(y), create_graph=True, retain_graph=True,
                    only_inputs=True)[0]
p = ((g.norm(2, dim=1) - 1) ** 2).mean()
p.backward()
out = g, p, w.grad, x.grad""",
    "third order": """
x = T.tensor([1.0, 2.0], requires_grad=True)
y = (x ** 4).sum()
for _ in range(3):
    y = T.autograd.grad(y.sum(), x, create_graph=True)[0]
out = y""",
    "unused, refused": """
x = T.ones(3, requires_grad=True)
y = T.ones(3, requires_grad=True)
T.autograd.grad((x * x).sum(), [x, y])""",
    "unused, allowed": """
x = T.ones(3, requires_grad=True)
y = T.ones(3, requires_grad=True)
g = T.autograd.grad((x * x).sum(), [x, y], allow_unused=True)
out = g[0], g[1] is None""",
    "unused, as zeros": """
x = T.ones(3, requires_grad=True)
y = T.ones(2, requires_grad=True)
out = T.autograd.grad((x * x).sum(), [x, y], materialize_grads=True)""",
    "grad of an inner value": """
x = T.ones(3, requires_grad=True)
h = x * 2
out = T.autograd.grad((h * h).sum(), [h, x])""",
    "grad of the output itself": """
x = T.ones(3, requires_grad=True)
y = (x * 2).sum()
out = T.autograd.grad(y, [y, x])""",
    "grad of a leaf by itself": """
x = T.tensor(3.0, requires_grad=True)
out = T.autograd.grad(x, x)""",
    "grad without create_graph is constant": """
x = T.ones(3, requires_grad=True)
g = T.autograd.grad((x ** 3).sum(), x)[0]
out = g.requires_grad""",
    "grad with create_graph of something linear": """
x = T.ones(3, requires_grad=True)
w = T.ones(3, requires_grad=True)
g = T.autograd.grad((x * w).sum(), x, create_graph=True)[0]
out = g, g.requires_grad, T.autograd.grad(g.sum(), w)""",
    "grad frees the graph": """
x = T.ones(3, requires_grad=True)
y = (x * x).sum()
T.autograd.grad(y, x)
T.autograd.grad(y, x)""",
    "grad keeps it when asked": """
x = T.ones(3, requires_grad=True)
y = (x * x).sum()
a = T.autograd.grad(y, x, retain_graph=True)
out = a, T.autograd.grad(y, x)""",
    "grad with the wrong shape of grad_outputs": """
x = T.ones(3, requires_grad=True)
T.autograd.grad(x * x, x, T.ones(2))""",
    "grad of a vector without grad_outputs": """
x = T.ones(3, requires_grad=True)
T.autograd.grad(x * x, x)""",
    "grad of an input that needs none": """
x = T.ones(3)
y = T.ones(3, requires_grad=True)
T.autograd.grad((x * y).sum(), x)""",
    "grad of an output that needs none": """
x = T.ones(3, requires_grad=True)
T.autograd.grad(T.ones(3).sum(), x)""",
    "autograd.backward": """
x = T.ones(3, requires_grad=True)
T.autograd.backward([(x * x).sum(), x * 3], [None, T.ones(3)])
out = x.grad""",
    "no_grad": """
x = T.ones(3, requires_grad=True)
with T.no_grad():
    y = x * 2
    with T.enable_grad():
        z = x * 3
out = y.requires_grad, z.requires_grad, T.is_grad_enabled()""",
    "no_grad as a decorator": """
x = T.ones(3, requires_grad=True)
@T.no_grad()
def f(x):
    return x * 2
out = f(x).requires_grad, (x * 2).requires_grad""",
    "set_grad_enabled": """
x = T.ones(3, requires_grad=True)
with T.set_grad_enabled(False):
    y = x * 2
T.set_grad_enabled(False)
z = x * 2
T.set_grad_enabled(True)
out = y.requires_grad, z.requires_grad, (x * 2).requires_grad""",
    "inference_mode": """
x = T.ones(3, requires_grad=True)
with T.inference_mode():
    y = x * 2
out = y.requires_grad""",
    "a step under no_grad": """
x = T.ones(3, requires_grad=True)
(x * x).sum().backward()
with T.no_grad():
    x -= 0.1 * x.grad
    x.grad.zero_()
(x * x).sum().backward()
out = x, x.grad, x.requires_grad, x.is_leaf""",
    "a step through data": """
x = T.ones(3, requires_grad=True)
(x * x).sum().backward()
x.data -= 0.1 * x.grad.data
x.grad = None
(x * x).sum().backward()
out = x, x.grad""",
    "detach": """
x = T.ones(3, requires_grad=True)
y = x * 2
(y.detach() * x).sum().backward()
out = x.grad, y.detach().requires_grad""",
    "detach_": """
x = T.ones(3, requires_grad=True)
y = (x * 2).detach_()
out = y.requires_grad, y.is_leaf""",
    "requires_grad_ of an inner value": """
x = T.ones(3, requires_grad=True)
y = x * 2
y.requires_grad_(False)""",
    "requires_grad assigned": """
x = T.ones(3)
x.requires_grad = True
(x * 2).sum().backward()
out = x.grad""",
    "a saved value changed": """
x = T.ones(3, requires_grad=True)
y = x.exp()
y.mul_(2)
y.sum().backward()""",
    "a saved input changed": """
x = T.ones(3, requires_grad=True)
h = x * 2
y = h * h
h.add_(1)
y.sum().backward()""",
    "a changed value that nobody needs": """
x = T.ones(3, requires_grad=True)
h = x * 2
y = h + 1
h.add_(1)
(y + h).sum().backward()
out = x.grad""",
    "grad set to None and zeros": """
x = T.ones(3, requires_grad=True)
x.grad = T.full((3,), 5.0)
(x * 2).sum().backward()
a = x.grad.clone()
x.grad = None
(x * 2).sum().backward()
out = a, x.grad""",
    "an unused branch": """
x = T.ones(3, requires_grad=True)
y = x * 2
z = (x * float("nan")).sum()
y.sum().backward()
out = x.grad""",
    "the same tensor many times": """
x = T.full((3,), 2.0, requires_grad=True)
y = x
for _ in range(5):
    y = y * x + x
y.sum().backward()
out = x.grad""",
    "float16": """
x = T.ones(3, dtype=T.float16, requires_grad=True)
(x.float() * 2).sum().backward()
out = x.grad""",
    "casts in the graph": """
x = T.ones(3, requires_grad=True)
(x.double() * T.full((3,), 2.0, dtype=T.float64)).sum().backward()
out = x.grad""",
    "integers beside gradients": """
x = T.ones(3, requires_grad=True)
i = T.tensor([1, 2, 3])
(x * i).sum().backward()
out = x.grad, (x * i > 1).requires_grad""",
    "a tensor used as its own cotangent": """
x = T.full((3,), 2.0, requires_grad=True)
y = x * 3
y.backward(y.detach())
out = x.grad""",
    "the gradient is nobody else's": """
x = T.ones(3, requires_grad=True)
y = T.ones(3, requires_grad=True)
g = T.full((3,), 2.0)
(x + y).backward(g)
x.grad.zero_()
out = x.grad, y.grad, g""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    def run(T):
        names = {"T": T}
        exec(PROGRAMS[name], names)
        return names.get("out")

    try:
        ours, theirs = (outcome(run, T) for T in BOTH)
    finally:
        for T in BOTH:
            T.set_grad_enabled(True)
    assert ("out" in PROGRAMS[name]) != isinstance(theirs, Exception), theirs
    assert_same(ours, theirs, equal_nan=False)


def test_gradients_have_their_inputs_dtype() -> None:
    for dtype in ("float16", "float32", "float64"):
        grads = []
        for T in BOTH:
            x = T.ones(3, dtype=getattr(T, dtype), requires_grad=True)
            (x * 2.5 + x / 3).sum().backward()
            grads.append(host(x.grad))
        assert grads[0].dtype == grads[1].dtype == dtype
        assert_close(*grads, tolerance=1e-3)

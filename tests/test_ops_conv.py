"""Convolution and its two relatives: a row each, checked to order 3 by `harness.check`, under every algorithm.

And what the ops keep between forward and backward; and that training repeats, whatever the number of threads.
"""

import itertools
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path

import layer_oracles as right
import layer_rows
import numpy as np
import pytest
from harness import Row, check
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import placed
from test_kernels_conv import geometries, oracle

import minigan as mg
from minigan import nn
from minigan.graph import REGISTRY, apply
from minigan.kernels.cpu import im2col, winograd
from minigan.kernels.cpu.choose import choose, conv_algorithm
from minigan.kernels.geometry import ConvGeometry
from minigan.testing import check_adjoint, check_grads, check_vjp_fast


def call(op):
    return lambda a, b, g: apply(REGISTRY[op], a, b, geometry=g)


ANY = geometries(dims=(1, 1, 2))


@st.composite
def convolutions(draw, op, drawn=ANY):
    """Two of the three arguments x, w, y of the trilinear form, and the geometry."""
    g = draw(drawn)
    batch, per_group, filters = draw(st.sampled_from([2, 1, 0])), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    of = {
        "x": (batch, per_group * g.groups, *g.input),
        "w": (filters * g.groups, per_group, *g.kernel),
        "y": (batch, filters * g.groups, *g.output),
    }
    first, second = {"Conv": "xw", "ConvTranspose": "yw", "ConvWeightGrad": "xy"}[op]
    return draw(placed(of[first])), draw(placed(of[second])), g


def conv(x, w, g):
    return oracle(x, w, np.zeros((len(x), len(w), *g.output)), g)[2]


def conv_transpose(y, w, g):
    return oracle(np.zeros((len(y), w.shape[1] * g.groups, *g.input)), w, y, g)[0]


def conv_weight_grad(x, y, g):
    return oracle(x, np.zeros((y.shape[1], x.shape[1] // g.groups, *g.kernel)), y, g)[1]


ROWS = [
    Row("conv", "Conv", call("Conv"), conv, convolutions("Conv"), order=3),
    Row(
        "conv_transpose", "ConvTranspose", call("ConvTranspose"), conv_transpose, convolutions("ConvTranspose"),
        order=3,
    ),
    Row(
        "conv_weight_grad", "ConvWeightGrad", call("ConvWeightGrad"), conv_weight_grad, convolutions("ConvWeightGrad"),
        order=3,
    ),
]  # fmt: skip


@pytest.mark.parametrize("algorithm", ["gemm", "auto"])
@pytest.mark.parametrize("row", ROWS, ids=str)
@given(data=st.data())
def test_rows(row, algorithm, data):
    with conv_algorithm(algorithm):
        check(row, data.draw(row.cases), data.draw(st.sampled_from(row.dtypes)))


# By Winograd's method ---------------------------------------------------------------------------------------


def eligible(g, batch=1):
    """Whether Winograd's method applies."""
    with conv_algorithm("winograd"):
        return choose(g, batch, 1, 1) is not None


def plainly(settings):
    """Settings of a layer, without what Winograd's method does not take."""
    extra = {"output_padding": 0} if "output_padding" in settings else {}
    return settings | {"groups": 1, "dilation": 1} | extra


def layer(kind, oracle, op, transposed=False):
    settings = layer_rows.convolutions(2, transposed).map(plainly)
    return layer_rows.row(kind, oracle, settings, partial(layer_rows.for_convolution, 2), ops=op, order=3)


PLAIN = geometries(dims=(2,), plain=True).filter(eligible)
BY_WINOGRAD = [
    *(replace(row, cases=convolutions(row.ops, PLAIN), rtol=1e-12) for row in ROWS),
    replace(layer(nn.Conv2d, right.conv, "Conv"), rtol=1e-12),
    replace(layer(nn.ConvTranspose2d, right.conv_transpose, "ConvTranspose", transposed=True), rtol=1e-12),
]


@pytest.mark.parametrize("row", BY_WINOGRAD, ids=str)
@settings(max_examples=settings.default.max_examples * 3 // 5)
@given(data=st.data())
def test_rows_by_winograd(row, data):
    with conv_algorithm("winograd"):
        check(row, data.draw(row.cases), data.draw(st.sampled_from(row.dtypes)))


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "ConvWeightGrad"])
def test_gradients_of_a_layer_large_enough_for_winograd(op):
    """As "auto" chooses by itself; the others are too small for it."""
    g = ConvGeometry.conv((16, 16), (3, 3), padding=1)
    assert choose(g, 16, 32, 32) is not None
    arrays = {"x": mg.randn(16, 32, 16, 16), "w": mg.randn(32, 32, 3, 3), "y": mg.randn(16, 32, 16, 16)}
    args = [arrays[name].double() for name in {"Conv": "xw", "ConvTranspose": "yw", "ConvWeightGrad": "xy"}[op]]
    check_grads(lambda a, b: call(op)(a, b, g), args, order=2)
    check_vjp_fast(lambda a, b: call(op)(a, b, g), args)


# By im2col, which is exact on small integers ----------------------------------------------------------------


@given(geometries(), st.integers(1, 2), st.integers(1, 2))
def test_adjoints_are_exact(g, per_group, filters):
    """⟨conv(x, w), y⟩ = ⟨x, conv_transpose(y, w)⟩ = ⟨w, conv_weight_grad(x, y)⟩, in integers."""
    rng = np.random.default_rng(0)
    shapes = (
        (2, per_group * g.groups, *g.input),
        (filters * g.groups, per_group, *g.kernel),
        (2, filters * g.groups, *g.output),
    )
    x, w, y = (mg.tensor(rng.integers(-3, 4, shape), dtype=mg.float64) for shape in shapes)
    with conv_algorithm("gemm"):
        check_adjoint(lambda x: call("Conv")(x, w, g), lambda y: call("ConvTranspose")(y, w, g), x, y)
        check_adjoint(lambda w: call("Conv")(x, w, g), lambda y: call("ConvWeightGrad")(x, y, g), w, y)


@pytest.mark.parametrize("algorithm", ["gemm", "winograd"])
def test_a_shared_argument(algorithm):
    """The gradient with respect to something that is both image and kernel."""
    g = ConvGeometry.conv((3, 3), (3, 3), padding=1)
    with conv_algorithm(algorithm):
        check_grads(lambda x: call("Conv")(x, x, g), (mg.randn(2, 2, 3, 3).double(),), order=3)


# What is kept for the backward pass -------------------------------------------------------------------------

G = ConvGeometry.conv((7, 6), (4, 3), stride=(2, 1), padding=1)
SHAPES = {"x": (3, 2, 7, 6), "w": (4, 2, 4, 3), "y": (3, 4, 3, 6)}
FORWARD = {"Conv": ("x", "w", "y"), "ConvTranspose": ("y", "w", "x")}  # image, kernel, result


kept_at_all = pytest.mark.skipif(
    "not config.getoption('--device').startswith(('cpu', 'strict'))",
    reason="of what NumPy's kernels keep: CUDA kernels transform nothing, so that there is nothing to keep",
)


@pytest.fixture
def by_winograd():
    with conv_algorithm("winograd"):
        yield


def draw(op):
    """An image and a kernel that want gradients, the result, and three seeds for its gradient."""
    image, kernel, result = (SHAPES[name] for name in FORWARD[op])
    a, w = (mg.randn(*shape).double().requires_grad_() for shape in (image, kernel))
    assert eligible(G)
    return a, w, call(op)(a, w, G), [mg.randn(*result).double() for _ in range(3)]


def by_gemm(op, a, w, seed):
    """The gradients of image and kernel, of a graph of their own."""
    a, w = (t.detach().requires_grad_() for t in (a, w))
    with conv_algorithm("gemm"):
        return mg.autograd.grad(call(op)(a, w, G), [a, w], seed)


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert bool((found - expected).abs().max() <= 1e-12 * expected.abs().max())  # not so of NaN


@pytest.mark.usefixtures("by_winograd")
@pytest.mark.parametrize("op", FORWARD)
@pytest.mark.parametrize("order", list(itertools.permutations(["image", "kernel", "both"])), ids="-".join)
def test_backward_again_and_for_some_inputs_only(op, order):
    """Each with a gradient of its own to start from, of which nothing may be left for the next."""
    a, w, out, seeds = draw(op)
    for i, (wanted, seed) in enumerate(zip(order, seeds, strict=True)):
        a.grad = w.grad = None
        inputs = {"image": [a], "kernel": [w], "both": [a, w]}[wanted]
        out.backward(seed, retain_graph=i < 2, inputs=inputs)
        for name, tensor, expected in zip(("image", "kernel"), (a, w), by_gemm(op, a, w, seed), strict=True):
            if wanted in (name, "both"):
                assert_close(tensor.grad, expected)
            else:
                assert tensor.grad is None


@pytest.mark.usefixtures("by_winograd")
@pytest.mark.parametrize("op", FORWARD)
def test_gradients_add_up_over_backwards(op):
    a, w, out, seeds = draw(op)
    for i, seed in enumerate(seeds):
        out.backward(seed, retain_graph=i < 2)
    for tensor, expected in zip((a, w), by_gemm(op, a, w, seeds[0] + seeds[1] + seeds[2]), strict=True):
        assert_close(tensor.grad, expected)


@pytest.mark.usefixtures("by_winograd")
@pytest.mark.parametrize("op", FORWARD)
def test_double_backward_after_a_backward(op):
    """A gradient penalty, on a graph whose arrays were already used by the fast backward."""
    a, w, out, seeds = draw(op)
    out.backward(seeds[0], retain_graph=True)

    def penalty(out, a, w):
        (ga,) = mg.autograd.grad((out * out).sum(), a, create_graph=True)
        return mg.autograd.grad(ga.square().sum(), [a, w])

    found = penalty(out, a, w)
    with conv_algorithm("gemm"):
        expected = penalty(call(op)(a, w, G), a, w)
    for i in range(2):
        assert_close(found[i], expected[i])


@pytest.mark.usefixtures("by_winograd")
@pytest.mark.parametrize("op", FORWARD)
@pytest.mark.parametrize("changed", ["image", "kernel"])
def test_an_argument_that_was_changed_is_noticed(op, changed):
    """Though the transformed one that was kept would still be right."""
    a, w, out, seeds = draw(op)
    with mg.no_grad():
        {"image": a, "kernel": w}[changed].mul_(2)
    with pytest.raises(
        RuntimeError, match=f"^{op}: input {int(changed == 'kernel')}, .* modified by an inplace operation"
    ):
        out.backward(seeds[0])


@kept_at_all
@pytest.mark.usefixtures("by_winograd")
@pytest.mark.parametrize("op", FORWARD)
def test_what_is_kept_goes_as_the_sweep_goes(op):
    side = {"Conv": "V", "ConvTranspose": "M"}[op]
    a, w, _, seeds = draw(op)
    middle = a * 1
    out = call(op)(middle, w, G)
    kept = out.node._cache
    sides, filters = weakref.ref(getattr(kept, side)), weakref.ref(kept.U)
    gone = []
    middle.register_hook(lambda g: gone.append(sides() is None and filters() is None))
    del kept
    out.backward(seeds[0], retain_graph=True)
    assert gone == [False]
    assert getattr(out.node._cache, {"V": "M", "M": "V"}[side]) is None  # it was of that gradient
    out.backward(seeds[0])
    assert gone == [False, True]
    assert out.node is not None


@kept_at_all
@pytest.mark.usefixtures("by_winograd")
@pytest.mark.parametrize("op", FORWARD)
def test_only_what_is_needed_is_kept(op):
    image, kernel, _ = (SHAPES[name] for name in FORWARD[op])
    for wants_image, wants_kernel in ((True, False), (False, True)):
        a, w = mg.randn(*image).requires_grad_(wants_image), mg.randn(*kernel).requires_grad_(wants_kernel)
        kept = call(op)(a, w, G).node._cache
        assert (kept.U is not None, kept.V is not None or kept.M is not None) == (wants_image, wants_kernel)
    with mg.no_grad():
        assert call(op)(a, w, G).node is None


# Training repeats -------------------------------------------------------------------------------------------


def trained(algorithm, threads):
    """All the bytes of a small DCGAN after three steps, made of pieces as a large one would be."""
    mg.manual_seed(0)
    before = mg.get_num_threads()
    mg.set_num_threads(threads)
    generator = nn.Sequential(
        nn.ConvTranspose2d(8, 32, 4), nn.BatchNorm2d(32), nn.ReLU(), nn.ConvTranspose2d(32, 16, 4, 2, 1),
        nn.BatchNorm2d(16), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip
    critic = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 4, 2, 1), nn.BatchNorm2d(32),
        nn.LeakyReLU(0.2), nn.Conv2d(32, 32, 3, 1, 1), nn.LeakyReLU(0.2), nn.Conv2d(32, 1, 4),
    )  # fmt: skip
    optimizers = [mg.optim.Adam(net.parameters(), 2e-3, (0.5, 0.999)) for net in (generator, critic)]
    real = mg.randn(12, 3, 16, 16)
    with pytest.MonkeyPatch.context() as patch, conv_algorithm(algorithm):
        patch.setattr(winograd, "SLICE_BYTES", 20_000)
        patch.setattr(winograd, "BLOCK_BYTES", 100_000)
        patch.setattr(winograd, "FILTER_BYTES", 20_000)
        patch.setattr(im2col, "SCRATCH_BYTES", 50_000)
        for _ in range(3):
            fake = generator(mg.randn(12, 8, 1, 1))
            optimizers[1].zero_grad()
            (nn.functional.softplus(-critic(real)) + nn.functional.softplus(critic(fake.detach()))).mean().backward()
            optimizers[1].step()
            optimizers[0].zero_grad()
            nn.functional.softplus(-critic(fake)).mean().backward()
            optimizers[0].step()
    mg.set_num_threads(before)
    values = [*generator.state_dict().values(), *critic.state_dict().values()]
    assert all(bool(value.isfinite().all()) for value in values)
    return b"".join(value.cpu().numpy().tobytes() for value in values)


@pytest.mark.parametrize("algorithm", ["gemm", "winograd"])
def test_training_gives_the_same_bytes_with_any_number_of_threads(algorithm):
    first = trained(algorithm, 1)
    assert first == trained(algorithm, 1)
    assert first == trained(algorithm, 2) == trained(algorithm, 3)


def test_training_gives_the_same_bytes_in_fresh_processes():
    """Whatever the threads of BLAS."""
    script = "import hashlib, test_ops_conv as t; print(hashlib.sha256(t.trained('winograd', None)).hexdigest())"
    script = script.replace("None", "t.mg.get_num_threads()")
    printed = set()
    for threads, blas in ((1, 1), (1, 2), (2, 1), (2, 2)):
        counts = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(blas)}
        ended = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120,
            cwd=Path(__file__).parent, env={**os.environ, **counts},
        )  # fmt: skip
        assert (ended.returncode, ended.stderr) == (0, "")
        printed.add(ended.stdout)
    assert len(printed) == 1

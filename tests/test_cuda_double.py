"""CUDA kernels in float64, to its precision: gradients are checked by them. And float16, by way of float32."""

import re
from collections import Counter
from types import SimpleNamespace

import cuda_exercises
import numpy as np
import pytest

import minigan as mg
import minigan.nn.functional as F
from minigan.kernels import cpu
from minigan.kernels.cuda import conv, gemm, image, loss
from minigan.kernels.cuda.compile import files
from minigan.kernels.cuda.double import Doubled, doubled, has_twin, real
from minigan.kernels.cuda.kernels import FUNCTIONS, Kernels
from minigan.kernels.cuda.source import kernels_in, read
from minigan.kernels.emulator import EmulatedDevice
from minigan.kernels.geometry import ConvGeometry
from minigan.testing import check_grads, check_vjp_fast, emulated

pytestmark = pytest.mark.kernels

DEVICE = Doubled(EmulatedDevice())


def numbers(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


def close(found, expected, tolerance=1e-13):
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("name", [name for name in files() if has_twin(name)])
def test_nothing_of_float_is_left(name):
    code = re.sub(r"//[^\n]*", "", doubled(read(name)))
    assert not re.search(r"\bfloat[24]?\b|\b\d+\.\d*f\b|\b(?:__)?[a-z]+\d*[a-z]*f\(|__f(?!orce)", code)
    assert {*kernels_in(code)} == {*kernels_in(read(name))}


def test_what_has_no_twin_is_refused():
    with pytest.raises(ValueError, match="kernels in float64: got the file 'random', which has none"):
        DEVICE.launch("random", "random_advance", (1,), (1,), [])
    with pytest.raises(TypeError, match="normalize: got an array of float32, expected float64"):
        FUNCTIONS["normalize"](DEVICE, np.ones((2, 2), np.float32), None, None, (0,), 0.0)
    assert (real(DEVICE), real(DEVICE.device)) == (np.float64, np.float32)


@pytest.mark.parametrize("name", ["conv", "conv_transpose", "conv_weight", "gemm", "norm", "reduce"])
def test_every_rung(name, monkeypatch):
    """What `cuda_mutation` runs in float32, to more digits than that has, and without races."""
    monkeypatch.setattr(cuda_exercises, "numbers", numbers)
    monkeypatch.setattr(cuda_exercises, "close", lambda found, expected, tolerance=0: close(found, expected))
    cuda_exercises.EXERCISES[name](Doubled(EmulatedDevice(order="shuffled", watch="races")))


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_any_precision_is_the_highest(precision):
    g = ConvGeometry.conv((6, 6), (3, 3))
    a, x, w = numbers(40, 64), numbers(2, 32, 6, 6), numbers(8, 32, 3, 3)
    close(gemm.matmul(DEVICE, a, a.T, precision=precision), a @ a.T)
    close(conv.conv(DEVICE, x, w, g, precision=precision), cpu.conv(x, w, g))


@pytest.mark.parametrize("rung", [None, "naive"])
def test_losses(rung):
    x, t = numbers(700), np.random.default_rng(1).uniform(size=700)
    close(loss.bce_with_logits(DEVICE, x, t, "mean", rung=rung), (np.logaddexp(0, x) - t * x).mean())
    gx, _ = loss.bce_with_logits_backward(DEVICE, np.array(3.0), x, t, "mean")
    close(gx, 3 * (1 / (1 + np.exp(-x)) - t) / 700)
    scores, classes = numbers(7, 300), np.arange(7) * 40
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    close(loss.softmax(DEVICE, scores, rung=rung), np.exp(logs))
    y = loss.log_softmax(DEVICE, scores, rung=rung)
    close(y, logs)
    close(loss.log_softmax_backward(DEVICE, scores, y), scores - np.exp(logs) * scores.sum(1, keepdims=True))
    found, saved = loss.cross_entropy(DEVICE, scores, classes, "mean")
    close(found, -logs[np.arange(7), classes].mean())
    gx = loss.cross_entropy_backward(DEVICE, np.array(1.0), scores, classes, saved, "mean")
    close(gx, (np.exp(logs) - (np.arange(300) == classes[:, None])) / 7)


@pytest.mark.parametrize("channels", [3, 8])  # one value, and four, for a thread
def test_images(channels):
    x, gy = 1 + 1e-12 * numbers(2, 6, 8, channels), numbers(2, 3, 4, channels)
    pooling, windows = image.Pooling((6, 8), (3, 4), (2, 2), (2, 2)), x.reshape(2, 3, 2, 4, 2, channels)
    y, places = image.max_pool(DEVICE, x, pooling)
    np.testing.assert_array_equal(y, windows.max((2, 4)))
    close(np.vdot(image.max_pool_backward(DEVICE, gy, places, pooling), x), np.vdot(gy, y))
    close(image.average_pool(DEVICE, x, pooling), windows.mean((2, 4)), 1e-15)
    gx = image.average_pool_backward(DEVICE, gy, pooling)
    close(gx, np.repeat(np.repeat(gy, 2, 1), 2, 2) / 4)
    finer = image.upsample(DEVICE, gy, (6, 8), (0.5, 0.5), "linear")
    mixed = np.einsum("or,nrcf,c->nof", [[0.75, 0.25], [0.25, 0.75]], gy[:, :2, :2], [0.25, 0.75])
    close(finer[:, 1:3, 2], mixed, 1e-15)
    close(np.vdot(image.upsample_backward(DEVICE, x, (3, 4), (0.5, 0.5), "linear"), gy), np.vdot(x, finer))


# The names that backends call ------------------------------------------------------------------------------------


def calls(dtype):
    """For each name: arguments, and those of them that are written into."""
    G = ConvGeometry.conv((5, 6), (3, 2), stride=2, padding=1)
    made = iter(range(10**6))

    def new(*shape):
        return (1 + 0.1 * next(made) + 0.5 * np.abs(numbers(*shape))).astype(dtype)

    x, w, y = new(2, 3, 5, 6), new(4, 3, 3, 2), new(2, 4, *G.output)
    centred, b = new(2, 3, 5, 6), new(1, 3, 1, 1)
    _, _, _, r = cpu.normalize(centred, b, b, (0, 2, 3), 1e-5, 0.2)
    m = centred.mean((0, 2, 3), keepdims=True).astype(dtype)
    shapes = [centred.shape, b.shape, b.shape]

    def weights():
        return [new(3, 2), new(4)], [new(3, 2), new(4)], 0.1, 0.9, True

    return {
        "adagrad_step": (weights(), new(10), 0.1, 1e-3),
        "adam_step": (weights(), new(10), new(10), new(10), 3, 0.1, 0.9, 0.99, 1e-3),
        "add_bias": (new(2, 3, 4), new(3), 0.2),
        "add_bias_backward": (new(2, 3, 4), new(2, 3, 4) - dtype(2), 0.2, True),
        "add_rows": (new(5, 2), np.array([1, 0, 1, -1, 1]), 3),
        "bce_with_logits": (new(3, 4) - dtype(2), new(3, 4) / dtype(9), "mean"),
        "bce_with_logits_backward": (new(1).reshape(()), new(3, 4), new(3, 4) / dtype(9), "mean", (True, True)),
        "conv": (x, w, G),
        "conv_transpose": (y, w, G),
        "conv_weight_grad": (x, y, G),
        "erf": (new(5),),
        "leaky_relu": (new(5) - dtype(2), 0.2),
        "leaky_relu_backward": (new(5), new(5) - dtype(2), 0.2),
        "matmul": (new(2, 3, 4), new(4, 5), new(2, 3, 5)),
        "matmuls": ([(new(3, 4), new(4, 5)), (new(5, 2).T, new(5, 1))], [new(3, 5), None]),
        "normalize": (centred, b, b, (0, 2, 3), 1e-5, 0.2),
        "normalize_backward": (new(2, 3, 5, 6), centred, b, b, m, r, (0, 2, 3), 0.2, (True,) * 3, shapes),
        "rmsprop_step": (weights(), new(10), new(10) / dtype(9), new(10), 0.1, 0.9, 1e-3, 0.5),
        "scale_shift": (new(2, 3, 4), new(3), new(3), 0.2),
        "sgd_step": (weights(), new(10), 0.1, 0.9, 0.0, True),
        "take_rows": (new(3, 2), np.array([1, -1, 1, 0])),
        "update_running": (new(3), new(3), new(3, 1), new(3, 1), 0.1, 5),
    }


def arrays(given):
    if isinstance(given, (tuple, list)):
        return [array for value in given for array in arrays(value)]
    return [given] if isinstance(given, (np.ndarray, np.generic)) else []


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float16, 1e-2)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_dtypes_are_those_of_the_cpu(name, dtype, tolerance):
    """Of results, and of what is in the arguments afterwards."""
    given, same = calls(dtype)[name], calls(dtype)[name]
    found = getattr(Kernels(EmulatedDevice(), None), name)(*given)
    expected = getattr(cpu, name)(*same)
    assert len(arrays([found, given])) == len(arrays([expected, same]))
    for one, other in zip(arrays([found, given]), arrays([expected, same]), strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())
    if name == "add_bias":
        assert found is given[0]


def test_other_dtypes_are_left_or_refused():
    whole = np.ones((2, 2), np.int64)
    assert Kernels(EmulatedDevice(), cpu).matmul(whole, whole).dtype == np.int64
    with pytest.raises(
        NotImplementedError, match=r"matmul on a GPU: got arrays of \['float64', 'int64'\], expected one"
    ):
        Kernels(EmulatedDevice(), None).matmul(whole, whole.astype(np.float64))


# Gradients -------------------------------------------------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch):
    """The kernels that were launched, with the dtypes of their arrays, and what NumPy computed."""
    launched, left = Counter(), Counter()
    launch, by_kernel = EmulatedDevice.launch, emulated._by_kernel

    def counted(self, file, kernel, grid, block, arguments, *rest):
        launched[kernel, frozenset(str(a.dtype) for a in arguments if isinstance(a, np.ndarray))] += 1
        return launch(self, file, kernel, grid, block, arguments, *rest)

    def noted(name, *args):
        found = by_kernel(name, *args)
        left[name] += found is None
        return found

    monkeypatch.setattr(EmulatedDevice, "launch", counted)
    monkeypatch.setattr(emulated, "_by_kernel", noted)
    kernels = Kernels(emulated.DEVICE, SimpleNamespace(Kept=cpu.Kept))  # whatever else NumPy has is not there
    monkeypatch.setattr(emulated.EmulatedBackend, "kernels", emulated._Module(kernels, plain=True))
    return launched, left


def test_gradients_are_checked_on_cuda_kernels_in_float64(seen):
    def block(x, w, scale, shift):
        return mg.tanh(F.batch_norm(F.conv2d(x, w, stride=2, padding=1), None, None, scale, shift, training=True))

    shapes = ((2, 3, 6, 6), (4, 3, 4, 4), (4,), (4,))
    given = [mg.tensor(numbers(*shape), device="cuda-emulated", dtype=mg.float64) for shape in shapes]
    check_grads(block, given)
    check_vjp_fast(block, given)
    launched, left = seen
    assert not any("float32" in dtypes for _, dtypes in launched)
    for kind in ("conv_forward", "conv_transpose", "conv_weight", "norm_statistics", "norm_backward", "tanh", "reduce"):
        count = sum(n for (kernel, _), n in launched.items() if kernel.startswith(kind))
        assert count >= 2, kind
    assert not +left


def test_reductions_and_ufuncs_in_float64(seen):
    x = mg.tensor(1 + 1e-12 * numbers(4, 300), device="cuda-emulated", dtype=mg.float64)
    right = np.asarray(x.cpu().numpy())
    assert x.max().item() == right.max()
    assert x.sum().item() == pytest.approx(right.sum(), rel=1e-15)
    assert (x - 1).exp().mean().item() == pytest.approx(np.exp(right - 1).mean(), rel=1e-15)
    assert not +seen[1]

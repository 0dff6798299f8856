"""Whole training steps on the CUDA kernels, by the emulator: the same as on the CPU, and nothing left to NumPy."""

from collections import Counter

import numpy as np
import pytest

import minigan as mg
from bench.steps import Training, Wasserstein, dcgan
from minigan.kernels.emulator import EmulatedDevice
from minigan.observe import Observer
from minigan.testing import emulated

pytestmark = pytest.mark.kernels


def train(device, kind, steps, norm="BatchNorm2d"):
    """Losses and parameters after some steps of a DCGAN for 32 × 32, of small widths, with the same numbers."""
    mg.set_default_device(device)
    random = np.random.default_rng(0)

    def normal(*shape):
        return mg.tensor(random.normal(size=shape).astype(np.float32))

    networks = dcgan(mg.nn, (8, 12, 8), norm=norm)
    with mg.no_grad():
        for network in networks:
            for p in network.parameters():
                p.copy_(0.1 * normal(*p.shape) + (p.ndim == 1))
    training = kind(mg, networks, (3, 32, 32), (100, 1, 1), 4, False, False)
    training.real = normal(4, 3, 32, 32)
    training.randn = normal
    training.rand = lambda *shape: mg.tensor(random.uniform(size=shape).astype(np.float32))
    losses = [training() for _ in range(steps)]
    parameters = [p.detach().cpu().numpy() for network in networks for p in network.parameters()]
    return np.array(losses), parameters


def alike(kind, steps, **options):
    (found, parameters), (expected, right) = (
        train(device, kind, steps, **options) for device in ("cuda-emulated", "cpu")
    )
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    for p, q in zip(parameters, right, strict=True):
        np.testing.assert_allclose(p, q, atol=1e-4)


@pytest.fixture
def seen(monkeypatch):
    """The kernels that were launched, and the ufuncs that NumPy computed."""
    launched, left = Counter(), Counter()
    launch, by_kernel = EmulatedDevice.launch, emulated._by_kernel

    def counted(self, file, kernel, *args, **kwargs):
        launched[kernel] += 1
        return launch(self, file, kernel, *args, **kwargs)

    def noted(name, *args):
        found = by_kernel(name, *args)
        left[name] += found is None
        return found

    monkeypatch.setattr(EmulatedDevice, "launch", counted)
    monkeypatch.setattr(emulated, "_by_kernel", noted)
    return launched, left


def test_five_steps_of_a_dcgan(seen):
    alike(Training, 5)
    launched, left = seen
    for kernel in ("conv_forward_blocked", "conv_transpose_blocked", "conv_weight_blocked", "norm_apply", "adam_step"):
        assert launched[kernel] >= 10, kernel
    assert not +left


def test_two_steps_of_wgan_gp(seen):
    """Second derivatives, and a norm over each image."""
    alike(Wasserstein, 2, norm="InstanceNorm2d")
    assert seen[0]["conv_forward_blocked"] >= 10


def test_a_step_launches_little_beside_convolutions(seen):
    """Two kernels for a norm each way, one for its running statistics, one for a loss each way."""
    mg.set_default_device("cuda-emulated")
    training = Training(mg, dcgan(mg.nn, (8, 12, 8)), (3, 32, 32), (100, 1, 1), 4, False, False)
    launched, left = seen
    launched.clear()
    training()
    norms = 3 + 3 * 2  # G's, and D's of three batches
    assert [launched[name] for name in ("norm_statistics", "norm_apply", "norm_update_running")] == [norms] * 3
    assert [launched[name] for name in ("norm_backward_sums", "norm_backward_apply")] == [norms] * 2
    assert (launched["bce_forward_sums"], launched["bce_backward"]) == (3, 3)
    assert not [name for name in launched if name.startswith("reduce_")]
    few = {"add_contiguous": 9, "multiply_contiguous": 2, "square_contiguous": 1, "tanh_contiguous": 1}
    assert {name: n for name, n in launched.items() if name.endswith(("_contiguous", "_strided"))} == few
    assert not +left


class Assigned(Observer):
    def __init__(self):
        self.seen = []

    def assigned(self, target, value):
        self.seen.append((target, value.tolist()))


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("dtype", [mg.float16, mg.float32, mg.float64])
def test_running_statistics(seen, dtype, momentum):
    """The same on both devices, and as an observer sees them, and so are versions."""
    x = mg.randn(3, 4, 2, 2).to(dtype)

    def trained(device, watch):
        layer = mg.nn.BatchNorm2d(4, momentum=momentum, device=device, dtype=dtype)
        observer = Assigned()
        for batch in (x, 2 * x + 1):
            if watch:
                with observer:
                    layer(batch.to(device))
            else:
                layer(batch.to(device))
        buffers = [buffer.cpu().double().numpy() for buffer in layer.buffers()]
        if watch:
            assert [target for target, _ in observer.seen] == [layer.running_mean, layer.running_var] * 2
            assert observer.seen[-1][1] == layer.running_var.tolist()
        return buffers, [buffer._version for buffer in layer.buffers()]

    (right, versions), *others = (
        trained(*way) for way in (("cpu", 0), ("cpu", 1), ("cuda-emulated", 0), ("cuda-emulated", 1))
    )
    assert right[2] == 2
    for found, counted in others:
        assert counted == versions
        for one, other in zip(found, right, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-3 if dtype == mg.float16 else 1e-5)
    assert seen[0]["norm_update_running"] == 2


def test_running_statistics_that_lie_elsewhere(seen):
    """Views with gaps are written, too; what shares memory among its values is refused."""
    x = mg.randn(5, 4, device="cuda-emulated")
    right = mg.zeros(2, 4, device="cuda-emulated")
    gaps = mg.zeros(4, 2, device="cuda-emulated")
    mg.nn.functional.batch_norm(x, right[0], right[1], training=True)
    mg.nn.functional.batch_norm(x, gaps[:, 0], gaps[:, 1], training=True)
    np.testing.assert_allclose(gaps.cpu().numpy().T, right.cpu().numpy(), rtol=1e-6)
    assert seen[0]["norm_update_running"] == 1
    with pytest.raises(RuntimeError, match="expanded"):
        mg.nn.functional.batch_norm(x, mg.zeros(1, device="cuda-emulated").expand(4), right[1], training=True)

"""Whole training steps on the CUDA kernels, by the emulator: the same as on the CPU, and nothing left to NumPy."""

from collections import Counter

import numpy as np
import pytest

import minigan as mg
from bench.steps import Training, Wasserstein, dcgan
from minigan.kernels.emulator import EmulatedDevice
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

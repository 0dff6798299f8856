"""What holds for every test: the hypothesis profile, the device, and settings back at their defaults."""

import os
import shutil
import signal
import threading

import hypothesis
import pytest

import minigan as mg
import minigan.testing.emulated
import minigan.testing.strict  # both make their device known

common = {"deadline": None, "print_blob": True, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("dev", max_examples=8, **common)
hypothesis.settings.register_profile("ci", max_examples=25, **common)
hypothesis.settings.register_profile("thorough", max_examples=500, **common)
hypothesis.settings.load_profile(os.environ.get("MINIGAN_HYPOTHESIS", "ci"))

GXX = shutil.which(os.environ.get("CXX", "g++"))
NO_COMPILER = "the emulator needs g++, and there is none"


def pytest_addoption(parser):
    parser.addoption(
        "--device",
        default=os.environ.get("MINIGAN_TEST_DEVICE", "cpu"),
        help="default device of all tests: cpu, strict, cuda-emulated or cuda (or set MINIGAN_TEST_DEVICE)",
    )


def pytest_configure(config):
    # A shell starts what runs in the background with interrupts ignored, which the processes of tests would inherit.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "kernels: runs or compiles CUDA kernels, whatever the device of tensors")
    mg.set_default_device(config.getoption("--device"))


def pytest_collection_modifyitems(config, items):
    if config.getoption("--device") != "cpu":
        why = "of CUDA kernels on NumPy's memory: the device of tensors plays no part, and it runs with --device cpu"
    elif GXX is None:
        why = NO_COMPILER
    else:
        return
    for item in items:
        if item.get_closest_marker("kernels"):
            item.add_marker(pytest.mark.skip(reason=why))


def pytest_report_header(config):
    return f"minigan: device {mg.get_default_device()}"


@pytest.fixture(autouse=True)
def fresh(request):
    """The same random numbers, dtype, device and mode for every test."""
    device = request.config.getoption("--device")
    mg.manual_seed(0)
    yield
    mg.set_default_dtype(mg.float32)
    mg.set_default_device(device)
    mg.set_grad_enabled(True)


@pytest.fixture(
    params=[
        pytest.param("cuda-emulated", marks=pytest.mark.skipif(GXX is None, reason=NO_COMPILER)),
        pytest.param("cuda", marks=pytest.mark.skipif(not mg.cuda.is_available(), reason="there is no GPU")),
    ]
)  # fmt: skip
def device(request):
    """One whose steps can be captured."""
    mg.manual_seed(0)
    return request.param

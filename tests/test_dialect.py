"""The names around the tensor that scripts written for PyTorch use: devices, threads, memory formats, switches."""

import importlib
import subprocess
import sys

import pytest

import minigan as mg


def fresh(code):
    """What a new interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


# Imports -----------------------------------------------------------------------------------------------------


def test_import_statements_of_public_scripts():
    code = """
import minigan as torch
import minigan.nn as nn
import minigan.nn.functional as F
import minigan.optim as optim
import minigan.backends.cudnn as cudnn
import minigan.utils.data
import minigan.autograd as autograd
from minigan.autograd import Variable, grad
from minigan.optim import lr_scheduler
from minigan.optim.lr_scheduler import StepLR
from minigan.utils import data
from minigan.utils.data import Dataset, DataLoader, TensorDataset
from minigan.nn import init, Parameter
from minigan.nn.utils import clip_grad_norm_
cudnn.benchmark = True
assert torch.backends.cudnn.benchmark
print(torch.optim.Adam is optim.Adam, torch.utils.data.DataLoader is DataLoader is torch.data.DataLoader)
"""
    assert fresh(code) == "True True"


@pytest.mark.parametrize("name", ["torch", "cupy", "onnx", "onnxruntime", "matplotlib", "hypothesis", "threadpoolctl"])
def test_import_leaves_out(name):
    assert fresh(f"import sys, minigan; print({name!r} in sys.modules)") == "False"


# Devices -----------------------------------------------------------------------------------------------------


def test_cuda_without_cupy():
    code = """
import sys
sys.modules["cupy"] = None  # as if it were not installed: importing it fails
sys.meta_path.insert(0, type("Hide", (), {"find_spec": staticmethod(lambda name, *_: None)}))
import importlib.util, minigan as mg
del sys.modules["cupy"]
real = importlib.util.find_spec
mg.cuda.find_spec = lambda name: None if name == "cupy" else real(name)
print(mg.cuda.is_available(), mg.cuda.device_count(), "cupy" in sys.modules)
mg.manual_seed(1)
before = mg.get_rng_state().tolist()
mg.cuda.manual_seed(2), mg.cuda.manual_seed_all(2), mg.cuda.empty_cache()
print(before == mg.get_rng_state().tolist())
"""
    assert fresh(code).splitlines() == ["False 0 False", "True"]


@pytest.mark.skipif(mg.cuda.is_available(), reason="says what is missing where there is no GPU")
def test_cuda_says_what_is_missing():
    assert mg.cuda.device_count() == 0
    makers = [lambda: mg.cuda.FloatTensor(2), lambda: mg.ones(2).cuda()]
    for call in (mg.cuda.synchronize, mg.cuda.current_device, *makers):
        with pytest.raises(RuntimeError, match="'cuda'"):
            call()


@pytest.mark.skipif(not mg.cuda.is_available(), reason="needs a GPU")
def test_cuda_on_a_gpu():
    assert mg.cuda.device_count() >= 1
    assert mg.cuda.current_device() == 0
    mg.cuda.manual_seed_all(3)
    first = mg.rand(2).tolist()
    mg.manual_seed(3)
    assert mg.rand(2).tolist() == first
    mg.cuda.synchronize()
    mg.cuda.synchronize(0)
    mg.cuda.empty_cache()
    assert mg.cuda.FloatTensor(2).is_cuda


def test_cuda_types_are_named_as_in_pytorch():
    for name in ("HalfTensor", "FloatTensor", "DoubleTensor", "LongTensor", "ByteTensor"):
        assert getattr(mg.cuda, name).dtype == getattr(mg, name).dtype


# Threads -----------------------------------------------------------------------------------------------------


def test_threads():
    code = """
import minigan as mg
before = mg.get_num_threads()
mg.set_num_threads(1)
print(before >= 1, mg.get_num_threads())
mg.ones(300, 300) @ mg.ones(300, 300)
mg.set_num_threads(2)
print(mg.get_num_threads())
"""
    assert fresh(code).split() == ["True", "1", "2"]


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_thread_errors(threads):
    with pytest.raises(RuntimeError, match="positive integer"):
        mg.set_num_threads(threads)


# Memory formats ----------------------------------------------------------------------------------------------


def test_memory_formats():
    assert [str(f) for f in (mg.channels_last, mg.contiguous_format, mg.preserve_format)] == [
        "channels_last", "contiguous_format", "preserve_format",
    ]  # fmt: skip
    assert isinstance(mg.channels_last, mg.memory_format)
    x = mg.randn(2, 3, 4, 5)
    for y in (x.contiguous(memory_format=mg.channels_last), x.to(memory_format=mg.channels_last)):
        assert y.tolist() == x.tolist()
    assert x.clone(memory_format=mg.preserve_format).tolist() == x.tolist()
    assert x.contiguous(memory_format=mg.contiguous_format).is_contiguous()
    assert x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).is_contiguous(memory_format=mg.channels_last)
    assert not x.is_contiguous(memory_format=mg.channels_last)


# Switches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["benchmark", "deterministic", "enabled"])
def test_cudnn_switches_are_accepted(name, monkeypatch):
    assert mg.backends.cudnn is importlib.import_module("minigan.backends.cudnn")
    monkeypatch.setattr(mg.backends.cudnn, name, True)
    assert getattr(mg.backends.cudnn, name) is True

"""The names around the tensor that scripts written for PyTorch use: devices, threads, memory formats, switches."""

import importlib
import math
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
    assert mg.cuda.device_count() == 1
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


# Names ---------------------------------------------------------------------------------------------------------


def test_names_of_values_and_types():
    x = mg.ones(2, 3)
    assert mg.is_tensor(x)
    assert not mg.is_tensor([1.0])
    assert mg.numel(x) == 6
    assert isinstance(x.shape, mg.Size)
    assert x.size() == mg.Size([2, 3])
    assert 1 + mg.finfo(x.dtype).eps / 2 == 1 < 1 + mg.finfo(mg.float32).eps < 1 + 1e-6
    assert mg.iinfo(mg.uint8).max == 255
    assert mg.isinf(mg.tensor([mg.inf, mg.nan, mg.pi])).tolist() == [True, False, False]
    assert mg.isclose(x, x + 1e-6).all()
    assert mg.isclose(x, x + mg.tensor([0.0, 1.0, mg.nan])).tolist() == [[True, False, False]] * 2
    assert mg.concat([x, x]).shape == (4, 3)
    assert mg.clip(x, max=0.5).tolist() == x.clamp_max_(0.5).tolist()


@pytest.fixture
def defaults():
    yield
    mg.set_default_dtype(mg.float32)


@pytest.mark.parametrize("kind", ["torch.DoubleTensor", mg.DoubleTensor])
def test_default_tensor_type(kind, defaults):
    mg.set_default_tensor_type(kind)
    assert mg.zeros(2).dtype == mg.Tensor(2).dtype == mg.nn.Linear(1, 1).weight.dtype == mg.float64


def test_switches_for_repeatable_and_checked_runs():
    mg.use_deterministic_algorithms(True, warn_only=True)
    assert mg.backends.mps.is_available() is False
    with mg.autograd.set_detect_anomaly(True), pytest.raises(RuntimeError, match="Sqrt"):
        mg.sqrt(mg.zeros(1, requires_grad=True)).backward()
    mg.autograd.set_detect_anomaly(True)
    try:
        with pytest.raises(RuntimeError, match="Sqrt"):
            mg.sqrt(mg.zeros(1, requires_grad=True)).backward()
    finally:
        mg.autograd.set_detect_anomaly(False)
    mg.sqrt(mg.zeros(1, requires_grad=True)).backward()


# Older idioms --------------------------------------------------------------------------------------------------


def test_buffers_that_are_resized_to_each_batch():
    batch, label = mg.FloatTensor(8, 1, 2, 2), mg.FloatTensor(8)
    for size in (8, 8, 3, 5):
        real = mg.rand(size, 1, 2, 2)
        batch.resize_as_(real).copy_(real)
        label.resize_(size).fill_(1)
        assert batch.tolist() == real.tolist()
        assert label.tolist() == [1.0] * size
    x = mg.arange(6).resize_(2, 2)
    assert x.tolist() == [[0, 1], [2, 3]]
    assert x.resize_((5,)).tolist() == [0, 1, 2, 3, 0]


def test_resizing_leaves_the_graph_what_it_needs():
    w, x = mg.ones(2, requires_grad=True), mg.tensor([2.0, 3.0])
    y = (w * x).sum()
    x.resize_(4).fill_(9)
    y.backward()
    assert w.grad.tolist() == [2, 3]
    with pytest.raises(RuntimeError, match="resize_"):
        w.resize_(3)
    with pytest.raises(RuntimeError, match="resize_"):
        x[:2].resize_(3)


def test_new():
    x = mg.ones(2, dtype=mg.float64)
    assert x.new(2, 3).shape == (2, 3)
    assert x.new([1, 2]).dtype == mg.float64
    assert x.new(x.size()).normal_(0, 1).shape == (2,)


def test_moving_averages_and_steps_in_the_old_order():
    p = mg.nn.Parameter(mg.ones(2))
    p.data.mul_(0.5).add_(0.5, mg.full((2,), 3.0))
    assert p.tolist() == [2, 2]
    p.data.add_(-0.5, mg.ones(2)).addcmul_(2, mg.ones(2), mg.ones(2)).addcdiv_(mg.ones(2), mg.full((2,), 4.0), value=-1)
    assert p.tolist() == [3.25, 3.25]


def test_the_value_of_a_loss_in_the_oldest_way_says_what_to_write():
    with pytest.raises(IndexError, match=r"\.item\(\)"):
        mg.ones(3).sum().data[0]


# Modules -------------------------------------------------------------------------------------------------------


def test_data_parallel_on_one_device():
    net = mg.nn.Linear(2, 1)
    wrapped = mg.nn.DataParallel(net, device_ids=[0])
    x = mg.ones(3, 2)
    assert wrapped(x).tolist() == mg.nn.parallel.data_parallel(net, x, None).tolist() == net(x).tolist()
    assert mg.nn.parallel.data_parallel(net, (x,), range(1)).tolist() == net(x).tolist()
    assert list(wrapped.state_dict()) == ["module.weight", "module.bias"]
    assert wrapped.module is net
    for call in (lambda ids: mg.nn.DataParallel(net, ids), lambda ids: mg.nn.parallel.data_parallel(net, x, ids)):
        with pytest.raises(RuntimeError, match=r"one device, got device_ids \[0, 1\]"):
            call([0, 1])


def test_gumbel_softmax():
    mg.manual_seed(0)
    logits = mg.tensor([0.0, math.log(3.0)], requires_grad=True)
    samples = mg.nn.functional.gumbel_softmax(logits.expand(4000, 2), tau=0.5, hard=True)
    assert set(samples.flatten().tolist()) == {0.0, 1.0}
    assert abs(samples[:, 1].mean().item() - 0.75) < 0.03
    samples[:, 1].sum().backward()
    assert logits.grad[1] > 0
    soft = mg.nn.functional.gumbel_softmax(mg.randn(3, 5), dim=0)
    assert mg.isclose(soft.sum(0), mg.ones(5)).all()


# A script --------------------------------------------------------------------------------------------------------


def test_a_wgan_gp_script_of_the_older_kind():
    """The idioms of many, in one: legacy constructors, mone, gradients frozen by turns, weights by class name."""
    code = """
import numpy as np
import minigan as torch
import minigan.nn as nn
import minigan.nn.parallel
import minigan.autograd as autograd
import minigan.optim as optim
from minigan.autograd import Variable

cuda = False
Tensor = torch.cuda.FloatTensor if cuda else torch.FloatTensor

def weights_init(m):
    classname = m.__class__.__name__
    if classname.find("Linear") != -1:
        m.weight.data.normal_(0.0, 0.02)
        m.bias.data.fill_(0)

netG = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, 0.8), nn.ReLU(True), nn.Linear(8, 2))
netD = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2, inplace=True), nn.Linear(8, 1))
netG.apply(weights_init), netD.apply(weights_init)
optimizerD = optim.Adam(filter(lambda p: p.requires_grad, netD.parameters()), 1e-4, [0.5, 0.9])
optimizerG = optim.RMSprop(netG.parameters(), lr=5e-5)
one = torch.tensor(1, dtype=torch.float)
mone = one * -1
for iteration in range(2):
    for p in netD.parameters():
        p.requires_grad = True
    real = Variable(Tensor(np.random.normal(0, 1, (6, 2))))
    netD.zero_grad()
    D_real = netD(real).mean()
    D_real.backward(mone)
    noise = Tensor(6, 4).normal_(0, 1)
    fake = Variable(netG(Variable(noise, volatile=True)).data)
    D_fake = netD(fake).mean()
    D_fake.backward(one)
    alpha = torch.rand(6, 1).expand(real.size())
    between = Variable(alpha * real.data + (1 - alpha) * fake.data, requires_grad=True)
    out = netD(between)
    gradients = autograd.grad(outputs=out, inputs=between, grad_outputs=torch.ones(out.size()),
                              create_graph=True, retain_graph=True, only_inputs=True)[0]
    penalty = ((gradients.view(gradients.size(0), -1).norm(2, dim=1) - 1) ** 2).mean() * 10
    penalty.backward()
    optimizerD.step()
    for p in netD.parameters():
        p.requires_grad = False
    netG.zero_grad()
    G = netD(netG(Variable(noise))).mean()
    G.backward(mone)
    optimizerG.step()
    print("[%d] %f %f" % (iteration, (D_fake - D_real + penalty).data.cpu().numpy(), -G.item()))
"""
    assert [line[:3] for line in fresh(code).splitlines()] == ["[0]", "[1]"]

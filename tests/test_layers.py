"""The layers: their state, starting values and modes, and that each computes what its function does."""

import math

import numpy as np
import pytest
from values import close, host, normal, per_channel, t, z

import minigan as mg
import minigan.nn.functional as F
from minigan import nn

# layer, shape of its input, keys and shapes of its state, its repr
STATE = [
    (lambda: nn.Identity(3), (2,), {}, "Identity()"),
    (lambda: nn.Linear(3, 4), (2, 3), {"weight": (4, 3), "bias": (4,)},
     "Linear(in_features=3, out_features=4, bias=True)"),
    (lambda: nn.Linear(3, 4, bias=False), (3,), {"weight": (4, 3)},
     "Linear(in_features=3, out_features=4, bias=False)"),
    (lambda: nn.Maxout(3, 4, 5), (2, 3), {"weight": (20, 3), "bias": (20,)},
     "Maxout(in_features=3, out_features=4, bias=True, pieces=5)"),
    (lambda: nn.Conv1d(4, 6, 3, groups=2), (1, 4, 5), {"weight": (6, 2, 3), "bias": (6,)},
     "Conv1d(4, 6, kernel_size=(3,), stride=(1,), groups=2)"),
    (lambda: nn.Conv2d(3, 8, (4, 2), 2, 1, bias=False), (1, 3, 8, 8), {"weight": (8, 3, 4, 2)},
     "Conv2d(3, 8, kernel_size=(4, 2), stride=(2, 2), padding=(1, 1), bias=False)"),
    (lambda: nn.Conv3d(3, 8, 2, padding="same", dilation=2, padding_mode="circular"), (1, 3, 4, 4, 4),
     {"weight": (8, 3, 2, 2, 2), "bias": (8,)},
     "Conv3d(3, 8, kernel_size=(2, 2, 2), stride=(1, 1, 1), padding=same, dilation=(2, 2, 2), padding_mode=circular)"),
    (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), (1, 4, 5), {"weight": (4, 3, 3), "bias": (6,)},
     "ConvTranspose1d(4, 6, kernel_size=(3,), stride=(1,), groups=2)"),
    (lambda: nn.ConvTranspose2d(8, 3, 4, 2, 1, 1), (1, 8, 4, 4), {"weight": (8, 3, 4, 4), "bias": (3,)},
     "ConvTranspose2d(8, 3, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1), output_padding=(1, 1))"),
    (lambda: nn.ConvTranspose3d(2, 3, 2), (1, 2, 3, 3, 3), {"weight": (2, 3, 2, 2, 2), "bias": (3,)},
     "ConvTranspose3d(2, 3, kernel_size=(2, 2, 2), stride=(1, 1, 1))"),
    (lambda: nn.BatchNorm1d(3), (4, 3), {"weight": (3,), "bias": (3,), "running_mean": (3,), "running_var": (3,),
     "num_batches_tracked": ()},
     "BatchNorm1d(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)"),
    (lambda: nn.BatchNorm3d(3, affine=False, track_running_stats=False), (4, 3, 2, 2, 2), {},
     "BatchNorm3d(3, eps=1e-05, momentum=0.1, affine=False, bias=False, track_running_stats=False)"),
    (lambda: nn.InstanceNorm2d(3), (4, 3, 2, 2), {},
     "InstanceNorm2d(3, eps=1e-05, momentum=0.1, affine=False, bias=False, track_running_stats=False)"),
    (lambda: nn.LayerNorm((3, 2), bias=False), (4, 3, 2), {"weight": (3, 2)},
     "LayerNorm((3, 2), eps=1e-05, elementwise_affine=True, bias=False)"),
    (lambda: nn.GroupNorm(2, 4), (4, 4, 2), {"weight": (4,), "bias": (4,)},
     "GroupNorm(2, 4, eps=1e-05, affine=True, bias=True)"),
    (lambda: nn.PReLU(3), (4, 3), {"weight": (3,)}, "PReLU(num_parameters=3)"),
    (lambda: nn.ELU(0.5, inplace=True), (4, 3), {}, "ELU(alpha=0.5, inplace=True)"),
    (lambda: nn.ReLU(), (4, 3), {}, "ReLU()"),
    (lambda: nn.Hardtanh(-2, 2), (4, 3), {}, "Hardtanh(min_val=-2, max_val=2)"),
    (lambda: nn.GELU("tanh"), (4, 3), {}, "GELU(approximate='tanh')"),
    (lambda: nn.Softplus(), (4, 3), {}, "Softplus(beta=1.0, threshold=20.0)"),
    (lambda: nn.Softmax(1), (4, 3), {}, "Softmax(dim=1)"),
    (lambda: nn.Flatten(), (4, 3, 2), {}, "Flatten(start_dim=1, end_dim=-1)"),
    (lambda: nn.Unflatten(1, (3, 2)), (4, 6), {}, "Unflatten(dim=1, unflattened_size=(3, 2))"),
    (lambda: nn.MaxPool2d(2), (1, 4, 4), {},
     "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)"),
    (lambda: nn.AvgPool2d(3, 2, 1), (1, 4, 4), {}, "AvgPool2d(kernel_size=3, stride=2, padding=1)"),
    (lambda: nn.AdaptiveAvgPool2d(1), (1, 4, 4), {}, "AdaptiveAvgPool2d(output_size=1)"),
    (lambda: nn.Upsample(scale_factor=2), (1, 1, 4), {}, "Upsample(scale_factor=2.0, mode='nearest')"),
    (lambda: nn.UpsamplingBilinear2d(size=(7, 5)), (1, 1, 4, 4), {},
     "UpsamplingBilinear2d(size=(7, 5), mode='bilinear')"),
    (lambda: nn.PixelShuffle(2), (4, 2, 2), {}, "PixelShuffle(upscale_factor=2)"),
    (lambda: nn.ReflectionPad2d(1), (1, 4, 4), {}, "ReflectionPad2d((1, 1, 1, 1))"),
    (lambda: nn.ConstantPad2d(1, 2.5), (1, 4, 4), {}, "ConstantPad2d(padding=(1, 1, 1, 1), value=2.5)"),
    (lambda: nn.Dropout2d(0.2), (4, 3), {}, "Dropout2d(p=0.2, inplace=False)"),
    (lambda: nn.LSTMCell(3, 4), (2, 3),
     {"weight_ih": (16, 3), "weight_hh": (16, 4), "bias_ih": (16,), "bias_hh": (16,)},
     "LSTMCell(3, 4)"),
    (lambda: nn.GRUCell(3, 4, bias=False), (2, 3), {"weight_ih": (12, 3), "weight_hh": (12, 4)},
     "GRUCell(3, 4, bias=False)"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "shape", "state", "text"), STATE, ids=[text for *_, text in STATE])
def test_state_and_repr(make, shape, state, text):
    layer = make()
    assert {key: tuple(value.shape) for key, value in layer.state_dict().items()} == state
    assert repr(layer) == text
    assert all(p.dtype == mg.float32 and p.requires_grad for p in layer.parameters())
    layer.double()
    x = t(normal(*shape), requires_grad=True)
    outputs = layer(x * 1)
    for y in outputs if isinstance(outputs, tuple) else (outputs,):
        assert y.dtype == mg.float64
        assert y.requires_grad


# Starting values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "bound"),
    [
        (lambda: nn.Linear(40, 50), 40**-0.5),
        (lambda: nn.Conv2d(16, 32, 3, groups=2), (8 * 9) ** -0.5),
        (lambda: nn.ConvTranspose2d(16, 32, 4, groups=2), (16 * 16) ** -0.5),  # from axis 1, as PyTorch has it
        (lambda: nn.Conv1d(16, 32, 3), (16 * 3) ** -0.5),
        (lambda: nn.Bilinear(20, 10, 20), 20**-0.5),
        (lambda: nn.LSTMCell(20, 30), 30**-0.5),
        (lambda: nn.GRUCell(20, 30), 30**-0.5),
    ],
)
def test_uniform_starts(layer, bound):
    for parameter in layer().parameters():
        values = host(parameter).ravel()
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.8 * bound
        assert abs(values.std() / (bound / math.sqrt(3)) - 1) < 0.4
        assert len(np.unique(values)) > values.size // 2


def test_other_starts():
    for layer in (nn.BatchNorm2d(3), nn.InstanceNorm1d(3, affine=True), nn.GroupNorm(1, 3), nn.LayerNorm(3)):
        assert layer.weight.tolist() == [1.0] * 3
        assert layer.bias.tolist() == [0.0] * 3
    assert nn.PReLU(2, init=0.5).weight.tolist() == [0.5] * 2
    table = host(nn.Embedding(50, 40, padding_idx=-1).weight)
    assert not table[-1].any()
    assert abs(table[:-1].std() - 1) < 0.1
    mg.manual_seed(5)
    first = nn.Conv2d(2, 3, 3)
    mg.manual_seed(5)
    assert (nn.Conv2d(2, 3, 3).weight == first.weight).all()
    first.reset_parameters()


# Layers are their functions --------------------------------------------------------------------------------------

IMAGE = normal(2, 4, 6, 5)


@pytest.mark.parametrize(
    ("layer", "function"),
    [
        (nn.ReLU(), F.relu),
        (nn.ReLU6(), F.relu6),
        (nn.SELU(), F.selu),
        (nn.SiLU(), F.silu),
        (nn.LeakyReLU(0.3), lambda x: F.leaky_relu(x, 0.3)),
        (nn.ELU(0.3), lambda x: F.elu(x, 0.3)),
        (nn.Hardtanh(-0.5, 0.7), lambda x: F.hardtanh(x, -0.5, 0.7)),
        (nn.GELU(), F.gelu),
        (nn.GELU("tanh"), lambda x: F.gelu(x, "tanh")),
        (nn.Softplus(2.0, 1.0), lambda x: F.softplus(x, 2.0, 1.0)),
        (nn.Sigmoid(), F.sigmoid),
        (nn.Tanh(), F.tanh),
        (nn.LogSigmoid(), F.logsigmoid),
        (nn.Softmax(2), lambda x: F.softmax(x, 2)),
        (nn.LogSoftmax(1), lambda x: F.log_softmax(x, 1)),
        (nn.AvgPool2d(3, 2, 1, True, False), lambda x: F.avg_pool2d(x, 3, 2, 1, True, False)),
        (nn.AvgPool2d(2, divisor_override=3), lambda x: F.avg_pool2d(x, 2, divisor_override=3)),
        (nn.MaxPool2d(3, 2, 1, 1, False, True), lambda x: F.max_pool2d(x, 3, 2, 1, 1, True)),
        (nn.AdaptiveAvgPool2d((3, None)), lambda x: F.adaptive_avg_pool2d(x, (3, None))),
        (nn.Upsample(scale_factor=1.5), lambda x: F.interpolate(x, scale_factor=1.5)),
        (nn.Upsample((7, 9), mode="bilinear", align_corners=True),
         lambda x: F.interpolate(x, (7, 9), None, "bilinear", True)),
        (nn.UpsamplingNearest2d(scale_factor=2), lambda x: F.interpolate(x, scale_factor=2)),
        (nn.UpsamplingBilinear2d(scale_factor=2),
         lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)),
        (nn.PixelShuffle(2), lambda x: F.pixel_shuffle(x, 2)),
        (nn.ZeroPad2d((1, 2, 0, -1)), lambda x: F.pad(x, (1, 2, 0, -1))),
        (nn.ConstantPad2d(1, 3.0), lambda x: F.pad(x, (1, 1, 1, 1), value=3.0)),
        (nn.ReflectionPad2d(2), lambda x: F.pad(x, (2, 2, 2, 2), "reflect")),
        (nn.ReplicationPad2d((1, 0, 2, 3)), lambda x: F.pad(x, (1, 0, 2, 3), "replicate")),
        (nn.Flatten(1, 2), lambda x: x.reshape(2, 24, 5)),
        (nn.Unflatten(1, (2, 2)), lambda x: x.reshape(2, 2, 2, 6, 5)),
        (nn.CosineSimilarity(1), lambda x: F.cosine_similarity(x, x, 1)),
    ],
)  # fmt: skip
def test_stateless_layer(layer, function):
    x = t(IMAGE)
    y = layer(x, x) if isinstance(layer, nn.CosineSimilarity) else layer(x)
    close(y, host(function(x)), 0)


def test_linear_layers():
    x, y = normal(5, 4), normal(5, 3)
    for layer in (nn.Linear(4, 6).double(), nn.Maxout(4, 6, 3).double(), nn.Bilinear(4, 3, 6).double()):
        w, b = host(layer.weight), host(layer.bias)
        if isinstance(layer, nn.Bilinear):
            close(layer(t(x), t(y)), np.einsum("ni,oij,nj->no", x, w, y) + b)
        elif isinstance(layer, nn.Maxout):
            close(layer(t(x)), (x @ w.T + b).reshape(5, 6, 3).max(2))
        else:
            close(layer(t(x)), x @ w.T + b)


def test_cells_start_from_zero_and_take_single_samples():
    x = t(normal(2, 3))
    lstm, gru = nn.LSTMCell(3, 4).double(), nn.GRUCell(3, 4).double()
    zeros = z(2, 4, dtype=mg.float64)
    h, c = lstm(x)
    close(h, host(lstm(x, (zeros, zeros))[0]), 0)
    close(lstm(x, (h, c))[1][1], host(lstm(x[1], (h[1], c[1]))[1]))
    close(gru(x), host(gru(x, zeros)), 0)
    close(gru(x[0]), host(gru(x))[0])


def test_embedding_layer():
    layer = nn.Embedding(5, 3, padding_idx=1)
    layer(mg.tensor([[0, 1], [4, 4]])).sum().backward()
    assert host(layer.weight.grad).sum(1).tolist() == [3, 0, 0, 0, 6]
    vectors = mg.ones(4, 2)
    frozen = nn.Embedding.from_pretrained(vectors)
    assert not frozen.weight.requires_grad
    assert frozen(mg.tensor(3)).tolist() == [1, 1]


# Convolution layers ----------------------------------------------------------------------------------------------

PADDINGS = [("zeros", "constant"), ("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")]


@pytest.mark.parametrize(("mode", "name"), PADDINGS)
@pytest.mark.parametrize(
    ("padding", "rows", "columns"), [(1, (1, 1), (1, 1)), ((2, 0, 1, 3), (1, 3), (2, 0)), ("same", (0, 1), (1, 1))]
)
def test_padding_modes(mode, name, padding, rows, columns):
    layer = nn.Conv2d(4, 3, (2, 3), padding=padding, padding_mode=mode).double()
    padded = np.pad(IMAGE, [(0, 0), (0, 0), rows, columns], name)
    close(layer(t(IMAGE)), host(F.conv2d(t(padded), layer.weight, layer.bias)))
    close(layer(t(IMAGE[0])), host(layer(t(IMAGE)))[0])


def test_asymmetric_padding_of_a_transposed_convolution_crops():
    layer = nn.ConvTranspose2d(4, 3, 4, stride=2, padding=(1, 0, 2, 1)).double()
    whole = host(F.conv_transpose2d(t(IMAGE), layer.weight, layer.bias, stride=2))
    close(layer(t(IMAGE)), whole[:, :, 2:-1, 1:])


@pytest.mark.parametrize("size", [(12, 8), (13, 9), (2, 3, 12, 9)])
def test_output_size(size):
    layer = nn.ConvTranspose2d(4, 3, 4, stride=2, padding=(2, 2, 1, 1)).double()
    y = layer(t(IMAGE), output_size=size) if len(size) == 4 else layer(t(IMAGE), size)
    assert y.shape[2:] == size[-2:]
    with pytest.raises(ValueError, match=r"got output_size \[20, 9\] .* expected \[12, 8\] to \[13, 9\]"):
        layer(t(IMAGE), [20, 9])


# Normalisation layers --------------------------------------------------------------------------------------------


def batches(*shape):
    return [normal(*shape) * (i + 1) + i for i in range(3)]


@pytest.mark.parametrize(
    ("make", "shape"), [(nn.BatchNorm1d, (5, 4)), (nn.BatchNorm2d, (3, 4, 2, 3)), (nn.BatchNorm3d, (2, 4, 2, 2, 2))]
)
@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_running_statistics(make, shape, momentum):
    layer = make(4, momentum=momentum).double()
    axes = (0, *range(2, len(shape)))
    mean, var = np.zeros(4), np.ones(4)
    for i, x in enumerate(batches(*shape), start=1):
        layer(t(x))
        m = 1 / i if momentum is None else momentum
        mean = (1 - m) * mean + m * x.mean(axes)
        var = (1 - m) * var + m * x.var(axes, ddof=1)
        assert layer.num_batches_tracked.item() == i
    assert layer.num_batches_tracked.dtype == mg.int64
    close(layer.running_mean, mean)
    close(layer.running_var, var)
    layer.eval()
    x = normal(*shape)
    n = len(shape)
    close(layer(t(x)), (x - per_channel(mean, n)) / np.sqrt(per_channel(var, n) + 1e-5))
    assert layer.num_batches_tracked.item() == 3
    layer.reset_running_stats()
    assert layer.running_var.tolist() == [1.0] * 4
    assert layer.num_batches_tracked.item() == 0


def test_without_running_statistics_the_batch_counts_in_eval_too():
    x = t(normal(5, 4))
    layer = nn.BatchNorm1d(4, track_running_stats=False).double()
    close(layer.eval()(x), host(layer.train()(x)), 0)


def test_instance_norm_layers():
    x = normal(3, 4, 5)
    layer = nn.InstanceNorm1d(4, affine=True, track_running_stats=True, momentum=0.2).double()
    y = layer(t(x))
    close(y, (x - x.mean(2, keepdims=True)) / np.sqrt(x.var(2, keepdims=True) + 1e-5))
    close(layer(t(x[0])), host(y)[0])  # without a batch
    layer.reset_running_stats()
    layer(t(x))
    close(layer.running_mean, 0.2 * x.mean((0, 2)))
    close(layer.running_var, 0.8 + 0.2 * x.var(2, ddof=1).mean(0))
    mean, var = (per_channel(host(s), 3) for s in (layer.running_mean, layer.running_var))
    close(layer.eval()(t(x)), (x - mean) / np.sqrt(var + 1e-5))
    with pytest.warns(UserWarning, match=r"InstanceNorm1d.*\(3, 4, 5\), expected 2 channels"):
        nn.InstanceNorm1d(2)(t(x))


def test_running_statistics_are_not_part_of_the_graph():
    layer = nn.BatchNorm1d(3)
    x = mg.randn(4, 3, requires_grad=True)
    layer(x).sum().backward()
    assert not layer.running_mean.requires_grad
    layer.eval()
    layer(x).sum().backward()  # reads statistics that the first backward did not own


# Modes ------------------------------------------------------------------------------------------------------------


def test_dropout_is_for_training():
    x = mg.ones(20, 10)
    for layer in (nn.Dropout(0.5), nn.Dropout2d(0.5)):
        y = layer(x)
        assert set(host(y).ravel().tolist()) == {0.0, 2.0}
        assert layer.eval()(x) is x


def test_layers_in_place():
    net = nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.2, inplace=True), nn.Linear(4, 2), nn.ELU(inplace=True))
    plain = nn.Sequential(net[0], nn.LeakyReLU(0.2), net[2], nn.ELU())
    x = mg.randn(5, 3)
    first, second = (mg.autograd.grad(n(x).square().sum(), list(net.parameters())) for n in (net, plain))
    for a, b in zip(first, second, strict=True):
        close(a, host(b), 1e-6)
    with pytest.raises(RuntimeError, match="a leaf tensor that requires grad"):
        nn.ReLU(inplace=True)(mg.zeros(2, requires_grad=True))


# Losses -----------------------------------------------------------------------------------------------------------

A, B, P, CLASSES, W = (
    normal(4, 3),
    normal(3, 4).T,
    np.abs(np.tanh(normal(4, 3))),
    np.array([2, 0, 1, 1]),
    np.array([1.0, 2, 3]),
)


@pytest.mark.parametrize(
    ("layer", "function", "target"),
    [
        (nn.MSELoss, F.mse_loss, B),
        (nn.L1Loss, F.l1_loss, B),
        (nn.SmoothL1Loss, F.smooth_l1_loss, B),
        (nn.HuberLoss, F.huber_loss, B),
        (nn.KLDivLoss, F.kl_div, P),
        (nn.HingeEmbeddingLoss, F.hinge_embedding_loss, np.sign(B)),
        (nn.BCEWithLogitsLoss, F.binary_cross_entropy_with_logits, P),
        (nn.BCELoss, lambda x, t, **k: F.binary_cross_entropy(x.sigmoid(), t, **k), P),
        (nn.NLLLoss, F.nll_loss, CLASSES),
        (nn.CrossEntropyLoss, F.cross_entropy, CLASSES),
    ],
)
def test_loss_layers(layer, function, target):
    x = t(A).sigmoid() if layer is nn.BCELoss else t(A)
    for reduction in ("none", "mean", "sum"):
        right = host(function(t(A), t(target), reduction=reduction))
        close(layer(reduction=reduction)(x, t(target)), right, 0)
    if layer is not nn.HuberLoss:
        close(layer(size_average=False)(x, t(target)), host(function(t(A), t(target), reduction="sum")), 0)
    with pytest.raises(ValueError, match="got reduction 'average'"):
        layer(reduction="average")


def test_loss_weights_are_buffers():
    for layer in (nn.BCELoss, nn.BCEWithLogitsLoss, nn.NLLLoss, nn.CrossEntropyLoss):
        assert list(layer().state_dict()) == []
        assert list(layer(t(W)).state_dict()) == ["weight"]
    loss = nn.BCEWithLogitsLoss(t(W), pos_weight=t(W[::-1].copy()))
    close(loss(t(A), t(P)), host(F.binary_cross_entropy_with_logits(t(A), t(P), t(W), pos_weight=t(W[::-1].copy()))), 0)
    loss = nn.CrossEntropyLoss(t(W), ignore_index=0, label_smoothing=0.1)
    right = F.cross_entropy(t(A), t(CLASSES), t(W), ignore_index=0, label_smoothing=0.1)
    close(loss(t(A), t(CLASSES)), host(right), 0)


# Misuse -----------------------------------------------------------------------------------------------------------

MISUSE = [
    (lambda: nn.Linear(3, 4)(z(2, 5)), RuntimeError,
     r"Linear\(in_features=3, .*\): got input of shape \(2, 5\), expected \(…, 3\); weight has shape \(4, 3\)"),
    (lambda: nn.Linear(3, 4)(z(2, 3, dtype=mg.float64)), RuntimeError, "float64, float32.* convert"),
    (lambda: nn.Maxout(3, 4)(z(2, 5)), RuntimeError, r"Maxout.*\(2, 5\), expected \(…, 3\)"),
    (lambda: nn.Bilinear(3, 4, 2)(z(2, 3), z(2, 5)), RuntimeError, r"Bilinear.*\(2, 5\), expected \(…, 4\)"),
    (lambda: nn.Conv2d(3, 4, 3)(z(2, 4, 8, 8)), RuntimeError,
     r"Conv2d\(3, 4, .*\): got input of shape \(2, 4, 8, 8\), expected \(N, 3, H, W\) or \(3, H, W\); weight has"),
    (lambda: nn.Conv1d(3, 4, 3)(z(8)), RuntimeError, r"Conv1d.*\(8,\), expected \(N, 3, W\) or \(3, W\)"),
    (lambda: nn.Conv2d(3, 4, 3)(z(2, 3, 8, 8, dtype=mg.float64)), RuntimeError, "conv2d: .*float64, float32"),
    (lambda: nn.Conv2d(3, 4, 5)(z(2, 3, 4, 4)), RuntimeError, "conv2d: input 4x4 .* empty output 0x0"),
    (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "3 input and 4 output channels must be divisible by groups 2"),
    (lambda: nn.Conv2d(3, 4, 3, padding="full"), ValueError, "got padding 'full'"),
    (lambda: nn.Conv2d(3, 4, 3, 2, "same"), ValueError, "padding 'same' needs stride 1"),
    (lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), ValueError, "got padding_mode 'mirror', expected one of zeros"),
    (lambda: nn.ConvTranspose2d(3, 4, 3, padding_mode="reflect"), ValueError, "expected one of zeros"),
    (lambda: nn.ConvTranspose2d(3, 4, 3)(z(2, 4, 4, 4)), RuntimeError, r"ConvTranspose2d.*\(2, 4, 4, 4\), expected"),
    (lambda: nn.BatchNorm2d(3)(z(2, 3)), ValueError, r"BatchNorm2d.*: expected 4D input, got 2D of shape \(2, 3\)"),
    (lambda: nn.BatchNorm1d(3)(z(2, 3, 4, 4)), ValueError, "expected 2D or 3D input, got 4D"),
    (lambda: nn.BatchNorm2d(3)(z(2, 4, 3, 3)), RuntimeError, r"\(2, 4, 3, 3\), expected 3 channels \(axis 1\)"),
    (lambda: nn.BatchNorm1d(3)(z(1, 3)), ValueError, "Expected more than 1 value per channel when training"),
    (lambda: nn.InstanceNorm2d(3, affine=True)(z(2, 4, 3, 3)), ValueError, "expected 3 channels"),
    (lambda: nn.InstanceNorm2d(3)(z(2, 3, 1, 1)), ValueError, "more than 1 spatial element"),
    (lambda: nn.LayerNorm(3)(z(2, 4)), RuntimeError, r"LayerNorm.*\(2, 4\), expected \(…, 3\)"),
    (lambda: nn.GroupNorm(2, 3), ValueError, "3 channels do not divide into 2 groups"),
    (lambda: nn.GroupNorm(2, 4)(z(2, 6)), RuntimeError, r"GroupNorm.*\(2, 6\), expected \(N, 4, …\)"),
    (lambda: nn.Embedding(3, 4, padding_idx=3), ValueError, "padding_idx 3 is not one of 3 rows"),
    (lambda: nn.Embedding(3, 4, sparse=True), NotImplementedError, "not supported"),
    (lambda: nn.Dropout(1.5), ValueError, "probability 1.5"),
    (lambda: nn.Hardtanh(1, -1), ValueError, "expected min_val < max_val"),
    (lambda: nn.LSTMCell(3, 4)(z(2, 5)), RuntimeError, r"LSTMCell\(3, 4\).*\(2, 5\), expected \(N, 3\) or \(3,\)"),
    (lambda: nn.GRUCell(3, 4)(z(2, 3), z(3, 4)), RuntimeError, r"\(3, 4\), expected a state of shape \(2, 4\)"),
    (lambda: nn.ZeroPad2d(1)(z(2)), RuntimeError, r"ZeroPad2d.*\(2,\), expected \(N, C, H, W\)"),
    (lambda: nn.ReflectionPad2d((1, 2)), RuntimeError, "ReflectionPad2d: padding: got .* 4 of them"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), MISUSE)
def test_misuse(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


# Together ----------------------------------------------------------------------------------------------------------


def test_a_dcgan_and_its_gradient_penalty():
    generator = nn.Sequential(
        nn.ConvTranspose2d(5, 8, 4, 1, 0, bias=False), nn.BatchNorm2d(8), nn.ReLU(True),
        nn.ConvTranspose2d(8, 3, 4, 2, 1, bias=False), nn.Tanh(),
    )  # fmt: skip
    critic = nn.Sequential(
        nn.Conv2d(3, 8, 4, 2, 1, bias=False), nn.InstanceNorm2d(8, affine=True), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(8, 1, 4, 1, 0, bias=False), nn.Flatten(),
    )  # fmt: skip
    images = generator(mg.randn(6, 5, 1, 1))
    assert images.shape == (6, 3, 8, 8)
    scores = critic(images)
    assert scores.shape == (6, 1)
    (slope,) = mg.autograd.grad(scores.sum(), images, create_graph=True)
    penalty = ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
    (nn.BCEWithLogitsLoss()(scores, mg.ones(6, 1)) + 10 * penalty).backward()
    for parameter in (*generator.parameters(), *critic.parameters()):
        assert parameter.grad.shape == parameter.shape
        assert np.isfinite(host(parameter.grad)).all()
        assert parameter.grad.dtype == mg.float32

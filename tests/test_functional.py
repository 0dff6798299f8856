"""`minigan.nn.functional` against plain NumPy, and what it says when it is misused."""

import math

import numpy as np
import pytest
from values import close, host, normal, per_channel, sigmoid, t, uniform, z

import minigan as mg
import minigan.nn.functional as F

# Convolutions ---------------------------------------------------------------------------------------------


def taps(w, stride, dilation, out):
    """Each tap of the kernel with the places of the padded image that it meets."""
    for k in np.ndindex(*w.shape[2:]):
        yield k, tuple(slice(a * d, a * d + n * s, s) for a, d, n, s in zip(k, dilation, out, stride, strict=True))


def conv_oracle(x, w, stride, pads, dilation, groups):
    x = np.pad(x, [(0, 0), (0, 0), *pads])
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, w.shape[2:], strict=True)]
    out = [(n - span) // s + 1 for n, span, s in zip(x.shape[2:], spans, stride, strict=True)]
    y = np.zeros((len(x), len(w), *out))
    for g, ws in enumerate(np.split(w, groups)):
        channels = slice(g * w.shape[1], (g + 1) * w.shape[1])
        filters = slice(g * len(ws), (g + 1) * len(ws))
        for k, places in taps(w, stride, dilation, out):
            y[:, filters] += np.einsum("nc...,oc->no...", x[:, channels][(..., *places)], ws[(..., *k)])
    return y


def conv_transpose_oracle(y, w, stride, pads, extra, dilation, groups):
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, w.shape[2:], strict=True)]
    big = [(n - 1) * s + span + e for n, s, span, e in zip(y.shape[2:], stride, spans, extra, strict=True)]
    x = np.zeros((len(y), w.shape[1] * groups, *big))
    for g, ws in enumerate(np.split(w, groups)):
        channels = slice(g * w.shape[1], (g + 1) * w.shape[1])
        filters = slice(g * len(ws), (g + 1) * len(ws))
        for k, places in taps(w, stride, dilation, y.shape[2:]):
            x[:, channels][(..., *places)] += np.einsum("no...,oc->nc...", y[:, filters], ws[(..., *k)])
    return x[(..., *(slice(before, n - after) for n, (before, after) in zip(big, pads, strict=True)))]


CONVS = [  # stride, padding, the pairs it means for the last two axes, dilation, groups
    (1, 0, [(0, 0)] * 2, 1, 1),
    (2, 1, [(1, 1)] * 2, 1, 2),
    ((2, 1), (0, 2), [(0, 0), (2, 2)], (1, 2), 1),
    (2, (1, 2, 0, 3), [(0, 3), (1, 2)], 1, 2),
]


@pytest.mark.parametrize(("stride", "padding", "pairs", "dilation", "groups"), CONVS)
def test_conv2d(stride, padding, pairs, dilation, groups):
    x, w, b = normal(2, 4, 7, 6), normal(6, 4 // groups, 3, 2), normal(6)
    y = F.conv2d(t(x), t(w), t(b), stride, padding, dilation, groups)
    right = conv_oracle(x, w, np.broadcast_to(stride, 2), pairs, np.broadcast_to(dilation, 2), groups)
    close(y, right + per_channel(b, 4))
    close(F.conv2d(t(x[0]), t(w), None, stride, padding, dilation, groups), right[0])  # without a batch


@pytest.mark.parametrize(("stride", "padding", "pairs", "dilation", "groups"), CONVS)
def test_conv_transpose2d(stride, padding, pairs, dilation, groups):
    y, w, b = normal(2, 6, 4, 5), normal(6, 4 // groups, 3, 4), normal(4)
    extra = (1, 0) if stride != 1 else (0, 0)
    x = F.conv_transpose2d(t(y), t(w), t(b), stride, padding, extra, groups, dilation)
    each = np.broadcast_to(stride, 2), pairs, extra, np.broadcast_to(dilation, 2)
    right = conv_transpose_oracle(y, w, *each, groups)
    close(x, right + per_channel(b, 4))
    close(F.conv_transpose2d(t(y[0]), t(w), None, stride, padding, extra, groups, dilation), right[0])


@pytest.mark.parametrize("ndim", [1, 3])
def test_convolutions_over_one_and_three_axes(ndim):
    x, w = normal(2, 4, *(5, 4, 6)[:ndim]), normal(4, 2, *(2, 3, 3)[:ndim])
    twos, pads = (2,) * ndim, [(1, 1)] * ndim
    conv, transpose = getattr(F, f"conv{ndim}d"), getattr(F, f"conv_transpose{ndim}d")
    ones = (1,) * ndim
    close(conv(t(x), t(w), stride=2, padding=1, groups=2), conv_oracle(x, w, twos, pads, ones, 2))
    right = conv_transpose_oracle(x, w, twos, pads, ones, ones, 2)
    close(transpose(t(x), t(w), stride=2, padding=1, output_padding=1, groups=2), right)


def test_same_and_valid_padding():
    x, w = normal(1, 2, 6, 5), normal(3, 2, 4, 3)
    close(F.conv2d(t(x), t(w), padding="valid"), conv_oracle(x, w, (1, 1), [(0, 0)] * 2, (1, 1), 1))
    same = F.conv2d(t(x), t(w), padding="same", dilation=(1, 2))
    close(same, conv_oracle(x, w, (1, 1), [(1, 2), (2, 2)], (1, 2), 1))
    assert same.shape[2:] == x.shape[2:]


# Activations ------------------------------------------------------------------------------------------------


ERF = np.vectorize(math.erf, otypes=[float])
SCALE, ALPHA = 1.0507009873554805, 1.6732632423543772
ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "selu": lambda x: SCALE * np.where(x > 0, x, ALPHA * np.expm1(np.minimum(x, 0))),
    "silu": lambda x: x * sigmoid(x),
    "hardtanh": lambda x: np.clip(x, -1, 1),
    "gelu": lambda x: x * (1 + ERF(x / math.sqrt(2))) / 2,
    "softplus": lambda x: np.logaddexp(0, x),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "logsigmoid": lambda x: -np.logaddexp(0, -x),
}
IN_PLACE = ("relu", "relu6", "leaky_relu", "elu", "selu", "silu", "hardtanh")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name):
    x = np.concatenate([normal(50) * 4, [0.0, 6.0, -1.0, 19.0]])
    close(getattr(F, name)(t(x)), ACTIVATIONS[name](x), 1e-8 if name == "gelu" else 1e-12)


@pytest.mark.parametrize("name", IN_PLACE)
def test_activation_in_place(name):
    function = getattr(F, name)
    x = t(normal(3, 4) * 4, requires_grad=True)
    (expected,) = mg.autograd.grad(function(x * 2).square().sum(), x)
    y = x * 2
    z = function(y, inplace=True)
    assert z is y
    close(z, ACTIVATIONS[name](host(x) * 2))
    (gradient,) = mg.autograd.grad(z.square().sum(), x)
    close(gradient, host(expected))
    with pytest.raises(RuntimeError, match=r"inplace=True: a leaf tensor that requires grad"):
        function(x, inplace=True)


def test_activations_with_arguments():
    x = normal(2, 3, 4) * 3
    close(F.leaky_relu(t(x), 0.2), np.where(x > 0, x, 0.2 * x))
    close(F.leaky_relu(t(x), -0.2), np.where(x > 0, x, -0.2 * x))
    close(F.elu(t(x), 0.5), np.where(x > 0, x, 0.5 * np.expm1(x)))
    close(F.softplus(t(x), beta=2.0, threshold=3.0), np.where(2 * x > 3, x, np.log1p(np.exp(2 * x)) / 2))
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    close(F.gelu(t(x), approximate="tanh"), x / 2 * (1 + np.tanh(inner)))
    w = normal(3)
    close(F.prelu(t(x), t(w)), np.where(x > 0, x, per_channel(w, 3) * x))
    close(F.prelu(t(x), t([0.3], dtype=mg.float64)), np.where(x > 0, x, 0.3 * x))


def test_edges_have_pytorchs_slopes():
    x = t([-1.0, 0.0, 1.0, 6.0], requires_grad=True)
    for function, slopes in (
        (F.relu, [0, 0, 1, 1]),
        (F.relu6, [0, 0, 1, 0]),
        (F.hardtanh, [0, 1, 0, 0]),
        (F.leaky_relu, [0.01, 0.01, 1, 1]),
        (lambda x: F.elu(x, 2.0), [2 * math.exp(-1), 2, 1, 1]),
    ):
        (gradient,) = mg.autograd.grad(function(x).sum(), x)
        close(gradient, slopes, 1e-6)
    big = t([1000.0], requires_grad=True)
    F.elu(big).backward()
    close(big.grad, [1.0])


def test_softmax():
    x = normal(2, 3, 4)
    e = np.exp(x)
    close(F.softmax(t(x), 1), e / e.sum(1, keepdims=True))
    close(F.log_softmax(t(x), -1), np.log(e / e.sum(-1, keepdims=True)))
    assert F.softmax(t(x), 1, dtype=mg.float32).dtype == mg.float32
    with pytest.warns(UserWarning, match="softmax: no dim given, 0 is taken"):
        close(F.softmax(t(x)), e / e.sum(0, keepdims=True))


# Products, recurrence, similarity -----------------------------------------------------------------------------


def test_linear_bilinear_maxout():
    x, y, w, b = normal(2, 3, 4), normal(2, 3, 5), normal(6, 4, 5), normal(6)
    close(F.linear(t(x), t(w[:, :, 0]), t(b)), x @ w[:, :, 0].T + b)
    close(F.bilinear(t(x), t(y), t(w), t(b)), np.einsum("abi,oij,abj->abo", x, w, y) + b)
    pieces = x @ w[:, :, 0].T + b
    right = np.stack([pieces[..., 0:3].max(-1), pieces[..., 3:6].max(-1)], -1)
    close(F.maxout(t(x), t(w[:, :, 0]), t(b), pieces=3), right)


def test_embedding_trains_all_rows_but_the_padding():
    w = t(normal(4, 3), requires_grad=True)
    y = F.embedding(t([[0, 2], [2, 1]]), w, padding_idx=-3)
    close(y, host(w)[[[0, 2], [2, 1]]])
    y.sum().backward()
    close(w.grad, np.array([1.0, 0, 2, 0])[:, None] * np.ones(3))


def test_one_hot():
    assert F.one_hot(t([[0, 2]])).tolist() == [[[1, 0, 0], [0, 0, 1]]]
    assert F.one_hot(t([1]), 4).dtype == mg.int64


def test_cells():
    x, h, c = normal(2, 3), normal(2, 4), normal(2, 4) / 2
    w_ih, w_hh, b_ih, b_hh = normal(16, 3), normal(16, 4), normal(16), normal(1, 16)[0]
    i, f, g, o = np.split(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh, 4, 1)
    new_h, new_c = F.lstm_cell(t(x), (t(h), t(c)), t(w_ih), t(w_hh), t(b_ih), t(b_hh))
    close(new_c, sigmoid(f) * c + sigmoid(i) * np.tanh(g))
    close(new_h, sigmoid(o) * np.tanh(host(new_c)))
    xr, xz, xn = np.split(x @ w_ih[:12].T + b_ih[:12], 3, 1)
    hr, hz, hn = np.split(h @ w_hh[:12].T + b_hh[:12], 3, 1)
    n, z = np.tanh(xn + sigmoid(xr + hr) * hn), sigmoid(xz + hz)
    close(F.gru_cell(t(x), t(h), t(w_ih[:12]), t(w_hh[:12]), t(b_ih[:12]), t(b_hh[:12])), (1 - z) * n + z * h)


def test_normalize_and_cosine_similarity():
    x, y = normal(3, 4), normal(4, 3).T
    close(F.normalize(t(x)), x / np.linalg.norm(x, axis=1, keepdims=True))
    close(F.normalize(t(x), p=1, dim=0), x / np.abs(x).sum(0))
    right = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    close(F.cosine_similarity(t(x), t(y)), right)
    assert F.normalize(mg.zeros(2, 3)).tolist() == [[0.0] * 3] * 2


# Normalisation ------------------------------------------------------------------------------------------------


def standard(x, axes, eps=1e-5):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 5), (2, 4, 3, 2), (2, 4, 2, 3, 2)])
def test_norms(shape):
    x, w, b = normal(*shape), normal(4), normal(2, 2).ravel()
    others, spatial, n = (0, *range(2, len(shape))), tuple(range(2, len(shape))), len(shape)
    affine = per_channel(w, n), per_channel(b, n)
    mean, var = normal(1, 4)[0], uniform(4)
    running = t(mean), t(var)
    y = F.batch_norm(t(x), *running, t(w), t(b), training=True, momentum=0.3)
    close(y, standard(x, others) * affine[0] + affine[1])
    close(running[0], 0.7 * mean + 0.3 * x.mean(others))
    close(running[1], 0.7 * var + 0.3 * x.var(others, ddof=1))
    by = (x - per_channel(mean, n)) / np.sqrt(per_channel(var, n) + 1e-5)
    close(F.batch_norm(t(x), t(mean), t(var), t(w), t(b)), by * affine[0] + affine[1])
    grouped = standard(x.reshape(shape[0], 2, -1), 2).reshape(shape)
    close(F.group_norm(t(x), 2, t(w), t(b)), grouped * affine[0] + affine[1])
    lw, lb = normal(*shape[1:]), uniform(*shape[1:])
    close(F.layer_norm(t(x), shape[1:], t(lw), t(lb)), standard(x, tuple(range(1, n))) * lw + lb)
    if spatial:
        running = t(mean), t(var)
        close(F.instance_norm(t(x), *running, t(w), t(b)), standard(x, spatial) * affine[0] + affine[1])
        close(running[0], 0.9 * mean + 0.1 * x.mean(others))
        close(running[1], 0.9 * var + 0.1 * x.var(spatial, ddof=1).mean(0))
        close(F.instance_norm(t(x), t(mean), t(var), use_input_stats=False), by)


def test_norms_keep_precision_far_from_zero():
    x = normal(8, 2, 4, 4) + 1e4
    y = F.batch_norm(t(x, dtype=mg.float32), None, None, training=True)
    np.testing.assert_allclose(host(y), standard(x.astype("float32").astype(float), (0, 2, 3)), atol=2e-3)


# Dropout ----------------------------------------------------------------------------------------------------------


def test_dropout():
    x = mg.ones(100, 200)
    y = host(F.dropout(x, 0.25))
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert abs(y.mean() - 1) < 0.02
    assert F.dropout(x, 0.25, training=False) is x
    assert F.dropout(x, 1.0).sum().item() == 0
    channels = host(F.dropout2d(mg.ones(20, 30, 2, 3), 0.5))
    assert (channels == channels[:, :, :1, :1]).all()
    assert 0.4 < (channels == 0).mean() < 0.6
    mg.manual_seed(3)
    first = F.dropout(x)
    mg.manual_seed(3)
    assert (F.dropout(x) == first).all()
    z = mg.ones(50)
    assert F.dropout(z, 0.5, inplace=True) is z
    assert {0.0, 2.0} == set(z.tolist())


# Misuse -----------------------------------------------------------------------------------------------------------


ERRORS = [
    (lambda: F.linear(z(2, 5), z(4, 3)), RuntimeError, r"linear: input of shape \(2, 5\) and weight of shape \(4, 3\)"),
    (lambda: F.linear(z(2, 3, dtype=mg.float64), z(4, 3)), RuntimeError, "float64, float32; convert"),
    (lambda: F.conv2d(z(2, 4, 8, 8), z(5, 3, 3, 3)), RuntimeError,
     r"conv2d: got input of shape \(2, 4, 8, 8\) and weight of shape \(5, 3, 3, 3\): expected 3 input channels, got 4"),
    (lambda: F.conv2d(z(4, 8), z(5, 3, 3, 3)), RuntimeError, r"conv2d: got input of shape \(4, 8\), expected 4 axes"),
    (lambda: F.conv2d(z(1, 3, 8, 8), z(5)), RuntimeError, r"weight of shape \(5,\), expected 4 axes"),
    (lambda: F.conv2d(z(1, 3, 8, 8), z(5, 3, 3, 3), z(4)), RuntimeError, r"bias of shape \(4,\), expected \(5,\)"),
    (lambda: F.conv2d(z(1, 3, 8, 8, dtype=mg.float64), z(5, 3, 3, 3)), RuntimeError, "conv2d: .*float64, float32"),
    (lambda: F.conv2d(z(1, 3, 2, 2), z(5, 3, 3, 3)), RuntimeError, "conv2d: input 2x2 .* empty output 0x0"),
    (lambda: F.conv2d(z(1, 3, 8, 8), z(5, 3, 3, 3), padding=-1), RuntimeError, "conv2d: padding -1 is negative"),
    (lambda: F.conv2d(z(1, 3, 8, 8), z(5, 3, 3, 3), padding=(1, 1, 1)), RuntimeError, "padding: got .* expected an"),
    (lambda: F.conv2d(z(1, 3, 8, 8), z(5, 3, 3, 3), stride=2, padding="same"), RuntimeError, "'same' needs stride 1"),
    (lambda: F.conv2d(z(1, 4, 8, 8), z(5, 2, 3, 3), groups=2), RuntimeError, "groups"),
    (lambda: F.conv_transpose2d(z(1, 3, 8, 8), z(4, 3, 3, 3)), RuntimeError, "expected 4 input channels, got 3"),
    (lambda: F.conv_transpose2d(z(1, 3, 8, 8), z(3, 4, 3, 3), output_padding=1), RuntimeError, "output_padding 1 must"),
    (lambda: F.conv_transpose2d(z(1, 3, 1, 1), z(3, 4, 3, 3), padding=2), RuntimeError, "empty output -1x-1"),
    (lambda: F.batch_norm(z(1, 3), None, None, training=True), ValueError, "Expected more than 1 value per channel"),
    (lambda: F.batch_norm(z(2, 3), None, None), RuntimeError, "expected running_mean and running_var"),
    (lambda: F.batch_norm(z(2, 3), z(4), z(4)), RuntimeError, r"\(2, 3\) and per-channel values of shape \(4,\)"),
    (lambda: F.instance_norm(z(2, 3, 1)), ValueError, "more than 1 spatial element"),
    (lambda: F.layer_norm(z(2, 3), (4,)), RuntimeError, r"\(2, 3\), expected one that ends in normalized_shape \(4,\)"),
    (lambda: F.group_norm(z(2, 6, 2), 4), RuntimeError, "divisible by num_groups 4"),
    (lambda: F.group_norm(z(1, 2), 2), ValueError, "Expected more than 1 value per channel"),
    (lambda: F.embedding(mg.tensor([3]), z(3, 2)), IndexError, "out of range: expected 0 to 2"),
    (lambda: F.embedding(mg.tensor([-1]), z(3, 2)), IndexError, "out of range"),
    (lambda: F.embedding(z(1), z(3, 2)), RuntimeError, "dtype float32, expected integers"),
    (lambda: F.one_hot(mg.tensor([-1])), RuntimeError, "non-negative"),
    (lambda: F.one_hot(mg.tensor([2]), 2), RuntimeError, "smaller than num_classes"),
    (lambda: F.prelu(z(2, 4), z(3)), RuntimeError, r"input of shape \(2, 4\) and weight of shape \(3,\)"),
    (lambda: F.bilinear(z(2, 3), z(2, 4), z(5, 4, 3)), RuntimeError, r"expected \(…, in1\), \(…, in2\)"),
    (lambda: F.gelu(z(2), "exact"), RuntimeError, "got approximate 'exact'"),
    (lambda: F.dropout(z(2), 1.5), ValueError, "probability 1.5, expected 0 to 1"),
    (lambda: F.maxout(z(2, 3), z(5, 3)), RuntimeError, "does not divide into 2 pieces"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS)
def test_misuse(call, kind, message):
    with pytest.raises(kind, match=message):
        call()

"""What each layer computes, from its definition, in NumPy and plain Python.

Each oracle takes the layer's inputs, then its parameters, then its settings by name (those it does not need in `_`).
"""

import itertools
import math
from fractions import Fraction

import numpy as np
from harness import elementwise
from test_ops_norm import group_by_group
from test_pooling import windows

# Activations ------------------------------------------------------------------------------------------------


def each(function):
    """An oracle from a function of one Python float and the settings."""
    return lambda x, inplace=None, **settings: elementwise(lambda v: function(v, **settings))(x)


def _selu_constants():
    """λ and α that make mean 0 and variance 1 a fixed point (Klambauer et al., 2017, equation 14)."""
    e, p, q = math.e, math.erfc(1 / math.sqrt(2)), math.erfc(math.sqrt(2))
    alpha = -math.sqrt(2 / math.pi) / (p * math.sqrt(e) - 1)
    square = 2 * q * e**2 + math.pi * p**2 * e - 2 * (2 + math.pi) * p * math.sqrt(e) + math.pi + 2
    return (1 - p * math.sqrt(e)) * math.sqrt(2 * math.pi / square), alpha


SCALE, ALPHA = _selu_constants()


def elu(v, alpha):
    return v if v > 0 else alpha * (math.exp(v) - 1)


def gelu(v, approximate):
    if approximate == "tanh":
        return v / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))
    return v / 2 * math.erfc(-v / math.sqrt(2))


def softplus(v, beta, threshold):
    return v if beta * v > threshold else math.log(1 + math.exp(beta * v)) / beta


def glu(x, *, dim):
    a, b = np.split(x, 2, dim)
    return a * sigmoid(b)


def softmax(x, *, dim):
    powers = np.exp(x)
    return powers / powers.sum(dim, keepdims=True)


def prelu(x, w, **_):
    y = np.empty_like(x)
    for at in np.ndindex(x.shape):
        y[at] = x[at] * (1 if x[at] > 0 else w[at[1] if len(w) > 1 else 0])
    return y


# Products and recurrent cells -------------------------------------------------------------------------------


def linear(x, w, b=None, **_):
    return np.inner(x, w) if b is None else np.inner(x, w) + b


def bilinear(x, y, w, b=None, **_):
    z = np.zeros((*x.shape[:-1], len(w)))
    for at in np.ndindex(z.shape):
        z[at] = x[at[:-1]] @ w[at[-1]] @ y[at[:-1]] + (0 if b is None else b[at[-1]])
    return z


def pieces_of(x, w, b=None, *, out_features, pieces, **_):
    return linear(x, w, b).reshape(*x.shape[:-1], out_features, pieces)


def maxout(*arrays, **settings):
    return pieces_of(*arrays, **settings).max(-1)


def embedding(index, w, **_):
    rows = np.zeros((*index.shape, w.shape[1]))
    for at in np.ndindex(index.shape):
        rows[at] = w[index[at]]
    return rows


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _gates(x, w, b):
    """A function of the gate's number; each has its own block of rows."""
    size = len(w)
    return lambda k, count: linear(x, w, b)[..., k * size // count : (k + 1) * size // count]


def lstm_cell(x, h, c, w_x, w_h, b_x=None, b_h=None, **_):
    own, recurrent = _gates(x, w_x, b_x), _gates(h, w_h, b_h)
    enter, forget, content, leave = (own(k, 4) + recurrent(k, 4) for k in range(4))
    c = sigmoid(forget) * c + sigmoid(enter) * np.tanh(content)
    return sigmoid(leave) * np.tanh(c), c


def gru_cell(x, h, w_x, w_h, b_x=None, b_h=None, **_):
    own, recurrent = _gates(x, w_x, b_x), _gates(h, w_h, b_h)
    reset, update = (sigmoid(own(k, 3) + recurrent(k, 3)) for k in range(2))
    return (1 - update) * np.tanh(own(2, 3) + reset * recurrent(2, 3)) + update * h


def spectral_sigma(w, u, v, dim):
    """uᵀ·M·v, where the rows of M are the slices of w along `dim`."""
    return sum(u[i] * (np.take(w, i, dim).ravel() @ v) for i in range(w.shape[dim]))


# Borders and convolutions -----------------------------------------------------------------------------------


def border(x, pairs, mode, value=0.0):
    """x with `pairs` of (before, after) more entries along its last axes; negative ones crop."""
    for axis, (before, after) in enumerate(pairs, start=x.ndim - len(pairs)):
        n = x.shape[axis]
        at = np.arange(-before, n + after)
        source = {"reflect": n - 1 - abs(n - 1 - abs(at)), "circular": at % n}.get(mode, at.clip(0, n - 1))
        x = np.take(x, source, axis)
        if mode == "zeros":
            np.moveaxis(x, axis, 0)[(at < 0) | (at >= n)] = value
    return x


def sides(padding):
    """(before, after) of height and of width, from a width or (left, right, top, bottom)."""
    left, right, top, bottom = (padding,) * 4 if isinstance(padding, int) else padding
    return (top, bottom), (left, right)


def sequence(value):
    return (value,) if isinstance(value, int) else tuple(value)


def per_axis(value, ndim):
    return (value,) * ndim if isinstance(value, int) else tuple(value)


def conv_pairs(padding, kernel, dilation):
    """(before, after) of each spatial axis; an odd one of 'same' goes after."""
    n = len(kernel)
    if isinstance(padding, str):
        reach = [d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
        return [(r // 2, (r + 1) // 2) for r in reach]
    if not isinstance(padding, int) and len(padding) == 2 * n:
        return [(padding[2 * i], padding[2 * i + 1]) for i in reversed(range(n))]
    return [(p, p) for p in per_axis(padding, n)]


def conv_geometry(kernel_size, stride, padding, dilation, ndim):
    """Kernel, stride, padding and dilation of each axis."""
    kernel, stride, dilation = (per_axis(value, ndim) for value in (kernel_size, stride, dilation))
    return kernel, stride, conv_pairs(padding, kernel, dilation), dilation


def conv(x, w, b=None, *, kernel_size, stride, padding, dilation, groups, padding_mode, **_):
    """Every output value is one window times one filter."""
    ndim, per_group = w.ndim - 2, w.shape[1]
    kernel, stride, pairs, dilation = conv_geometry(kernel_size, stride, padding, dilation, ndim)
    batch = border(x if x.ndim == w.ndim else x[None], pairs, padding_mode)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    out = [(n - r) // s + 1 for n, r, s in zip(batch.shape[2:], reach, stride, strict=True)]
    y = np.zeros((len(batch), len(w), *out))
    for o, *at in np.ndindex(y.shape[1:]):
        window = tuple(slice(i * s, i * s + r, d) for i, s, r, d in zip(at, stride, reach, dilation, strict=True))
        first = o // (len(w) // groups) * per_group
        values = batch[(slice(None), slice(first, first + per_group), *window)] * w[o]
        y[(slice(None), o, *at)] = values.sum(tuple(range(1, w.ndim))) + (0 if b is None else b[o])
    return y if x.ndim == w.ndim else y[0]


def conv_transpose(
    x, w, b=None, *, kernel_size, stride, padding, dilation, groups, output_padding, out_channels, **_
):  # fmt: skip
    """Every input value adds its filter, times itself, to one window; then the padding is cut off."""
    ndim, per_group = w.ndim - 2, w.shape[1]
    kernel, stride, pairs, dilation = conv_geometry(kernel_size, stride, padding, dilation, ndim)
    extra = per_axis(output_padding, ndim)
    batch = x if x.ndim == w.ndim else x[None]
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    whole = [(n - 1) * s + r + e for n, s, r, e in zip(batch.shape[2:], stride, reach, extra, strict=True)]
    y = np.zeros((len(batch), out_channels, *whole))
    for c, *at in np.ndindex(batch.shape[1:]):
        window = tuple(slice(i * s, i * s + r, d) for i, s, r, d in zip(at, stride, reach, dilation, strict=True))
        first = c // (len(w) // groups) * per_group
        x_c = batch[(slice(None), c, *at)].reshape(-1, *[1] * (ndim + 1))
        y[(slice(None), slice(first, first + per_group), *window)] += x_c * w[c]
    y = border(y, [(-before, -after) for before, after in pairs], "crop")
    y = y if b is None else y + b.reshape(-1, *[1] * ndim)
    return y if x.ndim == w.ndim else y[0]


# Normalisation ----------------------------------------------------------------------------------------------


def column(v, ndim):
    return None if v is None else v.reshape(-1, *[1] * (ndim - 2))


def batch_norm(x, w=None, b=None, *, eps, **_):
    return group_by_group(x, column(w, x.ndim), column(b, x.ndim), (0, *range(2, x.ndim)), eps)


def instance_norm(x, w=None, b=None, *, eps, spatial, **_):
    batch = x if x.ndim == spatial + 2 else x[None]
    y = group_by_group(batch, column(w, spatial + 2), column(b, spatial + 2), tuple(range(2, spatial + 2)), eps)
    return y.reshape(x.shape)


def layer_norm(x, w=None, b=None, *, normalized_shape, eps, **_):
    return group_by_group(x, w, b, tuple(range(x.ndim - len(sequence(normalized_shape)), x.ndim)), eps)


def group_norm(x, w=None, b=None, *, num_groups, eps, **_):
    y = np.zeros_like(x)
    size = x.shape[1] // num_groups
    for first in range(0, x.shape[1], size):
        group = slice(first, first + size)
        w_g, b_g = (None if v is None else column(v[group], x.ndim) for v in (w, b))
        y[:, group] = group_by_group(x[:, group], w_g, b_g, tuple(range(1, x.ndim)), eps)
    return y


def by_statistics(x, w=None, b=None, *, mean, var, eps, **_):
    """Evaluation: each channel by the statistics that are kept."""
    y = np.zeros_like(x)
    for c in range(x.shape[1]):
        y[:, c] = (x[:, c] - mean[c]) / math.sqrt(var[c] + eps)
        y[:, c] = y[:, c] * (1 if w is None else w[c]) + (0 if b is None else b[c])
    return y


def running(*batches, momentum, samples, num_features, **_):
    """Mean, variance and count after some batches; as for samples one by one, which are not counted, or together."""
    mean, var = np.zeros(num_features), np.ones(num_features)
    for count, x in enumerate(batches, start=1):
        m = 1 / count if momentum is None else momentum
        for c in range(num_features):
            sets = [sample[c] for sample in x] if samples else [x[:, c]]
            mean[c] += m * (sum(s.mean() for s in sets) / len(sets) - mean[c])
            var[c] += m * (sum(s.var(ddof=1) for s in sets) / len(sets) - var[c])
    return mean, var, np.int64(0 if samples else len(batches))


def dropout(x, *, p, seed, whole_channels=False, **_):
    """Philox noise in the memory order of images, channels last."""
    if p in (0, 1):
        return x * (1 - p)
    shape = x.shape[:2] + (1,) * (x.ndim - 2) if whole_channels else x.shape
    noise = np.random.Generator(np.random.Philox(key=seed))
    if x.ndim < 4:
        return np.where(noise.random(shape) < p, 0, x / (1 - p))
    return np.where(np.moveaxis(noise.random((shape[0], *shape[2:], shape[1])), -1, 1) < p, 0, x / (1 - p))


# Pooling, resizing and moving -------------------------------------------------------------------------------


def pool_windows(shape, *, kernel_size, stride, padding, ceil_mode, dilation=1, **_):
    """The windows of rows and those of columns, each with its places and its count."""
    stride = kernel_size if stride is None else stride
    axes = zip(*(per_axis(value, 2) for value in (shape[-2:], kernel_size, stride, padding, dilation)), strict=True)
    return [list(windows(n, k, s, p, ceil_mode, d)) for n, k, s, p, d in axes]


def avg_pool2d(x, *, count_include_pad, divisor_override, **settings):
    rows, columns = pool_windows(x.shape, **settings)
    y = np.zeros((*x.shape[:-2], len(rows), len(columns)))
    for (i, (r, n)), (j, (c, m)) in itertools.product(enumerate(rows), enumerate(columns)):
        count = divisor_override or (n * m if count_include_pad else len(r) * len(c))
        y[..., i, j] = x[..., r, :][..., c].sum((-2, -1)) / count
    return y


def avg_pool1d(x, *, kernel_size, stride, padding, **settings):
    axes = {"kernel_size": (1, kernel_size), "stride": stride and (1, stride), "padding": (0, padding)}
    return avg_pool2d(x[..., None, :], divisor_override=None, **axes, **settings)[..., 0, :]


def max_pool2d(x, *, return_indices, **settings):
    rows, columns = pool_windows(x.shape, **settings)
    y = np.zeros((*x.shape[:-2], len(rows), len(columns)))
    where = np.zeros(y.shape, np.int64)
    for at in np.ndindex(y.shape):
        places = itertools.product(rows[at[-2]][0], columns[at[-1]][0])
        y[at], where[at] = max((x[(*at[:-2], r, c)], r * x.shape[-1] + c) for r, c in places)
    return (y, where) if return_indices else y


def adaptive_avg_pool2d(x, *, output_size):
    sizes = [n if o is None else o for n, o in zip(x.shape[-2:], np.broadcast_to(output_size, 2), strict=True)]
    y = np.zeros((*x.shape[:-2], *sizes))
    for *_, i, j in np.ndindex(y.shape):
        block = [slice(k * n // o, -(-(k + 1) * n // o)) for k, n, o in zip((i, j), x.shape[-2:], sizes, strict=True)]
        y[..., i, j] = x[(..., *block)].mean((-2, -1))
    return y


def upsample(x, *, size=None, scale_factor=None, mode="nearest", align_corners=None, **_):
    """Axis by axis: the value, or the mixture of two, at the place of each output entry in the input."""
    count = x.ndim - 2
    factors = per_axis(scale_factor, count) if isinstance(scale_factor, (int, tuple)) else (scale_factor,) * count
    for axis, factor in enumerate(factors, start=2):
        n = x.shape[axis]
        out = int(n * factor) if size is None else per_axis(size, count)[axis - 2]
        kept = out == n or (mode == "nearest" and out == 2 * n)  # then the factor itself does not matter
        step = Fraction(n, out) if size is not None or kept else 1 / Fraction(factor)
        if mode == "nearest":
            x = np.take(x, [min(int(i * step), n - 1) for i in range(out)], axis)
            continue
        if align_corners:
            places = [Fraction(i * (n - 1), max(out - 1, 1)) for i in range(out)]
        else:
            places = [max((i + Fraction(1, 2)) * step - Fraction(1, 2), 0) for i in range(out)]
        low = [min(int(at), n - 1) for at in places]
        share = np.array([float(at - i) for at, i in zip(places, low, strict=True)])
        a, b = (np.moveaxis(np.take(x, index, axis), axis, -1) for index in (low, [min(i + 1, n - 1) for i in low]))
        x = np.moveaxis(a + share * (b - a), -1, axis)
    return x


def flatten(x, *, start_dim, end_dim):
    start, end = start_dim % x.ndim, end_dim % x.ndim
    return x.reshape(*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :])


def pixel_shuffle(x, *, upscale_factor):
    r = upscale_factor
    y = np.zeros((*x.shape[:-3], x.shape[-3] // r**2, x.shape[-2] * r, x.shape[-1] * r))
    for *_, c, i, j in np.ndindex(y.shape):
        y[..., c, i, j] = x[..., c * r**2 + i % r * r + j % r, i // r, j // r]
    return y


def pixel_unshuffle(x, *, downscale_factor):
    r = downscale_factor
    y = np.zeros((*x.shape[:-3], x.shape[-3] * r**2, x.shape[-2] // r, x.shape[-1] // r))
    for *_, c, i, j in np.ndindex(x.shape):
        y[..., c * r**2 + i % r * r + j % r, i // r, j // r] = x[..., c, i, j]
    return y

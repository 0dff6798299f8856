"""Pooling, resampling and padding of `minigan.nn.functional` against plain NumPy."""

import itertools
import math

import numpy as np
import pytest
from values import close, host, normal, t, z

import minigan as mg
import minigan.nn.functional as F


def windows(size, kernel, stride, padding, ceil_mode, dilation=1):
    """Per window: the places inside, and how many places there are when padding counts."""
    span = dilation * (kernel - 1) + 1
    count = (math.ceil if ceil_mode else math.floor)((size + 2 * padding - span) / stride) + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    for i in range(count):
        places = [i * stride - padding + k * dilation for k in range(kernel)]
        yield [p for p in places if 0 <= p < size], sum(p < size + padding for p in places)


POOLS = list(itertools.product([2, 3], [1, 2, 3], [0, 1], [False, True]))


@pytest.mark.parametrize(("kernel", "stride", "padding", "ceil_mode"), POOLS)
def test_pools(kernel, stride, padding, ceil_mode):
    x = normal(2, 3, 6, 7)
    rows = list(windows(6, kernel, stride, padding, ceil_mode))
    columns = list(windows(7, kernel, stride, padding, ceil_mode))

    def pooled(value):
        grid = [[value(x[:, :, r][:, :, :, c], n * m) for c, m in columns] for r, n in rows]
        return np.moveaxis(np.array(grid), (0, 1), (2, 3))

    args = t(x), kernel, stride, padding
    close(F.avg_pool2d(*args, ceil_mode), pooled(lambda block, count: block.sum((2, 3)) / count))
    close(F.avg_pool2d(*args, ceil_mode, False), pooled(lambda block, count: block.mean((2, 3))))
    close(F.avg_pool2d(*args, ceil_mode, divisor_override=5), pooled(lambda block, count: block.sum((2, 3)) / 5))
    y, where = F.max_pool2d(*args, ceil_mode=ceil_mode, return_indices=True)
    close(y, pooled(lambda block, count: block.max((2, 3))))
    np.testing.assert_array_equal(
        np.take_along_axis(x.reshape(2, 3, -1), host(where).reshape(2, 3, -1), 2), host(y).reshape(2, 3, -1)
    )
    close(F.max_pool2d(t(x[0]), kernel, stride, padding, ceil_mode=ceil_mode), host(y)[0])


def test_max_pool_with_dilation():
    x = normal(1, 1, 7, 7)
    spots = [places for places, _ in windows(7, 3, 2, 1, False, 2)]
    right = [[x[0, 0][np.ix_(r, c)].max() for c in spots] for r in spots]
    close(F.max_pool2d(t(x), 3, 2, 1, 2)[0, 0], right)


@pytest.mark.parametrize("size", [1, 3, (2, 5), (None, 4), (6, 7)])
def test_adaptive_avg_pool(size):
    x = normal(2, 3, 6, 7)
    out = [n if o is None else o for n, o in zip(x.shape[2:], np.broadcast_to(np.array(size, object), 2), strict=True)]
    edges = [[(i * n // o, -(-(i + 1) * n // o)) for i in range(o)] for n, o in zip(x.shape[2:], out, strict=True)]
    right = [[x[:, :, a:b, c:d].mean((2, 3)) for c, d in edges[1]] for a, b in edges[0]]
    close(F.adaptive_avg_pool2d(t(x), size), np.moveaxis(np.array(right), (0, 1), (2, 3)))


@pytest.mark.parametrize("out", [(12, 7), (6, 14), (4, 9), (3, 3)])
def test_interpolate_nearest(out):
    x = normal(2, 3, 6, 7)
    rows, columns = (np.arange(o) * n // o for o, n in zip(out, x.shape[2:], strict=True))
    close(F.interpolate(t(x), size=out), x[:, :, rows][:, :, :, columns])


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("out", [(12, 7), (4, 9), (1, 1)])
def test_interpolate_bilinear(out, align):
    def mixed(x, axis, o):
        n = x.shape[axis]
        if align:
            at = np.linspace(0, n - 1, o) if o > 1 else np.zeros(1)
        else:
            at = np.clip((np.arange(o) + 0.5) * n / o - 0.5, 0, n - 1)
        return np.apply_along_axis(lambda line: np.interp(at, np.arange(n), line), axis, x)

    x = normal(2, 3, 6, 7)
    right = mixed(mixed(x, 2, out[0]), 3, out[1])
    close(F.interpolate(t(x), size=out, mode="bilinear", align_corners=align), right)
    close(F.interpolate(t(x[:, :, 0]), size=out[1], mode="linear", align_corners=align), mixed(x[:, :, 0], 2, out[1]))


def test_interpolate_by_scale_factor():
    x = t([[[1.0, 2.0, 3.0]]])
    assert F.interpolate(x, scale_factor=2).tolist() == [[[1, 1, 2, 2, 3, 3]]]
    assert F.interpolate(x, scale_factor=1.7).shape == (1, 1, 5)
    assert F.interpolate(x, scale_factor=1.7).tolist() == [[[1, 1, 2, 2, 3]]]  # ⌊i / 1.7⌋
    assert F.upsample(mg.zeros(1, 1, 2, 3), scale_factor=(2, 3)).shape == (1, 1, 4, 9)
    shrunk = F.interpolate(mg.arange(10.0).reshape(1, 1, 10), scale_factor=0.33, recompute_scale_factor=True)
    assert shrunk.tolist() == [[[0.0, 3.0, 6.0]]]


def test_pixel_shuffle():
    x = normal(2, 12, 3, 4)
    y = F.pixel_shuffle(t(x), 2)
    assert y.shape == (2, 3, 6, 8)
    for c, i, j in itertools.product(range(3), range(6), range(8)):
        assert host(y)[1, c, i, j] == x[1, c * 4 + (i % 2) * 2 + j % 2, i // 2, j // 2]
    close(F.pixel_unshuffle(y, 2), x)
    close(F.pixel_unshuffle(F.pixel_shuffle(t(x[0, :9]), 3), 3), x[0, :9])


@pytest.mark.parametrize(
    ("mode", "name"), [("constant", "constant"), ("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")]
)
def test_pad(mode, name):
    x = normal(2, 3, 4, 5)
    close(F.pad(t(x), (2, 1, 0, 3), mode), np.pad(x, [(0, 0), (0, 0), (0, 3), (2, 1)], name))


def test_results_of_images_lie_channels_last():
    x = mg.zeros(2, 6, 8, 4).movedim(-1, 1)  # (2, 4, 6, 8) on channels-last memory
    for y in (
        F.conv2d(x, mg.zeros(5, 4, 3, 3)),
        F.conv_transpose2d(x, mg.zeros(4, 5, 3, 3), mg.zeros(5)),
        F.batch_norm(x, None, None, training=True),
        F.instance_norm(x),
        F.group_norm(x, 2),
        F.avg_pool2d(x, 2),
        F.avg_pool2d(x, 3, 2, 1),
        F.max_pool2d(x, 2),
        F.interpolate(x, scale_factor=2),
        F.interpolate(x, scale_factor=2, mode="bilinear"),
        F.pixel_shuffle(x, 2),
        F.pixel_unshuffle(x, 2),
        F.pad(x, (1, 1, 1, 1)),
        F.pad(x, (1, 1, 1, 1), mode="reflect"),
        F.dropout(x),
        F.leaky_relu(x, 0.2),
    ):
        assert y.movedim(1, -1).is_contiguous()


ERRORS = [
    (lambda: F.max_pool2d(z(1, 1, 2, 2), 3), RuntimeError, "empty output"),
    (lambda: F.avg_pool2d(z(1, 1, 4, 4), 2, padding=2), RuntimeError, "got padding 2, expected 0 to 1"),
    (lambda: F.avg_pool2d(z(4, 4), 2), RuntimeError, r"avg_pool2d: got input of shape \(4, 4\)"),
    (lambda: F.interpolate(z(1, 1, 4)), ValueError, "expected one of size and scale_factor"),
    (lambda: F.interpolate(z(1, 1, 4), 2, mode="bilinear"), NotImplementedError, "expected 4 axes for mode 'bilinear'"),
    (lambda: F.interpolate(z(1, 1, 4), 2, align_corners=True), ValueError, "align_corners"),
    (lambda: F.interpolate(z(1, 1, 4), 0), RuntimeError, "must be positive"),
    (lambda: F.interpolate(z(1, 1, 4, 4), 8, mode="bicubic"), NotImplementedError, "got mode 'bicubic'"),
    (lambda: F.pixel_shuffle(z(1, 3, 2, 2), 2), RuntimeError, "divisible by the square of upscale_factor 2"),
    (lambda: F.pixel_unshuffle(z(1, 3, 3, 2), 2), RuntimeError, "divisible by downscale_factor 2"),
    (lambda: F.pad(z(1, 1, 4, 4), (4, 4), "reflect"), RuntimeError, "at most 3 is possible"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS)
def test_misuse(call, kind, message):
    with pytest.raises(kind, match=message):
        call()

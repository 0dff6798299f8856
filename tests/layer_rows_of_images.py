"""Rows of the layers that drop, pool, resize and move values, for test_layer_properties."""

import math
from functools import partial

import layer_oracles as right
import numpy as np
from hypothesis import strategies as st
from layer_rows import BATCHES, SAMPLES, by_random, options, row, together
from strategies import DISTINCT, REAL, shapes

import minigan as mg
from minigan import nn

# Dropout, pooling, resizing, moving -------------------------------------------------------------------------


def seeded(layer):
    """The same noise in every call."""

    def make(seed, **chosen):
        mg.manual_seed(seed)
        return layer(**chosen)

    return make


def resizing(*modes):
    """By size or by factor, for each axis or for all; linearly with aligned corners or without."""

    def make(rng):
        ndim, mode = rng.choice(modes)
        way, values = rng.choice([("size", [1, 3, 4, 7]), ("scale_factor", [0.5, 1.5, 2, 3, 1.25])])
        several = tuple(rng.choice(values) for _ in range(ndim))
        chosen = {"ndim": ndim, "mode": mode, way: rng.choice([several, several[0]])}
        return chosen if mode == "nearest" else chosen | {"align_corners": rng.random() < 0.5}

    return by_random(make)


def images(domain=REAL, low=2, high=5, multiple=(1, 1, 1)):
    """(N, C, H, W) or (C, H, W), of multiples of some sizes."""
    sizes = st.tuples(st.integers(1, 2), st.integers(low, high), st.integers(low, high))
    return sizes.flatmap(
        lambda at: together(SAMPLES, (tuple(n * m for n, m in zip(at, multiple, strict=True)), domain))
    )


def dropout(layer, whole_channels, shape):
    return row(
        layer, partial(right.dropout, whole_channels=whole_channels),
        options(p=[0.5, 0.2, 0.0, 1.0], seed=[0, 1, 2**40], inplace=[False, True]),
        lambda **_: together(shape, ((), REAL)), make=seeded(layer), view=None,
        dtypes=(mg.float64,),  # on which the noise depends
    )  # fmt: skip


def blocks(ndim, scale_factor=1, **_):
    """(N, C, …) with 1, 2 or 3 spatial axes, not so small that nothing is left."""
    return st.tuples(*[st.integers(math.ceil(1 / np.min(scale_factor)), 4 if ndim < 3 else 3)] * ndim).flatmap(
        lambda size: together(BATCHES, ((1, *size), REAL))
    )


def resizer(ndim, **chosen):
    return nn.Upsample(**chosen)


POOL = {
    "kernel_size": [2, 3, (3, 2)],
    "stride": [None, 1, 2, (1, 3)],
    "padding": [0, 1, (0, 1)],
    "ceil_mode": [False, True],
}


def every_window_has_a_value(x, **chosen):
    return all(places for axis in right.pool_windows(x.shape, **chosen) for places, _ in axis)


IMAGE_LAYERS = [
    dropout(nn.Dropout, False, shapes()),
    dropout(nn.Dropout2d, True, shapes(2, 4)),
    row(
        nn.AvgPool2d, right.avg_pool2d,
        options(**POOL, count_include_pad=[True, False], divisor_override=[None, None, 3]), lambda **_: images(low=3),
    ),
    row(
        nn.AvgPool1d, right.avg_pool1d,
        options(kernel_size=[2, 3], stride=[None, 1, 2], padding=[0, 1], ceil_mode=[False, True],
                count_include_pad=[True, False]), lambda **_: together(SAMPLES, ((2, 5), REAL)),
    ),
    row(
        nn.MaxPool2d, right.max_pool2d, options(**POOL, dilation=[1, 1, 2, (2, 1)], return_indices=[False, True]),
        lambda **_: images(DISTINCT, low=5, high=6), keep=every_window_has_a_value,
    ),
    row(
        nn.AdaptiveAvgPool2d, right.adaptive_avg_pool2d, options(output_size=[1, 2, (3, 1), (None, 2), 5]),
        lambda **_: images(low=1),
    ),
    row(nn.Flatten, right.flatten, options(start_dim=[0, 1, 2, -2], end_dim=[2, -1]),
        lambda **_: together(shapes(3, 4), ((), REAL)), view=None),
    row(
        nn.Unflatten, lambda x, **_: x.reshape(len(x), 2, 2, 3),
        options(dim=[1, -2], unflattened_size=[(2, -1), (2, 2)]), lambda **_: together(BATCHES, ((4, 3), REAL)),
        view=None,
    ),
    row(nn.PixelShuffle, right.pixel_shuffle, options(upscale_factor=[2, 1, 3]),
        lambda upscale_factor: images(low=1, high=3, multiple=(upscale_factor**2, 1, 1)), view=None),
    row(nn.PixelUnshuffle, right.pixel_unshuffle, options(downscale_factor=[2, 1, 3]),
        lambda downscale_factor: images(low=1, high=2, multiple=(1, downscale_factor, downscale_factor)), view=None),
    row(
        nn.Upsample, right.upsample, resizing((1, "nearest"), (2, "nearest"), (3, "nearest")), blocks, "nearest",
        make=resizer,
    ),
    row(
        nn.Upsample, right.upsample, resizing((1, "linear"), (2, "bilinear"), (3, "trilinear")), blocks, "linear",
        make=resizer,
    ),
    row(nn.UpsamplingNearest2d, right.upsample, options(scale_factor=[2, (1.5, 3)]), partial(blocks, 2)),
    row(
        nn.UpsamplingBilinear2d, partial(right.upsample, mode="bilinear", align_corners=True),
        options(size=[5, (1, 4), (3, 7)]), partial(blocks, 2),
    ),
    row(
        nn.ConstantPad2d, lambda x, padding, value: right.border(x, right.sides(padding), "zeros", value),
        options(padding=[1, (0, 1, 2, 0), (-1, 2, 1, -1)], value=[2.5, -1]), lambda **_: images(),
    ),
    row(
        nn.ReflectionPad1d, lambda x, padding: right.border(x, [right.per_axis(padding, 2)], "reflect"),
        options(padding=[1, 2, (0, 1), (2, 0)]), lambda **_: together(SAMPLES, ((2, 3), REAL)),
    ),
    *(
        row(
            layer, lambda x, padding, mode=mode: right.border(x, right.sides(padding), mode),
            options(padding=[1, (0, 1, 2, 0), (2, 1, 0, 1), *more]), lambda **_: images(low=3),
        )
        for layer, mode, more in (
            (nn.ZeroPad2d, "zeros", [(-1, 2, 1, -1), 4]),
            (nn.ReflectionPad2d, "reflect", [2, 0]),
            (nn.ReplicationPad2d, "replicate", [4, 0]),
        )
    ),
]  # fmt: skip

"""Values for tests of layers and functions, and how to compare them with NumPy's."""

import math

import numpy as np

import minigan as mg


def normal(*shape):
    return np.random.default_rng(math.prod(shape) + len(shape)).normal(size=shape)


def uniform(*shape):
    return np.random.default_rng(math.prod(shape) + len(shape)).uniform(0.05, 0.95, size=shape)


def t(array, **kwargs):
    return mg.tensor(array, **kwargs)


def host(x):
    return x.detach().cpu().numpy()


def close(x, expected, tolerance=1e-12):
    assert tuple(x.shape) == np.shape(expected)
    np.testing.assert_allclose(host(x), expected, rtol=tolerance, atol=tolerance, equal_nan=False)


def per_channel(v, ndim):
    return v.reshape(-1, *[1] * (ndim - 2))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def z(*shape, dtype=None):
    return mg.zeros(*shape, dtype=dtype)

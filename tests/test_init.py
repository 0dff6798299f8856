"""nn.init: the distributions, their fans and gains, and what each refuses."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigan as mg
from minigan.nn import init

SQRT2 = math.sqrt(2)


def host(x):
    return x.detach().cpu().numpy().astype(np.float64)


def empty(*shape, dtype=mg.float32):
    return mg.full(shape, math.nan, dtype=dtype)


def check_uniform(x, bound):
    values = host(x).ravel() / bound
    assert np.abs(values).max() <= 1 + 1e-6
    check_quantiles(values, (np.sort(values) + 1) / 2)


def check_normal(x, std):
    values = host(x).ravel() / std
    check_quantiles(values, np.array([0.5 * (1 + math.erf(v / SQRT2)) for v in np.sort(values)]))


def check_quantiles(values, distribution):
    """Kolmogorov and Smirnov's distance of a sample: above 2/√n it is no chance."""
    empirical = (np.arange(values.size) + 0.5) / values.size
    assert np.abs(distribution - empirical).max() < 2 / math.sqrt(values.size)


DRAWS = {
    "uniform_": lambda x, generator: init.uniform_(x, -2, 3, generator=generator),
    "normal_": lambda x, generator: init.normal_(x, 1, 2, generator=generator),
    "trunc_normal_": lambda x, generator: init.trunc_normal_(x, generator=generator),
    "xavier_uniform_": lambda x, generator: init.xavier_uniform_(x, generator=generator),
    "xavier_normal_": lambda x, generator: init.xavier_normal_(x, generator=generator),
    "kaiming_uniform_": lambda x, generator: init.kaiming_uniform_(x, generator=generator),
    "kaiming_normal_": lambda x, generator: init.kaiming_normal_(x, generator=generator),
    "orthogonal_": lambda x, generator: init.orthogonal_(x, generator=generator),
    "sparse_": lambda x, generator: init.sparse_(x, 0.5, generator=generator),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("dtype", [mg.float16, mg.float32, mg.float64])
def test_a_generator_decides_the_values(name, dtype):
    fill = DRAWS[name]
    x = fill(empty(6, 5, dtype=dtype), mg.Generator().manual_seed(3))
    again = fill(empty(6, 5, dtype=dtype), mg.Generator().manual_seed(3))
    other = fill(empty(6, 5, dtype=dtype), mg.Generator().manual_seed(4))
    assert x.dtype == dtype
    assert x.tolist() == again.tolist() != other.tolist()
    mg.manual_seed(5)
    default = fill(empty(6, 5), None)
    mg.manual_seed(5)
    assert fill(empty(6, 5), None).tolist() == default.tolist()


@pytest.mark.parametrize("name", DRAWS)
def test_parameters_are_changed_in_place_and_unrecorded(name):
    x = mg.zeros(4, 6, requires_grad=True)
    before = x._version
    assert DRAWS[name](x, None) is x
    assert x.is_leaf
    assert x.requires_grad
    assert x._version > before


def test_uniform_and_normal():
    check_uniform(init.uniform_(empty(4000), -2, 2), 2)
    check_uniform(init.uniform_(empty(4000), 1, 3) - 2, 1)
    check_normal(init.normal_(empty(4000), 3, 2) - 3, 2)


def test_constants():
    assert init.constant_(empty(2), 0.5).tolist() == [0.5, 0.5]
    assert init.ones_(empty(2)).tolist() == [1, 1]
    assert init.zeros_(empty(2)).tolist() == [0, 0]


@given(st.floats(-3, 3), st.floats(0.1, 3), st.floats(-4, 0), st.floats(0.1, 4))
def test_trunc_normal(mean, std, a, width):
    b = a + width
    values = host(init.trunc_normal_(empty(3000, dtype=mg.float64), mean, std, a, b))
    assert values.min() >= a
    assert values.max() <= b
    below, above = (math.erf((end - mean) / std / SQRT2) for end in (a, b))
    if above - below > 1e-6:  # else the tail is beyond float64's erf
        distribution = np.array([math.erf((v - mean) / std / SQRT2) for v in np.sort(values)])
        check_quantiles(values, (distribution - below) / (above - below))


def test_inverse_erf():
    u = np.concatenate([np.linspace(-0.999999, 0.999999, 2001), [0.0, 1e-12, -1e-300]])
    x = init._inverse_erf(u)
    np.testing.assert_allclose([math.erf(v) for v in x], u, rtol=1e-9, atol=1e-15)


def test_gains():
    for name in ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose2d", "sigmoid"):
        assert init.calculate_gain(name) == 1
    assert init.calculate_gain("tanh") == 5 / 3
    assert init.calculate_gain("relu") == SQRT2
    assert init.calculate_gain("selu") == 0.75
    assert init.calculate_gain("leaky_relu") == math.sqrt(2 / (1 + 0.01**2))
    assert init.calculate_gain("leaky_relu", 1) == 1
    with pytest.raises(ValueError, match="negative slope, got True"):
        init.calculate_gain("leaky_relu", True)
    with pytest.raises(ValueError, match="'swish' is none of"):
        init.calculate_gain("swish")


SHAPES = [(40, 60), (20, 10, 12), (16, 8, 4, 5), (10, 6, 3, 3, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_xavier_and_kaiming_scales(shape):
    kernel = math.prod(shape[2:])
    fan_in, fan_out = shape[1] * kernel, shape[0] * kernel
    std = 2 * math.sqrt(2 / (fan_in + fan_out))
    check_uniform(init.xavier_uniform_(empty(*shape), gain=2), std * math.sqrt(3))
    check_normal(init.xavier_normal_(empty(*shape), gain=2), std)
    check_uniform(init.kaiming_uniform_(empty(*shape), a=math.sqrt(5)), math.sqrt(1 / fan_in))
    check_uniform(init.kaiming_uniform_(empty(*shape), nonlinearity="relu"), math.sqrt(6 / fan_in))
    check_normal(init.kaiming_normal_(empty(*shape), mode="fan_out", nonlinearity="relu"), math.sqrt(2 / fan_out))


def test_fans_need_two_axes():
    for fill in (init.xavier_uniform_, init.kaiming_normal_):
        with pytest.raises(ValueError, match=rf"{fill.__name__}: .*2 axes, got shape \(3,\)"):
            fill(empty(3))
    with pytest.raises(ValueError, match="mode 'fan' is neither"):
        init.kaiming_uniform_(empty(2, 2), mode="fan")


def test_tensors_without_values():
    for fill in (init.xavier_uniform_, init.kaiming_normal_, init.orthogonal_, init.trunc_normal_):
        assert fill(empty(0, 3)).shape == (0, 3)


def test_eye():
    np.testing.assert_array_equal(host(init.eye_(empty(2, 3))), np.eye(2, 3))
    with pytest.raises(ValueError, match="expected a tensor of 2 axes"):
        init.eye_(empty(2))


@pytest.mark.parametrize("kernel", [(3,), (3, 5), (1, 3, 4)])
@pytest.mark.parametrize(("out", "fan", "groups"), [(4, 4, 1), (4, 2, 2), (6, 5, 1), (6, 1, 3)])
def test_dirac(kernel, out, fan, groups):
    w = host(init.dirac_(empty(out, fan, *kernel), groups))
    middle = tuple(k // 2 for k in kernel)
    per_group = out // groups
    expected = [[float(o % per_group == i) for i in range(fan)] for o in range(out)]
    np.testing.assert_array_equal(w[(..., *middle)], expected)
    assert np.count_nonzero(w) == np.count_nonzero(expected)


def test_dirac_refuses():
    with pytest.raises(ValueError, match="divided into 2 groups"):
        init.dirac_(empty(3, 1, 1), 2)
    with pytest.raises(ValueError, match="3 or 4 or 5 axes"):
        init.dirac_(empty(3, 1))


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (4, 3, 2, 2), (1, 5)])
def test_orthogonal(shape):
    w = host(init.orthogonal_(empty(*shape, dtype=mg.float64), gain=3)).reshape(shape[0], -1)
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(gram, 9 * np.eye(min(w.shape)), atol=1e-12)
    with pytest.raises(ValueError, match="at least 2 axes"):
        init.orthogonal_(empty(3))


def test_orthogonal_favours_no_sign():
    first = [host(init.orthogonal_(empty(2, 2)))[0, 0] for _ in range(200)]
    assert 60 < np.count_nonzero(np.array(first) > 0) < 140


def test_sparse():
    w = host(init.sparse_(empty(10, 300), 0.25, std=2.0))
    assert ((w == 0).sum(0) == 3).all()  # ⌈2.5⌉ of every column
    check_normal(mg.tensor(w[w != 0]), 2.0)
    assert len({tuple(column) for column in (w == 0).T}) > 50
    with pytest.raises(ValueError, match="2 axes"):
        init.sparse_(empty(3), 0.1)


def test_old_names():
    for name in ("uniform", "normal", "constant", "eye", "dirac", "xavier_uniform", "xavier_normal",
                 "kaiming_uniform", "kaiming_normal", "orthogonal", "sparse"):  # fmt: skip
        assert getattr(init, name) is getattr(init, f"{name}_")

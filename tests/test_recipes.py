"""Each recipe's networks: their sizes, counted by hand; TensorFlow's padding against an oracle; two real steps."""

import math

import numpy as np
import pytest

import minigan as mg
from minigan import nn
from minigan.data.source import Data
from minigan.gan.recipes import NAMES, POINTS, get_recipe
from minigan.gan.recipes.dcgan_28 import UpSame
from minigan.gan.recipes.mlp import Maxout
from minigan.gan.settings import SettingsError
from minigan.gan.trainer import Trainer

pytestmark = pytest.mark.skipif(mg.get_default_device().type != "cpu", reason="settings.device names the CPU")
GREY, COLOUR = (1, 32, 32), (3, 32, 32)


def conv(*channels, k=4):
    """Weights of convolutions from channels to channels."""
    return sum(a * b * k * k for a, b in zip(channels, channels[1:], strict=False))


def dense(*sizes):
    """Weights and biases of linear maps from size to size."""
    return sum(a * b + b for a, b in zip(sizes, sizes[1:], strict=False))


def norms(*channels):
    return 2 * sum(channels)


def dcgan_32(channels, pack=1):
    G = conv(100, 256, 128, 64, channels) + norms(256, 128, 64)
    return G, conv(channels * pack, 64, 128, 256, 1) + norms(128, 256)


SIZES = {  # recipe: the data's shape, the numbers of parameters of G and of D
    "gan": ((1, 28, 28), dense(100, 1200, 1200, 784), dense(784, 240 * 5) + dense(240, 240 * 5) + dense(240, 1)),
    "mlp-conv": (
        (1, 28, 28), dense(64, 128, 128, 784), conv(1, 64, 128, k=5) + 64 + 128 + dense(7 * 7 * 128, 1),
    ),
    "dcgan-28": (
        (1, 28, 28),
        100 * 7 * 7 * 256 + norms(7 * 7 * 256) + conv(256, 128, 64, 1, k=5) + norms(128, 64),
        conv(1, 64, 128, k=5) + 64 + 128 + dense(7 * 7 * 128, 1),
    ),
    "dcgan-32": (COLOUR, *dcgan_32(3)),
    "dcgan-64": (
        (3, 64, 64),
        conv(100, 512, 256, 128, 64, 3) + norms(512, 256, 128, 64),
        conv(3, 64, 128, 256, 512, 1) + norms(128, 256, 512),
    ),
    "wgan": (GREY, *dcgan_32(1)),
    "wgan-gp": (GREY, dcgan_32(1)[0], dcgan_32(1)[1] + 128 + 256),  # InstanceNorm is as large; biases before it
    "lsgan": (GREY, *dcgan_32(1)),
    "hinge-sn": (GREY, dcgan_32(1)[0], conv(1, 64, 128, 256, 1) + 128 + 256),  # biases in place of norms
    "stacked": (COLOUR, *dcgan_32(3, pack=2)),
}  # fmt: skip
PUBLISHED = {  # numbers that PyTorch's DCGAN example and TensorFlow's tutorial print
    "dcgan-64": (3_576_704, 2_765_568),
    "dcgan-28": (2_305_472, 212_865),
}
PACGAN = (
    dense(2, 400, 400, 400, 400, 2) + norms(400, 400, 400, 400),
    dense(2, 5 * 200) + 2 * dense(200, 5 * 200) + dense(200, 1),
)


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("recipe", SIZES)
def test_numbers_of_parameters(recipe):
    shape, *expected = SIZES[recipe]
    G, D = get_recipe(recipe).networks(get_recipe(recipe).defaults, shape)
    assert [count(G), count(D)] == expected
    assert PUBLISHED.get(recipe, tuple(expected)) == tuple(expected)


def test_numbers_of_parameters_of_points():
    build, defaults = get_recipe("ring").networks, get_recipe("ring").defaults.changed({"latent": 2, "width": 128})
    for networks, expected in (
        ("quick", (dense(2, *[128] * 5, 2), dense(2, 128, 128, 128, 1))),
        ("unrolled", (dense(2, 128, 128, 2), dense(2, 128, 128, 1))),
        ("pacgan", PACGAN),
    ):
        assert tuple(map(count, build(defaults.changed({"networks": networks}), (2,)))) == expected
    for latent, pack in ((256, 1), (2, 4)):
        G, D = build(defaults.changed({"latent": latent, "pack": pack}), (2,))
        assert (count(G), count(D)) == (dense(latent, *[128] * 5, 2), dense(2 * pack, 128, 128, 128, 1))


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_it_is_and_takes_two_steps(name):
    recipe = get_recipe(name)
    assert recipe.name == recipe.defaults.recipe == name
    assert recipe.summary.endswith(".")
    assert len(recipe.summary) < 120
    small = {"batch": 8, "n_critic": 1, "critic_warmup": 0, "log_every": 1, "limit": 100}
    small |= {"width": 8} if hasattr(recipe.defaults, "width") else {}
    trainer = Trainer(recipe.defaults.changed(small))
    assert trainer.warnings == []
    before = [p.detach().clone() for p in [*trainer.G.parameters(), *trainer.D.parameters()]]
    for _ in range(2):
        record = trainer.step()
        assert all(math.isfinite(value) for value in record.values())
    after = [*trainer.G.parameters(), *trainer.D.parameters()]
    assert all((p != q).any() for p, q in zip(before, after, strict=True) if p.ndim > 1), "a weight does not move"
    samples = trainer.sample(6)
    assert samples.shape == (6, *trainer.data.shape)
    assert samples.isfinite().all()
    if name not in POINTS:
        assert samples.abs().max() <= 1
    assert trainer.judge(trainer.next_real()).shape == (8 // trainer.settings.pack, 1)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in POINTS])
@pytest.mark.parametrize("pack", [1, 2])
def test_images_of_other_channels_and_packs(name, pack):
    recipe, size = get_recipe(name), 16
    settings = recipe.defaults.changed(
        {"pack": pack, "batch": 4, **({"width": 2} if "width" in vars(recipe.defaults) else {})}
    )
    pixels = np.random.default_rng(0).integers(0, 256, (20, size, size, 2), dtype=np.uint8)
    trainer = Trainer(settings.changed({"n_critic": 1, "critic_warmup": 0}), Data("two channels", pixels))
    trainer.step()
    assert trainer.sample(3).shape == (3, 2, size, size)


def test_dcgan_starts_from_the_papers_weights():
    G, D = get_recipe("dcgan-64").networks(get_recipe("dcgan-64").defaults, (3, 64, 64))
    for layer in [*G.modules(), *D.modules()]:
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert abs(layer.weight.mean().item()) < 0.002
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.weight.mean().item() == pytest.approx(1, abs=0.01)
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.4)
            assert not layer.bias.any()
    assert isinstance(G[-1], nn.Tanh)
    assert not isinstance(D[1], nn.BatchNorm2d)


def test_the_first_gan_starts_from_the_papers_weights():
    G, D = get_recipe("gan").networks(get_recipe("gan").defaults, (1, 28, 28))
    for network, bound in ((G, 0.05), (D, 0.005)):
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                assert 0.99 * bound < layer.weight.abs().max().item() <= bound * (1 + 1e-6)  # float32
                assert not layer.bias.any()


def test_maxout_is_the_largest_of_its_pieces():
    layer, x = Maxout(3, 4, pieces=5), mg.randn(6, 3)
    pieces = x.numpy() @ layer.linear.weight.detach().numpy().T + layer.linear.bias.detach().numpy()
    np.testing.assert_allclose(layer(x).detach().numpy(), pieces.reshape(6, 4, 5).max(2), rtol=1e-5, atol=1e-6)


# TensorFlow's "same" padding, by its documentation: the output has ceil(n / stride) places; the padding in all is
# max((places - 1)·stride + k - n, 0), half of it (rounded down) before.


def same_conv(x, w, stride):
    """x (N, C, H, W) with w (O, C, k, k), in plain loops."""
    n, _, height, width = x.shape
    k = w.shape[2]
    places = [-(-size // stride) for size in (height, width)]
    before = [max((p - 1) * stride + k - size, 0) // 2 for p, size in zip(places, (height, width), strict=True)]
    y = np.zeros((n, len(w), *places))
    for i in range(places[0]):
        for j in range(places[1]):
            for a in range(k):
                for b in range(k):
                    row, column = i * stride + a - before[0], j * stride + b - before[1]
                    if 0 <= row < height and 0 <= column < width:
                        y[:, :, i, j] += x[:, :, row, column] @ w[:, :, a, b].T
    return y


def same_conv_transpose(y, w, stride):
    """same_conv's transpose, to stride times the size, by its definition: ⟨conv(x), y⟩ = ⟨x, conv_t(y)⟩."""
    n, _, *places = y.shape
    shape = (w.shape[1], places[0] * stride, places[1] * stride)
    basis = np.eye(math.prod(shape)).reshape(-1, *shape)
    return np.einsum("xoij,noij->nx", same_conv(basis, w, stride), y).reshape(n, *shape)


@pytest.mark.parametrize("stride", [1, 2])
def test_up_is_tensorflows_transposed_convolution(stride):
    y = np.random.default_rng(0).normal(size=(2, 3, 3, 4)).astype(np.float32)
    layer = UpSame(3, 2) if stride == 2 else nn.ConvTranspose2d(3, 2, 5, 1, padding=2, bias=False)
    weight = next(layer.parameters()).detach().numpy()  # (in, out, k, k): what the convolution from out to in has
    np.testing.assert_allclose(
        layer(mg.from_numpy(y)).detach().numpy(), same_conv_transpose(y, weight, stride), rtol=1e-4, atol=1e-5
    )


def test_dcgan_28_is_tensorflows_network():
    """All of D and of G, with the shipped layers' weights and the oracle's padding."""
    G, D = get_recipe("dcgan-28").networks(get_recipe("dcgan-28").defaults, (1, 28, 28))
    G.eval(), D.eval()

    def leaky(x):
        return np.where(x > 0, x, 0.3 * x)

    convs = [layer for layer in D.modules() if isinstance(layer, nn.Conv2d)]
    linear = D[-1]
    for layer in [*convs, linear]:
        assert not layer.bias.any(), "Keras's biases start at 0"
        nn.init.normal_(layer.bias)
    x = np.random.default_rng(0).uniform(-1, 1, (2, 1, 28, 28)).astype(np.float32)
    h = x
    for layer in convs:
        h = leaky(same_conv(h, layer.weight.detach().numpy(), 2) + layer.bias.detach().numpy()[:, None, None])
        assert h.shape[2] in (14, 7)
    expected = h.reshape(2, -1) @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
    np.testing.assert_allclose(D(mg.from_numpy(x)).detach().numpy(), expected, rtol=1e-4, atol=1e-4)

    with mg.no_grad():
        sizes = [tuple(G[: i + 1](mg.zeros(1, 100)).shape[1:]) for i in (3, 4, 7, 10, 11)]
    assert sizes == [(256, 7, 7), (128, 7, 7), (64, 14, 14), (1, 28, 28), (1, 28, 28)]
    assert [layer.eps for layer in G.modules() if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d))] == [1e-3] * 3
    assert all(layer.negative_slope == 0.3 for layer in [*G, *D] if isinstance(layer, nn.LeakyReLU))


def test_names():
    with pytest.raises(SettingsError, match=r"^no recipe 'dcgan32'; did you mean 'dcgan-32'\? there are: glyphs, gan"):
        get_recipe("dcgan32")
    with pytest.raises(SettingsError, match=r"^no recipe 'x'; there are: glyphs"):
        get_recipe("x")
    for name in ("", "__init__", "../settings", "mlp", "dcgan"):
        with pytest.raises(SettingsError):
            get_recipe(name)

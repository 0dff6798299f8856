"""Tricks and augmentation: each against its definition, in NumPy or in closed form."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from values import close, host

import minigan as mg
from minigan import nn
from minigan.gan.augment import diff_augment
from minigan.gan.penalties import gradient_penalty, r1
from minigan.gan.tricks import EMA, MinibatchStd, critic_steps, instance_noise, latents, pack
from minigan.testing import check_grads


def stream(seed=7):
    return mg.Generator().manual_seed(seed)


# Latents ----------------------------------------------------------------------------------------------


def test_latents_have_the_moments_of_their_distribution():
    z = host(latents(400, 100))
    assert abs(z.mean()) < 0.02
    assert abs(z.std() - 1) < 0.02
    z = host(latents(400, 100, "uniform"))
    assert -1 <= z.min() < -0.99 < 0.99 < z.max() < 1
    assert abs(z.var() - 1 / 3) < 0.01


@given(t=st.floats(0.05, 4))
def test_truncated_latents(t):
    """Within ±t, with the variance of a truncated normal: 1 - 2tφ(t) / (Φ(t) - Φ(-t))."""
    z = host(latents(100, 100, truncation=t, generator=stream()))
    variance = 1 - 2 * t * math.exp(-t * t / 2) / math.sqrt(2 * math.pi) / math.erf(t / math.sqrt(2))
    assert np.abs(z).max() <= t
    assert z.var() == pytest.approx(variance, rel=0.08)


def test_truncation_draws_again_only_what_lies_beyond():
    free, cut = host(latents(9, 9, generator=stream())), host(latents(9, 9, truncation=1.0, generator=stream()))
    inside = np.abs(free) <= 1
    assert (free[inside] == cut[inside]).all()
    assert (free != cut).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gaussian",), "got distribution 'gaussian', expected 'normal' or 'uniform'"),
        (("uniform", 0.5), "truncation is for normal latents"),
        (("normal", 0.0), "got truncation 0.0, expected at least 0.01"),
        (("normal", math.nan), "got truncation nan"),
    ],
)
def test_latents_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        latents(2, 2, *arguments)


# EMA --------------------------------------------------------------------------------------------------


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def train_a_little(G, steps, ema, history):
    optimizer = mg.optim.Adam(G.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        G(mg.randn(8, 3)).square().sum().backward()
        optimizer.step()
        ema.update()
        history.append({name: host(value).copy() for name, value in G.state_dict().items()})


@pytest.mark.parametrize("start", [0, 2, 9])
def test_ema_is_the_average_of_parameters_and_batch_norm_statistics(start):
    G = network()
    ema, history = EMA(G, decay=0.7, start=start), []
    average = {name: host(value).copy() for name, value in G.state_dict().items()}
    train_a_little(G, 5, ema, history)
    for i, state in enumerate(history):
        for name, value in state.items():
            copied = i < start or name.endswith("num_batches_tracked")
            average[name] = value if copied else 0.7 * average[name] + 0.3 * value
    assert {"1.running_mean", "1.running_var", "1.num_batches_tracked"} <= set(average)
    for name, value in ema.module.state_dict().items():
        close(value, average[name], 1e-5)


def test_ema_made_in_the_middle_of_training_is_a_network_of_its_own():
    G = network()
    train_a_little(G, 1, EMA(G), [])
    ema = EMA(G, decay=0.5)
    before = {name: host(value).copy() for name, value in ema.module.state_dict().items()}
    train_a_little(G, 2, EMA(G), [])
    ema.module(mg.randn(8, 3))  # in evaluation: does not touch the statistics
    for name, value in ema.module.state_dict().items():
        close(value, before[name], 0)
    assert G.training
    assert not any(module.training for module in ema.module.modules())
    assert all(not p.requires_grad and p.grad is None for p in ema.module.parameters())
    assert all(p.requires_grad for p in G.parameters())


def test_ema_goes_on_from_its_state_bit_for_bit(tmp_path):
    G = network()
    ema = EMA(G, decay=0.9, start=3)
    train_a_little(G, 2, ema, [])
    mg.save(ema.state_dict(), tmp_path / "ema.safetensors")
    other = EMA(G, decay=0.9, start=3)
    other.load_state_dict(mg.load(tmp_path / "ema.safetensors"))
    for _ in range(4):
        train_a_little(G, 1, ema, [])
        other.update()
    assert other.updates == ema.updates == 6
    for name, value in other.state_dict().items():
        assert (host(value) == host(ema.state_dict()[name])).all()


def test_ema_refuses_another_state():
    ema = EMA(nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="without the key 'updates'"):
        ema.load_state_dict(nn.Linear(2, 2).state_dict())
    with pytest.raises(RuntimeError, match=r"got shape \(3, 2\), expected \(2, 2\)"):
        ema.load_state_dict(EMA(nn.Linear(2, 3)).state_dict() | {"updates": mg.tensor(8)})
    assert ema.updates == 0


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan])
def test_ema_decay_out_of_range(decay):
    with pytest.raises(ValueError, match="EMA: got decay"):
        EMA(nn.Linear(1, 1), decay)


# Instance noise, minibatch standard deviation, packing, critic steps --------------------------------------


@pytest.mark.parametrize(("step", "expected"), [(0, 0.4), (25, 0.3), (75, 0.1), (99, 0.004)])
def test_instance_noise_decays_linearly(step, expected):
    x = mg.full((200, 200), 5.0)
    noise = host(instance_noise(x, step, std=0.4, steps=100) - x)
    assert noise.std() == pytest.approx(expected, rel=0.02)
    assert abs(noise.mean()) < 0.01


def test_instance_noise_ends_and_lets_gradients_through():
    x = mg.randn(3, 2, requires_grad=True)
    assert instance_noise(x, 100, 0.4, 100) is instance_noise(x, 10_000, 0.4, 100) is instance_noise(x, 0, 0, 1) is x
    instance_noise(x, 1, 0.4, 100).sum().backward()
    close(x.grad, np.ones((3, 2)))
    for std, steps in ((-1.0, 10), (math.nan, 10), (0.1, 0)):
        with pytest.raises(ValueError, match="expected std >= 0 and steps > 0"):
            instance_noise(x, 0, std, steps)


@pytest.mark.parametrize("shape", [(8, 3, 2, 2), (8, 5), (2, 3), (1, 3)])
def test_minibatch_std(shape):
    x = mg.randn(*shape, dtype=mg.float64)
    size = min(4, shape[0])
    groups = host(x).reshape(size, shape[0] // size, -1)  # sample i is in group i mod (N / size)
    deviation = np.sqrt(groups.var(0) + 1e-8).mean(1)
    expected = np.array([deviation[i % len(deviation)] for i in range(shape[0])])
    y = MinibatchStd(4)(x)
    close(y[:, :-1], host(x))
    close(y[:, -1:], np.broadcast_to(expected.reshape(-1, *[1] * (len(shape) - 1)), (shape[0], 1, *shape[2:])))
    check_grads(MinibatchStd(4), (x,))


def test_minibatch_std_of_a_collapsed_batch_has_finite_gradients():
    x = mg.ones(8, 3, requires_grad=True)
    y = MinibatchStd()(x)
    y.sum().backward()
    assert np.isfinite(host(x.grad)).all()
    close(y[:, 3], np.full(8, 1e-4), 1e-6)


def test_minibatch_std_of_a_batch_that_does_not_divide():
    with pytest.raises(ValueError, match="a batch of 6 does not divide into groups of 4"):
        MinibatchStd(4)(mg.zeros(6, 2))
    with pytest.raises(ValueError, match="got group_size 1"):
        MinibatchStd(1)


@given(packs=st.integers(1, 4), m=st.integers(1, 3), channels=st.integers(1, 3), size=st.integers(0, 2))
def test_packing_joins_neighbours_along_the_channels(packs, m, channels, size):
    x = mg.randn(packs * m, channels, *[size + 1] * size)
    expected = [np.concatenate(list(host(x)[i * m : (i + 1) * m])) for i in range(packs)]
    close(pack(x, m), np.stack(expected), 0)


def test_packing_a_batch_that_does_not_divide():
    for m in (0, 4):
        with pytest.raises(ValueError, match=f"a batch of 6 does not divide into packs of {m}"):
            pack(mg.zeros(6, 2), m)


def test_critic_steps():
    assert {critic_steps(step, 3) for step in range(1001)} == {3}
    assert [s for s in range(1001) if critic_steps(s, 5, warmup=25) == 100] == [*range(25), 500, 1000]
    assert critic_steps(26, 5, warmup=25) == 5


# DiffAugment ------------------------------------------------------------------------------------------


def images(*shape):
    return mg.randn(*shape, dtype=mg.float64)


@pytest.mark.parametrize("shape", [(60, 2, 8, 8), (60, 1, 16, 9)])
def test_translation_moves_each_image_by_up_to_an_eighth(shape):
    x = images(*shape)
    moved = host(diff_augment(x, "translation"))
    most = [int(size / 8 + 0.5) for size in shape[2:]]
    padded = np.pad(host(x), [(0, 0), (0, 0), *((m, m) for m in most)])
    seen = set()
    for i in range(shape[0]):
        fits = [
            (s, t)
            for s in range(2 * most[0] + 1)
            for t in range(2 * most[1] + 1)
            if (padded[i, :, s : s + shape[2], t : t + shape[3]] == moved[i]).all()
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) > (2 * most[0] + 1) * (2 * most[1] + 1) / 2
    assert {s for s, _ in seen} == set(range(2 * most[0] + 1))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 10), (1, 1)])
def test_cutout_blanks_one_rectangle_of_half_the_side(height, width):
    x = images(200, 3, height, width)
    changed = host(diff_augment(x, "cutout"))
    areas = []
    for before, after in zip(host(x), changed, strict=True):
        gone = (after == 0).all(0)
        rows, columns = gone.any(1), gone.any(0)
        assert (gone == np.outer(rows, columns)).all()
        assert (after == np.where(gone, 0, before)).all()
        areas.append((rows.sum(), columns.sum()))
    side = (int(height / 2 + 0.5), int(width / 2 + 0.5))
    assert max(areas) == side
    assert min(min(a) for a in areas) >= 1  # the centre is in the image
    assert all(r <= side[0] and c <= side[1] for r, c in areas)


def test_color_is_an_affine_change_of_each_image():
    """Of brightness, then saturation about the grey of each place, then contrast about the mean of the image."""
    x = images(50, 3, 4, 4)
    draws = stream()
    b, s, c = (draws.uniform((50, 1, 1, 1), np.float64) for _ in range(3))
    y = host(x) + b - 0.5
    y = (y - y.mean(1, keepdims=True)) * 2 * s + y.mean(1, keepdims=True)
    y = (y - y.mean((1, 2, 3), keepdims=True)) * (c + 0.5) + y.mean((1, 2, 3), keepdims=True)
    close(diff_augment(x, "color", stream()), y)


def test_the_changes_come_in_the_order_of_the_policy():
    x = images(4, 1, 8, 8)
    assert (host(diff_augment(x, "cutout,color")) == 0).sum() == 0
    assert (host(diff_augment(x, " color, cutout ")) == 0).sum() > 0
    assert diff_augment(x, "") is x


@pytest.mark.parametrize("policy", ["color", "translation", "cutout", "color,translation,cutout"])
def test_derivatives_to_second_order(policy):
    """Of a cubic of the augmented images, since the changes themselves are affine."""
    check_grads(lambda x: diff_augment(x, policy, stream()).pow(3), (images(3, 2, 8, 8),), order=2)


def test_gradient_penalties_go_through():
    critic = nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(64, 1))
    x = mg.randn(4, 3, 8, 8)

    def D(x):
        return critic(diff_augment(x))

    (r1(D, x) + gradient_penalty(D, x, -x)).backward()
    assert diff_augment(x).dtype == mg.float32
    for name, p in critic.named_parameters():
        if "weight" in name:
            assert 0 < np.abs(host(p.grad)).max() < np.inf


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("colour", "unknown change 'colour', expected some of color, translation, cutout; did you mean 'color'?"),
        ("color,xyz", "unknown change 'xyz', expected some of color, translation, cutout$"),
    ],
)
def test_unknown_changes(policy, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        diff_augment(mg.zeros(1, 1, 8, 8), policy)


def test_points_are_no_images():
    with pytest.raises(ValueError, match=r"got samples of shape \(4, 2\), expected images"):
        diff_augment(mg.zeros(4, 2))

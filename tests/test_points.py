"""Points whose distribution is known: the modes, the spread and the labels are what they are said to be."""

import math

import numpy as np
import pytest

from minigan.data import grid, ring, swiss_roll


@pytest.mark.parametrize(
    ("make", "count", "apart"),
    [
        (ring, 8, 2 * math.sin(math.pi / 8)),
        (grid, 25, 2.0),
        (lambda n, **k: ring(n, modes=3, radius=2, std=0.3, **k), 3, 3.46),
    ],
)
def test_mixtures(make, count, apart):
    data = make(50_000)
    distances = np.linalg.norm(data.modes[:, None] - data.modes, axis=2)
    assert distances[~np.eye(count, dtype=bool)].min() == pytest.approx(apart, abs=0.01)  # none twice
    np.testing.assert_allclose(data.modes.mean(0), 0, atol=1e-12)
    assert data.values.dtype == np.float32
    assert data.shape == (2,)
    assert len(data.classes) == count

    off = data.values - data.modes[data.labels]
    assert off.std() == pytest.approx(data.std, rel=0.01)
    assert (np.linalg.norm(off, axis=1) < 3 * data.std).mean() == pytest.approx(1 - math.exp(-4.5), abs=0.002)
    assert abs(np.corrcoef(off.T)[0, 1]) < 0.02
    assert np.bincount(data.labels).min() > 0.85 * 50_000 / count


def test_the_published_protocol():
    assert set(np.unique(grid(10).modes)) == {-4, -2, 0, 2, 4}
    np.testing.assert_allclose(np.linalg.norm(ring(10).modes, axis=1), 1)
    assert (ring(10).std, grid(10).std) == (0.01, 0.05)
    assert len(ring()) == len(grid()) == len(swiss_roll()) == 100_000


def test_the_swiss_roll_is_a_blurred_spiral():
    clean = swiss_roll(20_000, noise=0).values.astype(float)
    radius = np.linalg.norm(clean, axis=1)
    assert radius.min() == pytest.approx(1 / 3, abs=0.001)
    assert radius.max() == pytest.approx(1, abs=0.001)
    angle = radius * 4.5 * math.pi
    np.testing.assert_allclose(clean, radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1), atol=1e-5)
    blurred = swiss_roll(20_000, noise=0.05)
    assert (blurred.values - clean).std() == pytest.approx(0.05, rel=0.03)
    assert blurred.labels is None
    assert blurred.modes.shape == (0, 2)


@pytest.mark.parametrize("make", [ring, grid, swiss_roll])
def test_a_seed_names_the_points(make):
    assert make(100).fingerprint() == make(100, seed=0).fingerprint() != make(100, seed=1).fingerprint()


@pytest.mark.parametrize(
    "call",
    [
        lambda: ring(0),
        lambda: ring(5, modes=0),
        lambda: ring(5, modes=-1),
        lambda: grid(5, side=0),
        lambda: grid(5, std=-1),
        lambda: swiss_roll(5, noise=math.nan),
        lambda: ring(5, std=math.inf),
    ],
)
def test_what_cannot_be_drawn_is_refused(call):
    with pytest.raises(ValueError, match=r"(ring|grid|swiss roll): .*expected"):
        call()

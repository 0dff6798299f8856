"""Scores against independent implementations, known floors, removal of each sample, and repeated draws."""

import math

import numpy as np
import pytest
from scipy import linalg

from minigan.gan import metrics
from minigan.gan.metrics import (
    bootstrap,
    classes_covered,
    frechet,
    inception_score,
    kid,
    modes_and_quality,
    modes_found,
    moments,
    pairwise_distance,
    precision_recall_density_coverage,
    reverse_kl,
)


def normal(n, d, seed=0, scale=1.0, shift=0.0):
    return scale * np.random.default_rng(seed).normal(size=(n, d)) + shift


def two(n=40, m=30, d=3):
    """Two samples that overlap in part, the second with twins."""
    real, fake = normal(n, d), normal(m, d, 1, 0.8, 0.5)
    fake[-3:] = fake[0]
    return real, fake


def softmax(x):
    return np.exp(x) / np.exp(x).sum(1, keepdims=True)


# Independent implementations


def frechet_by_sqrtm(x, y):
    a, b = np.cov(x.T), np.cov(y.T)
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)


@pytest.mark.parametrize(("n", "d"), [(50, 2), (200, 16), (300, 64)])
def test_frechet_is_that_of_sqrtm(n, d):
    mix = normal(d, d, 7)  # correlated, of very different variances
    real, fake = normal(n, d) @ mix, normal(n + 9, d, 1) @ mix * 1.3 + 0.2
    expected = frechet_by_sqrtm(real, fake)
    assert frechet(real, fake) == pytest.approx(expected, rel=1e-6)
    assert frechet(moments(real), fake) == pytest.approx(expected, rel=1e-6)
    assert frechet(fake, real) == pytest.approx(expected, rel=1e-6)


def test_frechet_without_full_rank():
    real, fake = normal(20, 40), normal(15, 40, 1)
    centred = [(x - x.mean(0)) / math.sqrt(len(x) - 1) for x in (real, fake)]
    root = linalg.svdvals(centred[0] @ centred[1].T).sum()  # tr (Σᵣ Σ)^½ from the samples themselves
    expected = ((real.mean(0) - fake.mean(0)) ** 2).sum() + sum((c * c).sum() for c in centred) - 2 * root
    score = frechet(real, fake)
    assert score == pytest.approx(expected, rel=1e-6)
    assert np.isfinite(score.influence).all()
    assert frechet(real, real) == pytest.approx(0, abs=1e-6)
    assert frechet(np.ones((5, 3)), np.ones((5, 3))) == 0


def kid_by_loops(x, y):
    def mean(a, b, same):
        pairs = [(p, q) for i, p in enumerate(a) for j, q in enumerate(b) if not (same and i == j)]
        return sum((sum(u * v for u, v in zip(p, q, strict=True)) / len(p) + 1) ** 3 for p, q in pairs) / len(pairs)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def test_kid_is_that_of_loops():
    real, fake = two()
    assert kid(real, fake) == pytest.approx(kid_by_loops(real, fake), rel=1e-6)
    assert kid(real, fake) > 0 > min(kid(normal(30, 3, 2 * seed), normal(30, 3, 2 * seed + 1)) for seed in range(9))


def test_kid_is_what_random_subsets_estimate():
    real, fake = normal(300, 8), normal(300, 8, 1, 0.8)
    numbers = np.random.default_rng(0)
    subsets = [kid(numbers.permutation(real)[:100], numbers.permutation(fake)[:100]) for _ in range(100)]
    assert abs(np.mean(subsets) - kid(real, fake)) < 3 * np.std(subsets) / 10


def prdc_by_loops(real, fake, k):
    def radius(x, i):
        return sorted(math.dist(x[i], x[j]) for j in range(len(x)) if j != i)[k - 1]

    real_radii, fake_radii = ([radius(x, i) for i in range(len(x))] for x in (real, fake))
    n, m = range(len(real)), range(len(fake))
    in_real = [[math.dist(real[i], fake[j]) < real_radii[i] for i in n] for j in m]
    in_fake = [[math.dist(real[i], fake[j]) < fake_radii[j] for j in m] for i in n]
    return (
        np.mean([any(row) for row in in_real]),
        np.mean([any(row) for row in in_fake]),
        np.mean([sum(row) for row in in_real]) / k,
        np.mean([any(in_real[j][i] for j in m) for i in n]),
    )


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("chunk", [2**22, 100])
def test_precision_recall_density_coverage_are_those_of_loops(k, chunk, monkeypatch):
    monkeypatch.setattr(metrics, "_CHUNK", chunk)  # 100 entries: two or three rows at a time
    real, fake = two()
    for x, y in ((real, fake), (fake, real)):
        assert precision_recall_density_coverage(x, y, k) == pytest.approx(prdc_by_loops(x, y, k), abs=1e-6)


def test_distances_do_not_cancel():
    real, fake = two(60, 60)
    near = precision_recall_density_coverage(real, fake)
    assert precision_recall_density_coverage(real + 1e6, fake + 1e6) == near
    assert pairwise_distance(fake + 1e6) == pytest.approx(pairwise_distance(fake), rel=1e-6)
    twins = np.repeat(normal(2, 64, scale=100), 20, axis=0)  # a generator that knows two images
    assert pairwise_distance(twins[:20]) == 0
    collapsed = precision_recall_density_coverage(normal(50, 64, scale=100), twins)
    assert collapsed.recall == 0  # its balls are empty
    shown_twice = normal(50, 64, 3, scale=100, shift=30).repeat(2, axis=0)
    assert (metrics._neighbours(shown_twice, 1)[1] == 0).all()  # and not as small as rounding makes them


def test_pairwise_distance_and_inception_score_are_those_of_loops():
    x = two()[1]
    pairs = [math.dist(x[i], x[j]) for i in range(len(x)) for j in range(i)]
    assert pairwise_distance(x) == pytest.approx(np.mean(pairs), rel=1e-6)
    p = softmax(3 * x)
    divergences = [sum(a * math.log(a / b) for a, b in zip(row, p.mean(0), strict=True)) for row in p]
    assert inception_score(p) == pytest.approx(math.exp(np.mean(divergences)), rel=1e-6)
    assert inception_score(np.eye(10)[np.arange(100) % 10]) == pytest.approx(10)


# Known values


def test_floors_of_equal_distributions():
    bias = [frechet(normal(1000, 64, 2 * seed), normal(1000, 64, 2 * seed + 1)) for seed in range(4)]
    assert np.mean(bias) == pytest.approx(2 * 64 / 1000 + 64 * 65 / 2000, rel=0.05)  # 2.21
    scores = [
        precision_recall_density_coverage(normal(500, 8, 2 * seed), normal(500, 8, 2 * seed + 1)) for seed in range(10)
    ]
    _, _, density, coverage = np.mean(scores, axis=0)
    assert density == pytest.approx(1, abs=0.04)
    expected = 1 - math.prod((500 - j) / (1000 - j) for j in range(1, 6))
    assert expected == pytest.approx(0.969, abs=0.001)
    assert coverage == pytest.approx(expected, abs=0.006)


def test_ideal_samplers_of_modes():
    numbers = np.random.default_rng(0)
    ring = np.stack([np.cos(np.arange(8) * math.pi / 4), np.sin(np.arange(8) * math.pi / 4)], axis=1)
    labels = numbers.integers(8, size=20_000)
    found = modes_and_quality(ring[labels] + 0.01 * numbers.normal(size=(20_000, 2)), ring, 0.01)
    assert (found.modes, found.quality) == (8, pytest.approx(1 - math.exp(-4.5), abs=0.002))  # 98.9%
    assert found.reverse_kl == pytest.approx(7 / 40_000, abs=4e-4)
    stacked = reverse_kl(numbers.integers(1000, size=26_000), 1000)
    assert stacked == pytest.approx(0.019, abs=0.002)


def test_modes_and_quality_by_hand():
    points = [[0, 0], [0.29, 0], [0, 0.31], [4.1, 0], [8, 0.5], [2.1, 0]]
    found = modes_and_quality(points, [[0, 0], [4, 0], [8, 0]], 0.1)
    assert (found.modes, found.quality) == (2, 0.5)
    shares = np.array([3, 2, 1]) / 6
    assert found.reverse_kl == pytest.approx((shares * np.log(3 * shares)).sum())


def test_counts_of_classes():
    labels = [0] * 960 + [1] * 10 + [2] * 9 + [3] * 21
    assert classes_covered(labels, 10) == 3  # ten of a thousand is a tenth of a fair share, nine is less
    assert modes_found(labels, 10) == 4
    assert reverse_kl([4] * 7, 10) == pytest.approx(math.log(10))
    assert reverse_kl(np.arange(10), 10) == 0


# Influences and intervals

EXACT = {
    "precision": lambda x, y: precision_recall_density_coverage(x, y, 2).precision,
    "recall": lambda x, y: precision_recall_density_coverage(x, y, 2).recall,
    "density": lambda x, y: precision_recall_density_coverage(x, y, 2).density,
    "coverage": lambda x, y: precision_recall_density_coverage(x, y, 2).coverage,
    "modes": lambda x, y: modes_and_quality(y, x[:20], 0.2).modes,
    "quality": lambda x, y: modes_and_quality(y, x[:20], 0.2).quality,
    "modes found": lambda x, y: modes_found((9 + 3 * y[:, 0]).astype(int).clip(0, 19), 20),
}
SMOOTH = {
    "frechet": frechet,
    "kid": kid,
    "inception": lambda x, y: inception_score(softmax(y)),
    "reverse_kl": lambda x, y: reverse_kl((9 + y[:, 0]).astype(int).clip(7, 10) - 7, 4),
    "distance": lambda x, y: pairwise_distance(y),
}


def by_removal(score, real, fake):
    """What the score loses without each sample, times n - 1, less its mean."""
    without = np.array([score(real, np.delete(fake, i, axis=0)) for i in range(len(fake))])
    return (len(fake) - 1) * (without.mean() - without)


@pytest.mark.parametrize("name", EXACT)
def test_influence_is_what_a_removal_changes(name):
    real, fake = normal(60, 2), normal(50, 2, 1, 1.2, 0.2)
    expected = by_removal(EXACT[name], real, fake)
    assert expected.std() > 0
    np.testing.assert_allclose(EXACT[name](real, fake).influence, expected, atol=1e-9)


@pytest.mark.parametrize("name", SMOOTH)
def test_influence_is_about_what_a_removal_changes(name):
    real, fake = normal(300, 3), normal(300, 3, 1, 1.2, 0.2)
    influence, expected = SMOOTH[name](real, fake).influence, by_removal(SMOOTH[name], real, fake)
    assert np.linalg.norm(influence - expected) < 0.05 * np.linalg.norm(expected)


@pytest.mark.parametrize("shift", [0, 0.4])
def test_intervals_hold_the_mean_of_other_draws(shift):
    """95% of the intervals should; where the jackknife is known to be wide they are not absurdly so."""
    real, draws = normal(200, 6), {}
    for seed in range(1, 61):
        fake = normal(200, 6, 1000 + seed, 1, shift)
        scores = {name: score(real, fake) for name, score in SMOOTH.items()}
        scores |= precision_recall_density_coverage(real, fake)._asdict()
        for name, score in scores.items():
            draws.setdefault(name, []).append((score, *score.interval(seed)))
    for name, rows in draws.items():
        scores, low, high = np.array(rows).T
        mean = scores.mean()
        assert ((low <= scores) & (scores <= high)).all(), name
        assert np.mean((low <= mean) & (mean <= high)) >= 0.88, name
        assert np.mean(high - low) < 2 * 2 * 1.96 * scores.std(), name


def test_resampling_the_samples_themselves_would_be_wrong():
    real, fake = normal(200, 32), normal(200, 32, 1)
    low, _ = bootstrap(lambda rows: frechet(real, fake[rows]), len(fake), resamples=50)
    score = frechet(real, fake)
    assert low > score.interval()[1] > score


def test_intervals_repeat_and_stay_in_bounds():
    real, fake = two(60, 60)
    assert frechet(real, fake).interval(3) == frechet(real, fake).interval(3) != frechet(real, fake).interval(4)
    for score in precision_recall_density_coverage(real, real + 1e-3, 2):
        low, high = score.interval()
        assert 0 <= low <= score <= high
    assert precision_recall_density_coverage(real, real + 1e-3, 2).recall.interval()[1] <= 1
    assert reverse_kl([0] * 11 + [1] * 10 + [2] * 9, 3).interval()[0] == 0


# Refusals


@pytest.mark.parametrize("score", [frechet, kid, precision_recall_density_coverage])
def test_bad_features_are_refused(score):
    good, bad = normal(20, 4), normal(20, 4)
    bad[7, 2] = np.nan
    for pair, which in (((bad, good), "real"), ((good, bad), "fake")):
        with pytest.raises(ValueError, match=f"{which}: NaN or infinity in 1 of 20 samples, first in sample 7"):
            score(*pair)
    with pytest.raises(ValueError, match="got 4 real and 3 fake features"):
        score(good, good[:, :3])
    with pytest.raises(ValueError, match=r"got 1 samples, needs at least"):
        score(good, good[:1])
    with pytest.raises(ValueError, match=r"shape \(4,\), expected \(samples, features\)"):
        score(good, good[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: precision_recall_density_coverage(normal(9, 2), normal(6, 2), 5), "got 6 samples, needs at least 7"),
        (lambda: precision_recall_density_coverage(normal(9, 2), normal(9, 2), 0), "got k=0"),
        (lambda: frechet((np.zeros(3), np.eye(3)), normal(9, 2)), r"mean of shape \(3,\)"),
        (lambda: frechet((np.zeros(2), np.eye(2) * np.nan), normal(9, 2)), "NaN or infinity in the mean"),
        (lambda: inception_score(normal(9, 2)), "use softmax"),
        (lambda: inception_score([[np.nan, 1], [0, 1]]), "NaN"),
        (lambda: pairwise_distance([[1.0]]), "got 1 samples"),
        (lambda: classes_covered([0.5], 10), "float64 labels"),
        (lambda: reverse_kl([0, 10], 10), "got labels 0 to 10, expected 0 to 9"),
        (lambda: modes_found([], 10), "expected integers"),
        (lambda: modes_and_quality(normal(9, 2), normal(3, 3), 0.1), "points in 2 and modes in 3 dimensions"),
        (lambda: modes_and_quality(normal(9, 2), normal(3, 2), np.nan), "std nan"),
    ],
)
def test_other_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""Scores of generated samples: formulas on NumPy arrays of features (N, d), of class probabilities, or of points.

Every formula takes the real samples first and the generated ones second, computes in float64, and refuses NaN. Most
return an `Estimate`: a float that also knows how much each generated sample moved it, from which `bootstrap` makes an
interval without computing the score again. Where features come from is in `features.py`; which scores suit which
data, and their floors, in `evaluate.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from minigan.random import Generator

_CHUNK = 2**22  # entries of a distance matrix held at a time: 32 MiB


class Estimate(float):
    """A score, and the `influence` of each generated sample on it: zero on average, n times what the sample changes.

    For a mean, the influence is a sample's own value less the mean. For a smooth score it is the derivative by the
    sample's weight; for a count, what the score loses when the sample is removed, times n - 1. The variance over n of
    such influences is the jackknife's, which by Efron and Stein's inequality is on average never too small.

    >>> Estimate(0.5, [1, 0]).influence
    array([ 0.5, -0.5])
    """

    influence: np.ndarray
    bounds: tuple[float, float]  # no score of this kind is outside

    def __new__(
        cls, value: float, influence: np.typing.ArrayLike, bounds: tuple[float, float] = (-np.inf, np.inf)
    ) -> Estimate:
        estimate = super().__new__(cls, value)
        estimate.bounds = bounds
        estimate.influence = np.asarray(influence, np.float64)
        estimate.influence = estimate.influence - estimate.influence.mean()
        return estimate

    def interval(self, seed: int = 0) -> tuple[float, float]:
        """The 95% interval: the bootstrap of the influences' mean, around the score.

        Resampling the samples themselves would be wrong for a Fréchet distance, a recall or a count of modes: a
        sample drawn twice looks like a generator with less variety, which moves those scores by more than their
        spread. The influences are linear in the weights, and so have no such bias.
        """
        low, high = bootstrap(lambda rows: self + self.influence[rows].mean(), len(self.influence), seed)
        return max(low, self.bounds[0]), min(high, self.bounds[1])


def bootstrap(score: Callable[[np.ndarray], float], n: int, seed: int = 0, resamples: int = 500) -> tuple[float, float]:
    """The percentile interval (2.5% to 97.5%) of `score(rows)` over random choices of n rows out of n, with repeats.

    >>> import numpy as np
    >>> x = np.arange(100.0)
    >>> low, high = bootstrap(lambda rows: x[rows].mean(), len(x))
    >>> bool(40 < low < 46 and 53 < high < 59)  # 49.5 ± 1.96 · 28.9 / √100
    True
    """
    stream = Generator(name="bootstrap").manual_seed(seed)
    scores = [score(stream.integers(0, n, (n,))) for _ in range(resamples)]
    low, high = np.quantile(scores, [0.025, 0.975], method="nearest")
    return float(low), float(high)


def _checked(name: str, x: np.typing.ArrayLike, least: int = 2) -> np.ndarray:
    """`x` as float64, if it is a matrix of at least `least` rows without NaN and infinity.

    >>> _checked("frechet", [[1.0], [float("nan")]])
    Traceback (most recent call last):
    ValueError: frechet: NaN or infinity in 1 of 2 samples, first in sample 1; did the generator diverge?
    """
    array = np.asarray(x, np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name}: got an array of shape {array.shape}, expected (samples, features)")
    if len(array) < least:
        raise ValueError(f"{name}: got {len(array)} samples, needs at least {least}")
    bad = np.flatnonzero(~np.isfinite(array).all(1))
    if len(bad):
        raise ValueError(
            f"{name}: NaN or infinity in {len(bad)} of {len(array)} samples, first in sample {bad[0]}; "
            "did the generator diverge?"
        )
    return array


def _pair(name: str, real: np.typing.ArrayLike, fake: np.typing.ArrayLike, least: int = 2) -> tuple[np.ndarray, ...]:
    x, y = _checked(f"{name}, real", real, least), _checked(f"{name}, fake", fake, least)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{name}: got {x.shape[1]} real and {y.shape[1]} fake features per sample, expected the same")
    return x, y


def moments(x: np.typing.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance (over n - 1) of samples in rows: what `frechet` also takes in place of the real samples.

    >>> moments([[0.0, 1.0], [2.0, 1.0]])
    (array([1., 1.]), array([[2., 0.],
           [0., 0.]]))
    """
    x = _checked("moments", x)
    mean = x.mean(0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def frechet(real: np.typing.ArrayLike | tuple[np.ndarray, np.ndarray], fake: np.typing.ArrayLike) -> Estimate:
    """Fréchet distance (Heusel et al. 2017) ‖μᵣ - μ‖² + tr(Σᵣ + Σ - 2 (Σᵣ Σ)^½); FID when the features are Inception's.

    It is biased upwards: two samples of n from one Gaussian are about 2d/n + d(d+1)/2n apart, so compare scores of
    the same n only. With n ≤ d the covariance has not full rank; the distance still exists, and its bias is large.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(1000, 4))
    >>> print(f"{frechet(x, x + [2, 0, 0, 0]):.6f}")
    4.000000
    """
    if isinstance(real, tuple):
        mean_real, covariance_real = (np.asarray(part, np.float64) for part in real)
        fake = _checked("frechet, fake", fake)
        d = fake.shape[1]
        if mean_real.shape != (d,) or covariance_real.shape != (d, d):
            raise ValueError(
                f"frechet: got a mean of shape {mean_real.shape} and a covariance of shape "
                f"{covariance_real.shape}, expected ({d},) and ({d}, {d}) as of the fake features"
            )
        if not (np.isfinite(mean_real).all() and np.isfinite(covariance_real).all()):
            raise ValueError("frechet, real: NaN or infinity in the mean or the covariance")
    else:
        real, fake = _pair("frechet", real, fake)
        mean_real, covariance_real = moments(real)
    mean, covariance = moments(fake)
    # With Σᵣ = A Aᵀ and Σ = B Bᵀ, tr (Σᵣ Σ)^½ is the sum of the singular values of Aᵀ B: no root of a matrix that is
    # not symmetric, no eigenvalue made negative by rounding, and no trouble where a covariance has not full rank.
    a, b = _root(covariance_real), _root(covariance)
    u, s, _ = np.linalg.svd(a.T @ b)
    shift = mean - mean_real
    value = shift @ shift + np.trace(covariance_real) + np.trace(covariance) - 2 * s.sum()
    # d tr 2(Σᵣ Σ)^½ = tr(T dΣ), where T = A U S⁻¹ Uᵀ Aᵀ is the linear map that takes Σ's Gaussian to Σᵣ's
    y = fake - mean
    full = s > len(s) * np.finfo(np.float64).eps * s[0]
    transported = ((y @ (a @ u[:, full])) ** 2 / s[full]).sum(1)
    return Estimate(max(value, 0.0), 2 * y @ shift + (y * y).sum(1) - transported, (0, np.inf))


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0))


def kid(real: np.typing.ArrayLike, fake: np.typing.ArrayLike) -> Estimate:
    """Kernel distance (Bińkowski et al. 2018): the squared MMD under (x·y/d + 1)³, unbiased, so negative at times.

    All pairs of all samples are used. The usual mean over 100 random subsets of 1,000 estimates this very number, with
    the noise of the choice added.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(500, 4))
    >>> bool(abs(kid(x[:250], x[250:])) < 0.05 < kid(x[:250], x[250:] + 1))
    True
    """
    x, y = _pair("kid", real, fake)
    within_real = _kernel_sums(x, x, others=True).mean() / (len(x) - 1)
    within, across = _kernel_sums(y, y, others=True) / (len(y) - 1), _kernel_sums(y, x) / len(x)
    return Estimate(within_real + within.mean() - 2 * across.mean(), 2 * (within - across))


def _kernel_sums(x: np.ndarray, y: np.ndarray, others: bool = False) -> np.ndarray:
    """Per row of x, the sum over rows of y (over those but itself, with `others`) of (x·y/d + 1)³."""
    sums = np.empty(len(x))
    for rows in _chunks(len(x), len(y)):
        k = x[rows] @ y.T / x.shape[1] + 1
        k *= k * k
        sums[rows] = k.sum(1) - (k[np.arange(len(k)), np.arange(rows.start, rows.stop)] if others else 0)
    return sums


def inception_score(probabilities: np.typing.ArrayLike) -> Estimate:
    """exp of the mean of KL(p(class | x) ‖ p(class)) (Salimans et al. 2016), over all samples at once: 1 to classes.

    >>> print(f"{inception_score([[1, 0], [0, 1]]):.3f} {inception_score([[1, 0], [1, 0]]):.3f}")
    2.000 1.000
    """
    p = _checked("inception_score", probabilities)
    if (p < 0).any() or not np.allclose(p.sum(1), 1, atol=1e-4):
        raise ValueError("inception_score: expected probabilities, rows of numbers ≥ 0 that add up to 1; use softmax")
    tiny = np.finfo(np.float64).tiny  # 0 log 0 = 0
    divergence = (p * (np.log(np.maximum(p, tiny)) - np.log(np.maximum(p.mean(0), tiny)))).sum(1)
    score = np.exp(divergence.mean())
    return Estimate(score, score * divergence, (1, p.shape[1]))


class Manifold(NamedTuple):
    """What `precision_recall_density_coverage` returns."""

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def precision_recall_density_coverage(real: np.typing.ArrayLike, fake: np.typing.ArrayLike, k: int = 5) -> Manifold:
    """How well the balls around samples, each as wide as the way to its kth neighbour of its kind, hold the others.

    - precision: share of fakes in some real ball; recall: share of reals in some fake ball (Kynkäänniemi et al. 2019)
    - density: mean number of real balls a fake is in, over k; coverage: share of real balls that hold a fake
      (Naeem et al. 2020)

    For N reals and M fakes from one distribution, density is 1 and coverage 1 - ∏ⱼ₌₁ᵏ (N-j)/(M+N-j) on average.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(1000, 8))
    >>> print("{:.2f} {:.2f} {:.2f} {:.2f}".format(*precision_recall_density_coverage(x[:500], x[500:])))
    0.94 0.94 0.94 0.96
    """
    if k < 1:
        raise ValueError(f"precision_recall_density_coverage: got k={k}, expected at least 1")
    x, y = _pair("precision_recall_density_coverage", real, fake, least=k + 2)
    n = len(y)
    _, real_radii, _ = _neighbours(x, k)
    nearest, radii, wider = _neighbours(y, k)
    density, recalled, covered = np.zeros(n), 0, 0
    # Per fake: how many reals its removal uncovers, and how many that hang on one fake at most are recalled without it.
    uncovered, recalled_without = np.zeros(n), np.zeros(n)
    for rows, distances in _distances(x, y):
        in_real = distances < real_radii[rows, None]
        held = in_real.sum(1)
        density += in_real.sum(0)
        covered += int(np.count_nonzero(held))
        uncovered += in_real[held == 1].sum(0)

        in_fake = distances < radii
        holders = in_fake.sum(1)
        recalled += int(np.count_nonzero(holders))
        # Removing a fake takes its ball away, and widens the balls of those it was one of the k neighbours of.
        few = holders <= 1
        rescued = np.zeros((np.count_nonzero(few), n), bool)
        sample, centre = np.nonzero(distances[few] < wider)
        rescued[sample[:, None], nearest[centre]] = True
        recalled_without += (rescued | (holders[few, None] > in_fake[few])).sum(0)
    return Manifold(
        Estimate((density > 0).mean(), density > 0),
        Estimate(recalled / len(x), (1 - n) * recalled_without / len(x), (0, 1)),
        Estimate(density.mean() / k, density / k),
        Estimate(covered / len(x), (n - 1) * uncovered / len(x), (0, 1)),
    )


def _neighbours(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per row of x: its k nearest other rows, and the squared distances to the kth and the k+1st."""
    nearest, radii, wider = np.empty((len(x), k), np.int64), np.empty(len(x)), np.empty(len(x))
    for rows, distances in _distances(x, x):
        distances[np.arange(len(distances)), np.arange(rows.start, rows.stop)] = np.inf
        order = np.argpartition(distances, (k - 1, k), axis=1)[:, : k + 1]
        nearest[rows] = order[:, :k]
        radii[rows], wider[rows] = np.take_along_axis(distances, order[:, k - 1 :], axis=1).T
    return nearest, radii, wider


def _distances(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances from rows of x to all of y, some rows at a time."""
    centre = y.mean(0)
    x, y = x - centre, y - centre  # large norms would cancel in ‖x‖² + ‖y‖² - 2x·y
    # Rounded down by what rounding may have added, so that equal samples are at distance 0.
    shrink = 1 - 4 * x.shape[1] * np.finfo(np.float64).eps
    norms_x, norms_y = shrink * (x * x).sum(1), shrink * (y * y).sum(1)
    for rows in _chunks(len(x), len(y)):
        distances = (-2 * x[rows]) @ y.T
        distances += norms_x[rows, None]
        distances += norms_y
        yield rows, np.maximum(distances, 0, out=distances)


def _chunks(n: int, width: int) -> Iterator[slice]:
    step = max(1, _CHUNK // width)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def pairwise_distance(x: np.typing.ArrayLike) -> Estimate:
    """Mean Euclidean distance between two different samples: near zero when all samples are the same.

    >>> print(f"{pairwise_distance([[0.0, 0.0], [3.0, 4.0]]):.6f}")
    5.000000
    """
    x = _checked("pairwise_distance", x)
    means = np.empty(len(x))
    for rows, distances in _distances(x, x):
        means[rows] = np.sqrt(distances, out=distances).sum(1) / (len(x) - 1)
    return Estimate(means.mean(), 2 * means, (0, np.inf))


def _counts(name: str, labels: np.typing.ArrayLike, classes: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0 or labels.dtype.kind not in "iu":
        raise ValueError(f"{name}: got {labels.dtype} labels of shape {labels.shape}, expected integers (samples,)")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"{name}: got labels {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")
    return labels, np.bincount(labels, minlength=classes)


def classes_covered(labels: np.typing.ArrayLike, classes: int) -> int:
    """How many classes have at least a tenth of a fair share of the samples, n / (10 · classes).

    The share tells a class that is drawn from a class that a classifier's mistakes end in: with 3% mistakes each of
    ten classes gets 0.3% of the samples by mistake, less than the 1% asked for here. A fair sampler of 2,500 passes
    with 15 standard deviations to spare.

    >>> classes_covered([0, 0, 1, 1, 3], classes=4)
    3
    """
    labels, counts = _counts("classes_covered", labels, classes)
    return int(np.count_nonzero(counts * 10 * classes >= len(labels)))


def modes_found(labels: np.typing.ArrayLike, classes: int) -> Estimate:
    """How many classes have at least one sample.

    >>> float(modes_found([0, 2, 2], classes=1000))
    2.0
    """
    labels, counts = _counts("modes_found", labels, classes)
    return Estimate(int(np.count_nonzero(counts)), (len(labels) - 1) * (counts[labels] == 1), (0, classes))


def reverse_kl(labels: np.typing.ArrayLike, classes: int) -> Estimate:
    """KL(p ‖ uniform) = Σ p log(p · classes) of the shares p: 0 when all are equal, log(classes) when one has all.

    >>> print(f"{reverse_kl([0, 1], classes=2):.3f} {reverse_kl([1, 1], classes=2):.3f}")
    0.000 0.693
    """
    labels, counts = _counts("reverse_kl", labels, classes)
    surprise = np.log(np.maximum(counts, 1) * (classes / len(labels)))[labels]
    return Estimate(max(surprise.mean(), 0.0), surprise, (0, np.log(classes)))


class Modes(NamedTuple):
    """What `modes_and_quality` returns."""

    modes: Estimate
    quality: Estimate
    reverse_kl: Estimate


def modes_and_quality(points: np.typing.ArrayLike, modes: np.typing.ArrayLike, std: float) -> Modes:
    """PacGAN's protocol (Lin et al. 2018) for mixtures of equal Gaussians, of which `modes` are the means.

    - quality: share of samples nearer than 3 `std` to the nearest mean; modes: means with at least one such sample
    - reverse_kl: of the shares of samples by nearest mean, against uniform

    >>> found = modes_and_quality([[0.0, 0.0], [0.1, 0.0], [5.0, 0.0]], modes=[[0, 0], [4, 0]], std=0.1)
    >>> float(found.modes), round(found.quality, 2)
    (1.0, 0.67)
    """
    x, means = _checked("modes_and_quality, points", points), _checked("modes_and_quality, modes", modes, least=1)
    if x.shape[1] != means.shape[1]:
        raise ValueError(f"modes_and_quality: got points in {x.shape[1]} and modes in {means.shape[1]} dimensions")
    if not std > 0:
        raise ValueError(f"modes_and_quality: got std {std}, expected a number above 0")
    squared = np.stack([((x - mean) ** 2).sum(1) for mean in means], axis=1)
    nearest = squared.argmin(1)
    high = squared.min(1) < (3 * std) ** 2
    counts = np.bincount(nearest[high], minlength=len(means))
    alone = high & (counts[nearest] == 1)
    return Modes(
        Estimate(int(np.count_nonzero(counts)), (len(x) - 1) * alone, (0, len(means))),
        Estimate(high.mean(), high),
        reverse_kl(nearest, len(means)),
    )

"""Scores beside floors and intervals: which there are, that they repeat, and that they tell good from bad."""

import json

import numpy as np
import pytest

import minigan as mg
from minigan.data.source import Data
from minigan.gan.evaluate import Evaluator, Score, table
from minigan.gan.features import PixelFeatures

IMAGES = ["frechet", "kid", "inception", "precision", "recall", "density", "coverage", "classes", "distance"]
PLAIN = [name for name in IMAGES if name not in ("inception", "classes")]
GLYPHS = mg.data.glyphs(1000)


@pytest.fixture(scope="module")
def evaluator():
    return Evaluator(GLYPHS, samples=500)


@pytest.fixture(scope="module")
def others():
    return mg.data.glyphs(500, seed=1).batch(range(500))[0]


def photos(n, seed=0):
    return Data("photos", np.random.default_rng(seed).integers(0, 256, (n, 16, 16, 3), np.uint8))


# Which scores


def test_scores_of_each_kind_of_data(evaluator, others):
    def scores(data, count=50):
        return list(Evaluator(data, samples=count)(data.batch(range(count))[0]))

    assert list(evaluator(others)) == IMAGES
    assert scores(mg.data.ring(100)) == scores(mg.data.grid(100)) == ["modes", "quality", "reverse_kl"]
    assert scores(mg.data.stacked_glyphs(100)) == ["frechet", "modes", "reverse_kl"]
    assert scores(mg.data.swiss_roll(100)) == scores(photos(100)) == PLAIN


def test_given_features_replace_the_classifier():
    chosen = Evaluator(GLYPHS, PixelFeatures(), samples=50)
    assert list(chosen(GLYPHS.batch(range(50))[0])) == PLAIN
    assert any("not comparable with FID" in note for note in chosen.notes)
    assert any("not full rank" in note for note in chosen.notes)  # 50 samples of 64 features


# What they say


def test_real_samples_get_the_floor(evaluator, others):
    for name, score in evaluator(others).items():
        assert score.low <= score.value <= score.high, name
        width = max(score.high - score.low, 0.02 * abs(score.floor))
        assert abs(score.value - score.floor) < 2 * width, name


def test_bad_samples_do_not(evaluator, others):
    noise = evaluator(mg.randn(500, 1, 28, 28).clamp(-1, 1))
    few = evaluator(mg.cat([others[:5]] * 100))
    one_class = evaluator(mg.from_numpy(others.numpy(force=True)[np.flatnonzero(GLYPHS.labels[:500] >= 0) // 50 * 50]))
    for name, score in noise.items():
        if name not in ("distance", "classes"):
            beyond = score.low > score.floor if score.better == "lower" else score.high < score.floor
            assert beyond, name
    assert few["recall"].high < 0.1 * few["recall"].floor
    assert few["coverage"].high < 0.1 * few["coverage"].floor
    assert few["frechet"].low > few["frechet"].floor
    assert few["classes"].value <= 5 < few["classes"].floor == 10
    assert one_class["recall"].high < one_class["recall"].floor


def test_ring_scores_by_hand():
    data = mg.data.ring(1000)
    points = np.repeat(data.modes[:6], 50, axis=0)
    points[:60] += 0.5  # a fifth of them is far from all
    scores = Evaluator(data, samples=300)(mg.from_numpy(points.astype(np.float32)))
    assert (scores["modes"].value, scores["modes"].floor) == (5, 8)
    assert scores["quality"].value == 0.8
    assert 0.74 < scores["quality"].low < 0.8 < scores["quality"].high < 0.86


def test_an_interval_around_a_count_of_classes():
    """Three of 300 samples are exactly the tenth of a fair share that a class must have."""
    label = np.r_[np.repeat(np.arange(9), 33), 9, 9, 9]
    digits = [np.flatnonzero(GLYPHS.labels == digit) for digit in range(10)]
    rows = [digits[digit][i % len(digits[digit])] for i, digit in enumerate(label)]
    score = Evaluator(GLYPHS, samples=300)(GLYPHS.batch(rows)[0])["classes"]
    assert (score.value, score.low, score.high) in [(10, 9, 10), (9, 9, 10)]


# Reproducible, and separate from training


def test_scores_repeat_to_the_byte_and_leave_the_streams_alone(others):
    def line(seed=0):
        mg.rand(3)  # training goes on in between
        scores = Evaluator(GLYPHS, samples=200, seed=seed)(others)
        return json.dumps({name: score.to_json() for name, score in scores.items()})

    flipped = Data("flipped", GLYPHS.values, GLYPHS.labels, GLYPHS.classes, flip=True)
    states = [mg.random.stream(name).get_state() for name in ("flip", "evaluator", "bootstrap")]
    before = mg.get_rng_state()
    Evaluator(flipped, samples=200)(others)
    assert (mg.get_rng_state() == before).all()
    for name, state in zip(("flip", "evaluator", "bootstrap"), states, strict=True):
        assert (mg.random.stream(name).get_state() == state).all()
    assert line() == line() != line(1)


def test_reference_and_floor_are_disjoint_halves():
    numbers = np.arange(40, dtype=np.float32)[:, None]
    halves = Evaluator(Data("numbers", numbers), samples=100)
    assert halves.samples == 20
    reference = set(halves._samples(halves._rows).numpy(force=True)[:, 0])
    other = set(halves._samples(halves._other_rows).numpy(force=True)[:, 0])
    assert len(reference) == len(other) == 20
    assert not reference & other


def test_flipped_data_have_both_sides():
    values = np.zeros((40, 8, 8, 1), np.uint8)
    values[:, :, 0] = 255
    samples = Evaluator(Data("left", values, flip=True), samples=20)
    left = samples._samples(samples._rows).numpy(force=True)[:, 0, 0, 0] > 0
    assert left.sum() == 10
    assert values[:, :, 0].all()  # the data are as they were


def test_a_generator_is_asked_once_and_samples_may_be_more(evaluator, others):
    asked = []

    def sample(n):
        asked.append(n)
        return others

    scores = evaluator(sample)
    assert asked == [500]
    more = mg.cat([others, others[:10] * 0])
    assert evaluator(more) == evaluator(others.numpy(force=True)) == scores


# Refusals and the table


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (mg.zeros(499, 1, 28, 28), "got 499 samples, scores 500 at a time"),
        (mg.zeros(500, 1, 32, 32), r"got samples of shape \(1, 32, 32\), expected \(1, 28, 28\)"),
        (mg.full((500, 1, 28, 28), float("nan")), "NaN or infinity in 500 of 500 samples; did the generator diverge"),
    ],
)
def test_refusals(evaluator, samples, message):
    with pytest.raises(ValueError, match=message):
        evaluator(samples)


def test_too_few_data_are_refused():
    with pytest.raises(ValueError, match="got 19 samples of ring and samples=2500, needs at least 20 and 10"):
        Evaluator(mg.data.ring(19))


def test_table():
    scores = {"kid": Score(-0.001234567, -0.5, 0.25, 0.0, "lower"), "precision": Score(1, 1, 1, 0.96, "higher")}
    assert table(scores).splitlines() == [
        "score          value  95% interval  floor  better",
        "kid        -0.001235  [-0.5, 0.25]      0   lower",
        "precision          1        [1, 1]   0.96  higher",
    ]

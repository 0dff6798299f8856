"""Drawn digits: the same for the same index, balanced, drawn as their factors say, and fast."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigan.data import glyphs, stacked_glyphs
from minigan.data.glyphs import _factors, _ink, _paths, _shapes, _uniforms


@pytest.fixture(scope="module")
def many():
    return glyphs(5000)


@given(start=st.integers(0, 600), n=st.integers(1, 300))
@settings(max_examples=30, deadline=None)
def test_a_glyph_depends_on_its_index_alone(many, start, n):
    part = glyphs(n, start=start)
    where = slice(start, start + n)
    assert np.array_equal(part.values, many.values[where])
    assert np.array_equal(part.labels, many.labels[where])
    for name, factor in part.factors.items():
        assert np.array_equal(factor, many.factors[name][where]), name


def test_no_two_glyphs_and_no_two_seeds_are_alike(many):
    assert len(np.unique(many.values.reshape(5000, -1), axis=0)) == 5000
    other = glyphs(1000, seed=1)
    assert not (other.values == many.values[:1000]).all(axis=(1, 2, 3)).any()
    assert 0.05 < (other.labels == many.labels[:1000]).mean() < 0.15
    assert np.array_equal(glyphs(10, start=1 << 34).values, glyphs(20, start=(1 << 34) - 6).values[6:16])


def test_labels_are_balanced_and_in_random_order(many):
    tens = many.labels.reshape(-1, 10)
    assert (np.sort(tens, axis=1) == np.arange(10)).all()
    assert np.bincount(tens[:, 0], minlength=10).min() >= 25  # of 50 expected: each digit comes first
    digits, _, _ = _shapes()
    for digit in range(10):
        variants = many.factors["variant"][many.labels == digit]
        kinds = (digits == digit).sum()
        assert np.bincount(variants, minlength=kinds).min() >= 0.7 * len(variants) / kinds


def test_the_images_show_their_factors(many):
    """What is measured in the images moves with its factor as it should, whatever the other factors do."""
    ink = many.values[..., 0] / 255
    total = ink.sum(axis=(1, 2))
    ys, xs = np.mgrid[:28, :28]
    x, y = ((ink * axis).sum(axis=(1, 2)) / total for axis in (xs, ys))
    right, down = xs - x[:, None, None], ys - y[:, None, None]
    leaning = -(ink * right * down).sum(axis=(1, 2)) / (ink * down**2).sum(axis=(1, 2))
    height = np.sqrt((ink * down**2).sum(axis=(1, 2)) / total)
    width = np.sqrt((ink * (right + leaning[:, None, None] * down) ** 2).sum(axis=(1, 2)) / total)

    shapes = 3 * many.labels + many.factors["variant"]
    upright = shapes != 3  # a plain 1 has no width
    names = ["shift_x", "shift_y", "slant", "rotation", "scale", "width", "thickness"]
    inputs = np.stack([many.factors[name] for name in names], axis=1)
    inputs[:, 4:] = np.log(inputs[:, 4:])
    expected = {
        "shift_x": (x, 14), "shift_y": (y, 14), "slant": (leaning, 1), "rotation": (leaning, 0.7),
        "scale": (np.log(height), 1), "width": (np.log(width), 1), "thickness": (np.log(total), 1),
    }  # fmt: skip
    for name, (shown, slope) in expected.items():
        within = np.hstack([inputs, np.eye(30)[shapes]])[upright]  # each shape has its own constant
        found = np.linalg.lstsq(within, shown[upright])[0][names.index(name)]
        assert found == pytest.approx(slope, rel=0.2), name


def test_a_pen_leaves_a_stroke_of_its_width_with_soft_edges():
    xs = np.linspace(-0.5, 0.5, 49, dtype=np.float32)
    points = np.stack([xs, np.full_like(xs, 1 / 28)], axis=1)[None]  # along the middle of row 14
    for radius in (1.0, 1.4, 1.75):
        (image,) = _ink(points[:, :-1], points[:, 1:], np.array([radius], np.float32), 28) / 255
        assert image[:, 14].sum() == pytest.approx(2 * radius, abs=0.1)
        assert image[14, 10:18].min() == 1
        assert image[14].sum() == pytest.approx(14, abs=1.5)
        assert image[:, [0, -1]].max() == 0
    assert 0.1 < ((image > 0) & (image < 1)).sum() / (image > 0).sum() < 0.6


def test_every_shape_is_whole():
    digits, control, weights = _shapes()
    assert sorted(set(digits)) == list(range(10))
    assert np.array_equal(digits, np.sort(digits))
    np.testing.assert_allclose(weights.sum(axis=2), 1, atol=1e-6)  # so that shifting the points shifts the path
    starts, ends = np.split(weights @ control, 2, axis=1)
    lengths = np.linalg.norm(ends - starts, axis=2)
    assert lengths.max() < 0.2  # about two pixels of 28
    assert lengths.min() > 0
    first, last = (ends - starts)[0, [0, -1]]  # a nought is closed: its pen ends in the direction it began in
    assert first @ last > 0.9 * np.linalg.norm(first) * np.linalg.norm(last)


def test_a_hand_is_never_quite_steady():
    draws = _uniforms(0, 0, 100)
    labels, factors = _factors(draws)
    steady, other = (_paths(hand, labels, factors)[0] for hand in (draws, draws[::-1]))
    assert 0.01 < np.abs(steady - other).mean() < 0.05


@pytest.mark.parametrize("size", [16, 28, 32, 64])
def test_sizes(size, many):
    data = glyphs(50, size)
    assert data.shape == (1, size, size)
    assert data.values.dtype == np.uint8
    assert data.values.max() == 255
    assert data.values.mean() == pytest.approx(many.values[:50].mean(), rel=0.05)


def test_a_larger_image_shows_the_same_glyph():
    small, large = glyphs(50, 32).values[..., 0], glyphs(50, 64).values[..., 0]
    halved = large.reshape(50, 32, 2, 32, 2).mean(axis=(2, 4))
    assert np.abs(halved - small).mean() < 4
    assert np.corrcoef(halved.ravel(), small.ravel())[0, 1] > 0.99


def test_digits_lie_within_the_image(many):
    border = np.ones((28, 28, 1), bool)
    border[1:-1, 1:-1] = False
    assert (many.values[:, border[..., 0]] > 0).any(axis=(1, 2)).mean() < 0.01


def test_stacked_glyphs_are_three_independent_ones():
    data = stacked_glyphs(4000, seed=3)
    assert data.shape == (3, 28, 28)
    assert len(data.classes) == 1000
    for channel, unit in enumerate((100, 10, 1)):
        alone = glyphs(4000, seed=3, start=channel << 32)
        assert np.array_equal(data.values[..., channel], alone.values[..., 0])
        assert np.array_equal(data.labels // unit % 10, alone.labels)
    thrice = np.isin(data.labels, np.arange(10) * 111).sum()
    assert 15 <= thrice <= 75  # of 40 expected
    assert len(np.unique(data.labels)) > 950  # of 982 expected


@pytest.mark.parametrize("arguments", [{"n": 0}, {"n": -5}, {"start": -1}, {"size": 8}, {"size": 65}])
def test_what_cannot_be_drawn_is_refused(arguments):
    with pytest.raises(ValueError, match=r"glyphs: got n=.*expected n ≥ 1, start ≥ 0, size 16 to 64"):
        glyphs(**arguments)


def test_drawing_is_fast():
    start = time.process_time()
    glyphs(6000)
    assert time.process_time() - start < 1  # 60,000 in ten seconds; it takes a tenth of that

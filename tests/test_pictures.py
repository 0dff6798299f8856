"""Sheets, scatter pictures, walks and the files they become."""

import errno
import io
import os
import time

import numpy as np
import pytest
from PIL import Image

import minigan as mg
from minigan import files
from minigan.data.source import Data
from minigan.gan import pictures
from minigan.gan.pictures import (
    image_grid,
    sample_picture,
    save_animation,
    save_png,
    scatter,
    slerp,
    walk,
)  # fmt: skip

HIGH, LOW = 255, 0


def test_every_image_of_a_grid_is_where_it_belongs():
    images = np.linspace(-1, 1, 5 * 3 * 4 * 6, dtype=np.float32).reshape(5, 3, 4, 6)
    sheet = image_grid(images, columns=2, padding=3, scale=2)
    assert sheet.shape == (3 * (8 + 3) + 3, 2 * (12 + 3) + 3, 3)
    assert sheet.dtype == np.uint8
    expected = np.full(sheet.shape, pictures.GAP, np.uint8)
    for n in range(5):
        for y in range(8):
            for x in range(12):
                value = images[n, :, y // 2, x // 2].astype(np.float64)
                expected[3 + n // 2 * 11 + y, 3 + n % 2 * 15 + x] = np.rint((value + 1) * 127.5)
    assert np.abs(sheet.astype(int) - expected).max() <= 1  # ties of rounding in float32
    assert (sheet == expected).mean() > 0.99


def test_levels_at_the_ends_and_beyond():
    sheet = image_grid(np.float32([-1, 1, -7, 7, 0, np.inf, -np.inf]).reshape(7, 1, 1, 1), columns=7, padding=0)
    assert sheet[0, :, 0].tolist() == [LOW, HIGH, LOW, HIGH, 128, HIGH, LOW]


def test_nan_is_red_and_nothing_else_is():
    images = mg.zeros(2, 1, 2, 2)
    images[1, 0, 1, 0] = float("nan")
    sheet = image_grid(images, padding=0)
    assert (sheet == (255, 0, 0)).all(-1).sum() == 1
    assert sheet[1, 2].tolist() == [255, 0, 0]


@pytest.mark.parametrize("shape", [(0, 1, 4, 4), (2, 2, 4, 4), (4, 4), (2, 4, 4, 3)])
def test_a_grid_refuses_what_is_no_images(shape):
    with pytest.raises(ValueError, match="image_grid: got shape"):
        image_grid(np.zeros(shape, np.float32))


def test_a_default_grid_is_near_to_square():
    assert image_grid(np.zeros((64, 1, 4, 4)), padding=0).shape == (32, 32, 1)
    assert image_grid(np.zeros((1, 1, 4, 4)), padding=0).shape == (4, 4, 1)
    assert image_grid(np.zeros((3, 1, 4, 4)), columns=8, padding=0).shape == (4, 12, 1)


def colour_at(picture, x, y, limits=(-1, 1, -1, 1)):
    left, right, bottom, top = limits
    last = pictures.SIDE - 1
    return picture[round((top - y) / (top - bottom) * last), round((x - left) / (right - left) * last)].astype(int)


def test_scatter_puts_points_where_they_are():
    points = np.array([[0.5, 0.5], [np.nan, 0], [0, -7]])
    picture = scatter(np.repeat(points, 5, 0), limits=(-1, 1, -1, 1))
    red, _, blue = colour_at(picture, 0.5, 0.5)
    assert red - blue > 150  # orange
    assert colour_at(picture, -0.5, 0.5).tolist() == [255, 255, 255]
    red, _, blue = colour_at(picture, 0, -1)  # what lies outside shows on the border
    assert red - blue > 150
    inked = (picture != 255).any(-1)
    assert inked[:, :195].sum() == 0  # NaN is nowhere
    assert 10 < inked.sum() < 60


def test_scatter_shows_real_points_grey_and_modes_circled():
    real = np.repeat([[-0.5, 0.0]], 50, 0)
    picture = scatter(np.zeros((0, 2)), modes=np.array([[0.5, 0.0]]), limits=(-1, 1, -1, 1), real=real)
    assert np.ptp(colour_at(picture, -0.5, 0)) < 40
    assert colour_at(picture, -0.5, 0).max() < 160
    assert colour_at(picture, 0.5, 0).tolist() == [255, 255, 255]  # a circle is hollow
    red, _, blue = colour_at(picture, 0.5 + 11.4 / 200, 0)
    assert blue - red > 60


@pytest.mark.parametrize("points", [np.zeros((0, 2)), np.ones((3, 2)), np.full((2, 2), np.nan), np.ones((4, 1)),
                                    np.ones((4, 7), np.float32), np.array([[0, 0], [1e30, -1e30]])])  # fmt: skip
def test_scatter_takes_any_points(points):
    assert scatter(points).shape == (400, 400, 3)
    assert scatter(points, real=points).dtype == np.uint8


def test_scatter_is_fast():
    points = np.random.default_rng(0).normal(size=(2500, 2))
    real = np.random.default_rng(1).normal(size=(100_000, 2)).astype(np.float32)
    times = []
    for _ in range(5):
        start = time.thread_time()  # not the wall's: other tests run beside this one
        scatter(points, modes=points[:25], real=real)
        times.append(time.thread_time() - start)
    assert min(times) < 0.1


def test_the_picture_follows_the_data():
    digits = Data("digits", np.zeros((4, 28, 28, 1), np.uint8))
    assert sample_picture(mg.zeros(4, 1, 28, 28), digits).shape == (2 * 58 + 2, 2 * 58 + 2, 1)
    ring = Data("ring", np.eye(2, dtype=np.float32))
    assert sample_picture(mg.zeros(4, 2), ring).shape == (400, 400, 3)


def test_slerp_of_equal_lengths_stays_on_the_sphere():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50, 16))
    b *= np.linalg.norm(a, axis=1, keepdims=True) / np.linalg.norm(b, axis=1, keepdims=True)
    angle = np.arccos((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)))[:, None]
    for t in (0, 0.25, 0.5, 1):
        textbook = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
        np.testing.assert_allclose(slerp(a, b, t), textbook, atol=1e-12)
    np.testing.assert_allclose(slerp(a, b, 0), a, atol=1e-12)
    np.testing.assert_allclose(slerp(a, b, 1), b, atol=1e-12)


def test_slerp_of_unequal_lengths_goes_evenly_from_one_to_the_other():
    a, b = np.array([[1.0, 0, 0]]), np.array([[0, 3.0, 0]])
    assert [round(float(np.linalg.norm(slerp(a, b, t))), 6) for t in (0, 0.25, 0.5, 1)] == [1, 1.5, 2, 3]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("factor", [1, -1, 2, 1 + 1e-7, -1 - 1e-7])
def test_slerp_between_parallel_and_opposite_ends(factor, dtype):
    a = np.random.default_rng(0).normal(size=(4, 8)).astype(dtype)
    b = (a * factor).astype(dtype)
    for t in np.linspace(0, 1, 9):
        point = slerp(a, b, t)
        assert point.dtype == dtype
        expected = (1 - t) * np.linalg.norm(a, axis=1) + t * np.linalg.norm(b, axis=1)
        np.testing.assert_allclose(np.linalg.norm(point, axis=1), expected, rtol=1e-5)
    np.testing.assert_allclose(slerp(a, b, 1), b, atol=1e-5)


def test_slerp_from_nothing():
    zero, one = np.zeros(3), np.array([0.0, 1.0, 0.0])
    assert slerp(zero, zero, 0.5).tolist() == [0, 0, 0]
    assert slerp(zero, one, 1).round(9).tolist() == [0, 1, 0]


@pytest.fixture
def generator():
    return mg.nn.Sequential(mg.nn.Linear(6, 12), mg.nn.Tanh(), mg.nn.Unflatten(1, (3, 2, 2))).eval()


def test_a_walk_is_closed_and_passes_its_latents(generator):
    latents = mg.randn(3, 4, 6)
    frames = walk(generator, latents, frames=12)
    assert len(frames) == 12
    for k in range(3):
        stop = image_grid(generator(latents[k])).astype(int)
        assert np.abs(frames[4 * k] - stop).max() <= 1
    jumps = np.abs(np.diff(frames.astype(int), axis=0, append=frames[:1])).mean((1, 2, 3))
    assert jumps.max() < 3 * jumps.mean()  # also from the last back to the first
    assert (walk(generator, latents[:, 0], frames=5) == walk(generator, latents[:, :1], frames=5)).all()


def test_a_walk_records_no_graph(generator):
    seen = []
    walk(lambda z: seen.append(out := generator(z)) or out, mg.randn(2, 6), frames=2)
    assert not any(out.requires_grad for out in seen)


@pytest.mark.parametrize(("shape", "frames"), [((6,), 3), ((0, 6), 3), ((2, 6), 0)])
def test_a_walk_refuses_what_leads_nowhere(generator, shape, frames):
    with pytest.raises(ValueError, match="walk: got"):
        walk(generator, mg.zeros(*shape), frames)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_gives_back_every_pixel(tmp_path, channels):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    save_png(picture, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        back = np.asarray(image)
    assert (back.reshape(picture.shape) == picture).all()
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("suffix", [".gif", ".png", ".apng", ".GIF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_animations_hold_their_frames(tmp_path, suffix, channels):
    frames = np.random.default_rng(0).integers(0, 256, (9, 6, 8, channels), np.uint8)
    save_animation(frames, tmp_path / f"a{suffix}", pause=50)
    save_animation(frames, tmp_path / f"b{suffix}", pause=50)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    with Image.open(tmp_path / f"a{suffix}") as animation:
        assert animation.n_frames == 9
        assert animation.info["loop"] == 0
        for index, frame in enumerate(frames):
            animation.seek(index)
            assert animation.info["duration"] == 50
            if suffix != ".GIF" and not (suffix == ".gif" and channels == 3):  # a GIF has 256 colours a frame
                shown = np.asarray(animation.convert("RGB"))
                assert (shown == np.broadcast_to(frame, shown.shape)).all()


def test_animations_refuse_other_names_and_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"a\.mp4.*expected a name that ends in \.gif"):
        save_animation(np.zeros((1, 2, 2, 1), np.uint8), tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="no frames"):
        save_animation([], tmp_path / "a.gif")
    with pytest.raises(ValueError, match=r"a picture is uint8.*got float64 of shape \(2, 2\)"):
        save_png(np.zeros((2, 2)), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_an_error_of_the_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fails):
    save_png(np.zeros((2, 2, 1), np.uint8), tmp_path / "a.png")
    old = (tmp_path / "a.png").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, fails, full)
    with pytest.raises(OSError, match="No space left"):
        save_png(np.full((2, 2, 1), 9, np.uint8), tmp_path / "a.png")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.png": old}


def test_a_file_has_its_name_only_once_it_is_on_the_disk(tmp_path, monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(files.os, name, lambda *a, name=name, real=real: order.append(name) or real(*a))
    files.write_atomically(tmp_path / "a", b"whole")
    assert order == ["fsync", "replace", "fsync"]  # the data, the name, the folder


def test_pictures_can_be_read_where_they_were_written(tmp_path):
    save_png(np.zeros((2, 2, 1), np.uint8), tmp_path / "a.png")
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert (tmp_path / "a.png").stat().st_mode == plain.stat().st_mode  # not a temporary file's 0600
    assert Image.open(io.BytesIO((tmp_path / "a.png").read_bytes())).mode == "L"

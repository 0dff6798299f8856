"""A folder of images: what is kept, what is left out and why, and the cache that is complete or absent."""

import errno
import io
import os
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from minigan.data import CheckReport, DataError, check_data, open_data
from minigan.data.files import cache as cache_module
from minigan.data.files import folder as folder_module
from minigan.data.files.check import one_line


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "pets"
    path.mkdir()
    return path


def colours(seed, size=(16, 16)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8))


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def huge_png(width, height):
    """A PNG of a few bytes that claims so many pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def test_classes_come_from_subfolders_and_take_turns(folder):
    for name, count in (("dog", 3), ("cat", 2), ("eel", 1)):
        for i in range(count):
            save(folder / name / f"{i}.png", colours([count, i]))
    data = open_data(folder)
    assert data.classes == ("cat", "dog", "eel")
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 1]
    assert np.array_equal(data.values[3], np.asarray(colours([2, 1])))
    assert "classes: cat 2, dog 3, eel 1" in str(data.report)
    assert open_data(folder, limit=3).labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("places", [["0.png", "1.png"], ["only/0.png", "only/1.png"], ["0.png", "deep/1.png"]])
def test_no_classes(folder, places):
    for i, place in enumerate(places):
        save(folder / place, colours(i))
    data = open_data(folder)
    assert (data.labels, data.classes, len(data)) == (None, (), 2)


def test_every_format_and_orientation(folder):
    image = Image.new("RGB", (16, 8), "black")
    image.paste((255, 255, 255), (0, 0, 8, 8))  # the left half is white
    turned = Image.Exif()
    turned[0x112] = 6  # to be shown a quarter turn clockwise: the top half is white then
    for name, options in (("a.bmp", {}), ("b.PNG", {}), ("c.jpeg", {"exif": turned}), ("d.webp", {"lossless": True})):
        save(folder / name, image, **options)
    data = open_data(folder, size=8)
    assert [v[0, 0, 0] > 128 for v in data.values] == [True] * 4
    assert data.values[0, 7, 0, 0] > 128  # left
    assert data.values[2, 7, 0, 0] < 128  # bottom
    assert data.values[2, 0, 7, 0] > 128  # top right


def test_odd_modes_are_converted_and_counted(folder):
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
    save(folder / "1.png", Image.fromarray(ramp * 257))  # 16-bit
    save(folder / "2.png", Image.new("RGBA", (16, 16), (255, 0, 0, 0)))  # red where nobody sees it
    save(folder / "3.png", Image.new("RGB", (16, 16), "blue").convert("P"))
    save(folder / "4.jpg", Image.new("CMYK", (16, 16), (255, 0, 0, 0)))
    save(folder / "5.png", Image.new("1", (16, 16), 1))
    save(folder / "6.png", Image.new("LA", (16, 16), (9, 255)))
    palette = Image.new("RGB", (16, 16), "red").convert("P")
    save(folder / "7.png", palette, transparency=palette.getpixel((0, 0)))
    data = open_data(folder)
    assert len(data) == 7
    assert np.array_equal(data.values[0, ..., 1], ramp)  # scaled, not clipped
    assert (data.values[1] == 255).all()  # over white
    assert (data.values[2] == [0, 0, 255]).all()
    assert data.values[3, 0, 0, 0] < 30  # cyan has no red
    assert data.values[3, 0, 0, 2] > 200
    assert (data.values[4] == 255).all()
    assert (data.values[5] == 9).all()
    assert (data.values[6] == 255).all()
    for words in ("I;16 1 (16-bit, high byte kept)", "RGBA 1 (alpha, over white)", "CMYK 1 (converted without"):
        assert words in str(data.report)


def test_what_is_left_out(folder):
    for i in range(3):
        save(folder / f"good{i}.png", colours(i))
    save(folder / "small.png", colours(4, (16, 9)))
    (folder / "copy.png").write_bytes((folder / "good1.png").read_bytes())
    (folder / "cut.png").write_bytes((folder / "good2.png").read_bytes()[:200])
    (folder / "bomb1.png").write_bytes(huge_png(10_000, 10_000))  # Pillow warns
    (folder / "bomb2.png").write_bytes(huge_png(100_000, 100_000))  # Pillow raises
    (folder / "empty.jpg").touch()
    (folder / "words.jpg").write_text("not an image")
    save(folder / "tiff.png", colours(5), format="TIFF")
    (folder / "list.txt").touch()
    (folder / ".hidden.png").touch()
    save(folder / ".thumbs" / "a.png", colours(6))
    os.mkfifo(folder / "pipe.png")
    (folder / "gone.png").symlink_to(folder / "nothing")
    report = check_data(folder, size=12)
    reasons = dict(report.left_out)
    assert report.kept == 3
    assert reasons.pop("small.png") == "too small: 16×9 for size 12"
    assert reasons.pop("good1.png") == "the same file as copy.png"
    assert reasons.pop("cut.png").startswith("corrupt: ")
    assert reasons.pop("bomb1.png").startswith("decompression bomb: ")
    assert reasons.pop("bomb2.png").startswith("decompression bomb: ")
    assert reasons.pop("empty.jpg") == "empty file"
    assert reasons.pop("words.jpg") == reasons.pop("tiff.png") == "not a PNG, JPEG, WebP or BMP image"
    assert not reasons
    assert "ignored, not images: 4 (.png 3, .txt 1)" in report.notes
    assert not (folder.parent / "cache").exists()  # checking writes nothing
    data = open_data(folder, size=12)
    assert data.report == report
    assert len(data) == 3


def test_the_report_reads_well():
    report = CheckReport("pets", 1234, notes=["sizes: 64×64 1,234"])
    report.leave_out("a\n\x1b[2J\udcff.png", "corrupt:\nnews")
    assert str(report) == (
        "pets: 1,234 kept, 1 left out\n  sizes: 64×64 1,234\n  left out:\n    a ?[2J?.png  corrupt: news"
    )
    for i in range(30):
        report.leave_out(f"{i}.png", "too small")
    assert str(report).endswith("and 11 more")
    assert one_line("ß 字 ✓") == "ß 字 ✓"


def test_names_that_are_no_text(folder):
    with open(os.fsencode(folder) + b"/\xff\n.png", "wb") as file:
        colours(0).save(file, "PNG")
    with open(os.fsencode(folder) + b"/\xfe.png", "wb") as file:
        file.write(b"no image")
    for _ in range(2):
        data = open_data(folder)
        assert len(data) == 1
        assert data.report.left_out[0][0] == "?.png"


def test_sizes_must_agree_unless_one_is_given(folder):
    save(folder / "a.png", colours(0, (16, 20)))
    assert open_data(folder).shape == (3, 20, 16)
    save(folder / "b.png", colours(1, (17, 20)))
    with pytest.raises(DataError, match=r"a\.png is 16×20, b\.png is 17×20; give the size .* size=64"):
        open_data(folder)
    assert open_data(folder, size=16).shape == (3, 16, 16)
    assert "sizes: 16×20 1, 17×20 1" in check_data(folder).notes


def test_grey_images_have_one_channel(folder):
    for i in range(2):
        save(folder / f"{i}.png", colours(i).convert("L"))
    assert open_data(folder).shape == (1, 16, 16)
    assert open_data(folder, channels=3).shape == (3, 16, 16)
    save(folder / "2.png", colours(2))
    assert open_data(folder).shape == (3, 16, 16)
    assert open_data(folder, channels=1).shape == (1, 16, 16)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no images to use: 0 other files"),
        ({"a.txt": b""}, "no images to use: 1 other files"),
        ({"a.png": b"x", "b.png": b"y"}, r"2 left out, the first a\.png \(not a PNG"),
    ],
)
def test_nothing_to_use(folder, cache, files, message):
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with pytest.raises(DataError, match=f"^{folder}: .*{message}"):
        open_data(folder)
    assert list(cache.iterdir()) == []


def test_links_that_go_round(folder):
    save(folder / "a" / "1.png", colours(1))
    save(folder / "b" / "2.png", colours(2))
    (folder / "b" / "up").symlink_to(folder)
    data = open_data(folder)
    assert (data.labels.tolist(), data.report.left_out) == ([0, 1], [])


class TestCache:
    @pytest.fixture
    def read(self, folder, monkeypatch):
        """Open the folder and tell how many files were decoded for it."""
        for i in range(5):
            save(folder / f"{i}.png", colours(i))
        decoded = []
        examine = folder_module.examine
        monkeypatch.setattr(folder_module, "examine", lambda *given: decoded.append(given) or examine(*given))

        def read(**settings):
            decoded.clear()
            data = open_data(folder, **settings)
            assert len(data) == settings.get("limit", len(list(folder.iterdir())))
            return len(decoded)

        return read

    def test_is_used_the_next_time(self, folder, read):
        assert read() == 5
        first = open_data(folder)
        assert read() == 0
        second = open_data(folder)
        assert isinstance(second.values, np.memmap)
        assert np.array_equal(first.values, second.values)
        assert first.report == second.report
        assert first.fingerprint() == second.fingerprint()

    def test_knows_files_and_settings(self, folder, read):
        assert read() == 5
        assert read(size=8) == read(channels=1) == 5
        assert read(limit=2) >= 2
        save(folder / "5.png", colours(5))
        assert read() == 6
        save(folder / "5.png", colours(6))
        assert read() == 6
        os.utime(folder / "5.png", ns=(1, 1))
        assert read() == 6
        assert read() == 0

    @pytest.mark.parametrize("name", ["images.npy", "about.json"])
    @pytest.mark.parametrize("damage", [lambda data: data[:40], lambda data: b"", None])
    def test_damage_means_decoding_again(self, cache, read, name, damage):
        assert read() == 5
        (path,) = cache.glob(f"*/{name}")
        path.write_bytes(damage(path.read_bytes())) if damage else path.unlink()
        assert read() == 5
        assert read() == 0

    def test_failures_leave_nothing(self, folder, cache, read, monkeypatch):
        def full(*given):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(cache_module.os, "replace", full)
            with pytest.raises(DataError, match="No space left on device; make room or set MINIGAN_CACHE"):
                read()
        assert list(cache.iterdir()) == []

        def interrupt(what, done, total):
            if done == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            read(progress=interrupt)
        assert list(cache.iterdir()) == []
        assert read() == 5

    def test_a_disk_that_fills_up_is_an_error(self, folder, cache, read):
        resource = pytest.importorskip("resource")
        import signal

        old, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
            with pytest.raises(DataError, match="File too large; make room"):
                read()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, old)
        assert list(cache.iterdir()) == []

    def test_what_a_killed_process_left_is_removed(self, cache, read):
        for name in ("old.part", "new.part"):
            (cache / name).mkdir(parents=True)
        os.utime(cache / "old.part", (1, 1))
        read()
        assert not (cache / "old.part").exists()
        assert (cache / "new.part").exists()  # it may be at work

    def test_a_faster_process_wins(self, folder, cache, read):
        def meanwhile(what, done, total):
            if done == 1:
                open_data(folder)
                inodes.extend(path.stat().st_ino for path in cache.glob("*/*.npy") if path.parent.suffix != ".part")

        inodes = []
        open_data(folder, progress=meanwhile)
        assert [path.stat().st_ino for path in cache.glob("*/*.npy")] == inodes
        assert read() == 0

    def test_progress(self, folder, read):
        calls = []
        read(progress=lambda *given: calls.append(given))
        assert calls == [("decoding images", i + 1, 5) for i in range(5)]


def test_a_thousand_images_a_second(folder):
    files = []
    for i in range(100):
        file = io.BytesIO()
        colours(i, (64, 64)).save(file, "JPEG")
        files.append(file.getvalue())
    for i in range(1500):  # a comment after the end makes each a file of its own
        (folder / f"{i:04}.jpg").write_bytes(files[i % 100] + str(i).encode())
    best = 0.0
    for limit in (1499, 1500):  # not from the cache
        start = time.process_time()  # of all threads: two of them do twice as much in the same time
        open_data(folder, limit=limit)
        best = max(best, 2 * limit / (time.process_time() - start))
    assert best > 1000

"""Reading IDX, CIFAR-10, NumPy files and folders of images; every damaged file is one clear line and nothing else."""

import gzip
import io
import os
import random
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from minigan.data import DataError, open_data

RANDOM = np.random.default_rng(0)
PICTURES = RANDOM.integers(0, 256, (12, 28, 28), np.uint8)
LABELS = RANDOM.integers(0, 10, 12, np.uint8)
COLOUR = RANDOM.integers(0, 256, (6, 32, 32, 3), np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MINIGAN_DATA", raising=False)
    return tmp_path / "cache"


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def cifar(images=COLOUR, labels=None):
    labels = np.arange(len(images), dtype=np.uint8) if labels is None else labels
    return b"".join(
        bytes([label]) + image.transpose(2, 0, 1).tobytes() for image, label in zip(images, labels, strict=True)
    )


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def picture(format="PNG", mode="RGB", size=(40, 40), seed=0, **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size).convert(mode).save(file, format, **options)
    return file.getvalue()


def archive(files):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def write(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def mnist(folder, packed):
    files = {"train-images-idx3-ubyte": idx(PICTURES), "train-labels-idx1-ubyte": idx(LABELS)}
    files["t10k-images-idx3-ubyte"] = idx(PICTURES[:2])
    return write(folder, {name + ".gz" * packed: gzip.compress(d) if packed else d for name, d in files.items()})


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", ["", "raw", "MNIST/raw"])
def test_mnist(tmp_path, packed, place):
    folder = mnist(tmp_path / "data" / place, packed)
    for spec in (tmp_path / "data", f"mnist:{tmp_path}/data", folder / ("train-images-idx3-ubyte" + ".gz" * packed)):
        data = open_data(spec)
        assert np.array_equal(data.values[..., 0], PICTURES)
        assert np.array_equal(data.labels, LABELS)
        assert data.shape == (1, 28, 28)
    assert open_data(f"fashion-mnist:{folder}").classes[9] == "Ankle boot"


def test_known_names_are_looked_for_where_the_user_says(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"cache/mnist: no train-images.* there; allow its download .*mnist:PATH"):
        open_data("mnist")
    mnist(tmp_path / "sets" / "mnist", True)
    monkeypatch.setenv("MINIGAN_DATA", str(tmp_path / "sets"))
    data = open_data("mnist", limit=5)
    assert (data.name, len(data), data.report.kept) == ("mnist", 5, 5)
    assert "classes: " in str(data.report)


def test_cifar(tmp_path):
    files = {f"cifar-10-batches-bin/data_batch_{i + 1}.bin": cifar(COLOUR[3 * i : 3 * i + 3]) for i in range(2)}
    files["cifar-10-batches-bin/test_batch.bin"] = cifar()
    write(tmp_path / "unpacked", files)
    write(tmp_path / "packed", {"cifar-10-binary.tar.gz": archive(files)})
    for spec in ("unpacked", "unpacked/cifar-10-batches-bin", "packed", "packed/cifar-10-binary.tar.gz"):
        data = open_data(tmp_path / spec)
        assert np.array_equal(data.values, COLOUR)
        assert data.labels.tolist() == [0, 1, 2, 0, 1, 2]
        assert data.classes[0] == "airplane"
    assert len(open_data(tmp_path / "unpacked/cifar-10-batches-bin/data_batch_1.bin")) == 3


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (PICTURES, PICTURES[..., None]),
        (PICTURES.astype(np.int64), PICTURES[..., None]),
        (PICTURES > 99, (PICTURES > 99)[..., None] * np.uint8(255)),
        (COLOUR, COLOUR),
        (np.asfortranarray(COLOUR), COLOUR),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR),
        (COLOUR / 255, COLOUR),
        (np.maximum(COLOUR / 255 - 0.001, 0), COLOUR),
        ((COLOUR / 127.5 - 1).astype(">f4"), COLOUR),
        (COLOUR.transpose(0, 3, 1, 2).astype(np.float32) / 255, COLOUR),
    ],
)
def test_arrays(tmp_path, stored, expected):
    write(tmp_path, {"a.npy": npy(stored), "b.npz": npz(Images=stored, y=np.arange(len(stored)))})
    for name in ("a.npy", "b.npz"):
        data = open_data(tmp_path / name)
        assert data.values.dtype == np.uint8
        assert np.array_equal(data.values, expected)
    assert data.labels.tolist() == list(range(len(stored)))
    assert data.batch([1])[0].shape == (1, *data.shape)


def test_points(tmp_path):
    write(tmp_path, {"p.npy": npy(np.eye(4, 3))})
    data = open_data(tmp_path / "p.npy")
    assert (data.shape, data.values.dtype, data.values.sum()) == ((3,), np.float32, 3)
    with pytest.raises(DataError, match="points, not images"):
        open_data(tmp_path / "p.npy", size=28)


def test_large_files_stay_on_disk(tmp_path):
    for name, data in {"a.npy": npy(COLOUR), "a-images-idx3-ubyte": idx(PICTURES)}.items():
        write(tmp_path, {name: data})
        values = open_data(tmp_path / name).values
        while values.base is not None and not isinstance(values, np.memmap):
            values = values.base
        assert isinstance(values, np.memmap)


def test_size_and_channels(tmp_path):
    write(tmp_path, {"a.npy": npy(np.full((300, 28, 36), 7, np.uint8))})
    data = open_data(tmp_path / "a.npy", size=32, channels=3, limit=299, flip=True)
    assert (len(data), data.shape, data.flip) == (299, (3, 32, 32), True)
    assert (data.values == 7).all()
    red = np.zeros((1, 8, 8, 3), np.uint8)
    red[..., 0] = 255
    write(tmp_path, {"b.npy": npy(red)})
    assert (open_data(tmp_path / "b.npy", channels=1).values == 76).all()  # 0.299 · 255
    for settings in ({"size": 0}, {"limit": 0}, {"channels": 2}):
        with pytest.raises(ValueError, match="expected"):
            open_data("ring", **settings)


def test_the_middle_is_cut_out(tmp_path):
    wide = np.zeros((1, 4, 8), np.uint8)
    wide[:, :, 2:6] = 200
    write(tmp_path, {"wide.npy": npy(wide)})
    assert (open_data(tmp_path / "wide.npy", size=4).values == 200).all()


@pytest.mark.parametrize("name", ["glyphs", "stacked", "ring", "grid", "swiss-roll"])
def test_drawn_data(name):
    data = open_data(name, limit=12, seed=3)
    assert len(data) == data.report.kept == 12
    assert np.array_equal(data.values, open_data(name, limit=12, seed=3).values)
    assert not np.array_equal(data.values, open_data(name, limit=12, seed=4).values)


def test_drawn_data_keep_their_factors():
    data = open_data("glyphs", size=32, channels=3, limit=7)
    assert data.shape == (3, 32, 32)
    assert len(data.factors["slant"]) == 7


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mnits", "did you mean mnist"),
        ("foldr:x", "did you mean folder"),
        ("quark", "the names are glyphs, stacked"),
        ("", "the names are"),
        ("./quark", "no such file or folder"),
        ("folder:/no/such", "no such folder"),
        ("npy:/no/such", "no such file"),
        ("idx:/no/such", "no train-images"),
        (f"folder:{__file__}", "no such folder"),
    ],
)
def test_unknown_names(spec, message):
    with pytest.raises(DataError, match=message):
        open_data(spec)


def npy_header(text):
    text = text.encode() + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


def zip_of(**files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name + ".npy", data)
    return file.getvalue()


BIG = np.full((2, 3), np.nan)
ZEROS = bytes(2**27)
REFUSED = {
    "claims-idx3-ubyte": (idx(PICTURES)[:4] + struct.pack(">3I", 2**31, 28, 28) + bytes(99), "truncated: sizes"),
    "claims-idx3-ubyte.gz": (gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 28, 28)), "truncated"),
    "bomb-idx3-ubyte.gz": (gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**17, 32, 32) + ZEROS), "gzip bomb"),
    "long-idx3-ubyte": (idx(PICTURES) + b"0", "too long"),
    "half-idx3-ubyte": (idx(PICTURES)[:-1], "truncated"),
    "half-idx3-ubyte.gz": (gzip.compress(idx(PICTURES))[:-12], "truncated"),
    "short-idx3-ubyte": (idx(PICTURES)[:7], "ends inside its header"),
    "none-idx3-ubyte": (idx(PICTURES[:0]), "is empty"),
    "floats-idx3-ubyte": (bytes([0, 0, 13, 3]) + bytes(12), "starts with"),
    "labels-idx1-ubyte": (idx(LABELS), "give the images file"),
    "empty.npy": (b"", "no format"),
    "data_batch_1.bin": (cifar()[:-1], "truncated"),
    "data_batch_2.bin": (cifar(labels=[0, 1, 77, 3, 4, 5]), "record 2 has label 77"),
    "huge.npy": (npy_header("{'descr':'|u1','fortran_order':False,'shape':(99999999999,28,28)}"), "damaged: shape"),
    "below.npy": (npy_header("{'descr':'|u1','fortran_order':False,'shape':(-1,28,28)}"), "damaged|not a readable"),
    "code.npy": (npy_header("__import__('os').abort()"), "not a readable"),
    "object.npy": (npy_header("{'descr':'|O','fortran_order':False,'shape':(2,)}") + b"cos\n", "Python objects"),
    "half.npy": (npy(PICTURES)[:-5], "damaged"),
    "nan.npy": (npy(BIG), "row 0 has NaN"),
    "nans.npy": (npy(np.full((2, 8, 8), np.nan)), "holds NaN"),
    "range.npy": (npy(COLOUR.astype(np.float32)), r"floats from 0 to 255, expected all in \[0, 1\]"),
    "ints.npy": (npy(np.full((2, 8, 8), 256)), "expected 0 to 255"),
    "flat.npy": (npy(PICTURES.reshape(12, -1)), "expected images"),
    "cmyk.npy": (npy(np.zeros((2, 8, 8, 4), np.uint8)), "expected 1 or 3 channels"),
    "words.npy": (npy(np.array([["a"]])), "expected images"),
    "bomb.npz": (zip_of(x=ZEROS), "zip bomb"),
    "half.npz": (npz(x=PICTURES)[:-30], "damaged .npz"),
    "many.npz": (npz(a=PICTURES, b=PICTURES), "has the arrays"),
    "count.npz": (npz(x=PICTURES, y=LABELS[:3]), "expected 12 whole numbers"),
    "kind.npz": (npz(x=PICTURES, y=LABELS / 2), "expected 12 whole numbers"),
    "high.npz": (npz(x=PICTURES, y=LABELS.astype(np.int64) + 2**40), "expected class numbers"),
    "none.npz": (zip_of(), "unpacked first"),
    "tar.gz": (archive({"data_batch_1.bin": cifar()[:-1]}), "data_batch_1.bin.*truncated"),
    "none.tar.gz": (archive({"readme.txt": b"hi"}), "no data_batch"),
    "text.npy": (b"hello", "no format that is read here"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path, name):
    data, message = REFUSED[name]
    path = write(tmp_path, {name: data}) / name
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message) as caught:
            open_data(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert peak < 200e6


def test_an_honest_blank_file_is_no_bomb(tmp_path):
    write(tmp_path, {"blank-idx3-ubyte.gz": gzip.compress(idx(np.zeros((60, 64, 64), np.uint8)))})
    assert len(open_data(tmp_path / "blank-idx3-ubyte.gz")) == 60


def test_known_sets_need_their_labels(tmp_path):
    folder = write(tmp_path, {"train-images-idx3-ubyte": idx(PICTURES)})
    assert open_data(folder).labels is None
    with pytest.raises(DataError, match="no file of labels beside it"):
        open_data(f"mnist:{folder}")


def test_labels_that_do_not_fit(tmp_path):
    folder = write(tmp_path, {"train-images-idx3-ubyte": idx(PICTURES), "train-labels-idx1-ubyte": idx(LABELS[1:])})
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte: \(11,\) labels for the 12 images"):
        open_data(folder)


def test_a_choice_between_files_is_the_users(tmp_path):
    files = {f"emnist-{split}-train-images-idx3-ubyte": idx(PICTURES) for split in ("letters", "digits")}
    with pytest.raises(DataError, match="several files of images .*give the path of one"):
        open_data(write(tmp_path, files))


def test_pickled_cifar_is_not_read(tmp_path):
    with pytest.raises(DataError, match="pickled"):
        open_data(write(tmp_path, {"cifar-10-batches-py/data_batch_1": b"\x80\x02}q\x00."}))


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    with pytest.raises(DataError, match="not a regular file"):
        open_data(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="no images"):
        open_data(f"folder:{tmp_path}")


WHOLE = {
    "a.png": picture(),
    "a.jpg": picture("JPEG"),
    "a.webp": picture("WEBP"),
    "a.bmp": picture("BMP"),
    "a-images-idx3-ubyte": idx(PICTURES),
    "a-images-idx3-ubyte.gz": gzip.compress(idx(PICTURES)),
    "data_batch_1.bin": cifar(),
    "a.tar.gz": archive({"data_batch_1.bin": cifar()}),
    "a.npy": npy(COLOUR / 255),
    "a.npz": npz(x=COLOUR, y=np.arange(6)),
}


def damaged(name, seed):
    """The file cut short, with some bits flipped, or with a stretch overwritten; headers are hit often."""
    numbers = random.Random(f"{name} {seed}")
    data = bytearray(WHOLE[name])
    how = numbers.choice(["cut", "flip", "flip", "overwrite"])
    place = numbers.randrange(min(len(data), numbers.choice([64, len(data)])))
    if how == "cut":
        return bytes(data[:place])
    if how == "flip":
        for _ in range(numbers.choice([1, 3, 20])):
            data[numbers.randrange(place, len(data))] ^= 1 << numbers.randrange(8)
            data[place] ^= 1 << numbers.randrange(8)
    else:
        stretch = data[place : place + 8]
        data[place : place + 8] = numbers.choice([bytes(len(stretch)), b"\xff" * len(stretch)])
    return bytes(data)


@pytest.mark.parametrize("name", WHOLE)
def test_damaged_files_give_a_result_or_one_line(tmp_path, cache, name):
    refused = []
    for seed in range(int(os.environ.get("MINIGAN_DAMAGED", "25"))):
        folder = write(tmp_path / str(seed), {name: damaged(name, seed)})
        image = name.endswith((".png", ".jpg", ".webp", ".bmp"))
        try:
            data = open_data(folder if image else folder / name)
            data.batch([0, len(data) - 1])
        except DataError as error:
            refused.append(str(error))
        assert not list(cache.glob("images/*.part"))
    assert refused  # else nothing was damaged
    assert all(name in message and "\n" not in message for message in refused)


def test_import_stays_light():
    code = (
        "import sys; before = set(sys.modules); import minigan; "
        "print({'PIL', 'urllib.request', 'tarfile', 'zipfile', 'shutil'} & (set(sys.modules) - before))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"

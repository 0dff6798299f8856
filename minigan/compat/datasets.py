"""`torchvision.datasets`, on local files in torchvision's folders. Nothing is downloaded unless the user allows it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from minigan.compat.images import to_pil_image
from minigan.compat.notes import note
from minigan.creation import from_numpy
from minigan.data.dataset import Dataset
from minigan.data.files.check import DataError
from minigan.data.files.cifar import CLASSES, find_cifar, open_cifar
from minigan.data.files.download import fetch_all
from minigan.data.files.idx import open_idx
from minigan.data.glyphs import glyphs
from minigan.random import Generator

_allowed = {"glyphs": False, "download": False}


@contextmanager
def allowing(*, glyphs: bool, download: bool) -> Iterator[None]:
    """Inside the block, data sets may draw digits where files are missing, or obey a script's `download=True`."""
    before = dict(_allowed)
    _allowed.update(glyphs=glyphs, download=download)
    try:
        yield
    finally:
        _allowed.update(before)


class _Labelled(Dataset[tuple[Any, Any]]):
    """Base: PIL images and their labels, each through its transform."""

    classes: list[str]
    targets: Any

    def __init__(
        self,
        root: str | os.PathLike,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
    ) -> None:
        self.root, self.transform, self.target_transform = str(root), transform, target_transform

    def _image(self, index: int) -> Any:
        raise NotImplementedError

    @property
    def class_to_idx(self) -> dict[str, int]:
        """The label of each class."""
        return {name: i for i, name in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"{type(self).__name__}: index {index} is outside of {len(self)} items")
        image, target = self._image(index), int(self.targets[index])
        image = image if self.transform is None else self.transform(image)
        return image, target if self.target_transform is None else self.target_transform(target)

    def __repr__(self) -> str:
        return f"Dataset {type(self).__name__}\n    Number of datapoints: {len(self)}\n    Root location: {self.root}"


# Files of arrays ----------------------------------------------------------------------------------------


class _Arrays(_Labelled):
    """Base of data sets that come as files of a known name: in memory, as `data` and `targets`."""

    remote: str  # the name of its training files in `minigan.data.files.download`
    expected: str  # what a message calls the files
    drawn: tuple[int, int, int]  # how many digits stand in for missing files, in training and test, and their size

    def __init__(
        self,
        root: str | os.PathLike,
        train: bool = True,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        download: bool = False,
    ) -> None:
        super().__init__(root, transform, target_transform)
        self.train = train
        files = self._find(Path(root))
        if files is None and train and download and _allowed["download"]:
            fetch_all(self.remote, Path(root))
            files = self._find(Path(root))
        if files is not None:
            self.data, self.targets = self._kept(*self._open(files))
        elif _allowed["glyphs"]:
            note(f"datasets.{type(self).__name__}: no files, drawn digits in their place")
            training, test, size = self.drawn
            digits = glyphs(training if train else test, size, seed=0 if train else 1)
            self.data, self.targets = self._kept(digits.values, digits.labels)
        else:
            raise DataError(
                Path(root).resolve(),
                f"no files of {type(self).__name__}: expected {self.expected}; put them there, or run with --glyphs to "
                "train on drawn digits in their place, or with --download to let the script download them",
            )

    def _find(self, root: Path) -> Path | None:
        """The file of images, or the folder or archive that holds it."""
        raise NotImplementedError

    def _open(self, files: Path) -> tuple[np.ndarray, np.ndarray | None]:
        """Images (N, H, W, C) and labels."""
        raise NotImplementedError

    def _kept(self, images: np.ndarray, labels: Any) -> tuple[Any, Any]:
        """`data` and `targets` of the types that torchvision gives them."""
        raise NotImplementedError

    def _image(self, index: int) -> Any:
        return to_pil_image(np.asarray(self.data[index]))


class MNIST(_Arrays):
    """Handwritten digits from IDX files, in the root or where torchvision keeps them: `root/MNIST/raw`."""

    remote = "mnist"
    expected = "train-images-idx3-ubyte and its like, gzipped or not, in that folder or its MNIST/raw"
    drawn = (60_000, 10_000, 28)
    classes = [
        "0 - zero", "1 - one", "2 - two", "3 - three", "4 - four",
        "5 - five", "6 - six", "7 - seven", "8 - eight", "9 - nine",
    ]  # fmt: skip

    def _find(self, root: Path) -> Path | None:
        name = f"{'train' if self.train else 't10k'}-images-idx3-ubyte"
        folders = [root / type(self).__name__ / "raw", root / "raw", root]
        files = [folder / file for folder in folders for file in (name, f"{name}.gz")]
        return next((file for file in files if file.is_file()), None)

    def _open(self, files: Path) -> tuple[np.ndarray, np.ndarray | None]:
        images, labels = open_idx(files)
        if labels is None:
            raise DataError(files, "has no labels beside it")
        return images, labels

    def _kept(self, images: np.ndarray, labels: Any) -> tuple[Any, Any]:
        return from_numpy(np.array(images[..., 0])), from_numpy(labels.astype(np.int64))


class FashionMNIST(MNIST):
    """Clothes from IDX files, in the root or in `root/FashionMNIST/raw`."""

    remote = "fashion-mnist"
    expected = MNIST.expected.replace("MNIST", "FashionMNIST")
    classes = [
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ]  # fmt: skip


class CIFAR10(_Arrays):
    """Small photographs from the files of CIFAR-10's binary version, in the root or in `root/cifar-10-batches-bin`."""

    remote = "cifar10"
    expected = "data_batch_1.bin and its like (the binary version), in that folder or its cifar-10-batches-bin"
    drawn = (50_000, 10_000, 32)
    classes = list(CLASSES)

    def _find(self, root: Path) -> Path | None:
        place = find_cifar(root)
        return place if self.train or place is None else place / "test_batch.bin"

    def _open(self, files: Path) -> tuple[np.ndarray, np.ndarray | None]:
        return open_cifar(files)

    def _kept(self, images: np.ndarray, labels: Any) -> tuple[Any, Any]:
        return np.broadcast_to(images, (*images.shape[:3], 3)).copy(), labels.tolist()


# Folders of pictures ------------------------------------------------------------------------------------

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def pil_loader(path: str) -> Any:
    """A picture as RGB."""
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


default_loader = pil_loader


class DatasetFolder(_Labelled):
    """The files below each folder of the root; a folder is a class."""

    def __init__(
        self,
        root: str | os.PathLike,
        loader: Callable[[str], Any] = pil_loader,
        extensions: tuple[str, ...] | None = IMG_EXTENSIONS,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        is_valid_file: Callable[[str], bool] | None = None,
    ) -> None:
        super().__init__(root, transform, target_transform)
        kept = is_valid_file or (lambda path: path.lower().endswith(extensions or ""))
        folders = sorted(f for f in Path(root).iterdir() if f.is_dir()) if Path(root).is_dir() else []
        self.classes = [folder.name for folder in folders]
        self.samples = [
            (str(file), label)
            for label, folder in enumerate(folders)
            for file in sorted(folder.rglob("*"))
            if file.is_file() and kept(str(file))
        ]
        if not self.samples:
            raise DataError(
                Path(root).resolve(),
                f"no pictures for {type(self).__name__}: each class is a folder of its own in it, as in cats/001.png",
            )
        self.loader, self.imgs = loader, self.samples
        self.targets = [label for _, label in self.samples]

    def _image(self, index: int) -> Any:
        return self.loader(self.samples[index][0])


class ImageFolder(DatasetFolder):
    """Pictures, each folder of the root being a class."""

    def __init__(
        self,
        root: str | os.PathLike,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        loader: Callable[[str], Any] = pil_loader,
        is_valid_file: Callable[[str], bool] | None = None,
    ) -> None:
        super().__init__(root, loader, IMG_EXTENSIONS, transform, target_transform, is_valid_file)


class FakeData(_Labelled):
    """Noise, the same at every reading of an index: to try a script without any data.

    >>> image, label = FakeData(size=3, image_size=(3, 8, 8))[2]
    >>> image.size, 0 <= label < 10
    ((8, 8), True)
    """

    def __init__(
        self,
        size: int = 1000,
        image_size: tuple[int, int, int] = (3, 224, 224),
        num_classes: int = 10,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        random_offset: int = 0,
    ) -> None:
        super().__init__("", transform, target_transform)
        self.size, self.image_size, self.random_offset = size, image_size, random_offset
        self.classes = [str(i) for i in range(num_classes)]
        self.targets = Generator(name="fake labels").manual_seed(random_offset).integers(0, num_classes, (size,))

    def _image(self, index: int) -> Any:
        noise = Generator(name="fake images").manual_seed(index % self.size + self.random_offset)
        return to_pil_image(from_numpy(noise.uniform(self.image_size)))

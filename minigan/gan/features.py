"""What images are compared by: features of a classifier, of any ONNX file, or of the pixels themselves.

An extractor takes float images (N, channels, height, width) in [-1, 1], or points (N, d), and returns `Extracted`.
Its `name` says in one line what it computes: scores are only comparable under the same one. The formulas on features
are in `metrics.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from minigan.creation import from_numpy
from minigan.data.source import Data
from minigan.grad_mode import no_grad
from minigan.tensor import Tensor

_BATCH = 250  # images at a time: bounds the memory that activations take


class Extracted(NamedTuple):
    """Features (N, d) in float64; class probabilities (N, classes) and labels (N,) where the extractor has them."""

    values: np.ndarray
    probabilities: np.ndarray | None = None
    labels: np.ndarray | None = None


class Features(Protocol):
    """An extractor: its name, how many classes it tells apart (0: it has no labels), and the call."""

    name: str
    classes: int

    def __call__(self, samples: Tensor | np.ndarray) -> Extracted: ...


def features_for(data: Data) -> Features:
    """The extractor for a data set when none is given: the classifier where the images are digits, else the samples.

    >>> import minigan as mg
    >>> features_for(mg.data.ring(10)).name
    'the points'
    """
    if not data.images:
        return PointFeatures()
    if data.classes == tuple("0123456789"):
        return ClassifierFeatures()
    if data.shape[0] == 3 and len(data.classes) == 1000:
        return ClassifierFeatures(stacked=True)
    return PixelFeatures()


class PointFeatures:
    """Points as they are.

    >>> import numpy as np
    >>> PointFeatures()(np.ones((2, 3), np.float32)).values.dtype
    dtype('float64')
    """

    name, classes = "the points", 0

    def __call__(self, samples: Tensor | np.ndarray) -> Extracted:
        return Extracted(_array(samples, 2, "points (N, dimensions)").astype(np.float64))


class PixelFeatures:
    """Each channel averaged to 8 × 8 pixels: layout and colour, blind to texture and to meaning.

    >>> import numpy as np
    >>> PixelFeatures()(np.zeros((2, 3, 32, 32), np.float32)).values.shape
    (2, 192)
    """

    name, classes = "pixels averaged to 8 × 8 per channel (not comparable with FID)", 0

    def __call__(self, samples: Tensor | np.ndarray) -> Extracted:
        images = _images(samples)
        return Extracted(_resize(images, (8, 8), "BOX").reshape(len(images), -1).astype(np.float64))


class ClassifierFeatures:
    """The shipped glyph classifier's 64 features, probabilities and labels 0 to 9; colours are averaged to grey.

    With `stacked`, each of three channels is a digit: features of the three side by side (192), labels 0 to 999, no
    probabilities. Sides outside 25 to 32 pixels are resized to 32.
    """

    def __init__(self, stacked: bool = False) -> None:
        from minigan.gan.classifier import load_classifier

        self.classifier, self.stacked = load_classifier(), stacked
        self.classes = 1000 if stacked else 10
        self.name = "the glyph classifier's 64 features" + (" of each of 3 channels" if stacked else "")

    def __call__(self, samples: Tensor | np.ndarray) -> Extracted:
        images = _images(samples)
        n, channels = images.shape[:2]
        if self.stacked and channels != 3:
            raise ValueError(f"stacked digits: got images of {channels} channels, expected 3")
        single = images.reshape(-1, 1, *images.shape[2:]) if self.stacked else images.mean(1, keepdims=True)
        if not all(25 <= side <= 32 for side in images.shape[2:]):  # what the classifier takes
            single = _resize(single, (32, 32), "BILINEAR")
        values, logits = (np.concatenate(parts) for parts in zip(*self._batches(single), strict=True))
        if not self.stacked:
            return Extracted(values, _softmax(logits), logits.argmax(1))
        digits = logits.argmax(1).reshape(n, 3)
        return Extracted(values.reshape(n, -1), labels=digits @ [100, 10, 1])

    def _batches(self, images: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        device = next(self.classifier.parameters()).device
        for start in range(0, len(images), _BATCH):
            with no_grad():
                values = self.classifier.features(from_numpy(images[start : start + _BATCH]).to(device))
                logits = self.classifier.logits(values)
            yield values.numpy(force=True).astype(np.float64), logits.numpy(force=True).astype(np.float64)


def _softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


class OnnxFeatures:
    """Features from any ONNX file with one image input, run by ONNX Runtime.

    Images are resized (bilinear), taken from [-1, 1] to `value_range`, and become (x - mean) / std per channel; grey
    ones are repeated where the model wants three channels. A setting that is not given is read from the file, whose
    metadata may hold `input_size`, `value_range`, `mean` and `std` as JSON; then from the shape of its input; and else
    is: size as it is, range [-1, 1], mean 0, std 1. An output (N, d, height, width) is averaged over its positions.
    `output` names one where there are several. `name` states all of it.

    Example, for the values that torchvision's models were trained with:

        OnnxFeatures("resnet18.onnx", 224, value_range=(0, 1), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    """

    classes = 0

    def __init__(
        self,
        path: str | os.PathLike[str],
        input_size: int | tuple[int, int] | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        value_range: tuple[float, float] | None = None,
        output: str | None = None,
    ) -> None:
        from minigan.export.session import open_session  # where it is used, as ONNX Runtime itself

        self.path = Path(path)
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        self._session = open_session(self.path)
        stated = _metadata(self.path, self._session.get_modelmeta().custom_metadata_map)

        def setting(name: str, given: Any, otherwise: Any) -> np.ndarray:
            value = stated.get(name, otherwise) if given is None else given
            try:
                return np.asarray(value, np.float64)
            except (TypeError, ValueError):
                raise ValueError(f"{self.path}: got {value!r} as {name}, expected numbers") from None

        self._read_input(stated.get("input_size") if input_size is None else input_size)
        self._output = self._choose_output(output)
        self._range = setting("value_range", value_range, (-1, 1))
        self._mean, self._std = (setting(*args).reshape(-1, 1, 1) for args in (("mean", mean, 0), ("std", std, 1)))
        if self._range.shape != (2,) or not self._range[0] < self._range[1] or not (self._std > 0).all():
            raise ValueError(
                f"{self.path}: got value_range {self._range} and std {self._std.ravel()}, expected (low, high) and "
                "numbers above 0"
            )
        if not {self._mean.size, self._std.size} <= {1, self._channels or 3}:
            raise ValueError(
                f"{self.path}: expected one mean and std, or one for each of {self._channels or 3} channels"
            )
        size = "×".join(str(side) for side in self._size) if self._size else "as it is"
        self.name = (
            f"{self.path.name} (sha256 {digest[:12]}), output {self._output!r}; input size {size}, "
            f"range {self._range.tolist()}, mean {self._mean.ravel().tolist()}, std {self._std.ravel().tolist()}"
        )

    def _read_input(self, size: int | Sequence[int] | None) -> None:
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _TYPES:
            found = ", ".join(f"{one.name}: {one.type} {one.shape}" for one in inputs)
            raise ValueError(f"{self.path}: has the inputs {found}; expected one, of floating images in 4 dimensions")
        self._input, shape = inputs[0].name, [side if isinstance(side, int) else None for side in inputs[0].shape]
        self._type = _TYPES[inputs[0].type]
        self._last = shape[3] in (1, 3) and shape[1] not in (1, 3)  # channels last, as TensorFlow exports
        batch, self._channels, *own = [shape[axis] for axis in ((0, 3, 1, 2) if self._last else (0, 1, 2, 3))]
        self._fixed, self._batch = batch is not None, batch or 32
        wanted = [None, None] if size is None else [int(side) for side in np.broadcast_to(size, 2)]
        if any(a and b and a != b for a, b in zip(own, wanted, strict=True)):
            raise ValueError(f"{self.path}: got input_size {size}, but the model's own is {own[0]}×{own[1]}")
        height, width = (a or b for a, b in zip(own, wanted, strict=True))
        self._size = (height, width) if height and width else None

    def _choose_output(self, output: str | None) -> str:
        names = [one.name for one in self._session.get_outputs()]
        if output not in names and (output is not None or len(names) > 1):
            raise ValueError(f"{self.path}: got output {output!r}, expected one of {', '.join(names)}")
        return output or names[0]

    def __call__(self, samples: Tensor | np.ndarray) -> Extracted:
        images = _images(samples)
        parts = [self._run(images[start : start + self._batch]) for start in range(0, len(images), self._batch)]
        return Extracted(np.concatenate(parts).astype(np.float64))

    def _run(self, images: np.ndarray) -> np.ndarray:
        """Features of one batch of the model's size, or of a last, smaller one."""
        n, channels = images.shape[:2]
        if self._channels == 3 and channels == 1:
            images = images.repeat(3, axis=1)
        elif self._channels not in (None, channels):
            raise ValueError(f"{self.path}: got images of {channels} channels, the model takes {self._channels}")
        if self._size:
            images = _resize(images, self._size, "BILINEAR")
        if self._fixed and n < self._batch:
            images = np.concatenate([images, images[-1:].repeat(self._batch - n, axis=0)])
        low, high = self._range
        x = (images * ((high - low) / 2) + (high + low) / 2 - self._mean) / self._std
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1) if self._last else x, self._type)
        try:
            (values,) = self._session.run([self._output], {self._input: x})
        except Exception as error:  # ONNX Runtime's own classes, which share no base but this
            reason = str(error).splitlines()[0]
            raise ValueError(f"{self.path}: cannot run on {x.shape} images, see input_size: {reason}") from None
        if values.ndim == 4:
            values = values.mean((1, 2) if self._last else (2, 3), dtype=np.float64)
        if values.ndim != 2 or len(values) != len(x):
            raise ValueError(
                f"{self.path}: output {self._output!r} gives {values.shape} for {len(x)} images, expected "
                "(N, features) or (N, features, height, width)"
            )
        return values[:n]


_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


def _metadata(path: Path, entries: dict[str, str]) -> dict[str, Any]:
    stated = {}
    for name in {"input_size", "value_range", "mean", "std"} & entries.keys():
        try:
            stated[name] = json.loads(entries[name])
        except json.JSONDecodeError:
            raise ValueError(f"{path}: its metadata gives {name} as {entries[name]!r}, expected JSON") from None
    return stated


def _array(samples: Tensor | np.ndarray, dimensions: int, expected: str) -> np.ndarray:
    array = samples.numpy(force=True) if isinstance(samples, Tensor) else np.asarray(samples)
    if array.ndim != dimensions or array.dtype.kind != "f" or len(array) == 0:
        raise ValueError(f"features: got {array.dtype} samples of shape {array.shape}, expected floating {expected}")
    if bad := np.count_nonzero(~np.isfinite(array).reshape(len(array), -1).all(1)):
        raise ValueError(f"features: NaN or infinity in {bad} of {len(array)} samples; did the generator diverge?")
    return array


def _images(samples: Tensor | np.ndarray) -> np.ndarray:
    """As float32 in [-1, 1]: what is outside is cut off, as it is when a picture is saved."""
    return _array(samples, 4, "images (N, channels, height, width)").astype(np.float32).clip(-1, 1)


def _resize(images: np.ndarray, size: tuple[int, int], method: str) -> np.ndarray:
    if images.shape[2:] == size:
        return images
    from PIL import Image

    resample = Image.Resampling[method]  # looks at as many pixels as each new one covers
    planes = [Image.fromarray(plane).resize(size[::-1], resample) for plane in images.reshape(-1, *images.shape[2:])]
    return np.stack([np.asarray(plane) for plane in planes]).reshape(*images.shape[:2], *size)

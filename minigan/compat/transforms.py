"""`torchvision.transforms`: the usual steps from a PIL image to a tensor, as objects that are called.

Random ones draw from the stream that `manual_seed` seeds. What each does to an image is in `minigan.compat.images`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minigan.compat import images
from minigan.compat.images import InterpolationMode
from minigan.creation import rand, randint, randperm


class _Transform:
    """Base: shows its arguments."""

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({arguments})"


class Compose:
    """One transform after the other.

    >>> import numpy as np
    >>> Compose([ToTensor(), Normalize((0.5,), (0.5,))])(np.array([[0, 255]], np.uint8))
    tensor([[[-1.,  1.]]])
    """

    def __init__(self, transforms: Sequence[Callable]) -> None:
        self.transforms = transforms

    def __call__(self, img: Any) -> Any:
        for transform in self.transforms:
            img = transform(img)
        return img

    def __repr__(self) -> str:
        return "\n".join(["Compose(", *(f"    {transform}" for transform in self.transforms), ")"])


class ToTensor(_Transform):
    """(C, H, W) from 0 to 1."""

    def __call__(self, pic: Any) -> Any:
        return images.to_tensor(pic)


class ToPILImage(_Transform):
    """A tensor or array as a PIL image."""

    def __init__(self, mode: str | None = None) -> None:
        self.mode = mode

    def __call__(self, pic: Any) -> Any:
        return images.to_pil_image(pic, self.mode)


class Lambda(_Transform):
    """A function of the image."""

    def __init__(self, lambd: Callable[[Any], Any]) -> None:
        self.lambd = lambd

    def __call__(self, img: Any) -> Any:
        return self.lambd(img)


class Normalize(_Transform):
    """(x - mean) / std."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> None:
        self.mean, self.std, self.inplace = mean, std, inplace

    def __call__(self, tensor: Any) -> Any:
        return images.normalize(tensor, self.mean, self.std, self.inplace)


class Resize(_Transform):
    """To (height, width), or to a length of the shorter side."""

    def __init__(
        self,
        size: int | Sequence[int],
        interpolation: InterpolationMode | int = InterpolationMode.BILINEAR,
        max_size: int | None = None,
        antialias: bool | None = True,
    ) -> None:
        self.size, self.interpolation, self.max_size, self.antialias = size, interpolation, max_size, antialias

    def __call__(self, img: Any) -> Any:
        return images.resize(img, self.size, self.interpolation, self.max_size)


Scale = Resize  # the older name


class CenterCrop(_Transform):
    """The middle."""

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = images.pair(size)

    def __call__(self, img: Any) -> Any:
        return images.center_crop(img, self.size)


class Pad(_Transform):
    """A border."""

    def __init__(self, padding: int | Sequence[int], fill: Any = 0, padding_mode: str = "constant") -> None:
        self.padding, self.fill, self.padding_mode = padding, fill, padding_mode

    def __call__(self, img: Any) -> Any:
        return images.pad(img, self.padding, self.fill, self.padding_mode)


class RandomCrop(_Transform):
    """A part at a random place."""

    def __init__(self, size: int | Sequence[int], padding: int | Sequence[int] | None = None, fill: Any = 0) -> None:
        self.size, self.padding, self.fill = images.pair(size), padding, fill

    def __call__(self, img: Any) -> Any:
        if self.padding is not None:
            img = images.pad(img, self.padding, self.fill)
        (height, width), (h, w) = self.size, images.size_of(img)
        if h < height or w < width:
            raise ValueError(f"RandomCrop: the image is {(h, w)}, smaller than the crop {self.size}; Resize it first")
        top, left = (int(randint(0, slack + 1, (1,))) for slack in (h - height, w - width))
        return images.crop(img, top, left, height, width)


class RandomHorizontalFlip(_Transform):
    """Mirrored with probability p."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(self, img: Any) -> Any:
        return images.hflip(img) if float(rand(1)) < self.p else img


class RandomVerticalFlip(_Transform):
    """Upside down with probability p."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(self, img: Any) -> Any:
        return images.vflip(img) if float(rand(1)) < self.p else img


class Grayscale(_Transform):
    """Without colour."""

    def __init__(self, num_output_channels: int = 1) -> None:
        self.num_output_channels = num_output_channels

    def __call__(self, img: Any) -> Any:
        return images.to_grayscale(img, self.num_output_channels)


class ColorJitter(_Transform):
    """Brightness, contrast, saturation and hue changed at random, in random order.

    Each is a number (around 1, for the hue around 0, by at most that) or its two limits.
    """

    def __init__(
        self, brightness: Any = 0, contrast: Any = 0, saturation: Any = 0, hue: float | tuple[float, float] = 0
    ) -> None:
        self.brightness, self.contrast, self.saturation = map(self._limits, (brightness, contrast, saturation))
        self.hue = hue if isinstance(hue, (tuple, list)) else (-hue, hue)

    @staticmethod
    def _limits(amount: Any) -> tuple[float, float]:
        return tuple(amount) if isinstance(amount, (tuple, list)) else (max(0, 1 - amount), 1 + amount)

    def __call__(self, img: Any) -> Any:
        steps = [
            (images.adjust_brightness, self.brightness, 1),
            (images.adjust_contrast, self.contrast, 1),
            (images.adjust_saturation, self.saturation, 1),
            (images.adjust_hue, self.hue, 0),
        ]
        for i in randperm(len(steps)).tolist():
            adjust, (low, high), unchanged = steps[i]
            if not low == high == unchanged:
                img = adjust(img, low + float(rand(1)) * (high - low))
        return img

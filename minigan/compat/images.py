"""`torchvision.transforms.functional`: from PIL images to tensors and back. Sizes change while it is a PIL image."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from minigan.compat.notes import note
from minigan.creation import from_numpy
from minigan.creation import tensor as make_tensor
from minigan.ops.shape import flip
from minigan.tensor import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


class InterpolationMode(Enum):
    """How values between pixels are found."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


def _filter(interpolation: InterpolationMode | int) -> Any:
    """Pillow's filter: older scripts name it themselves, as `Image.BICUBIC`."""
    from PIL.Image import Resampling

    if isinstance(interpolation, InterpolationMode):
        return Resampling[interpolation.name.removesuffix("_EXACT")]
    return Resampling(interpolation)


def _pillow(image: Any, who: str) -> Any:
    from PIL.Image import Image

    if not isinstance(image, Image):
        raise TypeError(f"{who}: got a {type(image).__name__}, expected a PIL image; put it before ToTensor()")
    return image


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) from one number for both, or from two.

    >>> pair(3), pair([4, 5])
    ((3, 3), (4, 5))
    """
    if isinstance(size, int):
        return size, size
    return (size[0], size[0]) if len(size) == 1 else (size[0], size[1])


def to_tensor(pic: Image | np.ndarray) -> Tensor:
    """(H, W) or (H, W, C) to (C, H, W); 8-bit values become floats from 0 to 1.

    >>> to_tensor(np.array([[0, 255]], np.uint8))
    tensor([[[0., 1.]]])
    """
    array = np.array(pic)
    if array.ndim not in (2, 3):
        raise ValueError(f"to_tensor: got an array of shape {array.shape}, expected (H, W) or (H, W, C)")
    array = np.ascontiguousarray(np.atleast_3d(array).transpose(2, 0, 1))
    if array.dtype in (np.uint8, np.bool):
        array = array.astype(np.float32) / np.float32(255 if array.dtype == np.uint8 else 1)
    return from_numpy(array)


def to_pil_image(pic: Tensor | np.ndarray, mode: str | None = None) -> Image:
    """A (C, H, W) tensor, or an (H, W, C) array, as a PIL image; floats from 0 to 1 become 8-bit values."""
    from PIL import Image

    array = pic
    if isinstance(pic, Tensor):
        array = pic.numpy(force=True)
        array = array[None] if array.ndim == 2 else array
        if array.dtype.kind == "f" and mode != "F":
            array = (array * 255).astype(np.uint8)
        array = array.transpose(1, 2, 0)
    array = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    image = Image.fromarray(np.ascontiguousarray(array))
    return image if mode in (None, image.mode) else image.convert(mode)


def normalize(tensor: Tensor, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> Tensor:
    """(x - mean) / std, channel by channel."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"normalize: got a {type(tensor).__name__}, expected a tensor; put it after ToTensor()")
    if not all(std):
        raise ValueError(f"normalize: std {std} has a 0 to divide by")
    center, scale = (make_tensor(values, dtype=tensor.dtype, device=tensor.device) for values in (mean, std))
    channels = tensor.shape[-3]
    if center.ndim and len(center) > channels:  # scripts for colour, run on digits
        note(f"Normalize: {len(center)} values for {channels} channel(s), the rest is left out as in old torchvision")
        center, scale = center[:channels], scale[:channels]
    per_channel = (-1, 1, 1) if center.ndim else ()
    center, scale = center.reshape(per_channel), scale.reshape(per_channel)
    return tensor.sub_(center).div_(scale) if inplace else (tensor - center) / scale


def resize(
    img: Image,
    size: int | Sequence[int],
    interpolation: InterpolationMode | int = InterpolationMode.BILINEAR,
    max_size: int | None = None,
    antialias: bool | None = True,
) -> Image:
    """To (height, width); one number is the shorter side, and the longer one follows."""
    img = _pillow(img, "resize")
    if max_size is not None:
        raise NotImplementedError("resize: max_size is not in minigan")
    if isinstance(size, int) or len(size) == 1:
        short = size if isinstance(size, int) else size[0]
        w, h = img.size
        size = (short, int(short * w / h)) if h <= w else (int(short * h / w), short)
    height, width = size
    return img if img.size == (width, height) else img.resize((width, height), _filter(interpolation))


def size_of(img: Any) -> tuple[int, int]:
    """(height, width)."""
    height, width = img.shape[-2:] if isinstance(img, Tensor) else img.size[::-1]
    return height, width


def crop(img: Any, top: int, left: int, height: int, width: int) -> Any:
    """A part of an image; what lies outside is 0."""
    if not isinstance(img, Tensor):
        return img.crop((left, top, left + width, top + height))
    from minigan.ops.padding import pad as pad_tensor

    h, w = size_of(img)
    outside = (max(-left, 0), max(left + width - w, 0), max(-top, 0), max(top + height - h, 0))
    top, left = max(top, 0), max(left, 0)
    return pad_tensor(img, outside)[..., top : top + height, left : left + width]


def center_crop(img: Any, output_size: int | Sequence[int]) -> Any:
    """The middle of an image."""
    height, width = pair(output_size)
    h, w = size_of(img)
    return crop(img, round((h - height) / 2), round((w - width) / 2), height, width)


def hflip(img: Any) -> Any:
    """Mirrored."""
    if isinstance(img, Tensor):
        return flip(img, -1)
    from PIL.Image import Transpose

    return img.transpose(Transpose.FLIP_LEFT_RIGHT)


def vflip(img: Any) -> Any:
    """Upside down."""
    if isinstance(img, Tensor):
        return flip(img, -2)
    from PIL.Image import Transpose

    return img.transpose(Transpose.FLIP_TOP_BOTTOM)


def pad(img: Image, padding: int | Sequence[int], fill: Any = 0, padding_mode: str = "constant") -> Image:
    """A border: one width, (left and right, top and bottom), or (left, top, right, bottom)."""
    from PIL import ImageOps

    if padding_mode != "constant":
        raise NotImplementedError(f"pad: padding_mode {padding_mode!r} is not in minigan, only 'constant' is")
    border = padding if isinstance(padding, int) else tuple(padding)
    return ImageOps.expand(_pillow(img, "pad"), border, fill)


def to_grayscale(img: Image, num_output_channels: int = 1) -> Image:
    """Without colour, in 1 channel or 3 equal ones."""
    gray = _pillow(img, "to_grayscale").convert("L")
    return gray if num_output_channels == 1 else gray.convert("RGB")


def adjust_brightness(img: Image, brightness_factor: float) -> Image:
    """0 is black, 1 the image."""
    from PIL.ImageEnhance import Brightness

    return Brightness(_pillow(img, "adjust_brightness")).enhance(brightness_factor)


def adjust_contrast(img: Image, contrast_factor: float) -> Image:
    """0 is gray, 1 the image."""
    from PIL.ImageEnhance import Contrast

    return Contrast(_pillow(img, "adjust_contrast")).enhance(contrast_factor)


def adjust_saturation(img: Image, saturation_factor: float) -> Image:
    """0 is without colour, 1 the image."""
    from PIL.ImageEnhance import Color

    return Color(_pillow(img, "adjust_saturation")).enhance(saturation_factor)


def adjust_hue(img: Image, hue_factor: float) -> Image:
    """Colours turned by a part of the circle, -0.5 to 0.5."""
    if not -0.5 <= hue_factor <= 0.5:
        raise ValueError(f"adjust_hue: hue_factor {hue_factor} is not in [-0.5, 0.5]")
    mode = _pillow(img, "adjust_hue").mode
    if mode in ("L", "1", "I", "F"):
        return img
    from PIL.Image import fromarray, merge

    h, s, v = img.convert("HSV").split()
    turned = np.array(h) + np.uint8(int(hue_factor * 255) % 256)  # wraps around, as the circle does
    return merge("HSV", (fromarray(turned), s, v)).convert(mode)

"""DiffAugment (Zhao et al. 2020): random changes to real and fake images alike, through which gradients flow.

D sees `diff_augment(real)` and `diff_augment(fake)`, G's gradient comes through the latter; so D cannot learn a
small data set by heart, and G does not learn the changes. All is made of sums and products: a gradient penalty may be
taken through it. What is done to data before training (flip, crop) is in `minigan.data`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from minigan.creation import arange, rand, randint
from minigan.ops.linear import einsum
from minigan.random import Generator
from minigan.tensor import Tensor


def diff_augment(x: Tensor, policy: str = "color,translation,cutout", generator: Generator | None = None) -> Tensor:
    """Images (N, C, H, W) after the changes that `policy` names, in its order; each image has its own draw.

    - color: brightness + U(-½, ½), saturation × U(0, 2) and contrast × U(½, 1½) about the mean
    - translation: by up to ⅛ of each side, zeros coming in
    - cutout: a square of half the side, its centre anywhere, becomes 0

    >>> import minigan as mg
    >>> diff_augment(mg.ones(2, 1, 8, 8), "translation,cutout").shape
    (2, 1, 8, 8)
    """
    if x.ndim != 4:
        raise ValueError(f"diff_augment: got samples of shape {tuple(x.shape)}, expected images (N, C, H, W)")
    for name in filter(None, (part.strip() for part in policy.split(","))):
        if name not in _CHANGES:
            near = difflib.get_close_matches(name, _CHANGES, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"diff_augment: unknown change {name!r}, expected some of {', '.join(_CHANGES)}{hint}")
        x = _CHANGES[name](x, generator)
    return x


def _color(x: Tensor, generator: Generator | None) -> Tensor:
    brightness, saturation, contrast = (
        rand(x.shape[0], 1, 1, 1, generator=generator, dtype=x.dtype, device=x.device) for _ in range(3)
    )
    x = x + (brightness - 0.5)
    grey = x.mean(dim=1, keepdim=True)
    x = (x - grey) * (2 * saturation) + grey
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    return (x - middle) * (contrast + 0.5) + middle


def _translation(x: Tensor, generator: Generator | None) -> Tensor:
    """y[i, j] = x[i + s, j + t], or 0 outside: a product with two matrices of zeros and ones per image"""
    rows, columns = (_shift(x, size, generator) for size in x.shape[2:])
    return einsum("nik,nckl,njl->ncij", rows, x, columns)


def _shift(x: Tensor, size: int, generator: Generator | None) -> Tensor:
    """Per image, the matrix that moves an axis by a random number of places: 1 where column = row + shift."""
    most = int(size / 8 + 0.5)
    shift = randint(-most, most + 1, (x.shape[0], 1, 1), generator=generator, device=x.device)
    places = arange(size, device=x.device)
    return (places == places.reshape(-1, 1) + shift).to(x.dtype)


def _cutout(x: Tensor, generator: Generator | None) -> Tensor:
    rows, columns = (_inside(x, size, generator) for size in x.shape[2:])
    hole = rows.reshape(-1, 1, x.shape[2], 1) & columns.reshape(-1, 1, 1, x.shape[3])
    return x * (~hole).to(x.dtype)


def _inside(x: Tensor, size: int, generator: Generator | None) -> Tensor:
    """Per image, which places of an axis lie in a window of half its size, whose centre is anywhere on it."""
    width = int(size / 2 + 0.5)
    centre = randint(0, size + (1 - width % 2), (x.shape[0], 1), generator=generator, device=x.device)
    start = centre - width // 2
    places = arange(size, device=x.device)
    return (places >= start) & (places < start + width)


_CHANGES: dict[str, Callable[[Tensor, Generator | None], Tensor]] = {
    "color": _color, "translation": _translation, "cutout": _cutout,
}  # fmt: skip

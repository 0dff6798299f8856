"""The sizes of a convolution, worked out once and shared by every kernel on every device.

Here live `ConvGeometry`, what fits it, and the error messages. Of arrays, shapes and dtypes alone are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

__all__ = ["ConvGeometry", "checked_sizes"]

Ints = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """All sizes of the trilinear form that the three convolution kernels differentiate.

        T(x, w, y) = sum over n, o, c, i, k of  x[n, c, i*s + k*d - p] * w[o, c, k] * y[n, o, i]

    `i` runs over `output`, the small side, and `k` over `kernel`; positions of x outside `input`, the
    big side, count as zero. `s` is `stride`, `d` is `dilation`, `p` is the first number of each `padding`
    pair. Everything is a tuple with one entry per spatial axis, of which there are 1, 2 or 3.

    Make one with `ConvGeometry.conv` (the big side is known) or `ConvGeometry.transpose` (the small
    side is known). There, an int stands for the same value on every axis, and a padding is an int, one
    int per axis, or one (before, after) pair per axis.

    >>> from minigan.kernels.geometry import ConvGeometry
    >>> g = ConvGeometry.conv((64, 64), (4, 4), stride=2, padding=1)
    >>> g.output, g.padding
    ((32, 32), ((1, 1), (1, 1)))
    >>> g == ConvGeometry.transpose((32, 32), (4, 4), stride=2, padding=1)
    True
    """

    input: Ints
    kernel: Ints
    output: Ints
    stride: Ints
    dilation: Ints
    padding: Pairs
    groups: int

    @classmethod
    def conv(
        cls,
        input: Sequence[int],
        kernel: Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | Sequence[Sequence[int]] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> ConvGeometry:
        """The geometry of `conv2d` and its kin; the output size rounds down, as PyTorch's does.

        >>> ConvGeometry.conv((9,), (3,), stride=2, padding=[(1, 0)]).output
        (4,)
        """
        return _conv(*_frozen("conv", input, kernel, stride, padding, dilation, groups))

    @classmethod
    def transpose(
        cls,
        output: Sequence[int],
        kernel: Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | Sequence[Sequence[int]] = 0,
        output_padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> ConvGeometry:
        """The geometry of `conv_transpose2d` and its kin: `output` is what goes in, `input` what comes out.

        >>> ConvGeometry.transpose((4, 4), (3, 3), stride=2, padding=1, output_padding=1).input
        (8, 8)
        """
        extra = _per_axis("conv_transpose", "output_padding", output_padding, len(kernel))
        return _transpose(*_frozen("conv_transpose", output, kernel, stride, padding, dilation, groups), extra)

    @property
    def ndim(self) -> int:
        """The number of spatial axes."""
        return len(self.kernel)

    @property
    def taps(self) -> int:
        """The number of kernel positions.

        >>> ConvGeometry.conv((8, 8), (3, 3)).taps
        9
        """
        return prod(self.kernel)

    @property
    def is_gemm(self) -> bool:
        """Whether the big side, as it lies in channels-last memory, already is the matrix of its windows.

        So it is for a pointwise kernel, and for a kernel that covers the whole image.

        >>> ConvGeometry.conv((8, 8), (1, 1)).is_gemm, ConvGeometry.conv((4, 4), (4, 4)).is_gemm
        (True, True)
        >>> ConvGeometry.conv((8, 8), (1, 1), stride=2).is_gemm
        False
        """
        if any(before or after for before, after in self.padding):
            return False
        pointwise = self.taps == 1 and self.input == self.output
        # Between the taps of one group lie the channels of the others, hence groups == 1.
        whole = self.groups == 1 and self.input == self.kernel and prod(self.output) == 1
        return pointwise or whole


def checked_sizes(op: str, g: ConvGeometry, x: Any = None, w: Any = None, y: Any = None) -> tuple[int, int, int]:
    """Batch, channels and filters, once the arrays are known to fit the geometry and each other."""
    arrays = {name: array for name, array in (("x", x), ("w", w), ("y", y)) if array is not None}
    batch = next(len(arrays[name]) for name in ("x", "y") if name in arrays)
    channels = arrays["w"].shape[1] * g.groups if "w" in arrays else arrays["x"].shape[1]
    filters = len(arrays["w"]) if "w" in arrays else arrays["y"].shape[1]
    expected = {
        "x": (batch, channels, *g.input),
        "w": (filters, channels // g.groups, *g.kernel),
        "y": (batch, filters, *g.output),
    }
    for name, array in arrays.items():
        if array.shape != expected[name]:
            raise ValueError(f"{op}: {name} has shape {array.shape}, expected {expected[name]}, for {g}")
    if channels % g.groups or filters % g.groups:
        raise ValueError(
            f"{op}: {channels} and {filters} channels do not divide into {g.groups} groups; give multiples of groups"
        )
    if len({array.dtype for array in arrays.values()}) > 1:
        given = " and ".join(f"{name} {array.dtype}" for name, array in arrays.items())
        raise TypeError(f"{op}: got {given}; convert one so that both have the same dtype")
    return batch, channels, filters


@lru_cache(maxsize=1024)
def _conv(input: Ints, kernel: Ints, stride: Ints, padding: Pairs, dilation: Ints, groups: int) -> ConvGeometry:
    output = tuple(
        (n + before + after - d * (k - 1) - 1) // s + 1
        for n, k, s, (before, after), d in zip(input, kernel, stride, padding, dilation, strict=True)
    )
    if min(output) < 1:
        raise ValueError(
            f"conv: input {_by(input)} with kernel {_by(kernel)}, stride {_same(stride)}, "
            f"dilation {_same(dilation)}, padding {_same(padding)} gives an empty output {_by(output)}; "
            "use a smaller kernel or dilation, or more padding"
        )
    return ConvGeometry(input, kernel, output, stride, dilation, padding, groups)


@lru_cache(maxsize=1024)
def _transpose(
    output: Ints, kernel: Ints, stride: Ints, padding: Pairs, dilation: Ints, groups: int, extra: Ints
) -> ConvGeometry:
    for e, s, d in zip(extra, stride, dilation, strict=True):
        if not 0 <= e < max(s, d):
            raise ValueError(
                f"conv_transpose: output_padding {_same(extra)} must be at least 0 and smaller than stride "
                f"{_same(stride)} or dilation {_same(dilation)}; use a smaller output_padding"
            )
    input = tuple(
        (n - 1) * s - before - after + d * (k - 1) + e + 1
        for n, k, s, (before, after), d, e in zip(output, kernel, stride, padding, dilation, extra, strict=True)
    )
    if min(input) < 1:
        raise ValueError(
            f"conv_transpose: input {_by(output)} with kernel {_by(kernel)}, stride {_same(stride)}, "
            f"dilation {_same(dilation)}, padding {_same(padding)}, output_padding {_same(extra)} "
            f"gives an empty output {_by(input)}; use less padding or a larger kernel"
        )
    return ConvGeometry(input, kernel, output, stride, dilation, padding, groups)


def _frozen(
    op: str,
    image: Sequence[int],
    kernel: Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int] | Sequence[Sequence[int]],
    dilation: int | Sequence[int],
    groups: int,
) -> tuple[Ints, Ints, Ints, Pairs, Ints, int]:
    """The arguments as tuples of one entry per axis, each checked on its own."""
    ndim = len(kernel)
    if ndim not in (1, 2, 3):
        raise ValueError(f"{op}: the kernel has {ndim} spatial axes; give 1, 2 or 3 sizes")
    if isinstance(padding, int):
        padding = (padding,) * ndim
    sides = [(p, p) if isinstance(p, int) else tuple(p) for p in padding]
    if len(sides) != ndim or any(len(pair) != 2 for pair in sides):
        raise ValueError(
            f"{op}: padding {padding} does not fit {ndim} spatial axes; "
            f"give an int, {ndim} ints or {ndim} pairs (before, after)"
        )
    pairs = tuple((int(before), int(after)) for before, after in sides)
    if min(min(pair) for pair in pairs) < 0:
        raise ValueError(f"{op}: padding {_same(pairs)} is negative; give 0 or more, and slice to crop")

    def positive(name: str, value: int | Sequence[int]) -> Ints:
        values = _per_axis(op, name, value, ndim)
        if min(values) < 1:
            raise ValueError(f"{op}: {name} {_by(values)} must be positive; give 1 or more on every axis")
        return values

    if groups < 1:
        raise ValueError(f"{op}: groups {groups} must be positive; give 1 or more")
    return (
        positive("input", image),
        positive("kernel", kernel),
        positive("stride", stride),
        pairs,
        positive("dilation", dilation),
        int(groups),
    )


def _per_axis(op: str, name: str, value: int | Sequence[int], ndim: int) -> Ints:
    values = (value,) * ndim if isinstance(value, int) else tuple(map(int, value))
    if len(values) != ndim:
        raise ValueError(f"{op}: {name} {_by(values)} has {len(values)} sizes, the kernel has {ndim}; give {ndim}")
    return values


def _by(sizes: Sequence[object]) -> str:
    """Sizes as people write them: 3x3."""
    return "x".join(map(str, sizes))


def _same(values: Ints | Pairs) -> str:
    """Values per axis, or only one where all axes (and both sides of a padding) agree."""
    flat = [v[0] if isinstance(v, tuple) and v[0] == v[1] else v for v in values]
    return str(flat[0]) if len(set(flat)) == 1 else _by(flat)

"""Kernels that compute each value of the output from one value of every input, generated from an expression.

    contiguous: grid-stride loop over n values in the order of memory, float4 loads and stores where addresses allow
    strided:    the same loop, with an index for each axis that is left after merging; broadcast axes have stride 0

Bytes decide: an add of float32 moves 12 bytes a value and does one operation, far below what a GPU could do beside it.
So the contiguous kernel reads 16 bytes an instruction and divides nothing. The strided one pays one division for each
axis but the first, about 20 instructions: up to two of them hide behind memory on a Hopper GPU.

What there is to compute is in operations.py. Result shapes and dtypes are NumPy's.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from .operations import C_TYPES, OPERATIONS, result_types
from .source import HERE

__all__ = [
    "Input", "copy", "empty_like", "erf", "evaluate", "fill", "leaky_relu", "leaky_relu_backward", "merged",
    "source_of",
]  # fmt: skip

Array = Any  # of NumPy or CuPy
Number = float | int | bool
Strides = tuple[int, ...]

THREADS = 256
MOST_BLOCKS = 2048  # 16 on each of Hopper's 132 multiprocessors, which hold 8 at a time
MOST_AXES = 6
VECTORS = {"float": "float4", "int": "int4"}  # 16 bytes

# Source -------------------------------------------------------------------------------------------------------------


class Input(NamedTuple):
    """An operand of a kernel: an array of a C type, or a number, and the type it is computed in."""

    type: str
    compute: str
    array: bool = True


@cache
def helpers() -> str:
    """The functions that expressions may call."""
    return (HERE / "elementwise.cuh").read_text(encoding="utf-8").replace("#pragma once\n", "")


@lru_cache(maxsize=1024)
def source_of(expression: str, inputs: tuple[Input, ...], output: str, ndim: int, name: str = "elementwise") -> str:
    """A kernel that computes an expression in x, y, z; `ndim` is 0 for the contiguous one, else the number of axes.

    >>> print(source_of("x + y", (Input("float", "float"), Input("float", "float", array=False)), "float", 1, "add"))
    __device__ __forceinline__ float add_of(float x, float y) { return x + y; }
    <BLANKLINE>
    extern "C" __global__ void __launch_bounds__(256)
        add_strided(const float *xs, float y, float *out, int n, int xs_at, int out_at, int xs_0, int out_0) {
      unsigned first = blockIdx.x * blockDim.x + threadIdx.x, step = gridDim.x * blockDim.x;
      for (unsigned i = first; i < n; i += step) {
        int i0 = i;
        float x = xs[xs_at + i0 * xs_0];
        out[out_at + i0 * out_0] = add_of(x, y);
      }
    }
    """
    parameters = ", ".join(f"{given.compute} {letter}" for given, letter in zip(inputs, "xyz", strict=False))
    value = expression.replace("{f}", "f" if inputs[0].compute == "float" else "")
    lines = [f"__device__ __forceinline__ {output} {name}_of({parameters}) {{ return {value}; }}", ""]
    lines += _contiguous(name, inputs, output) if ndim == 0 else _strided(name, inputs, output, ndim)
    return "\n".join(lines)


def _head(kernel: str, inputs: Sequence[Input], output: str, more: Sequence[str]) -> list[str]:
    pairs = zip(inputs, "xyz", strict=False)
    given = [f"const {i.type} *{letter}s" if i.array else f"{i.type} {letter}" for i, letter in pairs]
    parameters = ", ".join([*given, f"{output} *out", "int n", *more])
    return [
        'extern "C" __global__ void __launch_bounds__(256)',
        *_wrapped(f"{kernel}({parameters}) {{"),
        "  unsigned first = blockIdx.x * blockDim.x + threadIdx.x, step = gridDim.x * blockDim.x;",
    ]


def _wrapped(head: str) -> list[str]:
    """Broken behind commas."""
    breakable = head.replace(" ", "\0").replace(",\0", ", ")
    lines = textwrap.wrap(breakable, 116, initial_indent=" " * 4, subsequent_indent=" " * 8)
    return [line.replace("\0", " ") for line in lines]


def _contiguous(name: str, inputs: Sequence[Input], output: str) -> list[str]:
    """Of n values the first 4·quads in vectors, then the rest."""
    letters = "xyz"[: len(inputs)]
    pairs = list(zip(inputs, letters, strict=True))
    values = ", ".join(f"{letter}s[i]" if i.array else letter for i, letter in pairs)
    kernel = f"{name}_contiguous"
    rest = f"out[i] = {name}_of({values});"
    if not _vectors(inputs, output):
        return [*_head(kernel, inputs, output, []), f"  for (unsigned i = first; i < n; i += step) {rest}", "}"]
    lines = [*_head(kernel, inputs, output, ["int quads"]), "  for (unsigned i = first; i < quads; i += step) {"]
    for given, letter in pairs:
        if given.array:
            vector = VECTORS[given.type]
            lines.append(f"    {vector} {letter}4 = ((const {vector} *){letter}s)[i];")
    lines.append(f"    {VECTORS[output]} out4;")
    for part in "xyzw":
        values = ", ".join(f"{letter}4.{part}" if i.array else letter for i, letter in pairs)
        lines.append(f"    out4.{part} = {name}_of({values});")
    lines += [f"    (({VECTORS[output]} *)out)[i] = out4;", "  }"]
    return [*lines, f"  for (unsigned i = 4 * quads + first; i < n; i += step) {rest}", "}"]


def _vectors(inputs: Sequence[Input], output: str) -> bool:
    return output in VECTORS and all(given.type in VECTORS for given in inputs if given.array)


def _strided(name: str, inputs: Sequence[Input], output: str, ndim: int) -> list[str]:
    """An index for each axis, the last from i's remainder; `_at` is where an array's first value is."""
    pairs = list(zip(inputs, "xyz", strict=False))
    arrays = [f"{letter}s" for given, letter in pairs if given.array] + ["out"]
    axes = range(ndim)
    sizes = [f"int size{axis}" for axis in axes[1:]]
    places = [f"int {array}_at" for array in arrays]
    strides = [f"int {array}_{axis}" for array in arrays for axis in axes]
    lines = _head(f"{name}_strided", inputs, output, [*sizes, *places, *strides])
    lines.append("  for (unsigned i = first; i < n; i += step) {")
    if ndim > 1:
        lines.append("    unsigned rest = i;")
    for axis in reversed(axes[1:]):
        lines.append(f"    int i{axis} = rest % size{axis};")
        lines.append(f"    rest /= size{axis};")
    lines.append(f"    int i0 = {'rest' if ndim > 1 else 'i'};")
    steps = {array: " + ".join(f"i{axis} * {array}_{axis}" for axis in axes) for array in arrays}
    at = {array: f"{array}[{array}_at + {steps[array]}]" for array in arrays}
    lines += [f"    {given.compute} {letter} = {at[f'{letter}s']};" for given, letter in pairs if given.array]
    values = ", ".join(letter for _, letter in pairs)
    return [*lines, f"    {at['out']} = {name}_of({values});", "  }", "}"]


# Launching ----------------------------------------------------------------------------------------------------------


def evaluate(device: Any, name: str, *operands: Array | Number | None, out: Array | None = None) -> Array:
    """An operation of `OPERATIONS` on arrays and Python numbers that broadcast together, as NumPy would do it.

    `out` may be one of the arrays, but must not share memory with them in another way. Without it, the result lies in
    memory as the first array of its shape does.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> evaluate(EmulatedDevice(), "maximum", np.array([[1, 5]], np.float32), np.array([[2], [9]], np.float32))
    array([[2., 5.],
           [9., 9.]], dtype=float32)
    """
    name, given = _simplified(name, operands)
    types = result_types(name, given)
    operation = OPERATIONS[name]
    expression = operation.expression if types[0].kind == "f" else operation.whole
    arrays = [operand for operand in given if _is_array(operand)]
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    if out is None:
        out = empty_like(device, arrays, shape, types[-1])
    elif out.shape != shape or not np.can_cast(types[-1], out.dtype, "same_kind"):
        raise ValueError(f"{name}: got out of {out.dtype} {out.shape}, expected {types[-1]} {shape}")
    assert expression is not None
    _launch(device, name, expression, given, types, out)
    return out


def _simplified(name: str, operands: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """The same by a cheaper operation: limits that are None, and squares among the powers."""
    if name == "clip" and len(operands) == 3 and operands[1] is None:
        return "minimum", (operands[0], operands[2])
    if name == "clip" and len(operands) == 3 and operands[2] is None:
        return "maximum", operands[:2]
    if name == "power" and len(operands) == 2 and not _is_array(operands[1]) and _is_array(operands[0]):
        if operands[1] == 2 and operands[0].dtype.kind == "f":
            return "square", operands[:1]
        if operands[1] < 0 and operands[0].dtype.kind == "i" and isinstance(operands[1], (int, np.integer)):
            raise ValueError(f"power: got exponent {operands[1]} of {operands[0].dtype}, expected 0 or more")
    return name, operands


def copy(device: Any, x: Array, out: Array | None = None, dtype: Any = None) -> Array:
    """The values of any view, in memory of their own in C order, or written into `out`; cast to a dtype if asked for.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> copy(EmulatedDevice(), np.arange(6).reshape(2, 3).T[::-1], dtype=np.float32)
    array([[2., 5.],
           [1., 4.],
           [0., 3.]], dtype=float32)
    """
    if out is None:
        out = device.empty(x.shape, np.dtype(dtype or x.dtype))
    elif dtype is not None and out.dtype != dtype:
        raise TypeError(f"copy: got out of {out.dtype} and dtype {np.dtype(dtype)}, expected them to be the same")
    if np.broadcast_shapes(x.shape, out.shape) != out.shape:
        raise ValueError(f"copy: an array of shape {x.shape} does not fill one of {out.shape}")
    _launch(device, "copy", "x", [x], [x.dtype], out)
    return out


def fill(device: Any, out: Array, value: Number) -> Array:
    """All values of an array set to one.

    >>> from minigan.kernels.emulator.device import EmulatedDevice
    >>> fill(EmulatedDevice(), np.zeros(2, np.int64), 3)
    array([3, 3])
    """
    _launch(device, "fill", "x", [out.dtype.type(value)], [out.dtype], out)
    return out


# The names that every backend's kernels have


def leaky_relu(device: Any, x: Array, slope: float) -> Array:
    """x where x > 0, slope·x elsewhere."""
    return evaluate(device, "leaky_relu", x, slope)


def leaky_relu_backward(device: Any, gy: Array, y: Array, slope: float) -> Array:
    """gy where y > 0, slope·gy elsewhere."""
    return evaluate(device, "leaky_relu_backward", gy, y, slope)


def erf(device: Any, x: Array) -> Array:
    """2/√π ∫₀ˣ e^(-t²) dt"""
    return evaluate(device, "erf", x)


def _launch(
    device: Any, name: str, expression: str, operands: Sequence[Any], types: Sequence[np.dtype], out: Array
) -> None:  # fmt: skip
    """The kernel for where the arrays lie, on them."""
    if out.size == 0:
        return
    arrays = [*filter(_is_array, operands), out]
    sizes, strides = merged(out.shape, [_strides(array, out.shape) for array in arrays])
    if len(sizes) > MOST_AXES:
        raise ValueError(
            f"{name}: of shape {out.shape}, {len(sizes)} axes cannot be merged, expected at most {MOST_AXES}"
        )
    computed = [C_TYPES[np.dtype(dtype)] for dtype in types[: len(operands)]]
    inputs = tuple(
        Input(C_TYPES[np.dtype(operand.dtype)] if _is_array(operand) else compute, compute, _is_array(operand))
        for operand, compute in zip(operands, computed, strict=True)
    )
    output = C_TYPES[np.dtype(out.dtype)]
    ndim = 0 if len(sizes) < 2 and all(steps in ((), (1,)) for steps in strides) else len(sizes)
    text = helpers() + source_of(expression, inputs, output, ndim, name)
    memory = [device.memory(array) for array in arrays]
    flat = iter(flat for flat, _ in memory)
    given = [next(flat) if _is_array(operand) else operand for operand in operands]
    threads = out.size
    arguments = [*given, next(flat), out.size]
    if ndim:
        arguments += [*sizes[1:], *(place for _, place in memory), *(step for steps in strides for step in steps)]
    elif _vectors(inputs, output):
        aligned = all(device.address(flat) % 16 == 0 for flat, _ in memory)
        arguments.append(out.size // 4 if aligned else 0)
        threads = -(-out.size // 4) if aligned else out.size
    kernel = f"{name}_{'strided' if ndim else 'contiguous'}"
    device.launch(text, kernel, (min(-(-threads // THREADS), MOST_BLOCKS),), (THREADS,), arguments)


def merged(shape: Sequence[int], strides: Sequence[Strides]) -> tuple[tuple[int, ...], list[Strides]]:
    """Sizes and strides of fewer axes: ordered as the last array's memory, and merged where all arrays allow it.

    >>> merged((2, 3, 4, 5), [(0, 0, 5, 1), (60, 20, 5, 1)])  # an array of shape (4, 5), and the result
    ((6, 20), [(0, 1), (20, 1)])
    """
    order = sorted((axis for axis, size in enumerate(shape) if size != 1), key=lambda axis: -abs(strides[-1][axis]))
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for axis in order:
        size, step = shape[axis], [given[axis] for given in strides]
        if sizes and all(before[-1] == now * size for before, now in zip(steps, step, strict=True)):
            sizes[-1] *= size
            for before, now in zip(steps, step, strict=True):
                before[-1] = now
        else:
            sizes.append(size)
            for before, now in zip(steps, step, strict=True):
                before.append(now)
    return tuple(sizes), [tuple(step) for step in steps]


def _is_array(operand: Any) -> bool:
    return hasattr(operand, "dtype") and not isinstance(operand, np.generic)


def _strides(array: Array, shape: Sequence[int]) -> Strides:
    """In values, for the shape that the array is broadcast to."""
    lead = len(shape) - len(array.shape)
    own = [
        0 if size == 1 else stride // array.dtype.itemsize
        for size, stride in zip(array.shape, array.strides, strict=True)
    ]
    return (0,) * lead + tuple(own)


def empty_like(device: Any, arrays: Sequence[Array], shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Memory for a result, in the order of the first array of its shape: images with channels last stay so."""
    like = next((array for array in arrays if array.shape == shape), None)
    if like is None or like.flags.c_contiguous:
        return device.empty(shape, dtype)
    order = sorted(range(len(shape)), key=lambda axis: (shape[axis] != 1, -abs(like.strides[axis])))
    memory = device.empty([shape[axis] for axis in order], dtype)
    return memory.transpose([order.index(axis) for axis in range(len(shape))])

"""The text of a `.cu` file, and the kernels that are in it.

A kernel here is `extern "C" __global__ void name(...)`, not a template, so that its name and its arguments can be read
from the text. Includes are inlined: CuPy's cache of compiled kernels looks at the text alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np

__all__ = ["HERE", "Kernel", "Parameter", "inlined", "kernels_in", "read"]

HERE = Path(__file__).parent

# What a parameter's type takes: a NumPy dtype, and how many values of it. Of a vector, arrays are aligned to its size.
TYPES = {
    "float": (np.float32, 1), "double": (np.float64, 1), "int": (np.int32, 1), "unsigned": (np.uint32, 1),
    "uint32_t": (np.uint32, 1), "long long": (np.int64, 1), "uint64_t": (np.uint64, 1), "unsigned char": (np.uint8, 1),
    "unsigned short": (np.uint16, 1), "bool": (np.bool_, 1), "float2": (np.float32, 2), "float4": (np.float32, 4),
}  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel: `type` is a key of TYPES."""

    name: str
    type: str
    pointer: bool
    constant: bool

    @cached_property
    def dtype(self) -> np.dtype:
        """Of the values that it takes or points to."""
        return np.dtype(TYPES[self.type][0])

    @cached_property
    def values(self) -> int:
        """How many values are one of its type."""
        return TYPES[self.type][1]

    @cached_property
    def integer(self) -> bool:
        """Whether it takes an integer or a bool by value."""
        return not self.pointer and self.dtype.kind != "f"

    @cached_property
    def bytes(self) -> int:
        """What an array's address must be a multiple of."""
        return self.dtype.itemsize * self.values

    def __str__(self) -> str:
        return f"{'const ' * self.constant}{self.type} {'*' * self.pointer}{self.name}"


@dataclass(frozen=True, eq=False)  # hashed as an object, which takes no time
class Kernel:
    """A kernel's name and parameters, and the threads of a block that it is compiled for, if it says."""

    name: str
    parameters: tuple[Parameter, ...]
    threads: int | None
    line: int


@cache
def read(name: str) -> str:
    """The text of `name`.cu with its includes inlined, once each; `#line` says where every line comes from.

    >>> "warp_sum" in read("gemm")
    True
    """
    return inlined((HERE / f"{name}.cu").read_text(encoding="utf-8"), f"{name}.cu")


def inlined(text: str, name: str, seen: set[str] | None = None) -> str:
    """A text, which messages call `name`, with the files of this folder that it includes."""
    seen = set() if seen is None else seen
    lines = [f'#line 1 "{name}"']
    for number, line in enumerate(text.splitlines(), 1):
        include = re.fullmatch(r'\s*#include "([^"]+)"\s*', line)
        if include is None:
            lines.append("" if line.strip() == "#pragma once" else line)
        elif include[1] not in seen:
            seen.add(include[1])
            lines.append(inlined((HERE / include[1]).read_text(encoding="utf-8"), include[1], seen))
            lines.append(f'#line {number + 1} "{name}"')
        else:
            lines.append("")
    return "\n".join(lines)


_KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\(([^)]*)\)\s*)?(\w+)\s*\(([^)]*)\)')


def kernels_in(text: str) -> dict[str, Kernel]:
    """The kernels of a text, by name.

    >>> found = kernels_in('extern "C" __global__ void twice(const float *x, float *y, int n) {}')
    >>> [str(parameter) for parameter in found["twice"].parameters]
    ['const float *x', 'float *y', 'int n']
    """
    plain = re.sub(r"//[^\n]*|/\*.*?\*/", lambda comment: "\n" * comment[0].count("\n"), text, flags=re.DOTALL)
    found = {}
    for match in _KERNEL.finditer(plain):
        bound, name, parameters = match.groups()
        threads = int(bound.split(",")[0]) if bound else None
        split = tuple(_parameter(name, part) for part in parameters.split(",") if part.strip())
        found[name] = Kernel(name, split, threads, plain.count("\n", 0, match.start()) + 1)
    return found


def _parameter(kernel: str, text: str) -> Parameter:
    words = re.sub(r"__restrict__|\bconst\b|\*", " ", text).split()
    kind = " ".join(words[:-1])
    if kind not in TYPES:
        raise ValueError(f"kernel {kernel}: parameter {text.strip()!r} has type {kind!r}, expected one of {[*TYPES]}")
    return Parameter(words[-1], kind, "*" in text, bool(re.search(r"\bconst\b", text)))

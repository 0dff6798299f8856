"""From CUDA C to a library that this process can call: g++, and a cache of what it made.

A kernel's text is compiled as it is, behind `shim/device.h`. Each kernel gets a caller that takes its arguments as
CUDA's launch function does, by an array of pointers. The cache is keyed by text, compiler and options.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ..cache import made
from ..cuda.source import Kernel, kernels_in

__all__ = ["EmulatorError", "Library", "library"]

SHIM = Path(__file__).parent / "shim"
RUNTIME = ("runtime.cpp", "tensor_core.cpp", "wgmma.cpp", "watch.cpp")
# -fno-gnu-unique: a library that is loaded twice has its own variables each time.
OPTIONS = (
    "-std=gnu++17", "-O2", "-g1", "-gdwarf-4", "-w", "-fPIC", "-fno-strict-aliasing", "-fno-gnu-unique",
    "-U_FORTIFY_SOURCE",
)  # fmt: skip
# What makes g++ call the hooks of watch.cpp, for kernels alone; stacks are the emulator's own.
# -fno-tree-sra: a load of a float4 stays one of 16 bytes.
WATCHING = {
    None: (),
    "bounds": (
        "-fsanitize=address", "-fsanitize-sections=shared", "--param=asan-stack=0",
        "--param=asan-instrumentation-with-call-threshold=0", "-fno-tree-sra",
    ),
    "races": ("-fsanitize=thread", "-fno-tree-sra"),
}  # fmt: skip


class EmulatorError(RuntimeError):
    """A kernel did what it must not do, or could not be compiled."""


class Library:
    """The compiled kernels of one text."""

    def __init__(self, path: Path, kernels: dict[str, Kernel]) -> None:
        self.path, self.kernels = path, kernels
        self.calls = ctypes.CDLL(str(path))

    def line_of(self, code: int) -> str:
        """Where a place in the code comes from, as "file:line"; "" if the tool for it is missing."""
        tool = shutil.which("addr2line")
        if tool is None:
            return ""
        found = subprocess.run([tool, "-e", self.path, hex(code)], capture_output=True, text=True, check=False).stdout
        return found.split(" ")[0].strip().rpartition("/")[2]


@cache
def library(text: str, watch: str | None) -> Library:
    """The library of a text, compiled if it is not in the cache; `watch` is a key of WATCHING."""
    if watch not in WATCHING:
        raise ValueError(f"watch: got {watch!r}, expected one of {[*WATCHING]}")
    kernels = kernels_in(text)
    if not kernels:
        raise EmulatorError('no kernel found: expected extern "C" __global__ void name(...)')
    source = _with_callers(text, kernels)
    runtime = _made("runtime", _shim(), _compile_runtime)
    name = hashlib.sha256("\0".join([source, _shim(), *WATCHING[watch]]).encode()).hexdigest()[:16]
    path = _made(f"kernels-{name}", source, lambda path: _compile_kernels(source, WATCHING[watch], runtime, path))
    return Library(path, kernels)


def _with_callers(text: str, kernels: dict[str, Kernel]) -> str:
    lines = ["#define CUDA_ON_CPU", '#include "device.h"', text, '#line 1 "callers"']
    for kernel in kernels.values():
        given = ", ".join(
            f"*({parameter.type} {'*' * parameter.pointer}*)given[{i}]" for i, parameter in enumerate(kernel.parameters)
        )
        lines.append(
            'extern "C" __attribute__((no_sanitize("thread", "address"))) '
            f"void emulator_call_{kernel.name}(void **given) {{ {kernel.name}({given}); }}"
        )
    return "\n".join(lines) + "\n"


# Compiling -------------------------------------------------------------------------------------------------------


@cache
def _shim() -> str:
    """All that belongs to the emulator, and the compiler's version: what the cache depends on besides the kernels."""
    parts = [path.read_text(encoding="utf-8") for path in sorted(SHIM.iterdir())]
    version = subprocess.run([_compiler(), "--version"], capture_output=True, text=True, check=True).stdout
    return "\0".join([*parts, version.partition("\n")[0], *OPTIONS])


@cache
def _compiler() -> str:
    for name in (os.environ.get("CXX"), "g++"):
        if name and shutil.which(name):
            return name
    raise EmulatorError("no C++ compiler found: the emulator needs g++ (Debian: apt install g++), or its name in CXX")


def _made(name: str, content: str, make: Callable[[Path], None]) -> Path:
    """The library of that name and content in the cache."""
    return made(f"emulator/{name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}.so", make)


def _compile_runtime(path: Path) -> None:
    _run([*OPTIONS, "-r", "-nostdlib", "-o", str(path), *(str(SHIM / name) for name in RUNTIME)])


def _compile_kernels(source: str, watching: tuple[str, ...], runtime: Path, path: Path) -> None:
    kernel, compiled = path.with_name("kernel.cpp"), path.with_name("kernel.o")
    kernel.write_text(source, encoding="utf-8")
    _run([*OPTIONS, *watching, "-I", str(SHIM), "-c", "-o", str(compiled), str(kernel)])
    _run(["-shared", "-o", str(path), str(compiled), "-x", "none", str(runtime)])


def _run(options: list[str]) -> None:
    done = subprocess.run([_compiler(), *options], capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join(line for line in done.stderr.splitlines() if line.strip())[:3000]
        raise EmulatorError(f"{_compiler()} could not compile:\n{said}")

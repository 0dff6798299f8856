"""Compiling kernels for a GPU with NVRTC, on a machine that need not have one, and what they take of it.

    python -m minigan.kernels.cuda.compile

prints registers, shared memory and spills of every kernel for every architecture that it runs on. NVRTC comes with
`pip install nvidia-cuda-nvrtc`; it is called by its C interface, so that nothing else is needed.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from ..cache import made
from .source import HERE, kernels_in, read

__all__ = ["ARCHITECTURES", "Resources", "architectures", "compiled", "cubin", "files", "nvrtc", "target"]

ARCHITECTURES = (75, 80, 90, 100, 120)  # Turing, Ampere, Hopper, Blackwell of data centres, and of desktops
# CuPy always compiles with the first two.
OPTIONS = ("-std=c++17", "-ftz=true", "--device-as-default-execution-space", "--ptxas-options=-v")


@dataclass(frozen=True)
class Resources:
    """What one kernel takes: registers of a thread, bytes of shared memory of a block, bytes spilled by a thread.

    `serialized`: ptxas has each wgmma wait for the one before it, as the registers of their sums are used in between.
    """

    kernel: str
    registers: int
    shared: int
    spilled: int
    stack: int
    serialized: bool


@cache
def nvrtc() -> ctypes.CDLL | None:
    """NVIDIA's runtime compiler; None if it is not installed."""
    spec = find_spec("nvidia")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []
    installed = [path for folder in folders for path in sorted(folder.glob("*/lib/libnvrtc.so.*"))]
    for path in (*installed, Path("libnvrtc.so.13"), Path("libnvrtc.so.12")):
        try:
            for part in path.parent.glob("libnvrtc-builtins.so.*"):  # it looks for it on the system's path alone
                ctypes.CDLL(str(part))
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    return None


def files() -> list[str]:
    """The names of all `.cu` files."""
    return sorted(path.stem for path in HERE.glob("*.cu"))


def architectures(text: str) -> tuple[int, ...]:
    """Those that run a file: from 80 on with asynchronous copies, TF32 or bf16; 90 alone with products of a warpgroup.

    >>> architectures("copy_async(to, from, true);"), architectures("float x;")
    ((80, 90, 100, 120), (75, 80, 90, 100, 120))
    >>> architectures('asm volatile("wgmma.fence.sync.aligned;");')
    (90,)
    """
    if _is_hopper(text):
        return (90,)
    uses = re.search(r"\b(copy_async|mma_tf32|mma_bf16|to_bf16)\s*\((?!void|float)", text)
    return tuple(arch for arch in ARCHITECTURES if arch >= (80 if uses else 75))


def target(text: str, arch: int) -> str:
    """What a text is compiled for, to run on an architecture: what only Hopper has is in "sm_90a".

    >>> target("float x;", 90), target('asm volatile("wgmma.fence.sync.aligned;");', 90)
    ('sm_90', 'sm_90a')
    """
    return f"sm_{arch}{'a' * _is_hopper(text)}"


def _is_hopper(text: str) -> bool:
    return '"wgmma.' in text


def compiled(text: str, arch: int) -> tuple[bytes, list[Resources]]:
    """Machine code of a text for one architecture, and what each of its kernels takes."""
    library = nvrtc()
    if library is None:
        raise RuntimeError("NVRTC is not installed: pip install nvidia-cuda-nvrtc")
    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None)
    try:
        options = [option.encode() for option in (*OPTIONS, f"-arch={target(text, arch)}")]
        failed = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = _bytes(library, "nvrtcGetProgramLog", program).rstrip(b"\0").decode()
        if failed:
            raise RuntimeError(f"NVRTC could not compile for {target(text, arch)}:\n{log[:3000]}")
        return _bytes(library, "nvrtcGetCUBIN", program), list(_resources(log))
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def cubin(text: str, arch: int) -> Path:
    """The file of a text's machine code in the cache, compiled if it is not there."""
    library = nvrtc()
    version = (ctypes.c_int(), ctypes.c_int())
    if library is not None:
        library.nvrtcVersion(ctypes.byref(version[0]), ctypes.byref(version[1]))
    key = [text, *OPTIONS, *(str(part.value) for part in version)]
    name = f"cuda/sm_{arch}-{sha256(chr(0).join(key).encode()).hexdigest()[:24]}.cubin"
    return made(name, lambda path: path.write_bytes(compiled(text, arch)[0]))


def _bytes(library: ctypes.CDLL, name: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    library[f"{name}Size"](program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    library[name](program, buffer)
    return buffer.raw


def _resources(log: str) -> Iterator[Resources]:
    """From what ptxas prints of each kernel: two lines after its name."""
    pattern = re.compile(
        r"Function properties for (\w+)\n\D*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r"\n\D*Used (\d+) registers([^\n]*)"
    )
    for kernel, stack, stores, loads, registers, rest in pattern.findall(log):
        shared = re.search(r"(\d+) bytes smem", rest)
        serialized = bool(re.search(rf"wgmma[^\n]* serialized [^\n]*'{kernel}'", log))
        smem = int(shared[1]) if shared else 0
        yield Resources(kernel, int(registers), smem, int(stores) + int(loads), int(stack), serialized)


def main() -> None:
    """The table."""
    print(f"{'kernel':36} {'sm':>4} {'registers':>10} {'shared':>7} {'spilled':>8} {'stack':>6}")
    for name in files():
        text = read(name)
        for arch in architectures(text):
            for r in compiled(text, arch)[1]:
                print(f"{r.kernel:36} {arch:4} {r.registers:10} {r.shared:7} {r.spilled:8} {r.stack:6}")
        assert kernels_in(text), name


if __name__ == "__main__":
    main()

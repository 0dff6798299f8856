"""Every kernel compiles for every architecture it is for, without spills, and to the instructions it was meant for."""

import re
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from minigan.kernels.cuda.compile import architectures, compiled, files, nvrtc
from minigan.kernels.cuda.double import doubled, has_twin
from minigan.kernels.cuda.source import kernels_in, read

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(nvrtc() is None, reason="NVRTC is not installed (pip install nvidia-cuda-nvrtc)"),
]

BUILDS = [(name, arch) for name in files() for arch in architectures(read(name))]
SPILLS = {}  # kernel: the reason why it may


@cache
def build(name, arch):
    return compiled(read(name), arch)


@pytest.mark.parametrize(("name", "arch"), BUILDS)
def test_compiles_without_spills(name, arch):
    resources = build(name, arch)[1]
    assert {r.kernel for r in resources} == {*kernels_in(read(name))}
    for r in resources:
        print(f"{r.kernel:36} sm_{arch:3} {r.registers:4} registers {r.shared:6} bytes of shared memory")
        assert r.spilled == r.stack == 0 or r.kernel in SPILLS, r
        assert not r.serialized, r


@pytest.mark.parametrize("name", [name for name in files() if has_twin(name)])
@pytest.mark.parametrize("arch", [75, 90, 120])
def test_float64_compiles(name, arch):
    """With shared memory that every GPU has. Values may be spilled: that is slow, as double is anyway on most GPUs."""
    resources = compiled(doubled(read(name)), arch)[1]
    assert {r.kernel for r in resources} == {*kernels_in(read(name))}
    for r in resources:
        assert r.shared <= 48 << 10, r


def disassembler():
    spec = find_spec("nvidia")
    found = [
        p for folder in (spec.submodule_search_locations if spec else ()) for p in Path(folder).glob("*/bin/cuobjdump")
    ]
    return str(found[0]) if found else shutil.which("cuobjdump")


@pytest.mark.skipif(disassembler() is None, reason="cuobjdump is not installed (pip install nvidia-cuda-cuobjdump)")
@pytest.mark.parametrize("name", [name for name in files() if min(architectures(read(name))) >= 80])
def test_instructions_of_tensor_cores_and_asynchronous_copies(name, tmp_path):
    """What a kernel's name says it has, tf32, bf16 or wgmma; and one at least copies past registers."""
    path = tmp_path / "kernel.cubin"
    path.write_bytes(build(name, 90)[0])
    listing = subprocess.run([disassembler(), "-sass", str(path)], capture_output=True, text=True, check=True).stdout
    functions = dict(re.findall(r"Function : (\w+)\n(.*?)(?=Function :|\Z)", listing, re.DOTALL))
    assert {*functions} == {*kernels_in(read(name))}
    wanted = {"tf32": r"HMMA\.1688\.F32\.TF32", "bf16": r"HMMA\.16816\.F32\.BF16", "wgmma": r"HGMMA.*TF32"}
    checked = [(kernel, kind) for kernel in functions for kind in wanted if kind in kernel and "repack" not in kernel]
    assert checked
    for kernel, kind in checked:
        assert re.search(wanted[kind], functions[kernel]), kernel
    assert any("LDGSTS" in functions[kernel] for kernel, _ in checked)

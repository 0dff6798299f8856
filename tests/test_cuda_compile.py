"""Every kernel compiles for every architecture it is for, without spills, and to the instructions it was meant for."""

import re
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from minigan.kernels.cuda.compile import ARCHITECTURES, compiled, files, minimum_arch, nvrtc
from minigan.kernels.cuda.source import kernels_in, read

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(nvrtc() is None, reason="NVRTC is not installed (pip install nvidia-cuda-nvrtc)"),
]

BUILDS = [(name, arch) for name in files() for arch in ARCHITECTURES if arch >= minimum_arch(read(name))]
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


def disassembler():
    spec = find_spec("nvidia")
    found = [
        p for folder in (spec.submodule_search_locations if spec else ()) for p in Path(folder).glob("*/bin/cuobjdump")
    ]
    return str(found[0]) if found else shutil.which("cuobjdump")


@pytest.mark.skipif(disassembler() is None, reason="cuobjdump is not installed (pip install nvidia-cuda-cuobjdump)")
@pytest.mark.parametrize("name", [name for name in files() if minimum_arch(read(name)) == 80])
def test_instructions_of_tensor_cores_and_asynchronous_copies(name, tmp_path):
    """What says tf32 or bf16 in its name has that matrix instruction; of those, one at least copies past registers."""
    path = tmp_path / "kernel.cubin"
    path.write_bytes(build(name, 90)[0])
    listing = subprocess.run([disassembler(), "-sass", str(path)], capture_output=True, text=True, check=True).stdout
    functions = dict(re.findall(r"Function : (\w+)\n(.*?)(?=Function :|\Z)", listing, re.DOTALL))
    assert {*functions} == {*kernels_in(read(name))}
    wanted = {"tf32": r"HMMA\.1688\.F32\.TF32", "bf16": r"HMMA\.16816\.F32\.BF16"}
    checked = [(kernel, kind) for kernel in functions for kind in wanted if kind in kernel]
    assert checked
    for kernel, kind in checked:
        assert re.search(wanted[kind], functions[kernel]), kernel
    assert any("LDGSTS" in functions[kernel] for kernel, _ in checked)

"""minigan's CUDA kernels and training steps beside PyTorch's, on one GPU: `python -m bench.gpu`."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from typing import Any

from bench.machine import ROOT


class _Folders:
    """Where minigan is not installed, its two parts that lie beside it in the repository are found there."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in ("minigan.kernels", "minigan.export"):
            return None
        folder = ROOT / name.partition(".")[2]
        return spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])


sys.meta_path.append(_Folders)  # asked last

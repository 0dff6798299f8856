"""`import torch` and `import torchvision`, answered with minigan for as long as a `with aliases():` block lasts.

`MODULES` says which module stands behind which name. Each is wrapped in an `Alias`, a module of its own: what a script
assigns to it stays there, and what it asks for in vain is named. A PyTorch that is installed is neither read nor
changed; it is back in its place after the block. Running scripts is in `minigan.compat.run`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_SAME = """
nn nn.functional nn.init nn.modules nn.modules.activation nn.modules.conv nn.modules.dropout nn.modules.linear
nn.modules.loss nn.modules.norm nn.modules.pooling nn.parallel nn.parameter nn.utils nn.utils.parametrizations
nn.utils.parametrize optim optim.lr_scheduler optim.optimizer autograd utils utils.data backends backends.cudnn
backends.mps cuda random
"""
MODULES: dict[str, str] = {
    "torch": "minigan",
    **{f"torch.{name}": f"minigan.{name}" for name in _SAME.split()},
    "torch.amp": "minigan.compat.amp",
    "torch.autograd.function": "minigan.function",
    "torch.autograd.variable": "minigan.autograd",
    "torch.cuda.amp": "minigan.compat.amp",
    "torch.nn.modules.batchnorm": "minigan.nn.modules.norm",
    "torch.nn.modules.container": "minigan.nn.containers",
    "torch.nn.modules.instancenorm": "minigan.nn.modules.norm",
    "torch.nn.modules.module": "minigan.nn.module",
    "torch.nn.utils.clip_grad": "minigan.nn.utils",
    "torch.nn.utils.spectral_norm": "minigan.nn.utils",
    "torch.utils.data.dataloader": "minigan.data.loader",
    "torch.utils.data.dataset": "minigan.data.dataset",
    "torch.utils.data.sampler": "minigan.data.sampler",
    "torch.utils.tensorboard": "minigan.compat.tensorboard",
    "torch.version": "minigan.compat.version",
    "torchvision": "minigan.compat.torchvision",
    "torchvision.datasets": "minigan.compat.datasets",
    "torchvision.transforms": "minigan.compat.transforms",
    "torchvision.transforms.functional": "minigan.compat.images",
    "torchvision.utils": "minigan.compat.grids",
}

HINTS: dict[str, str] = {  # what to use in place of something that is not here
    "torch.distributed": "there is one device; nn.DataParallel on it is accepted",
    "torch.nn.GRU": "nn.GRUCell in a loop",
    "torch.nn.LSTM": "nn.LSTMCell in a loop",
    "torch.nn.functional.grid_sample": "F.interpolate, where the grid is a plain resize",
    "torchvision.datasets.CelebA": "datasets.ImageFolder over a folder of folders of pictures",
    "torchvision.datasets.LSUN": "datasets.ImageFolder over a folder of folders of pictures",
}


def is_aliased(name: str) -> bool:
    return name.partition(".")[0] in ("torch", "torchvision")


def not_here(name: str) -> str:
    """The line that says so.

    >>> not_here("torch.nn.LSTM")
    'torch.nn.LSTM is not in minigan; instead: nn.LSTMCell in a loop'
    """
    return f"{name} is not in minigan" + (f"; instead: {HINTS[name]}" if name in HINTS else "")


class Alias(ModuleType):
    """A module of minigan under a name of PyTorch's."""

    def __getattr__(self, name: str) -> Any:
        if f"{self.__name__}.{name}" in MODULES:  # torch.nn without `import torch.nn`
            return importlib.import_module(f"{self.__name__}.{name}")
        raise AttributeError(not_here(f"{self.__name__}.{name}"), name=name, obj=self)


class _Finder(MetaPathFinder, Loader):
    """Finds the names of `MODULES`. Others below `torch` are found by no one: an alias has no folder to look in."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname in MODULES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Alias(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Give the alias what its module has, modules aside: those are aliases, too, once they are asked for."""
        source = importlib.import_module(MODULES[module.__name__])
        names = {name: value for name, value in vars(source).items() if not name.startswith("_")}
        vars(module).update({name: value for name, value in names.items() if not isinstance(value, ModuleType)})
        vars(module).update(_extras(module.__name__))


def _extras(name: str) -> dict[str, Any]:
    """What a module of PyTorch has beside minigan's names."""
    from minigan.compat import amp, version

    if name == "torch":
        return {"__version__": version.__version__, "autocast": amp.autocast, "compile": version.compile}
    if name == "torch.optim.optimizer":
        return {"required": object()}  # the default of an argument that has none, in older optimisers
    return {}


@contextmanager
def aliases() -> Iterator[None]:
    """Inside the block, `torch` and `torchvision` are minigan; afterwards they are what they were.

    >>> with aliases():
    ...     import torch.nn.functional as F
    ...
    ...     F.__name__, F.relu.__module__
    ('torch.nn.functional', 'minigan.nn.functional.activation')
    """
    finder = _Finder()
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if is_aliased(name)}
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if is_aliased(name)]:
            del sys.modules[name]
        sys.modules.update(before)

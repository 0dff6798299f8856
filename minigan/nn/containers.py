"""Modules that hold other modules, or bare parameters, under numbers or names."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from minigan.kernels.cpu.workers import single_threaded_blas
from minigan.nn.fusion import fused
from minigan.nn.module import Module
from minigan.nn.parameter import Parameter
from minigan.tensor import Tensor


class _List(Module):
    """Entries in order, numbered '0', '1', … in the table `_table` of the Module."""

    _table = "_modules"

    def __init__(self, entries: Iterable[Any] | None = None) -> None:
        super().__init__()
        self.extend(entries or ())

    @property
    def _entries(self) -> dict[str, Any]:
        return getattr(self, self._table)

    def _key(self, index: int) -> str:
        position, size = operator.index(index), len(self)
        if not -size <= position < size:
            raise IndexError(f"{type(self).__name__}: index {position} is out of range for {size} entries")
        return list(self._entries)[position]

    def _renumber(self, entries: Iterable[Any]) -> None:
        numbered = {str(i): entry for i, entry in enumerate(entries)}
        self._entries.clear()
        self._entries.update(numbered)

    def _checked(self, entry: Any) -> Any:
        if not isinstance(entry, Module):
            raise TypeError(f"{type(self).__name__}: expected a Module, got {type(entry).__name__}")
        return entry

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._entries.values()))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return type(self)(list(self)[index])
        return self._entries[self._key(index)]

    def __setitem__(self, index: int, entry: Any) -> None:
        self._entries[self._key(index)] = self._checked(entry)

    def __delitem__(self, index: Any) -> None:
        entries = list(self)
        del entries[index]
        self._renumber(entries)

    def __iadd__(self, entries: Iterable[Any]) -> Self:
        return self.extend(entries)

    def append(self, entry: Any) -> Self:
        """Add an entry at the end."""
        self._entries[str(len(self))] = self._checked(entry)
        return self

    def extend(self, entries: Iterable[Any]) -> Self:
        """Add entries at the end."""
        for entry in list(entries):
            self.append(entry)
        return self

    def insert(self, index: int, entry: Any) -> Any:
        """Add an entry before the one at `index`."""
        entries = list(self)
        entries.insert(index, self._checked(entry))
        self._renumber(entries)
        return self

    def pop(self, index: int = -1) -> Any:
        """Take an entry out."""
        entry = self[index]
        del self[index]
        return entry


class ModuleList(_List):
    """A list of modules.

    >>> layers = ModuleList([Sequential(), Sequential()])
    >>> len(layers.append(Sequential())), len(layers[1:])
    (3, 2)
    """


class Sequential(_List):
    """Modules that are called one after the other; given in a row, or as a dict of named ones.

    >>> net = Sequential(Sequential(), Sequential())
    >>> net
    Sequential(
      (0): Sequential()
      (1): Sequential()
    )
    """

    def __init__(self, *modules: Any) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self.add_module(name, self._checked(module))
        else:
            self.extend(modules)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return type(self)(dict(list(self._modules.items())[index]))
        return super().__getitem__(index)

    def forward(self, input: Any) -> Any:
        """The last module's output."""
        with single_threaded_blas():  # once, and not by each module
            for module, slope in fused(self._modules.values()):
                input = module(input) if slope is None else module(input, _slope=slope)
        return input


class ParameterList(_List):
    """A list of parameters; plain tensors given to it become Parameters."""

    _table = "_parameters"

    def _checked(self, entry: Any) -> Parameter:
        return _as_parameter(self, entry)

    def extra_repr(self) -> str:
        return _parameters_repr(self._parameters)


class _Dict(Module):
    """Entries under names, in the table `_table` of the Module."""

    _table = "_modules"

    def __init__(self, entries: Any = None) -> None:
        super().__init__()
        self.update(entries or {})

    @property
    def _entries(self) -> dict[str, Any]:
        return getattr(self, self._table)

    def __getitem__(self, name: str) -> Any:
        return self._entries[name]

    def __setitem__(self, name: str, module: Any) -> None:
        self.add_module(name, module)

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._entries.keys()

    def values(self) -> Iterable[Any]:
        """The entries."""
        return self._entries.values()

    def items(self) -> Iterable[tuple[str, Any]]:
        """The names and their entries."""
        return self._entries.items()

    def update(self, entries: Any) -> None:
        """Add entries from a dict or from pairs; they replace those of the same name."""
        pairs = entries.items() if hasattr(entries, "items") else entries
        for name, entry in pairs:
            self[name] = entry

    def pop(self, name: str) -> Any:
        """Take an entry out."""
        return self._entries.pop(name)

    def clear(self) -> None:
        """Take every entry out."""
        self._entries.clear()


class ModuleDict(_Dict):
    """Modules under names.

    >>> heads = ModuleDict({"real": Sequential()})
    >>> "real" in heads, list(heads)
    (True, ['real'])
    """


class ParameterDict(_Dict):
    """Parameters under names; plain tensors given to it become Parameters."""

    _table = "_parameters"

    def __setitem__(self, name: str, entry: Any) -> None:
        self.register_parameter(name, _as_parameter(self, entry))

    def extra_repr(self) -> str:
        return _parameters_repr(self._parameters)


def _as_parameter(module: Module, entry: Any) -> Parameter:
    if not isinstance(entry, Tensor):
        raise TypeError(f"{type(module).__name__}: expected a Parameter or Tensor, got {type(entry).__name__}")
    return entry if isinstance(entry, Parameter) else Parameter(entry)


def _parameters_repr(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {tuple(p.shape)} {p.dtype}" for name, p in parameters.items())

"""From an ONNX file back to a Module: `load_onnx`.

Every node that the exporter writes stands for one operation of the engine, so exporting the imported module gives the
same float32 file again. Weights are parameters under their names in the file, and can be trained further. What the
nodes compute is in `minigan.export.operators`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from minigan.creation import from_numpy
from minigan.export.graph import Graph, OnnxError
from minigan.export.operators import OPERATORS, check_written
from minigan.nn import Module, Parameter
from minigan.tensor import Tensor

MOMENTS = {"BatchNormalization": (3, 4)}  # inputs that are state, but not trained


def load_onnx(path: str | os.PathLike[str]) -> OnnxModule:
    """The file as a Module in evaluation mode.

    >>> import minigan as mg, tempfile
    >>> from minigan.export import export_onnx
    >>> G = mg.nn.Sequential(mg.nn.Linear(4, 2), mg.nn.Tanh()).eval()
    >>> path = tempfile.mkdtemp() + "/g.onnx"
    >>> _ = export_onnx(G, path, latent=4)
    >>> z = mg.randn(3, 4)
    >>> bool((load_onnx(path)(z) == G(z)).all())
    True
    """
    graph = Graph.load(path)
    try:
        return OnnxModule(graph)
    except OnnxError as error:
        raise OnnxError(f"{Path(path)}: {error}") from None


class Scope(Module):
    """A layer of the exported module, by its name: holds its weights, and runs its nodes one at a time."""

    def forward(self, run: Any, *args: Any) -> Any:
        return run(*args)


class OnnxModule(Scope):
    """A graph that can be called, on the inputs in their order or by their names."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = graph
        check_written(graph)
        moments = {node.inputs[i] for node in graph.nodes for i in MOMENTS.get(node.op, ())}
        self._constants: dict[str, np.ndarray] = {}
        self._places: dict[str, tuple[Scope, str]] = {}
        for name, array in graph.constants.items():
            if "/" in name:
                self._constants[name] = array
            else:
                self._register(name, array, trained=name not in moments and array.dtype == np.float32)
        self._scopes = [self._scope_of(node.name) for node in graph.nodes]
        self._last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}  # when it is used
        self._last |= {value.name: len(graph.nodes) for value in graph.outputs}
        self.eval()

    def forward(self, *args: Tensor, **named: Tensor) -> Tensor:
        """The first output."""
        values: dict[str, Any] = {"": None, **self._constants}
        values |= {name: getattr(scope, last) for name, (scope, last) in self._places.items()}
        values |= self._inputs(args, named)
        for i, (node, scope) in enumerate(zip(self._graph.nodes, self._scopes, strict=True)):
            inputs = [values[name] for name in node.inputs]
            function = OPERATORS[node.op]
            try:
                output = function(node, *inputs) if scope is self else scope(function, node, *inputs)
            except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
                raise OnnxError(f"{node.op} {node.name}: {error}") from error
            for name in node.inputs:
                if self._last[name] == i and name:
                    values.pop(name, None)
            values[node.outputs[0]] = output
        return values[self._graph.outputs[0].name]

    def _inputs(self, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> dict[str, Tensor]:
        names = [value.name for value in self._graph.inputs]
        given = dict(zip(names, args, strict=False)) | named
        if len(args) > len(names) or set(given) != set(names):
            raise TypeError(
                f"expected the inputs {', '.join(names)}, got {len(args)} and {', '.join(named) or 'none by name'}"
            )
        return given

    def _register(self, name: str, array: np.ndarray, trained: bool) -> None:
        *path, last = name.split(".")
        scope, tensor = self._scope(path), from_numpy(np.array(array))
        try:
            if trained:
                scope.register_parameter(last, Parameter(tensor))
            else:
                scope.register_buffer(last, tensor)
        except KeyError as error:
            raise OnnxError(f"the constant {name!r} cannot be a weight of a module: {error.args[0]}") from None
        self._places[name] = scope, last

    def _scope_of(self, node: str) -> Scope:
        """Where a node is run: in its layer, if its name has that form; variants add nodes whose names have not."""
        root, *path, _ = node.split("/") if "/" in node else ("", "")
        return self if root or any("." in part for part in path) else self._scope(path)

    def _scope(self, path: list[str]) -> Scope:
        scope: Scope = self
        for part in path:
            if part not in scope._modules:
                try:
                    scope.add_module(part, Scope())
                except KeyError as error:
                    raise OnnxError(f"the layer {'.'.join(path)!r} cannot be a module: {error.args[0]}") from None
            scope = scope._modules[part]
        return scope

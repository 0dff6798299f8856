"""The graph of an ONNX file as plain data: what the exporter writes, and what every other part reads.

`Graph.load` and `Graph.save` are the only places that touch the `onnx` package and the files' format; passes
(`fold`, `variants`, `int8`) change a `Graph`, the importer makes a Module of one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from minigan.files import write_atomically

BATCH = "batch"  # the name of the axis whose size a caller chooses
IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}  # of each opset: the oldest that may carry it
INLINE_LIMIT = 1 << 31  # a protobuf message holds less than 2 GiB
_LARGE = 1 << 20  # with external data: constants of at least so many bytes are outside
PRODUCER = "minigan"

Size = int | str


class OnnxError(ValueError):
    """A file that is not a model, is damaged, or holds what cannot be used here."""


@dataclass(frozen=True)
class Value:
    """An input or output: its name, dtype, and sizes, of which some may be names (`batch`)."""

    name: str
    dtype: np.dtype
    shape: tuple[Size, ...]


@dataclass
class Node:
    """One operation. Attributes are ints, floats, texts, lists of these, or arrays; an absent input is ''."""

    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass
class Graph:
    """Nodes in an order in which they can run, constants by name, and the file's metadata."""

    inputs: list[Value]
    outputs: list[Value]
    nodes: list[Node]
    constants: dict[str, np.ndarray]  # the initialisers
    metadata: dict[str, str] = field(default_factory=dict)
    opset: int = 17
    shapes: dict[str, tuple[Size, ...]] = field(default_factory=dict)  # of what nodes give, where known
    data_files: frozenset[str] = frozenset()  # that hold constants beside the file it was loaded from

    def copy(self) -> Graph:
        """Another graph over the same arrays."""
        return dataclasses.replace(
            self, inputs=list(self.inputs), outputs=list(self.outputs),
            nodes=[dataclasses.replace(n, inputs=list(n.inputs), outputs=list(n.outputs), attributes=dict(n.attributes))
                   for n in self.nodes],
            constants=dict(self.constants), metadata=dict(self.metadata), shapes=dict(self.shapes),
        )  # fmt: skip

    def producers(self) -> dict[str, Node]:
        """The node that gives each value."""
        return {name: node for node in self.nodes for name in node.outputs}

    def users(self) -> dict[str, list[Node]]:
        """The nodes that take each value; an output of the graph is used by no node."""
        users: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                users.setdefault(name, []).append(node)
        return users

    def prune(self) -> None:
        """Drop the nodes and constants that no output needs, and bring the constants in the order of their use."""
        wanted = {value.name for value in self.outputs}
        kept = []
        for node in reversed(self.nodes):
            if wanted.intersection(node.outputs):
                wanted.update(node.inputs)
                kept.append(node)
        self.nodes = kept[::-1]
        used = dict.fromkeys(name for node in self.nodes for name in node.inputs)
        self.constants = {name: self.constants[name] for name in used if name in self.constants}

    def infer_shapes(self) -> None:
        """Fill in what is missing in `shapes`, as far as ONNX can tell. The graph must be under 2 GiB."""
        onnx = _onnx()
        inferred = onnx.shape_inference.infer_shapes(self._proto(onnx, {}))
        for info in inferred.graph.value_info:
            sizes = info.type.tensor_type.shape.dim
            self.shapes.setdefault(info.name, tuple(d.dim_param or d.dim_value for d in sizes))

    def rename(self, old: str, new: str) -> None:
        """Give a value another name."""
        for node in self.nodes:
            node.inputs = [new if name == old else name for name in node.inputs]
            node.outputs = [new if name == old else name for name in node.outputs]
        if old in self.shapes:
            self.shapes[new] = self.shapes.pop(old)

    def free_name(self, name: str) -> str:
        """The name itself, or with a number if a node or constant has it."""
        taken = {*self.constants, *(node.name for node in self.nodes)}
        candidate, i = name, 0
        while candidate in taken:
            i += 1
            candidate = f"{name}_{i}"
        return candidate

    def weights(self) -> Iterator[tuple[str, np.ndarray]]:
        """The constants that follow the names of a state dict; what the exporter made has names with a slash."""
        return ((name, array) for name, array in self.constants.items() if "/" not in name)

    # Files ----------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], external: bool | None = None, stem: str | None = None) -> Path | None:
        """Write an .onnx file: complete, or not at all.

        With `external` data (by default where the file would reach 2 GiB) the large constants are in a second file
        beside it, named after `stem` (by default the file's) and their content, so that the first never finds
        another's. Its path is returned.
        """
        onnx, path = _onnx(), Path(path)
        size = sum(array.nbytes for array in self.constants.values())
        outside: dict[str, tuple[str, int]] = {}
        data_file = None
        if external if external is not None else size >= INLINE_LIMIT - (16 << 20):
            data_file, outside = _write_external(path.parent, stem or path.stem, self.constants)
        data = self._proto(onnx, outside).SerializeToString(deterministic=True)
        write_atomically(path, data)
        return data_file

    def to_bytes(self) -> bytes:
        """The file's content, with all constants inside."""
        return self._proto(_onnx(), {}).SerializeToString(deterministic=True)

    def _proto(self, onnx: ModuleType, outside: dict[str, tuple[str, int]]) -> Any:
        helper = onnx.helper
        nodes = []
        for node in self.nodes:
            proto = helper.make_node(node.op, node.inputs, node.outputs, name=node.name)
            for name, value in sorted(node.attributes.items()):
                if isinstance(value, np.ndarray):
                    value = onnx.numpy_helper.from_array(value)
                proto.attribute.append(helper.make_attribute(name, value))
            nodes.append(proto)
        graph = helper.make_graph(
            nodes, "generator",
            [_value_info(onnx, v) for v in self.inputs], [_value_info(onnx, v) for v in self.outputs],
            [_tensor(onnx, name, array, outside.get(name)) for name, array in self.constants.items()],
        )  # fmt: skip
        model = helper.make_model(
            graph, ir_version=IR_VERSIONS[self.opset], producer_name=PRODUCER,
            opset_imports=[helper.make_opsetid("", self.opset)],
        )  # fmt: skip
        helper.set_model_props(model, dict(sorted(self.metadata.items())))
        return model

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Graph:
        """Read an .onnx file, its external data too."""
        onnx, path = _onnx(), Path(path)
        try:
            model = onnx.load_model_from_string(path.read_bytes())
        except OSError as error:
            raise OnnxError(f"{path}: {error.strerror}") from None
        except Exception as error:  # protobuf's DecodeError, whose class depends on its implementation
            raise OnnxError(f"{path}: not an ONNX file, or cut short ({error})") from None
        if not model.opset_import or not model.graph.output:
            raise OnnxError(f"{path}: not an ONNX model: it has no graph, or no opset")
        try:
            graph = cls._from_proto(onnx, model, path)
        except OnnxError:
            raise
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
            raise OnnxError(f"{path}: damaged: {error}") from None
        names = [name for node in graph.nodes for name in (node.op, node.name, *node.inputs, *node.outputs)]
        names += [*(value.name for value in (*graph.inputs, *graph.outputs)), *graph.constants]
        if not all(isinstance(name, str) for name in names):  # protobuf gives bytes where they are no UTF-8
            raise OnnxError(f"{path}: damaged: a name in it is no text")
        return graph

    @classmethod
    def _from_proto(cls, onnx: ModuleType, model: Any, path: Path) -> Graph:
        foreign = sorted({i.domain for i in model.opset_import} - {"", "ai.onnx"})
        if foreign:
            raise OnnxError(f"{path}: uses operators of {', '.join(foreign)}; only ONNX's own can be read here")
        source = model.graph
        constants = {tensor.name: _array(onnx, tensor, path) for tensor in source.initializer}
        read = onnx.helper.get_attribute_value
        nodes = []
        for node in source.node:
            attributes = {a.name: _plain(onnx, read(a), path) for a in node.attribute}
            nodes.append(Node(node.op_type, node.name, list(node.input), list(node.output), attributes))
        return cls(
            [_value(onnx, v, path) for v in source.input if v.name not in constants],
            [_value(onnx, v, path) for v in source.output],
            nodes, constants, {p.key: p.value for p in model.metadata_props},
            next(i.version for i in model.opset_import if i.domain in ("", "ai.onnx")),
            data_files=frozenset(e.value for t in source.initializer for e in t.external_data if e.key == "location"),
        )  # fmt: skip


def digest(array: np.ndarray) -> str:
    """The sha256 of an array's values in C order, little-endian, with its dtype and shape."""
    little = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    head = f"{array.dtype.name} {'x'.join(map(str, array.shape))}\n"
    return hashlib.sha256(head.encode() + little.tobytes()).hexdigest()


def _onnx() -> ModuleType:
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
        import onnx.shape_inference
    except ImportError:
        raise ImportError("ONNX files need the package onnx: pip install 'minigan[cpu]'") from None
    return onnx


def _value_info(onnx: ModuleType, value: Value) -> Any:
    kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    return onnx.helper.make_tensor_value_info(value.name, kind, value.shape)


def _value(onnx: ModuleType, info: Any, path: Path) -> Value:
    tensor = info.type.tensor_type
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except (KeyError, TypeError):
        raise OnnxError(f"{path}: {info.name!r} is not a tensor of a known type") from None
    sizes: Iterable[Any] = tensor.shape.dim
    return Value(info.name, dtype, tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in sizes))


def _plain(onnx: ModuleType, value: Any, path: Path) -> Any:
    """An attribute's value: texts as str, tensors as arrays."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto):
        return _array(onnx, value, path)
    if isinstance(value, (onnx.GraphProto, onnx.SparseTensorProto, onnx.TypeProto)):
        raise OnnxError(f"{path}: holds a graph within its graph, which cannot be read here")
    if isinstance(value, (int, float)):
        return value
    return [_plain(onnx, part, path) for part in value]


def _tensor(onnx: ModuleType, name: str, array: np.ndarray, outside: tuple[str, int] | None) -> Any:
    if outside is None:
        return onnx.numpy_helper.from_array(np.asarray(array, order="C"), name)
    proto = onnx.TensorProto()
    proto.name, proto.data_location = name, onnx.TensorProto.EXTERNAL
    proto.data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    proto.dims.extend(array.shape)
    for key, value in (("location", outside[0]), ("offset", str(outside[1])), ("length", str(array.nbytes))):
        entry = proto.external_data.add()
        entry.key, entry.value = key, value
    return proto


def _write_external(
    folder: Path, stem: str, constants: dict[str, np.ndarray]
) -> tuple[Path, dict[str, tuple[str, int]]]:
    """Write the large constants; the path of their file, and for each the file's name and where in it it begins."""
    large = {name: array for name, array in constants.items() if array.nbytes >= _LARGE}
    path = folder / f"{stem}-{hashlib.sha256(''.join(map(digest, large.values())).encode()).hexdigest()[:12]}.bin"
    places, offset = {}, 0
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            for name, array in large.items():
                gap = -offset % 4096  # whole pages, so that a runtime can map the file
                file.write(b"\0" * gap)
                places[name] = (path.name, offset + gap)
                file.write(np.asarray(array, order="C").data)
                offset += gap + array.nbytes
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return path, places


def _array(onnx: ModuleType, tensor: Any, path: Path) -> np.ndarray:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return _read_external(onnx, tensor, path)
    try:
        return onnx.numpy_helper.to_array(tensor)
    except Exception as error:  # onnx raises many kinds for a damaged tensor
        raise OnnxError(f"{path}: the constant {tensor.name!r} is damaged: {error}") from None


def _read_external(onnx: ModuleType, tensor: Any, path: Path) -> np.ndarray:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if not location or Path(location).is_absolute() or ".." in Path(location).parts:
        raise OnnxError(f"{path}: the constant {tensor.name!r} is said to be in {location!r}, outside of the folder")
    place, dtype = path.parent / location, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    shape = tuple(tensor.dims)
    try:
        offset = int(entries.get("offset", "0"))
        return np.memmap(place, dtype, "r", offset, shape) if 0 not in shape else np.empty(shape, dtype)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "shorter than it should be"
        raise OnnxError(f"{path}: the data of {tensor.name!r} are missing: {place}: {reason}") from None

"""`save` and `load`, on safetensors files: never pickle.

A flat dict of tensors is written under exactly its own names, so that files of state dicts pass between
minigan and PyTorch (`safetensors.torch`). Anything else (a checkpoint of dicts, lists and plain values) is
written as tensors under dotted names, and as JSON in the file's metadata that says where each belongs.
"""

from __future__ import annotations

import json
import os
from typing import IO, Any

import numpy as np

from minigan.backend import Backend, get_backend
from minigan.files import write_atomically
from minigan.graph import wrap
from minigan.tensor import Tensor

_STRUCTURE = "minigan.structure"  # the metadata entry that holds the JSON
_RESERVED = "__metadata__"  # where the format keeps the metadata: no tensor can have this name
_PLAIN = (str, int, float, type(None))  # bool is an int
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "uint16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def save(obj: Any, f: str | os.PathLike | IO[bytes]) -> None:
    """Write a state dict, or nested dicts, lists and tuples of tensors and plain values, to a safetensors file.

    `f` is a path, where the file is then complete or as it was before, or a file open for writing bytes.

    >>> import minigan as mg, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "checkpoint.safetensors")
    >>> save({"model": {"weight": mg.ones(2)}, "step": 3}, path)
    >>> load(path)
    {'model': {'weight': tensor([1., 1.])}, 'step': 3}
    """
    from safetensors.numpy import save as serialize

    arrays: dict[str, np.ndarray] = {}
    metadata = None
    if _is_flat(obj):
        arrays = {name: _host(tensor) for name, tensor in obj.items()}
    else:
        metadata = {_STRUCTURE: json.dumps(_describe(obj, "", arrays))}
    data = serialize(arrays, metadata)
    if isinstance(f, (str, os.PathLike)):
        write_atomically(f, data)
    else:
        f.write(data)


def load(f: str | os.PathLike | IO[bytes], map_location: Any = None, weights_only: bool = True) -> Any:
    """Read what `save`, or any other program, wrote to a safetensors file, given by its path or open for reading.

    Tensors go to the device `map_location`, or to the default one. bfloat16 values become float32, exactly.
    `weights_only` is accepted for PyTorch's sake: such a file cannot hold anything that runs.
    """
    from safetensors import SafetensorError, deserialize

    B = get_backend("cpu" if callable(map_location) else map_location)  # old scripts: lambda storage, loc: storage
    if isinstance(f, (str, os.PathLike)):
        with open(f, "rb") as file:
            data = file.read()
    else:
        data = f.read()
    try:
        entries = dict(deserialize(data))
    except SafetensorError as error:
        name = os.fspath(f) if isinstance(f, (str, os.PathLike)) else getattr(f, "name", "the file")
        raise RuntimeError(f"load: {name!r} {_what_is_wrong(data)} ({error})") from None
    arrays = {name: _decode(name, entry) for name, entry in entries.items()}
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    structure = header.get(_RESERVED, {}).get(_STRUCTURE)
    if structure is None:
        return {name: _tensor(array, B) for name, array in arrays.items()}
    return _rebuild(json.loads(structure), arrays, B)


def _is_flat(obj: Any) -> bool:
    """Whether the file can hold `obj` under its own names, with nothing besides."""
    return isinstance(obj, dict) and all(
        isinstance(name, str) and name != _RESERVED and isinstance(value, Tensor) for name, value in obj.items()
    )


def _tensor(array: np.ndarray, B: Backend) -> Tensor:
    return wrap(B.asarray(array), B, None)


def _host(values: Tensor | np.ndarray) -> np.ndarray:
    """In memory of its own order, as the file wants it (ascontiguousarray would give a scalar an axis)."""
    return np.asarray(values.numpy(force=True) if isinstance(values, Tensor) else values, order="C")


def _decode(name: str, entry: dict) -> np.ndarray:
    if entry["dtype"] not in _DTYPES:
        raise RuntimeError(f"load: tensor {name!r} has dtype {entry['dtype']}, expected one of {', '.join(_DTYPES)}")
    array = np.frombuffer(entry["data"], np.dtype(_DTYPES[entry["dtype"]]).newbyteorder("<")).reshape(entry["shape"])
    if entry["dtype"] == "BF16":  # the upper half of a float32
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _what_is_wrong(data: bytes) -> str:
    if data.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return (
            "is a pickle, as torch.save writes them, and loading one can run any code: where it was made, write "
            "safetensors.torch.save_file(module.state_dict(), 'file.safetensors') and load that"
        )
    return "is not a safetensors file, or is damaged or cut short"


# Structure: containers and tensors become one-entry dicts, plain values stand for themselves -------------


def _describe(obj: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """The JSON of `obj`; its tensors are added to `arrays` under their dotted paths."""
    if isinstance(obj, (Tensor, np.ndarray)):
        name = path or "tensor"
        while name in arrays or name == _RESERVED:  # {"a.b": x, "a": {"b": y}}
            name += "'"
        arrays[name] = _host(obj)
        return {"tensor" if isinstance(obj, Tensor) else "array": name}
    if isinstance(obj, dict):
        for key in obj:
            if not isinstance(key, _PLAIN):
                raise TypeError(f"save: key {key!r} at {path or 'the top'}: expected a string or a number")
        return {"dict": [[key, _describe(value, _below(path, key), arrays)] for key, value in obj.items()]}
    if isinstance(obj, (list, tuple)):
        kind = "list" if isinstance(obj, list) else "tuple"
        return {kind: [_describe(value, _below(path, i), arrays) for i, value in enumerate(obj)]}
    if isinstance(obj, _PLAIN):
        return obj
    hint = "; save its .state_dict()" if hasattr(obj, "state_dict") else ""
    raise TypeError(
        f"save: {path or 'the object'} is a {type(obj).__name__}, expected a Tensor, a NumPy array, a dict, list or "
        f"tuple of such, a number, a string or None{hint}"
    )


def _below(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _rebuild(node: Any, arrays: dict[str, np.ndarray], B: Backend) -> Any:
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "tensor":
        return _tensor(arrays[content], B)
    if kind == "array":
        return arrays[content]
    if kind == "dict":
        return {key: _rebuild(value, arrays, B) for key, value in content}
    entries = [_rebuild(value, arrays, B) for value in content]
    return tuple(entries) if kind == "tuple" else entries

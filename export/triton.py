"""A model repository for the Triton Inference Server, so that serving at scale is that server's job, not ours."""

from __future__ import annotations

import shutil
from pathlib import Path

from minigan.export.graph import Graph, OnnxError, Value
from minigan.files import whole

QUEUE_DELAY = 2000  # µs that a request waits for others to share a batch with: less than a batch takes
_TYPES = {
    "float16": "TYPE_FP16", "float32": "TYPE_FP32", "float64": "TYPE_FP64", "int32": "TYPE_INT32",
    "int64": "TYPE_INT64", "uint8": "TYPE_UINT8",
}  # fmt: skip


def write_repository(model: Path, folder: Path, name: str = "generator", max_batch: int = 64) -> Path:
    """Write `folder/name/config.pbtxt` and `folder/name/1/model.onnx`: complete, or not at all. Returns `folder/name`.

    Serve it with: tritonserver --model-repository=FOLDER
    """
    graph, model, folder = Graph.load(model), Path(model), Path(folder)
    config = configuration(graph, name, max_batch)
    target = check_free(folder, name)
    folder.mkdir(parents=True, exist_ok=True)
    with whole(target) as partial:
        (partial / "1").mkdir(parents=True)
        (partial / "config.pbtxt").write_text(config, "utf-8")
        shutil.copyfile(model, partial / "1" / "model.onnx")
        for data in graph.data_files:
            (partial / "1" / data).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(model.parent / data, partial / "1" / data)
    return target


def check_free(folder: Path, name: str = "generator") -> Path:
    """Where the model goes; raises if something is there."""
    if (folder / name).exists():
        raise OnnxError(f"{folder / name}: is there already; remove it, or give another folder")
    return folder / name


def configuration(graph: Graph, name: str, max_batch: int) -> str:
    """The text of config.pbtxt.

    Triton batches requests only where the first axis of all inputs and outputs is the batch. A model with psi has one
    that is not: it is served as it is, and a client that wants many samples asks for them in one request.

    >>> import numpy as np
    >>> z, x = Value("z", np.dtype("float32"), ("batch", 8)), Value("samples", np.dtype("uint8"), ("batch", 4, 4, 3))
    >>> print(configuration(Graph([z], [x], [], {}), "generator", 4))
    name: "generator"
    backend: "onnxruntime"
    max_batch_size: 4
    input [
      { name: "z" data_type: TYPE_FP32 dims: [ 8 ] }
    ]
    output [
      { name: "samples" data_type: TYPE_UINT8 dims: [ 4, 4, 3 ] }
    ]
    dynamic_batching {
      preferred_batch_size: [ 2, 4 ]
      max_queue_delay_microseconds: 2000
    }
    <BLANKLINE>
    """
    batched = all(value.shape and isinstance(value.shape[0], str) for value in [*graph.inputs, *graph.outputs])
    lines = [f'name: "{name}"', 'backend: "onnxruntime"']
    if not batched:
        lines.append("# no batching: not every input and output has the batch as its first axis")
    lines.append(f"max_batch_size: {max_batch if batched else 0}")
    for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
        lines += [f"{kind} [", ",\n".join(_tensor(value, batched) for value in values), "]"]
    if batched:
        preferred = ", ".join(str(size) for size in (max_batch // 4, max_batch // 2, max_batch) if size > 1)
        lines += ["dynamic_batching {", f"  preferred_batch_size: [ {preferred} ]"]
        lines += [f"  max_queue_delay_microseconds: {QUEUE_DELAY}", "}"]
    return "\n".join(lines) + "\n"


def _tensor(value: Value, batched: bool) -> str:
    if value.dtype.name not in _TYPES:
        raise OnnxError(f"{value.name}: Triton has no type for {value.dtype}")
    sizes = [size if isinstance(size, int) else -1 for size in value.shape[batched:]]
    reshape = " reshape: { shape: [ ] }" if batched and not sizes else ""  # Triton knows no tensors without axes
    dims = ", ".join(map(str, sizes or [1]))
    return f'  {{ name: "{value.name}" data_type: {_TYPES[value.dtype.name]} dims: [ {dims} ]{reshape} }}'

"""The model repository: read by protobuf's own parser as Triton's ModelConfig, and held to the model."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx_files import graph

from minigan.export.graph import Graph
from minigan.export.triton import write_repository

onnxruntime = pytest.importorskip("onnxruntime")
TYPES = {"TYPE_FP32": np.float32, "TYPE_INT64": np.int64, "TYPE_UINT8": np.uint8, "TYPE_FP16": np.float16}


def parsed(text):
    """A config.pbtxt as a message; unknown fields and wrong types are errors."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    kinds = file.enum_type.add(name="DataType")
    for number, name in enumerate(["TYPE_INVALID", *TYPES]):
        kinds.value.add(name=name, number=number)
    messages = {
        "Reshape": [("shape", "INT64", True)],
        "Tensor": [
            ("name", "STRING", False), ("data_type", "DataType", False), ("dims", "INT64", True),
            ("reshape", "Reshape", False),
        ],
        "Batching": [("preferred_batch_size", "INT32", True), ("max_queue_delay_microseconds", "UINT64", False)],
        "ModelConfig": [
            ("name", "STRING", False), ("backend", "STRING", False), ("max_batch_size", "INT32", False),
            ("input", "Tensor", True), ("output", "Tensor", True), ("dynamic_batching", "Batching", False),
        ],
    }  # fmt: skip
    for message, fields in messages.items():
        entry = file.message_type.add(name=message)
        for number, (name, kind, repeated) in enumerate(fields, 1):
            field = entry.field.add(name=name, number=number, label=3 if repeated else 1)
            field.type = getattr(field, f"TYPE_{kind}", field.TYPE_ENUM if kind == "DataType" else field.TYPE_MESSAGE)
            if field.type in (field.TYPE_ENUM, field.TYPE_MESSAGE):
                field.type_name = f".inference.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    config = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))()
    return text_format.Parse(text, config)


def tensors(entries):
    """Name, dtype, and the shape that Triton gives the model or asks of it, but for the batch."""
    names = ["TYPE_INVALID", *TYPES]
    return [
        (e.name, TYPES[names[e.data_type]], list(e.reshape.shape if e.HasField("reshape") else e.dims)) for e in entries
    ]


@pytest.mark.parametrize("output", ["float", "uint8"])
@pytest.mark.parametrize("labels", [False, True])
def test_models_that_triton_batches(output, labels, tmp_path):
    model = graph(output, labels)
    model.save(tmp_path / "g.onnx")
    assert write_repository(tmp_path / "g.onnx", tmp_path / "models") == tmp_path / "models" / "generator"
    config = parsed((tmp_path / "models/generator/config.pbtxt").read_text())
    assert (config.name, config.backend, config.max_batch_size) == ("generator", "onnxruntime", 64)
    for entries, values in (config.input, model.inputs), (config.output, model.outputs):
        assert tensors(entries) == [(value.name, value.dtype.type, list(value.shape[1:])) for value in values]
        assert all(len(entry.dims) >= 1 for entry in entries)  # Triton takes no others
    assert list(config.dynamic_batching.preferred_batch_size) == [16, 32, 64]
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    assert (tmp_path / "models/generator/1/model.onnx").read_bytes() == (tmp_path / "g.onnx").read_bytes()


@pytest.mark.parametrize("fixed", [False, True])
def test_models_that_it_does_not(fixed, tmp_path):
    """psi is one number for a whole request; a scalar is given as one value, without a reshape."""
    model = graph(labels=True, psi=not fixed)
    if fixed:
        for values in (model.inputs, model.outputs):
            values[:] = [type(value)(value.name, value.dtype, (4, *value.shape[1:])) for value in values]
    model.save(tmp_path / "g.onnx")
    text = (write_repository(tmp_path / "g.onnx", tmp_path, "faces") / "config.pbtxt").read_text()
    config = parsed(text)
    assert (config.name, config.max_batch_size, config.HasField("dynamic_batching")) == ("faces", 0, False)
    assert "# no batching" in text
    batch = 4 if fixed else -1
    found = [(name, sizes) for name, _, sizes in tensors(config.input)]
    assert found == [("z", [batch, 6]), ("labels", [batch])] + [("psi", [1])] * (not fixed)
    assert not any(entry.HasField("reshape") for entry in config.input)
    assert tensors(config.output) == [("samples", np.float32, [batch, 3, 4, 5])]


@pytest.mark.parametrize(("largest", "preferred"), [(1, []), (3, [3]), (8, [2, 4, 8])])
def test_preferred_sizes(largest, preferred, tmp_path):
    graph().save(tmp_path / "g.onnx")
    folder = write_repository(tmp_path / "g.onnx", tmp_path, max_batch=largest)
    config = parsed((folder / "config.pbtxt").read_text())
    assert config.max_batch_size == largest
    assert list(config.dynamic_batching.preferred_batch_size) == preferred


def test_external_data_come_along(tmp_path):
    model = graph(shape=(3, 300, 300))
    (tmp_path / "source").mkdir()
    model.save(tmp_path / "source/g.onnx", external=True)
    folder = write_repository(tmp_path / "source/g.onnx", tmp_path / "models")
    z = np.ones((2, 6), np.float32)
    wanted = onnxruntime.InferenceSession(tmp_path / "source/g.onnx").run(None, {"z": z})[0]
    shutil.rmtree(tmp_path / "source")
    assert np.array_equal(onnxruntime.InferenceSession(folder / "1/model.onnx").run(None, {"z": z})[0], wanted)
    assert np.array_equal(Graph.load(folder / "1/model.onnx").constants["w"], model.constants["w"])


def test_what_is_there_stays(tmp_path):
    graph().save(tmp_path / "g.onnx")
    write_repository(tmp_path / "g.onnx", tmp_path / "models")
    graph(labels=True).save(tmp_path / "g.onnx")
    before = (tmp_path / "models/generator/config.pbtxt").read_text()
    with pytest.raises(ValueError, match="generator: is there already; remove it, or give another folder"):
        write_repository(tmp_path / "g.onnx", tmp_path / "models")
    assert (tmp_path / "models/generator/config.pbtxt").read_text() == before


@pytest.mark.parametrize("how", ["missing", "cut short", "without its data", "of bools"])
def test_models_that_cannot_be_served_leave_nothing(how, tmp_path):
    path = tmp_path / "g.onnx"
    model = graph(shape=(3, 300, 300))
    if how == "of bools":
        model.inputs[0] = type(model.inputs[0])("z", np.dtype("bool"), ("batch", 6))
    model.save(path, external=how == "without its data")
    if how == "missing":
        path.unlink()
    elif how == "cut short":
        path.write_bytes(path.read_bytes()[:1000])
    elif how == "without its data":
        next(tmp_path.glob("*.bin")).unlink()
    with pytest.raises(ValueError, match=r"g\.onnx|Triton has no type for bool") as caught:
        write_repository(path, tmp_path / "models")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "models").exists()


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_full_disk_leaves_nothing(tmp_path):
    graph(shape=(3, 30, 30)).save(tmp_path / "g.onnx")
    code = (
        "import resource, signal, sys; from pathlib import Path; from minigan.export.triton import write_repository;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "write_repository(Path('g.onnx'), Path('models'))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.stderr.splitlines()[-1] == "OSError: [Errno 27] File too large: 'models/generator'"
    assert list(Path(tmp_path, "models").iterdir()) == []

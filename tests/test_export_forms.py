"""Each operation's ONNX form gives what the operation gives, and means the same when it is read back.

The rows that test the operations themselves (`all_rows`) are drawn again, exported, and run in ONNX Runtime.
"""

import importlib
import pkgutil
import re

import numpy as np
import pytest
from harness import all_rows, host, several
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import Placed

import minigan as mg
from minigan.graph import REGISTRY

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from minigan.export.emit import Emit  # noqa: E402  # after the skips
from minigan.export.forms import FORMS, REASONS  # noqa: E402
from minigan.export.importer import OnnxModule  # noqa: E402
from minigan.export.layout import simplify  # noqa: E402
from minigan.export.trace import ExportError, trace  # noqa: E402

for module in pkgutil.walk_packages(mg.__path__, "minigan."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

ALIASES = {"Clone", "Move"}  # give the values that they are given: no node
pytestmark = pytest.mark.skipif(mg.get_default_device().type != "cpu", reason="files are written from the CPU")


def exported(function, inputs):
    """The graph of a function of these tensors, whose shapes are fixed; None where it does not depend on them."""
    return emitted(trace(function, lambda n: inputs, mg.nn.Module()), [f"x{i}" for i in range(len(inputs))])


def emitted(traced, names):
    e = Emit(traced, names, "y", 17)
    for call in traced.calls:
        e.write(call)
    e.finish()
    simplify(e.graph)
    return e.graph


def run(graph, inputs):
    data = graph.to_bytes()
    onnx.checker.check_model(onnx.load_model_from_string(data), full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, {f"x{i}": host(x) for i, x in enumerate(inputs) if f"x{i}" in needed(session)})[0]


OPS = set(REGISTRY)  # as it is now: examples in docstrings add theirs when they run


def needed(session):
    return {one.name for one in session.get_inputs()}


def test_each_op_has_a_form_or_a_reason():
    without = sorted(OPS - set(FORMS) - set(REASONS) - ALIASES)
    assert not without, f"neither a form in export/forms nor a reason: {without}"
    assert not set(FORMS) & set(REASONS)


def test_each_form_is_tried():
    """By a row below, or by name in a test of the plain functions."""
    tried = {op for row in ROWS for op in row.ops.split()} | PLAIN.keys()
    assert set(FORMS) <= tried, sorted(set(FORMS) - tried)


def test_each_reason_is_given():
    loss = mg.nn.functional.binary_cross_entropy
    t = trace(lambda x: loss(x, mg.full_like(x, 0.5)), lambda n: [mg.rand(3)], mg.nn.Module())
    with pytest.raises(ExportError, match=r"test_export_forms.py:\d+: BinaryCrossEntropy cannot be .*: it is a loss"):
        Emit(t, ["x"], "y", 17).write(t.calls[0])


ROWS = [row for row in all_rows() if not set(row.ops.split()) & set(REASONS) and row.ops not in ALIASES]
LAYERS = [row for row in importlib.import_module("test_layer_properties").ROWS if row.ops not in ALIASES]


LIMITS = {  # rows in which something comes up that cannot be exported, and what is said then
    "softplus past its threshold": "expected at least 15",
    "Softplus": "expected at least 15",
    "take": "several index arrays",
    "take by mask": "several index arrays",
    "masked_select": "several index arrays",
    "put": "several index arrays",
    "put number": "several index arrays",
    "nonzero": "does not come from its inputs",
    "sort": "does not keep equal values in order",
    "sort descending": "does not keep equal values in order",
    "topk": "does not keep equal values in order",
    "argmax of all": "over all axes",
    "argmin of all": "over all axes",
    "all": "steers Python code",
    "any": "steers Python code",
    "BatchNorm1d statistics": "does not come from its inputs",
    "BatchNorm2d statistics": "does not come from its inputs",
    "BatchNorm3d statistics": "does not come from its inputs",
    "InstanceNorm1d statistics": "does not come from its inputs",
    "InstanceNorm2d statistics": "does not come from its inputs",
    "Dropout": "draws random numbers",
    "Dropout2d": "draws random numbers",
    "BCELoss": "it is a loss",
    "BCEWithLogitsLoss": "it is a loss",
    "MaxPool2d": "not their indices|less than the kernel's size|without a batch",
    "ConvTranspose2d by parametrizations.spectral_norm": "draws random numbers",  # made within the row
    "ConvTranspose2d by parametrizations.spectral_norm_by_name": "draws random numbers",
    "Conv2d by parametrizations.spectral_norm": "draws random numbers",
    "Conv2d by parametrizations.spectral_norm_by_name": "draws random numbers",
    "Linear by parametrizations.spectral_norm": "draws random numbers",
    "Linear by parametrizations.spectral_norm_by_name": "draws random numbers",
}


@pytest.mark.parametrize("row", [*ROWS, *LAYERS], ids=str)
@settings(max_examples=max(2, settings.default.max_examples // 4))  # there are many rows
@given(data=st.data())
def test_rows(row, data):
    case = data.draw(row.cases)
    inputs = [arg.tensor(mg.float32)[0] for arg in case if isinstance(arg, Placed)]
    assume(all(x.numel() for x in inputs))

    def function(*tensors):
        waiting = iter(tensors)
        return several(row.function(*(next(waiting) if isinstance(arg, Placed) else arg for arg in case)))[0]

    expected = host(function(*inputs))
    assume(expected.size)
    try:
        graph = exported(function, inputs)
    except ExportError as error:
        if row.name not in LIMITS or not re.search(LIMITS[row.name], str(error)):
            raise
        return
    found = run(graph, inputs)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max(initial=1.0))
    read_back(graph, inputs, expected)


def read_back(graph, inputs, expected):
    """The same values from the imported module, and the same file from exporting that."""
    module = OnnxModule(graph)
    np.testing.assert_allclose(
        host(module(*inputs)), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max(initial=1.0)
    )
    again = emitted(trace(module, lambda n: inputs, module), [value.name for value in graph.inputs])
    assert again.to_bytes() == graph.to_bytes()


PLAIN = {
    "equal": lambda x, y: (x == y).float(),
    "not_equal": lambda x, y: (x != y).float(),
    "less": lambda x, y: (x < y).float(),
    "less_equal": lambda x, y: (x <= 0.5).float(),
    "greater": lambda x, y: (x > y).float(),
    "greater_equal": lambda x, y: (x >= y).float(),
    "logical_and": lambda x, y: mg.where((x > 0) & (y > 0), x, y),
    "logical_or": lambda x, y: mg.where(mg.logical_or(x > 0, y > 0), x, y),
    "logical_xor": lambda x, y: mg.where((x > 0) ^ (y > 0), x, y),
    "logical_not": lambda x, y: mg.where(mg.logical_not(x > 0), x, y),
    "bitwise_and": lambda x, y: mg.where((x > 0) & (y > 0), x, y),
    "bitwise_or": lambda x, y: mg.where((x > 0) | (y > 0), x, y),
    "bitwise_xor": lambda x, y: mg.where((x > 0) ^ (y > 0), x, y),
    "invert": lambda x, y: mg.where(~(x > 0), x, y),
    "isnan": lambda x, y: mg.where((x / 0 * 0).isnan(), x, y),
    "isinf": lambda x, y: mg.where((x / 0).isinf(), x, y),
    "isfinite": lambda x, y: mg.where((x / (y > 0).float()).isfinite(), x, y),
    "cast": lambda x, y: (x * 10).long() + (y * 10).int().long(),
    "max_pool_places": lambda x, y: mg.nn.functional.max_pool2d((x + y).reshape(2, 1, 2, 3), 2, 1),
    "argmax": lambda x, y: x.argmax(1),
    "argmin": lambda x, y: y.argmin(0, keepdim=True),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_functions(name):
    inputs = [mg.randn(3, 4), mg.randn(3, 4)]
    inputs[1][1] = inputs[0][1]  # some equal values
    with np.errstate(all="ignore"):
        expected = host(PLAIN[name](*inputs))
    graph = exported(PLAIN[name], inputs)
    np.testing.assert_array_equal(run(graph, inputs), expected)
    with np.errstate(all="ignore"):
        read_back(graph, inputs, expected)

"""save and load: what goes in comes out, PyTorch's layout, atomic writes, and clear refusals."""

import json
import math
import os
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigan as mg
from minigan.nn.module import Module
from minigan.nn.parameter import Parameter
from minigan.serialization import load, save

DTYPES = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]


class Net(Module):
    def __init__(self):
        super().__init__()
        self.weight = Parameter(mg.randn(3, 2))
        self.register_buffer("count", mg.tensor(7))


def host(x):
    return x.detach().cpu().numpy()


def header_of(path):
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def write_raw(path, header, data=b""):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


# Flat dicts -------------------------------------------------------------------------------------------


def test_state_dict_file_holds_exactly_its_names(tmp_path):
    path = tmp_path / "net.safetensors"
    net, other = Net(), Net()
    save(net.state_dict(), path)
    assert set(header_of(path)) == {"weight", "count"}
    other.load_state_dict(load(path))
    for name, tensor in net.state_dict().items():
        np.testing.assert_array_equal(host(other.state_dict()[name]), host(tensor))


@given(
    st.sampled_from(DTYPES).flatmap(
        lambda name: hnp.arrays(name, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    )
)
def test_every_dtype_and_shape_comes_back(tmp_path_factory, array):
    path = tmp_path_factory.mktemp("save") / "x"
    save({"x": mg.tensor(array)}, path)
    back = load(path)["x"]
    assert (back.shape, back.dtype) == (array.shape, array.dtype)
    assert host(back).tobytes() == array.tobytes()  # NaN and -0.0 too
    assert back.device == mg.tensor(0).device


def test_views_shared_tensors_and_parameters(tmp_path):
    x = mg.arange(24).reshape(2, 3, 4).to(mg.float32)
    w = Parameter(x)
    given = {"t": x.permute(2, 0, 1), "flip": x.flip(0), "row": x[1], "expanded": x[:1].expand(3, 3, 4), "w": w}
    save(given, tmp_path / "views")
    back = load(tmp_path / "views")
    assert set(back) == set(given)
    for name, tensor in given.items():
        np.testing.assert_array_equal(host(back[name]), host(tensor))
    back["t"].fill_(0)  # loaded tensors own their memory
    assert not back["w"].requires_grad
    np.testing.assert_array_equal(host(back["w"]), host(x))


def test_empty_dict(tmp_path):
    save({}, tmp_path / "empty")
    assert load(tmp_path / "empty") == {}


def test_map_location(tmp_path):
    save({"x": mg.ones(1)}, tmp_path / "x")
    for where in ("cpu", mg.device("cpu"), lambda storage, loc: storage):
        assert str(load(tmp_path / "x", map_location=where, weights_only=True)["x"].device) == "cpu"


def test_bfloat16_loads_as_float32(tmp_path):
    values = np.array([1.0, -2.5, 3.140625, 0.0, math.inf, -math.inf, 2.0**-133], np.float32)
    data = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    write_raw(tmp_path / "b", {"x": {"dtype": "BF16", "shape": [7], "data_offsets": [0, 14]}}, data)
    x = load(tmp_path / "b")["x"]
    assert x.dtype == mg.float32
    assert host(x).tobytes() == values.tobytes()


# Checkpoints ------------------------------------------------------------------------------------------


def flattened(obj):
    """Tensors as comparable values, types kept."""
    if isinstance(obj, mg.Tensor):
        return ("tensor", str(obj.dtype), obj.tolist())
    if isinstance(obj, np.ndarray):
        return ("array", str(obj.dtype), obj.tolist())
    if isinstance(obj, dict):
        return {(type(k), k): flattened(v) for k, v in obj.items()}
    if isinstance(obj, (list, tuple)):
        return type(obj)(flattened(v) for v in obj)
    return (type(obj), obj)


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
leaves = plain | st.builds(lambda n: mg.arange(n), st.integers(0, 3))
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("ab.'", max_size=3) | st.integers(0, 2), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(trees)
def test_any_tree_comes_back(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("save") / "tree"
    save(tree, path)
    assert flattened(load(path)) == flattened(tree)


def test_a_checkpoint(tmp_path):
    net = Net()
    checkpoint = {
        "model": net.state_dict(),
        "optimizer": {"state": {0: {"step": 3, "exp_avg": mg.ones(2)}}, "param_groups": [{"betas": (0.5, 0.999)}]},
        "random": mg.get_rng_state(),
        "loss": math.inf,
        "step": 3,
    }
    save(checkpoint, tmp_path / "c")
    names = set(header_of(tmp_path / "c")) - {"__metadata__"}
    assert names == {"model.weight", "model.count", "optimizer.state.0.exp_avg", "random"}
    back = load(tmp_path / "c")
    assert flattened(back) == flattened(checkpoint)
    mg.set_rng_state(back["random"])


def test_names_that_collide_stay_apart(tmp_path):
    tree = {"a.b": [mg.tensor(1)], "a": {"b": [mg.tensor(2)], "b.0": mg.tensor(3)}, "__metadata__": mg.tensor(4)}
    save(tree, tmp_path / "c")
    assert flattened(load(tmp_path / "c")) == flattened(tree)


def test_the_reserved_name(tmp_path):
    save({"__metadata__": mg.ones(1)}, tmp_path / "c")
    assert load(tmp_path / "c")["__metadata__"].item() == 1


def test_one_tensor(tmp_path):
    save(mg.arange(3), tmp_path / "t")
    assert load(tmp_path / "t").tolist() == [0, 1, 2]


# Refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obj", "text"),
    [
        ({"net": Net()}, "net is a Net, .*; save its .state_dict()"),
        ({"a": [1, {2}]}, r"a\.1 is a set, expected"),
        ({"a": {(1, 2): 3}}, r"key \(1, 2\) at a"),
        (object(), "the object is a object"),
    ],
)
def test_what_cannot_be_saved(tmp_path, obj, text):
    with pytest.raises(TypeError, match=text):
        save(obj, tmp_path / "x")
    assert os.listdir(tmp_path) == []


def message(path):
    with pytest.raises(RuntimeError) as caught:
        load(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_pickles_are_refused_and_not_run(tmp_path):
    ran = []

    class Evil:
        def __reduce__(self):
            return (ran.append, (1,))

    for protocol in (2, 3, 4, 5):
        path = tmp_path / f"{protocol}.pt"
        path.write_bytes(pickle.dumps(Evil(), protocol))
        assert "is a pickle" in message(path)
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({}))
    assert "safetensors.torch.save_file(module.state_dict()" in message(tmp_path / "zip.pt")
    assert ran == []


@given(st.integers(0, 200))
def test_truncated_files(tmp_path_factory, size):
    path = tmp_path_factory.mktemp("load") / "x"
    save({"weight": mg.ones(8), "bias": mg.ones(2)}, path)
    data = path.read_bytes()
    path.write_bytes(data[: min(size, len(data) - 1)])
    assert "not a safetensors file, or is damaged or cut short" in message(path)


def test_files_of_another_kind(tmp_path):
    for i, data in enumerate((b"", b"hello", b"\x89PNG\r\n\x1a\n" * 10, b"\xff" * 100)):
        (tmp_path / str(i)).write_bytes(data)
        assert "not a safetensors file" in message(tmp_path / str(i))


def test_dtypes_that_do_not_exist_here(tmp_path):
    write_raw(tmp_path / "f8", {"x": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, b"\0")
    with pytest.raises(RuntimeError, match="tensor 'x' has dtype F8_E4M3"):
        load(tmp_path / "f8")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x"
    save({"x": mg.zeros(1)}, path)

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save({"x": mg.ones(1)}, path)
    assert os.listdir(tmp_path) == ["x"]
    assert load(path)["x"].item() == 0


def test_saving_replaces_the_file(tmp_path):
    path = tmp_path / "x"
    save({"x": mg.zeros(3)}, path)
    save({"y": mg.ones(1)}, str(path))
    assert list(load(path)) == ["y"]
    assert os.listdir(tmp_path) == ["x"]

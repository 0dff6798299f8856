"""Features of images: the shipped classifier, ONNX files made here, pixels, and the choice among them."""

import json
import re
import sys

import numpy as np
import pytest

import minigan as mg
from minigan.data.source import Data
from minigan.gan.features import ClassifierFeatures, OnnxFeatures, PixelFeatures, PointFeatures, features_for


def images(n=5, channels=3, size=4, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, channels, size, size)).astype(np.float32)


def write_model(path, input_shape, operator="Flatten", output_shape=("n", None), metadata=(), outputs=1, kind="FLOAT"):
    """A file with one operator from images to features, by the public package."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, getattr(onnx.TensorProto, kind)
    names = ["features", "more"][:outputs]
    graph = helper.make_graph(
        [helper.make_node(operator, ["images"], [name]) for name in names],
        "features",
        [helper.make_tensor_value_info("images", kind, input_shape)],
        [helper.make_tensor_value_info(name, kind, output_shape) for name in names],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
    helper.set_model_props(model, dict(metadata))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def model(tmp_path):
    pytest.importorskip("onnxruntime")
    return lambda *args, **settings: write_model(tmp_path / "model.onnx", *args, **settings)


# The shipped classifier


def test_classifier_features_are_the_networks():
    data = mg.data.glyphs(260, seed=3)
    batch = data.batch(range(260))[0]
    extract = ClassifierFeatures()
    found = extract(batch)
    with mg.no_grad():
        batch = batch.to(mg.get_default_device())
        features = extract.classifier.features(batch).numpy(force=True)
        logits = extract.classifier(batch).numpy(force=True)
    assert found.values.dtype == np.float64
    np.testing.assert_allclose(found.values, features, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.probabilities.sum(1), 1)
    assert (found.probabilities.argmax(1) == logits.argmax(1)).all()
    assert np.mean(found.labels == data.labels) >= 0.97
    np.testing.assert_allclose(extract(batch.numpy(force=True)).values, found.values)


def test_stacked_digits_are_three():
    data = mg.data.stacked_glyphs(200, seed=3)
    batch = data.batch(range(200))[0]
    found = ClassifierFeatures(stacked=True)(batch)
    assert found.values.shape == (200, 192)
    assert found.probabilities is None
    assert np.mean(found.labels == data.labels) >= 0.92
    single = ClassifierFeatures()(batch[:, 1:2])
    np.testing.assert_allclose(found.values[:, 64:128], single.values, rtol=1e-4, atol=1e-4)


def test_digits_of_other_sizes_and_in_colour():
    data = mg.data.glyphs(100, size=48, seed=3)
    batch = data.batch(range(100))[0]
    found = ClassifierFeatures()(batch)
    assert np.mean(found.labels == data.labels) >= 0.9
    np.testing.assert_allclose(ClassifierFeatures()(mg.cat([batch] * 3, dim=1)).values, found.values, atol=1e-3)


# Choice


def test_the_features_fit_the_data():
    def images_of(channels, classes):
        return Data("images", np.zeros((4, 28, 28, channels), np.uint8), classes=classes)

    digits, thousand = tuple("0123456789"), tuple(map(str, range(1000)))
    assert isinstance(features_for(mg.data.ring(10)), PointFeatures)
    assert isinstance(features_for(images_of(1, ("Shirt", "Bag"))), PixelFeatures)
    assert isinstance(features_for(images_of(3, ())), PixelFeatures)
    assert not features_for(images_of(1, digits)).stacked
    assert features_for(images_of(3, thousand)).stacked


def test_pixels_are_averages():
    batch = images(2, 3, 16)
    expected = batch.reshape(2, 3, 8, 2, 8, 2).mean((3, 5)).reshape(2, -1)
    np.testing.assert_allclose(PixelFeatures()(batch).values, expected, atol=1e-6)
    assert "not comparable with FID" in PixelFeatures().name


# ONNX


def test_onnx_normalisation(model):
    batch = images(5)
    extract = OnnxFeatures(model(("n", 3, 4, 4)), mean=(0.1, 0.2, 0.3), std=(1, 2, 4), value_range=(0, 1))
    expected = ((batch + 1) / 2 - np.reshape([0.1, 0.2, 0.3], (3, 1, 1))) / np.reshape([1, 2, 4], (3, 1, 1))
    found = extract(mg.from_numpy(batch))
    np.testing.assert_allclose(found.values, expected.reshape(5, -1), atol=1e-6)
    assert found.probabilities is None
    assert "range [0.0, 1.0], mean [0.1, 0.2, 0.3], std [1.0, 2.0, 4.0]" in extract.name
    assert re.search(r"model.onnx \(sha256 [0-9a-f]{12}\), output 'features'; input size 4×4", extract.name)


def test_onnx_settings_from_the_file(model):
    metadata = {"value_range": "[0, 255]", "mean": "[127.5]", "std": "2", "input_size": "8", "author": "anybody"}
    path = model(("n", "c", "h", "w"), metadata=metadata)
    batch = np.full((2, 3, 4, 4), 0.5, np.float32)
    found = OnnxFeatures(path)(batch).values
    assert found.shape == (2, 3 * 8 * 8)
    np.testing.assert_allclose(found, 127.5 * 0.5 / 2, rtol=1e-6)
    np.testing.assert_allclose(OnnxFeatures(path, value_range=(-1, 1), mean=0, std=1)(batch).values, 0.5, rtol=1e-6)
    np.testing.assert_allclose(OnnxFeatures(model(("n", 3, None, None)))(batch).values, 0.5)  # nothing stated


@pytest.mark.parametrize("batch", [1, 2, 4, "n"])
def test_onnx_batches(model, batch):
    x = images(5)
    found = OnnxFeatures(model((batch, 3, 4, 4), output_shape=(batch, 48)))(x).values
    np.testing.assert_allclose(found, x.reshape(5, -1))


def test_onnx_grey_channels_last_and_half_precision(model):
    grey = images(3, 1)
    np.testing.assert_allclose(OnnxFeatures(model(("n", 3, 4, 4)))(grey).values, grey.repeat(3, axis=1).reshape(3, -1))
    last = OnnxFeatures(model(("n", 4, 4, 3)))(images(3)).values
    np.testing.assert_allclose(last, images(3).transpose(0, 2, 3, 1).reshape(3, -1))
    half = OnnxFeatures(model(("n", 3, 4, 4), kind="FLOAT16"))(images(3)).values
    np.testing.assert_allclose(half, images(3).reshape(3, -1), atol=1e-3)


def test_onnx_positions_are_averaged(model):
    x = images(3)
    found = OnnxFeatures(model(("n", 3, 4, 4), "Relu", ("n", 3, 4, 4)))(x).values
    np.testing.assert_allclose(found, np.maximum(x, 0).mean((2, 3)), rtol=1e-5)
    found = OnnxFeatures(model(("n", 4, 4, 3), "Relu", ("n", 4, 4, 3)))(x).values
    np.testing.assert_allclose(found, np.maximum(x, 0).mean((2, 3)), rtol=1e-5)


def test_onnx_resizes_as_pytorch_does():
    """Upwards, bilinear, corners not aligned: what pytorch-fid does."""
    functional = pytest.importorskip("torch.nn.functional")
    torch = pytest.importorskip("torch")
    from minigan.gan.features import _resize

    x = images(2, 3, 5)
    expected = functional.interpolate(torch.from_numpy(x), (11, 9), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(_resize(x, (11, 9), "BILINEAR"), expected.numpy(), atol=1e-5)


def test_onnx_named_output(model):
    path = model(("n", 3, 4, 4), outputs=2)
    with pytest.raises(ValueError, match="got output None, expected one of features, more"):
        OnnxFeatures(path)
    assert "output 'more'" in OnnxFeatures(path, output="more").name


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        (("n", 3), {}, "expected one, of floating images in 4 dimensions"),
        (("n", 3, 4, 4), {"input_size": 8}, "got input_size 8, but the model's own is 4×4"),
        (("n", 3, 4, 4), {"output": "logits"}, "got output 'logits', expected one of features"),
        (("n", 3, 4, 4), {"std": 0}, "got value_range .* and std"),
        (("n", 3, 4, 4), {"value_range": (1, 0)}, "got value_range"),
        (("n", 3, 4, 4), {"mean": "grey"}, "got 'grey' as mean, expected numbers"),
        (("n", 3, 4, 4), {"mean": (0.5, 0.5)}, "one mean and std, or one for each of 3 channels"),
    ],
)
def test_onnx_refusals(model, shape, settings, message):
    with pytest.raises(ValueError, match=message):
        OnnxFeatures(model(shape), **settings)


def test_onnx_files_that_do_not_fit(model, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"output 'features' gives \(4, 4\) for 3 images"):
        OnnxFeatures(model(("n", 3, 4, 4), "Transpose", (4, 4, 3, "n")))(images(3))
    with pytest.raises(ValueError, match=r"cannot run on \(3, 2, 4, 3\) images, see input_size"):
        OnnxFeatures(model(("n", "c", "h", "w"), "Det", ("n", "c")))(images(3, 2)[..., :3])
    with pytest.raises(ValueError, match="got images of 3 channels, the model takes 1"):
        OnnxFeatures(model(("n", 1, 4, 4)))(images())
    with pytest.raises(ValueError, match="metadata gives mean as 'a half', expected JSON"):
        OnnxFeatures(model(("n", 3, 4, 4), metadata={"mean": "a half"}))
    with pytest.raises(FileNotFoundError, match="missing.onnx"):
        OnnxFeatures(tmp_path / "missing.onnx")
    (tmp_path / "notes.onnx").write_text(json.dumps("no model"))
    with pytest.raises(ValueError, match="notes.onnx: not an ONNX model"):
        OnnxFeatures(tmp_path / "notes.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'minigan[cpu]'")):
        OnnxFeatures(tmp_path / "notes.onnx")


@pytest.mark.parametrize("extract", [PixelFeatures(), PointFeatures()])
def test_bad_samples_are_refused(extract):
    x = images(4, 3, 16) if isinstance(extract, PixelFeatures) else images(4)[:, 0, 0]
    x[2] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 4 samples"):
        extract(x)
    with pytest.raises(ValueError, match="got float32 samples of shape"):
        extract(x[0])
    with pytest.raises(ValueError, match="got uint8 samples"):
        extract(np.zeros(x.shape, np.uint8))


def test_what_no_picture_can_hold_is_cut_off():
    x = images(2, 1, 8)
    assert PixelFeatures()(10 * np.sign(x)).values.max() == 1

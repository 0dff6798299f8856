"""The shipped classifier: accurate on glyphs it never saw, sensitive to style, and only ever the weights we know."""

import functools
import hashlib
import re
import time

import numpy as np
import pytest

import minigan as mg
from minigan.data import glyphs
from minigan.gan import classifier
from minigan.gan.classifier import WEIGHTS, GlyphClassifier, accuracy, load_classifier

pytestmark = pytest.mark.skipif(mg.get_default_device().type != "cpu", reason="scores are computed on the CPU")


@pytest.fixture(scope="module")
def shipped():
    return load_classifier()


@pytest.fixture(scope="module")
def held_out():
    return glyphs(2000, seed=7)


def features(model, data):
    with mg.no_grad():
        return model.features(data.batch(np.arange(len(data)))[0]).numpy()


@pytest.mark.parametrize("size", [28, 32])
def test_it_reads_glyphs_it_never_saw(shipped, size):
    assert accuracy(shipped, glyphs(2000, size, seed=7)) >= 0.99


def test_it_reads_noisy_and_blurred_ones(shipped, held_out):
    mg.manual_seed(0)
    images = held_out.batch(np.arange(2000))[0]
    blurred = mg.nn.functional.avg_pool2d(images, 3, 1, 1)
    for disturbed in (images + 0.3 * mg.randn_like(images), blurred):
        assert (shipped(disturbed).argmax(1).numpy() == held_out.labels).mean() >= 0.97


def test_accuracy_counts_what_is_right(shipped):
    data = glyphs(1003, seed=7)
    data.labels = data.labels.copy()
    data.labels[1000:] = (data.labels[1000:] + 1) % 10
    assert accuracy(shipped, data) == pytest.approx(1000 / 1003, abs=0.003)


def test_the_features_tell_the_style(shipped, held_out):
    """A generator that draws in a single hand is to be seen: the factors can be read off linearly."""
    found = features(shipped, held_out)
    assert found.shape == (2000, 64)
    assert found.std(axis=0).min() > 0.2  # no dead one, and none that drowns the others
    assert found.std(axis=0).max() < 3
    assert (found < 0).any(axis=0).all()  # taken before the activation
    inputs = np.hstack([found, np.ones((2000, 1))])
    for name in ("thickness", "slant", "rotation", "scale", "width", "shift_x", "shift_y"):
        factor = held_out.factors[name]
        answer = np.linalg.lstsq(inputs[:1000], factor[:1000])[0]
        unexplained = (factor[1000:] - inputs[1000:] @ answer).var() / factor[1000:].var()
        assert unexplained < 0.6, name


def test_it_comes_frozen_and_in_eval_mode(shipped):
    assert not shipped.training
    assert not any(p.requires_grad for p in shipped.parameters())
    assert sum(p.numel() for p in shipped.parameters()) < 125_000


def test_the_weights_are_the_known_ones(tmp_path):
    content = WEIGHTS.read_bytes()
    assert len(content) < 500_000
    assert hashlib.sha256(content).hexdigest() == classifier.SHA256
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"damaged\.safetensors: its sha256 is .*, expected .*install minigan again"):
        load_classifier(damaged)


@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (2, 1, 24, 28), (2, 1, 28, 33), (2, 1, 64, 64)])
def test_other_images_are_refused(shape):
    with pytest.raises(ValueError, match="expected one channel and 25 to 32 pixels"):
        GlyphClassifier().features(mg.zeros(*shape))


def test_training_learns_and_says_what_it_wrote(tmp_path, monkeypatch, capsys):
    new = tmp_path / "new.safetensors"
    short = functools.partial(classifier.train, n=2000, epochs=3)
    monkeypatch.setattr(classifier, "train", short)
    monkeypatch.setattr("sys.argv", ["classifier", "--out", str(new)])
    classifier.main()
    said = capsys.readouterr().out
    assert hashlib.sha256(new.read_bytes()).hexdigest() in said
    model = GlyphClassifier().eval()
    model.load_state_dict(mg.load(new))
    assert accuracy(model, glyphs(500, seed=7)) > 0.9
    assert float(re.findall(r"28 × 28: ([\d.]+)%", said)[0]) > 90


def test_inference_is_fast(shipped):
    data = glyphs(2000)
    start = time.process_time()
    accuracy(shipped, data)
    assert time.process_time() - start < 1.5  # it takes a tenth of that

"""The directions that the web page's sliders move along, against generators and networks where they are known."""

import numpy as np
import pytest

import minigan as mg
from minigan import nn
from minigan.export.directions import principal_directions


def test_directions_of_a_linear_generator():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((6, 6)))[0].T
    basis *= np.sign(np.take_along_axis(basis, np.abs(basis).argmax(1)[:, None], 1))
    layer = nn.Linear(6, 6).eval()
    layer.weight.data = mg.tensor(np.diag([32.0, 16.0, 8.0, 4.0, 2.0, 1.0]) @ basis, dtype=mg.float32)
    found = principal_directions(layer, mg.randn(3000, 6), count=4)
    assert found.shape == (4, 6)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, basis[:4], atol=0.05)
    np.testing.assert_allclose(found @ found.T, np.eye(4), atol=1e-5)


def test_directions_of_a_network_are_those_of_its_jacobians():
    G = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3), nn.Tanh()).eval()
    z = mg.randn(50, 4)
    rows = [mg.autograd.grad(G(x := z.clone().requires_grad_())[:, i].sum(), x)[0].cpu().numpy() for i in range(3)]
    jacobians = np.stack(rows, 1).astype(np.float64)  # (50, 3, 4)
    vectors = np.linalg.eigh(np.einsum("noi,noj->ij", jacobians, jacobians))[1].T[::-1]
    found = principal_directions(G, z.repeat(40, 1), count=2)
    np.testing.assert_allclose(np.abs((found * vectors[:2]).sum(1)), 1, atol=0.02)


def test_directions_with_labels_and_a_seed():
    embedding = nn.Embedding(2, 3).eval()
    embedding.weight.data = mg.tensor([[5.0, 1.0, 0.1], [1.0, 9.0, 0.1]])

    def directions(label, count=2):
        labels = mg.full((300,), label, dtype=mg.int64)
        generator = mg.Generator().manual_seed(5)
        return principal_directions(lambda z, y: z * embedding(y), mg.randn(300, 3), labels, count, generator)

    assert np.abs(directions(0)).argmax(1).tolist() == [0, 1]
    assert np.abs(directions(1)).argmax(1).tolist() == [1, 0]
    assert directions(0, count=8).shape == (3, 3)  # a space of three dimensions has no more


def test_directions_do_not_depend_on_chance_with_a_generator():
    G, z = nn.Linear(5, 5).eval(), mg.randn(200, 5)
    first, second = (principal_directions(G, z, generator=mg.Generator().manual_seed(1)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (np.take_along_axis(first, np.abs(first).argmax(1)[:, None], 1) > 0).all()


def test_directions_of_what_cannot_be():
    with pytest.raises(ValueError, match=r"call \.eval\(\)"):
        principal_directions(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), mg.randn(8, 3))
    with pytest.raises(ValueError, match="expected \\(n ≥ 1, latent\\)"):
        principal_directions(nn.Linear(3, 3).eval(), mg.randn(3))

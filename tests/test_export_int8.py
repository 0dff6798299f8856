"""The int8 variant: transposed convolutions rewritten exactly, and integers that stay near what they stand for."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import minigan as mg
from minigan import nn
from minigan.export import int8
from minigan.export.exporter import Subject, Variant, build
from minigan.export.graph import Graph, Node, OnnxError, Value
from minigan.export.int8 import quantize
from minigan.export.subpixel import subpixel
from minigan.gan.recipes import dcgan

ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(mg.get_default_device().type != "cpu", reason="files are written from the CPU")
FLOAT = np.dtype(np.float32)


def run(graph, feeds, optimized=True):
    """The samples, with a session for this graph alone."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    if not optimized:  # each node by itself, in float: no integer kernel is used
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(graph.to_bytes(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def psnr(a, b):
    """Of each image, in dB, for values in [-1, 1]."""
    return 10 * np.log10(4 / np.square(a - b, dtype=np.float64).reshape(len(a), -1).mean(1))


def graph_of(shape, out, nodes, constants, shapes=()):
    values = [Value("z", FLOAT, ("batch", *shape)), Value("samples", FLOAT, ("batch", *out))]
    known = {value.name: value.shape for value in values} | {name: ("batch", *s) for name, s in dict(shapes).items()}
    return Graph(values[:1], values[1:], nodes, constants, shapes=known)


def transposed(x, constants, out, **attributes):
    """A graph of one ConvTranspose."""
    node = Node("ConvTranspose", "/up/ConvTranspose", ["z", *constants], ["samples"], attributes)
    return graph_of(x.shape[1:], out, [node], constants)


def trained_like(width=8, seed=0):
    """A DCGAN for 32×32 whose statistics and contrast are those of a trained one, and the subject of its export."""
    mg.manual_seed(seed)
    G = dcgan.generator(16, (3, 32, 32), width)
    for _ in range(10):
        G(mg.randn(64, 16))
    G[len(G) - 2].weight.data *= 150
    return Subject.of(G.eval(), latent=16)


@pytest.fixture(scope="module")
def small_subject():
    return trained_like()


@pytest.fixture
def subject(small_subject, monkeypatch):
    """With integers in its first layer too, though it has few weights."""
    monkeypatch.setattr(int8, "SMALL", 0)
    return small_subject


def integer_constants(graph):
    return {name: array for name, array in graph.constants.items() if array.dtype == np.int8 and name.endswith("int8")}


# Transposed convolutions --------------------------------------------------------------------------------


@st.composite
def geometries(draw):
    """Size, result, kernel, stride, padding before and behind, and output padding of one axis, which crop no tap."""
    stride, size = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    kernel = draw(st.integers(stride, 6))
    before, behind = (draw(st.integers(0, kernel - stride)) for _ in range(2))
    extra = draw(st.integers(0, stride - 1))
    out = (size - 1) * stride + kernel - before - behind + extra
    assume(out > 0)
    return size, out, kernel, stride, before, behind, extra


def test_a_generator_of_which_nothing_would_be_integer():
    G = mg.nn.Sequential(mg.nn.Linear(6, 18), mg.nn.Unflatten(1, (2, 3, 3)), mg.nn.Conv2d(2, 3, 3)).eval()
    with pytest.raises(OnnxError, match="no layer would compute in int8 .*: use fp16-storage"):
        build(Subject.of(G, 6), Variant("int8"), verified=False)
    small = build(Subject.of(G, 6), Variant("int8", optimize="size"), verified=False)
    assert {str(a.dtype) for a in small.constants.values() if a.ndim > 1} == {"int8"}


@given(st.tuples(geometries(), geometries()), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_subpixel_is_exact(axes, inputs, outputs, bias, seed):
    size, out, kernel, strides, before, behind, extra = (list(values) for values in zip(*axes, strict=True))
    rng = np.random.default_rng(seed)
    constants = {"up.weight": rng.standard_normal((inputs, outputs, *kernel)).astype(FLOAT)}
    if bias:
        constants["up.bias"] = rng.standard_normal(outputs).astype(FLOAT)
    z = rng.standard_normal((3, inputs, *size)).astype(FLOAT)
    graph = transposed(z, constants, (outputs, *out), strides=strides, pads=before + behind, output_padding=extra)
    rewritten = subpixel(graph)
    assert "ConvTranspose" not in {node.op for node in rewritten.nodes}
    expected, got = run(graph, {"z": z}), run(rewritten, {"z": z})
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad", "convolutions", "kernels"),
    [(4, 4, 2, 1, 4, {(2, 2)}), (1, 4, 1, 0, 1, {(1, 1)}), (7, 5, 1, 2, 1, {(5, 5)}), (3, 2, 2, 0, 1, {(1, 1)}),
     (7, 5, 2, 1, 4, {(2, 2), (2, 3), (3, 2), (3, 3)})],
)  # fmt: skip
def test_no_convolution_is_larger_than_it_must_be(size, kernel, stride, pad, convolutions, kernels):
    out = (size - 1) * stride + kernel - 2 * pad
    z, weight = np.zeros((1, 2, size, size), FLOAT), np.ones((2, 3, kernel, kernel), FLOAT)
    graph = transposed(z, {"up.weight": weight}, (3, out, out), strides=[stride] * 2, pads=[pad] * 4)
    nodes = [node for node in subpixel(graph).nodes if node.op == "Conv"]
    assert len(nodes) == convolutions
    assert {tuple(node.attributes["kernel_shape"]) for node in nodes} == kernels


@pytest.mark.parametrize("attributes", [{"group": 2}, {"dilations": [2, 2]}, {"strides": [5, 5]}, {"pads": [3] * 4}])
def test_what_cannot_be_rewritten_stays(attributes):
    z, weight = np.zeros((1, 2, 4, 4), FLOAT), np.ones((2, 2, 4, 4), FLOAT)
    given = {"strides": [2, 2], "pads": [1] * 4} | attributes
    size = 3 * given["strides"][0] + 3 * given.get("dilations", [1])[0] + 1 - 2 * given["pads"][0]
    graph = transposed(z, {"up.weight": weight}, (2, size, size), **given)
    assert subpixel(graph) is None
    graph = transposed(z, {"up.weight": weight}, (2, 8, 8), strides=[2, 2], pads=[1] * 4)
    assert subpixel(graph, kept={"/up/ConvTranspose"}) is None
    assert subpixel(graph) is not None
    graph.shapes.clear()  # of a file, sizes are not known
    assert subpixel(graph) is None


# Quantisation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimize", ["speed", "size"])
@pytest.mark.parametrize("keep_edges", [False, True])
def test_samples_stay_near(subject, keep_edges, optimize):
    graph = build(subject, Variant(), verified=False)
    feeds = subject.draw(256, "verify")
    expected = run(graph, feeds)
    assert expected.std() > 0.2  # a picture, and tanh is not idle
    small = quantize(graph, [subject.draw(256, "calibration")], keep_edges, optimize)
    got = run(small, feeds)
    assert psnr(got, expected).min() > 40
    assert psnr(got, expected).mean() > 45
    assert psnr(run(small, feeds, optimized=False), expected).min() > 40
    one_by_one = np.concatenate([run(small, {"z": z[None]}) for z in feeds["z"][:5]])
    assert np.abs(one_by_one - got[:5]).max() <= 1e-6


def test_what_is_integer_and_what_is_kept(subject):
    graph = build(subject, Variant(), verified=False)
    latents = [subject.draw(64, "calibration")]
    weights = {name for name, array in graph.constants.items() if array.ndim == 4}

    def floats(**options):
        constants = quantize(graph, latents, **options).constants
        return {name for name, array in constants.items() if array.ndim == 4 and array.dtype == FLOAT}

    assert weights == {"1.weight", "4.weight", "7.weight", "10.weight"}
    assert floats() == {"10.weight"}
    assert floats(optimize="size") == set()
    assert floats(keep_edges=True) == floats(keep_edges=True, optimize="size") == {"1.weight", "10.weight"}
    kept = quantize(graph, latents, keep_edges=True).constants
    assert all(kept[name] is graph.constants[name] for name in ("1.weight", "10.weight"))


def test_the_file_is_a_quarter(subject):
    graph = build(subject, Variant(), verified=False)
    small = quantize(graph, [subject.draw(64, "calibration")], optimize="size")
    sizes = [sum(a.nbytes for n, a in g.constants.items() if a.ndim == 4) for g in (graph, small)]
    assert sizes[1] * 4 == sizes[0]


def test_a_small_first_layer_stays(small_subject):
    graph = build(small_subject, Variant(), verified=False)
    latents = [small_subject.draw(64, "calibration")]
    assert {"1.weight", "10.weight"} <= quantize(graph, latents).constants.keys()
    constants = quantize(graph, latents, optimize="size").constants
    assert np.abs(constants["1.weight/int8"]).max() == int8.FULL


def test_onnx_runtime_computes_in_integers(subject, tmp_path):
    """Every layer but the last becomes one integer node, and nothing between them is a float."""
    onnx = pytest.importorskip("onnx")
    small = quantize(build(subject, Variant(), verified=False), [subject.draw(64, "calibration")])
    options = ort.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 4, str(tmp_path / "optimized.onnx")
    ort.InferenceSession(small.to_bytes(), options, providers=["CPUExecutionProvider"])
    ops = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert ops.count("QLinearConv") == 1 + 4 + 4
    assert ops.count("QuantizeLinear") == ops.count("DequantizeLinear") == 1
    assert "Relu" not in ops
    assert {"Conv", "FusedConv"}.isdisjoint(ops)


@pytest.mark.parametrize("optimize", ["speed", "size"])
def test_no_product_saturates(optimize):
    """Without VNNI two products are added in 16 bits; here every pair is the largest that can be."""
    rng = np.random.default_rng(0)
    weights = {f"{i}.weight": np.ones((64, 64), FLOAT) / 64 for i in range(3)}
    nodes = [
        Node("Gemm", f"/{i}/Gemm", [x, f"{i}.weight"], [y], {"transB": 1})
        for i, (x, y) in enumerate([("z", "/0/Gemm"), ("/0/Gemm", "/1/Gemm"), ("/1/Gemm", "samples")])
    ]
    graph = graph_of((64,), (64,), nodes, weights, {"/0/Gemm": (64,), "/1/Gemm": (64,)})
    z = 1 - 0.01 * rng.random((32, 64), FLOAT)
    small = quantize(graph, [{"z": z}], optimize=optimize)
    integers = integer_constants(small)
    assert integers.keys() - {"0.weight/int8"} == (
        {"1.weight/int8"} if optimize == "speed" else {"1.weight/int8", "2.weight/int8"}
    )
    for name in integers.keys() - {"0.weight/int8"}:  # which is multiplied by the float z
        assert 32000 < 2 * int8.LEVELS * np.abs(integers[name].astype(int)).max() < 1 << 15, name
    assert np.abs(run(small, {"z": z}) - run(graph, {"z": z})).max() < 0.02


def test_weights_have_a_scale_for_each_output():
    rng = np.random.default_rng(0)
    spread = 10.0 ** np.arange(-3, 3, dtype=FLOAT)
    weights = {
        "0.weight": rng.standard_normal((6, 4, 3, 3)).astype(FLOAT),
        "1.weight": (rng.standard_normal((6, 6, 3, 3)) * spread[:, None, None, None]).astype(FLOAT),
        "1.bias": spread * rng.standard_normal(6).astype(FLOAT),
        "2.weight": (rng.standard_normal((6, 5, 3, 3)) * spread[:5, None, None]).astype(FLOAT),
    }
    conv = {"kernel_shape": [3, 3], "pads": [1] * 4}
    nodes = [
        Node("Conv", "/0/Conv", ["z", "0.weight"], ["/0/Conv"], conv),
        Node("Conv", "/1/Conv", ["/0/Conv", "1.weight", "1.bias"], ["/1/Conv"], conv),
        Node("ConvTranspose", "/2/ConvTranspose", ["/1/Conv", "2.weight"], ["samples"], conv),
    ]
    shapes = {"/0/Conv": (6, 5, 5), "/1/Conv": (6, 5, 5)}
    graph = graph_of((4, 5, 5), (5, 5, 5), nodes, weights, shapes)
    z = rng.standard_normal((8, 4, 5, 5)).astype(FLOAT)
    constants = quantize(graph, [{"z": z}], optimize="size").constants
    for name, axis, limit in (("1.weight", 0, int8.LIMIT), ("2.weight", 1, int8.FULL)):
        weight, scale = np.moveaxis(weights[name], axis, 0), constants[f"{name}/scale"]
        np.testing.assert_allclose(scale, np.abs(weight).max((1, 2, 3)) / limit, rtol=1e-6)
        integers = np.moveaxis(constants[f"{name}/int8"], axis, 0)
        assert (np.abs(integers * scale[:, None, None, None] - weight).max((1, 2, 3)) <= 0.5001 * scale).all()
    low, high = int8.observe(graph, [{"z": z}], ["/0/Conv"])["/0/Conv"]
    np.testing.assert_allclose(constants["/0/Conv/scale"] * int8.LEVELS, int8.MARGIN * (high - low), rtol=1e-6)
    assert abs(int(constants["/0/Conv/zero_point"]) * constants["/0/Conv/scale"] + int8.MARGIN * low) < high / 99
    step = constants["/0/Conv/scale"] * constants["1.weight/scale"]
    np.testing.assert_allclose(constants["/1/Conv/bias/int32"] * step, weights["1.bias"], atol=0.51 * step.max())


def test_an_output_without_weights_keeps_its_bias():
    """BatchNorm with a gain of 0 leaves the bias alone, which in int32 needs a scale that its weights do not give."""
    weights = {f"{i}.weight": np.eye(4, dtype=FLOAT) for i in range(3)} | {"1.bias": np.full(4, 5, FLOAT)}
    weights["1.weight"][2] = [1e-20, 0, 0, 0]
    nodes = [
        Node("Gemm", "/0/Gemm", ["z", "0.weight"], ["/0/Gemm"], {"transB": 1}),
        Node("Gemm", "/1/Gemm", ["/0/Gemm", "1.weight", "1.bias"], ["/1/Gemm"], {"transB": 1}),
        Node("Gemm", "/2/Gemm", ["/1/Gemm", "2.weight"], ["samples"], {"transB": 1}),
    ]
    graph = graph_of((4,), (4,), nodes, weights, {"/0/Gemm": (4,), "/1/Gemm": (4,)})
    z = np.random.default_rng(0).standard_normal((64, 4)).astype(FLOAT)
    assert np.abs(run(quantize(graph, [{"z": z}]), {"z": z}) - run(graph, {"z": z})).max() < 0.1


@pytest.mark.parametrize(
    "between",
    [[nn.LeakyReLU(0.2)], [nn.ReLU(), nn.Upsample(scale_factor=2)], [nn.BatchNorm2d(8), nn.ReLU()], [nn.Sigmoid()],
     [nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1, groups=2), nn.ReLU()]],
)  # fmt: skip
@pytest.mark.parametrize("optimize", ["speed", "size"])
def test_other_generators(between, optimize):
    mg.manual_seed(0)
    layers = [nn.Linear(16, 8 * 16), nn.ReLU(), nn.Linear(8 * 16, 8 * 16), nn.Unflatten(1, (8, 4, 4)), nn.ReLU()]
    layers += [nn.Conv2d(8, 8, 3, padding=1), *between, nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.ReLU()]
    layers += [nn.Conv2d(8, 3, 3, padding=1), nn.Tanh()]
    subject = Subject.of(nn.Sequential(*layers).eval(), latent=16)
    graph = build(subject, Variant(), verified=False)
    feeds = subject.draw(128, "verify")
    expected = run(graph, feeds)
    small = quantize(graph, [subject.draw(256, "calibration")], optimize=optimize)
    assert len(integer_constants(small)) >= 6
    noise = np.abs(run(small, feeds) - expected).max() / np.ptp(expected)
    assert noise < 0.1


class Branching(nn.Module):
    """Layers whose outputs go more than one way: past a ReLU, and joined with another's."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 64), *(nn.Linear(64, 64) for _ in range(3)), nn.Linear(128, 2)])

    def forward(self, z):
        first, a, b, c, last = self.layers
        x = first(z)
        y, w = a(x), b(x)
        scale = mg.cat([mg.relu(y) - y, mg.relu(w)], 1)
        return last(scale * mg.cat([y, c(9 * w)], 1))


def test_what_goes_several_ways():
    mg.manual_seed(0)
    subject = Subject.of(Branching().eval(), latent=8)
    graph = build(subject, Variant(), verified=False)
    small = quantize(graph, [subject.draw(256, "calibration")])
    feeds = subject.draw(64, "verify")
    expected = run(graph, feeds)
    assert np.abs(run(small, feeds) - expected).max() < 0.03 * np.ptp(expected)


def test_a_layer_in_integers_gives_nothing_but_integers(subject):
    """Else ONNX Runtime would leave it in float."""
    leaky = nn.Sequential(*(part for n in (8, 16, 32) for part in (nn.Linear(n, 2 * n), nn.LeakyReLU(0.2))))
    for one in (subject, Subject.of(leaky.eval(), latent=8), Subject.of(Branching().eval(), latent=8)):
        small = quantize(build(one, Variant(), verified=False), [one.draw(64, "calibration")])
        users, producers = small.users(), small.producers()
        layers = [node for node in small.nodes if node.op in int8.LINEAR and node.inputs[1] in producers]
        assert layers
        for node in layers:
            assert [user.op for user in users[node.outputs[0]]] == ["QuantizeLinear"], node.name


def test_conditional_generators_are_calibrated_on_all_inputs():
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.a, self.b, self.c = (
                nn.Embedding(3, 8),
                nn.Linear(8, 64),
                nn.Linear(64, 64),
                nn.Linear(64, 2),
            )

        def forward(self, z, labels):
            return self.c(mg.relu(self.b(mg.relu(self.a(z * self.embed(labels))))))

    subject = Subject.of(Conditional().eval(), latent=8, classes=3, psi=True)
    graph = build(subject, Variant(), verified=False)
    small = quantize(graph, [subject.draw(64, "calibration"), subject.draw(64, "calibration 2")])
    feeds = subject.draw(64, "verify")
    assert "b.weight/int8" in small.constants
    assert np.abs(run(small, feeds) - run(graph, feeds)).max() < 0.05


def test_ranges_are_over_all_feeds(subject):
    graph = build(subject, Variant(), verified=False)
    z = subject.draw(64, "calibration")["z"]
    whole = int8.observe(graph, [{"z": z}], ["z", "/3/Relu"])
    for first, second in ((z, z[:1]), (z[:1], z)):
        assert int8.observe(graph, [{"z": first}, {"z": second}], ["z", "/3/Relu"]) == whole
    assert whole["z"] == (z.min(), z.max())
    assert whole["/3/Relu"][0] == 0 < whole["/3/Relu"][1]


def test_refusals(subject):
    graph = build(subject, Variant(), verified=False)
    with pytest.raises(OnnxError, match="latents to calibrate on: got none, expected at least one batch$"):
        quantize(graph, [])
    for broken in (np.nan, np.inf):
        z = np.ones((4, 16), FLOAT)
        z[2, 3] = broken
        with pytest.raises(OnnxError, match="^int8 cannot be calibrated: .* holds values that are not finite$"):
            quantize(graph, [{"z": z}])


def test_layers_whose_inner_values_have_no_stated_shape(tmp_path):
    """A Linear on sequences reshapes first, an asymmetric Conv pads first: their ranges are observed all the same."""
    make = [
        lambda: [mg.nn.Linear(6, 24), mg.nn.Unflatten(1, (4, 6)), mg.nn.Linear(6, 6), mg.nn.ReLU(), mg.nn.Linear(6, 6)],
        lambda: [
            mg.nn.Linear(6, 72), mg.nn.Unflatten(1, (2, 6, 6)), mg.nn.Conv2d(2, 4, 4, padding="same"), mg.nn.ReLU(),
            mg.nn.Conv2d(4, 3, 1),
        ],
    ]  # fmt: skip
    for layers in make:
        G = mg.nn.Sequential(*layers()).eval()
        graph = build(Subject.of(G, 6), Variant("int8"), verified=False)
        assert any(array.dtype == np.int8 and array.ndim > 1 for array in graph.constants.values())


def test_a_layer_that_comes_twice():
    """From 1×1 and from 4×4 pixels it has other phases; they do not share a name."""

    class Twice(mg.nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.last = mg.nn.ConvTranspose2d(8, 8, 4, 2), mg.nn.Conv2d(8, 3, 1)

        def forward(self, z):
            return self.last(self.up(self.up(z.reshape(-1, 8, 1, 1)))).tanh()

    subject = Subject.of(Twice().eval(), 8)
    z = subject.draw(16, "test")
    graph = build(subject, Variant("int8"), verified=False)
    assert psnr(run(graph, z), subject.run(z)).min() > 40

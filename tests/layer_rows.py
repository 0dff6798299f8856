"""From a layer to a `harness.Row`: the layer as a function of its parameters, and what to draw for its settings."""

import itertools
import random

import layer_oracles as right
import numpy as np
from harness import Row
from hypothesis import assume
from hypothesis import strategies as st
from strategies import REAL, Placed, away_from, placed, positive_shapes, seeds, shapes, whole

import minigan as mg


def row(
    layer, oracle, settings, inputs, name="", *, ops="", make=None, call=lambda layer, *xs: layer(*xs), domain=REAL,
    keep=lambda *_, **__: True, **more,
):  # fmt: skip
    """`inputs` makes a strategy from the settings; parameters are of `domain`; `keep` says which cases will do."""
    make = make or layer
    return Row(
        f"{layer.__name__} {name}".strip(), ops, calling(make, call), lambda *args: oracle(*args[:-1], **args[-1]),
        cases(make, settings, inputs, domain, keep), **more,
    )  # fmt: skip


def calling(make, call):
    """A layer as a function of its inputs, of tensors that take the place of its parameters, and of its settings."""

    def function(*args):
        *tensors, chosen = args
        layer = make(**chosen).to(next(x.dtype for x in tensors if x.is_floating_point()))
        names = [name for name, _ in layer.named_parameters()]
        inputs = len(tensors) - len(names)
        for name, value in zip(names, tensors[inputs:], strict=True):
            path, _, own = name.rpartition(".")
            layer.get_submodule(path)._parameters[own] = value
        return call(layer, *(x.clone() if chosen.get("inplace") else x for x in tensors[:inputs]))

    return function


@st.composite
def cases(draw, make, settings, inputs, domain, keep):
    """Inputs, parameters, settings."""
    chosen = draw(settings)
    tensors = list(draw(inputs(**chosen)))
    tensors += [draw(placed(tuple(p.shape), domain)) for p in make(**chosen).parameters()]
    assume(keep(*(x.values for x in tensors), **chosen))
    return *tensors, chosen


# Ways to make a layer ---------------------------------------------------------------------------------------


def in_eval(layer):
    """In evaluation, with the statistics given; they are the same in every dtype."""

    def make(mean, var, **chosen):
        made = layer(len(mean), **chosen).eval()
        made.running_mean.copy_(mg.tensor(mean))
        made.running_var.copy_(mg.tensor(var))
        return made

    return make


def seeded(layer):
    """The same noise in every call."""

    def make(seed, **chosen):
        mg.manual_seed(seed)
        return layer(**chosen)

    return make


def weighted(layer):
    """With lists as weights."""

    def make(weight, classes=None, **chosen):
        if "pos_weight" in chosen and chosen["pos_weight"] is not None:
            chosen["pos_weight"] = mg.tensor(chosen["pos_weight"])
        return layer(None if weight is None else mg.tensor(weight), **chosen)

    return make


def normed(layer, norm):
    """Spectrally, in evaluation, by vectors u and v of `ones_and_halves`."""

    def make(**chosen):
        made = norm(layer(**chosen))
        with mg.no_grad():
            for buffer in made.buffers():
                buffer.copy_(mg.tensor(ones_and_halves(len(buffer))))
        return made.eval()

    return make


def ones_and_halves(count):
    return [1 - i % 2 / 2 for i in range(count)]


def by_spectral_norm(oracle, dim):
    def of_normed(x, b, w, **chosen):
        return oracle(x, w / sigma(x, b, w), b, **chosen)

    def sigma(x, b, w, **_):
        u, v = ones_and_halves(w.shape[dim]), ones_and_halves(w.size // w.shape[dim])
        return right.spectral_sigma(w, u, v, dim)

    return of_normed, lambda *arrays, **_: abs(sigma(*arrays)) > 0.5


# Settings ---------------------------------------------------------------------------------------------------


def by_random(make):
    """Drawn by seed, as `strategies.sides` are."""
    return seeds.map(random.Random).map(make)


def options(**values):
    """One value of each."""
    return by_random(lambda rng: {name: rng.choice(given) for name, given in values.items()})


def convolutions(ndim, transposed=False):
    """Settings of convolution layers."""

    def make(rng):
        def sizes(low, high):
            several = [rng.randint(low, high) for _ in range(ndim)]
            return rng.choice([several[0], tuple(several)])

        groups = rng.choice([1, 1, 2])
        chosen = {
            "in_channels": groups * rng.randint(1, 2), "out_channels": groups * rng.randint(1, 2), "groups": groups,
            "kernel_size": sizes(1, 3 if ndim < 3 else 2), "stride": sizes(1, 3), "dilation": sizes(1, 2),
            "bias": rng.random() < 0.7,
            "padding": rng.choice([0, sizes(0, 2), tuple(rng.randint(0, 2) for _ in range(2 * ndim))]),
        }  # fmt: skip
        if transposed:
            chosen["output_padding"] = tuple(
                rng.randrange(max(pair))
                for pair in zip(*(right.per_axis(chosen[name], ndim) for name in ("stride", "dilation")), strict=True)
            )
        else:
            chosen["padding_mode"] = rng.choice(["zeros", "zeros", "reflect", "replicate", "circular"])
            chosen["padding"] = rng.choice([chosen["padding"], chosen["padding"], "valid", "same"])
        return chosen | ({"stride": 1} if chosen["padding"] == "same" else {})

    return by_random(make)


# Inputs -----------------------------------------------------------------------------------------------------

VECTORS = st.sampled_from([(2,), (), (1,), (0,), (3,)])  # batches of vectors, or single ones
BATCHES = st.sampled_from([(2,), (1,), (0,), (3,)])
SAMPLES = st.sampled_from([(2,), (1,), (0,), ()])  # of images with channels; without a batch too


@st.composite
def together(draw, lead, *parts):
    """A tensor for each of the (further axes, domain), all with the same leading axes."""
    start = draw(lead)
    return tuple(draw(placed((*start, *more), domain)) for more, domain in parts)


def everywhere(domain):
    """A tensor of any shape."""
    return lambda **_: together(shapes(), ((), domain))


def features(*names, lead=VECTORS):
    """A tensor for each setting that is its last size."""
    return lambda **chosen: together(lead, *(((chosen[name],), REAL) for name in names))


def images(domain=REAL, low=2, high=5, multiple=(1, 1, 1)):
    """(N, C, H, W) or (C, H, W), of multiples of some sizes."""
    sizes = st.tuples(st.integers(1, 2), st.integers(low, high), st.integers(low, high))
    return sizes.flatmap(
        lambda at: together(SAMPLES, (tuple(n * m for n, m in zip(at, multiple, strict=True)), domain))
    )


@st.composite
def for_convolution(draw, ndim, **chosen):
    """Large enough for one window, and for the padding; or for something to be left when the padding is cut off."""
    arguments = (chosen[name] for name in ("kernel_size", "stride", "padding", "dilation"))
    kernel, stride, pairs, dilation = right.conv_geometry(*arguments, ndim)
    rng = random.Random(draw(seeds))
    size = []
    for axis, (k, s, (before, after), d) in enumerate(zip(kernel, stride, pairs, dilation, strict=True)):
        reach = d * (k - 1) + 1
        if "output_padding" in chosen:
            least = 1 + max(0, -(-(before + after + 1 - reach - chosen["output_padding"][axis]) // s))
        else:
            most = max(before, after) + (chosen["padding_mode"] == "reflect")
            least = max(1, reach - before - after, most if chosen["padding_mode"] != "zeros" else 0)
        size.append(least + rng.randrange(3 if ndim < 3 else 2))
    lead = rng.choice([(2,), (1,), (0,), ()])
    return (draw(placed((*lead, chosen["in_channels"], *size))),)


@st.composite
def normalized(draw, shape, domain, batches=1):
    """Tensors of one shape, drawn with sizes of 0 to 4, where a set of values to be normalised has two or more."""
    size = draw(shape)
    return tuple(draw(placed(size, domain)) for _ in range(batches))


@st.composite
def apart(draw, shape, *points):
    """Two tensors whose difference is away from the points."""
    x = draw(placed(draw(shape), REAL))
    d = draw(placed(x.values.shape, away_from(*points)))
    return x, Placed(x.values - d.values, d.layout)


def for_reduction(reduction, min_dims=0):
    """Shapes; a mean of nothing is left out."""
    return positive_shapes(min_dims) if "mean" in reduction else shapes(min_dims)


@st.composite
def classified(draw, classes, reduction, probabilities=False, ignore_index=-100, **_):
    """(N, C, …) with classes (N, …), the first of which counts, or with probabilities; or (C) with ()."""
    spatial = draw(shapes(0, 2, (1, 2, 3)))
    lead = draw(st.sampled_from([(1,), (2,), (3,), *([] if reduction == "mean" else [(0,)]), *([] if spatial else [()])]))
    x = draw(placed((*lead, classes, *spatial)))
    if probabilities:
        return x, draw(placed(x.values.shape, lambda rng, shape: rng.uniform(0, 1, shape)))
    t = draw(placed((*lead, *spatial), whole(0, classes)))
    rng = np.random.default_rng(draw(seeds))
    ignored = rng.random(t.values.shape) < 0.3
    ignored.flat[:1] = False
    t = Placed(np.where(ignored, ignore_index, t.values), t.layout)
    return x, t


def outside(values, chosen):
    return [v for v in values if v != chosen]


_ = itertools

"""From a layer to a `harness.Row`: the layer as a function of its parameters, and what to draw for its settings."""

import math
import random

import layer_oracles as right
from harness import Row
from hypothesis import assume
from hypothesis import strategies as st
from strategies import DISTINCT, REAL, placed, seeds, shapes

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
    """The oracle for w/σ, and whether σ is not too near to 0."""

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
            extra = right.per_axis(chosen["output_padding"], ndim)[axis]
            least = 1 + max(0, -(-(before + after + 1 - reach - extra) // s))
        else:
            most = max(before, after) + (chosen["padding_mode"] == "reflect")
            least = max(1, reach - before - after, most if chosen["padding_mode"] != "zeros" else 0)
        size.append(least + rng.randrange(3 if ndim < 3 else 2))
    lead = rng.choice([(2,), (1,), (0,), ()])
    return (draw(placed((*lead, chosen["in_channels"], *size))),)


def channels(lead, spatial, batches=1):
    """Well spread values, of (…, C, …) for the `num_features` of a norm that needs two or more in a set."""

    def inputs(num_features, **_):
        ends = st.tuples(st.sampled_from(lead), st.sampled_from(spatial)).filter(
            lambda ends: math.prod(sum(ends, ())) != 1
        )
        return ends.flatmap(lambda ends: spread((*ends[0], num_features, *ends[1]), batches))

    return inputs


def spread(shape, batches=1):
    """Tensors, none like the others, in which a few values have a variance that can be divided by."""
    return st.tuples(
        *(placed(shape, lambda rng, shape, i=i: i + (3 + i) * DISTINCT(rng, shape)) for i in range(batches))
    )

"""Rows of the losses, for test_layer_properties, each with its definition in plain Python."""

import math
from functools import partial

import numpy as np
from harness import elementwise
from hypothesis import strategies as st
from layer_oracles import sigmoid
from layer_rows import options, row, together
from strategies import FAR_FROM_ZERO, REAL, Placed, away_from, placed, positive_shapes, seeds, shapes, uniform, whole

import minigan as mg
from minigan import nn

# Definitions -----------------------------------------------------------------------------------------------


def reduced(losses, reduction, total=None):
    """`total` is what a mean divides by, if not the number of losses."""
    if reduction == "none":
        return losses
    return losses.sum() / (1 if reduction == "sum" else losses.size if total is None else total)


def distance(function):
    """A loss from a function of the difference, a Python float."""
    return lambda x, t, reduction, **settings: reduced(elementwise(lambda d: function(d, **settings))(x - t), reduction)


def smooth_l1(d, beta):
    return d * d / (2 * beta) if abs(d) < beta else abs(d) - beta / 2


def hinge_embedding(x, t, *, margin, reduction):
    return reduced(elementwise(lambda v, k: v if k == 1 else max(0, margin - v))(x, t), reduction)


def kl_div(x, t, *, reduction, log_target):
    losses = elementwise(lambda v, k: math.exp(k) * (k - v) if log_target else k * (math.log(k) - v))(x, t)
    return losses.sum() / len(x) if reduction == "batchmean" else reduced(losses, reduction)


def bce(x, t, *, weight, reduction):
    losses = elementwise(lambda v, k: -k * math.log(v) - (1 - k) * math.log(1 - v))(x, t)
    return reduced(losses * (1 if weight is None else weight), reduction)


def bce_with_logits(x, t, *, weight, pos_weight, reduction):
    p = sigmoid(x)
    losses = -(1 if pos_weight is None else np.array(pos_weight)) * t * np.log(p) - (1 - t) * np.log(1 - p)
    return reduced(losses * (1 if weight is None else weight), reduction)


def nll(x, t, *, weight, ignore_index, reduction, **_):
    """Value by value; classes lie on axis 1, or on axis 0 of a single sample."""
    losses, weights = np.zeros(t.shape), np.zeros(t.shape)
    for at in np.ndindex(t.shape):
        if t[at] != ignore_index:
            weights[at] = 1 if weight is None else weight[t[at]]
            losses[at] = -weights[at] * x[(*at[:1], t[at], *at[1:])]
    return reduced(losses, reduction, weights.sum())


def cross_entropy(x, t, *, weight, ignore_index, reduction, label_smoothing, **_):
    axis = min(x.ndim - 1, 1)
    logp = x - np.log(np.exp(x).sum(axis, keepdims=True))
    w = np.ones(x.shape[axis]) if weight is None else np.array(weight)
    weighted = np.moveaxis(np.moveaxis(logp, axis, -1) * w, -1, axis)
    if t.dtype.kind == "f":
        soft = (1 - label_smoothing) * t + label_smoothing / x.shape[axis]
        return reduced(-(soft * weighted).sum(axis), reduction)
    kept = t != ignore_index
    picked = nll(logp, t, weight=w, ignore_index=ignore_index, reduction="none")
    even = np.where(kept, -weighted.mean(axis), 0)
    losses = (1 - label_smoothing) * picked + label_smoothing * even
    return reduced(losses, reduction, w[t[kept]].sum())


def cosine_similarity(x, y, *, dim, eps):
    lengths = [np.sqrt((v * v).sum(dim)).clip(eps) for v in (x, y)]
    return (x * y).sum(dim) / lengths[0] / lengths[1]


# Settings and inputs --------------------------------------------------------------------------------------


def weighted(layer):
    """With lists as weights."""

    def make(weight, classes=None, **chosen):
        if chosen.get("pos_weight") is not None:
            chosen["pos_weight"] = mg.tensor(chosen["pos_weight"])
        return layer(None if weight is None else mg.tensor(weight), **chosen)

    return make


def class_weights(**values):
    """`weight` becomes a list with a weight for each of the `classes`."""

    def listed(chosen):
        return chosen | {"weight": [1.0, 0.5, 2.0][: chosen["classes"]] if chosen["weight"] else None}

    return options(classes=[3, 2, 1], weight=[True, False], **values).map(listed)


@st.composite
def apart(draw, shape, *points):
    """Two tensors whose difference is away from the points."""
    x = draw(placed(draw(shape)))
    d = draw(placed(x.values.shape, away_from(*points)))
    return x, Placed(x.values - d.values, d.layout)


def for_reduction(reduction, min_dims=0):
    """Shapes; a mean of nothing is left out."""
    return positive_shapes(min_dims, 3) if "mean" in reduction else shapes(min_dims, 3)


@st.composite
def classified(draw, classes, reduction, soft=False, ignore_index=-100, **_):
    """(N, C, …) with classes (N, …), the first of which counts, or with probabilities; or (C) with ()."""
    spatial = draw(shapes(0, 2, (1, 2, 3)))
    lead = draw(st.sampled_from([(2,), (1,), (3,), () if not spatial else (2,), (1 if reduction == "mean" else 0,)]))
    x = draw(placed((*lead, classes, *spatial)))
    if soft:
        return x, draw(placed(x.values.shape, uniform(0, 1)))
    t = draw(placed((*lead, *spatial), whole(0, classes)))
    ignored = np.random.default_rng(draw(seeds)).random(t.values.shape) < 0.3
    values = np.where(ignored, ignore_index, t.values)
    values.flat[:1] = (ignore_index + 1) % classes
    return x, Placed(values, t.layout)


# Rows ------------------------------------------------------------------------------------------------------

HOW = {"reduction": ["none", "mean", "sum"]}
PROBABILITY = uniform(0.2, 0.8)
WEIGHT = [None, [1.0, 0.5, 2.0]]


def pairs(reduction, domain=REAL, target=REAL, last=(), **_):
    return together(for_reduction(reduction, len(last) or reduction == "batchmean"), (last, domain), (last, target))


def sign(rng, shape):
    return rng.choice([-1, 1], shape)


LOSSES = [
    row(nn.MSELoss, distance(lambda d: d * d), options(**HOW), pairs),
    row(nn.L1Loss, distance(abs), options(**HOW), lambda reduction: apart(for_reduction(reduction), 0)),
    row(
        nn.SmoothL1Loss, distance(smooth_l1), options(**HOW, beta=[1.0, 0.5, 0.0]),
        lambda reduction, beta: apart(for_reduction(reduction), *{0, -beta, beta}),
    ),
    row(
        nn.HuberLoss, distance(lambda d, delta: delta * smooth_l1(d, delta)),
        options(**HOW, delta=[1.0, 0.5]), lambda reduction, delta: apart(for_reduction(reduction), -delta, delta),
    ),
    row(
        nn.HingeEmbeddingLoss, hinge_embedding, options(**HOW, margin=[1.0, 0.5]),
        lambda reduction, margin: pairs(reduction, away_from(margin), sign),
    ),
    row(
        nn.KLDivLoss, kl_div, options(reduction=[*HOW["reduction"], "batchmean"], log_target=[False, True]),
        lambda reduction, log_target: pairs(reduction, REAL, REAL if log_target else PROBABILITY),
    ),
    row(
        nn.BCELoss, bce, options(**HOW, weight=WEIGHT),
        lambda reduction, **_: pairs(reduction, PROBABILITY, PROBABILITY, (3,)), make=weighted(nn.BCELoss),
    ),
    row(
        nn.BCEWithLogitsLoss, bce_with_logits, options(**HOW, weight=WEIGHT, pos_weight=WEIGHT),
        lambda reduction, **_: pairs(reduction, REAL, PROBABILITY, (3,)), make=weighted(nn.BCEWithLogitsLoss),
    ),
    row(
        nn.NLLLoss, nll, class_weights(**HOW, ignore_index=[-100, 1]), classified, make=weighted(nn.NLLLoss),
    ),
    row(
        nn.CrossEntropyLoss, cross_entropy,
        class_weights(**HOW, ignore_index=[-100, 1], label_smoothing=[0.0, 0.25]), classified, "of classes",
        make=weighted(nn.CrossEntropyLoss),
    ),
    row(
        nn.CrossEntropyLoss, cross_entropy,
        class_weights(**HOW, ignore_index=[-100], label_smoothing=[0.0, 0.25]), partial(classified, soft=True),
        "of probabilities", make=weighted(nn.CrossEntropyLoss),
    ),
    row(
        nn.CosineSimilarity, cosine_similarity, options(dim=[0, 1, -1], eps=[1e-8, 5.0]),
        lambda dim, **_: together(shapes(max(dim, 0) + 1, 3), ((), FAR_FROM_ZERO), ((), FAR_FROM_ZERO)),
    ),
]  # fmt: skip

"""The two sides of each GAN loss, on logits.

A loss is one small class with D's formula and G's beside each other; `LOSSES` names them all. r and f are D's
logits of real and of fake samples, σ the sigmoid, ζ(x) = log(1 + eˣ) = -log σ(-x) the softplus, E the mean over
the batch. Penalties that are added to D's side are in `penalties.py`.
"""

from __future__ import annotations

from minigan.graph import Node
from minigan.nn import functional as F
from minigan.tensor import Tensor

_TO_PROBABILITIES = {"Sigmoid": "sigmoid", "LogSigmoid": "sigmoid", "Softmax": "softmax", "LogSoftmax": "softmax"}
_KEEP = {"Reshape", "Permute", "Slice", "Flip", "Cat", "Clone", "Cast", "Clamp"}  # probabilities stay what they are


class Loss:
    """Base of the losses: `d` is minimised by the discriminator or critic, `g` by the generator.

    >>> import minigan as mg
    >>> loss = LOSSES["non-saturating"]
    >>> loss.d(real_logits=mg.zeros(4, 1), fake_logits=mg.zeros(4, 1))  # D is undecided: 2 log 2
    tensor(1.3863)
    >>> loss.g(fake_logits=mg.zeros(4, 1))
    tensor(0.6931)
    """

    name: str
    smooths = False  # whether one-sided label smoothing has a meaning
    relative = False  # whether G's side looks at real logits too

    def d(self, real_logits: Tensor, fake_logits: Tensor, smooth: float = 0.0) -> Tensor:
        """D's side; `smooth` lowers the real samples' target from 1 to 1 - smooth (Salimans et al. 2016)."""
        if not 0 <= smooth < 1:
            raise ValueError(f"{self.name} loss: got smooth={smooth}, expected 0 or more and less than 1")
        if smooth and not self.smooths:
            able = ", ".join(name for name, loss in LOSSES.items() if loss.smooths)
            raise ValueError(f"{self.name} loss: it has no labels to smooth, use smooth=0; those that have: {able}")
        refuse_probabilities(real_logits, fake_logits)
        return self._d(real_logits, fake_logits, smooth)

    def g(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """G's side; only the relativistic losses look at `real_logits`."""
        if self.relative and real_logits is None:
            raise ValueError(f"{self.name} loss: G's side needs D's logits of real samples too: g(fake, real)")
        refuse_probabilities(fake_logits, *([] if real_logits is None else [real_logits]))
        return self._g(fake_logits, real_logits)

    def _d(self, r: Tensor, f: Tensor, smooth: float) -> Tensor:
        raise NotImplementedError

    def _g(self, f: Tensor, r: Tensor | None) -> Tensor:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"LOSSES[{self.name!r}]"


def _softplus(x: Tensor) -> Tensor:
    # F.softplus is x itself from 20 on, as PyTorch's: a step of 2e-9, which this form does not have
    return -F.logsigmoid(-x)


class Minimax(Loss):
    """Goodfellow et al. 2014, eq. 1: cross-entropy, of which G maximises what D minimises"""

    name = "minimax"
    smooths = True

    def _d(self, r, f, smooth):
        # of the target t = 1 - s: -t·log σ(r) - s·log(1 - σ(r)) = ζ(-r) + s·r
        return (_softplus(-r) + smooth * r).mean() + _softplus(f).mean()

    def _g(self, f, r):
        return -_softplus(f).mean()  # E log(1 - σ(f))


class NonSaturating(Minimax):
    """Goodfellow et al. 2014, end of section 3: G maximises log D(G(z)), whose slope does not vanish when D wins"""

    name = "non-saturating"

    def _g(self, f, r):
        return _softplus(-f).mean()  # -E log σ(f)


class LeastSquares(Loss):
    """Mao et al. 2017, eq. 9: ½ squared distance from the targets 1 (real), 0 (fake), and 1 for G"""

    name = "least-squares"
    smooths = True

    def _d(self, r, f, smooth):
        return 0.5 * ((r - (1 - smooth)).square().mean() + f.square().mean())

    def _g(self, f, r):
        return 0.5 * (f - 1).square().mean()


class Wasserstein(Loss):
    """Arjovsky et al. 2017, eq. 2: -d estimates the distance, if something holds D to a Lipschitz constant of 1"""

    name = "wasserstein"

    def _d(self, r, f, smooth):
        return f.mean() - r.mean()

    def _g(self, f, r):
        return -f.mean()


class Hinge(Loss):
    """Lim and Ye 2017; Miyato et al. 2018: D stops pushing at a margin of 1"""

    name = "hinge"

    def _d(self, r, f, smooth):
        return F.relu(1 - r).mean() + F.relu(1 + f).mean()

    def _g(self, f, r):
        return -f.mean()


class Relativistic(Loss):
    """Jolicoeur-Martineau 2018 (RpGAN): each real sample should beat its fake partner, and for G the reverse"""

    name = "relativistic"
    relative = True

    def _d(self, r, f, smooth):
        if r.shape != f.shape:  # (N, 1) and (N,) would broadcast to all N² pairs
            raise ValueError(
                f"relativistic loss: got logits of shapes {tuple(r.shape)} (real) and {tuple(f.shape)} (fake), "
                "expected the same: samples are compared in pairs"
            )
        return _softplus(f - r).mean()

    def _g(self, f, r):
        return self._d(f, r, 0.0)


class RelativisticAverage(Loss):
    """Jolicoeur-Martineau 2018 (RaGAN): each sample against the mean of the other kind"""

    name = "relativistic-average"
    relative = True

    def _d(self, r, f, smooth):
        return _softplus(f.mean() - r).mean() + _softplus(f - r.mean()).mean()

    def _g(self, f, r):
        return self._d(f, r, 0.0)


LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        Minimax(), NonSaturating(), LeastSquares(), Wasserstein(), Hinge(), Relativistic(), RelativisticAverage()
    )
}  # fmt: skip


def refuse_probabilities(*outputs: Tensor) -> None:
    """Raise if an output of D is, as the graph shows, made by a sigmoid or a softmax.

    A second sigmoid in the loss would hold D's cross-entropy above 1.0064, and no error would say so. What was
    made under `no_grad` has no graph, and passes.

    >>> import minigan as mg
    >>> refuse_probabilities(mg.sigmoid(mg.zeros(4, 1, requires_grad=True)).squeeze(1))
    Traceback (most recent call last):
    ...
    ValueError: D's output went through a sigmoid; remove it: the loss expects logits (it has its own sigmoid if any)
    """
    pending = [output.node for output in outputs]
    while pending:
        node = pending.pop()
        if not isinstance(node, Node):  # a leaf or a constant
            continue
        kind = _TO_PROBABILITIES.get(node.name())
        if kind is not None:
            raise ValueError(
                f"D's output went through a {kind}; remove it: the loss expects logits (it has its own sigmoid if any)"
            )
        if node.name() in _KEEP:
            pending += node.parents

"""Training loops of many kinds on tiny networks, all correct: what the doctor must not say a word about.

`Loop` is the plain one; tests plant mistakes by changing one of its methods.
"""

import numpy as np
from gan_parts import (
    LOSSES,
    ConvD,
    ConvG,
    Hinge,
    LeastSquares,
    Logistic,
    N,
    PointD,
    PointG,
    Probabilities,
    Softplus,
    Wasserstein,
    Z,
    adam,
    bce,
    images,
    plain,
    ring,
)  # fmt: skip

import minigan as mg
from minigan import nn, optim
from minigan.nn import functional as F


class Loop:
    """A plain alternating loop, one method for each thing that a fault or a variant changes."""

    def __init__(self, G=None, D=None, loss=Logistic, real=images):
        self.G, self.D = ConvG() if G is None else G, ConvD() if D is None else D
        self.loss, self.real = loss, real
        self.g_adam, self.d_adam = adam(self.G), adam(self.D)

    def noise(self):
        return mg.randn(N, Z)

    def d_loss(self, real, fake):
        return self.loss.d(self.D(real), self.D(fake))

    def g_loss(self, fake):
        return self.loss.g(self.D(fake))

    def d_step(self, fake):
        self.d_adam.zero_grad()
        self.d_loss(self.real(), fake.detach()).backward()
        self.d_adam.step()

    def g_step(self, fake):
        self.g_adam.zero_grad()
        self.g_loss(fake).backward()
        self.g_adam.step()

    def step(self):
        fake = self.G(self.noise())
        self.d_step(fake)
        self.g_step(fake)


# Correct loops --------------------------------------------------------------------------------------------


class TwoBackwards(Loop):
    """PyTorch's DCGAN example: two sweeps for D, module.zero_grad, labels filled in place."""

    def step(self):
        label = mg.full((N, 1), 1.0)
        self.D.zero_grad()
        bce_ = nn.BCELoss()
        bce_(self.D(self.real()), label).backward()
        fake = self.G(self.noise())
        label.fill_(0.0)
        bce_(self.D(fake.detach()), label).backward()
        self.d_adam.step()
        self.G.zero_grad()
        label.fill_(1.0)
        bce_(self.D(fake), label).backward()
        self.g_adam.step()


class OldStyle(TwoBackwards):
    """Batches copied into one buffer that is used again and again, real and fake by turns."""

    def __init__(self, **kwargs):
        super().__init__(D=ConvD(last=nn.Sigmoid), **kwargs)
        self.input = mg.FloatTensor(N, 1, 8, 8)
        self.z = mg.FloatTensor(N, Z)

    def step(self):
        loss = Probabilities
        self.D.zero_grad()
        self.input.copy_(self.real())
        r = self.D(self.input)
        self.z.normal_(0, 1)
        fake = self.G(self.z)
        F.binary_cross_entropy(r, mg.ones(N, 1)).backward()
        self.input.copy_(fake.data)
        F.binary_cross_entropy(self.D(self.input), mg.zeros(N, 1)).backward()
        self.d_adam.step()
        self.G.zero_grad()
        loss.g(self.D(fake)).backward()
        self.g_adam.step()


class GeneratorFirst(Loop):
    """D's gradients are those of both losses until they are zeroed."""

    def step(self):
        fake = self.G(self.noise())
        self.g_step(fake)
        self.d_step(fake)


class FreshFakes(Loop):
    def step(self):
        with mg.no_grad():
            fake = self.G(self.noise())
        self.d_step(fake)
        self.g_step(self.G(self.noise()))


class Critic(Loop):
    """WGAN: five steps of D with clipped weights, one of G, counted by the script."""

    count = 0

    def __init__(self, **kwargs):
        super().__init__(ConvG(), ConvD(norm=plain), loss=Wasserstein, **kwargs)
        self.g_adam = optim.RMSprop(self.G.parameters(), lr=5e-5)
        self.d_adam = optim.RMSprop(self.D.parameters(), lr=5e-5)

    def step(self):
        self.d_step(self.G(self.noise()))
        for p in self.D.parameters():
            p.data.clamp_(-0.01, 0.01)
        self.count += 1
        if self.count % 5 == 0:
            self.g_step(self.G(self.noise()))


class Penalised(Loop):
    """WGAN-GP."""

    def __init__(self, **kwargs):
        super().__init__(**{"D": ConvD(norm=plain), "loss": Wasserstein, **kwargs})

    def slopes(self, x):
        x = x.detach().requires_grad_()
        return mg.autograd.grad(self.D(x).sum(), x, create_graph=True)[0].flatten(1)

    def penalty(self, real, fake):
        alpha = mg.tensor(np.random.default_rng(0).random((N, 1, 1, 1), np.float32))
        slopes = self.slopes(alpha * real + (1 - alpha) * fake)
        return 10 * ((slopes.norm(2, dim=1) - 1) ** 2).mean()

    def d_loss(self, real, fake):
        return super().d_loss(real, fake) + self.penalty(real, fake)


class AroundTheData(Penalised):
    """DRAGAN, with a D that ends in a sigmoid: the penalty's second derivative reaches D's output."""

    def __init__(self):
        super().__init__(D=ConvD(norm=plain, last=nn.Sigmoid), loss=Probabilities)

    def penalty(self, real, fake):
        return super().penalty(real, real + 0.5 * real.std() * mg.rand(real.shape))


class R1(Penalised):
    """The penalty on the logits that the loss uses too, lazily, and a moving average of G."""

    count = 0

    def __init__(self):
        super().__init__()
        self.loss = Softplus
        self.average = ConvG()

    def d_loss(self, real, fake):
        real = real.requires_grad_()
        on_real = self.D(real)
        loss = self.loss.d(on_real, self.D(fake))
        self.count += 1
        if self.count % 2:
            (slope,) = mg.autograd.grad(on_real.sum(), real, create_graph=True)
            loss = loss + 5 * slope.square().sum((1, 2, 3)).mean()
        return loss

    def step(self):
        super().step()
        with mg.no_grad():
            for p, average in zip(self.G.parameters(), self.average.parameters(), strict=True):
                average.lerp_(p, 0.1)
            self.average.eval()(self.noise())


class Spectral(Loop):
    def __init__(self):
        D = ConvD(norm=plain)
        for layer in D.main:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.utils.spectral_norm(layer)
        super().__init__(D=D, loss=Hinge)


class Conditional(Loop):
    def __init__(self):
        super().__init__(ConvG(classes=3), ConvD(classes=3))

    def step(self):
        labels = mg.randint(0, 3, (N,))
        fake = self.G(self.noise(), labels)
        self.d_adam.zero_grad()
        self.loss.d(self.D(self.real(), labels), self.D(fake.detach(), labels)).backward()
        self.d_adam.step()
        self.g_adam.zero_grad()
        self.loss.g(self.D(fake, labels)).backward()
        self.g_adam.step()


class Relativistic(Loop):
    def d_loss(self, real, fake):
        r, f = self.D(real), self.D(fake)
        return bce(r - f.mean(), 1.0) + bce(f - r.mean(), 0.0)

    def g_loss(self, fake):
        r, f = self.D(self.real()), self.D(fake)
        return bce(r - f.mean(), 0.0) + bce(f - r.mean(), 1.0)


class RelativisticSquares(Relativistic):
    def d_loss(self, real, fake):
        r, f = self.D(real), self.D(fake)
        return ((r - f.mean() - 1) ** 2).mean() + ((f - r.mean() + 1) ** 2).mean()

    def g_loss(self, fake):
        r, f = self.D(self.real()), self.D(fake)
        return ((r - f.mean() + 1) ** 2).mean() + ((f - r.mean() - 1) ** 2).mean()


class Frozen(Loop):
    """requires_grad is switched off for D in G's step."""

    def g_step(self, fake):
        self.D.requires_grad_(False)
        super().g_step(fake)
        self.D.requires_grad_(True)


class Noisy(Loop):
    """Instance noise on D's inputs, and dropout."""

    def __init__(self):
        super().__init__(D=ConvD(dropout=0.3))

    def d_loss(self, real, fake):
        return self.loss.d(*(self.D(x + 0.5 * mg.randn(N, 1, 8, 8)) for x in (real, fake)))

    def g_loss(self, fake):
        return self.loss.g(self.D(fake + 0.5 * mg.randn_like(fake)))


class BatchOfBoth(Loop):
    """Real and fake in one batch, which is well without BatchNorm."""

    def __init__(self):
        super().__init__(D=ConvD(norm=plain))

    def d_loss(self, real, fake):
        return self.loss.d(*self.D(mg.cat([real, fake])).chunk(2))


class FeatureMatching(Loop):
    def g_loss(self, fake):
        features = self.D.main[:3]
        return (features(fake).mean(0) - features(self.real()).mean(0)).square().mean()


class Accumulated(Loop):
    """Two batches for each step."""

    def g_step(self, fake):
        self.g_adam.zero_grad()
        for part in (fake, self.G(self.noise())):
            (self.g_loss(part) / 2).backward()
        self.g_adam.step()


class TwoStepsAtOnce(Loop):
    """Two steps along one gradient."""

    def g_step(self, fake):
        super().g_step(fake)
        self.g_adam.step()


class SameLogitForAll(Loop):
    """A D that starts from zero weights, below both of LSGAN's targets: all are pushed up, real and fake alike."""

    def __init__(self):
        D = PointD()
        nn.init.zeros_(D[2].weight)
        nn.init.constant_(D[2].bias, -0.7)
        super().__init__(PointG(), D, LeastSquares, ring)
        self.d_adam = optim.SGD(D[2:3].parameters(), lr=1e-9)


class SkippedSteps(Loop):
    """G's sweep every time, its step only every second time."""

    count = 0

    def g_step(self, fake):
        self.count += 1
        self.g_adam.zero_grad()
        self.g_loss(fake).backward()
        if self.count % 2 == 0:
            self.g_adam.step()


class Rescaled(Loop):
    """G's Tanh brought to the data's [0, 1] outside of G."""

    def __init__(self):
        super().__init__(real=lambda: (images() + 1) / 2)

    def step(self):
        fake = (self.G(self.noise()) + 1) / 2
        self.d_step(fake)
        self.g_step(fake)


class ByHand(Loop):
    """The logarithms written out, kept from -∞ by a clamp."""

    def __init__(self):
        super().__init__(D=ConvD(last=nn.Sigmoid))

    def d_loss(self, real, fake):
        return -(self.D(real) + 1e-8).log().mean() - mg.clamp(1 - self.D(fake), min=1e-8).log().mean()

    def g_loss(self, fake):
        return -self.D(fake).clamp(min=1e-8).log().mean()


class Codes(Loop):
    """An adversarial autoencoder: what is real to D are random numbers."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), PointD(), real=lambda: mg.randn(N, 2))

    def noise(self):
        return images()


class Translator(Loop):
    """Image to image: D judges pairs, the condition beside the image; G's loss has a second term."""

    def __init__(self):
        G = nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 3, 1, 1), nn.Tanh())
        D = nn.Sequential(nn.Conv2d(2, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.BatchNorm2d(8), nn.Conv2d(8, 1, 3, 1, 1))
        super().__init__(G, D, LeastSquares)

    def step(self):
        given = self.real()
        wanted, fake = -given, self.G(given)
        self.d_adam.zero_grad()
        self.loss.d(self.D(mg.cat([given, wanted], 1)), self.D(mg.cat([given, fake.detach()], 1))).backward()
        self.d_adam.step()
        self.g_adam.zero_grad()
        (self.loss.g(self.D(mg.cat([given, fake], 1))) + 100 * (fake - wanted).abs().mean()).backward()
        self.g_adam.step()


CORRECT = {
    **{loss.__name__: (lambda loss=loss: Loop(loss=loss)) for loss in LOSSES},
    "probabilities": lambda: Loop(D=ConvD(last=nn.Sigmoid), loss=Probabilities),
    "points": lambda: Loop(PointG(), PointD(), real=ring),
    "points, least squares": lambda: Loop(PointG(), PointD(), LeastSquares, ring),
    "two backwards": lambda: TwoBackwards(D=ConvD(last=nn.Sigmoid)),
    **{
        kind.__name__: kind
        for kind in (
            OldStyle, AroundTheData, GeneratorFirst, FreshFakes, Critic, Penalised, R1, Spectral, Conditional,
            Relativistic, RelativisticSquares, Frozen, Noisy, BatchOfBoth, Rescaled, ByHand, Codes, FeatureMatching,
            Accumulated, TwoStepsAtOnce, SameLogitForAll, SkippedSteps, Translator,
        )
    },
}  # fmt: skip

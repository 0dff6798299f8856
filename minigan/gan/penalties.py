"""What keeps a discriminator or critic smooth: gradient penalties, weight clipping, spectral normalisation.

Each penalty is a number to add to D's loss; its gradient reaches D's weights through the gradient of D. `D` is any
function from samples to logits, one (or a map of them) per sample. A D with batch normalisation has no
gradient per sample, and no penalty here fits it. Clipping the gradients themselves, by norm or by value,
is `mg.nn.utils.clip_grad_norm_` and `clip_grad_value_`.
"""

from __future__ import annotations

from collections.abc import Callable

from minigan import nn
from minigan.autograd import grad
from minigan.creation import rand
from minigan.grad_mode import no_grad
from minigan.nn.utils import parametrizations
from minigan.random import Generator
from minigan.tensor import Tensor

Critic = Callable[[Tensor], Tensor]

_WEIGHTED = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
)  # fmt: skip


def _slopes(D: Critic, x: Tensor) -> Tensor:
    """∇D at each sample as a row, differentiable again: the samples' logits do not depend on each other."""
    x = x.detach().requires_grad_()
    (slopes,) = grad(D(x).sum(), x, create_graph=True)
    assert slopes is not None
    return slopes.flatten(1)


def gradient_penalty(
    D: Critic,
    real: Tensor,
    fake: Tensor,
    weight: float = 10.0,
    target: float = 1.0,
    generator: Generator | None = None,
) -> Tensor:
    """weight · E(‖∇D(x̂)‖ - target)² between real and fake samples (WGAN-GP, Gulrajani et al. 2017).

    x̂ = α·real + (1 - α)·fake with one uniform α per sample; the norm is over all axes but the first, and its slope
    at 0 is 0, so that a critic that starts from zero weights gets no NaN. `weight` 0.1 is the authors' for toys.

    >>> import minigan as mg
    >>> w = mg.tensor([[3.0], [4.0]], requires_grad=True)
    >>> penalty = gradient_penalty(lambda x: x @ w, mg.randn(8, 2), mg.randn(8, 2), weight=1.0)
    >>> penalty  # (‖w‖ - 1)²
    tensor(16., grad_fn=<Mul>)
    >>> penalty.backward()
    >>> w.grad.squeeze(1)  # 2(‖w‖ - 1) w/‖w‖
    tensor([4.8, 6.4])
    """
    if real.shape != fake.shape:
        raise ValueError(
            f"gradient_penalty: got samples of shapes {tuple(real.shape)} (real) and {tuple(fake.shape)} (fake), "
            "expected the same: each real sample is joined to a fake one"
        )
    one_per_sample = (real.shape[0], *[1] * (real.ndim - 1))
    alpha = rand(one_per_sample, generator=generator, dtype=real.dtype, device=real.device)
    slopes = _slopes(D, alpha * real.detach() + (1 - alpha) * fake.detach())
    return weight * (slopes.norm(dim=1) - target).square().mean()


def r1(D: Critic, real: Tensor, weight: float = 10.0) -> Tensor:
    """weight/2 · E‖∇D(real)‖² (Mescheder et al. 2018, eq. 9)

    >>> import minigan as mg
    >>> r1(lambda x: 0.5 * (x * x).sum(1), mg.ones(4, 9), weight=1.0)  # ∇D = x
    tensor(4.5, grad_fn=<Mul>)
    """
    return 0.5 * weight * _slopes(D, real).square().sum(dim=1).mean()


def r2(D: Critic, fake: Tensor, weight: float = 10.0) -> Tensor:
    """weight/2 · E‖∇D(fake)‖² (Mescheder et al. 2018, eq. 10): the same on G's samples, which get no gradient"""
    return r1(D, fake, weight)


def dragan(
    D: Critic, real: Tensor, weight: float = 10.0, target: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """The gradient penalty around the data alone: between real samples and real + ½·std·U[0, 1) (Kodali et al. 2017).

    `std` is of the whole batch, as in the authors' code.

    >>> import minigan as mg
    >>> dragan(lambda x: 3 * x[:, 0], mg.randn(8, 2), weight=1.0).item()
    4.0
    """
    noise = rand(real.shape, generator=generator, dtype=real.dtype, device=real.device)
    return gradient_penalty(D, real, real + 0.5 * real.std() * noise, weight, target, generator)


def lazy(weight: float, every: int, step: int) -> float:
    """The weight of a penalty that only every `every`-th step has: every·weight there, 0 (leave it out) elsewhere.

    Lazy regularisation (StyleGAN2, Karras et al. 2020); with c = every/(every + 1) its authors also take c·lr and βᶜ
    in Adam.

    >>> [lazy(10.0, 4, step) for step in range(5)]
    [40.0, 0.0, 0.0, 0.0, 40.0]
    """
    if every < 1:
        raise ValueError(f"lazy: got every={every}, expected at least 1")
    return every * weight if step % every == 0 else 0.0


def clip_weights(D: nn.Module, limit: float = 0.01) -> None:
    """Clamp every parameter to [-limit, limit]: after each step of D (WGAN, Arjovsky et al. 2017).

    >>> D = nn.Linear(2, 1)
    >>> clip_weights(D, 0.01)
    >>> bool(D.weight.abs().max() <= 0.01)
    True
    """
    if not limit > 0:
        raise ValueError(f"clip_weights: got limit {limit}, expected more than 0")
    with no_grad():
        for parameter in D.parameters():
            parameter.clamp_(-limit, limit)


def spectral_normalize(module: nn.Module) -> nn.Module:
    """The network, with spectral normalisation on every linear and convolution layer (Miyato et al. 2018).

    >>> D = spectral_normalize(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)))
    >>> [name for name, _ in D.named_parameters()][1]
    '0.parametrizations.weight.original'
    """
    for layer in list(module.modules()):
        if isinstance(layer, _WEIGHTED):
            parametrizations.spectral_norm(layer)
    return module

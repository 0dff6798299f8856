"""Small things that make GAN training work: latents, averaged weights, noise on D's input, batch statistics, packing.

Each can be used alone in a hand-written loop. Losses (with label smoothing) are in `losses.py`, what keeps D smooth is
in `penalties.py`, augmentation in `augment.py`. Two learning rates (TTUR, Heusel et al. 2017) need no function: give
D's optimiser a higher rate than G's, 4e-4 and 1e-4 say.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from minigan import graphs, nn
from minigan.creation import rand, randn, tensor
from minigan.grad_mode import no_grad
from minigan.ops.piecewise import where
from minigan.ops.shape import cat
from minigan.random import Generator
from minigan.tensor import Tensor

_LEAST_TRUNCATION = 0.01  # below it, resampling takes thousands of rounds


def latents(
    n: int,
    dim: int,
    distribution: str = "normal",
    truncation: float | None = None,
    generator: Generator | None = None,
    device: Any = None,
) -> Tensor:
    """n latent vectors: standard normal, or uniform in [-1, 1).

    With `truncation` t, normal values beyond ±t are drawn again (BigGAN, Brock et al. 2019): samples from smaller t
    are better and more alike.

    >>> z = latents(64, 100, truncation=0.5)
    >>> z.shape, bool(z.abs().max() <= 0.5)
    ((64, 100), True)
    """
    if distribution not in ("normal", "uniform"):
        raise ValueError(f"latents: got distribution {distribution!r}, expected 'normal' or 'uniform'")
    if distribution == "uniform":
        if truncation is not None:
            raise ValueError("latents: truncation is for normal latents; uniform ones lie in [-1, 1) anyway")
        return 2 * rand(n, dim, generator=generator, device=device) - 1
    z = randn(n, dim, generator=generator, device=device)
    if truncation is not None:
        if not truncation >= _LEAST_TRUNCATION:
            raise ValueError(f"latents: got truncation {truncation}, expected at least {_LEAST_TRUNCATION}")
        while (beyond := z.abs() > truncation).any():
            z = where(beyond, randn(n, dim, generator=generator, device=device), z)
    return z


class EMA:
    """An exponential moving average of a network's weights, kept in a copy: `ema.module` (ProGAN, Karras et al. 2018).

    After each step of the optimiser, `update()`: average ← decay·average + (1 - decay)·network, over parameters and
    buffers alike, so that a BatchNorm's statistics belong to the weights beside them; integer buffers are copied.
    The first `start` updates only copy. The copy is in evaluation mode, or calling it would change its buffers.

    >>> G = nn.Linear(2, 2)
    >>> ema = EMA(G, decay=0.9)
    >>> before = G.weight.detach().clone()
    >>> G.weight.data += 1.0
    >>> ema.update()
    >>> bool((ema.module.weight - before).isclose(tensor(0.1), atol=1e-6).all())
    True
    """

    def __init__(self, module: nn.Module, decay: float = 0.999, start: int = 0) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA: got decay {decay}, expected 0 or more and less than 1")
        self.source, self.decay, self.start, self.updates = module, decay, start, 0
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.module.zero_grad()  # the copy has its own of what gradients there were

    def update(self) -> None:
        """Take in the network's weights as they are now."""
        if self.updates < self.start and graphs.capturing():
            raise graphs.CaptureError(f"EMA: the first {self.start} updates only copy: capture the step after them")
        decay = self.decay if self.updates >= self.start else 0.0
        graphs.each_time(self._count)
        with no_grad():
            for average, value in zip(_state(self.module), _state(self.source), strict=True):
                if decay and average.is_floating_point():
                    average.mul_(decay).add_(value, alpha=1 - decay)
                else:
                    average.copy_(value)

    def _count(self) -> None:
        self.updates += 1

    def state_dict(self) -> dict[str, Tensor]:
        """The averages, under `module.…`, and the number of updates."""
        return {"updates": tensor(self.updates), **self.module.state_dict(prefix="module.")}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a `state_dict`; when it raises, nothing has changed."""
        if "updates" not in state:
            raise RuntimeError("EMA.load_state_dict: expected an EMA's state_dict, got one without the key 'updates'")
        rest = {name.removeprefix("module."): value for name, value in state.items() if name != "updates"}
        self.module.load_state_dict(rest)
        self.updates = int(state["updates"])


def _state(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def instance_noise(x: Tensor, step: int, std: float, steps: int, generator: Generator | None = None) -> Tensor:
    """x + N(0, s²) with s going linearly from `std` at step 0 to 0 at `steps` and after (Sønderby et al. 2017).

    For D's input, real and fake alike: it makes the two distributions overlap.

    >>> import minigan as mg
    >>> instance_noise(mg.zeros(3), step=100, std=0.1, steps=100)
    tensor([0., 0., 0.])
    """
    if not (std >= 0 and steps > 0):
        raise ValueError(f"instance_noise: got std={std} and steps={steps}, expected std >= 0 and steps > 0")
    now = std * max(0.0, 1 - step / steps)
    return x + now * randn(x.shape, generator=generator, dtype=x.dtype, device=x.device) if now else x


class MinibatchStd(nn.Module):
    """Adds one channel to D's features that says how much the samples of a group differ (ProGAN, Karras et al. 2018).

    The deviation over the group of each feature, averaged over all features: one number per group, the same at
    every place. A collapsed G gives itself away by it. For images (N, C, H, W) or vectors (N, D).

    >>> import minigan as mg
    >>> MinibatchStd()(mg.randn(8, 16, 4, 4)).shape
    (8, 17, 4, 4)
    """

    def __init__(self, group_size: int = 4) -> None:
        super().__init__()
        if group_size < 2:
            raise ValueError(f"MinibatchStd: got group_size {group_size}, expected at least 2")
        self.group_size = group_size

    def forward(self, x: Tensor) -> Tensor:
        """x with the deviation as its last channel"""
        n, size = x.shape[0], min(self.group_size, x.shape[0])
        if n % size:
            raise ValueError(f"MinibatchStd: a batch of {n} does not divide into groups of {size}")
        groups = x.reshape(size, n // size, -1)
        spread = (groups - groups.mean(dim=0)).square().mean(dim=0)
        deviation = (spread + 1e-8).sqrt().mean(dim=1).repeat(size)  # 1e-8: a finite slope where all are alike
        extra = deviation.reshape(n, *[1] * (x.ndim - 1)).expand(n, 1, *x.shape[2:])
        return cat([x, extra], dim=1)

    def extra_repr(self) -> str:
        """The settings."""
        return f"group_size={self.group_size}"


def pack(x: Tensor, m: int) -> Tensor:
    """m samples side by side as one, along the channels, for a D that judges them together (PacGAN, Lin et al. 2018).

    >>> import minigan as mg
    >>> pack(mg.zeros(6, 3, 8, 8), 2).shape, pack(mg.zeros(6, 2), 3).shape
    ((3, 6, 8, 8), (2, 6))
    """
    if m < 1 or x.shape[0] % m:
        raise ValueError(f"pack: a batch of {x.shape[0]} does not divide into packs of {m}")
    return x.reshape(x.shape[0] // m, m * x.shape[1], *x.shape[2:])


def critic_steps(g_step: int, n_critic: int = 5, warmup: int = 0) -> int:
    """How many steps of the critic come before step `g_step` (from 0) of G.

    With a warmup, as in WGAN's own code (there 25), 100 before each of G's first `warmup` steps and every 500th.

    >>> [critic_steps(step, 5, warmup=25) for step in (0, 24, 25, 499, 500)]
    [100, 100, 5, 5, 100]
    """
    return 100 if warmup and (g_step < warmup or g_step % 500 == 0) else n_critic

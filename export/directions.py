"""The directions in latent space along which a generator's output changes most, for the web page's sliders."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minigan import autograd, nn
from minigan.creation import randn
from minigan.random import Generator
from minigan.tensor import Tensor

BATCH = 64  # latents in one pass: what their activations take is bounded by it


def principal_directions(
    module: Callable[..., Tensor],
    latents: Tensor,
    labels: Tensor | None = None,
    count: int = 8,
    generator: Generator | None = None,
) -> np.ndarray:
    """The first `count` eigenvectors of E[JᵀJ], J = ∂module(z)/∂z, as rows: orthonormal, the strongest first.

    A unit step along the first changes the output most, in the mean square over `latents`. With random cotangents
    u ~ N(0, I), E[(Jᵀu)(Jᵀu)ᵀ] = E[JᵀJ]: one backward pass gives one vector Jᵀu per latent. Give several times as many
    latents as a latent has numbers. Signs are such that the largest component is positive.

    >>> import minigan as mg
    >>> stretch = mg.tensor([0.1, 3.0, 1.0])
    >>> directions = principal_directions(lambda z: z * stretch, mg.randn(2000, 3), count=2)
    >>> abs(directions.round(1)).tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    if latents.ndim != 2 or len(latents) == 0:
        raise ValueError(f"principal_directions: got latents of shape {latents.shape}, expected (n ≥ 1, latent)")
    if isinstance(module, nn.Module) and any(part.training for part in module.modules()):
        raise ValueError(
            "principal_directions: the module is in train mode, where samples of a batch mix: call .eval()"
        )
    moment = np.zeros((latents.shape[1], latents.shape[1]))
    for first in range(0, len(latents), BATCH):
        z = latents[first : first + BATCH].detach().requires_grad_()
        inputs = [z] if labels is None else [z, labels[first : first + BATCH]]
        samples = module(*inputs)
        cotangent = randn(samples.shape, generator=generator, dtype=samples.dtype, device=samples.device)
        (slope,) = autograd.grad(samples, z, cotangent)
        assert slope is not None
        slopes = slope.cpu().numpy().astype(np.float64)
        moment += slopes.T @ slopes
    directions = np.linalg.eigh(moment)[1].T[::-1][:count]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1)
    return (directions * np.sign(largest)).astype(np.float32)

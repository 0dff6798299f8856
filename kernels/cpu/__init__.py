"""NumPy kernels of the CPU backend: the names every backend's `kernels` must have."""

from numpy import add

from .conv import conv, conv_transpose, conv_weight_grad
from .erf import erf
from .norm import normalize, normalize_backward
from .optim import adagrad_step, adam_step, rmsprop_step, sgd_step

add_at = add.at  # x[index] += y, with entries that come up twice counted twice

__all__ = [
    "adagrad_step", "adam_step", "add_at", "conv", "conv_transpose", "conv_weight_grad", "erf", "normalize",
    "normalize_backward", "rmsprop_step", "sgd_step",
]  # fmt: skip

"""NumPy kernels of the CPU backend: the names every backend's `kernels` must have."""

from numpy import add

from .conv import conv, conv_transpose, conv_weight_grad
from .erf import erf
from .norm import normalize, normalize_backward

add_at = add.at  # x[index] += y, with entries that come up twice counted twice

__all__ = ["add_at", "conv", "conv_transpose", "conv_weight_grad", "erf", "normalize", "normalize_backward"]

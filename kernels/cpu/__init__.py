"""NumPy kernels of the CPU backend: the names every backend's `kernels` must have."""

from numpy import add

from .conv import Kept, conv, conv_transpose, conv_weight_grad
from .elementwise import add_bias, add_bias_backward, leaky_relu, leaky_relu_backward, scale_shift
from .erf import erf
from .norm import normalize, normalize_backward
from .optim import adagrad_step, adam_step, rmsprop_step, sgd_step
from .products import einsum, matmul, matmuls

add_at = add.at  # x[index] += y, with entries that come up twice counted twice

__all__ = [
    "Kept", "adagrad_step", "adam_step", "add_at", "add_bias", "add_bias_backward", "conv", "conv_transpose",
    "conv_weight_grad", "einsum", "erf", "leaky_relu", "leaky_relu_backward", "matmul", "matmuls", "normalize",
    "normalize_backward", "rmsprop_step", "scale_shift", "sgd_step",
]  # fmt: skip

"""NumPy kernels of the CPU backend: the names every backend's `kernels` must have."""

from operator import setitem

from numpy import add, floor_divide

from .conv import Kept, conv, conv_transpose, conv_weight_grad
from .elementwise import add_bias, add_bias_backward, leaky_relu, leaky_relu_backward, scale_shift
from .erf import erf
from .loss import bce_with_logits, bce_with_logits_backward
from .norm import normalize, normalize_backward, update_running
from .optim import adagrad_step, adam_step, rmsprop_step, sgd_step
from .products import einsum, matmul, matmuls

add_at = add.at  # x[index] += y, with entries that come up twice counted twice
put_at = setitem  # x[index] = y; where an entry comes up twice, the last one counts

__all__ = [
    "Kept", "adagrad_step", "adam_step", "add_at", "add_bias", "add_bias_backward", "bce_with_logits",
    "bce_with_logits_backward", "conv", "conv_transpose", "conv_weight_grad", "einsum", "erf", "floor_divide",
    "leaky_relu", "leaky_relu_backward", "matmul", "matmuls", "normalize", "normalize_backward", "put_at",
    "rmsprop_step", "scale_shift", "sgd_step", "update_running",
]  # fmt: skip

"""NumPy kernels of the CPU backend: the names every backend's `kernels` must have."""

from numpy import floor_divide

from .conv import Kept, conv, conv_transpose, conv_weight_grad
from .elementwise import add_bias, add_bias_backward, leaky_relu, leaky_relu_backward, scale_shift
from .erf import erf
from .index import add_at, add_rows, put_at, take_rows
from .loss import bce_with_logits, bce_with_logits_backward
from .norm import normalize, normalize_backward, update_running
from .optim import adagrad_step, adam_step, rmsprop_step, sgd_step
from .products import einsum, matmul, matmuls

__all__ = [
    "Kept", "adagrad_step", "adam_step", "add_at", "add_bias", "add_bias_backward", "add_rows", "bce_with_logits",
    "bce_with_logits_backward", "conv", "conv_transpose", "conv_weight_grad", "einsum", "erf", "floor_divide",
    "leaky_relu", "leaky_relu_backward", "matmul", "matmuls", "normalize", "normalize_backward", "put_at",
    "rmsprop_step", "scale_shift", "sgd_step", "take_rows", "update_running",
]  # fmt: skip

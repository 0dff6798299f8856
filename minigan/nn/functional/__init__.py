"""The functions behind the layers, under PyTorch's names: `import minigan.nn.functional as F`."""

from minigan.nn.functional.activation import (
    elu,
    gelu,
    glu,
    gumbel_softmax,
    hardtanh,
    leaky_relu,
    log_softmax,
    logsigmoid,
    maxout,
    prelu,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from minigan.nn.functional.conv import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from minigan.nn.functional.dropout import dropout, dropout2d
from minigan.nn.functional.linear import (
    bilinear,
    cosine_similarity,
    embedding,
    gru_cell,
    linear,
    lstm_cell,
    normalize,
    one_hot,
)
from minigan.nn.functional.loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    hinge_embedding_loss,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from minigan.nn.functional.norm import batch_norm, group_norm, instance_norm, layer_norm
from minigan.nn.functional.pooling import (
    adaptive_avg_pool2d,
    avg_pool1d,
    avg_pool2d,
    interpolate,
    max_pool2d,
    pixel_shuffle,
    pixel_unshuffle,
    upsample,
)
from minigan.ops.padding import pad

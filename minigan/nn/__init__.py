"""Neural networks: modules, layers, losses, initialisation.

>>> import minigan as mg
>>> from minigan import nn
>>> net = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
>>> net(mg.zeros(5, 2)).shape
(5, 1)
"""

from minigan.nn import functional, init, parallel, utils
from minigan.nn.containers import ModuleDict, ModuleList, ParameterDict, ParameterList, Sequential
from minigan.nn.module import Module
from minigan.nn.modules.activation import (
    ELU,
    GELU,
    GLU,
    SELU,
    Hardtanh,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from minigan.nn.modules.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from minigan.nn.modules.dropout import Dropout, Dropout2d
from minigan.nn.modules.linear import Bilinear, Embedding, GRUCell, Identity, Linear, LSTMCell, Maxout
from minigan.nn.modules.loss import (
    BCELoss,
    BCEWithLogitsLoss,
    CosineSimilarity,
    CrossEntropyLoss,
    HingeEmbeddingLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    MSELoss,
    NLLLoss,
    SmoothL1Loss,
)
from minigan.nn.modules.norm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    LayerNorm,
)
from minigan.nn.modules.pooling import (
    AdaptiveAvgPool2d,
    AvgPool1d,
    AvgPool2d,
    MaxPool2d,
    Upsample,
    UpsamplingBilinear2d,
    UpsamplingNearest2d,
)
from minigan.nn.modules.shape import (
    ConstantPad2d,
    Flatten,
    PixelShuffle,
    PixelUnshuffle,
    ReflectionPad1d,
    ReflectionPad2d,
    ReplicationPad2d,
    Unflatten,
    ZeroPad2d,
)
from minigan.nn.parallel import DataParallel
from minigan.nn.parameter import Parameter

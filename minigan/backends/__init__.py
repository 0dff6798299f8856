"""PyTorch's switches for cuDNN, which public scripts set. They are accepted and change nothing.

The backends of minigan itself are in `minigan.backend`.
"""

from minigan.backends import cudnn

__all__ = ["cudnn"]

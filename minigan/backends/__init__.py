"""PyTorch's switches for cuDNN, and its question after MPS, as public scripts have them. They change nothing.

The backends of minigan itself are in `minigan.backend`.
"""

from minigan.backends import cudnn, mps

__all__ = ["cudnn", "mps"]

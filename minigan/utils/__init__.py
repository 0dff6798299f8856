"""PyTorch's name for `minigan.data`: `from minigan.utils.data import DataLoader`."""

from minigan.utils import data

__all__ = ["data"]

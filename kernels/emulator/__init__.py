"""CUDA kernels on a CPU: the same `.cu` files, compiled by g++, with one fibre for each CUDA thread.

`run` launches one kernel on NumPy arrays and counts what it did; wrong kernels raise an EmulatorError that says where.
"""

from .build import EmulatorError
from .device import EmulatedDevice
from .run import Counts, run

__all__ = ["Counts", "EmulatedDevice", "EmulatorError", "run"]

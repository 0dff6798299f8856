"""The operations: `elementwise`, `shape`, `index`, `reduce`, `linear`, `conv`, `norm`.

Each `Op` class holds a derivative beside its function; the lower-case functions are what people call.
"""

from minigan.ops import conv, elementwise, index, linear, norm, reduce, shape

__all__ = ["conv", "elementwise", "index", "linear", "norm", "reduce", "shape"]

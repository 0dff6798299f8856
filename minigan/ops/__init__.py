"""The operations. Each `Op` class holds a derivative beside its function; the lower-case functions are for calling.

- `arithmetic`, `smooth`, `piecewise`, `compare`: elementwise
- `memory`, `shape`, `padding`, `index`: the same values elsewhere
- `reduce`: sums, extremes, moments, softmax
- `linear`, `conv`, `norm`: products, convolutions, normalisation
"""

from minigan.ops import (
    arithmetic,
    compare,
    conv,
    index,
    linear,
    memory,
    norm,
    padding,
    piecewise,
    reduce,
    shape,
    smooth,
)

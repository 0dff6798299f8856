"""PyTorch's names for orders in memory, as accepted by `contiguous`, `is_contiguous` and `to`."""

from enum import StrEnum


class memory_format(StrEnum):
    """An order in memory.

    >>> print(channels_last)
    channels_last
    """

    channels_last = "channels_last"
    contiguous_format = "contiguous_format"
    preserve_format = "preserve_format"


channels_last = memory_format.channels_last
contiguous_format = memory_format.contiguous_format
preserve_format = memory_format.preserve_format

"""How many threads NumPy's matrix products use."""

from functools import cache
from typing import Any


@cache
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController  # not at the top: it looks through all loaded libraries

    return ThreadpoolController().select(user_api="blas")


def set_num_threads(threads: int) -> None:
    """Have BLAS use so many threads from now on."""
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise RuntimeError(f"set_num_threads expects a positive integer, got {threads!r}")
    _blas().limit(limits=threads)


def get_num_threads() -> int:
    """How many threads BLAS uses.

    >>> get_num_threads() >= 1
    True
    """
    return max((library["num_threads"] for library in _blas().info()), default=1)

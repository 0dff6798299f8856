"""Checks for code built on minigan: of derivatives, adjoints and leaks. Nothing here needs a test framework.

`minigan.testing.strict` (imported by name) adds the device 'strict', on which a stray NumPy call fails.
"""

from minigan.testing.grads import check_adjoint, check_grads, check_vjp_fast
from minigan.testing.graphs import check_no_leaks, live_nodes, recorded_ops

__all__ = ["check_adjoint", "check_grads", "check_no_leaks", "check_vjp_fast", "live_nodes", "recorded_ops"]

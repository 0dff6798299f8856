"""Every operation there is has a derivative, a row in a table of tests, and parameters that hide nothing."""

import importlib
import inspect
import pkgutil

import pytest
from harness import all_rows

import minigan as mg
from minigan.graph import REGISTRY, Node, Op

for module in pkgutil.walk_packages(mg.__path__, "minigan."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

ROWS = all_rows()
THIRD_ORDER = ("Conv", "ConvTranspose", "ConvWeightGrad", "Linear", "Matmul", "Normalize", "Standardize")


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_each_op_has_a_row(name):
    """The rows name the ops they exercise, and `harness.check` asserts that those were indeed recorded."""
    orders = [row.order for row in ROWS if name in row.ops.split()]
    assert orders, f"{name} has no test: add a row that names it to a tests/test_ops_*.py"
    assert max(orders) >= (3 if name in THIRD_ORDER else 2)


def test_rows_name_ops_that_exist():
    assert {op for row in ROWS for op in row.ops.split()} <= set(REGISTRY)
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_each_op_has_a_vjp(name):
    assert REGISTRY[name].vjp is not Op.vjp


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_no_parameter_is_hidden_by_the_node(name):
    """An op reads its parameters as attributes of the node, where the node's own come first."""
    parameters = inspect.signature(REGISTRY[name].forward).parameters.values()
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY:
            assert not hasattr(Node, parameter.name)

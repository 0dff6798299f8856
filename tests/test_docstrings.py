"""Every example in a docstring of the installed package runs and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

import minigan as mg

MODULES = sorted(m.name for m in pkgutil.walk_packages(mg.__path__, "minigan.") if not m.name.endswith("__main__"))


@pytest.mark.skipif(mg.get_default_device().type != "cpu", reason="examples print tensors of the CPU")
@pytest.mark.parametrize("name", ["minigan", *MODULES])
def test_examples(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    found = sum(len(t.examples) for name in MODULES for t in finder.find(importlib.import_module(name)))
    assert found >= 20

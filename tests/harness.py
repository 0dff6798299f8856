"""All the checks of one operation, from one row of a table.

To test a new operation add a `Row` to the table of a test_ops file: its name, the ops it records, the function, the
same function written another way in NumPy, and a strategy for its arguments (from `strategies`).
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from strategies import Placed

import minigan as mg
from minigan.kernels.cpu import rows, workers
from minigan.testing import check_grads, check_vjp_fast, recorded_ops


@dataclass(frozen=True)
class Row:
    """One line of a table: everything `check` needs to know of an operation."""

    name: str
    ops: str  # names of the ops that must be recorded, separated by spaces
    function: Callable[..., Any]  # of tensors
    oracle: Callable[..., Any]  # the same of NumPy arrays, written another way
    cases: st.SearchStrategy  # of tuples of arguments: Placed ones, and others that are passed on
    order: int = 2  # of derivatives; 0 if there are none
    view: bool | None = False  # the result shares memory with the first argument; None: it may
    rtol: float = 1e-13  # of the forward pass in float64
    dtypes: tuple = (mg.float64, mg.float32)

    def __str__(self) -> str:
        return self.name


def check(row: Row, case: tuple, dtype: np.dtype) -> None:
    """Forward, memory, and derivatives of one row on one case."""
    placed = [arg.tensor(dtype) if isinstance(arg, Placed) else (arg, None) for arg in case]
    args = [arg for arg, _ in placed]
    memories = [memory for _, memory in placed if memory is not None]
    before = [host(memory) for memory in memories]
    xs = [arg.detach().requires_grad_(arg.is_floating_point()) if isinstance(arg, mg.Tensor) else arg for arg in args]

    result = row.function(*xs)
    check_forward(row, result, [a.as_dtype(dtype).astype(wide(a)) if isinstance(a, Placed) else a for a in case], dtype)
    outputs = several(result)
    check_aliasing(row, outputs, [x for x in xs if isinstance(x, mg.Tensor)])
    if row.order:
        recorded = recorded_ops(*outputs)
        assert set(row.ops.split()) <= recorded, f"{row.name}: expected {row.ops} in the graph, found {recorded}"
        check_grads(row.function, args, row.order, name=row.name)
        check_vjp_fast(row.function, args)
        check_backward(row, outputs, xs)
    for memory, old in zip(memories, before, strict=True):
        np.testing.assert_array_equal(host(memory), old, err_msg=f"{row.name} changed an input")


def check_forward(row: Row, result: Any, arrays: list, dtype: np.dtype) -> None:
    """Against the oracle, which computes in float64 whatever the dtype."""
    outputs, expected = several(result), several(row.oracle(*arrays))
    assert len(outputs) == len(expected), f"{row.name}: got {len(outputs)} results, expected {len(expected)}"
    for y, right in zip(outputs, map(np.asarray, expected), strict=True):
        assert tuple(y.shape) == right.shape, f"{row.name}: got shape {tuple(y.shape)}, expected {right.shape}"
        kind = dtype if right.dtype.kind == "f" else right.dtype
        assert y.dtype == kind, f"{row.name}: got dtype {y.dtype}, expected {kind}"
        rtol = row.rtol * (1 if dtype == mg.float64 else 2**29)  # their epsilons' ratio
        np.testing.assert_allclose(
            host(y), right, rtol=rtol, atol=rtol * np.abs(right).max(initial=1.0), equal_nan=False, err_msg=row.name
        )


def check_aliasing(row: Row, outputs: list, inputs: list) -> None:
    """Only a view shares memory, and then with its first argument, whose version it counts."""
    for y in outputs:
        for i, x in enumerate(inputs):
            shared = x.B.shares_memory(x.array, y.array)
            assert not shared or (i == 0 and row.view is not False), f"{row.name}: the result aliases input {i}"
            assert y is not x or row.view is None, f"{row.name}: the result is input {i} itself"
            assert not shared or y.version is x.version, f"{row.name}: a view must share its base's version"
        if row.view and y.array.size:
            assert inputs[0].B.shares_memory(inputs[0].array, y.array), f"{row.name}: expected a view"


def check_backward(row: Row, outputs: list, xs: list) -> None:
    """`backward` stores, and shows to hooks, gradients like the inputs, in arrays of the backend's type."""
    leaves = [x for x in xs if isinstance(x, mg.Tensor) and x.requires_grad]
    seen: list[mg.Tensor] = []
    for x in leaves:
        x.register_hook(seen.append)
    ys = [y for y in outputs if y.requires_grad]
    mg.autograd.backward(ys, [mg.ones_like(y) for y in ys])
    for g in (*seen, *(x.grad for x in leaves if x.grad is not None)):
        assert isinstance(g.array, g.B.array_type), f"{row.name}: a gradient is a bare {type(g.array).__name__}"
    for x in leaves:
        assert x.grad is None or (x.grad.shape, x.grad.dtype) == (x.shape, x.dtype)


def channels_last(x: mg.Tensor) -> mg.Tensor:
    """An image with its channels last in memory, as convolutions hand them on; others as they are."""
    if x.ndim < 3:
        return x
    order = (0, *range(2, x.ndim), 1)
    return x.permute(*order).contiguous().permute(0, x.ndim - 1, *range(1, x.ndim - 1))


@contextlib.contextmanager
def small_pieces() -> Iterator[None]:
    """Small arrays too are cut into pieces for the workers."""
    before = rows.WHOLE, rows.PIECE, rows.FEW, workers.ALONE
    rows.WHOLE, rows.PIECE, rows.FEW, workers.ALONE = 1, 192, 1, 1
    try:
        yield
    finally:
        rows.WHOLE, rows.PIECE, rows.FEW, workers.ALONE = before
        rows._rows.cache_clear()


def several(result: Any) -> list:
    return list(result) if isinstance(result, (tuple, list)) else [result]


def host(x: mg.Tensor) -> np.ndarray:
    """The values, not sharing memory with x."""
    return np.array(x.detach().cpu().numpy())


def wide(arg: Placed) -> np.dtype:
    return np.dtype(np.float64) if arg.values.dtype.kind == "f" else arg.values.dtype


def elementwise(function: Callable[..., float]) -> Callable[..., np.ndarray]:
    """An oracle from a function of Python floats."""
    return np.vectorize(function, otypes=[np.float64])


def all_rows() -> list[Row]:
    """The rows of every test_ops file."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("test_ops_*.py"))
    return [row for name in names for row in importlib.import_module(name).ROWS]

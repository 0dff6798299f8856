"""Recording operations: `Op`, `Node` and `apply`.

An `Op` has `forward` on raw arrays and `vjp` (the vector-Jacobian product) in Tensor operations.
Running `vjp` with recording on gives the graph of the gradient, so every order of derivative comes from
one definition. A hot op may add `vjp_fast` on raw arrays, used when no such graph is wanted.

A `Node` is one recorded call. It points to the nodes its inputs came from (never the other way), so
there are no reference cycles, and nodes are numbered as they are made, so that a backward sweep in
falling order visits every node after all of its uses. The sweep is in `minigan.autograd`, the operations
themselves are in `minigan.ops`, in-place changes in `minigan.inplace`.
"""

from __future__ import annotations

import itertools
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minigan.backend import Array, Backend
from minigan.grad_mode import mode
from minigan.observe import observers

if TYPE_CHECKING:
    from minigan.tensor import Tensor

REGISTRY: dict[str, type[Op]] = {}
recording_order = itertools.count()  # numbers the nodes as they are made


class Op:
    """One differentiable operation. Subclasses register themselves under their name.

    The first output is differentiable; any further ones (an index, a statistic) are constants.
    """

    view = False  # the output may share memory with input 0
    quiet = False  # infinities and NaN are legitimate results (log 0, 1 / 0): no NumPy warnings
    moves = False  # the output is on another backend than the inputs
    vjp_fast: Callable[..., Any] | None = None

    def __init_subclass__(cls) -> None:
        if cls.__module__.startswith("minigan."):
            REGISTRY[cls.__name__] = cls

    @staticmethod
    def forward(ctx: Any, B: Backend, *arrays: Any, **params: Any) -> Any:
        """Compute the output array (or a tuple of them). `ctx` may save inputs and the output."""
        raise NotImplementedError

    @staticmethod
    def vjp(ctx: Any, gy: Tensor) -> Any:
        """The gradient of each input, in Tensor operations; None for an input that needs none."""
        raise NotImplementedError


class Version:
    """Counts the changes made in place to one piece of memory; shared by all tensors that view it."""

    count = 0  # every change
    recorded = 0  # the changes that were recorded in the graph
    by = ""  # what made the last one


class _Changed(threading.local):
    versions: weakref.WeakSet[Version] | None = None


changed = _Changed()  # of all memory that this thread changes while it captures a step


class Node:
    """One recorded call of an op, and the `ctx` its `forward` and `vjp` get.

    It has no room for arrays of the op's choosing: only inputs and the output can be saved (by
    `save_inputs` and `save_output`), because an intermediate saved as a constant makes second
    derivatives silently wrong. The op's keyword parameters are readable as attributes. What `vjp_fast`
    wants besides goes into `cache`, which `vjp` cannot read.
    """

    __slots__ = (
        "B", "__weakref__", "_cache", "_inputs", "_reading", "freed", "hooks", "needs",
        "op", "order", "params", "parents", "retained", "saved_inputs", "saved_output", "shapes", "where",
    )  # fmt: skip

    def __init__(self, op: type[Op], B: Backend, inputs: tuple, parents: list, arrays: list, params: dict):
        self.op = op
        self.B = B
        self.params = params
        self.parents = parents  # per input: the Node it came from, the leaf Tensor itself, or None
        self.needs = [parent is not None for parent in parents]
        self.shapes = [getattr(array, "shape", ()) for array in arrays]
        self.order = next(recording_order)
        self.freed = False
        self.saved_output: Any = None
        self.hooks: dict[int, Callable] | None = None
        self._inputs: Any = inputs
        self.saved_inputs: Any = None
        self._cache: Any = None
        self._reading = True
        self.retained: Any = None  # a weak reference to the tensor that asked for its gradient
        self.where: Any = None  # under detect_anomaly, the stack of the forward call

    def __getattr__(self, name: str) -> Any:
        # Only called for names that are no slot (or an empty one): the op's parameters.
        try:
            return object.__getattribute__(self, "params")[name]
        except KeyError:
            raise AttributeError(f"{self.op.__name__}: no parameter or saved value named {name!r}") from None

    def __repr__(self) -> str:
        return f"<{self.op.__name__} node>"

    def name(self) -> str:
        """The operation's name."""
        return self.op.__name__

    # What forward may keep -----------------------------------------------------------------------

    def save_inputs(self, *wanted: bool) -> None:
        """Keep those inputs for `vjp`. An input that is a Python number is always kept."""
        saved: list[Any] = []
        for tensor, keep in zip(self._inputs, wanted, strict=True):
            if not isinstance(tensor, tensor_type):
                saved.append(tensor)
            else:
                saved.append((tensor.array, tensor.version, tensor.version.count) if keep else None)
        self.saved_inputs = saved

    def save_output(self) -> None:
        """Keep the (first) output for `vjp`."""
        self.saved_output = True  # replaced by the array once it exists

    @property
    def cache(self) -> Any:
        """Arrays that only `vjp_fast` may read: saved statistics, transformed inputs."""
        if self._reading:
            raise RuntimeError(f"{self.op.__name__}.vjp may not read the cache: it holds constants")
        return self._cache

    @cache.setter
    def cache(self, value: Any) -> None:
        self._cache = value

    # What vjp and vjp_fast may read ----------------------------------------------------------------

    @property
    def inputs(self) -> list:
        """The saved inputs as Tensors that belong to the graph; None where not saved."""
        return [self._input(i) for i in range(len(self.parents))]

    def _input(self, i: int) -> Any:
        record = self.saved_inputs[i]
        if type(record) is not tuple:
            return record
        array, origin = self._array(i), self.parents[i]
        return wrap(array, self.B, origin, record[1]) if origin is None or type(origin) is Node else origin

    def _array(self, i: int) -> Any:
        record = self.saved_inputs[i]
        if type(record) is not tuple:
            return record
        array, version, count = record
        if version.count != count:
            raise _changed(self, f"input {i}", array, version, count)
        origin = self.parents[i]
        if origin is not None and type(origin) is not Node and origin.array is not array:
            raise RuntimeError(
                f"{self.op.__name__}: input {i}, of shape {tuple(array.shape)}, is needed for its gradient but was "
                "given other values by assignment to .data; call backward before that"
            )
        return array

    @property
    def output(self) -> Tensor:
        """The saved output, as a Tensor that belongs to the graph."""
        array = self.output_array
        return wrap(array, self.B, self, self.saved_output[1])

    @property
    def input_arrays(self) -> list:
        """The saved inputs as raw arrays, for `vjp_fast`."""
        return [self._array(i) for i in range(len(self.parents))]

    @property
    def output_array(self) -> Array:
        """The saved output as a raw array, for `vjp_fast`."""
        array, version, count = self.saved_output
        if version.count != count:
            raise _changed(self, "the output", array, version, count)
        return array

    def release(self) -> None:
        """Drop everything saved: after this node's part of a sweep that does not retain the graph.

        The parents stay, so that a later sweep can tell whether it needs what was dropped.
        """
        self.freed = True
        self.saved_inputs = self.saved_output = self._cache = None


class _NoContext:
    """The `ctx` of a call that is not recorded: saves nothing."""

    needs: Sequence[bool] = (False,) * 16
    cache: Any = property(lambda self: None, lambda self, value: None)

    def save_inputs(self, *wanted: bool) -> None:
        pass

    def save_output(self) -> None:
        pass


_NO_CONTEXT = _NoContext()
tensor_type: Any = None  # set by minigan.tensor, which stands above this file


def wrap(array: Array, B: Backend, node: Node | None, version: Version | None = None) -> Tensor:
    """A Tensor around an array that is already on its backend."""
    tensor = _new(tensor_type)
    tensor.array = array
    tensor.B = B
    tensor.node = node
    tensor.tracked = node is not None
    tensor.version = Version() if version is None else version
    tensor.base = tensor._grad = tensor.hooks = None
    return tensor


_new = object.__new__


def plain_result(function: str, inputs: tuple, array: Array, B: Backend, **params: Any) -> Tensor:
    """The tensor that a function with nothing to differentiate gives: its array, out of any graph."""
    result = wrap(B.xp.asarray(array), B, None)
    for observer in observers:
        observer.computed(function, inputs, params, result)
    return result


def apply(op: type[Op], *inputs: Any, **params: Any) -> Any:
    """Run an op on Tensors (and Python numbers), and record it if a gradient may be wanted.

    `params` are plain Python values. Returns a Tensor, or a tuple of them if the op has several outputs.
    """
    began = time.perf_counter() if observers else 0.0
    B: Any = None
    arrays: list[Any] = []
    parents: list[Any] = []
    recorded = False
    for tensor in inputs:
        if isinstance(tensor, tensor_type):
            if tensor.base is not None and tensor.seen != tensor.version.recorded:
                tensor._fresh()
            arrays.append(tensor.array)
            if tensor.B is not B:
                if B is not None:
                    raise _mixed_devices(op, inputs)
                B = tensor.B
            if tensor.node is not None:
                parents.append(tensor.node)
                recorded = True
            elif tensor.tracked:
                parents.append(tensor)
                recorded = True
            else:
                parents.append(None)
        else:
            arrays.append(tensor)
            parents.append(None)
    if B is None:
        raise TypeError(f"{op.__name__}: expected a Tensor, got {', '.join(type(value).__name__ for value in inputs)}")
    node = Node(op, B, inputs, parents, arrays, params) if recorded and mode.enabled else None
    try:
        if op.quiet:
            with np.errstate(all="ignore"):
                out = op.forward(node or _NO_CONTEXT, B, *arrays, **params)
        else:
            out = op.forward(node or _NO_CONTEXT, B, *arrays, **params)
    except (ValueError, TypeError, NotImplementedError, OverflowError) as error:
        raise _failed(op, inputs, error) from error
    rest = None
    if type(out) is tuple:
        out, *rest = out
    if not isinstance(out, B.array_type) and not op.moves:
        out = B.xp.asarray(out)  # array modules turn 0-d results into scalars
    result = wrap(out, B, node)
    if node is not None:
        node._inputs = None
        if node.saved_output is not None:
            node.saved_output = (out, result.version, 0)
        if mode.anomaly:
            node.where = traceback.extract_stack()[:-1]
    if op.view and B.shares_memory(out, arrays[0]):
        base = inputs[0]
        result.base = base
        result.version = base.version
        result.seen = base.version.recorded
        result.made_by = (op, inputs[1:], params)
    for observer in observers:
        observer.operation(op, inputs, params, result, began)
    if rest is None:
        return result
    return (result, *(wrap(extra, B, None) for extra in rest))


def retain(tensor: Tensor) -> None:
    """Have a sweep store the gradient of a non-leaf in its `.grad`."""
    assert tensor.node is not None
    tensor.node.retained = weakref.ref(tensor)  # weak: the tensor holds the node


def place(tensor: Tensor, node: Node | None) -> None:
    """Make a tensor stand for another node, to which `retain_grad` moves with it."""
    old = tensor.node
    if old is not None and old.retained is not None and old.retained() is tensor:
        old.retained = None
        if node is not None:
            node.retained = weakref.ref(tensor)
    tensor.node = node
    tensor.tracked = node is not None


def hook_handle(owner: Any, hook: Callable) -> RemovableHandle:
    """Register a gradient hook on a node or leaf."""
    if owner.hooks is None:
        owner.hooks = {}
    return RemovableHandle(owner.hooks, hook)


class RemovableHandle:
    """What registering a hook returns: `remove()` takes the hook away, as does leaving a `with` block."""

    _ids = itertools.count()

    def __init__(self, hooks: dict[int, Callable], hook: Callable) -> None:
        self.id = next(self._ids)
        self._hooks = hooks
        hooks[self.id] = hook

    def remove(self) -> None:
        """Take the hook away; doing so twice is harmless."""
        self._hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


# Errors --------------------------------------------------------------------------------------------


def _changed(node: Node, what: str, array: Array, version: Version, count: int) -> RuntimeError:
    return RuntimeError(
        f"{node.op.__name__}: {what}, of shape {tuple(array.shape)}, is needed for its gradient but was modified by an "
        f"inplace operation: it is at version {version.count}, expected {count}; last changed by {version.by}. "
        "Use the operation that makes a new tensor instead, change a .clone(), or call backward before the change"
    )


def _mixed_devices(op: type[Op], inputs: tuple) -> RuntimeError:
    where = [str(t.device) for t in inputs if isinstance(t, tensor_type)]
    return RuntimeError(
        f"{op.__name__}: expected all tensors on one device, got {' and '.join(dict.fromkeys(where))}; "
        f"move them with .to({where[0]!r})"
    )


def _failed(op: type[Op], inputs: tuple, error: Exception) -> RuntimeError:
    given = ", ".join(f"{tuple(t.shape)} {t.dtype}" if isinstance(t, tensor_type) else repr(t) for t in inputs)
    return RuntimeError(f"{op.__name__} of {given}: {error}")

"""Tracing: what operations a function applies to its inputs, for any batch size.

The function runs twice, on 2 and on 3 samples of other values. Each run is a list of the operations that depend on
the inputs; the two lists are laid on each other. A size that is 2·k in one and 3·k in the other is k times the batch;
everything else must agree, or it was computed from the inputs or the batch size outside of the operations, and an
error names the operation, the layer and the line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigan.export.graph import OnnxError
from minigan.grad_mode import no_grad
from minigan.kernels.geometry import ConvGeometry
from minigan.nn import Module
from minigan.observe import Observer
from minigan.tensor import Tensor

BATCHES = (2, 3)
_SAME = ("Clone", "Move")  # give the values that they were given


class ExportError(OnnxError):
    """A generator that cannot be written as an ONNX file; the message says which operation is at fault, and where."""


@dataclass(frozen=True)
class Batch:
    """A size that is so many times the number of samples."""

    times: int


Dim = int | Batch


@dataclass(frozen=True)
class Traced:
    """A value that depends on the inputs: the number under which it is known."""

    number: int


@dataclass(frozen=True, eq=False)
class Constant:
    """An array that does not depend on the inputs.

    `name`: in the state dict; of the array itself, if its values are `exact`ly those, or of what it was made from.
    `repeated`: the axis along which it repeats its first entry for every sample, with the size of that axis.
    """

    array: np.ndarray
    name: str | None = None
    exact: bool = True
    repeated: tuple[int, Batch] | None = None


@dataclass(frozen=True)
class Drawn:
    """Random numbers; where they were drawn."""

    place: str


Argument = Any  # Traced, Constant, Drawn, a Python number, or None


@dataclass(frozen=True, eq=False)
class Call:
    """One operation: its name, arguments, parameters, and the shape, dtype and number of what it gave."""

    op: str
    inputs: tuple[Argument, ...]
    params: dict[str, Any]
    shape: tuple[Dim, ...]
    dtype: np.dtype
    number: int
    path: str  # of the module it was called in
    place: str  # the same in words, with the line of code


@dataclass(frozen=True)
class Trace:
    """The calls on which the output depends, in order, the shape of each traced value, and the numbers of both ends."""

    calls: list[Call]
    shapes: dict[int, tuple[Dim, ...]]
    dtypes: dict[int, np.dtype]
    inputs: list[int]
    output: int


def trace(function: Callable[..., Tensor], make: Callable[[int], Sequence[Tensor]], module: Module) -> Trace:
    """The operations of `function(*make(n))`, whose constants are named after the state dict of `module`."""
    few, more = (_run(function, make(n), module) for n in BATCHES)
    for a, b in zip(few.calls, more.calls, strict=False):
        if (a.op, a.path) != (b.op, b.path) or [type(x) for x in a.inputs] != [type(x) for x in b.inputs]:
            raise ExportError(f"{a.place}: with 2 samples it applies {a.op} here, with 3 {b.op} ({b.place})")
    if len(few.calls) != len(more.calls):
        last = (few.calls if len(few.calls) > len(more.calls) else more.calls)[min(len(few.calls), len(more.calls))]
        raise ExportError(f"{last.place}: it applies {len(few.calls)} operations to 2 samples, {len(more.calls)} to 3")
    if few.output != more.output:
        raise ExportError("with 3 samples it returns another of its values than with 2")
    shapes = {i: _merged_shape(few.shapes[i], more.shapes[i], "") for i in few.inputs}
    calls = [_merged_call(a, b) for a, b in _live(list(zip(few.calls, more.calls, strict=True)), few.output)]
    shapes |= {call.number: call.shape for call in calls}
    return Trace(calls, shapes, few.dtypes, few.inputs, few.output)


def _live(calls: list[tuple[Call, Call]], output: int) -> list[tuple[Call, Call]]:
    """The calls on which the output depends; others (a check of an index's range) leave no mark in a file."""
    wanted, found = {output}, []
    for pair in reversed(calls):
        if pair[0].number in wanted:
            wanted.update(argument.number for argument in pair[0].inputs if isinstance(argument, Traced))
            found.append(pair)
    return found[::-1]


# One run ------------------------------------------------------------------------------------------------


def _run(function: Callable[..., Tensor], inputs: Sequence[Tensor], module: Module) -> Trace:
    recorder = Recorder(module)
    numbers = [recorder.know(x.array, x) for x in inputs]
    with recorder, no_grad(), np.errstate(all="ignore"):
        result = function(*inputs)
    recorder.ended = True
    if not isinstance(result, Tensor):
        raise ExportError(f"expected a generator that returns one Tensor, got {type(result).__name__}")
    output = recorder.find(result)
    if not isinstance(output, Traced):
        raise ExportError("what the generator returns does not come from its inputs by operations of minigan")
    return Trace(recorder.calls, recorder.shapes, recorder.dtypes, numbers, output.number)


class Recorder(Observer):
    """Writes down the operations whose inputs depend on those made known. Arrays, not tensors, are followed."""

    def __init__(self, module: Module) -> None:
        self.calls: list[Call] = []
        self.shapes: dict[int, tuple[Dim, ...]] = {}
        self.dtypes: dict[int, np.dtype] = {}
        self._known: dict[int, tuple[int, Any, Any, int]] = {}  # id of an array: number, array, its version, the count
        self._kept: list[Any] = []  # so that no other array gets the id of one that was let go
        self._written: dict[int, Any] = {}  # versions of memory that holds values which depend on the inputs
        self._drawn: dict[int, str] = {}  # id of an array of random numbers: where it was drawn
        tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        # id of an array: its name (of a shared one, the first), and whether it has the values of that name
        self._names: dict[int, tuple[str | None, bool]] = {
            id(tensor.array): (name, True) for name, tensor in reversed(tensors)
        }
        self._paths = {module: path for path, module in module.named_modules()}
        self._inside: list[Module] = []
        self.ended = False

    def know(self, array: Any, tensor: Tensor) -> int:
        """A new value; returns its number."""
        number = len(self.shapes)
        self.shapes[number], self.dtypes[number] = array.shape, array.dtype
        self._known[id(array)] = (number, array, tensor.version, tensor.version.count)
        return number

    def find(self, tensor: Any) -> Argument:
        """What a tensor (or number) stands for."""
        if not isinstance(tensor, Tensor):
            return tensor
        array = tensor.array
        number, _, version, count = self._known.get(id(array), (None, None, tensor.version, 0))
        if number is not None and version.count == count:
            return Traced(number)
        if number is not None or id(version) in self._written:
            raise ExportError(
                f"{self._place()}: a tensor that was changed in place ({version.by}) through another view of its "
                "memory, which cannot be traced; use operations that make new tensors (cat, where, scatter)"
            )
        self._kept.append(array)
        if id(array) in self._drawn:
            return Drawn(self._drawn[id(array)])
        host = tensor.B.to_numpy(array)
        if id(array) in self._names:
            return Constant(host, *self._names[id(array)])
        return Constant(np.array(host))  # a copy: what is no weight may yet be written over

    # What the engine reports ----------------------------------------------------------------------------

    def operation(self, op: type, inputs: Any, params: Any, result: Tensor, began: float) -> None:
        self._record(op.__name__, inputs, params, result)

    def computed(self, function: str, inputs: Any, params: Any, result: Tensor) -> None:
        self._record(function, inputs, params, result)

    def assigned(self, target: Tensor, value: Tensor) -> None:
        found = self.find(value)
        if id(target.array) in self._names:
            name = self._names[id(target.array)][0]
            raise ExportError(f"{self._place()}: writes over {name} in place: the weights of a file do not change")
        self._kept.append(target)
        self._known.pop(id(target.array), None)
        self._drawn.pop(id(target.array), None)
        if isinstance(found, Traced):
            self._known[id(target.array)] = (found.number, target.array, target.version, target.version.count)
            self._written[id(target.version)] = target.version
        elif isinstance(found, Drawn):
            self._drawn[id(target.array)] = found.place

    def drawn(self, tensor: Tensor) -> None:
        self._kept.append(tensor.array)
        self._drawn[id(tensor.array)] = self._place()

    def enters(self, module: Module) -> None:
        self._inside.append(module)

    def leaves(self, module: Module, inputs: Any, output: Any) -> None:
        self._inside.pop()

    def _record(self, op: str, inputs: Sequence[Any], params: Any, result: Tensor) -> None:
        arguments = tuple(map(self.find, inputs))
        drawn = next((argument.place for argument in arguments if isinstance(argument, Drawn)), None)
        if drawn is not None and any(isinstance(argument, Traced) for argument in arguments):
            raise ExportError(
                f"{drawn}: draws random numbers, which would be the same ones in every run of a file; take them from z"
            )
        if drawn is not None:
            self._kept.append(result.array)
            self._drawn[id(result.array)] = drawn
            return
        if not any(isinstance(argument, Traced) for argument in arguments):
            named = [a for a in arguments if isinstance(a, Constant) and a.name is not None]
            if named:
                self._kept.append(result.array)
                same = op == "Reshape" or op in _SAME
                self._names[id(result.array)] = (named[0].name, named[0].exact and same)
            return
        if op in _SAME:
            self._known[id(result.array)] = (arguments[0].number, result.array, result.version, result.version.count)
            return
        place = self._place()
        number = self.know(result.array, result)
        path = self._paths.get(self._inside[-1], "") if self._inside else ""
        call = Call(op, arguments, dict(params), result.array.shape, result.array.dtype, number, path, place)
        self.calls.append(call)

    def _place(self) -> str:
        """`3 (ConvTranspose2d), generator.py:17`"""
        if self.ended:
            return "what the generator returns"
        where = ""
        if self._inside:
            module = self._inside[-1]
            where = f"{self._paths.get(module) or 'the generator'} ({type(module).__name__}), "
        frame: Any = sys._getframe(1)
        while frame is not None:  # the code that called the engine: the first that is not its own
            name = frame.f_globals.get("__name__", "")
            if not name.startswith("minigan.") or name.startswith("minigan.gan.recipes"):
                break
            frame = frame.f_back
        if frame is None or frame.f_globals.get("__name__", "").startswith("minigan"):
            return where.removesuffix(", ")
        return f"{where}{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"


# Two runs laid on each other ----------------------------------------------------------------------------


def _merged_call(a: Call, b: Call) -> Call:
    inputs = tuple(_merged_input(x, y, a) for x, y in zip(a.inputs, b.inputs, strict=True))
    params = {name: _merged(a.params[name], b.params[name], f"{a.place}: {name} of {a.op}") for name in a.params}
    return Call(a.op, inputs, params, _merged_shape(a.shape, b.shape, a.place), a.dtype, a.number, a.path, a.place)


def _merged_shape(a: tuple, b: tuple, place: str) -> tuple[Dim, ...]:
    return _merged(a, b, f"{place}: the shape of what it gives")


def _merged(a: Any, b: Any, what: str) -> Any:
    """A parameter seen with 2 and with 3 samples."""
    if type(a) is type(b):
        if isinstance(a, (tuple, list)) and len(a) == len(b):
            return type(a)(_merged(x, y, what) for x, y in zip(a, b, strict=True))
        if isinstance(a, slice):
            return slice(*(_merged(x, y, what) for x, y in zip(_ends(a), _ends(b), strict=True)))
        if a == b:
            return a
        if type(a) is int and a % 2 == 0 and 3 * a == 2 * b:
            return Batch(a // 2)
        if isinstance(a, ConvGeometry):
            a, b = f"{a.groups} groups", f"{b.groups} groups: scale what goes in and comes out instead of the weights"
    raise ExportError(f"{what} depends on the number of samples in a way that cannot be written: {a} for 2, {b} for 3")


def _ends(s: slice) -> tuple:
    return s.start, s.stop, s.step


def _merged_input(a: Argument, b: Argument, call: Call) -> Argument:
    if isinstance(a, Traced):
        if a != b:
            raise ExportError(f"{call.place}: {call.op} takes another value with 3 samples than with 2")
        return a
    if not isinstance(a, Constant):
        if a != b:
            raise ExportError(f"{call.place}: a number that {call.op} takes is {a} for 2 samples and {b} for 3")
        return a
    if a.array.shape == b.array.shape and a.array.dtype == b.array.dtype:
        if np.array_equal(a.array, b.array, equal_nan=a.array.dtype.kind == "f"):
            return a
    elif (axis := _repeated(a.array, b.array)) is not None:
        first = a.array.take([0], axis)
        return Constant(first, a.name, a.exact, (axis, Batch(a.array.shape[axis] // 2)))
    return Baked(a.array, b.array, call.place)


@dataclass(frozen=True, eq=False)
class Baked:
    """An array that is another with 3 samples than with 2, though no traced operation made it so."""

    few: np.ndarray
    more: np.ndarray
    place: str

    def error(self, op: str) -> ExportError:
        """What to say where a form cannot do without its values."""
        few, more = (f"{tuple(x.shape)} {x.dtype}" for x in (self.few, self.more))
        return ExportError(
            f"{self.place}: {op} takes a tensor that depends on the inputs or on the batch size, but was not made by "
            f"operations that can be traced (for 2 samples {few}, for 3 {more})"
        )


def _repeated(a: np.ndarray, b: np.ndarray) -> int | None:
    """The axis along which two arrays say the same for each sample, if there is one."""
    if a.ndim != b.ndim or a.dtype != b.dtype:
        return None
    differ = [d for d in range(a.ndim) if a.shape[d] != b.shape[d]]
    if len(differ) != 1 or 3 * a.shape[differ[0]] != 2 * b.shape[differ[0]] or a.size == 0:
        return None
    first = a.take([0], differ[0])
    same = (a == first).all() and (b == first).all()
    return differ[0] if same else None

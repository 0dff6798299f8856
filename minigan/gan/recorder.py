"""What happens in a few training steps, written down for the doctor: which network saw what, and who moved whom.

Every array that is met gets a `Trace`: where its values come from, carried from the inputs of each operation to its
result. The networks' calls, the backward sweeps and the optimisers' steps become `Call`, `Sweep` and `Step`, in
order. No judgement is made here; see `minigan.gan.doctor`.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import minigan
from minigan.gan.events import Call, LogitsLoss, Push, Sample, Slope, Squash, Step, Sweep, Trace
from minigan.nn import Module, Parameter
from minigan.nn.modules.dropout import Dropout
from minigan.nn.modules.norm import _BatchNorm
from minigan.observe import Observer
from minigan.tensor import Tensor

_PACKAGE = str(Path(minigan.__file__).parent)
_STEPS = 250  # of optimisers: WGAN's authors begin with 100 of D for each of G
_SMALL = 1 << 16  # values of an output that is kept: logits, not pictures
_SAME_VALUES = {
    "Reshape", "Permute", "Expand", "Slice", "Flip", "Cat", "Take", "Clone", "Cast", "Move", "Roll", "Diagonal",
}  # fmt: skip
_AFFINE = {"Add", "Sub", "Mul", "Div", "Neg", "Sum", "SumTo"}
_SQUASHING = {"Sigmoid", "Tanh"}
_FOR_LOGITS = {"BinaryCrossEntropyWithLogits", "LogSigmoid", "Softplus", "Sigmoid"}


class Record(Observer):
    """A few training steps as the engine saw them; `full` once every network was trained twice."""

    def __init__(
        self, G: Module | None = None, D: Module | None = None, then: Callable[[Record], None] | None = None
    ) -> None:
        self.G, self.D, self._then = G, D, then
        self.calls: list[Call] = []
        self.events: list[Sweep | Step] = []
        self.logits_losses: list[LogitsLoss] = []
        self.batches: dict[Module, tuple[np.ndarray, np.ndarray]] = {}  # last mean and variance that a BatchNorm saw
        self.parameters: dict[Module, list[tuple[str, Parameter, Any]]] = {}  # with their first values
        self.moved: set[Module] = set()
        self.full = self._ended = False
        self._traces: dict[int, tuple[Any, Trace]] = {}
        self._names: dict[Module, str] = {}
        self._inside: list[Module] = []
        self._outputs: weakref.WeakKeyDictionary[Any, tuple[Call, np.ndarray | None]] = weakref.WeakKeyDictionary()
        self._slopes: weakref.WeakKeyDictionary[Any, Slope] = weakref.WeakKeyDictionary()
        self._pushed: list[tuple[Call, np.ndarray | None, np.ndarray]] = []
        self._passed: set[Slope] = set()
        self._steps: Counter[int] = Counter()
        self._trained = {network for network in (G, D) if network is not None}  # or ought to be
        for network in self._trained:
            self._meet(network)

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self._end()

    def _end(self) -> None:
        """Once: see what has moved, and tell who waits for it."""
        if self._ended:
            return
        self._ended = True
        for network, parameters in self.parameters.items():
            if any(bool((p.array != first).any()) for _, p, first in parameters):
                self.moved.add(network)
        if self._then is not None:
            self._then(self)

    def name(self, network: Module) -> str:
        """G, D, or what the caller's code calls it."""
        return self._names.get(network, type(network).__name__)

    def layer(self, module: Module | None) -> str:
        """Where a layer is: `layer main.4 of D`."""
        for network in self.parameters:
            for path, candidate in network.named_modules():
                if candidate is module and path:
                    return f"layer {path} of {self.name(network)}"
                if candidate is module:
                    return f"forward of {self.name(network)}"
        return "outside of the networks"

    # Where values come from ---------------------------------------------------------------------------

    def trace(self, value: Any) -> Trace:
        """What is known of a tensor or number."""
        if not isinstance(value, Tensor):
            return Trace("constant")
        known = self._traces.get(id(value.array))
        if known is not None and known[0]() is value.array:
            return known[1]
        constant = isinstance(value, Parameter) or value.array.dtype.kind != "f" or _even(value.array)
        return self._note(value, Trace("constant" if constant else "data"))

    def _note(self, tensor: Tensor, trace: Trace) -> Trace:
        if not isinstance(tensor.array, np.generic):  # a number, such as the 0 of `zero_`, takes no weak reference
            self._traces[id(tensor.array)] = weakref.ref(tensor.array), trace
        return trace

    def operation(
        self, op: type, inputs: Sequence[Any], params: Mapping[str, Any], result: Any, began: float
    ) -> None:  # fmt: skip
        name = op.__name__
        traces = [self.trace(x) for x in inputs]
        squash, affine = self._squash(name, traces)
        for_logits = name in _FOR_LOGITS or (affine and _cuts_at_zero(name, params))
        if for_logits and not self._inside_network():
            given = (trace for trace in traces[:1] if trace.squash is not None and trace.squash.op == "Sigmoid")
            self.logits_losses += [LogitsLoss(trace, name, _where()) for trace in given]
        if name in _SQUASHING:
            squash, affine = Squash(name, self._inside[-1] if self._inside else None), False
        elif name not in _SAME_VALUES | _AFFINE:
            squash = None
        sizes = [x.numel() if isinstance(x, Tensor) else 0 for x in inputs]
        sources = {t.source for t, size in zip(traces, sizes, strict=True) if 2 * size >= result.numel() or t.calls}
        self._note(result, Trace(
            _source(sources, name, params),
            frozenset().union(*(t.calls for t in traces)),
            frozenset().union(*(t.slopes for t in traces)),
            squash, affine,
        ))  # fmt: skip

    def _squash(self, name: str, traces: list[Trace]) -> tuple[Squash | None, bool]:
        """The squashed input of an operation whose other inputs are squashed too, or constants."""
        found = [t for t in traces if t.squash is not None]
        if not found or any(t.squash is None and t.source != "constant" for t in traces):
            return None, False
        return found[0].squash, found[0].affine or name in _AFFINE

    def assigned(self, target: Any, value: Any) -> None:
        if target.array.size == value.array.size:
            self._note(target, self.trace(value))

    def drawn(self, tensor: Any) -> None:
        self._note(tensor, Trace("random", drawn=True))

    # Calls of networks --------------------------------------------------------------------------------

    def _inside_network(self) -> bool:
        return any(module in self.parameters for module in self._inside)

    def _is_part(self, parameters: set[int]) -> bool:
        """Whether a known network has all of these: a slice of it, or nothing."""
        known = ({id(p) for _, p, _ in table} for table in self.parameters.values())
        return not parameters or any(parameters <= table for table in known)

    def _meet(self, network: Module) -> None:
        self._names[network] = "G" if network is self.G else "D" if network is self.D else _name_of(network)
        self.parameters[network] = [(name, p, p.array.copy()) for name, p in network.named_parameters()]

    def enters(self, module: Any) -> None:
        looking = (self.G is None or self.D is None) and module not in self.parameters
        if looking and not self._inside_network() and not self._is_part({id(p) for p in module.parameters()}):
            self._meet(module)
        self._inside.append(module)

    def leaves(self, module: Any, inputs: Sequence[Any], output: Any) -> None:
        if module not in self._inside:  # entered before the recording began
            return
        while self._inside.pop() is not module:  # those above it were left by an exception
            pass
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        if isinstance(module, _BatchNorm) and module.training:
            x = _host(tensors[0])
            axes = (0, *range(2, x.ndim))
            self.batches[module] = x.mean(axes), x.var(axes)
        if module not in self.parameters or self._inside_network() or not tensors:
            return
        outputs = [y for y in (output if isinstance(output, (tuple, list)) else [output]) if isinstance(y, Tensor)]
        layers = list(module.modules())
        switching = [layer for layer in layers if isinstance(layer, (_BatchNorm, Dropout))]
        sample = max(tensors, key=lambda x: (x.is_floating_point(), x.numel()))
        call = Call(
            module, [self.trace(x) for x in tensors], self._sample(sample),
            evaluating=[layer for layer in switching if not layer.training],
            normalizing=[layer for layer in switching if isinstance(layer, _BatchNorm) and layer.training],
            where=_where(),
        )  # fmt: skip
        self.calls.append(call)
        self._trained.update(source.network for source in call.sample.trace.calls)
        for y in outputs:
            before = self.trace(y)
            self._note(y, Trace("network", frozenset([call]), squash=before.squash, affine=before.affine))
        for i, y in enumerate(outputs):
            if y.grad_fn is not None:
                judgement = y.shape[1:2] in ((), (1,)) and (y.shape[:1] == (y.numel(),) or y.shape != sample.shape)
                kept = i == 0 and judgement and y.numel() <= _SMALL
                self._outputs[y.grad_fn] = call, _host(y).ravel().copy() if kept else None

    def _sample(self, x: Tensor) -> Sample:
        values = _host(x).astype(np.float64)
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        return Sample(self.trace(x), x.shape, low, high, _neighbours(values))

    # Sweeps and steps ---------------------------------------------------------------------------------

    def derivative(self, node: Any, gradient: Any, gradients: Sequence[Any], began: float) -> None:
        if node in self._slopes:
            self._passed.add(self._slopes[node])
        if node in self._outputs:
            call, logits = self._outputs[node]
            self._pushed.append((call, logits, _host(gradient).ravel()))

    def swept(self, roots: Sequence[Any], owners: Sequence[Any], gradients: Sequence[Any], kept: bool) -> None:
        pushed, self._pushed = self._pushed, []
        passed, self._passed = self._passed, set()
        traces = [self.trace(root) for root in roots]
        if not kept:
            if not any(isinstance(owner, Parameter) for owner in owners):
                slope = Slope(frozenset().union(*(t.calls for t in traces)), _where())
                for call in slope.calls:
                    call.differentiated = True
                for g in gradients:
                    if g is not None:
                        self._note(g, Trace("constant", slopes=frozenset([slope])))
                        if g.grad_fn is not None:
                            self._slopes[g.grad_fn] = slope
            return
        reached = {
            id(p): (_square(g), p.grad is None or not _square(p.grad))
            for p, g in zip(owners, gradients, strict=True)
            if isinstance(p, Parameter)
        }
        sweep = Sweep(reached, frozenset().union(*(t.slopes for t in traces)), passed, _where())
        self.events.append(sweep)
        for call, logits, gradient in pushed:
            call.sweeps.append(sweep)
            self._trained.add(call.network)
            if logits is not None:
                call.pushes.append(Push(sweep, logits, gradient * logits.size))

    def stepped(self, optimizer: Any, began: float) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        held = {id(p): None if p.grad is None else _square(p.grad) for p in parameters}
        self.events.append(Step(held, max(group["lr"] for group in optimizer.param_groups), _where()))
        self._steps.update(held.keys())
        twice = all(any(self._steps[id(p)] > 1 for _, p, _ in self.parameters[network]) for network in self._trained)
        if (twice and len(self._trained) > 1) or sum(isinstance(event, Step) for event in self.events) >= _STEPS:
            self.full = True
            self.__exit__()


def _source(sources: set[str], op: str, params: Mapping[str, Any]) -> str:
    """Where the values of a result come from, given where those of its inputs do."""
    if "blend" in sources or "batch" in sources:
        return "blend" if "blend" in sources else "batch"
    if {"network", "data"} <= sources:
        if op == "Cat":  # side by side in each sample: an image and its condition, say
            return "batch" if params["dim"] == 0 else "network"
        return "blend"
    return next((source for source in ("network", "data", "random") if source in sources), "constant")


def _cuts_at_zero(op: str, params: Mapping[str, Any]) -> bool:
    """Whether an operation is the max(0, …) of a hinge."""
    limits = {"LeakyRelu": [params.get("slope")], "Clamp": [params.get("low"), params.get("high")]}
    return op in ("Maximum", "Minimum") or 0 in limits.get(op, [])


def _even(array: Any) -> bool:
    """Whether all values are equal, as those of labels are."""
    return array.size == 0 or bool(array.min() == array.max())


def _host(x: Tensor) -> np.ndarray:
    return x.B.to_numpy(x.array)


def _square(x: Tensor) -> float:
    """The square of the norm; NaN is not 0."""
    return float((x.array * x.array).sum())


def _neighbours(values: np.ndarray) -> float | None:
    """The correlation of pixels that are side by side, in images of at least 4×4."""
    if values.ndim != 4 or min(values.shape[2:]) < 4 or not values.var() > 0:
        return None
    centred = values - values.mean()
    across = (centred[..., 1:] * centred[..., :-1]).mean()
    down = (centred[..., 1:, :] * centred[..., :-1, :]).mean()
    return float((across + down) / (2 * centred.var()))


def _where() -> str:
    """The line of the caller's own code that is being run."""
    frame = _caller()
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def _name_of(module: Module) -> str:
    """The variable of the caller's code that holds a module, or the name of its class."""
    frame = _caller()
    scopes = (frame.f_locals, getattr(frame.f_locals.get("self"), "__dict__", {}), frame.f_globals)
    found = (name for scope in scopes for name, value in scope.items() if value is module and name != "self")
    return next(found, type(module).__name__)


def _caller() -> FrameType:
    """The innermost frame outside of this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return frame


def recording(
    G: Module | None = None, D: Module | None = None, then: Callable[[Record], None] | None = None
) -> Record:  # fmt: skip
    """Watch the training steps in a `with` block, until every network was trained twice.

    Without G and D, the networks are found by what is done with them. `then` is called with the record once:
    as soon as enough was seen, or at the end of the block.

    >>> import minigan as mg
    >>> from minigan import nn
    >>> D = nn.Linear(2, 1)
    >>> with recording(D=D) as record:
    ...     D(mg.randn(8, 2)).mean().backward()
    >>> len(record.calls), len(record.events)
    (1, 1)
    """
    return Record(G, D, then)

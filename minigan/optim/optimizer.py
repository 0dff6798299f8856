"""The base of all optimisers: parameter groups, state, and a step that makes one pass over flat memory.

`Optimizer.state` holds the state of each parameter as in PyTorch: a dict of tensors. Those tensors are views
of flat buffers, one per name and group, so that an update rule (`minigan.kernels`) sees the state of many
parameters as one array. State that comes from elsewhere, a loaded state dict say, is copied into the buffers at
the next step. The parameters themselves keep their own memory: whatever shares it sees the change.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, groupby, pairwise
from math import prod
from typing import Any

from minigan import graphs
from minigan.backend import Array, Backend
from minigan.creation import tensor
from minigan.grad_mode import enable_grad
from minigan.graph import wrap
from minigan.kernels.recording import Recording
from minigan.observe import observers
from minigan.tensor import Tensor

Group = dict[str, Any]


class Optimizer:
    """Changes parameters by their gradients. A subclass with a rule of its own writes its own `step`.

    >>> import minigan as mg
    >>> class SignDescent(Optimizer):
    ...     def step(self, closure=None):
    ...         for group in self.param_groups:
    ...             for p in group["params"]:
    ...                 p.data -= group["lr"] * p.grad.sign()
    >>> w = mg.tensor([1.0, -2.0], requires_grad=True)
    >>> optimizer = SignDescent([w], {"lr": 0.5})
    >>> (w**2).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([ 0.5, -1.5], requires_grad=True)
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError("optimizer: expected an iterable of Tensors or dicts, got a Tensor; write [tensor]")
        self.defaults = defaults
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[Group] = []
        self._flat: dict[int, tuple[list, list[_Flat]]] = {}
        self._opt_called = False  # read by the learning-rate schedules
        given = list(params)
        if not given:
            raise ValueError("optimizer got an empty parameter list")
        for group in given if isinstance(given[0], dict) else [{"params": given}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: Group) -> None:
        """Optimise more parameters, with options of their own: `{"params": [...], "lr": 1e-4}`."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group: expected a dict, got {type(param_group).__name__}")
        params = param_group["params"]
        if isinstance(params, set):
            raise TypeError("optimizer parameters need an order that stays the same: expected a list, got a set")
        params = [params] if isinstance(params, Tensor) else list(params)
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(f"optimizer can only optimize Tensors, but one of the params is {type(p).__name__}")
            if not p.is_leaf:
                raise ValueError(f"can't optimize a non-leaf Tensor (of shape {p.shape}): it is the result of an op")
        if len(set(params)) < len(params):
            raise ValueError("a parameter appears more than once in a parameter group")
        if any(p in set(params) for group in self.param_groups for p in group["params"]):
            raise ValueError("some parameters appear in more than one parameter group")
        param_group["params"] = params
        for name, default in self.defaults.items():
            param_group.setdefault(name, default)
        self.param_groups.append(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients (or fill them with 0)."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad.detach_().zero_()

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        return "\n".join([*lines, ")"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_flat": {}}  # a deep copy makes flat memory of its own

    # State ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """State and options in PyTorch's structure: parameters by their number, tensors not copied."""
        number = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        groups = []
        for (
            group
        ) in self.param_groups:  # "params" last, as in PyTorch: a state that was loaded is saved as the same bytes
            options = {name: value for name, value in group.items() if name != "params"}
            groups.append({**options, "params": [number[p] for p in group["params"]]})
        return {"state": {number[p]: s for p, s in self.state.items() if p in number}, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a copy of what `state_dict` gave, here or (as tensors of minigan) in PyTorch."""
        saved_groups = state_dict["param_groups"]
        sizes = [len(group["params"]) for group in self.param_groups]
        saved_sizes = [len(group["params"]) for group in saved_groups]
        if sizes != saved_sizes:
            raise ValueError(
                f"loaded state dict has parameter groups of {saved_sizes} parameters, this optimizer of {sizes}"
            )
        loaded: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        groups = []
        for group, saved in zip(self.param_groups, saved_groups, strict=True):
            groups.append({**self.defaults, **saved, "params": group["params"]})
            for key, p in zip(saved["params"], group["params"], strict=True):
                if key in state_dict["state"]:
                    kept = state_dict["state"][key]
                    loaded[p] = {name: _copied(name, value, key, p) for name, value in kept.items()}
        self.state, self.param_groups = loaded, groups

    # The step ---------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient; returns what `closure`, called first, returned."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        self._opt_called = True
        began = time.perf_counter()
        for index, group in enumerate(self.param_groups):
            names = self._names(group)
            for flat in self._flat_memory(index, group):
                numbers = [None if p.grad is None else self._enter(flat, i, names) for i, p in enumerate(flat.params)]
                for start, stop, number in _runs(numbers):
                    self._step_run(flat, start, stop, number, names, group)
                    if recording := graphs.capturing():
                        self._replay(flat, start, stop, index, recording)
        for observer in tuple(observers):  # one may have seen enough, and leave
            observer.stepped(self, began)
        return loss

    def _names(self, group: Group) -> Sequence[str]:
        """The names of a parameter's state under the options of its group, in the order of `_rule`."""
        raise NotImplementedError(f"{type(self).__name__} has no step()")

    def _rule(self, B: Backend, weights: tuple, state: list[Array], number: int, group: Group) -> None:
        """Update parameters and their flat state by a kernel; `weights` is what it takes first."""
        raise NotImplementedError

    def _initial(self, name: str) -> float:
        """The value that the state `name` starts from."""
        return 0.0

    def _number(self, state: dict[str, Any]) -> int:
        """Of a parameter's next step, from 1. Parameters with equal numbers share a run."""
        if "step" not in state:
            state["step"] = tensor(0.0, device="cpu")
        return int(state["step"].array) + 1

    def _flat_memory(self, index: int, group: Group) -> list[_Flat]:
        """The flat memory of a group, made anew when its parameters are not what they were."""
        layout = [(id(p), p.B, p.array.dtype, p.array.shape) for p in group["params"]]
        known, flats = self._flat.get(index, (None, []))
        if known != layout:
            alike: dict[tuple, list[Tensor]] = {}
            for p in group["params"]:
                alike.setdefault((p.B, p.array.dtype), []).append(p)
            flats = [_Flat(params) for params in alike.values()]
            self._flat[index] = layout, flats
        return flats

    def _enter(self, flat: _Flat, i: int, names: Sequence[str]) -> int:
        """Count a step of the i-th parameter, and have its state in the flat buffers; returns the step's number."""
        p = flat.params[i]
        g = p.grad
        assert g is not None
        if g.array.shape != p.array.shape or g.array.dtype != p.array.dtype or g.B is not p.B:
            raise RuntimeError(
                f"{type(self).__name__}: a parameter of shape {p.shape}, {p.dtype} on {p.device} has a gradient of "
                f"shape {g.shape}, {g.dtype} on {g.device}; they must be alike"
            )
        number = self._number(self.state[p]) if names else 1
        if names and "step" in self.state[p] and not graphs.capturing():  # a captured step is counted at each replay
            self.state[p]["step"].array += 1
        self._place(flat, i, names)
        return number

    def _place(self, flat: _Flat, i: int, names: Sequence[str]) -> None:
        """Have the i-th parameter's state in the flat buffers: its initial values, or a copy of what there is."""
        p = flat.params[i]
        for name in names:
            view, kept = flat.view(name, i), self.state[p].get(name)
            if graphs.capturing():
                continue  # the values are placed before a replay
            if kept is None:
                view[...] = self._initial(name)
            elif kept.array is not view:
                view[...] = kept.to(p.device, p.dtype).array
            else:
                continue
            self.state[p][name] = wrap(view, p.B, None)

    def _step_run(self, flat: _Flat, start: int, stop: int, number: int, names: Sequence[str], group: Group) -> None:
        """Apply the rule to neighbours, all of them at once."""
        params, a, b = flat.params[start:stop], flat.offsets[start], flat.offsets[stop]
        decay, factor = float(group.get("weight_decay", 0)), 1.0
        if group.get("decoupled_weight_decay", False):
            decay, factor = 0.0, 1 - float(group["lr"]) * decay
        arrays, gradients = [p.array for p in params], [p.grad.array for p in params]  # type: ignore[union-attr]
        weights = arrays, gradients, decay, factor, bool(group["maximize"])
        self._rule(flat.B, weights, [flat.buffers[name][a:b] for name in names], number, group)
        for p in params:
            p._bump(f"{type(self).__name__}.step")

    def _replay(self, flat: _Flat, start: int, stop: int, index: int, recording: Recording) -> None:
        """Have the captured update of neighbours be counted, and its numbers be new ones, at each replay."""
        params, groups = flat.params[start:stop], len(self.param_groups)
        arrays, gradients = [p.array for p in params], [p.grad for p in params]

        def valid() -> bool:
            same = all(p.array is array for p, array in zip(params, arrays, strict=True))
            if not same or groups != len(self.param_groups):
                return False
            return len({self._number(self.state[p]) for p in params if p in self.state}) <= 1

        def before() -> None:
            for p, g in zip(params, gradients, strict=True):
                p.grad = g  # plain steps in between had others
            group = self.param_groups[index]
            names = self._names(group)
            numbers = [self._enter(flat, i, names) for i in range(start, stop)]
            self._step_run(flat, start, stop, numbers[0], names, group)

        recording.before.append(before)
        recording.valid.append(valid)


class _Flat:
    """The parameters of a group that share device and dtype, and flat buffers with a stretch for each."""

    def __init__(self, params: list[Tensor]) -> None:
        self.params = params
        self.B, self.dtype = params[0].B, params[0].array.dtype
        self.offsets = [0, *accumulate(prod(p.array.shape) for p in params)]
        self.buffers: dict[str, Array] = {}
        self._views: dict[str, list[Array]] = {}

    def view(self, name: str, i: int) -> Array:
        """The i-th parameter's stretch of the buffer `name`, in the parameter's shape."""
        if name not in self.buffers:
            buffer = self.buffers[name] = self.B.xp.empty(self.offsets[-1], self.dtype)
            stretches = zip(self.params, pairwise(self.offsets), strict=True)
            self._views[name] = [buffer[a:b].reshape(p.array.shape) for p, (a, b) in stretches]
        return self._views[name][i]


def _runs(numbers: Sequence[int | None]) -> Iterator[tuple[int, int, int]]:
    """Stretches (start, stop, number) of neighbours with gradients that take a step of the same number."""
    start = 0
    for number, run in groupby(numbers):
        stop = start + len(list(run))
        if number is not None:
            yield start, stop, number
        start = stop


def _copied(name: str, value: Any, key: int, p: Tensor) -> Any:
    """One entry of a loaded state, copied, for the parameter p."""
    if name == "step":
        return tensor(float(value), device="cpu")
    if isinstance(value, Tensor):
        if value.shape != p.shape:
            raise ValueError(
                f"loaded state dict: {name!r} of parameter {key} has shape {value.shape}, the parameter {p.shape}"
            )
        return value.detach().to(p.device, p.dtype).clone()
    return value

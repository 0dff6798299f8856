"""Module: a tree of parameters, buffers and submodules with a `forward`.

How attributes are kept is in `attributes.py`; containers are in `containers.py`, layers in `modules/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from minigan import dtypes
from minigan.creation import as_tensor
from minigan.grad_mode import mode, no_grad
from minigan.graph import RemovableHandle
from minigan.nn.attributes import Attributes
from minigan.nn.hooks import BackwardWatch
from minigan.nn.parameter import Parameter
from minigan.observe import observers
from minigan.tensor import Tensor

_SUGGESTIONS = 20  # comparing names costs their number squared


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict(strict=False)` passed over."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module(Attributes):
    """The base of every layer and network: assign Parameters and Modules to attributes, write `forward`.

    >>> import minigan as mg
    >>> class Scale(Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.weight = Parameter(mg.tensor([2.0]))
    ...
    ...     def forward(self, x):
    ...         return self.weight * x
    >>> Scale()(mg.tensor([1.0, 3.0])).tolist()
    [2.0, 6.0]
    >>> Scale().state_dict()
    {'weight': tensor([2.])}
    """

    _optional: tuple[str, ...] = ()  # names that a loaded state dict may lack, because older files do

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What calling the module computes; every subclass writes its own."""
        raise NotImplementedError(f"{type(self).__name__} has no forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or observers:
                return self._call_hooked(args, kwargs)
            return self.forward(*args, **kwargs)
        except Exception as error:
            _locate(self, error)
            raise

    # Walking the tree ---------------------------------------------------------------------------------

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below it, each with its dotted name; a shared one once."""
        memo = set() if memo is None else memo
        if self not in memo:
            if remove_duplicate:
                memo.add(self)
            yield prefix, self
            for name, child in self._modules.items():
                if child is not None:
                    yield from child.named_modules(memo, _join(prefix, name), remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly below, each with its name."""
        seen: set[Module] = set()
        for name, child in self._modules.items():
            if child is not None and child not in seen:
                seen.add(child)
                yield name, child

    def children(self) -> Iterator[Module]:
        """The modules directly below."""
        return (child for _, child in self.named_children())

    def _named(self, table: str, prefix: str, recurse: bool, remove_duplicate: bool) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        walk = self.named_modules(None, prefix, remove_duplicate) if recurse else [(prefix, self)]
        for path, module in walk:
            for name, tensor in getattr(module, table).items():
                if tensor is not None and id(tensor) not in seen:
                    if remove_duplicate:
                        seen.add(id(tensor))
                    yield _join(path, name), tensor

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """All parameters with their dotted names; a shared one once."""
        return self._named("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """All parameters."""
        return (param for _, param in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """All buffers with their dotted names; a shared one once."""
        return self._named("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """All buffers."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def get_submodule(self, target: str) -> Module:
        """The module of a dotted name; '' is this one."""
        module = self
        for name in target.split(".") if target else ():
            if module._modules.get(name) is None:
                raise AttributeError(f"{type(module).__name__} has no submodule {name!r} (looking for {target!r})")
            module = module._modules[name]
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter of a dotted name."""
        return self._get("_parameters", "parameter", target)

    def get_buffer(self, target: str) -> Tensor:
        """The buffer of a dotted name."""
        return self._get("_buffers", "buffer", target)

    def _get(self, table: str, what: str, target: str) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if getattr(module, table).get(name) is None:
            raise AttributeError(f"{type(module).__name__} has no {what} {name!r} (looking for {target!r})")
        return getattr(module, table)[name]

    # Changing the whole tree --------------------------------------------------------------------------

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call `fn` on every module, children first."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def train(self, mode: bool = True) -> Self:
        """Switch every module to training mode (or to evaluation)."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch every module to evaluation mode."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Ask for gradients of every parameter, or stop asking."""
        for param in self.parameters():
            param.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget every parameter's gradient, or fill it with zeros."""
        for param in self.parameters():
            if set_to_none:
                param.grad = None
            elif param.grad is not None:
                param.grad = param.grad.detach().zero_()

    def _convert(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Replace the memory of every parameter and buffer; the Parameter objects stay the same."""
        with no_grad():
            for param in self.parameters():
                new = change(param)
                if new is not param:
                    param.data = new
                if param.grad is not None:
                    param.grad = change(param.grad)
            for module in self.modules():
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        module._buffers[name] = change(buffer)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device, convert floating parameters and buffers to a dtype, or both."""
        kinds = [np.dtype(a) for a in (*args, kwargs.get("dtype")) if isinstance(a, (np.dtype, type))]
        if any(kind.kind != "f" for kind in kinds):
            raise TypeError(f"Module.to: expected a floating dtype, got {kinds[0]}")
        # Integers (a counter of batches, say) keep their dtype.
        places = [a.device if isinstance(a, Tensor) else a for a in args if not isinstance(a, (np.dtype, type))]
        return self._convert(
            lambda t: t.to(*args, **kwargs) if t.is_floating_point() else t.to(*places, device=kwargs.get("device"))
        )

    def cpu(self) -> Self:
        """Move to the CPU."""
        return self._convert(lambda t: t.cpu())

    def cuda(self, device: Any = None) -> Self:
        """Move to a GPU."""
        return self._convert(lambda t: t.cuda(device))

    def type(self, dst_type: Any) -> Self:
        """Convert every parameter and buffer to a dtype or tensor type."""
        return self._convert(lambda t: t.type(dst_type))

    def float(self) -> Self:
        """Convert floating parameters and buffers to float32."""
        return self.to(dtypes.float32)

    def double(self) -> Self:
        """Convert floating parameters and buffers to float64."""
        return self.to(dtypes.float64)

    def half(self) -> Self:
        """Convert floating parameters and buffers to float16."""
        return self.to(dtypes.float16)

    # State --------------------------------------------------------------------------------------------

    def state_dict(
        self, *, destination: dict | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Tensor]:
        """Every parameter and persistent buffer by dotted name: detached tensors that share their memory."""
        out: dict[str, Tensor] = {} if destination is None else destination
        buffers = {name: b for name, b in self._buffers.items() if name not in self._transient}
        for name, tensor in (*self._parameters.items(), *buffers.items()):
            if tensor is not None:
                out[prefix + name] = tensor if keep_vars else tensor.detach()
        for name, child in self._modules.items():
            if child is not None:
                child.state_dict(destination=out, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        return out

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy values (Tensors or NumPy arrays) into parameters and buffers; when it raises, nothing has changed."""
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"load_state_dict: expected a dict of tensors, got {type(state_dict).__name__}")
        own = self.state_dict()
        walk = self.named_modules(remove_duplicate=False)
        optional = {_join(path, name) for path, module in walk for name in module._optional}
        missing = [key for key in own if key not in state_dict and key not in optional]
        unexpected = [key for key in state_dict if key not in own]
        values, problems = _matching(own, state_dict)
        if strict:
            problems += [f"missing key {key!r}" for key in missing]
            problems += [f"unexpected key {key!r}{_near(key, missing, i)}" for i, key in enumerate(unexpected)]
        if problems:
            raise RuntimeError(f"load_state_dict for {type(self).__name__}:\n    " + "\n    ".join(problems))
        with no_grad():
            for key, value in values.items():
                own[key].copy_(value)
        return IncompatibleKeys(missing, unexpected)

    # Hooks --------------------------------------------------------------------------------------------

    def register_forward_pre_hook(self, hook: Callable[[Any, tuple], Any]) -> RemovableHandle:
        """Call `hook(module, args)` before every forward; what it returns is used as the arguments instead."""
        return RemovableHandle(self._forward_pre_hooks, hook)

    def register_forward_hook(self, hook: Callable[[Any, tuple, Any], Any]) -> RemovableHandle:
        """Call `hook(module, args, output)` after every forward; what it returns is used as the output instead."""
        return RemovableHandle(self._forward_hooks, hook)

    def register_full_backward_hook(self, hook: Callable[[Any, tuple, tuple], Any]) -> RemovableHandle:
        """Call `hook(module, grad_input, grad_output)` in every backward; what it returns replaces `grad_input`.

        For modules with one tensor that requires gradients in, and one tensor out.
        """
        return RemovableHandle(self._backward_hooks, hook)

    def _call_hooked(self, args: tuple, kwargs: dict) -> Any:
        for observer in observers:
            observer.enters(self)
        for hook in list(self._forward_pre_hooks.values()):
            changed = hook(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        watch = BackwardWatch(self) if self._backward_hooks and mode.enabled else None
        args = args if watch is None else watch.enter(args)
        out = self.forward(*args, **kwargs)
        for hook in list(self._forward_hooks.values()):
            changed = hook(self, args, out)
            out = out if changed is None else changed
        out = out if watch is None else watch.leave(out)
        for observer in observers:
            observer.leaves(self, (*args, *kwargs.values()), out)
        return out

    # Text ---------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """The part of the repr between the parentheses; layers write their own."""
        return ""

    def _title(self) -> str:
        """The module in one line: a layer with its settings, a container by its class alone."""
        extra = self.extra_repr()
        name = type(self).__name__
        return name if self._modules and not extra else f"{name}({extra})"

    def __repr__(self) -> str:
        lines = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self._modules.items()]
        if not lines:
            return self._title()
        lines = [*filter(None, self.extra_repr().split("\n")), *lines]
        return "\n  ".join([f"{type(self).__name__}(", *lines]) + "\n)"

    def _shape_error(self, x: Tensor, expected: str) -> RuntimeError:
        """The error of a layer whose input has a wrong shape: names the layer and both shapes."""
        weight = getattr(self, "weight", None)
        return RuntimeError(
            f"{self._title()}: got input of shape {tuple(x.shape)}, expected {expected}"
            + ("" if weight is None else f"; weight has shape {tuple(weight.shape)}")
        )


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _matching(own: dict[str, Tensor], given: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The given values that can be copied into `own`, and a line on each of those that cannot."""
    values, problems = {}, []
    for key, tensor in own.items():
        if key not in given:
            continue
        value = given[key]
        if not isinstance(value, (Tensor, np.ndarray)):
            problems.append(f"{key!r}: got {type(value).__name__}, expected a Tensor or a NumPy array")
        elif tuple(value.shape) != tuple(tensor.shape):
            problems.append(f"{key!r}: got shape {tuple(value.shape)}, expected {tuple(tensor.shape)}")
        else:
            values[key] = as_tensor(value)
    return values, problems


def _near(key: str, missing: list[str], position: int) -> str:
    import difflib  # slow to import, and for this error only

    near = difflib.get_close_matches(key, missing, 1) if position < _SUGGESTIONS else []
    return f" (did you mean {near[0]!r}?)" if near else ""


def _locate(module: Module, error: Exception) -> None:
    """Note on an error that leaves `module` which layer raised it, by its name as seen from here."""
    inner, old = error.__dict__.setdefault("_raised_in", (module, None))
    path = next((path for path, below in module.named_modules() if below is inner), None)
    if path is None:
        return  # called by this module without being part of it: what is known so far stays
    where = f"{type(module).__name__}.{path}: " if path else ""
    note = f"in {where}{inner._title()}"
    if old is None:
        error.add_note(note)
    else:
        error.__notes__[error.__notes__.index(old)] = note
    error.__dict__["_raised_in"] = (inner, note)

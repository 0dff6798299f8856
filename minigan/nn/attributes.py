"""The attributes of a Module: three tables, of parameters, buffers and submodules, behind ordinary assignment."""

from __future__ import annotations

from typing import Any

from minigan.nn.parameter import Parameter
from minigan.tensor import Tensor


class Attributes:
    """Base of Module: sorts what is assigned by its kind, and finds it again."""

    training: bool

    def __init__(self) -> None:
        self.__dict__.update(
            training=True,
            _parameters={},
            _buffers={},
            _modules={},
            _transient=set(),  # names of the buffers that state_dict leaves out
            _computed={},  # attributes made anew on every access, from this module: name -> function of it
            _forward_pre_hooks={},
            _forward_hooks={},
            _backward_hooks={},
        )

    def __getattr__(self, name: str) -> Any:
        state = self.__dict__
        parameters = state.get("_parameters")  # none there if __init__ was not called
        if parameters is not None:
            if name in parameters:  # every layer's every call
                return parameters[name]
            for table in (state["_buffers"], state["_modules"]):
                if name in table:
                    return table[name]
            if name in state["_computed"]:
                return state["_computed"][name](self)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def __setattr__(self, name: str, value: Any) -> None:
        state = self.__dict__
        if isinstance(value, Parameter):
            self._put("_parameters", name, value)
        elif isinstance(value, Attributes):
            self._put("_modules", name, value)
        elif "_parameters" in state and name in state["_computed"]:
            raise self._is_computed(name)
        elif "_parameters" in state and name in state["_parameters"]:
            self._put_none("_parameters", name, value, "a Parameter")
        elif "_modules" in state and name in state["_modules"]:
            self._put_none("_modules", name, value, "a Module")
        elif "_buffers" in state and name in state["_buffers"]:
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(f"{type(self).__name__}.{name} is a buffer: expected a Tensor or None, got {value!r}")
            state["_buffers"][name] = value
        else:
            object.__setattr__(self, name, value)

    def _put(self, table: str, name: str, value: Any) -> None:
        """Enter `name` in one table, and take it out of all others."""
        state = self.__dict__
        if table not in state:
            raise AttributeError(f"{type(self).__name__}: call super().__init__() before assigning {name!r}")
        if name in state["_computed"]:
            raise self._is_computed(name)
        for other in (state, state["_parameters"], state["_buffers"], state["_modules"]):
            if other is not state[table]:
                other.pop(name, None)
        state["_transient"].discard(name)
        state[table][name] = value

    def _put_none(self, table: str, name: str, value: Any, expected: str) -> None:
        if value is not None:
            raise TypeError(
                f"{type(self).__name__}.{name}: expected {expected} or None, got {type(value).__name__}; to change "
                f"the kind of attribute, del it first"
            )
        self.__dict__[table][name] = None

    def _is_computed(self, name: str) -> RuntimeError:
        return RuntimeError(
            f"{type(self).__name__}.{name} is computed from other parameters and cannot be assigned; assign those "
            "(see named_parameters()), or remove the parametrization first"
        )

    def __delattr__(self, name: str) -> None:
        for table in (self._parameters, self._buffers, self._modules):
            if name in table:
                del table[name]
                self._transient.discard(name)
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        tables = (self._parameters, self._buffers, self._modules, self._computed)
        return sorted({*super().__dir__(), *(name for table in tables for name in table)})

    def _check_new(self, what: str, name: str, value: Any, kind: type) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise KeyError(f"{what} name {name!r}: expected a non-empty string without dots")
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{what} {name!r}: expected a {_KINDS[kind]} or None, got {type(value).__name__}")
        tables = (self._parameters, self._buffers, self._modules)
        if hasattr(self, name) and not any(name in table for table in tables):
            raise KeyError(f"{what} {name!r}: {type(self).__name__} already has an attribute of this name")

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter under a name; None reserves the name."""
        self._check_new("parameter", name, param, Parameter)
        self._put("_parameters", name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is state but not trained; a non-persistent one is left out of `state_dict`."""
        self._check_new("buffer", name, tensor, Tensor)
        self._put("_buffers", name, tensor)
        if not persistent:
            self._transient.add(name)

    def add_module(self, name: str, module: Attributes | None) -> None:
        """Add a submodule under a name."""
        self._check_new("module", name, module, Attributes)
        self._put("_modules", name, module)

    register_module = add_module


_KINDS: dict[type, str] = {Parameter: "Parameter", Tensor: "Tensor", Attributes: "Module"}

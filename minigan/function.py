"""`autograd.Function`: an operation with a backward of the user's own, in PyTorch's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minigan import graph
from minigan.grad_mode import no_grad
from minigan.graph import Node, Op, apply

if TYPE_CHECKING:
    from minigan.tensor import Tensor


class Function:
    """Subclasses define `forward(ctx, *args)` and `backward(ctx, gradient)`; call them by `apply(*args)`.

    `forward` returns one Tensor, and runs unrecorded. `backward` returns a gradient (or None) for each argument
    of `forward`; written in Tensor operations, it can be differentiated again.

    >>> import minigan as mg
    >>> class Cube(Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x**3
    ...
    ...     @staticmethod
    ...     def backward(ctx, gradient):
    ...         (x,) = ctx.saved_tensors
    ...         return 3 * x**2 * gradient
    >>> x = mg.tensor(2.0, requires_grad=True)
    >>> Cube.apply(x).backward()
    >>> x.grad
    tensor(12.)
    """

    _op: type[Op]

    def __init_subclass__(cls) -> None:
        body = {"forward": staticmethod(_take), "vjp": staticmethod(_backward), "__module__": cls.__module__}
        cls._op = type(cls.__name__, (Op,), body)

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        """The result, of tensors and any other arguments."""
        raise NotImplementedError("autograd.Function: define a static method forward(ctx, *args)")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """The gradient of each argument, from that of the result."""
        raise NotImplementedError("autograd.Function: define a static method backward(ctx, gradient)")

    @classmethod
    def apply(cls, *args: Any) -> Tensor:
        """Run `forward`, and record the call if a gradient may be wanted."""
        call = Call(cls, args)
        with no_grad():
            output = cls.forward(call, *args)
        if not isinstance(output, graph.tensor_type):
            raise RuntimeError(f"{cls.__name__}.forward: expected it to return one Tensor, got {type(output).__name__}")
        inputs = [args[i] for i in call.places]
        if not inputs:
            return output
        call.settle(inputs, output)
        return apply(cls._op, *inputs, call=call)


class Call:
    """The `ctx` of one call: `save_for_backward`, `saved_tensors`, `needs_input_grad`, and whatever is set on it."""

    def __init__(self, function: type[Function], args: tuple) -> None:
        self.function, self.arguments = function, len(args)
        self.places = [i for i, arg in enumerate(args) if isinstance(arg, graph.tensor_type)]
        self.needs_input_grad = tuple(i in self.places and arg.requires_grad for i, arg in enumerate(args))
        self.given: Sequence[Any] = ()
        self.node: Node | None = None  # while backward runs: for good, it would be a reference cycle

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors: inputs and the result, or others, which are constants to `backward`."""
        self.given = tensors

    def settle(self, inputs: Sequence[Tensor], output: Tensor) -> None:
        """Note what was saved as "input 0", … or "output": the node keeps those, in the graph."""
        names = {id(x): i for i, x in enumerate(inputs)} | {id(output): "output"}
        self.saved = [names.get(id(tensor), tensor) for tensor in self.given]
        kept = [name for name in self.saved if isinstance(name, (int, str))]
        self.kept_inputs, self.keeps_output = [i in kept for i in range(len(inputs))], "output" in kept
        self.given = ()
        shared = any(x.B.shares_memory(x.array, output.array) for x in inputs)
        self.result = output.B.xp.array(output.array) if shared else output.array

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What `save_for_backward` was given."""
        assert self.node is not None, "saved_tensors are there for backward"
        node = self.node
        found = {int: lambda i: node._input(i), str: lambda _: node.output}
        return tuple(found[type(name)](name) if type(name) in found else name for name in self.saved)


def _take(ctx: Any, B: Any, *arrays: Any, call: Call) -> Any:
    ctx.save_inputs(*call.kept_inputs)
    if call.keeps_output:
        ctx.save_output()
    return call.__dict__.pop("result")


def _backward(ctx: Any, gy: Tensor) -> tuple:
    call: Call = ctx.call
    name = f"{call.function.__name__}.backward"
    call.node = ctx
    try:
        returned = call.function.backward(call, gy)
    finally:
        call.node = None
    gradients = returned if type(returned) is tuple else (returned,)
    if len(gradients) != call.arguments:
        raise RuntimeError(
            f"{name}: got {len(gradients)} gradients, expected one for each of {call.arguments} arguments"
        )
    for i, shape in zip(call.places, ctx.shapes, strict=True):
        g = gradients[i]
        if g is not None and tuple(g.shape) != shape:
            raise RuntimeError(f"{name}: got a gradient of shape {tuple(g.shape)} for argument {i} of shape {shape}")
    return tuple(gradients[i] for i in call.places)

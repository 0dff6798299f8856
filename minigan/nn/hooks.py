"""How the gradients of one call of a Module reach its full backward hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minigan.tensor import Tensor

if TYPE_CHECKING:
    from minigan.nn.module import Module


class BackwardWatch:
    """Brings the gradients of one call to its module's full backward hooks."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.place: int | None = None  # of the argument that requires gradients
        self.count = 0
        self.grad_output: tuple[Any, ...] = (None,)

    def enter(self, args: tuple) -> tuple:
        """The arguments, the differentiable one seen through a view that is this call's alone."""
        self.count = len(args)
        places = [i for i, arg in enumerate(args) if isinstance(arg, Tensor) and arg.requires_grad]
        if len(places) > 1:
            raise RuntimeError(
                "full backward hooks need a module with one tensor that requires gradients in, and one tensor out; "
                f"{type(self.module).__name__} got {len(places)}: use Tensor.register_hook instead"
            )
        if not places:
            return args
        self.place = places[0]
        x = args[self.place].view_as(args[self.place])
        x.register_hook(self._at_input)
        return args[: self.place] + (x,) + args[self.place + 1 :]

    def leave(self, out: Any) -> Any:
        """The output, seen through a view as well."""
        if not isinstance(out, Tensor):
            raise RuntimeError(
                "full backward hooks need a module with one tensor out; "
                f"{type(self.module).__name__} returned {type(out).__name__}: use Tensor.register_hook instead"
            )
        if out.requires_grad:
            out = out.view_as(out)
            out.register_hook(self._at_output)
        return out

    def _at_output(self, gy: Tensor) -> None:
        if self.place is None:
            self._call((None,) * self.count, (gy,))
        else:
            self.grad_output = (gy,)

    def _at_input(self, gx: Tensor) -> Tensor:
        before = [None] * self.place  # type: ignore[operator]  # set by `enter`
        grad_input = (*before, gx, *[None] * (self.count - len(before) - 1))
        grad_output, self.grad_output = self.grad_output, (None,)
        return self._call(grad_input, grad_output)[len(before)]

    def _call(self, grad_input: tuple, grad_output: tuple) -> tuple:
        for hook in list(self.module._backward_hooks.values()):
            changed = hook(self.module, grad_input, grad_output)
            if changed is not None:
                grad_input = changed if isinstance(changed, tuple) else (changed,)
        return grad_input

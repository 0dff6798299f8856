"""SGD, Adam, AdamW, RMSprop and Adagrad: their options and state. The formulas are in `minigan.kernels`.

`foreach` and `fused` choose among implementations in PyTorch; here there is one, and they change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from minigan.backend import Array, Backend
from minigan.creation import tensor
from minigan.optim.optimizer import Group, Optimizer


class SGD(Optimizer):
    """Gradient descent, with momentum (Nesterov's too).

    >>> import minigan as mg
    >>> w = mg.tensor([1.0], requires_grad=True)
    >>> optimizer = SGD([w], lr=0.25)
    >>> (w**2).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([0.5], requires_grad=True)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        options = _options(locals())
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        super().__init__(params, options)

    def _names(self, group: Group) -> Sequence[str]:
        return ("momentum_buffer",) if group["momentum"] else ()

    def _number(self, state: dict[str, Any]) -> int:
        return 1 if state.get("momentum_buffer") is None else 2

    def _rule(self, B: Backend, weights: tuple, state: list[Array], number: int, group: Group) -> None:
        dampening = 0.0 if number == 1 else float(group["dampening"])  # the buffer starts as the first gradient
        buffer = state[0] if state else None
        B.kernels.sgd_step(weights, buffer, float(group["lr"]), float(group["momentum"]), dampening, group["nesterov"])


class Adam(Optimizer):
    """Steps of about `lr`, from running means of the gradient and of its square (Kingma and Ba, 2014).

    >>> import minigan as mg
    >>> w = mg.tensor([1.0], requires_grad=True)
    >>> optimizer = Adam([w], lr=0.25, betas=(0.5, 0.999))
    >>> (w**2).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 6)
    0.75
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        options = _options(locals())
        for i, beta in enumerate(betas):
            if not 0 <= beta < 1:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}; expected 0 <= beta < 1")
        super().__init__(params, options)

    def _names(self, group: Group) -> Sequence[str]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if group["amsgrad"] else 2]

    def _rule(self, B: Backend, weights: tuple, state: list[Array], number: int, group: Group) -> None:
        m, v, *largest = state
        beta1, beta2 = group["betas"]
        B.kernels.adam_step(
            weights,
            m,
            v,
            largest[0] if largest else None,
            number,
            float(group["lr"]),
            float(beta1),
            float(beta2),
            float(group["eps"]),
        )


class AdamW(Adam):
    """Adam whose weight decay shrinks the parameters directly (Loshchilov and Hutter, 2017)."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            fused=fused,
            decoupled_weight_decay=True,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True  # also when Adam saved it


class RMSprop(Optimizer):
    """Gradients divided by the root of a running mean of their squares (Hinton, 2012)."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, _options(locals()))

    def _names(self, group: Group) -> Sequence[str]:
        optional = {"grad_avg": group["centered"], "momentum_buffer": group["momentum"] > 0}
        return ("square_avg", *(name for name, wanted in optional.items() if wanted))

    def _rule(self, B: Backend, weights: tuple, state: list[Array], number: int, group: Group) -> None:
        found = dict(zip(self._names(group), state, strict=True))
        B.kernels.rmsprop_step(
            weights,
            found["square_avg"],
            found.get("grad_avg"),
            found.get("momentum_buffer"),
            float(group["lr"]),
            float(group["alpha"]),
            float(group["eps"]),
            float(group["momentum"]),
        )


class Adagrad(Optimizer):
    """Gradients divided by the root of the sum of their squares so far (Duchi et al., 2011)."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(params, _options(locals()))
        for index, group in enumerate(self.param_groups):
            for flat in self._flat_memory(index, group):
                for i, p in enumerate(flat.params):
                    self.state[p]["step"] = tensor(0.0, device="cpu")
                    self._place(flat, i, self._names(group))

    def _names(self, group: Group) -> Sequence[str]:
        return ("sum",)

    def _initial(self, name: str) -> float:
        return float(self.defaults["initial_accumulator_value"])

    def _rule(self, B: Backend, weights: tuple, state: list[Array], number: int, group: Group) -> None:
        lr = float(group["lr"]) / (1 + (number - 1) * float(group["lr_decay"]))
        B.kernels.adagrad_step(weights, state[0], lr, float(group["eps"]))


_WORDS = {"lr": "learning rate", "eps": "epsilon value"}
_UNSIGNED = ("lr", "eps", "momentum", "weight_decay", "alpha", "lr_decay", "initial_accumulator_value")


def _options(arguments: dict[str, Any]) -> dict[str, Any]:
    """The options among a constructor's local variables; raises for a negative or NaN one."""
    options = {name: value for name, value in arguments.items() if name not in ("self", "params", "__class__")}
    for name in _UNSIGNED:
        if name in options and not options[name] >= 0:
            raise ValueError(f"Invalid {_WORDS.get(name, name + ' value')}: {options[name]}; expected 0 or more")
    return options

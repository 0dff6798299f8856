"""Who takes the training steps of `bench.steps` on a GPU, and how: minigan, and PyTorch from as it comes to its best.

PyTorch's tuned ways freeze D while G learns, lie channels last, let cuDNN try its algorithms and have fused Adam. The
whole step is one CUDA graph in ways that say so, for both libraries, which asks more of PyTorch than most scripts do.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.gpu.card import PRECISIONS
from bench.gpu.clock import TorchClock
from bench.steps import STEPS, Training

WARM = 3  # steps before a capture: Adam has made its state, cuDNN has chosen


@dataclass
class Contender:
    """Steps that are ready to be taken: `step` is one, and returns losses on the device."""

    step: Callable[[], Any]
    clock: Any
    memory: Any  # a library's `cuda`

    def losses(self) -> list[float]:
        """Of one step."""
        return [loss.item() for loss in self.step()]

    def ms(self, calls: int) -> float:
        """Of each of so many steps, by the GPU's events."""

        def work() -> None:
            for _ in range(calls):
                self.step()

        return self.clock.ms(work) / calls

    def peak_memory(self) -> int:
        """The most bytes that tensors, and graphs, have during a step."""
        self.memory.reset_peak_memory_stats()
        self.losses()
        return self.memory.max_memory_allocated()


@dataclass(frozen=True)
class Way:
    """A library, what convolutions round their operands to, and how steps are taken.

    `compiled` is a mode of torch.compile; `tuned` ways of PyTorch are those of this file's head.
    """

    library: str
    precision: str
    label: str
    graph: bool = False
    tuned: bool = False
    compiled: str = ""

    def prepare(self, name: str, batch: int) -> Contender:
        """The step of this name, made and warm."""
        return (_ours if self.library == "minigan" else _theirs)(self, name, batch)


def _ways() -> dict[str, Way]:
    """As the tables have them."""
    torch = "torch"
    found = [Way(torch, "TF32", "as it comes")]  # its default is TF32 in convolutions, and fp32 in products
    for precision in PRECISIONS:
        found += [Way("minigan", precision, "eager"), Way("minigan", precision, "graph", graph=True)]
        found += [Way(torch, precision, "tuned", tuned=True), Way(torch, precision, "tuned, graph", True, True)]
        found += [Way(torch, precision, "compiled, graph", True, True, "default")]
        found += [Way(torch, precision, "max-autotune, graph", True, True, "max-autotune-no-cudagraphs")]
    return {f"{way.library} {way.precision} {way.label}": way for way in found}


WAYS = _ways()


def ways_of(step: str, compiled: bool) -> list[str]:
    """Those that take it: trying out every kernel takes too long to do it for each."""
    return [
        name for name, way in WAYS.items()
        if not way.compiled or (compiled and (way.compiled == "default" or step == "dcgan64"))
    ]  # fmt: skip


# minigan -------------------------------------------------------------------------------------------------------------


class _OurClock:
    """Events in CuPy's current stream."""

    def __init__(self, cupy: Any) -> None:
        self.cuda = cupy.cuda

    def ms(self, work: Callable[[], Any]) -> float:
        """Of all that `work` starts."""
        start, end = self.cuda.Event(), self.cuda.Event()
        start.record()
        work()
        end.record()
        end.synchronize()
        return self.cuda.get_elapsed_time(start, end)


def _ours(way: Way, name: str, batch: int) -> Contender:
    import minigan as mg

    lib: Any = mg
    lib.set_default_device("cuda")
    lib.set_float32_matmul_precision(PRECISIONS[way.precision])
    step: Callable[[], Any] = STEPS[name].make(lib, batch).losses
    if way.graph:
        step = lib.cuda.graph(step)
    for _ in range(WARM + 1):  # the last one is captured
        step()
    lib.cuda.synchronize()
    return Contender(step, _OurClock(importlib.import_module("cupy")), lib.cuda)


# PyTorch -------------------------------------------------------------------------------------------------------------


def _theirs(way: Way, name: str, batch: int) -> Contender:
    import torch

    if way.tuned:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = way.precision == "TF32"
        torch.backends.cudnn.benchmark = True
    training = torch_training(torch, way, name, batch, "cuda")
    step: Callable[[], Any] = training.losses
    side = torch.cuda.Stream()  # as PyTorch asks for before a capture
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM):
            step()
    torch.cuda.current_stream().wait_stream(side)
    clock = TorchClock(torch)
    if way.graph:
        replay = clock.captured([step])

        def step() -> Any:
            return replay()[0]

    torch.cuda.synchronize()
    return Contender(step, clock, torch.cuda)


def torch_training(torch: Any, way: Way, name: str, batch: int, device: str) -> Training:
    """The step made for PyTorch in this way."""
    with torch.device(device):  # not for longer: it costs every call some microseconds
        training = STEPS[name].make(torch, batch, channels_last=way.tuned, frozen=way.tuned)
    training.randn, training.rand = (partial(draw, device=device) for draw in (torch.randn, torch.rand))
    if way.tuned:
        for part in ("g_adam", "d_adam"):
            given = getattr(training, part).param_groups[0]
            tuned = torch.optim.Adam(given["params"], given["lr"], given["betas"], fused=True, capturable=way.graph)
            setattr(training, part, tuned)
    if way.precision == "bf16":
        training.generator, training.discriminator = map(_cast(torch, device), _networks(training))
    if way.compiled:
        for network in _networks(training):
            network.compile(mode=way.compiled, dynamic=False)
        if hasattr(training, "penalty"):  # compiled functions have no second derivatives
            training.penalty = torch.compiler.set_stance("force_eager")(training.penalty)
    return training


def _networks(training: Training) -> tuple[Any, Any]:
    return training.generator, training.discriminator


def _cast(torch: Any, device: str) -> type:
    """A network that computes in bf16 where autocast does, and returns float32."""

    class Cast(torch.nn.Module):
        def __init__(self, network: Any) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Any) -> Any:
            with torch.autocast(device, torch.bfloat16):
                y = self.network(x)
            return y.float()

    return Cast

"""Writing a generator as an ONNX file: `export_onnx`.

A module in evaluation mode is traced, its operations are written by their forms, BatchNorm is folded, the variant
asked for is made, and the file is verified against the module before it gets its name.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import glob
import inspect
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np

import minigan as mg
from minigan.export.emit import emit
from minigan.export.feeds import Feeds, draw, split
from minigan.export.fold import fold
from minigan.export.graph import BATCH, IR_VERSIONS, Graph, OnnxError, Value, digest
from minigan.export.importer import OnnxModule
from minigan.export.layout import simplify
from minigan.export.trace import ExportError, trace
from minigan.export.variants import IMAGE_RANGE, as_uint8, compute_float16, pixels, store_float16
from minigan.export.verify import PROOF_LATENTS, PSI, Report, finite, proof_positions, verify
from minigan.files import flush_folder
from minigan.nn import Module
from minigan.tensor import Tensor

DTYPES = ("fp32", "fp16", "fp16-storage", "int8")
OUTPUTS = ("float", "uint8")
AIMS = ("speed", "size")
PROVEN = ("sha256", "proof", "rounding", "verified", "variant")  # metadata of one file, not of what is exported
ROUNDED_LATENTS = 64  # whose samples are computed in float64 too
OPSET = 17  # loads in every ONNX Runtime since 1.15, and in browsers
CALIBRATION = 1024  # samples from which int8 takes the ranges of its activations: of fewer, rare values are cut off


@dataclass(frozen=True)
class Variant:
    """How the file computes and what it gives."""

    dtype: str = "fp32"
    output: str = "float"
    optimize: str = "speed"
    fp32_edges: bool = False  # of int8: the first and the last layer stay in float32

    def __post_init__(self) -> None:
        for name, choices in (("dtype", DTYPES), ("output", OUTPUTS), ("optimize", AIMS)):
            if getattr(self, name) not in choices:
                raise ExportError(f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(choices)}")


class Function(Module):
    """A function as a module, whose tensors have no names."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        if not callable(function):
            raise ExportError(f"expected a Module or a function, got {type(function).__name__}")
        self.function = function
        self.eval()

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        return self.function(*inputs, **named)


@dataclass(frozen=True)
class Subject:
    """A generator to be exported: the module, its inputs, and what the file is to say of it."""

    module: Module
    inputs: tuple[Value, ...]
    metadata: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        module: Module | Callable[..., Tensor],
        latent: int | Sequence[int] | None = None,
        classes: int = 0,
        psi: bool = False,
        metadata: dict[str, str] | None = None,
    ) -> Subject:
        """See `export_onnx`."""
        if isinstance(module, OnnxModule) and latent is None:
            graph = module._graph
            if "variant" in graph.metadata and json.loads(graph.metadata["variant"]) != vars(Variant()):
                raise ExportError(
                    f"it was imported from the variant {graph.metadata['variant']}: to export it again, import the "
                    "float32 file, or export the run"
                )
            kept = {k: v for k, v in graph.metadata.items() if k not in PROVEN}
            return cls(module, tuple(graph.inputs), kept | (metadata or {}))
        if not isinstance(module, Module):
            module = Function(module)
        if latent is None:
            raise ExportError("expected latent=, the size of the generator's input")
        shape = tuple(latent) if isinstance(latent, Sequence) else (latent,)
        if not all(isinstance(size, int) and size > 0 for size in shape):
            raise ExportError(f"latent: got {latent!r}, expected the size of the generator's input, or its shape")
        inputs = [Value("z", np.dtype(np.float32), (BATCH, *shape))]
        inputs += [Value("labels", np.dtype(np.int64), (BATCH,))] * bool(classes)
        inputs += [Value("psi", np.dtype(np.float32), ())] * psi
        about = {"latent_distribution": "normal"} | ({"classes": str(classes)} if classes else {}) | (metadata or {})
        for name, text in about.items():
            if not isinstance(text, str):
                raise ExportError(f"metadata: {name} is {text!r}, expected a text")
        return cls(module, tuple(inputs), about)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The module's samples. A module that has no parameter psi is given z·psi."""
        named = dict(zip((value.name for value in self.inputs), inputs, strict=True))
        if "psi" in named and not isinstance(self.module, OnnxModule) and not self._takes_psi():
            named["z"] = named["z"] * named.pop("psi")
        z, labels = named.pop("z"), named.pop("labels", None)
        return self.module(*((z,) if labels is None else (z, labels)), **named)

    def draw(self, n: int, stream: str, psi: float = 1.0) -> Feeds:
        """n samples' inputs from a named stream."""
        return draw(Graph(list(self.inputs), [], [], {}, self.metadata), n, stream, psi=psi)

    def tensors(self, feeds: Feeds) -> list[Tensor]:
        """The inputs in their order, where the module is."""
        device = next((parameter.device for parameter in self.module.parameters()), "cpu")
        return [mg.from_numpy(feeds[value.name]).to(device) for value in self.inputs]

    def run(self, feeds: Feeds) -> np.ndarray:
        """The engine's samples for these inputs."""
        with mg.no_grad(), np.errstate(all="ignore"):
            return self(*self.tensors(feeds)).numpy(force=True)

    def rounding(self) -> float:
        """How far the engine's float32 samples are from its float64 ones, in units of the largest if that is above 1.

        0 where the generator cannot be computed in float64, because it holds float32 tensors that are no parameters.
        """
        feeds = self.draw(ROUNDED_LATENTS, "verify", psi=PSI)
        samples, precise = self.run(feeds), dataclasses.replace(self, module=copy.deepcopy(self.module).double())
        try:
            exact = precise.run({name: x.astype(np.float64) if x.dtype.kind == "f" else x for name, x in feeds.items()})
        except RuntimeError:
            return 0.0
        largest = max(1.0, float(np.abs(exact).max(initial=0.0)))
        return float(np.abs(samples - exact).max(initial=0.0)) / largest

    def _takes_psi(self) -> bool:
        forward = self.module.function if isinstance(self.module, Function) else self.module.forward
        return "psi" in inspect.signature(forward).parameters


def export_onnx(
    module: Module | Callable[..., Tensor],
    path: str | os.PathLike[str],
    *,
    latent: int | Sequence[int] | None = None,
    classes: int = 0,
    psi: bool = False,
    metadata: dict[str, str] | None = None,
    dtype: str = "fp32",
    output: str = "float",
    optimize: str = "speed",
    fp32_edges: bool = False,
    opset: int | None = None,
    verified: bool = True,
) -> Report | None:
    """Write a generator in evaluation mode as an ONNX file, and verify it; returns the report.

    The module, or function, is called with z (batch, latent) and, with `classes`, labels (batch,). `psi` adds a
    truncation: a scalar that is passed to a `forward` that has a parameter psi, and otherwise multiplies z. `latent`
    may be a shape, and is not needed for a module from `load_onnx`. `dtype` is fp32, fp16, fp16-storage or int8;
    `output` float or uint8; `optimize` speed or size; `fp32_edges` keeps the first and last layer of int8 in float32.
    `verified=False` leaves the check out, and the metadata say so.

    >>> import tempfile
    >>> G = mg.nn.Sequential(mg.nn.Linear(8, 48), mg.nn.Tanh(), mg.nn.Unflatten(1, (3, 4, 4))).eval()
    >>> report = export_onnx(G, tempfile.mkdtemp() + "/generator.onnx", latent=8)
    >>> report.passed
    True
    """
    subject = Subject.of(module, latent, classes, psi, metadata)
    if opset is None:
        opset = module._graph.opset if isinstance(module, OnnxModule) else OPSET
    graph = build(subject, Variant(dtype, output, optimize, fp32_edges), opset, verified)
    return write(graph, Path(path), subject if verified else None)


def build(subject: Subject, variant: Variant, opset: int = OPSET, verified: bool = True) -> Graph:
    """The graph of a generator in one variant, with its metadata."""
    if opset not in IR_VERSIONS:
        raise ExportError(f"opset: got {opset}, expected {min(IR_VERSIONS)} to {max(IR_VERSIONS)}")
    if (variant.dtype, variant.optimize) == ("fp32", "size"):
        variant = dataclasses.replace(variant, dtype="fp16-storage")
    _check(subject.module)
    names = [value.name for value in subject.inputs]
    traced = trace(subject, lambda n: subject.tensors(subject.draw(n, f"trace {n}", psi=n / 4)), subject.module)
    graph = emit(traced, names, "samples", opset)
    if graph.outputs[0].dtype not in (np.float32, np.uint8):
        raise ExportError(f"what the generator returns is {graph.outputs[0].dtype}: expected float32; use .float()")
    simplify(graph)
    fold(graph)
    graph.metadata = dict(subject.metadata)
    if len(graph.outputs[0].shape) == 4:
        graph.metadata.setdefault("value_range", IMAGE_RANGE)
    graph = _vary(graph, variant, subject)
    graph.metadata |= {
        "minigan": version("minigan"),
        "variant": json.dumps(vars(variant)),
        "sha256": json.dumps({name: digest(array) for name, array in graph.constants.items()}),
        "verified": "yes" if verified else "no",
    }
    graph.metadata |= _imported_proof(subject, graph) or {
        "proof": _proof(subject, variant), "rounding": f"{subject.rounding():.2g}",
    }  # fmt: skip
    return graph


def write(graph: Graph, path: Path, subject: Subject | None) -> Report | None:
    """Put the file in its place, if it equals the subject; what is there already stays until then."""
    if not path.parent.is_dir():
        raise ExportError(f"{path}: there is no folder {path.parent}")
    with _alone_in(path.parent):
        return _write(graph, path, subject)


def _write(graph: Graph, path: Path, subject: Subject | None) -> Report | None:
    trial, before, report = path.with_name(f".{path.name}.unverified"), _data_files(path), None
    try:
        data_file = graph.save(trial, stem=path.stem)
        if subject is not None:
            report = verify(trial, subject.run)
            if not report.passed:
                advice = "; it loses too much in int8: try fp16-storage" * (report.variant.get("dtype") == "int8")
                raise ExportError(f"{path}: not written, for it does not equal the engine: {report.failures()}{advice}")
            report = dataclasses.replace(report, file=path.name)
        os.replace(trial, path)
    except BaseException as error:
        trial.unlink(missing_ok=True)
        for new in _data_files(path) - before:
            new.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path)  # not the one on trial
        if isinstance(error, (OnnxError, ImportError)):
            raise type(error)(str(error).replace(str(trial), str(path))) from None
        raise
    for old in before - {data_file}:
        old.unlink()
    flush_folder(path.parent)
    return report


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Within: no other export writes to the folder; one that comes later waits. The lock goes with the process."""
    try:
        import fcntl
    except ImportError:  # Windows has another way
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _data_files(path: Path) -> set[Path]:
    """What exports to this path have left beside it, those that were killed too."""
    name = f"{glob.escape(path.stem)}-{'[0-9a-f]' * 12}.bin"
    return {*path.parent.glob(name), *path.parent.glob(f".{name}.partial")}


def _check(module: Module) -> None:
    for name, part in module.named_modules():
        if part.training:
            raise ExportError(
                f"{name or 'the generator'} ({type(part).__name__}) is in training mode, where BatchNorm and Dropout "
                "act otherwise than in use: call .eval() first"
            )
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != mg.float32:
            raise ExportError(f"{name} is {tensor.dtype}: expected float32 weights; call .float() first")


def _vary(graph: Graph, variant: Variant, subject: Subject) -> Graph:
    """The variant of a graph that computes in float32."""
    if variant.dtype == "int8":
        from minigan.export.int8 import quantize

        feeds = list(split(subject.draw(CALIBRATION, "calibration"), CALIBRATION // 16))
        graph = quantize(graph, feeds, variant.fp32_edges, variant.optimize)
    if variant.dtype == "fp16":
        compute_float16(graph)
    elif variant.dtype == "fp16-storage" or variant.optimize == "size":
        store_float16(graph)
    if variant.output == "uint8":
        as_uint8(graph)
    graph.prune()
    return graph


def _imported_proof(subject: Subject, graph: Graph) -> dict[str, str] | None:
    """The proof of the file that a module was imported from, if the file would be the same again."""
    before = subject.module._graph.metadata if isinstance(subject.module, OnnxModule) else {}
    same = all(before.get(name) == graph.metadata[name] for name in ("sha256", "variant"))
    return {name: before[name] for name in ("proof", "rounding")} if same and "rounding" in before else None


def _proof(subject: Subject, variant: Variant) -> str:
    """Some of the engine's own output values, which the file must give wherever it is run."""
    samples = subject.run(subject.draw(PROOF_LATENTS, "verify", psi=PSI))
    if variant.output == "uint8":
        if finite(samples).min() >= 0 and samples.max() > 0.5:  # as behind a sigmoid
            raise ExportError("uint8 is made of values in [-1, 1]: these are all above 0; end with 2 * x - 1")
        samples = pixels(samples)
    flat = samples.reshape(len(samples), -1)
    values = np.take_along_axis(flat, proof_positions(flat.shape[1]), 1).astype("<f4")
    return base64.b64encode(values.tobytes()).decode()

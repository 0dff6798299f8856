"""Opening a file in ONNX Runtime: on which device, on how many threads, and what is said when that cannot be."""

from __future__ import annotations

import io
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from minigan.export.graph import OnnxError

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
NAMES = {CPU: "cpu", CUDA: "cuda", TENSORRT: "tensorrt"}
PROVIDERS = {"auto": (CUDA, CPU), "cpu": (CPU,), "cuda": (CUDA, CPU), "tensorrt": (TENSORRT, CUDA, CPU)}


def open_session(
    path: Path,
    provider: str = "cpu",
    threads: int | None = None,
    require_provider: bool = False,
    spinning: bool = True,
) -> Any:
    """An `onnxruntime.InferenceSession`; see `minigan.export.runner.Generator` for what the settings mean."""
    if provider not in PROVIDERS:
        raise ValueError(f"provider: got {provider!r}, expected one of {', '.join(PROVIDERS)}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads: got {threads}, expected at least 1")
    path.open("rb").close()  # a file that is missing or forbidden is said more plainly than by ONNX Runtime
    runtime = _runtime(path)
    available = runtime.get_available_providers()
    usable = [one for one in PROVIDERS[provider] if one in available]
    if usable != [CPU] and hasattr(runtime, "preload_dlls"):
        with redirect_stdout(sys.stderr):  # where it complains of libraries that it does not find
            runtime.preload_dlls()
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, and need not be printed as well
    if threads is not None:
        options.intra_op_num_threads = threads
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        with redirect_stdout(io.StringIO()):  # where it says that it tries another provider, for any error
            session = runtime.InferenceSession(str(path), options, providers=usable)
    except Exception as error:  # ONNX Runtime's own classes, which share no base but this
        raise OnnxError(f"{path}: not an ONNX model that onnxruntime can load: {reason(error)}") from None
    wanted, got = usable[0] if provider == "auto" else PROVIDERS[provider][0], session.get_providers()[0]
    if got != wanted:
        why = "found no GPU or not all of CUDA's libraries" if wanted in available else "was built without it"
        message = f"{path}: asked for {wanted}, runs on {got}: this onnxruntime {why} (see minigan[cuda13])"
        if require_provider:
            raise OnnxError(message)
        if provider != "auto":
            warnings.warn(message, stacklevel=3)
    return session


def reason(error: Exception) -> str:
    """The first line of what ONNX Runtime says, without its number.

    >>> reason(Exception("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Protobuf parsing failed.\\nmore"))
    'Protobuf parsing failed.'
    """
    return (str(error).splitlines() or [""])[0].split(" : ", 3)[-1]


def _runtime(path: Path) -> ModuleType:
    try:
        import onnxruntime
    except ImportError:
        raise ImportError(f"{path}: needs onnxruntime; install it with: pip install 'minigan[cpu]'") from None
    return onnxruntime

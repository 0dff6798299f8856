"""The commands that take a generator out of its run: export, verify."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from minigan.cli.common import RunPath, output
from minigan.cli.looking import Best, Step

if TYPE_CHECKING:
    from minigan.export.verify import Report


def export(
    run: RunPath,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", show_default="generator.onnx in the run", help="The file to write.")
    ] = None,
    dtype: Annotated[
        Literal["fp32", "fp16", "fp16-storage", "int8"], typer.Option(help="How weights are kept and numbers computed.")
    ] = "fp32",
    pixels: Annotated[
        Literal["float", "uint8"],
        typer.Option("--output", help="Images as (batch, C, H, W) in [-1, 1], or as (batch, H, W, C) pixels."),
    ] = "float",
    optimize: Annotated[Literal["speed", "size"], typer.Option(help="What int8 and storage are chosen for.")] = "speed",
    fp32_edges: Annotated[
        bool, typer.Option("--fp32-edges", help="With int8: the first and the last layer in float32.")
    ] = False,
    psi: Annotated[
        bool, typer.Option("--psi", help="Add an input psi that truncates: latents are multiplied by it.")
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="The weights as trained, not their moving average.")] = False,
    opset: Annotated[int, typer.Option(min=17, max=23, help="Of ONNX's operators; 17 loads everywhere.")] = 17,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Leave out the check; the file says so.")] = False,
    web: Annotated[Path | None, typer.Option(help="Write a web page that runs it to this folder, too.")] = None,
    ort_web: Annotated[
        Path | None, typer.Option(help="With --web: take ONNX Runtime's files from this npm package folder.")
    ] = None,
    triton: Annotated[
        Path | None, typer.Option(help="Write a model repository for Triton to this folder, too.")
    ] = None,
    step: Step = None,
    best: Best = False,
) -> None:
    """Write a run's generator as an ONNX file, and verify it.

    The file loads in ONNX Runtime from 1.15 on and in browsers. It is checked against the engine, and not kept if it
    differs.
    """
    from minigan.export.exporter import Variant
    from minigan.export.runs import export_run

    if out is not None:
        output(out, ".onnx")
    _check_targets(web, ort_web, triton)
    variant = Variant(dtype, pixels, optimize, fp32_edges)
    path, report = export_run(
        run, out, step=step, best=best, ema=not raw, psi=psi, variant=variant, opset=opset, verified=not no_verify
    )
    print(_outcome(report), file=sys.stderr)
    print(path)
    if web is not None:
        from minigan.export.runs import sliders
        from minigan.export.web import write_page

        print(write_page(path, web, ort_web, sliders(run, step, best, not raw)))
    if triton is not None:
        from minigan.export.triton import write_repository

        print(write_repository(path, triton))


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A generator's .onnx file.")],
    run: Annotated[Path | None, typer.Option(help="The run that it was exported from.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report here too.")] = None,
) -> int:
    """Check that a generator's file still equals what was exported.

    256 latents, in batches of 1, 7 and 64, through ONNX Runtime and the engine. The exit code is 1 where they differ.
    """
    from minigan.export.runs import verify_run
    from minigan.export.verify import verify as verify_alone
    from minigan.files import write_atomically

    if json_file is not None:
        output(json_file, ".json")
    report = verify_alone(file) if run is None else verify_run(file, run)
    print(report.table())
    if json_file is not None:
        write_atomically(json_file, report.to_json().encode())
    return 0 if report.passed else 1


def _check_targets(web: Path | None, ort_web: Path | None, triton: Path | None) -> None:
    """Find out what cannot be written before the file is replaced."""
    if ort_web is not None and web is None:
        raise ValueError("--ort-web is for the page of --web; give both")
    if web is not None:
        from minigan.export.web import check_free, runtime_folder

        check_free(web.resolve())
        if ort_web is not None:
            runtime_folder(ort_web)
    if triton is not None:
        from minigan.export.triton import check_free as check_free_for_triton

        check_free_for_triton(triton)


def export_after_training(run: Path, quiet: bool) -> None:
    """What ends a training: generator.onnx in the run's folder, checked; or one line that says what is missing."""
    from minigan.export.runs import export_run

    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        way_out = f"pip install 'minigan[cpu]', then minigan export {run}"
        print(f"no generator.onnx: needs the package {error.name}: {way_out}", file=sys.stderr)
        return
    del onnx, onnxruntime
    path, report = export_run(run)
    if not quiet:
        print(f"{path}: {_outcome(report)}", file=sys.stderr)


def _outcome(report: Report | None) -> str:
    if report is None:
        return "not verified"
    closest = next(check for check in report.checks if check.name.startswith("batch 1:"))
    return f"verified: {closest.name.partition(': ')[2]} {closest.figure:.2g} (limit {closest.limit})"

"""`autodraft sparsify`: remove sub-layers, refit the rest; a smaller target, or a draft for the unchanged one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autodraft.cli import options
from autodraft.cli.failures import INTERRUPTED, reported_failures
from autodraft.errors import InputError

if TYPE_CHECKING:
    from autodraft.sparsify_job import SparsifyJob
    from autodraft.training.sparse_report import SparsifyReport


@reported_failures()
def sparsify(
    model: options.Model = None,
    keep: Annotated[float | None, typer.Option(help="Share of the attention and MLP sub-layers to keep.")] = None,
    as_draft: Annotated[
        bool, typer.Option("--as-draft", help="Refit a draft for the unchanged target, in place of a smaller target.")
    ] = False,
    policy: Annotated[
        str | None, typer.Option(help='What to keep, as "F. .F(8) ... | head 16", in place of --keep.')
    ] = None,
    bits: Annotated[
        int | None, typer.Option(help="With --as-draft: bit-width that it is trained for and runs at.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="Training steps.")] = None,
    text: Annotated[list[Path] | None, typer.Option(help="Text file to train on; may be repeated.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of result and training.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the windows of text.")] = None,
    widen: options.Widen = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    backend: options.Backend = None,
    revision: options.Revision = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting; may be repeated.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Remove whole sub-layers by a group penalty, refit the rest by distillation, and say what it costs.

    The result is a smaller Hugging Face checkpoint, a different model; or, with --as-draft, a profile for the unchanged
    model whose draft has refitted weights. Running the same command again resumes it.
    """
    from autodraft.configuration import parse_assignments
    from autodraft.sparsify_job import sparsify_job

    flags: dict[str, Any] = {
        "model": model,
        "keep": keep,
        "as_draft": as_draft or None,
        "policy": policy,
        "bits": bits,
        "steps": steps,
        "text": tuple(text) if text else None,
        "output": output,
        "seed": seed,
        "widen": widen,
        "dtype": dtype,
        "device": device,
        "backend": backend,
        "revision": revision,
        **parse_assignments(set_ or []),
    }
    report = _run(sparsify_job({name: value for name, value in flags.items() if value is not None}))
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
        return
    from rich.console import Console

    from autodraft.report.sparsify_table import sparsify_renderable

    Console().print(sparsify_renderable(report.to_json()))


def _run(job: SparsifyJob) -> SparsifyReport:
    from autodraft.cli.loading import quiet_libraries
    from autodraft.cli.progress import TrainingDisplay
    from autodraft.configuration import resolve_model

    resolve_model(job.model)
    if job.output_folder.is_file():
        raise InputError(f"--output {job.output_folder} is a file; give a folder")
    quiet_libraries()
    from autodraft.training.sparsify import sparsify as run_job

    typer.echo(f"sub-layers of {job.model}; output goes to {job.output_folder}", err=True)
    try:
        with TrainingDisplay() as display:
            return run_job(job, display.update)
    except KeyboardInterrupt as error:
        typer.echo("interrupted; run the same command to resume", err=True)
        raise typer.Exit(INTERRUPTED) from error

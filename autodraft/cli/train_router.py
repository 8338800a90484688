"""`autodraft train-router`: a router that picks each token's blocks, of the target or refitted together with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autodraft.cli import options
from autodraft.cli.failures import INTERRUPTED, reported_failures

if TYPE_CHECKING:
    from autodraft.runtime import LoadedModel


@reported_failures()
def train_router(
    model: options.Model = None,
    cost: Annotated[float | None, typer.Option(help="Share of the blocks that a token runs on average.")] = None,
    unit: Annotated[str | None, typer.Option(help="What one step of a route runs: block or sub-layer.")] = None,
    reuse: Annotated[int | None, typer.Option(min=0, help="Steps that a route may go back.")] = None,
    start: Annotated[
        str | None, typer.Option(help='First route as a policy, "FF .F .. | head 16"; found if not given.')
    ] = None,
    train_blocks: Annotated[
        bool, typer.Option("--train-blocks", help="Refit copies of the blocks together with the router.")
    ] = False,
    bits: Annotated[int | None, typer.Option(help="Bit-width of the draft's blocks: 4, 8 or 16.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    text: Annotated[list[Path] | None, typer.Option(help="UTF-8 file of prompts' text; may be repeated.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of router, checkpoint and logs.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything that is drawn.")] = None,
    widen: options.Widen = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    backend: options.Backend = None,
    revision: options.Revision = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of the training; may be repeated."),
    ] = None,
    json_: options.Json = False,
) -> None:
    """Train a router for drafts whose path differs from token to token (radial networks), and write their profile.

    `autodraft generate --profile` decodes with it. Running the same command again resumes the training.
    """
    from autodraft.configuration import parse_assignments
    from autodraft.router_job import router_job

    flags: dict[str, Any] = {
        "model": model,
        "cost": cost,
        "unit": unit,
        "reuse": reuse,
        "start": start,
        "train_blocks": train_blocks or None,
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
    }
    given = {name: value for name, value in flags.items() if value is not None}
    _run(router_job({**parse_assignments(set_ or []), **given}), json_)


def _run(job: Any, as_json: bool) -> None:
    from autodraft.cli.loading import load_target
    from autodraft.cli.progress import RouterDisplay

    def load(widen: int) -> LoadedModel:
        return load_target(job.model, None, **{**job.loading, "widen": widen})

    loaded = load(1)
    from autodraft.training.radial.routed_draft import write_profile
    from autodraft.training.radial.run import train_router

    typer.echo(f"training a router for {job.cost:g} of {job.model}'s blocks; output: {job.output_folder}", err=True)
    try:
        with RouterDisplay() as display:
            summary = train_router(job, loaded, display.update, display.search)
            display.profile()
            profile = write_profile(job, loaded if job.widen == 1 else load(job.widen))
    except KeyboardInterrupt as error:
        typer.echo("interrupted; run the same command to resume", err=True)
        raise typer.Exit(INTERRUPTED) from error
    typer.echo(summary.read_text(encoding="utf-8") if as_json else profile)

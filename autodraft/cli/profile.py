"""`autodraft profile show|validate|schema`: read a profile, check it, print the format's JSON Schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from autodraft.cli import options
from autodraft.cli.failures import reported_failures

profile_app = typer.Typer(help="Show, check and describe draft profiles.", no_args_is_help=True)

ProfilePath = Annotated[Path, typer.Argument(help="A profile.json.", show_default=False)]


@profile_app.command()
@reported_failures()
def show(path: ProfilePath, as_json: options.Json = False) -> None:
    """Print what a profile says."""
    from autodraft.profile import DraftProfile

    profile = DraftProfile.load(path)
    if as_json:
        typer.echo(profile.model_dump_json(indent=2))
        return
    from rich.console import Console

    from autodraft.report.profile_table import profile_renderable

    Console().print(profile_renderable(profile))


@profile_app.command()
@reported_failures()
def validate(path: ProfilePath, model: options.Model = None, widen: options.Widen = None) -> None:
    """Check a profile's format and content, with --model also whether it belongs to that model."""
    from autodraft.profile import DraftProfile
    from autodraft.report.profile_table import one_line

    profile = DraftProfile.load(path)
    if model is not None:
        from autodraft.cli.loading import load_target

        loaded = load_target(model, profile, widen=widen)
        spec = loaded.runtime.spec
        profile.check_target(loaded.fingerprint, spec.num_blocks, spec.num_kv_heads, loaded.widen)
    typer.echo(f"{path}: valid; {one_line(profile)}")


@profile_app.command()
@reported_failures()
def schema() -> None:
    """Print the JSON Schema (2020-12) of a profile."""
    from autodraft.profile import profile_schema

    typer.echo(json.dumps(profile_schema(), indent=2))

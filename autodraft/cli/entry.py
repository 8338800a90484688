"""The commands put together: `app` for Typer and its test runner, `main` for the console script."""

from __future__ import annotations

import platform
from typing import Annotated

import typer

from autodraft import __version__
from autodraft.cli.analyze import analyze
from autodraft.cli.bench import bench
from autodraft.cli.failures import report_warnings
from autodraft.cli.generate import generate
from autodraft.cli.information import device, models
from autodraft.cli.profile import profile_app
from autodraft.cli.search import search
from autodraft.cli.simulate import simulate
from autodraft.cli.sparsify import sparsify
from autodraft.cli.train_controller import train_controller
from autodraft.cli.train_router import train_router

app = typer.Typer(
    name="autodraft",
    help="Search a self-speculative draft for a causal LM on this device, and decode with it losslessly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(search)
app.command()(train_controller)
app.command()(train_router)
app.command()(generate)
app.command()(bench)
app.command()(simulate)
app.command()(analyze)
app.command()(sparsify)
app.add_typer(profile_app, name="profile")
app.command()(models)
app.command()(device)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"autodraft {__version__} (Python {platform.python_version()})")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Search a self-speculative draft for a causal LM on this device, and decode with it losslessly."""
    report_warnings()


def main() -> None:
    """The console script `autodraft`."""
    app()

"""`autodraft train-controller`: an agent that learns to decide policies for any budget, saved to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from autodraft.cli import options
from autodraft.cli.failures import INTERRUPTED, reported_failures


@reported_failures()
def train_controller(
    model: options.Model = None,
    algorithm: Annotated[
        str | None, typer.Option(help="maskable-ppo, ppo, a2c, ddpg, td3, sac or hierarchical.")
    ] = None,
    episodes: Annotated[int | None, typer.Option(min=1, help="Policies to learn from.")] = None,
    tune: Annotated[int | None, typer.Option(min=0, help="Hyper-parameters that Optuna tries first.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of agent, checkpoint and logs.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything that is drawn.")] = None,
    widen: options.Widen = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    backend: options.Backend = None,
    byte_planes: options.BytePlanes = None,
    revision: options.Revision = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Hyper-parameter of the agent; may be repeated."),
    ] = None,
) -> None:
    """Train a controller on predictions, for `autodraft search --controller`.

    Running the same command again resumes the training, and with more episodes continues it.
    """
    from autodraft.configuration import parse_assignments
    from autodraft.controller_job import controller_job

    flags: dict[str, Any] = {
        "model": model,
        "algorithm": algorithm,
        "episodes": episodes,
        "tune": tune,
        "output": output,
        "seed": seed,
        "widen": widen,
        "dtype": dtype,
        "device": device,
        "backend": backend,
        "byte_planes": byte_planes,
        "revision": revision,
        "settings": parse_assignments(set_ or []),
    }
    job = controller_job({name: value for name, value in flags.items() if value is not None})
    _run(job)


def _run(job: Any) -> None:
    from autodraft.cli.loading import quiet_libraries
    from autodraft.cli.progress import SearchDisplay
    from autodraft.configuration import resolve_model

    resolve_model(job.model)
    quiet_libraries()
    from autodraft.search.agents import run

    run.training_options(job)
    typer.echo(f"training {job.algorithm} on {job.model}; output goes to {job.output_folder}", err=True)
    try:
        with SearchDisplay() as display:
            path = run.train_controller(job, display.update)
    except KeyboardInterrupt as error:
        typer.echo("interrupted; run the same command to resume", err=True)
        raise typer.Exit(INTERRUPTED) from error
    typer.echo(path)

"""`autodraft search`: a search job from YAML and options, run with progress on stderr."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from autodraft.cli import options
from autodraft.cli.failures import INTERRUPTED, reported_failures

_SEARCHERS = (
    "staged, random, tpe, gp, cmaes, nsga2, evolution, knapsack, or an agent: "
    "ppo, maskable-ppo, a2c, ddpg, td3, sac or hierarchical."
)


@reported_failures()
def search(
    model: options.Model = None,
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="YAML file, or default, quick or thorough.")
    ] = None,
    searcher: Annotated[str | None, typer.Option(help=_SEARCHERS)] = None,
    controller: Annotated[
        Path | None, typer.Option(help="Agent file of `train-controller` that decides, in place of a searcher.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Longest draft step, in target steps, that the controller decides for.")
    ] = None,
    refitted: Annotated[
        list[Path] | None,
        typer.Option(help="Folder or profile that `sparsify --as-draft` wrote, as a further draft; may be repeated."),
    ] = None,
    router: Annotated[
        list[Path] | None,
        typer.Option(help="Folder or profile that `train-router` wrote, as a further draft; may be repeated."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="What the profile is for, measured at it; 0 is greedy.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Policies to evaluate.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Wall-clock limit of the whole search.")] = None,
    objectives: Annotated[str | None, typer.Option(help="speedup, or speedup,memory.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of study and profile.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the searcher.")] = None,
    widen: options.Widen = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    backend: options.Backend = None,
    byte_planes: options.BytePlanes = None,
    revision: options.Revision = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting; may be repeated.")
    ] = None,
    show_config: Annotated[bool, typer.Option("--show-config", help="Print the resolved settings and stop.")] = False,
) -> None:
    """Search the fastest lossless cascade for a model on this device and export its profile.

    Running the same command again resumes the search where it stopped.
    """
    from autodraft.configuration import load_search_job, parse_assignments

    flags: dict[str, Any] = {
        "model": model,
        "searcher": searcher,
        "controller": controller,
        "budget": budget,
        "refitted": tuple(refitted) if refitted else None,
        "routers": tuple(router) if router else None,
        "temperature": temperature,
        "num_trials": trials,
        "budget_minutes": minutes,
        "objectives": objectives.split(",") if objectives else None,
        "output": output,
        "seed": seed,
        "widen": widen,
        "dtype": dtype,
        "device": device,
        "backend": backend,
        "byte_planes": byte_planes,
        "revision": revision,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    job = load_search_job(config, {**parse_assignments(set_ or []), **given})
    if show_config:
        typer.echo(job.to_yaml(), nl=False)
        return
    _run(job)


def _run(job: Any) -> None:
    from autodraft.cli.loading import quiet_libraries
    from autodraft.cli.progress import SearchDisplay
    from autodraft.configuration import resolve_model
    from autodraft.report.profile_table import one_line

    path = job.output_folder / "profile.json"
    entry = resolve_model(job.model)
    if job.controller is not None:
        from autodraft.search.agents.files import read_card

        read_card(job.controller.expanduser())
    if job.refitted or job.routers:
        from autodraft.search.refitted import read_refitted
        from autodraft.search.routed import read_routed

        for given in job.refitted:
            read_refitted(given)
        for given in job.routers:
            read_routed(given)
    widened = f", widened {job.widen * entry.widen} times" if job.widen * entry.widen > 1 else ""
    typer.echo(f"{job.model} is {entry.path_or_id}{widened}; output goes to {job.output_folder}", err=True)
    quiet_libraries()
    from autodraft.search import run_search

    try:
        with SearchDisplay() as display:
            profile = run_search(job, display.update)
    except KeyboardInterrupt as error:
        best = f"; the best so far is in {path}" if path.is_file() else ""
        typer.echo(f"interrupted{best}; run the same command to resume", err=True)
        raise typer.Exit(INTERRUPTED) from error
    typer.echo(one_line(profile), err=True)
    typer.echo(path)

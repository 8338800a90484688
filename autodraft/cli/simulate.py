"""`autodraft simulate`: what schedulers would achieve in a world of synthetic drafts. No model is involved."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autodraft.cli import options
from autodraft.cli.failures import reported_failures
from autodraft.errors import InputError

if TYPE_CHECKING:
    from autodraft.simulation import World


@reported_failures()
def simulate(
    world: Annotated[str, typer.Option(help="Name of a shipped world, or a YAML file.")] = "llama-70b-h100",
    schedulers: Annotated[
        str, typer.Option(help="Names with commas between.")
    ] = "chain,static-tree,vertical,horizontal,vertical+horizontal,dytc",
    alpha: Annotated[float | None, typer.Option(help="Acceptance of the world's first draft, in its place.")] = None,
    cost: Annotated[float | None, typer.Option(help="Cost of its step over one token, in target steps.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to decode with each scheduler.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the text and of the drafts.")] = 0,
    guarded: Annotated[bool, typer.Option("--guarded", help="Let fixed plans pause while they do not pay.")] = False,
    as_json: options.Json = False,
) -> None:
    """Predict what schedulers gain with drafts of given acceptance and cost, by simulating them without a model."""
    from autodraft.simulation import Truth, default_schedule, load_world
    from autodraft.simulation import simulate as simulate_schedule

    chosen = _changed(load_world(world), alpha, cost)
    names = [name.strip() for name in schedulers.split(",")]
    schedules = {name: default_schedule(chosen, name) for name in names}
    truth = Truth(chosen, seed)
    rows = [
        {
            "scheduler": name,
            **simulate_schedule(chosen, schedule, num_tokens=tokens, truth=truth, guarded=guarded).to_json(),
        }
        for name, schedule in schedules.items()
    ]
    document = {
        "fidelity": "predicted",
        "world": world,
        "seed": seed,
        "guarded": guarded,
        "settings": chosen.model_dump(mode="json", exclude_defaults=True),
        "rows": rows,
    }
    if as_json:
        typer.echo(json.dumps(document, indent=2, allow_nan=False))
        return
    from rich.console import Console

    from autodraft.report.simulation_table import simulation_renderable

    Console().print(simulation_renderable(document))


def _changed(world: World, alpha: float | None, cost: float | None) -> World:
    """A world whose first draft has another acceptance, or another cost at every number of rows in proportion."""
    from autodraft.simulation.loading import checked_world

    given = {name: value for name, value in (("--alpha", alpha), ("--cost", cost)) if value is not None}
    if not given:
        return world
    if world.ladder is not None:
        raise InputError(f"{next(iter(given))}: this world's first drafts are a ladder; change its file instead")
    first: dict[str, Any] = world.drafts[0].model_dump()
    if alpha is not None:
        first |= {"alpha": alpha, "phases": ()}
    if cost is not None:
        if "cost" not in first:
            raise InputError(f"--cost: the first draft, {first['name']}, is free")
        curve = first["cost"]
        first["cost"] = {rows: steps * cost / curve[min(curve)] for rows, steps in curve.items()}
    drafts = [first, *(draft.model_dump() for draft in world.drafts[1:])]
    return checked_world({**world.model_dump(), "drafts": drafts}, ", ".join(given))

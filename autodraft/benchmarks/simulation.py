"""`dytc` against the best static schedule over a grid of synthetic drafts, for the record in reports/.

Run as `python -m autodraft.benchmarks.simulation`. Knows nothing of models: every figure is predicted by simulation,
with the product's own schedulers. Static schedules are chosen in hindsight, by simulating all of them; `dytc` starts
from a draft's mean acceptance and costs, as it does from a profile, and learns the rest.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from autodraft.benchmarks.writing import command_line, report_parser, write_report
from autodraft.cascade import Chain, DyTC
from autodraft.measure import formulas
from autodraft.simulation import (
    Entry,
    FreeDraft,
    ModelDraft,
    Phase,
    Runs,
    Schedule,
    Truth,
    World,
    best_static,
    simulate,
)

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
COSTS = (0.05, 0.1, 0.2, 0.35, 0.6)
REQUIRED = 0.97
VERIFY_COST = {1: 1.0, 4: 1.05, 8: 1.1, 16: 1.25, 32: 1.7, 64: 3.0}
_GROWTH = {1: 1.0, 8: 1.1, 16: 1.25, 32: 1.7}  # of a draft's step, by its query tokens
_LONGEST = 24
_PHASE_TOKENS = 60


def alike(alpha: float, cost: float) -> World:
    """One draft whose tokens are all equally likely to be accepted."""
    return _world(_model(alpha, cost))


def confident(alpha: float, cost: float) -> World:
    """One draft that knows which of its tokens are good, with second choices."""
    return _world(_model(alpha, cost, concentration=3.0, second=0.4))


def with_lookup(alpha: float, cost: float) -> World:
    """The same draft, and below it a free one whose matches come in runs."""
    lookup = FreeDraft(name="lookup", alpha=0.35, runs=Runs(length=8), min_match=1, num_draft_tokens=8)
    return _world(_model(alpha, cost, concentration=3.0, second=0.4), lookup)


def drifting(alpha: float, cost: float) -> World:
    """One draft, its acceptance above and below `alpha` in turns, by as much as its distance from 1 allows."""
    swing = min(0.3, 0.97 - alpha, alpha)
    phases = tuple(Phase(tokens=_PHASE_TOKENS, alpha=alpha + sign * swing) for sign in (1, -1))
    return _world(_model(alpha, cost, phases=phases))


FAMILIES: Mapping[str, Callable[[float, float], World]] = {
    function.__name__: function for function in (alike, confident, with_lookup, drifting)
}


@dataclass(frozen=True)
class Point:
    """One comparison: a kind of world, its parameters, and the texts."""

    family: str
    alpha: float
    cost: float
    num_tokens: int
    trial_tokens: int
    seed: int


def points(families: Iterable[str], *, num_tokens: int, trial_tokens: int, seed: int) -> list[Point]:
    """All pairs of alpha and cost in worlds of these kinds."""
    return [
        Point(family, alpha, cost, num_tokens, trial_tokens, seed)
        for family in families
        for alpha in ALPHAS
        for cost in COSTS
    ]


def compare(point: Point) -> dict[str, Any]:
    """One point of the grid: the best static schedule, and `dytc` on the same text."""
    world = FAMILIES[point.family](point.alpha, point.cost)
    best = best_static(world, num_tokens=point.num_tokens, trial_tokens=point.trial_tokens, seed=point.seed)
    schedule = Schedule(DyTC(), tuple(Entry(number, _LONGEST) for number in range(len(world.all_drafts))))
    dynamic = simulate(world, schedule, num_tokens=point.num_tokens, truth=point.seed)
    return {
        "family": point.family,
        "alpha": point.alpha,
        "cost": point.cost,
        "best_static": best.schedule.describe(world),
        "num_tried": best.num_tried,
        "static": best.simulation.to_json(),
        "dytc": dynamic.to_json(),
        "ratio": dynamic.speedup / best.simulation.speedup,
    }


def closed_forms(num_tokens: int, seed: int) -> list[dict[str, Any]]:
    """Chains in the simulator beside the formula."""
    rows = []
    for alpha, length, cost in ((0.6, 2, 0.1), (0.8, 4, 0.2), (0.9, 8, 0.05)):
        world = World(verify_cost=VERIFY_COST, drafts=(ModelDraft(name="draft", alpha=alpha, cost={1: cost}),))
        chain = Schedule(Chain(), (Entry(0, length),))
        simulated = simulate(world, chain, num_tokens=num_tokens, truth=Truth(world, seed)).speedup
        formula = formulas.chain_speedup(alpha, length, cost, _verify_cost(length + 1))
        rows.append({"alpha": alpha, "length": length, "cost": cost, "simulated": simulated, "formula": formula})
    return rows


def to_markdown(document: Mapping[str, Any]) -> str:
    """The report from its JSON."""
    lines = [
        "# DyTC against the best static schedule",
        "",
        f"`{document['command']}`",
        "",
        "All figures are predicted by simulation: the product's schedulers over synthetic drafts. Ratio: `dytc` over",
        f"the best of all static schedules that were tried, on the same {document['num_tokens']} tokens.",
        f"Required: {REQUIRED} everywhere, and more than 1 where acceptance drifts.",
        "",
        "## Closed forms",
        "",
        *_table(
            ("alpha", "tokens", "c", "simulated", "formula"),
            (
                (
                    f"{row['alpha']}",
                    f"{row['length']}",
                    f"{row['cost']}",
                    *(f"{row[k]:.4f}" for k in ("simulated", "formula")),
                )
                for row in document["closed_forms"]
            ),
        ),
    ]
    for family in dict.fromkeys(row["family"] for row in document["rows"]):
        rows = [row for row in document["rows"] if row["family"] == family]
        lines += ["", f"## {family}", "", _summary(family, rows), "", *_table(_HEADER, map(_cells, rows))]
    return "\n".join(lines) + "\n"


_HEADER = ("alpha", "c", "best static schedule", "speedup", "tau", "dytc", "tau", "ratio")


def _summary(family: str, rows: Sequence[Mapping[str, Any]]) -> str:
    ratios = [row["ratio"] for row in rows]
    below = sum(ratio < REQUIRED for ratio in ratios)
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    description = (FAMILIES[family].__doc__ or "").strip()
    return (
        f"{description} Ratio {min(ratios):.3f} to {max(ratios):.3f}, geometric mean {mean:.3f}; below {REQUIRED}:"
        f" {below} of {len(ratios)}; above 1: {sum(ratio > 1 for ratio in ratios)}."
    )


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    static, dynamic = row["static"], row["dytc"]
    ratio = f"{row['ratio']:.3f}"
    return (
        f"{row['alpha']}",
        f"{row['cost']}",
        row["best_static"],
        f"{static['speedup']:.3f}",
        f"{static['tokens_per_cycle']:.2f}",
        f"{dynamic['speedup']:.3f}",
        f"{dynamic['tokens_per_cycle']:.2f}",
        f"**{ratio}**" if row["ratio"] < REQUIRED else ratio,
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _model(alpha: float, cost: float, **settings: Any) -> ModelDraft:
    curve = {rows: cost * growth for rows, growth in _GROWTH.items()}
    return ModelDraft(name="draft", alpha=alpha, cost=curve, **settings)


def _world(*drafts: ModelDraft | FreeDraft) -> World:
    return World(verify_cost=VERIFY_COST, drafts=drafts)


def _verify_cost(rows: int) -> float:
    """Straight between the points of `VERIFY_COST`."""
    points = sorted(VERIFY_COST.items())
    for (low, before), (high, after) in pairwise(points):
        if low <= rows <= high:
            return before + (after - before) * (rows - low) / (high - low)
    raise ValueError(f"no verify cost of {rows} rows")


def _arguments() -> argparse.Namespace:
    parser = report_parser("simulation", __doc__, output="reports/simulation")
    parser.add_argument("--tokens", type=int, default=30_000, help="length of the text that counts")
    parser.add_argument(
        "--trial-tokens", type=int, default=3_000, help="length of the text that schedules are chosen on"
    )
    parser.add_argument("--families", default=",".join(FAMILIES), help="kinds of worlds, with commas between")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Run the grid and write the report."""
    arguments = _arguments()
    families = arguments.families.split(",")
    grid = points(families, num_tokens=arguments.tokens, trial_tokens=arguments.trial_tokens, seed=arguments.seed)
    rows = []
    with ProcessPoolExecutor(arguments.processes) as pool:
        for row in pool.map(compare, grid):
            print(f"{row['family']} {row['alpha']} {row['cost']}: {row['ratio']:.3f}", file=sys.stderr, flush=True)
            rows.append(row)
    document = {
        "command": command_line("simulation"),
        "fidelity": "predicted",
        "num_tokens": arguments.tokens,
        "closed_forms": closed_forms(10 * arguments.tokens, arguments.seed),
        "rows": rows,
    }
    write_report(Path(arguments.output), document, to_markdown)


if __name__ == "__main__":
    main()

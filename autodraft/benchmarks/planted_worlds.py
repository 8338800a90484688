"""Agents on worlds whose best policy is known by brute force, for the record in reports/.

Run as `python -m autodraft.benchmarks.planted_worlds`. Knows nothing of models: ten sub-layers with four choices each,
and a head. In the second world an MLP in the middle is the most dispensable sub-layer and stands in the way of dropping
the attentions around it, so skipping greedily fails. Counted are different policies evaluated until one has 98 % of the
best speedup. The program goes on where it was stopped.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import InMemoryStorage

from autodraft.benchmarks.writing import command_line, report_parser
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.report.files import report_file, write_document
from autodraft.search.agents.algorithms import AGENTS
from autodraft.search.loop import Clock, SearchLoop
from autodraft.search.objectives import Objectives
from autodraft.search.pipeline import PipelineOptions, explore_policies
from autodraft.search.study import SearchStudy
from autodraft.search.testing import PlantedEvaluator

WORLDS: Mapping[str, Mapping[str, float]] = {"additive": {}, "hub": {"hub": 0.5}}
METHODS = (*AGENTS, "staged", "evolution", "knapsack", "random")
REQUIRED = 0.98
_NUM_BLOCKS = 5


def greedy_skipping(world: PlantedEvaluator) -> float:
    """From each uniform bit-width skip the sub-layer whose loss hurts least, as long as that pays; the best of all."""
    best = 0.0
    for bits in world.features.available_bits:
        policy = DraftPolicy.uniform(world.features.num_blocks, bits)
        speedup = world.predict(policy).speedup
        while True:
            kept = [index for index, shares in enumerate(policy.sub_layers) if not shares.is_skipped]
            shorter = [policy.replace({index: ChannelShares()}) for index in kept]
            following = max(shorter, key=lambda candidate: world.predict(candidate).speedup)
            if world.predict(following).speedup <= speedup:
                break
            policy, speedup = following, world.predict(following).speedup
        best = max(best, speedup)
    return best


def shares_of_optimum(
    world: PlantedEvaluator, method: str, seed: int, num_evaluations: int, optimum: float
) -> list[float]:
    """Best share of the optimum after each different policy."""
    loop = SearchLoop(SearchStudy(InMemoryStorage(), method, Objectives()), world, Clock(None))
    explore_policies(loop, PipelineOptions(method, num_evaluations, seed))
    best, shares = 0.0, []
    for _, evaluation in loop.predicted.values():
        best = max(best, evaluation.speedup / optimum)
        shares.append(best)
    return shares


def row(world_name: str, method: str, seed: int, num_evaluations: int, optimum: float) -> dict[str, Any]:
    """One search in one world."""
    world = PlantedEvaluator(_NUM_BLOCKS, seed, **WORLDS[world_name])  # type: ignore[arg-type]
    started = time.perf_counter()
    shares = shares_of_optimum(world, method, seed, num_evaluations, optimum)
    return {
        "world": world_name,
        "method": method,
        "seed": seed,
        "found": shares[-1],
        "reached_at": next((number for number, share in enumerate(shares, start=1) if share >= REQUIRED), None),
        "num_evaluations": len(shares),
        "seconds": time.perf_counter() - started,
    }


def markdown(document: Mapping[str, Any]) -> str:
    """The report from its JSON."""
    lines = [
        "# Agents on worlds with a known best policy",
        "",
        f"`{document['command']}`",
        "",
        f"Ten sub-layers, four choices each, and a head; at most {document['num_evaluations']} different policies,"
        f" {document['seeds']} seeds. Predicted by construction: nothing here was measured on a device.",
    ]
    for name in WORLDS:
        optima = [entry for entry in document["optima"] if entry["world"] == name]
        greedy = [entry["greedy"] / entry["optimum"] for entry in optima]
        lines += [
            "",
            f"## {name}",
            "",
            f"Greedy skipping finds {100 * min(greedy):.1f} to {100 * max(greedy):.1f} % of the optimum.",
            "",
            "| method | seeds that reach 98 % | policies until then, each seed | least found |",
            "|---|---|---|---|",
            *_rows([entry for entry in document["rows"] if entry["world"] == name]),
        ]
    return "\n".join(lines) + "\n"


def _rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for method in sorted({entry["method"] for entry in rows}, key=METHODS.index):
        mine = [entry for entry in rows if entry["method"] == method]
        reached = [entry["reached_at"] for entry in mine]
        count = sum(number is not None for number in reached)
        numbers = ", ".join("-" if number is None else str(number) for number in reached)
        least = min(entry["found"] for entry in mine)
        yield f"| {method} | {count} of {len(mine)} | {numbers} | {100 * least:.1f} % |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Search what is missing, and write the report."""
    parser = report_parser("planted_worlds", __doc__, "reports/planted-worlds")
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--minutes", type=float, default=60.0, help="begin nothing new after this")
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    deadline = time.monotonic() + 60 * options.minutes
    path = report_file(options.output, ".json")
    document: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"optima": [], "rows": []}
    document |= {"num_evaluations": options.evaluations, "seeds": options.seeds}
    document["command"] = command_line("planted_worlds", arguments)
    optima = {(entry["world"], entry["seed"]): entry["optimum"] for entry in document["optima"]}
    known = {(entry["world"], entry["method"], entry["seed"]) for entry in document["rows"]}
    for name in WORLDS:
        for seed in range(options.seeds):
            if (name, seed) not in optima and time.monotonic() < deadline:
                world = PlantedEvaluator(_NUM_BLOCKS, seed, **WORLDS[name])  # type: ignore[arg-type]
                optima[name, seed] = world.optimum()
                entry = {"world": name, "seed": seed, "optimum": optima[name, seed], "greedy": greedy_skipping(world)}
                document["optima"].append(entry)
    for method in options.methods.split(","):
        for name, seed in optima:
            if (name, method, seed) not in known and time.monotonic() < deadline:
                print(f"{name}: {method}, seed {seed}", file=sys.stderr)
                document["rows"].append(row(name, method, seed, options.evaluations, optima[name, seed]))
                write_document(options.output, document, markdown)
    write_document(options.output, document, markdown)


if __name__ == "__main__":
    main()

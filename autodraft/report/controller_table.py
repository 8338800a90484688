"""The controllers' benchmark as Markdown.

Knows nothing of searching: it reads the benchmark's JSON. Predicted and measured figures stand in columns of their own.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from autodraft.report.controller_plot import value_at

CHECKPOINTS = (100, 300, 1000)
Document = Mapping[str, Any]


def controllers_markdown(document: Document, image: str) -> str:
    """The whole report."""
    device = document["device"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(device["versions"].items()))
    lines = [
        "# Learning controllers beside the other searchers",
        "",
        f"Model `{document['model']}`; every method sees the same calibration and the same predictions.",
        f"Device: {device['name']}, {device['threads']} threads, backend {device['backend']}; {versions}.",
        f"Command: `{document['command']}`",
    ]
    if document["searches"]:
        lines += _search_lines(document, image)
    if "measured" in document:
        lines += [
            "",
            "## Measured",
            "",
            "The best policy of seed 0 as a plain chain, all methods in one interleaved session on"
            f" {document['num_prompts']} held-out prompts (F2).",
            "In each pair of figures the predicted one comes first. Decoding pauses a chain where it does not pay, and",
            "cycles without drafts count: measured drafts per cycle and tau are lower for that reason too.",
            "",
            *_measured_table(document),
        ]
    if "budgets" in document:
        training = document["budgets"]["training"]
        lines += [
            "",
            "## One controller for every budget",
            "",
            f"MaskablePPO with hindsight, trained once on {training['episodes']} episodes whose budgets were drawn at",
            "random; then one rollout for each budget, which evaluates nothing. A search for a budget is the better",
            "one of MaskablePPO and evolution with that budget. Predicted speedups. How to train was decided on other",
            "budgets of the same model.",
            "",
            *_budget_table(document["budgets"]["rows"]),
        ]
    if "transfer" in document:
        lines += [
            "",
            f"## The same controller on another model: {document['transfer']['model']}",
            "",
            "Never trained there: it sees that model's calibration, and nothing else of it.",
            "",
            *_budget_table(document["transfer"]["rows"]),
        ]
    return "\n".join(lines) + "\n"


def _search_lines(document: Document, image: str) -> list[str]:
    return [
        "",
        "## Searches at equal numbers of evaluations",
        "",
        "Best predicted speedup (F1), mean over seeds and in brackets the worst seed. Seconds are those of one core",
        "for a search of full length, split into the method's own work and its evaluations. A search may end early",
        "when it has nothing new to ask.",
        "",
        f"![Best predicted speedup over evaluations]({image})",
        "",
        *_search_table(document),
        "",
        "The agents' hyper-parameters were chosen while looking at predicted speedups of this model, and the other",
        "methods were not tuned: the comparison favours the agents. The best of many predictions over a few hundred",
        "tokens is partly luck: compare methods by what was measured, and predictions only with one another.",
    ]


def _search_table(document: Document) -> Iterator[str]:
    rows = document["searches"]
    checkpoints = [number for number in CHECKPOINTS if number <= document["num_evaluations"]]
    checkpoints = checkpoints or [document["num_evaluations"]]
    header = [
        "method",
        "seeds",
        *(f"at {number}" for number in checkpoints),
        "of the best",
        "evaluations",
        "own s",
        "evaluations s",
    ]
    last = checkpoints[-1]
    final = {method: _mean(rows, method, last) for method in dict.fromkeys(row["method"] for row in rows)}
    best = max(final.values())

    def cells(method: str) -> list[str]:
        mine = [row for row in rows if row["method"] == method]
        found = [
            method,
            str(len(mine)),
            *(_score(rows, method, number) for number in checkpoints),
            f"{100 * final[method] / best:.1f} %",
        ]
        found += [
            f"{statistics.fmean(row[name] for row in mine):.0f}"
            for name in ("num_evaluations", "own_s", "evaluations_s")
        ]
        return found

    yield from _table(header, (cells(method) for method in sorted(final, key=lambda method: -final[method])))


def _mean(rows: Sequence[Document], method: str, number: int) -> float:
    values = [value_at(row["curve"], number) for row in rows if row["method"] == method]
    return statistics.fmean(value for value in values if value is not None)


def _score(rows: Sequence[Document], method: str, number: int) -> str:
    values = [value_at(row["curve"], number) or 0.0 for row in rows if row["method"] == method]
    return f"{statistics.fmean(values):.3f} ({min(values):.3f})"


def _measured_table(document: Document) -> Iterator[str]:
    """What was predicted and what was measured of each policy, the fastest first."""
    measured = document["measured"]
    predicted = {row["method"]: row["best"]["evaluation"] for row in document["searches"] if row["seed"] == 0}
    names = ("tokens_per_cycle", "num_draft_tokens", "cost", "verify_cost")
    header = ("method", "predicted", "measured", "interval", "alpha", "tau", "drafted per cycle", "c", "v")

    def cells(method: str) -> list[str]:
        before, after = predicted[method], measured[method]
        return [
            method,
            f"{before['speedup']:.3f}",
            f"{after['speedup']:.3f}",
            f"{after['ci_low']:.2f} to {after['ci_high']:.2f}",
            f"{after['alpha']:.2f}",
            *(f"{before[name]:.2f}, {after[name]:.2f}" for name in names),
        ]

    yield from _table(header, map(cells, sorted(measured, key=lambda method: -measured[method]["speedup"])))


def _budget_table(rows: Iterable[Document]) -> Iterator[str]:
    header = ("budget", "rollout", "c", "search", "by", "evaluations", "rollout / search", "policy of the rollout")

    def cells(row: Document) -> list[str]:
        rollout = row["rollout"]
        name, search = max(row["searches"].items(), key=lambda pair: pair[1]["speedup"])
        return [
            _budget(row),
            f"{rollout['speedup']:.3f}",
            f"{rollout['cost']:.3f}",
            f"{search['speedup']:.3f}",
            name,
            str(sum(other["num_evaluations"] for other in row["searches"].values())),
            f"{rollout['speedup'] / search['speedup']:.3f}",
            f"`{rollout['policy'].replace(' |', ',')}`",
        ]

    yield from _table(header, map(cells, rows))


def _budget(row: Document) -> str:
    if row["max_cost"] is not None:
        return f"c <= {row['max_cost']:.3f}"
    return f"{row['max_extra_bytes'] / 1e6:.2f} MB more"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"

"""Markdown of `autodraft.benchmarks.radial`. Knows nothing of measuring: everything comes from the JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def radial_markdown(document: Mapping[str, Any], image: str) -> str:
    """The whole report."""
    return "\n".join(_lines(document, image)) + "\n"


def _lines(document: Mapping[str, Any], image: str) -> Iterator[str]:
    device = document["device"]
    yield "# Routed drafts\n"
    yield f"Model `{document['model']}`. A router picks the blocks that are run token by token; the static policy runs"
    yield "the same ones for every token and is the best that greedy elimination and swaps found. Both were chosen on"
    yield "the same continuations of the target and are judged on continuations of prompts that neither has seen. The"
    yield "static policy may cost as much as the router's routes do there.\n"
    yield f"Device: {device['name']}, {device['threads']} threads, backend {device['backend']}.\n"
    yield f"Command: `{document['command']}`\n"
    yield "## Agreement at the same mean cost (predicted)\n"
    yield "cost: mean share of the blocks' weights that a token runs; +-: its standard deviation over tokens\n"
    yield "| routes of | asked | router: cost | +- | agreement | loss | static: cost | agreement | loss | policy |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in sorted(document["agreement"], key=lambda row: (row["unit"], row["cost"])):
        router, static = row["router"], row["static"]
        yield (
            f"| {row['unit']}s | {row['cost']:g} | {router['cost']:.3f} | {router['cost_deviation']:.3f}"
            f" | {router['agreement']:.3f} | {router['loss']:.3f} | {static['cost']:.3f} | {static['agreement']:.3f}"
            f" | {static['loss']:.3f} | `{row['policy']}` |"
        )
    yield f"\n![held-out agreement against cost]({image})"
    if "keys" in document:
        yield from _keys(document["keys"])
    for run in document.get("decode", ()):
        yield from _decoding(run)


def _keys(keys: Mapping[str, Any]) -> Iterator[str]:
    depths = len(next(iter(keys.values()))["by_depth"])
    yield "\n## Keys of the blocks that a drafted token passed by (predicted)\n"
    yield "masked: later drafted tokens do not see it there; projected: they see what the passing stream gives\n"
    yield "| keys | " + " | ".join(f"drafted token {depth + 1}" for depth in range(depths)) + " |"
    yield "|---" * (depths + 1) + "|"
    for name, row in keys.items():
        yield f"| {name} | " + " | ".join(f"{agreement:.3f}" for agreement in row["by_depth"]) + " |"


def _decoding(run: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n## Decoding, widened {run['widen']} times (measured)\n"
    yield f"{run['num_prompts']} held-out prompts, greedy; alpha: accepted over drafted tokens; c: a draft step over a"
    yield "target step, the router's own time included\n"
    yield "| cascade | speedup | interval | alpha | c | tokens per cycle | output the target's own |"
    yield "|---|---|---|---|---|---|---|"
    for name, row in run["cascades"].items():
        low, median, high = row["speedup"]
        alpha = "" if row["alpha"] is None else f"{row['alpha']:.2f}"
        cost = "" if row["cost"] is None else f"{row['cost']:.2f}"
        yield (
            f"| {name} | {median:.2f} | {low:.2f} to {high:.2f} | {alpha} | {cost}"
            f" | {row['tokens_per_cycle']:.2f} | {'yes' if row['identical'] else 'no'} |"
        )

"""Markdown of `autodraft.benchmarks.radial`. Knows nothing of measuring: everything comes from the JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    yield (
        "| routes of | asked | seed | steps | router: cost | +- | agreement | loss"
        " | static: cost | agreement | loss | policy |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for row in sorted(document["agreement"], key=lambda row: (row["unit"], row["cost"], row["seed"])):
        router, static = row["router"], row["static"]
        yield (
            f"| {row['unit']}s | {row['cost']:g} | {row['seed']} | {row['steps']}"
            f" | {router['cost']:.3f} | {router['cost_deviation']:.3f}"
            f" | {router['agreement']:.3f} | {router['loss']:.3f} | {static['cost']:.3f} | {static['agreement']:.3f}"
            f" | {static['loss']:.3f} | `{row['policy']}` |"
        )
    yield f"\n![held-out agreement against cost]({image})"
    if "keys" in document:
        yield from _keys(document["keys"])
    if document.get("scratch"):
        yield from _scratch(document["scratch"])
    for run in document.get("steps", ()):
        yield from _steps(run)
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


def _scratch(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    first = rows[0]
    yield "\n## From scratch (measured on held-out text)\n"
    yield f"{first['steps']} steps of {first['tokens_per_step']} tokens each, the same windows for all of a seed."
    yield "Blocks: run per token on held-out text, on the likeliest routes; +-: standard deviation over tokens\n"
    yield "| network | seed | blocks in all | parameters | blocks per token | +- | held-out loss |"
    yield "|---|---|---|---|---|---|---|"
    for row in sorted(rows, key=lambda row: (row["network"], row["seed"])):
        held_out = row["held_out"]
        yield (
            f"| {row['network']} | {row['seed']} | {row['blocks_in_all']} | {row['parameters']:,}"
            f" | {held_out['blocks']:.2f} | {held_out['deviation']:.2f} | {held_out['loss']:.3f} |"
        )


def _steps(run: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n## Steps of a drafted chain, widened {run['widen']} times (measured)\n"
    yield f"{_router_line(run)} One call: the chain runs in the compiled engine; from Python: one call per"
    yield "sub-layer, as routed drafts ran before. c: a step over the target's step\n"
    yield "| draft | ms | c |"
    yield "|---|---|---|"
    for name, row in run["steps"].items():
        yield f"| {name} | {row['median_ms']:.3f} | {row['c']:.3f} |"


def _router_line(run: Mapping[str, Any]) -> str:
    router = run["router"]
    return f"Router after {router['steps']} training steps, cost {router['cost']:.3f} on held-out text."


def _decoding(run: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n## Decoding, widened {run['widen']} times (measured)\n"
    lengths = ", ".join(f"{name} {length}" for name, length in run["num_draft_tokens"].items())
    yield f"{_router_line(run)} {run['num_prompts']} held-out prompts, {run['new_tokens']} new tokens each, greedy."
    yield f"Drafted tokens at most, as predicted to be best: {lengths}. alpha: accepted over drafted"
    yield "tokens; c: a draft step over a target step, the router's own time included\n"
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
    yield "\nWith and without the router, paired on the same prompts:\n"
    yield "| cascade | over | ratio | interval |"
    yield "|---|---|---|---|"
    for pair in run["pairs"]:
        low, median, high = pair["ratio"]
        yield f"| {pair['cascade']} | {pair['over']} | {median:.2f} | {low:.2f} to {high:.2f} |"

"""A benchmark as tables: on the terminal, or as Markdown for reports/.

Knows nothing of measuring: it reads the JSON document that `autodraft bench --json` prints. One row per decoding
method and task; speedups are over autoregressive decoding of the same runtime, and "equal" counts the prompts whose
output is that of autoregressive decoding, token for token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from autodraft.report.layout import plain_table

COLUMNS = ("method", "task", "tokens/s", "speedup", "interval", "tokens/cycle", "equal")
OVERALL = "overall"


def bench_renderable(document: Mapping[str, Any]) -> RenderableType:
    """For the terminal."""
    table = plain_table(*COLUMNS)
    for row in document["rows"]:
        table.add_row(*_cells(row), style="bold" if row["task"] == OVERALL else None)
    return Group(*(Text(line) for line in facts(document)), table)


def bench_markdown(document: Mapping[str, Any]) -> str:
    """For a file."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(_cells(row) for row in document["rows"])]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return "".join(f"- {line}\n" for line in facts(document)) + "\n" + table


def facts(document: Mapping[str, Any]) -> Iterator[str]:
    """What the figures belong to, one line each."""
    device = document["device"]
    yield f"model: {document['model']}, {document['new_tokens_per_prompt']} new tokens per prompt"
    yield f"device: {device['name']} ({device['kind']}, {device['threads']} threads, {device['backend']} kernels)"
    for method, settings in document["settings"].items():
        yield f"{method}: {', '.join(f'{name} {value}' for name, value in settings.items())}"
    if document["predicted_speedup"] is not None:
        yield f"predicted by the formula from this session's own figures: {document['predicted_speedup']:.2f}x"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    tokens_per_cycle = row["tokens_per_cycle"]
    return (
        row["method"],
        row["task"],
        f"{row['tokens_per_s']:.1f}",
        f"{row['speedup']:.2f}x",
        "" if row["ci_high"] is None else f"{row['ci_low']:.2f}-{row['ci_high']:.2f}",
        "" if tokens_per_cycle is None else f"{tokens_per_cycle:.2f}",
        f"{row['num_identical']}/{row['num_prompts']}",
    )

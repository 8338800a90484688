"""Steps on a GPU as tables: what was measured, and apart from it what theory makes of that; from JSON rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]

_TARGET_COLUMNS = ("context", "rows", "ms", "quartiles", "tokens/s", "GB/s", "of the copy", "v", "first call, s")
_DRAFT_COLUMNS = (
    *("context", "draft", "ms per token", "quartiles", "c", "GB/s", "of the copy"),
    *("extra GB", "packing, s", "first call, s"),
)


def steps(model: str, rows: Rows, copied: float | None) -> Iterator[str]:
    """The section of one model; `copied` is the device's copy bandwidth in bytes per second."""
    yield from ("", f"## Steps: {model}", "")
    yield from _facts(rows)
    targets = [row for row in rows if row["kind"] == "target"]
    drafts = [row for row in rows if row["kind"] == "draft" and "left_out" not in row]
    if targets:
        yield from ("", "Target, measured:", "", *table(_TARGET_COLUMNS, (_target(row, copied) for row in targets)))
    if drafts:
        yield from ("", "Drafted chains, measured:", "")
        yield from table(_DRAFT_COLUMNS, (_draft(row, copied) for row in drafts))
    yield from _predicted([row for row in rows if row["kind"] == "predicted"])


def table(header: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> Iterator[str]:
    """Markdown."""
    yield from (_line(header), "|---" * len(header) + "|", *(_line(row) for row in rows))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('*', chr(92) + '*') for cell in cells)} |"


def _facts(rows: Rows) -> Iterator[str]:
    for row in rows:
        if row["kind"] == "model" and "left_out" not in row:
            bits = ", ".join(map(str, row["bits"]))
            yield (
                f"{row['blocks']} blocks, {row['weight_bytes'] / 1e9:.2f} GB of weights in a step, ready after"
                f" {row['load_s']:.1f} s; offers {bits} bits."
            )
        if row["kind"] == "memory" and row["peak_bytes"] is not None:
            captured = f"; graphs took {row['capture_s']:.1f} s to capture" if "capture_s" in row else ""
            yield f"Most memory allocated at once, all drafts included: {row['peak_bytes'] / 1e9:.1f} GB{captured}."


def _target(row: Mapping[str, Any], copied: float | None) -> Sequence[str]:
    alone = f"{1e3 / row['median_ms']:.1f}" if row["rows"] == 1 else ""
    first = f"{row['first_s']:.2f}"
    return (
        str(row["context"]),
        str(row["rows"]),
        *_times(row),
        alone,
        *_rate(row, copied),
        _two(row, "verify_cost"),
        first,
    )


def _draft(row: Mapping[str, Any], copied: float | None) -> Sequence[str]:
    ends = f"{row['extra_bytes'] / 1e9:.2f}", f"{row['pack_s']:.1f}", f"{row['first_s']:.2f}"
    return str(row["context"]), row["draft"], *_times(row), _two(row, "cost"), *_rate(row, copied), *ends


def _two(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:.2f}"


def _times(row: Mapping[str, Any]) -> tuple[str, str]:
    return f"{row['median_ms']:.2f}", f"{row['low_ms']:.2f} to {row['high_ms']:.2f}"


def _rate(row: Mapping[str, Any], copied: float | None) -> tuple[str, str]:
    """Weights read per second, in GB/s and as a share of the copy."""
    rate = row["weight_bytes"] / row["median_ms"] * 1e3
    return f"{rate / 1e9:.0f}", f"{rate / copied:.0%}" if copied else ""


def _predicted(rows: Rows) -> Iterator[str]:
    """Drafts by acceptance."""
    if not rows:
        return
    alphas = sorted({row["alpha"] for row in rows})
    cells = {(row["draft"], row["alpha"]): f"{row['speedup']:.2f} ({row['num_draft_tokens']})" for row in rows}
    yield from (
        "",
        f"**Predicted, not measured:** speedup of a chain from the c and v above at a context of {rows[0]['context']},"
        " were alpha what the column says; in brackets the best number of drafted tokens. A verification has the price"
        " of the next larger number of rows above.",
        "",
    )
    drafts = dict.fromkeys(row["draft"] for row in rows)
    lines = [(draft, *(cells.get((draft, alpha), "") for alpha in alphas)) for draft in drafts]
    yield from table(("draft", *(f"alpha {alpha:g}" for alpha in alphas)), lines)

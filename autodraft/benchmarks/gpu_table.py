"""The report on a GPU as a person reads it; made from its JSON alone. Steps have a file of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from autodraft.benchmarks.gpu_parts import DONE
from autodraft.benchmarks.gpu_step_table import Rows, steps, table
from autodraft.benchmarks.writing import device_line
from autodraft.policy_text import POLICY_LEGEND
from autodraft.report.bench_table import (
    COLUMNS,
    LEGEND,
    LOSSY_LEGEND,
    OVERALL,
    choice_line,
    conclusions,
    legend,
    not_run,
    overall_rows,
)

_STEP_LEGEND = (
    "Wall time of whole calls until the tokens are on the host, synchronised, all steps of a context interleaved:"
    " median and quartiles. GB/s counts weights and scales only. v: a target forward over so many rows, c: a drafted"
    " token, both over a target forward of one row. First call: compiling and capturing included."
)


def markdown(document: Mapping[str, Any]) -> str:
    """Ceilings, steps, decoding, identity, search and bench, and what is missing."""
    parts = document["parts"]
    lines = ["# Speed on a GPU", "", device_line(document["device"]), "", f"Command: `{document['command']}`"]
    ceilings = {name: value for row in _rows(parts, "ceilings") for name, value in row.items()}
    lines += _ceilings(ceilings)
    measured = [name for name in parts if name.startswith("steps/") and _rows(parts, name)]
    lines += ["", _STEP_LEGEND] if measured else []
    for name in measured:
        lines += steps(name.partition("/")[2], _rows(parts, name), ceilings.get("copy_bytes_per_s"))
    sections = {"decode": _decoding, "search": _search, "bench": _bench, "sampled": _bench, "identity": _identity}
    for name in parts:
        kind, _, model = name.partition("/")
        if kind in sections:
            lines += sections[kind](model, [row for row in _rows(parts, name) if "left_out" not in row])
    lines += _missing(parts)
    return "\n".join(lines) + "\n"


def _rows(parts: Mapping[str, Any], name: str) -> Rows:
    rows: Rows = parts.get(name, {"rows": []})["rows"]
    return rows


def _ceilings(ceilings: Mapping[str, float]) -> Iterator[str]:
    yield from ("", "## Ceilings", "")
    if not ceilings:
        yield "Not measured."
    if "copy_bytes_per_s" in ceilings:
        yield f"- memory, copied: {ceilings['copy_bytes_per_s'] / 1e9:.0f} GB/s, read and written"
    if "matmul_flop_per_s" in ceilings:
        yield f"- bfloat16 products of 8192 x 8192 random numbers: {ceilings['matmul_flop_per_s'] / 1e12:.0f} TFLOP/s"


def _decoding(model: str, rows: Rows) -> Iterator[str]:
    """The last row of each session, which holds what the earlier ones hold."""
    for session in {row["session"]: row for row in rows}.values():
        yield from ("", f"## Decoding: {model}, {session['session']} session", "")
        yield (
            f"Measured: {session['num_prompts']} held-out prompts, {session['new_tokens_per_prompt']} new tokens each,"
            " greedy, all methods interleaved in one process; decoding only, prefill apart."
        )
        yield from ("", *table(COLUMNS, overall_rows(session, OVERALL)), "", *_escaped((*LEGEND, LOSSY_LEGEND)))
        if session["ratios"]:
            yield from ("", *_ratios(session["ratios"]))
        settings = [(name, given) for name, given in session["settings"].items() if given]
        yield from (
            "",
            *(f"- {name}: {', '.join(f'{key} {value}' for key, value in given.items())}" for name, given in settings),
        )
        yield from (f"- {line}" for line in not_run(session))


def _escaped(legend: Iterable[str]) -> Iterator[str]:
    yield from (line.replace("*", "\\*") for line in legend)


def _ratios(ratios: Rows) -> Iterator[str]:
    lines = [
        (ratio["ours"], ratio["other"], f"{ratio['ratio']:.2f}x", f"{ratio['ci_low']:.2f}-{ratio['ci_high']:.2f}")
        for ratio in ratios
    ]
    yield from table(("ours", "over", "speedup", "interval"), lines)


def _identity(model: str, rows: Rows) -> Iterator[str]:
    yield from ("", f"## Identity: {model}", "")
    yield "Greedy output beside our autoregressive decoding, token by token, with no tolerance."
    header = ("method", "identical prompts", "tokens", "first differences: position (logit gap)")
    yield from (
        "",
        *table(header, [_identity_cells(name, rows) for name in dict.fromkeys(row["method"] for row in rows)]),
    )


def _identity_cells(method: str, rows: Rows) -> tuple[str, ...]:
    mine = [row for row in rows if row["method"] == method]
    prompts, identical, tokens = (sum(row[key] for row in mine) for key in ("prompts", "identical_prompts", "tokens"))
    differences = [difference for row in mine for difference in row["differences"]]
    shown = ", ".join(f"{each['position']} ({abs(each['logit_gap']):.2g})" for each in differences)
    return method, f"{identical} of {prompts}", str(tokens), shown or "none differ"


def _search(model: str, rows: Rows) -> Iterator[str]:
    for row in rows[-1:]:
        yield from ("", f"## Search: {model}", "")
        yield f"- {row['conclusion']}"
        yield f"- from start to exported profile: {row['wall_s']:.0f} s, of a budget of {60 * row['minutes']:.0f} s"
        if row["measurement"] is not None:
            yield f"- the best candidate, measured: {_measurement(row['measurement'])}"
        if row["predicted"] is not None:
            yield f"- the same, predicted: {row['predicted']['speedup']:.2f}x"
        yield from ("", f"Its cascade ({POLICY_LEGEND}):", *row["cascade_lines"])
        if row["baselines"]:
            yield from ("", "What else that session measured:", "", *_baselines(row["baselines"]))


def _baselines(baselines: Rows) -> Iterator[str]:
    lines = [
        (each["name"], f"{each['tokens_per_s']:.1f}", f"{speedup['median']:.2f}x", _interval(speedup))
        for each in baselines
        for speedup in (each["speedup"],)
    ]
    yield from table(("method", "tok/s", "speedup", "interval"), lines)


def _interval(speedup: Mapping[str, Any]) -> str:
    return "" if speedup["ci_high"] is None else f"{speedup['ci_low']:.2f}-{speedup['ci_high']:.2f}"


def _measurement(figures: Mapping[str, Any]) -> str:
    speedup = figures["speedup"]
    high = "" if speedup["ci_high"] is None else f" ({speedup['ci_low']:.2f} to {speedup['ci_high']:.2f})"
    return (
        f"{speedup['median']:.2f}x{high} over autoregressive decoding, {figures['tokens_per_s']:.1f} tokens/s,"
        f" {figures['num_prompts']} prompts"
    )


def _bench(model: str, rows: Rows) -> Iterator[str]:
    for row in rows[-1:]:
        yield from ("", f"## The profile beside other methods: {model}", "")
        yield (
            f"Measured: {row['num_prompts']} held-out prompts, {row['new_tokens_per_prompt']} new tokens each,"
            f" {choice_line(row)}, all methods interleaved in one process; decoding only, prefill apart."
        )
        yield from ("", *table(COLUMNS, overall_rows(row, OVERALL)), "", *_escaped(legend(row)), "")
        yield from (f"- {line}" for line in (*conclusions(row), *not_run(row)))


def _missing(parts: Mapping[str, Any]) -> Iterator[str]:
    lines: Sequence[str] = [f"- {name}: {part['status']}" for name, part in parts.items() if part["status"] != DONE]
    for name, part in parts.items():
        reasons = dict.fromkeys(
            f"- {': '.join((name, *_what(row)))}: {row['left_out']}" for row in part["rows"] if "left_out" in row
        )
        lines = [*lines, *reasons]
    if lines:
        yield from ("", "## Not measured", "", *lines)


def _what(row: Mapping[str, Any]) -> Iterator[str]:
    yield from (row[key] for key in ("draft", "session") if key in row)
    if "context" in row:
        yield f"context {row['context']}"

"""The report on products of a few rows on a CUDA device, as a person reads it; made from its JSON alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autodraft.benchmarks.gpu_parts import DONE
from autodraft.benchmarks.writing import device_line

_COLUMNS = "product | outputs x inputs | rows | kernel | bits | us | GB/s | of the copy | F.linear / it | same bits"


def markdown(document: Mapping[str, Any]) -> str:
    """Memory speed, every product, sums over a step, the best tiles, and what is missing."""
    parts = document["parts"]
    copied = [row["copy_bytes_per_s"] for row in _rows(parts, "bandwidth")]
    lines = ["# Products of a few rows on a GPU", "", device_line(document["device"]), ""]
    lines += [f"Command: `{document['command']}`", ""]
    lines += [f"Memory copied at {copied[0] / 1e9:.0f} GB/s, read and written." if copied else "Memory: not measured."]
    lines += [
        "",
        "Random weights in shapes of the models named; microseconds per product, captured in a CUDA graph over enough"
        " matrices to leave the caches. GB/s counts weights and scales. Last column: whether a row's result is the"
        " same, to the bit, in calls of 1 and of 16 rows.",
    ]
    for model in dict.fromkeys(name.partition("/")[2] for name in parts if "/" in name):
        products = [row for family in ("torch", "autodraft") for row in _rows(parts, f"{family}/{model}")]
        lines += _products(model, products, copied[0] if copied else None)
        lines += _steps(products)
        lines += _tiles(_rows(parts, f"tiles/{model}"))
    lines += _missing(parts)
    return "\n".join(lines) + "\n"


def _rows(parts: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = parts.get(name, {"rows": []})["rows"]
    return rows


def _products(model: str, rows: Sequence[Mapping[str, Any]], copied: float | None) -> Iterator[str]:
    yield from ("", f"## {model}", "", f"| {_COLUMNS} |", "|---" * 10 + "|")
    measured = [row for row in rows if "us" in row]
    plain = {(row["layer"], row["rows"]): row["us"] for row in measured if row["kernel"] == "F.linear"}
    for row in measured:
        rate = row["bytes"] / row["us"] * 1e6
        plain_us = plain.get((row["layer"], row["rows"]))
        of_copy, gain = f"{rate / copied:.0%}" if copied else "", f"{plain_us / row['us']:.2f}" if plain_us else ""
        yield (
            f"| {row['layer']} | {row['outputs']} x {row['inputs']} | {row['rows']} | {row['kernel']} | {row['bits']} |"
            f" {row['us']:.1f} | {rate / 1e9:.0f} | {of_copy} | {gain} | {'yes' if row['same_bits'] else 'no'} |"
        )


def _steps(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Sums over the products of one step, for the kernels that have all of them."""
    sums: dict[tuple[str, int, int], float] = {}
    layers: dict[tuple[str, int, int], set[str]] = {}
    for row in rows:
        if "us" in row:
            key = row["kernel"], row["bits"], row["rows"]
            sums[key] = sums.get(key, 0.0) + row["us"] * row["count"]
            layers.setdefault(key, set()).add(row["layer"])
    every = {row["layer"] for row in rows}
    whole = {key: us for key, us in sums.items() if layers[key] == every}
    yield from ("", "All products of one step, summed up; no attention, no norms:", "")
    yield from ("| kernel | bits | rows | ms | over one row of F.linear |", "|---" * 5 + "|")
    reference = whole.get(("F.linear", 16, 1))
    for (kernel, bits, count), us in whole.items():
        share = f"{us / reference:.2f}" if reference else ""
        yield f"| {kernel} | {bits} | {count} | {us / 1e3:.2f} | {share} |"


def _tiles(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The fastest tile of each product; all of them are in the JSON."""
    best: dict[tuple[str, int, int], Mapping[str, Any]] = {}
    for row in rows:
        if "us" in row:
            key = row["layer"], row["bits"], row["rows"]
            best[key] = min(best.get(key, row), row, key=lambda each: float(each["us"]))
    if best:
        yield from ("", "Fastest tiles:", "", "| product | bits | rows | tile | us |", "|---" * 5 + "|")
    for (layer, bits, count), row in best.items():
        yield f"| {layer} | {bits} | {count} | {row['kernel']} | {row['us']:.1f} |"


def _missing(parts: Mapping[str, Any]) -> Iterator[str]:
    lines = [f"- {name}: {part['status']}" for name, part in parts.items() if part["status"] != DONE]
    for name, part in parts.items():
        reasons = dict.fromkeys(
            f"- {name}: {row['kernel']} at {row['bits']} bits: {row['left_out']}"
            for row in part["rows"]
            if "left_out" in row
        )
        lines += reasons
    if lines:
        yield from ("", "## Not measured", "", *lines)

"""A residual profile as a table for the terminal. Reads the JSON of `autodraft analyze`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from autodraft.report.layout import plain_table

_BAR = 24


def residual_renderable(document: Mapping[str, Any]) -> RenderableType:
    """One row per sub-layer, with its median as a bar, then the trends over depth."""
    table = plain_table("block", "sub-layer", "25 %", "median", "75 %", "90 %", "")
    largest = max(part["median"] for part in document["contributions"])
    for part in document["contributions"]:
        figures = (f"{part[name]:.3f}" for name in ("low", "median", "high", "ninth_decile"))
        table.add_row(str(part["block"]), part["kind"], *figures, "█" * round(_BAR * part["median"] / largest))
    trends = ", ".join(f"{kind} {value:+.2f}" for kind, value in document["trend"].items())
    lines = (
        f"contribution of each residual branch to its output, ||f(x)|| / ||x + f(x)||, over {document['num_tokens']}"
        f" tokens of {document['model']}",
        f"rank correlation of depth and median: {trends}",
    )
    return Group(Text(lines[0]), Text(""), table, Text(""), Text(lines[1]))

"""A simulation as a table for the terminal. Knows nothing of simulating: it reads the JSON of `autodraft simulate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from autodraft.report.layout import plain_table


def simulation_renderable(document: Mapping[str, Any]) -> RenderableType:
    """The world's assumptions, then one row per scheduler; every speedup is called predicted."""
    settings = document["settings"]
    lines = [f"world: {document['world']}", settings.get("description", "")]
    lines += [f"assumed: {line}" for line in settings.get("assumptions", ())]
    table = plain_table("scheduler", "predicted\nspeedup", "tokens\nper cycle", "draft", "verify", "scheduling")
    for row in document["rows"]:
        shares = [f"{100 * share:.0f} %" for share in row["shares"].values()]
        table.add_row(row["scheduler"], f"{row['speedup']:.2f}x", f"{row['tokens_per_cycle']:.2f}", *shares)
    remark = "Predicted by simulation from the assumed acceptance and costs; nothing was measured."
    return Group(*(Text(line) for line in lines if line), Text(""), table, Text(""), Text(remark))

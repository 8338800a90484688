"""Agreement against mean cost: finished routers, static policies, and the routers' held-out curves while they learned.

Knows nothing of measuring: it reads the JSON document of `autodraft.benchmarks.radial`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_COLOURS = {"sub-layer": "#2166ac", "block": "#b2182b"}


def plot_radial(document: Mapping[str, Any], path: Path) -> None:
    """Write the picture as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    radial_figure(document).savefig(path, format="png")


def radial_figure(document: Mapping[str, Any]) -> Figure:
    """One panel of final figures, one of the way there."""
    figure = Figure(figsize=(9.0, 3.8), dpi=120, layout="constrained")
    final, learning = figure.subplots(1, 2)
    for unit, colour in _COLOURS.items():
        rows = sorted((row for row in document["agreement"] if row["unit"] == unit), key=lambda row: row["cost"])
        for kind, marker, style in (("router", "o", "-"), ("static", "s", "--")):
            points = [(row[kind]["cost"], row[kind]["agreement"]) for row in rows]
            if points:
                style = style if len({row["seed"] for row in rows}) == 1 else ""  # a line joins one seed's points only
                face = colour if kind == "router" else "white"  # the two lie close together
                line, label = marker + style, f"{kind}, {unit}s"
                final.plot(*zip(*points, strict=True), line, color=colour, markerfacecolor=face, label=label)
        for index, row in enumerate(rows):
            points = [(point["cost"], point["agreement"]) for point in row["curve"]]
            legend = f"{unit}s, a line per asked cost and seed" if index == 0 else None
            learning.plot(*zip(*points, strict=True), ".-", color=colour, alpha=0.5, linewidth=1, label=legend)
            learning.plot(*points[-1], "o", color=colour)
    final.set_title("held-out prompts", fontsize=9)
    learning.set_title("while learning, held-out text (dot: last step)", fontsize=9)
    for panel in (final, learning):
        panel.set_xlabel("mean share of the blocks", fontsize=9)
        panel.set_ylabel("top-1 agreement", fontsize=9)
        panel.grid(alpha=0.3)
        if document["agreement"]:
            panel.legend(fontsize=7)
    figure.suptitle(f"Routed and static drafts: {document['model']}", fontsize=11)
    return figure

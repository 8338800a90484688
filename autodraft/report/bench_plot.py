"""A benchmark as bars: the speedup of every method with its interval, one panel for each task and one for all of them.

Knows nothing of measuring: it reads the JSON document that `autodraft bench --json` prints. Methods stand in the same
order in every panel, by their overall speedup; lossy ones are hatched; the line at 1 is autoregressive decoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from autodraft.report.bench_table import OVERALL, label

COLOURS = {"profile": "#b2182b", "ours": "#ef8a62", "published": "#4393c3", "lossy": "#d9d9d9", "baseline": "#878787"}
NAMES = {
    "profile": "the profile",
    "ours": "our drafts and schedulers",
    "published": "published methods",
    "lossy": "lossy, for reference",
    "baseline": "autoregressive",
}
_PANELS_PER_ROW = 3
_PANEL_INCHES, _NAMES_INCHES, _BAR_INCHES, _FRAME_INCHES = 3.6, 1.6, 0.24, 0.75
_HEAD_INCHES = 0.9
_LONGEST_INTERVAL = 1.5
"""How far an interval may reach over the longest bar; few prompts give intervals that would make all bars tiny."""


def plot_speedups(document: Mapping[str, Any], path: Path) -> None:
    """Write the picture as PNG."""
    speedup_figure(document).savefig(path, format="png")


def speedup_figure(document: Mapping[str, Any]) -> Figure:
    """Panels of horizontal bars, overall first."""
    rows = {(row["task"], row["method"]): row for row in document["rows"]}
    tasks = [OVERALL, *dict.fromkeys(task for task, _ in rows if task != OVERALL)]
    methods = sorted(document["kinds"], key=lambda method: rows[OVERALL, method]["speedup"])
    columns = min(len(tasks), _PANELS_PER_ROW)
    lines = -(-len(tasks) // columns)
    width = _NAMES_INCHES + _PANEL_INCHES * max(columns, 2)
    height = _HEAD_INCHES + lines * (_FRAME_INCHES + _BAR_INCHES * len(methods))
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for panel, task in zip(panels, tasks, strict=False):
        _draw(panel, document, [rows[task, method] for method in methods])
        panel.set_title(task, fontweight="bold" if task == OVERALL else "normal", fontsize=10)
    for panel in panels[len(tasks) :]:
        panel.set_visible(False)
    longest = max(row["speedup"] for row in rows.values())
    panels[0].set_xlim(0, 1.18 * min(max(_end(row) for row in rows.values()), _LONGEST_INTERVAL * longest))
    panels[0].set_ylim(-0.7, len(methods) - 0.3)
    present = {_role(document, method) for method in methods}
    handles = [
        Patch(facecolor=COLOURS[role], edgecolor="black", linewidth=0.5, hatch=_hatch(role), label=name)
        for role, name in NAMES.items()
        if role in present
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5), fontsize=8, frameon=False)
    figure.suptitle(f"Speedup over autoregressive decoding: {document['model']}", fontsize=11)
    return figure


def _draw(panel: Axes, document: Mapping[str, Any], rows: list[Mapping[str, Any]]) -> None:
    roles = [_role(document, row["method"]) for row in rows]
    places = range(len(rows))
    bars = panel.barh(
        places,
        [row["speedup"] for row in rows],
        color=[COLOURS[role] for role in roles],
        edgecolor="black",
        linewidth=0.5,
        height=0.75,
    )
    for bar, role in zip(bars, roles, strict=True):
        bar.set_hatch(_hatch(role))
    for place, row in zip(places, rows, strict=True):
        if row["ci_high"] is not None:
            panel.plot([row["ci_low"], row["ci_high"]], [place, place], color="black", linewidth=1.2)
        panel.annotate(
            f"{row['speedup']:.2f}",
            (_end(row), place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
    panel.axvline(1.0, color="black", linewidth=0.9, linestyle="--")
    panel.set_yticks(places, [label(document, row["method"]) for row in rows], fontsize=8)
    panel.tick_params(axis="x", labelsize=8, labelbottom=True)
    panel.spines[["top", "right"]].set_visible(False)


def _end(row: Mapping[str, Any]) -> float:
    """Where the bar or its interval ends."""
    return float(max(row["speedup"], row["ci_high"] or 0.0))


def _role(document: Mapping[str, Any], method: str) -> str:
    return "profile" if method == "profile" else str(document["kinds"][method])


def _hatch(role: str) -> str | None:
    return "////" if role == "lossy" else None

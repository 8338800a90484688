"""Reliability curves: observed acceptance against estimates, one panel for each kind of drafted token.

Knows nothing of measuring: it reads the JSON document of `autodraft.benchmarks.reliability`. On the dashed diagonal an
estimate is right; the area of a dot is the share of the curve's tokens in that bin. Bins of few tokens are dots without
interval, and drafts of few tokens have no panel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_PANELS_PER_ROW = 4
_PANEL_INCHES, _FRAME_INCHES = 2.5, 0.9
_COLOURS = ("#2166ac", "#b2182b", "#1b7837", "#762a83")
_SMALLEST_DOT, _LARGEST_DOT = 8.0, 120.0
_FEW_IN_BIN, _FEW_IN_PANEL = 10, 100


def plot_reliability(document: Mapping[str, Any], path: Path) -> None:
    """Write the picture as PNG."""
    reliability_figure(document).savefig(path, format="png")


def reliability_figure(document: Mapping[str, Any]) -> Figure:
    """A panel for each draft, a colour for each temperature."""
    rows = document["results"]
    temperatures = sorted({row["temperature"] for row in rows})
    drafts = shown_drafts(document)
    columns = min(len(drafts), _PANELS_PER_ROW)
    lines = -(-len(drafts) // columns)
    size = (_PANEL_INCHES * max(columns, 3), (_PANEL_INCHES + 0.4) * lines + _FRAME_INCHES)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
    colours = {temperature: _COLOURS[index % len(_COLOURS)] for index, temperature in enumerate(temperatures)}
    for panel, draft in zip(panels, drafts, strict=False):
        _draw(panel, [row for row in rows if row["draft"] == draft], colours)
        panel.set_title(draft, fontsize=9)
    for panel in panels[len(drafts) :]:
        panel.set_visible(False)
    figure.supxlabel("estimated probability of acceptance", fontsize=9)
    figure.supylabel("share accepted", fontsize=9)
    figure.suptitle(f"Reliability of estimated acceptance: {document['model']}", fontsize=11)
    return figure


def shown_drafts(document: Mapping[str, Any]) -> list[str]:
    """Drafts with tokens enough for a curve, all of them if none has."""
    counts: Counter[str] = Counter()
    for row in document["results"]:
        counts[row["draft"]] += row["count"]
    return sorted(draft for draft in counts if counts[draft] >= _FEW_IN_PANEL) or sorted(counts)


def _draw(panel: Axes, rows: Sequence[Mapping[str, Any]], colours: Mapping[float, str]) -> None:
    panel.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
    for number, row in enumerate(rows):
        colour = colours[row["temperature"]]
        dots = [_SMALLEST_DOT + _LARGEST_DOT * part["count"] / row["count"] for part in row["bins"]]
        estimates, observed = ([part[name] for part in row["bins"]] for name in ("mean_estimate", "observed"))
        panel.scatter(estimates, observed, s=dots, color=colour, alpha=0.6, linewidths=0)
        _curve(panel, [part for part in row["bins"] if part["count"] >= _FEW_IN_BIN], colour)
        choice = f"T {row['temperature']:g}" if row["temperature"] else "greedy"
        panel.text(
            0.98,
            0.12 - 0.1 * number,
            f"{choice}: ECE {row['calibration_error']:.3f}, n {row['count']}",
            color=colour,
            fontsize=7,
            ha="right",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.7},
            transform=panel.transAxes,
        )
    panel.set_xlim(-0.03, 1.03)
    panel.set_ylim(-0.03, 1.03)
    panel.set_aspect("equal")
    panel.tick_params(labelsize=7, labelbottom=True)
    panel.spines[["top", "right"]].set_visible(False)


def _curve(panel: Axes, bins: Sequence[Mapping[str, Any]], colour: str) -> None:
    """Through bins, with their intervals."""
    estimates, observed = ([part[name] for part in bins] for name in ("mean_estimate", "observed"))
    below = [max(part["observed"] - part["ci_low"], 0.0) for part in bins]
    above = [max(part["ci_high"] - part["observed"], 0.0) for part in bins]
    panel.errorbar(estimates, observed, yerr=[below, above], color=colour, linewidth=0.9, elinewidth=0.7)

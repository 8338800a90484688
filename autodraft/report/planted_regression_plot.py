"""Planted regression as a picture: test errors seed by seed, and depths found.

Knows nothing of training: it reads the benchmark's JSON document.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLOURS = ("#2166ac", "#b2182b", "#1b7837", "#762a83")


def plot_planted_regression(document: Mapping[str, Any], path: Path) -> None:
    """Write the picture as PNG."""
    planted_regression_figure(document).savefig(path, format="png")


def planted_regression_figure(document: Mapping[str, Any]) -> Figure:
    """Left, a dot for each seed of each setting; right, how often each depth was found. True depths have colours."""
    figure = Figure(figsize=(9.0, 4.2), dpi=120, layout="constrained")
    errors, depths = figure.subplots(1, 2)
    true_depths = sorted({row["depth"] for row in document["rows"]})
    for number, depth in enumerate(true_depths):
        rows = [row["methods"] for row in document["rows"] if row["depth"] == depth]
        colour = _COLOURS[number % len(_COLOURS)]
        label = f"true depth {depth}"
        points = [[error for row in rows for error in row[name]["test_error"]] for name in ("standard", "refitted")]
        errors.scatter(*points, s=10, alpha=0.6, linewidths=0, color=colour, label=label)
        found = Counter(number for row in rows for number in row["refitted"]["depth"])
        width = 0.8 / len(true_depths)
        places = [place - 0.4 + (number + 0.5) * width for place in found]
        depths.bar(places, list(found.values()), width, color=colour, label=label)
    _frame_errors(errors)
    _frame_depths(depths, document["student_depth"])
    return figure


def _frame_errors(axes: Axes) -> None:
    axes.set(xscale="log", yscale="log", xlabel="test error, standard", ylabel="test error, refitted")
    low = min(axes.get_xlim()[0], axes.get_ylim()[0])
    high = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([low, high], [low, high], color="black", linewidth=0.8, linestyle="--")
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal", title="Below the line refitting is better")
    axes.legend(frameon=False, fontsize=8)


def _frame_depths(axes: Axes, student_depth: int) -> None:
    axes.set(xlabel="hidden layers of the refitted network", ylabel="seeds", title="Depths found")
    axes.set_xticks(range(1, student_depth + 1))
    axes.set_xlim(0.4, student_depth + 0.6)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)

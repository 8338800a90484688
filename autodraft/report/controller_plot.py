"""The controllers' benchmark as curves: best predicted speedup over evaluations, one line per method.

Knows nothing of searching: it reads the benchmark's JSON. Lines are means over seeds, bands reach from the worst to the
best of them; a search that ended early keeps its last value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

LEARNING = ("ppo", "maskable-ppo", "a2c", "ddpg", "td3", "sac", "hierarchical")
_COLOURS = ("#b2182b", "#ef8a62", "#d6604d", "#f4a582", "#762a83", "#9970ab", "#e08214")
_OTHERS = ("#2166ac", "#4393c3", "#1b7837", "#5aae61", "#878787", "#4d4d4d")


def plot_controllers(document: Mapping[str, Any], path: Path) -> None:
    """Write the picture as PNG."""
    controllers_figure(document).savefig(path, format="png")


def value_at(curve: Sequence[Sequence[float]], number: int) -> float | None:
    """The best score within the first `number` evaluations."""
    known = [score for evaluation, score in curve if evaluation <= number]
    return known[-1] if known else None


def controllers_figure(document: Mapping[str, Any]) -> Figure:
    """One panel; the axis of evaluations is logarithmic."""
    rows = document["searches"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    last = int(document["num_evaluations"])
    numbers = sorted({round(last ** (step / 60)) for step in range(61)})
    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    panel = figure.subplots()
    for method in methods:
        curves = [row["curve"] for row in rows if row["method"] == method]
        values = [[value_at(curve, number) or 0.0 for number in numbers] for curve in curves]
        means = [sum(column) / len(column) for column in zip(*values, strict=True)]
        colour, style = _look(method, methods)
        panel.plot(numbers, means, color=colour, linestyle=style, label=f"{method} ({means[-1]:.3f})", linewidth=1.8)
        panel.fill_between(
            numbers,
            [min(column) for column in zip(*values, strict=True)],
            [max(column) for column in zip(*values, strict=True)],
            color=colour,
            alpha=0.12,
            linewidth=0,
        )
    panel.set_xscale("log")
    panel.set_xlabel("evaluations (F1)")
    panel.set_ylabel("best predicted speedup")
    lowest = min((value_at(row["curve"], 10) or 1.0 for row in rows), default=1.0)
    panel.set_ylim(bottom=max(lowest - 0.05, 0.0))
    panel.set_xlim(1, last)
    panel.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=8, frameon=False, loc="lower right", title="mean over seeds at the end")
    seeds = len({row["seed"] for row in rows})
    panel.set_title(f"Searching a draft of {document['model']}: predicted speedup, {seeds} seeds", fontsize=11)
    return figure


def _look(method: str, methods: Sequence[str]) -> tuple[str, str]:
    """Warm solid lines learn, cold dashed ones do not."""
    if method in LEARNING:
        return _COLOURS[LEARNING.index(method)], "-"
    others = [name for name in methods if name not in LEARNING]
    return _OTHERS[others.index(method) % len(_OTHERS)], "--"

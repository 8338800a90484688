"""The plot of a residual profile: contribution by sub-layer over depth, in the manner of Radial Networks' figures.

Knows nothing of measuring: it reads the JSON document of `autodraft analyze`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLOURS = {"attention": "#2166ac", "mlp": "#b2182b"}
_NAMES = {"attention": "attention", "mlp": "MLP"}


def plot_residual(document: Mapping[str, Any], path: Path) -> None:
    """Write the picture as PNG."""
    residual_figure(document).savefig(path, format="png")


def residual_figure(document: Mapping[str, Any]) -> Figure:
    """Medians with their quartiles as a band and nine tenths as a dotted line, one panel for each kind of sub-layer."""
    figure = Figure(figsize=(8.4, 3.4), dpi=120, layout="constrained")
    for panel, kind in zip(figure.subplots(1, 2, sharey=True), _COLOURS, strict=True):
        _draw(panel, [part for part in document["contributions"] if part["kind"] == kind], kind)
        panel.set_title(f"{_NAMES[kind]}, rank correlation with depth {document['trend'][kind]:+.2f}", fontsize=9)
    figure.supxlabel("block", fontsize=9)
    figure.supylabel("||f(x)|| / ||x + f(x)||", fontsize=9)
    figure.suptitle(f"Contribution of residual branches to their output: {document['model']}", fontsize=11)
    return figure


def _draw(panel: Axes, parts: Sequence[Mapping[str, Any]], kind: str) -> None:
    blocks = [part["block"] for part in parts]
    low, median, high, ninth = ([part[name] for part in parts] for name in ("low", "median", "high", "ninth_decile"))
    colour = _COLOURS[kind]
    panel.fill_between(blocks, low, high, color=colour, alpha=0.2, linewidth=0, label="half of the tokens")
    panel.plot(blocks, median, color=colour, marker="o", markersize=3.5, linewidth=1.2, label="median token")
    panel.plot(blocks, ninth, color=colour, linestyle=":", linewidth=1.0, label="nine tenths lie below")
    panel.set_ylim(bottom=0.0)
    panel.set_xticks(blocks[:: max(len(blocks) // 8, 1)])
    panel.tick_params(labelsize=8, labelleft=True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=7, frameon=False)

"""The curves show what is in the document."""

from dataclasses import asdict
from typing import Any

import numpy as np

from autodraft.measure.reliability import reliability
from autodraft.report.reliability_plot import reliability_figure, shown_drafts


def document(counts: dict[str, int]) -> dict[str, Any]:
    random = np.random.default_rng(0)
    rows = []
    for temperature in (0.0, 0.7):
        for draft, count in counts.items():
            estimates = random.random(count)
            figures = asdict(reliability(estimates.tolist(), (random.random(count) < estimates).tolist()))
            rows.append({"temperature": temperature, "draft": draft, **figures})
    return {"model": "tiny", "results": rows}


def test_every_draft_of_many_tokens_has_a_panel_with_a_curve_for_each_temperature() -> None:
    found = document({"a": 300, "b": 500, "rare": 5})
    panels = [panel for panel in reliability_figure(found).axes if panel.get_visible()]
    assert [panel.get_title() for panel in panels] == ["a", "b"] == shown_drafts(found)
    for panel in panels:
        rows = [row for row in found["results"] if row["draft"] == panel.get_title()]
        curves = [container.lines[0] for container in panel.containers]
        for row, curve in zip(rows, curves, strict=True):
            bins = [part for part in row["bins"] if part["count"] >= 10]
            assert list(curve.get_xdata()) == [part["mean_estimate"] for part in bins]
            assert list(curve.get_ydata()) == [part["observed"] for part in bins]
            assert any(f"n {row['count']}" in text.get_text() for text in panel.texts)


def test_where_all_are_rare_all_are_shown() -> None:
    assert shown_drafts(document({"a": 3, "b": 4})) == ["a", "b"]
    reliability_figure(document({"a": 3})).canvas.draw()

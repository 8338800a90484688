"""The bars are as long as the speedups, in the same order everywhere, and lossy ones are hatched."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from autodraft.report.bench_plot import plot_speedups, speedup_figure
from tests.report.documents import KINDS, bench_document


def test_every_task_has_a_panel_with_a_bar_per_method() -> None:
    document = bench_document(("edit", "prose", "tests"))
    figure = speedup_figure(document)
    panels = [panel for panel in figure.axes if panel.get_visible()]
    assert [panel.get_title() for panel in panels] == ["overall", "edit", "prose", "tests"]
    names = [tick.get_text() for tick in panels[0].get_yticklabels()]
    assert names[-1] == "profile" and names[0] == "hf-generate" and "int8-autoregressive*" in names
    speedups = {(row["task"], row["method"]): row["speedup"] for row in document["rows"]}
    for panel in panels:
        for name, bar in zip(names, panel.patches, strict=True):
            method = name.rstrip("*")
            assert bar.get_width() == pytest.approx(speedups[panel.get_title(), method])  # type: ignore[attr-defined]
            assert bool(bar.get_hatch()) == (KINDS[method] == "lossy")
        assert [list(line.get_xdata()) for line in panel.lines if line.get_linestyle() == "--"] == [[1.0, 1.0]]


def test_names_and_figures_do_not_overlap() -> None:
    figure = speedup_figure(bench_document(("mt_bench", "translation", "summarization", "qa", "math_reasoning")))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    panel = figure.axes[0]
    for texts in (panel.texts, panel.get_yticklabels()):
        boxes = sorted((text.get_window_extent() for text in texts), key=lambda box: box.y0)
        assert all(below.y1 <= above.y0 for below, above in itertools.pairwise(boxes))
    assert all(text.get_window_extent().x1 <= panel.get_window_extent().x1 for text in panel.texts)


def test_a_wide_interval_does_not_shrink_the_bars(tmp_path: Path) -> None:
    document = bench_document()
    document["rows"][-1]["ci_high"] = 300.0
    assert speedup_figure(document).axes[0].get_xlim()[1] < 6
    plot_speedups(document, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")

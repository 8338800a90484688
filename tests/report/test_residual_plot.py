"""The residual plot and table show what is in the document."""

import io

import torch
from rich.console import Console

from autodraft.measure.residual import residual_profile
from autodraft.report.residual_plot import residual_figure
from autodraft.report.residual_table import residual_renderable


def test_each_kind_has_its_medians_over_depth() -> None:
    profile = residual_profile(torch.rand(10, 50, generator=torch.Generator().manual_seed(0)))
    document = {"model": "tiny", **profile.to_json()}
    for panel, kind in zip(residual_figure(document).axes, ("attention", "mlp"), strict=True):
        parts = [part for part in document["contributions"] if part["kind"] == kind]
        median, ninth = panel.get_lines()
        assert list(median.get_xdata()) == [0, 1, 2, 3, 4]
        assert list(median.get_ydata()) == [part["median"] for part in parts]
        assert list(ninth.get_ydata()) == [part["ninth_decile"] for part in parts]
        assert f"{document['trend'][kind]:+.2f}" in panel.get_title()


def test_the_table_has_a_row_for_each_sub_layer() -> None:
    document = {"model": "tiny", **residual_profile(torch.ones(4, 8)).to_json()}
    stream = io.StringIO()
    Console(file=stream, width=120).print(residual_renderable(document))
    rows = [line for line in stream.getvalue().splitlines() if "attention " in line or "mlp " in line]
    assert len([row for row in rows if "1.000" in row]) == 4

"""What a removal of sub-layers did, as a table for the terminal. Reads the JSON of `autodraft sparsify`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from autodraft.report.layout import plain_table


def sparsify_renderable(report: Mapping[str, Any]) -> RenderableType:
    """What was kept, one row of held-out figures per stage, and what was written."""
    kept, total = len(report["kept"]), report["num_sub_layers"]
    if report["as_draft"]:
        kind = f"a draft for the unchanged {report['model']}"
    else:
        kind = f"a different model, made from {report['model']}"
    table = plain_table("held-out text", "loss\n(nats/token)", "divergence\n(nats/token)", "same most\nlikely token")
    for stage, quality in report["qualities"].items():
        table.add_row(
            stage, f"{quality['loss']:.3f}", f"{quality['divergence']:.3f}", f"{quality['top1_agreement']:.1%}"
        )
    lines = [f"{kept} of {total} sub-layers kept: {report['pattern']}", f"result: {kind}"]
    prediction = report["prediction"]
    if prediction is not None:
        lines.append(
            f"predicted speedup {prediction['speedup']:.2f}x at a top-1 agreement of"
            f" {prediction['top1_agreement']:.1%}; `autodraft bench` measures it"
        )
    lines += [f"{name}: {path}" for name, path in report["files"].items()]
    return Group(Text(lines[0]), Text(""), table, Text(""), *(Text(line) for line in lines[1:]))

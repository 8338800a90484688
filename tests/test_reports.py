"""The committed reports: their Markdown is what their JSON makes, so no figure in them was typed by hand."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from autodraft.benchmarks import (
    byte_planes,
    coded_weights,
    fitted_drafts,
    gpu_linears_table,
    gpu_table,
    kernels,
    losslessness,
    planted_worlds,
    radial_joint,
    refitted_search,
    reliability,
    sampling,
    searchers,
    simulation,
    sparsity_table,
)
from autodraft.report.bench_table import bench_markdown
from autodraft.report.controller_table import controllers_markdown
from autodraft.report.planted_regression_table import planted_regression_markdown
from autodraft.report.radial_table import radial_markdown

REPORTS = Path(__file__).resolve().parents[1] / "reports"
Markdown = Callable[[Mapping[str, Any]], str]
"""From a document to the text beside it."""


def _with_picture(markdown: Callable[..., str], name: str) -> Markdown:
    return partial(_call, markdown, name)


def _call(markdown: Callable[..., str], name: str, document: Mapping[str, Any]) -> str:
    return markdown(document, f"{name}.png")


def _bench(document: Mapping[str, Any], image: str) -> str:
    """As `autodraft bench` writes it."""
    return f"# Decoding speed: {document['model']}\n\n{bench_markdown(document, image)}"


MARKDOWN: dict[str, Markdown] = {
    "byte-planes": byte_planes.markdown,
    "coded-weights": coded_weights.markdown,
    "coded-weights-amx": coded_weights.markdown,
    "coded-weights-avx512": coded_weights.markdown,
    "coded-weights-cached": coded_weights.markdown,
    "coded-weights-sampled": coded_weights.markdown,
    "controllers": _with_picture(controllers_markdown, "controllers"),
    "controllers-long": _with_picture(controllers_markdown, "controllers-long"),
    "controllers-transfer": _with_picture(controllers_markdown, "controllers-transfer"),
    "fitted-drafts": fitted_drafts.markdown,
    "fitted-drafts-sampled": fitted_drafts.markdown,
    "fitted-drafts-x4": fitted_drafts.markdown,
    "fitted-drafts-x4-sampled": fitted_drafts.markdown,
    "h200/gpu": gpu_table.markdown,
    "h200/linears": gpu_linears_table.markdown,
    "kernels": kernels.markdown,
    "kernels-zen4": kernels.markdown,
    "kernels-zen5": kernels.markdown,
    "losslessness": losslessness.markdown,
    "planted-regression": _with_picture(planted_regression_markdown, "planted-regression"),
    "planted-worlds": planted_worlds.markdown,
    "radial": _with_picture(radial_markdown, "radial"),
    "radial-joint": radial_joint.markdown,
    "refitted-search-llama": refitted_search.markdown,
    "reliability": _with_picture(reliability.markdown, "reliability"),
    "sampling": sampling.markdown,
    "searchers-llama": searchers.markdown,
    "searchers-llama-x4": searchers.markdown,
    "simulation": simulation.to_markdown,
    "sparsity-llama": sparsity_table.markdown,
    "sparsity-llama-x4": sparsity_table.markdown,
    **{path.stem: _with_picture(_bench, path.stem) for path in sorted(REPORTS.glob("bench-*.json"))},
}


@pytest.mark.parametrize("name", MARKDOWN)
def test_a_report_is_what_its_figures_make(name: str) -> None:
    document = json.loads((REPORTS / f"{name}.json").read_text(encoding="utf-8"))
    assert MARKDOWN[name](document) == (REPORTS / f"{name}.md").read_text(encoding="utf-8")


def test_every_report_is_one_of_them() -> None:
    texts = {str(path.relative_to(REPORTS).with_suffix("")) for path in REPORTS.rglob("*.md")}
    assert texts - {"README", "LOG"} == set(MARKDOWN)

"""A benchmark's tables say what is in its document, and fit the terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from autodraft.report.bench_table import bench_markdown, bench_renderable
from tests.report.documents import SPEEDUPS, bench_document

SPEC_BENCH = ("mt_bench", "translation", "summarization", "qa", "math_reasoning")


def printed(document: dict[str, Any], width: int = 100) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(bench_renderable(document))
    return [line.rstrip() for line in console.export_text().splitlines()]


def cells(lines: list[str], name: str) -> list[list[str]]:
    """The words of every line that begins with a method's name."""
    return [line.split()[1:] for line in lines if line.split()[:1] == [name]]


@pytest.mark.parametrize("tasks", [("edit", "prose"), SPEC_BENCH, tuple(f"category_{n}" for n in range(13))])
def test_the_terminal_shows_every_figure_in_100_columns(tasks: tuple[str, ...]) -> None:
    document = bench_document(tasks)
    lines = printed(document)
    assert max(map(len, lines)) <= 100
    overall, *matrices = cells(lines, "profile")[: 1 + -(-len(tasks) // 6)]
    assert overall == ["250.0", "2.50x", "2.25-2.75", "2.49", "2.75", "0.62", "0.12", "1.06", "20/70/6/4", "19/20"]
    speedups = {row["task"]: f"{row['speedup']:.2f}" for row in document["rows"] if row["method"] == "profile"}
    found = [cell for matrix in matrices for cell in matrix[:-1]]
    assert found == [speedups[task] for task in tasks]
    assert {matrix[-1] for matrix in matrices} == {speedups["overall"]}


def test_what_a_method_does_not_say_stays_empty_and_lossy_ones_are_marked() -> None:
    lines = printed(bench_document())
    assert cells(lines, "hf-generate")[0] == ["50.0", "0.50x", "0.45-0.55", "0.49", "19/20"]
    assert cells(lines, "int8-autoregressive*")[0] == ["125.0", "1.25x", "1.12-1.38", "1.24", "n/a"]
    assert any(line.startswith("*: lossy") for line in lines)


def test_where_no_identity_can_be_asked_it_is_not_applicable_and_said_why() -> None:
    document = bench_document()
    assert any(line.startswith("n/a: no token for token") for line in printed(document, 200))
    for row in document["rows"]:
        row["num_identical"] = 19
    assert not any("n/a" in line for line in printed(document, 200))
    for row in document["rows"]:
        row["num_identical"] = None if row["method"].startswith("hf-") else 20
    rows = [line for line in bench_markdown(document).splitlines() if line.startswith("| hf-generate | 50.0")]
    assert rows and all(line.endswith(" | n/a |") for line in rows)


def test_methods_that_did_not_run_are_named_with_the_reason() -> None:
    lines = printed(bench_document())
    assert "not run: chain (the profile's own scheduler)" in lines
    assert "not run: vertical, horizontal (one draft)" in lines


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1.25, 1.6, "1.25 to 1.60: faster"), (0.9, 1.6, "chance"), (0.5, 0.9, "slower"), (0.0, None, "one prompt")],
)
def test_the_verdict_follows_the_interval(low: float, high: float | None, verdict: str) -> None:
    document = bench_document()
    document["runner_up"]["published"] = {**document["runner_up"]["next"], "ci_low": low, "ci_high": high}
    line = next(line for line in printed(document, 200) if "fastest published one, prompt-lookup: 1.40x" in line)
    assert verdict in line


def test_markdown_has_every_task_the_histogram_and_the_settings() -> None:
    text = bench_markdown(bench_document(), "speed.png")
    assert "![Speedup of each method by task](speed.png)" in text
    assert "| method | edit | prose | overall |" in text
    assert f"| profile | 2.50 | {0.95 * SPEEDUPS['profile']:.2f} | 2.50 |" in text
    assert "| profile | 2.75 | 50% | 0% | 0% | 30% | 10% | 0% | 10% |" in text
    assert "## Task: edit" in text and "## Task: prose" in text
    assert "- prompt-lookup: max_ngram 3" in text
    assert r"| int8-autoregressive\* |" in text


def test_a_benchmark_of_the_baseline_alone_has_no_verdict() -> None:
    document = bench_document()
    document |= {"runner_up": None, "predicted_speedup": None}
    assert not any(" over the " in line for line in printed(document) if line.startswith("profile"))

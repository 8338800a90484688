"""What the programs of reports/ share: options, and a command line that can be typed again."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from autodraft.benchmarks.writing import command_line, report_parser


def test_the_command_line_reads_back() -> None:
    arguments = ["--model", "a model", "--output", "reports/speed"]
    line = command_line("speed", arguments)
    assert shlex.split(line) == ["python", "-m", "autodraft.benchmarks.speed", *arguments]
    assert command_line("speed", []) == "python -m autodraft.benchmarks.speed"


def test_the_output_has_a_default_or_must_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_parser("kernels", "What it does.\n\nMore.", "reports/kernels").parse_args([]).output == Path(
        "reports/kernels"
    )
    with pytest.raises(SystemExit):
        report_parser("speed", "What it does.").parse_args([])
    assert "--output" in capsys.readouterr().err

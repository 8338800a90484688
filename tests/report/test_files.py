"""A report is two files of one name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autodraft.report.files import report_file, write_document


def test_the_markdown_is_made_from_what_the_json_file_says(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "speed"
    text = write_document(path, {"histogram": {1: 2}}, lambda document: f"{document['histogram']['1']}\n")
    assert text == (tmp_path / "reports/speed.md").read_text() == "2\n"
    assert json.loads((tmp_path / "reports/speed.json").read_text()) == {"histogram": {"1": 2}}


def test_figures_that_json_has_no_word_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_document(tmp_path / "speed", {"speedup": float("inf")}, str)


@pytest.mark.parametrize(("given", "found"), [("speed", "speed.md"), ("speed.json", "speed.md"), ("l-3.2", "l-3.2.md")])
def test_only_endings_of_reports_are_dropped(given: str, found: str) -> None:
    assert report_file(Path(given), ".md") == Path(found)

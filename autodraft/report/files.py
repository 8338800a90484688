"""A report on disk: one JSON document, and beside it the Markdown that is made from it.

Knows nothing of what is reported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ENDINGS = (".json", ".md", ".png")


def write_document(path: Path, document: Mapping[str, Any], markdown: Callable[[Mapping[str, Any]], str]) -> str:
    """Write `path`.json and, made from it by `markdown`, `path`.md (see `report_file`); returns the latter's text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1, allow_nan=False)
    report_file(path, ".json").write_text(text + "\n", encoding="utf-8")
    readable = markdown(json.loads(text))
    report_file(path, ".md").write_text(readable, encoding="utf-8")
    return readable


def report_file(path: Path, ending: str) -> Path:
    """One of the files of a report whose path has no ending; one that it was given all the same is dropped.

    Only endings of reports: the dot in a name such as `llama-3.2` begins none.
    """
    base = path.with_suffix("") if path.suffix in ENDINGS else path
    return base.with_name(base.name + ending)

"""What all reports have in common: the line on the device, and JSON beside the Markdown made from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def device_line(device: Mapping[str, Any]) -> str:
    """Where and with which versions something was measured; `device` is a `DeviceStamp` as JSON."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(device["versions"].items()))
    return f"Device: {device['name']}, {device['threads']} threads, backend {device['backend']}; {versions}."


def write_report(path: Path, document: Mapping[str, Any], markdown: Callable[[Mapping[str, Any]], str]) -> None:
    """Write `path`.json and, made from it by `markdown`, `path`.md; print the latter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    text = markdown(document)
    path.with_suffix(".md").write_text(text)
    print(text)

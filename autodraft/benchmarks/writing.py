"""What all reports have in common: their options, the line on the device, and JSON beside the Markdown made from it."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autodraft.report.files import write_document


def report_parser(name: str, description: str | None, output: str | None = None) -> argparse.ArgumentParser:
    """The parser of `python -m autodraft.benchmarks.NAME`, with --output in it.

    Args:
        name: of the module.
        description: its docstring, of which the first line is shown.
        output: where the report goes unless told otherwise; None: that has to be said.
    """
    summary = (description or "").strip().splitlines()[0]
    parser = argparse.ArgumentParser(prog=f"python -m autodraft.benchmarks.{name}", description=summary)
    parser.add_argument(
        "--output", type=Path, default=output and Path(output), required=output is None, help="path without ending"
    )
    return parser


def command_line(name: str, arguments: Sequence[str] | None = None) -> str:
    """What to type to run a benchmark again; without arguments, those of this process."""
    given = sys.argv[1:] if arguments is None else arguments
    return shlex.join(["python", "-m", f"autodraft.benchmarks.{name}", *given])


def device_line(device: Mapping[str, Any]) -> str:
    """Where and with which versions something was measured; `device` is a `DeviceStamp` as JSON."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(device["versions"].items()))
    return f"Device: {device['name']}, {device['threads']} threads, backend {device['backend']}; {versions}."


def with_interval(estimate: Mapping[str, float]) -> str:
    """A speedup and where it lies; `estimate` is an `Interval` as JSON."""
    return f"{estimate['value']:.2f}x ({estimate['low']:.2f} to {estimate['high']:.2f})"


def write_report(path: Path, document: Mapping[str, Any], markdown: Callable[[Mapping[str, Any]], str]) -> None:
    """Write `path`.json and, made from it by `markdown`, `path`.md; print the latter."""
    print(write_document(path, document, markdown))

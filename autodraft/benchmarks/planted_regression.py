"""Does layer sparsity find the depth of a planted network, and does that help? For the record in reports/.

Run as `python -m autodraft.benchmarks.planted_regression`. Knows nothing of training: it goes through the settings,
writes the report after each, and goes on where it was stopped.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autodraft.benchmarks.planted_networks import DIRECTLY, NUM_FEATURES, Budget, Comparison, Setting
from autodraft.benchmarks.writing import command_line, report_parser
from autodraft.errors import InputError
from autodraft.report.files import report_file, write_document
from autodraft.report.planted_regression_plot import plot_planted_regression
from autodraft.report.planted_regression_table import planted_regression_markdown

_PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)


def settings(options: Any) -> Iterator[Setting]:
    """Every combination."""
    for values in itertools.product(options.depths, options.widths, options.samples, options.noise):
        yield Setting(*values)


def started_document(options: Any, budget: Budget, arguments: Sequence[str] | None) -> dict[str, Any]:
    """What has been written so far.

    Raises:
        InputError: it was written with another budget, and its rows would not belong beside new ones.
    """
    head = {**asdict(budget), "penalties": list(budget.penalties), "num_features": NUM_FEATURES}
    path = report_file(options.output, ".json")
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rows": [], **head}
    if any(document.get(name) != value for name, value in head.items()):
        raise InputError(f"{path} was made with other options: give another --output, or remove it")
    return {**document, "command": command_line("planted_regression", arguments)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Do the settings and methods that are missing, and write the report after each setting."""
    parser = report_parser("planted_regression", __doc__, "reports/planted-regression")
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 3], help="hidden layers of the planted network")
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--samples", type=int, nargs="+", default=[150, 600], help="for training")
    parser.add_argument(
        "--noise", type=float, nargs="+", default=[0.1, 0.5], help="standard deviation; the signal's: 1"
    )
    parser.add_argument("--student-depth", type=int, default=8)
    parser.add_argument("--penalties", type=float, nargs="+", default=_PENALTIES)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=1000, help="of each training")
    parser.add_argument("--minutes", type=float, default=30.0, help="begin nothing new after this")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    budget = Budget(options.seeds, options.student_depth, tuple(sorted(options.penalties)), options.steps)
    try:
        document = started_document(options, budget, arguments)
    except InputError as error:
        parser.error(str(error))
    for setting in settings(options):
        row = next((row for row in document["rows"] if asdict(setting).items() <= row.items()), None)
        if (row is not None and DIRECTLY in row["methods"]) or time.monotonic() > deadline:
            continue
        print(setting, file=sys.stderr, flush=True)
        if row is None:
            document["rows"].append(Comparison(setting, budget).run())
        else:  # of before there was this method
            row["methods"][DIRECTLY] = Comparison(setting, budget).directly()
        write(document, options.output)
    write(document, options.output)


def write(document: dict[str, Any], output: Path) -> None:
    """JSON, Markdown and picture."""
    image = report_file(output, ".png")
    write_document(output, document, lambda written: planted_regression_markdown(written, image.name))
    plot_planted_regression(document, image)


if __name__ == "__main__":
    main()

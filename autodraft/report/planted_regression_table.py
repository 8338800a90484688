"""The report on planted regression as Markdown. Knows nothing of training: it reads the benchmark's JSON document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

METHODS = ("standard", "regularised", "refitted", "oracle depth")
DIRECTLY = "depth by validation"


def planted_regression_markdown(document: Mapping[str, Any], image: str) -> str:
    """The report as a person reads it."""
    rows = sorted(document["rows"], key=lambda row: (row["depth"], row["width"], row["samples"], row["noise"]))
    header = ["true depth", "width", "samples", "noise", *METHODS]
    header += ["refitted below standard", "depth, regularised", "depth, refitted", DIRECTLY]
    lines = [
        "# Layer sparsity on planted networks",
        "",
        f"`{document['command']}`",
        "",
        *_explanation(document),
        "",
        *_summary(rows),
        "",
        f"![Test error of refitted against standard networks, and depths found]({image})",
        "",
        f"| {' | '.join(header)} |",
        "|---" * len(header) + "|",
        *(_line(row) for row in rows),
        "",
        "Errors are medians over seeds; depths are hidden layers left, in brackets the number of seeds that have them.",
        f"Took {sum(row['seconds'] for row in rows) / 60:.1f} minutes.",
    ]
    return "\n".join(lines) + "\n"


def _explanation(document: Mapping[str, Any]) -> Iterator[str]:
    trainings = 2 * len(document["penalties"])
    penalties = ", ".join(f"{penalty:g}" for penalty in document["penalties"])
    yield (
        f"Targets are random ReLU networks of {document['num_features']} features, scaled to variance 1, plus noise;"
        f" the student has {document['student_depth']} hidden layers of the same width. Test error is the mean squared"
        " error against the targets without noise: 0 is the planted network, 1 is predicting the mean. Everything is"
        f" over {document['seeds']} seeds, each with its own planted network and data."
    )
    yield ""
    yield f"- standard: the student without penalty, the best of {trainings} restarts by validation."
    yield (
        f"- regularised: with the layer-sparsity penalty, the largest of {penalties} within one standard error of the"
        " best by validation."
    )
    yield (
        "- refitted: merged and trained again without penalty, with every one of the same penalties; chosen likewise by"
        f" its own validation. So this, too, is {trainings} trainings."
    )
    yield f"- oracle depth: as standard, with the planted number of hidden layers; the best of {trainings} restarts."
    yield (
        f"- {DIRECTLY}: as standard, with every number of hidden layers up to one more than are planted, the best of"
        f" {trainings} restarts each; of those the shallowest within one standard error of the best. It says what these"
        " data can tell of depth at all, whatever the penalty."
    )
    yield ""
    yield (
        "All see the same data (a quarter as many samples again for validation), take"
        f" {document['steps']} steps per training, and keep their best state by validation; regularised networks the"
        " best since their set of active layers last changed."
    )


def _summary(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Counted over settings and over seeds."""
    pairs = [
        (better, worse)
        for row in rows
        for better, worse in zip(_errors(row, "refitted"), _errors(row, "standard"), strict=True)
    ]
    medians = [(median(_errors(row, "refitted")), median(_errors(row, "standard"))) for row in rows]
    yield (
        f"Refitted is below standard in {sum(a < b for a, b in medians)} of {len(rows)} settings (medians), and for"
        f" {sum(a < b for a, b in pairs)} of {len(pairs)} single seeds; the median ratio of its error to standard's is"
        f" {median(a / b for a, b in pairs):.2f}."
    )
    for depth in sorted({row["depth"] for row in rows}):
        planted = [row for row in rows if row["depth"] == depth]
        by_validation = _counted(_depths(planted, DIRECTLY))
        yield f"True depth {depth}: found {_counted(_depths(planted, 'refitted'))}; {DIRECTLY} {by_validation}."
    for depth in sorted({row["depth"] for row in rows} - {1}):
        yield from _shallow([row for row in rows if row["depth"] == depth], depth)


def _shallow(rows: Sequence[Mapping[str, Any]], depth: int) -> Iterator[str]:
    """Whether a network with one hidden layer is worse at all where more are planted."""
    errors = [row["methods"][DIRECTLY]["test_error_by_depth"] for row in rows if DIRECTLY in row["methods"]]
    ratios = [one / true for found in errors for one, true in zip(found["1"], found[str(depth)], strict=True)]
    if ratios:
        yield (
            f"With {depth} planted, one hidden layer without a penalty has a higher test error than {depth} for"
            f" {sum(ratio > 1 for ratio in ratios)} of {len(ratios)} seeds; the median ratio of the two errors is"
            f" {median(ratios):.2f}."
        )


def _depths(rows: Sequence[Mapping[str, Any]], method: str) -> Counter[int]:
    """How often each depth was found; rows of before there was a method have none."""
    return Counter(number for row in rows for number in row["methods"].get(method, {}).get("depth", ()))


def _line(row: Mapping[str, Any]) -> str:
    errors = [median(_errors(row, method)) for method in METHODS]
    wins = sum(a < b for a, b in zip(_errors(row, "refitted"), _errors(row, "standard"), strict=True))
    depths = (_counted(_depths([row], method)) for method in ("regularised", "refitted", DIRECTLY))
    cells = [str(row["depth"]), str(row["width"]), str(row["samples"]), f"{row['noise']:g}"]
    cells += [f"{error:.4f}" for error in errors]
    cells += [f"{wins} of {len(_errors(row, 'standard'))}", *depths]
    return f"| {' | '.join(cells)} |"


def _errors(row: Mapping[str, Any], method: str) -> list[float]:
    errors: list[float] = row["methods"][method]["test_error"]
    return errors


def _counted(depths: Counter[int]) -> str:
    return ", ".join(f"{depth} ({count})" for depth, count in sorted(depths.items()))

"""A benchmark as tables: on the terminal, or as Markdown for reports/.

Knows nothing of measuring: it reads the JSON document that `autodraft bench --json` prints. Speedups are over
autoregressive decoding of the same runtime, and "equal" counts the prompts whose output is that of autoregressive
decoding, token for token, where that can be asked. A star marks a lossy method: it decodes another model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

OVERALL = "overall"
NOT_APPLICABLE = "n/a"
COLUMNS = ("method", "tok/s", "speedup", "interval", "means", "tau", "alpha", "c", "v", "dr/ve/sc/re", "equal")
LEGEND = (
    "speedup: total decoding time of autoregressive over the method's, with its 95 % interval over prompts; means: mean"
    " tokens/s over autoregressive's, prefill included (Spec-Bench)",
    "tau: tokens per cycle; alpha: accepted over drafted tokens; c, v: a draft step and a verification over a target"
    " step; dr/ve/sc/re: % of the time in drafts, verification, scheduling and the rest",
)
NOT_APPLICABLE_LEGEND = (
    "n/a: no token for token comparison where tokens are sampled: transformers draws with a generator of its own, lossy"
    " lines decode greedily"
)
LOSSY_LEGEND = "*: lossy, for reference: the low-bit model itself, not the target"
HISTOGRAM_BINS = {"1": (1, 1), "2": (2, 2), "3": (3, 3), "4": (4, 4), "5-8": (5, 8), "9-16": (9, 16), "17+": (17, 999)}
_MATRIX_TASKS = 6
_HEADER_WIDTH = 13

Document = Mapping[str, Any]


def bench_renderable(document: Document) -> RenderableType:
    """For the terminal: everything overall, then speedups by task; fits into 100 columns."""
    parts: list[RenderableType] = [Text(line) for line in (*facts(document), *legend(document))]
    overall = _table(COLUMNS)
    for cells in overall_rows(document, OVERALL):
        overall.add_row(*cells)
    parts += [Text(""), overall]
    tasks = _tasks(document)
    for first in range(0, len(tasks), _MATRIX_TASKS):
        header, *rows = speedup_matrix(document, tasks[first : first + _MATRIX_TASKS])
        matrix = _table([name.replace("_", "\n") for name in header])
        for row in rows:
            matrix.add_row(*row)
        parts += [Text(""), Text("speedup by task", style="bold"), matrix]
    parts += [Text(""), *(Text(line) for line in (*conclusions(document), *not_run(document)))]
    return Group(*parts)


def bench_markdown(document: Document, image: str | None = None) -> str:
    """For a file; `image` is a picture of the same figures that lies beside it."""
    lines = [f"- {line}" for line in (*facts(document), *conclusions(document))]
    if image is not None:
        lines += ["", f"![Speedup of each method by task]({image})"]
    lines += ["", "## Overall", "", *_markdown_table(COLUMNS, overall_rows(document, OVERALL)), ""]
    lines += [line.replace("*", "\\*") for line in legend(document)]
    if _tasks(document):
        lines += ["", "## Speedup by task", ""]
        header, *rows = speedup_matrix(document, _tasks(document))
        lines += _markdown_table(header, rows)
    lines += ["", "## Tokens per cycle", "", *_markdown_table(*histogram_table(document))]
    for task in _tasks(document):
        lines += ["", f"## Task: {task}", "", *_markdown_table(COLUMNS, overall_rows(document, task))]
    lines += ["", "## Settings", ""]
    for method, settings in document["settings"].items():
        lines.append(f"- {method}: {', '.join(f'{name} {value}' for name, value in settings.items())}")
    lines += [f"- {line}" for line in not_run(document)]
    return "\n".join(lines) + "\n"


def facts(document: Document) -> Iterator[str]:
    """What the figures belong to, one line each."""
    device = document["device"]
    yield f"model: {document['model']}"
    yield f"device: {device['name']} ({device['kind']}, {device['threads']} threads, {device['backend']} kernels)"
    yield (
        f"prompts: {document['num_prompts']}, {document['new_tokens_per_prompt']} new tokens each,"
        f" {choice_line(document)}, {document['repeats']} round(s), all methods interleaved"
    )


def choice_line(document: Document) -> str:
    """How tokens were chosen."""
    temperature = document["temperature"]
    return f"temperature {temperature:g}, seed {document['seed']}" if temperature else "greedy"


def legend(document: Document) -> Iterator[str]:
    """What columns and marks mean, as far as they occur."""
    yield from LEGEND
    if any(row["num_identical"] is None for row in document["rows"]):
        yield NOT_APPLICABLE_LEGEND
    if has_lossy(document):
        yield LOSSY_LEGEND


def conclusions(document: Document) -> Iterator[str]:
    """Whether the best of ours is apart, and what the formula says."""
    runner_up = document["runner_up"]
    if runner_up is not None:
        pairs = {"the fastest other method": runner_up["next"], "the fastest published one": runner_up["published"]}
        for what, ratio in pairs.items():
            if ratio is not None:
                yield f"{runner_up['ours']} over {what}, {ratio['method']}: {_verdict(ratio)}"
    if document["predicted_speedup"] is not None:
        yield f"predicted by the formula from this session's own figures: {document['predicted_speedup']:.2f}x"


def not_run(document: Document) -> Iterator[str]:
    """Methods that did not run, together where the reason is the same."""
    methods: dict[str, list[str]] = {}
    for method, reason in document["unavailable"].items():
        methods.setdefault(reason, []).append(method)
    for reason, names in methods.items():
        yield f"not run: {', '.join(names)} ({reason})"


def overall_rows(document: Document, task: str) -> Iterator[tuple[str, ...]]:
    """The cells of `COLUMNS` for every method on a task."""
    for row in document["rows"]:
        if row["task"] == task:
            yield _cells(document, row)


def speedup_matrix(document: Document, tasks: Sequence[str]) -> list[tuple[str, ...]]:
    """Header and rows: the speedup of each method on some tasks, and overall."""
    speedups = {(row["method"], row["task"]): f"{row['speedup']:.2f}" for row in document["rows"]}
    columns = (*tasks, OVERALL)
    rows = [(label(document, name), *(speedups[name, task] for task in columns)) for name in document["kinds"]]
    return [("method", *columns), *rows]


def histogram_table(document: Document) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: share of the cycles by committed tokens, overall, for methods that say."""
    rows = []
    for row in document["rows"]:
        if row["task"] == OVERALL and row["histogram"]:
            counts = {int(tokens): cycles for tokens, cycles in row["histogram"].items()}
            bins = [
                sum(cycles for tokens, cycles in counts.items() if low <= tokens <= high)
                for low, high in HISTOGRAM_BINS.values()
            ]
            shares = [f"{cycles / sum(counts.values()):.0%}" for cycles in bins]
            rows.append((label(document, row["method"]), f"{row['tokens_per_cycle']:.2f}", *shares))
    return ("method", "mean", *HISTOGRAM_BINS), rows


def label(document: Document, method: str) -> str:
    """The method's name, starred if it is lossy."""
    return method + ("*" if document["kinds"][method] == "lossy" else "")


def has_lossy(document: Document) -> bool:
    """Whether a method in it needs `LOSSY_LEGEND`."""
    return "lossy" in document["kinds"].values()


def _tasks(document: Document) -> list[str]:
    """In the order of the rows, without the overall figure."""
    return list(dict.fromkeys(row["task"] for row in document["rows"] if row["task"] != OVERALL))


def _verdict(ratio: Mapping[str, Any]) -> str:
    low, high = ratio["ci_low"], ratio["ci_high"]
    if high is None:
        return f"{ratio['ratio']:.2f}x (one prompt: nothing can be said)"
    verdict = "faster" if low > 1 else "slower" if high < 1 else "no difference that could be told from chance"
    return f"{ratio['ratio']:.2f}x, {low:.2f} to {high:.2f}: {verdict}"


def _cells(document: Document, row: Mapping[str, Any]) -> tuple[str, ...]:
    shares, identical = row["shares"], row["num_identical"]
    return (
        label(document, row["method"]),
        f"{row['tokens_per_s']:.1f}",
        f"{row['speedup']:.2f}x",
        "" if row["ci_high"] is None else f"{row['ci_low']:.2f}-{row['ci_high']:.2f}",
        f"{row['ratio_of_means']:.2f}",
        *(_figure(row[name]) for name in ("tokens_per_cycle", "alpha", "cost", "verify_cost")),
        "" if shares is None else "/".join(f"{100 * share:.0f}" for share in shares.values()),
        NOT_APPLICABLE if identical is None else f"{identical}/{row['num_prompts']}",
    )


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _table(header: Sequence[str]) -> Table:
    """Names on the left, figures on the right."""
    columns = [Column(header[0], no_wrap=True)]
    columns += [Column(name, justify="right", overflow="fold", max_width=_HEADER_WIDTH) for name in header[1:]]
    return Table(*columns, box=None, padding=(0, 1, 0, 0), header_style="bold")


def _markdown_table(header: Sequence[str], rows: Iterator[tuple[str, ...]] | Sequence[tuple[str, ...]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('*', chr(92) + '*') for cell in cells)} |"

    return [line(header), "|---" * len(header) + "|", *(line(row) for row in rows)]

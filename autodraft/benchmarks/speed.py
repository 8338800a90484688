"""A profile beside every other way to decode, for the record in reports/.

Run as `python -m autodraft.benchmarks.speed --profile PROFILE`. The same measurement as `autodraft bench`, on prompts
that no search has seen, with the profile's cascade and its search's own findings written beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from autodraft.benchmarks.writing import command_line, device_line, report_parser, write_report
from autodraft.measure.bench import chosen_methods, run_bench
from autodraft.policy_text import POLICY_LEGEND
from autodraft.profile import DraftProfile
from autodraft.report.bench_plot import plot_speedups
from autodraft.report.bench_table import bench_markdown
from autodraft.report.files import report_file
from autodraft.runtime import load_model


def cascade_lines(profile: Mapping[str, Any], policies: Sequence[str]) -> list[str]:
    """The cascade in words, one line per draft."""
    lines, names = [], iter(policies)
    for draft in profile["cascade"]["drafts"]:
        files = {name: value["file"] for name, value in draft.items() if isinstance(value, dict) and "file" in value}
        shown = {name: value for name, value in (draft | files).items() if name not in ("kind", "policy")}
        settings = ", ".join(f"{name} {value}" for name, value in shown.items())
        policy = f": `{next(names)}`" if draft["kind"] == "self-draft" else ""
        lines.append(f"- {draft['kind']}{policy} ({settings})")
    if not lines:
        return ["- none: autoregressive decoding"]
    scheduler = profile["cascade"]["scheduler"]
    settings = ", ".join(f"{name} {value}" for name, value in scheduler.items() if name != "kind")
    return [*lines, f"- scheduler: {scheduler['kind']}{f' ({settings})' if settings else ''}"]


def markdown(document: Mapping[str, Any], image: str | None = None) -> str:
    """The report as a person reads it; `image` is the picture beside it."""
    bench = document["bench"]
    overall = {row["method"]: row for row in bench["rows"] if row["task"] == "overall"}
    measured = overall["profile"]["speedup"] if "profile" in overall else None
    lines = [
        f"# Decoding speed: {bench['model']}",
        "",
        "Held-out prompts that the search did not see, all methods interleaved in one process; decoding only,"
        " prefill apart.",
        device_line(bench["device"]),
        f"Command: `{document['command']}`",
        "",
        f"Cascade of the profile ({POLICY_LEGEND}):",
        *cascade_lines(document["profile"], document["policies"]),
        "",
    ]
    if bench["predicted_speedup"] is not None and measured is not None:
        lines += [
            f"Measured speedup {measured:.2f}; the formula gives {bench['predicted_speedup']:.2f} from the same runs'"
            f" tokens per cycle, draft cost and verify cost ({measured / bench['predicted_speedup'] - 1:+.0%}).",
            "",
        ]
    return "\n".join(lines) + bench_markdown(bench, image)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write JSON, Markdown and bars."""
    parser = report_parser("speed", __doc__)
    parser.add_argument("--model", required=True, help="the unwidened name; widening and dtype are the profile's")
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--num-prompts", type=int, default=40)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-hf", action="store_true", help="leave transformers out: more prompts in less time")
    options = parser.parse_args(arguments)
    profile = DraftProfile.load(options.profile)
    loaded = load_model(options.model, widen=profile.target.widen, dtype=profile.target.dtype)
    report = run_bench(
        loaded,
        profile,
        num_prompts=options.num_prompts,
        new_tokens_per_prompt=options.new_tokens,
        repeats=options.repeats,
        methods=chosen_methods(hf=not options.no_hf),
        temperature=options.temperature,
        seed=options.seed,
        on_progress=lambda line: print(line, file=sys.stderr),
    )
    document = {
        "command": command_line("speed", arguments),
        "policies": [str(policy) for policy in profile.cascade.policies],
        "bench": report.to_json(),
        "profile": profile.model_dump(mode="json", include={"cascade", "priors", "measurement", "baselines"}),
    }
    image = report_file(options.output, ".png")
    write_report(options.output, document, partial(markdown, image=image.name))
    plot_speedups(report.to_json(), image)


if __name__ == "__main__":
    main()

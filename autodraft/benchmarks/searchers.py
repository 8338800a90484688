"""Ways of searching compared at an equal number of evaluations, for the record in reports/.

Run as `python -m autodraft.benchmarks.searchers`. Knows nothing of how each of them works. All see the same
calibration; the best policy of each is then measured in one session, as a plain chain, so that nothing but the
policy differs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from autodraft.benchmarks.writing import command_line, device_line, report_parser, write_report
from autodraft.measure.prompts import calibration_prompts, choose_prompts, encode_prompts, evaluation_prompts
from autodraft.runtime import load_model
from autodraft.search.compare import compare_searchers
from autodraft.search.runtime_evaluator import EvaluatorOptions, RuntimeEvaluator

_LONGEST_PROMPT = 384


def markdown(document: Mapping[str, Any]) -> str:
    """The report as a person reads it; predicted and measured stand in columns of their own."""
    widened = f", widened {document['widen']} times" if document["widen"] > 1 else ""
    lines = [
        "# Searchers at an equal number of evaluations",
        "",
        f"Model `{document['model']}`{widened}; at most {document['num_trials']} predictions each,"
        f" seed {document['seed']}; then one measured session on {document['num_prompts']} held-out prompts,"
        f" {document['new_tokens']} new tokens each.",
        device_line(document["device"]),
        f"Command: `{document['command']}`",
        "",
        "| method | evaluations | policy | c | predicted speedup | measured speedup | interval | alpha |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(document["results"], key=lambda row: -row["measured"]["speedup"]):
        predicted, measured = row["predicted"], row["measured"]
        lines.append(
            f"| {row['method']} | {row['num_evaluations']} | `{row['policy']}` | {measured['cost']:.2f} |"
            f" {predicted['speedup']:.2f} | {measured['speedup']:.2f} |"
            f" {measured['ci_low']:.2f} to {measured['ci_high']:.2f} | {measured['alpha']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, and write JSON and Markdown."""
    parser = report_parser("searchers", __doc__, "reports/searchers")
    parser.add_argument("--model", default="llama")
    parser.add_argument("--widen", type=int, default=1)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--num-prompts", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--calibration-tokens", type=int, default=512)
    parser.add_argument("--measure-seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    loaded = load_model(options.model, widen=options.widen)
    calibration = encode_prompts(calibration_prompts(), loaded.tokenizer, _LONGEST_PROMPT)
    prompts = encode_prompts(
        choose_prompts(evaluation_prompts(), options.num_prompts), loaded.tokenizer, _LONGEST_PROMPT
    )
    evaluator = RuntimeEvaluator(
        loaded,
        calibration,
        prompts,
        EvaluatorOptions(
            calibration_tokens=options.calibration_tokens, new_tokens_per_prompt=options.new_tokens, seed=options.seed
        ),
    )
    results = compare_searchers(
        evaluator,
        num_trials=options.trials,
        seed=options.seed,
        measure_s=options.measure_seconds,
        on_method=lambda method: print(f"searching: {method}", file=sys.stderr),
    )
    document = {
        "model": options.model,
        "widen": loaded.widen,
        "num_trials": options.trials,
        "num_prompts": options.num_prompts,
        "new_tokens": options.new_tokens,
        "seed": options.seed,
        "device": evaluator.stamp.model_dump(mode="json"),
        "command": command_line("searchers", arguments),
        "results": [{**result.to_json(), "policy": str(result.policy)} for result in results],
    }
    write_report(options.output, document, markdown)


if __name__ == "__main__":
    main()

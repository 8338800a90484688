"""Does refitting pay? Targets that lost sub-layers, and refitted drafts against untrained ones, for reports/.

Run as `python -m autodraft.benchmarks.sparsity`; what was done before in the folder --work is not done again. Every
share of the sub-layers is reached in two ways, with the same steps of training: by the group penalty, and at one stroke
by block influence (ShortGPT, arXiv 2403.03853). Speedups are measured: paired and interleaved decoding on prompts that
nothing was trained or chosen on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autodraft.benchmarks.refitted_drafts import Extent, session_of
from autodraft.benchmarks.sparsity_table import markdown
from autodraft.benchmarks.writing import command_line, report_parser, write_report
from autodraft.configuration import parse_assignments
from autodraft.measure.agreement import AgreementMeter
from autodraft.measure.importance import block_influence
from autodraft.measure.prompts import calibration_prompts, encode_prompts
from autodraft.policy_text import encode_policy
from autodraft.runtime import LoadedModel, load_model
from autodraft.sparsify_job import SparsifyJob, sparsify_job
from autodraft.training.refitted_draft import uniform_policy
from autodraft.training.sparsify import REPORT_NAME, sparsify

_PROMPT_TOKENS, _CONTINUATION_TOKENS, _CALIBRATION_PROMPTS = 96, 32, 16


def done(job: SparsifyJob) -> dict[str, Any]:
    """The report of a job, run now unless its folder has it."""
    path = job.output_folder / REPORT_NAME
    if path.is_file():
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if _decisive(known["settings"]) == _decisive(job.model_dump(mode="json")):
            return known
    print(f"sparsify in {job.output_folder}", file=sys.stderr)
    return sparsify(job).to_json()


def _decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "output"}


def influential(loaded: LoadedModel) -> list[int]:
    """Sub-layers by falling block influence, on the calibration texts."""
    prompts = encode_prompts(calibration_prompts(), loaded.tokenizer, _PROMPT_TOKENS)[:_CALIBRATION_PROMPTS]
    meter = AgreementMeter(
        loaded.runtime, [prompt.tokens for prompt in prompts], _CONTINUATION_TOKENS, eos=loaded.generation_eos
    )
    influence = block_influence(meter)
    return sorted(range(len(influence)), key=lambda index: -influence[index])


def trainings(
    loaded: LoadedModel, shares: Sequence[float], common: Mapping[str, Any], work: Path
) -> dict[str, dict[str, Any]]:
    """Every job's report: penalty and influence as smaller targets, penalty as a draft; `common` settings for all."""
    order, reports = influential(loaded), {}
    for share in shares:
        kept = order[: round(share * len(order))]
        policy = encode_policy(uniform_policy(kept, len(order), 16))
        jobs: dict[str, dict[str, Any]] = {
            "target": {"keep": share},
            "influence": {"policy": policy},
            "draft": {"keep": share, "as_draft": True},
        }
        for kind, settings in jobs.items():
            name = f"{kind}-{share:g}"
            reports[name] = done(sparsify_job({"model": loaded.name, "output": work / name, **common, **settings}))
    return reports


def _without_places(report: Mapping[str, Any]) -> dict[str, Any]:
    """What does not depend on where things lie."""
    kept = {name: value for name, value in report.items() if name not in ("files", "prediction")}
    return {**kept, "settings": _decisive(report["settings"])}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, measure what is missing, and write JSON and Markdown."""
    parser = report_parser("sparsity", __doc__, "reports/sparsity")
    parser.add_argument("--model", default="llama")
    parser.add_argument("--work", type=Path, default=Path("autodraft-runs/sparsity"), help="folder of the trainings")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.75, 0.5])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE: further setting of the trainings")
    parser.add_argument("--widen", type=int, nargs="+", default=[1], help="targets that the drafts are measured on")
    parser.add_argument("--num-prompts", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=64)
    options = parser.parse_args(arguments)
    common = {"steps": options.steps, **parse_assignments(options.set)}
    reports = trainings(load_model(options.model), options.shares, common, options.work)
    extent = Extent(tuple(options.shares), options.num_prompts, options.new_tokens)
    sessions = [session_of(options.model, widen, reports, extent, options.work) for widen in options.widen]
    document = {
        "model": options.model,
        "steps": options.steps,
        "shares": options.shares,
        "command": command_line("sparsity", arguments),
        "trainings": {name: _without_places(report) for name, report in reports.items()},
        "sessions": sessions,
    }
    write_report(options.output, document, markdown)


if __name__ == "__main__":
    main()

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

from safetensors.torch import load_file

from autodraft.benchmarks.sparsity_table import markdown
from autodraft.benchmarks.writing import command_line, report_parser, write_report
from autodraft.cascade import Cascade
from autodraft.configuration import parse_assignments
from autodraft.measure.agreement import AgreementMeter
from autodraft.measure.chains import best_chain
from autodraft.measure.device import device_stamp
from autodraft.measure.importance import block_influence
from autodraft.measure.latency import measure_latency
from autodraft.measure.prompts import calibration_prompts, choose_prompts, encode_prompts, evaluation_prompts
from autodraft.measure.speedup import speedup_of_cascades
from autodraft.policy import DraftPolicy
from autodraft.policy_text import encode_policy
from autodraft.profile_parts import WeightsFile
from autodraft.runtime import LoadedModel, load_model
from autodraft.sparsify_job import SparsifyJob, sparsify_job
from autodraft.training.refitted_draft import WEIGHTS_NAME, uniform_policy, write_weights
from autodraft.training.sparsify import REPORT_NAME, sparsify

_PROMPT_TOKENS, _CONTINUATION_TOKENS, _CALIBRATION_PROMPTS = 96, 32, 16
_LONGEST_PROMPT = 384
_BITS = (16, 4)


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


def contestants(
    reports: Mapping[str, Mapping[str, Any]], shares: Sequence[float], loaded: LoadedModel, work: Path
) -> dict[str, tuple[DraftPolicy, WeightsFile | None]]:
    """Drafts of equal cost by name: untrained by influence, untrained as the penalty chose, refitted."""
    found: dict[str, tuple[DraftPolicy, WeightsFile | None]] = {}
    total = loaded.runtime.spec.num_sub_layers
    for share in shares:
        chosen, by_influence = reports[f"draft-{share:g}"]["kept"], reports[f"influence-{share:g}"]["kept"]
        folder = work / f"draft-{share:g}" / f"x{loaded.widen}"
        folder.mkdir(exist_ok=True)
        weights = write_weights(load_file(folder.parent / WEIGHTS_NAME), loaded, folder)
        for bits in _BITS:
            name = f"{share:g} kept, {bits} bits"
            found[f"{name}, by influence"] = uniform_policy(by_influence, total, bits), None
            found[f"{name}, by penalty"] = uniform_policy(chosen, total, bits), None
            found[f"{name}, refitted"] = uniform_policy(chosen, total, bits), weights
    return found


def measured(
    reports: Mapping[str, Mapping[str, Any]], shares: Sequence[float], options: Any, widen: int
) -> dict[str, Any]:
    """Agreement on held-out prompts, and decoding: one row per draft."""
    loaded = load_model(options.model, widen=widen)
    runtime = loaded.runtime
    prompts = encode_prompts(
        choose_prompts(evaluation_prompts(), options.num_prompts),
        loaded.tokenizer,
        min(runtime.max_length - options.new_tokens, _LONGEST_PROMPT),
    )
    meter = AgreementMeter(
        runtime,
        [prompt.tokens[-_PROMPT_TOKENS:] for prompt in prompts],
        _CONTINUATION_TOKENS,
        eos=loaded.generation_eos,
    )
    latency = measure_latency(runtime)
    rows, cascades = {}, {}
    for name, (policy, weights) in contestants(reports, shares, loaded, options.work).items():
        agreement = meter.measure(policy, weights=weights)
        chain = best_chain(policy, agreement, latency, weights)
        cascades[name] = Cascade(drafts=(chain.draft,))
        rows[name] = {
            "top1_agreement": agreement.top1_agreement,
            "cost": latency.cost(policy),
            "num_draft_tokens": chain.draft.num_draft_tokens,
            "stop_threshold": chain.draft.stop_threshold,
            "predicted": chain.speedup,
            "extra_bytes": runtime.plan(policy, weights).extra_bytes,
        }
    session = speedup_of_cascades(
        runtime,
        cascades,
        prompts,
        max_new_tokens=options.new_tokens,
        repeats=options.repeats,
        eos=loaded.generation_eos,
    )
    for name, row in rows.items():
        comparison, figures = session.compare(name), session.figures(name)
        speedup = comparison.speedup
        row.update(speedup=speedup.value, ci_low=speedup.low, ci_high=speedup.high, alpha=figures.alpha)
        row.update(tokens_per_cycle=figures.tokens_per_cycle, identical=comparison.identical)
    return {
        "widen": widen,
        "num_prompts": len(prompts),
        "new_tokens": options.new_tokens,
        "device": device_stamp(runtime.device, runtime.backend).model_dump(mode="json"),
        "drafts": rows,
        "gain": {
            name: vars(session.compare_pair(name, name.replace("refitted", "by influence")).speedup)
            for name in rows
            if name.endswith("refitted")
        },
    }


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
    parser.add_argument("--widen", type=int, nargs="+", default=[1, 4], help="targets that the drafts are measured on")
    parser.add_argument("--num-prompts", type=int, default=12)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args(arguments)
    common = {"steps": options.steps, **parse_assignments(options.set)}
    reports = trainings(load_model(options.model), options.shares, common, options.work)
    sessions = []
    for widen in options.widen:
        path = options.work / f"measured-x{widen}.json"
        if not path.is_file():
            path.write_text(json.dumps(measured(reports, options.shares, options, widen)), encoding="utf-8")
        sessions.append(json.loads(path.read_text(encoding="utf-8")))
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

"""What does fitting a draft in closed form gain? Agreement and chains with and without it, for reports/.

Run as `python -m autodraft.benchmarks.fitted_drafts [--widen 4] [--temperature 0.7]`. Drafts at 4 bits keep everything;
half of the sub-layers, those of least block influence dropped; or half or a quarter of all neurons, those dropped whose
loss is least. They are fitted to the calibration texts. Each runs as a chain of two lengths, alone and (greedy) behind
a prompt lookup, all in turns.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autodraft.benchmarks.writing import command_line, device_line, report_parser, with_interval, write_report
from autodraft.cascade import Cascade, PromptLookup, SelfDraft
from autodraft.decoding import SamplingConfig
from autodraft.fitting.fitter import DraftFitter
from autodraft.measure.agreement import AgreementMeter
from autodraft.measure.device import device_stamp
from autodraft.measure.prompts import calibration_prompts, choose_prompts, encode_prompts, evaluation_prompts
from autodraft.measure.speedup import Session, speedup_of_cascades
from autodraft.policies import BlockInfluenceSkip, PolicyFeatures
from autodraft.policy import SHARE_UNITS, DraftPolicy
from autodraft.profile_parts import WeightsFile
from autodraft.runtime import LoadedModel, load_model
from autodraft.search.runtime_evaluator import RuntimeEvaluator
from autodraft.search.space import narrowed

BITS = 4
KEPT_SUB_LAYERS = 0.5
KEPT_NEURONS = (0.5, 0.25)
CHAIN_LENGTHS = (4, 7)
LOOKUP = PromptLookup(num_draft_tokens=6, max_ngram=3, min_ngram=2)
LOOKUP_NAME = "prompt lookup"
PLAIN, FITTED = "plain", "fitted"
_LONGEST_PROMPT, _AGREEMENT_PROMPT, _AGREEMENT_TOKENS = 384, 128, 48


def policies_of(features: PolicyFeatures) -> dict[str, DraftPolicy]:
    """By what they keep: everything, a share of the sub-layers, shares of the neurons."""
    whole = DraftPolicy.uniform(features.num_blocks, BITS)
    num_skipped = round((1 - KEPT_SUB_LAYERS) * features.num_sub_layers)
    units = SHARE_UNITS * features.num_blocks
    return {
        "everything": whole,
        f"{KEPT_SUB_LAYERS:.0%} of the sub-layers": BlockInfluenceSkip(num_skipped, BITS).decide(features),
        **{
            f"{share:.0%} of the neurons": narrowed(features, whole, round((1 - share) * units))
            for share in KEPT_NEURONS
        },
    }


def measure_agreement(
    loaded: LoadedModel, num_prompts: int, folder: Path
) -> tuple[list[dict[str, Any]], dict[str, tuple[DraftPolicy, WeightsFile]]]:
    """Top-1 agreement on held-out prompts before and after the fit, and the fitted drafts by name."""
    held_out = encode_prompts(choose_prompts(evaluation_prompts(), num_prompts), loaded.tokenizer, _AGREEMENT_PROMPT)
    texts = encode_prompts(calibration_prompts(), loaded.tokenizer, _LONGEST_PROMPT)
    evaluator = RuntimeEvaluator(loaded, texts, [])
    evaluator.calibrate()
    tokens = [prompt.tokens for prompt in held_out]
    meter = AgreementMeter(loaded.runtime, tokens, _AGREEMENT_TOKENS, eos=loaded.generation_eos)
    fitter = DraftFitter(loaded, [prompt.tokens for prompt in texts], folder)
    rows, fitted = [], {}
    for name, policy in policies_of(evaluator.features).items():
        started = time.perf_counter()
        weights = fitter.fit(policy)
        seconds = time.perf_counter() - started
        assert weights is not None, "there is no limit of time"
        agreement = {
            kind: meter.measure(policy, weights=own).top1_agreement for kind, own in ((PLAIN, None), (FITTED, weights))
        }
        cost = evaluator.features.cost(policy)
        rows.append({"draft": name, "positions": meter.num_rows, "cost": cost, "fit_s": seconds, **agreement})
        fitted[name] = policy, weights
    return rows, fitted


def cascades_of(
    drafts: Mapping[str, tuple[DraftPolicy, WeightsFile]], *, lookup: bool
) -> dict[tuple[str, str], Cascade]:
    """Chains by name and kind, plain or fitted."""
    found = {}
    for name, (policy, weights) in drafts.items():
        for length in CHAIN_LENGTHS:
            for kind, own in ((PLAIN, None), (FITTED, weights)):
                draft = SelfDraft(policy=policy, weights=own, num_draft_tokens=length)
                found[f"{name}, {length} deep", kind] = Cascade(drafts=(draft,))
                if lookup:
                    found[f"{LOOKUP_NAME}, {name}, {length} deep", kind] = Cascade(drafts=(LOOKUP, draft))
    return found


def measure_chains(
    loaded: LoadedModel,
    drafts: Mapping[str, tuple[DraftPolicy, WeightsFile]],
    *,
    temperature: float,
    num_prompts: int,
    new_tokens: int,
    repeats: int,
) -> dict[str, Any]:
    """Every chain over plain decoding, and the fitted ones over the same without a fit, in one session."""
    room = min(loaded.runtime.max_length - new_tokens - 1, _LONGEST_PROMPT)
    prompts = encode_prompts(choose_prompts(evaluation_prompts(), num_prompts), loaded.tokenizer, room)
    cascades = cascades_of(drafts, lookup=temperature == 0)
    named = {
        LOOKUP_NAME: Cascade(drafts=(LOOKUP,)),
        **{f"{name}, {kind}": each for (name, kind), each in cascades.items()},
    }
    session = speedup_of_cascades(
        loaded.runtime, named, prompts, max_new_tokens=new_tokens, repeats=repeats, eos=loaded.generation_eos,
        sampling=SamplingConfig(temperature=temperature),
    )  # fmt: skip
    rows = [
        {
            "method": name,
            **{kind: _row(session, f"{name}, {kind}") for kind in (PLAIN, FITTED)},
            "gain": vars(session.compare_pair(f"{name}, {FITTED}", f"{name}, {PLAIN}").speedup),
        }
        for name in dict.fromkeys(name for name, _ in cascades)
    ]
    return {"num_prompts": len(prompts), "rows": rows, "lookup": _row(session, LOOKUP_NAME)}


def _row(session: Session, name: str) -> dict[str, Any]:
    comparison, figures = session.compare(name), session.figures(name)
    return {
        "speedup": vars(comparison.speedup),
        "tokens_per_s": comparison.tokens_per_s,
        "baseline_tokens_per_s": comparison.baseline_tokens_per_s,
        "alpha": figures.alpha,
        "tokens_per_cycle": figures.tokens_per_cycle,
        "identical": comparison.identical,
    }


def markdown(document: Mapping[str, Any]) -> str:
    """The report as a person reads it."""
    lines = [
        "# Drafts fitted in closed form",
        "",
        device_line(document["device"]),
        f"Command: `{document['command']}`",
        "",
    ]
    widened = f", widened {document['widen']} times" if document["widen"] > 1 else ""
    lines += [
        f"`{document['model']}`{widened}; drafts at {BITS} bits, without training.",
        "",
        "## Top-1 agreement with the target",
        "",
        f"Teacher-forced, on {document['agreement'][0]['positions']} positions of held-out prompts.",
        "",
        "| what is kept | c by the latency table | plain | fitted | seconds for the fit |",
        "|---" * 5 + "|",
        *(
            f"| {r['draft']} | {r['cost']:.2f} | {r[PLAIN]:.1%} | {r[FITTED]:.1%} | {r['fit_s']:.1f} |"
            for r in document["agreement"]
        ),
        "",
        "## Chains",
        "",
        f"{document['num_prompts']} held-out prompts, {document['new_tokens']} tokens each, temperature"
        f" {document['temperature']:g}, {document['repeats']} round(s), interleaved; over autoregressive decoding"
        f" ({document['lookup']['baseline_tokens_per_s']:.1f} tokens/s), with 95 % intervals. Prompt lookup alone:"
        f" {with_interval(document['lookup']['speedup'])}.",
        "",
        "| draft | plain | fitted | gain | alpha | tokens per cycle | output |",
        "|---" * 7 + "|",
    ]
    for row in document["rows"]:
        plain, fitted = row[PLAIN], row[FITTED]
        same = "the same" if plain["identical"] and fitted["identical"] else "**different**"
        lines.append(
            f"| {row['method']} | {with_interval(plain['speedup'])} | {with_interval(fitted['speedup'])}"
            f" | {with_interval(row['gain'])} | {plain['alpha']:.2f}, {fitted['alpha']:.2f}"
            f" | {plain['tokens_per_cycle']:.2f}, {fitted['tokens_per_cycle']:.2f} | {same} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, measure, and write JSON and Markdown."""
    parser = report_parser("fitted_drafts", __doc__, "reports/fitted-drafts")
    parser.add_argument("--model", default="llama")
    parser.add_argument("--widen", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--agreement-prompts", type=int, default=96)
    parser.add_argument("--num-prompts", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args(arguments)
    loaded = load_model(options.model, widen=options.widen)
    with tempfile.TemporaryDirectory() as folder:
        agreement, drafts = measure_agreement(loaded, options.agreement_prompts, Path(folder))
        measured = measure_chains(
            loaded, drafts, temperature=options.temperature, num_prompts=options.num_prompts,
            new_tokens=options.new_tokens, repeats=options.repeats,
        )  # fmt: skip
    document = {
        "model": loaded.name,
        "widen": loaded.widen,
        "command": command_line("fitted_drafts", arguments),
        "device": device_stamp(loaded.runtime.device, loaded.runtime.backend).model_dump(mode="json"),
        "temperature": options.temperature,
        "new_tokens": options.new_tokens,
        "repeats": options.repeats,
        "agreement": agreement,
        **measured,
    }
    write_report(options.output, document, markdown)


if __name__ == "__main__":
    main()

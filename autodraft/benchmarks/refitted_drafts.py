"""Refitted drafts against untrained ones of the same cost: agreement and measured speed on held-out prompts.

Knows trainings by their reports, and the folder that has their weights. What was measured before is not measured again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autodraft.cascade import Cascade
from autodraft.measure.agreement import AgreementMeter
from autodraft.measure.chains import PredictedChain, best_chain
from autodraft.measure.device import device_stamp
from autodraft.measure.latency import measure_latency
from autodraft.measure.prompts import (
    TokenPrompt,
    calibration_prompts,
    choose_prompts,
    encode_prompts,
    evaluation_prompts,
)
from autodraft.measure.speedup import Session, speedup_of_cascades
from autodraft.policy import DraftPolicy
from autodraft.profile_parts import WeightsFile
from autodraft.runtime import LoadedModel, load_model
from autodraft.training.refitted_draft import WEIGHTS_NAME, uniform_policy

BITS = (16, 4)
REFITTED, UNTRAINED = "refitted", "by influence"
_LONGEST_PROMPT, _PROMPT_TOKENS, _CONTINUATION_TOKENS, _CALIBRATION_PROMPTS = 384, 96, 32, 16

Contestant = tuple[DraftPolicy, WeightsFile | None]


@dataclass(frozen=True)
class Extent:
    """How much is measured: shares of sub-layers that drafts keep, held-out prompts, tokens of each."""

    shares: tuple[float, ...]
    num_prompts: int
    new_tokens: int

    def is_of(self, session: Mapping[str, Any]) -> bool:
        """Whether a session that is known has the same."""
        drafts = {f"{share:g} kept, {bits} bits, {REFITTED}" for share in self.shares for bits in BITS}
        same = (session["num_prompts"], session["new_tokens"]) == (self.num_prompts, self.new_tokens)
        return same and {name for name in session["drafts"] if name.endswith(REFITTED)} == drafts


def session_of(
    model: str, widen: int, reports: Mapping[str, Mapping[str, Any]], extent: Extent, work: Path
) -> dict[str, Any]:
    """The session in `work`, or a new one."""
    path = work / f"measured-x{widen}.json"
    known: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if known is None or not extent.is_of(known):
        known = _measured(load_model(model, widen=widen), reports, extent, work)
        path.write_text(json.dumps(known), encoding="utf-8")
    return known


def contestants(
    reports: Mapping[str, Mapping[str, Any]], shares: tuple[float, ...], loaded: LoadedModel, work: Path
) -> dict[str, Contestant]:
    """Drafts of equal cost by name: untrained by influence, untrained as the penalty chose, refitted."""
    found: dict[str, Contestant] = {}
    total = loaded.runtime.spec.num_sub_layers
    for share in shares:
        chosen, by_influence = reports[f"draft-{share:g}"]["kept"], reports[f"influence-{share:g}"]["kept"]
        folder = work / f"draft-{share:g}"
        weights = WeightsFile.of(folder / WEIGHTS_NAME, folder)
        for bits in BITS:
            name = f"{share:g} kept, {bits} bits"
            found[f"{name}, {UNTRAINED}"] = uniform_policy(by_influence, total, bits), None
            found[f"{name}, by penalty"] = uniform_policy(chosen, total, bits), None
            found[f"{name}, {REFITTED}"] = uniform_policy(chosen, total, bits), weights
    return found


def _measured(
    loaded: LoadedModel, reports: Mapping[str, Mapping[str, Any]], extent: Extent, work: Path
) -> dict[str, Any]:
    runtime = loaded.runtime
    room = min(runtime.max_length - extent.new_tokens, _LONGEST_PROMPT)
    prompts = encode_prompts(choose_prompts(evaluation_prompts(), extent.num_prompts), loaded.tokenizer, room)
    meters = {"choose": _meter(loaded, _calibration(loaded)), "judge": _meter(loaded, prompts)}
    rows, chains = _predicted(loaded, contestants(reports, extent.shares, loaded, work), **meters)
    session = speedup_of_cascades(
        runtime,
        {name: Cascade(drafts=(chain.draft,)) for name, chain in chains.items()},
        prompts,
        max_new_tokens=extent.new_tokens,
        eos=loaded.generation_eos,
    )
    refitted = [name for name in rows if name.endswith(REFITTED)]
    return {
        "widen": loaded.widen,
        "num_prompts": len(prompts),
        "new_tokens": extent.new_tokens,
        "device": device_stamp(runtime.device, runtime.backend).model_dump(mode="json"),
        "drafts": {name: {**row, **_speed(session, name)} for name, row in rows.items()},
        "gain": {
            name: vars(session.compare_pair(name, name.replace(REFITTED, UNTRAINED)).speedup) for name in refitted
        },
    }


def _calibration(loaded: LoadedModel) -> list[TokenPrompt]:
    return encode_prompts(calibration_prompts(), loaded.tokenizer, _PROMPT_TOKENS)[:_CALIBRATION_PROMPTS]


def _meter(loaded: LoadedModel, prompts: list[TokenPrompt]) -> AgreementMeter:
    cut = [prompt.tokens[-_PROMPT_TOKENS:] for prompt in prompts]
    return AgreementMeter(loaded.runtime, cut, _CONTINUATION_TOKENS, eos=loaded.generation_eos)


def _predicted(
    loaded: LoadedModel, drafts: Mapping[str, Contestant], choose: AgreementMeter, judge: AgreementMeter
) -> tuple[dict[str, dict[str, Any]], dict[str, PredictedChain]]:
    """Each draft's chain, chosen on the calibration texts, and its agreement on the held-out prompts."""
    runtime = loaded.runtime
    latency = measure_latency(runtime)
    rows: dict[str, dict[str, Any]] = {}
    chains: dict[str, PredictedChain] = {}
    for name, (policy, weights) in drafts.items():
        chain = chains[name] = best_chain(policy, choose.measure(policy, weights=weights), latency, weights)
        rows[name] = {
            "top1_agreement": judge.measure(policy, weights=weights).top1_agreement,
            "cost": latency.cost(policy),
            "num_draft_tokens": chain.draft.num_draft_tokens,
            "stop_threshold": chain.draft.stop_threshold,
            "extra_bytes": runtime.plan(policy, weights).extra_bytes,
        }
    return rows, chains


def _speed(session: Session, name: str) -> dict[str, Any]:
    comparison, figures = session.compare(name), session.figures(name)
    return {
        "speedup": comparison.speedup.value,
        "ci_low": comparison.speedup.low,
        "ci_high": comparison.speedup.high,
        "alpha": figures.alpha,
        "tokens_per_cycle": figures.tokens_per_cycle,
        "identical": comparison.identical,
    }

"""Decoding with routed drafts, for `autodraft.benchmarks.radial`: times of their steps, and cascades with and without.

Everything here is measured, paired and interleaved; nothing else should run on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from autodraft.cascade import Cascade, Draft, DyTC, PromptLookup, RoutedDraft, SelfDraft, TokenRecycling
from autodraft.measure.agreement import AgreementMeter
from autodraft.measure.chains import best_chain
from autodraft.measure.latency import StepKey, interleaved, measure_latency
from autodraft.measure.prompts import calibration_prompts, choose_prompts, encode_prompts, evaluation_prompts
from autodraft.measure.speedup import Session, speedup_of_cascades
from autodraft.measure.statistics import spread
from autodraft.policy import DraftPolicy
from autodraft.profile_parts import WeightsFile
from autodraft.runtime import NEVER, LoadedModel
from autodraft.runtime.routed import PASSED_KEYS
from autodraft.runtime.routed_plan import SteppedPasses
from autodraft.runtime.router_file import read_router
from autodraft.training.radial.routed_draft import best_routed_chain

_TEXTS, _CONTEXT, _CHAIN = 4, 96, 4
_PAIRS = (
    ("chain, masked", "chain, static"),
    ("chain, projected", "chain, static"),
    ("dytc, masked", "dytc, static"),
    ("dytc, masked", "dytc, free drafts only"),
)


def step_rows(loaded: LoadedModel, file: WeightsFile, policy: DraftPolicy, *, seconds: float = 12.0) -> dict[str, Any]:
    """Milliseconds of a step of a drafted chain, by what drafts it: the median, and c by lower quartiles."""
    runtime = loaded.runtime
    router = read_router(file.verified_path(), runtime.spec)
    texts = [prompt.tokens for prompt in encode_prompts(calibration_prompts(), loaded.tokenizer, _CONTEXT)][:_TEXTS]
    caches = [runtime.new_cache(_CONTEXT + _CHAIN) for _ in texts]
    for cache, text in zip(caches, texts, strict=True):
        runtime.prefill(cache, text[:-1])

    def each(draft: Callable[[Any, list[int]], object]) -> Callable[[], None]:
        def run() -> None:
            for cache, text in zip(caches, texts, strict=True):
                draft(cache, [text[-1]])

        return run

    chains: dict[str, Callable[[Any, list[int]], object]] = {}
    for name, plan in (("target", runtime.target), ("static", runtime.plan(policy))):
        chains[name] = lambda cache, fed, plan=plan: runtime.draft_chain(plan, cache, fed, _CHAIN)  # type: ignore[misc]
    for way in PASSED_KEYS:
        whole, stepped = runtime.routed_plan(file, way), SteppedPasses(runtime, router, way, runtime.target)
        chains[f"{way}, one call"] = lambda cache, fed, plan=whole: runtime.draft_chain(plan, cache, fed, _CHAIN)  # type: ignore[misc]
        chains[f"{way}, from Python"] = lambda cache, fed, passes=stepped: passes.draft_chain(  # type: ignore[misc]
            cache, fed, 0, _CHAIN, 1, NEVER, None
        )
    keys: dict[str, StepKey] = {name: (name, 16, 1) for name in chains}
    with torch.inference_mode():
        samples = interleaved(
            {keys[name]: each(chain) for name, chain in chains.items()}, seconds=seconds, most_repeats=20
        )
    spreads = {name: spread([ms / _CHAIN / len(texts) for ms in samples[key]]) for name, key in keys.items()}
    target_ms = spreads["target"].low_ms
    return {name: {"median_ms": each.median_ms, "c": each.low_ms / target_ms} for name, each in spreads.items()}


def decoding_rows(
    loaded: LoadedModel, file: WeightsFile, policy: DraftPolicy, *, num_prompts: int, new_tokens: int
) -> dict[str, Any]:
    """F2 of cascades with and without the router, every draft with the length that it is predicted to be best at."""
    models = _models(loaded, file, policy)
    free = (PromptLookup(), TokenRecycling())
    cascades = {f"chain, {name}": Cascade(drafts=(draft,)) for name, draft in models.items()}
    cascades |= {
        f"dytc, {name}": Cascade(drafts=(models[name], *free), scheduler=DyTC()) for name in ("static", "masked")
    }
    cascades["dytc, free drafts only"] = Cascade(drafts=free, scheduler=DyTC())
    prompts = encode_prompts(choose_prompts(evaluation_prompts(), num_prompts), loaded.tokenizer, 384)
    session = speedup_of_cascades(
        loaded.runtime, cascades, prompts, max_new_tokens=new_tokens, eos=loaded.generation_eos
    )
    return {
        "num_prompts": len(prompts),
        "new_tokens": new_tokens,
        "num_draft_tokens": {name: draft.num_draft_tokens for name, draft in models.items()},
        "cascades": {name: _decoded_row(session, name) for name in cascades},
        "pairs": [_pair(session, *pair) for pair in _PAIRS],
    }


def _models(loaded: LoadedModel, file: WeightsFile, policy: DraftPolicy) -> Mapping[str, Draft]:
    texts = [prompt.tokens for prompt in encode_prompts(calibration_prompts(), loaded.tokenizer, _CONTEXT)][:16]
    meter = AgreementMeter(loaded.runtime, texts, 32, eos=loaded.generation_eos)
    static: SelfDraft = best_chain(policy, meter.measure(policy), measure_latency(loaded.runtime)).draft
    routed = {way: RoutedDraft.model_validate({"router": file, "passed_keys": way}) for way in PASSED_KEYS}
    return {"static": static, **{way: best_routed_chain(loaded, draft).draft for way, draft in routed.items()}}


def _decoded_row(session: Session, name: str) -> dict[str, Any]:
    comparison, figures = session.compare(name), session.figures(name)
    speedup = comparison.speedup
    return {
        "speedup": [speedup.low, speedup.value, speedup.high],
        "identical": comparison.identical,
        "alpha": figures.alpha,
        "cost": figures.cost,
        "tokens_per_cycle": figures.tokens_per_cycle,
    }


def _pair(session: Session, name: str, other: str) -> dict[str, Any]:
    ratio = session.compare_pair(name, other).speedup
    return {"cascade": name, "over": other, "ratio": [ratio.low, ratio.value, ratio.high]}

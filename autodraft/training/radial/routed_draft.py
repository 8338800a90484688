"""A trained router in the form that decoders load: a profile whose cascade has the routed draft as its level.

Knows nothing of how the router was trained. Costs are measured here, the speedup is predicted: `autodraft bench`
measures it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from autodraft.cascade import Cascade, RoutedDraft
from autodraft.measure.agreement import Agreement, AgreementMeter
from autodraft.measure.chains import ChainShape, best_shape
from autodraft.measure.device import device_stamp, target_stamp
from autodraft.measure.latency import QUERY_TOKENS, measure_latency
from autodraft.measure.prompts import calibration_prompts, encode_prompts
from autodraft.measure.routed_latency import measure_routed_costs
from autodraft.profile import DraftPrior, DraftProfile, Prediction, Priors, Provenance
from autodraft.profile_parts import WeightsFile
from autodraft.router_job import RouterJob
from autodraft.runtime import LoadedModel
from autodraft.runtime.routed import RoutedForward
from autodraft.runtime.router_file import read_router
from autodraft.training.radial.run import ROUTER_NAME

PROFILE_NAME = "profile.json"
_NUM_PROMPTS, _PROMPT_TOKENS, _CONTINUATION_TOKENS, _TIMED_TEXTS = 16, 96, 32, 4


@dataclass(frozen=True)
class RoutedChain:
    """The chain of a router that is predicted to be fastest.

    Attributes:
        prior: its agreement on the calibration texts, and its measured costs.
        shape: what the formula promises.
        verify_cost: query tokens -> measured cost of the target's forward over them.
    """

    draft: RoutedDraft
    prior: DraftPrior
    shape: ChainShape
    verify_cost: dict[int, float]


def best_routed_chain(loaded: LoadedModel, file: WeightsFile, passed_keys: str, seed: int = 0) -> RoutedChain:
    """Length and stop threshold by agreement and times of this device; see `RoutedForward` for `passed_keys`."""
    runtime = loaded.runtime
    texts = [prompt.tokens for prompt in encode_prompts(calibration_prompts(), loaded.tokenizer, _PROMPT_TOKENS)]
    agreement = _agreement(loaded, file, passed_keys, texts[:_NUM_PROMPTS])
    latency = measure_latency(runtime, seed=seed)
    long = [text for text in texts if len(text) > 2 * max(QUERY_TOKENS)]
    costs = measure_routed_costs(runtime, runtime.routed_plan(file, passed_keys), long[:_TIMED_TEXTS], seed=seed)
    shape = best_shape(agreement, costs[1], latency.verify_cost)
    draft = RoutedDraft.model_validate(
        {
            "router": file,
            "passed_keys": passed_keys,
            "num_draft_tokens": shape.num_draft_tokens,
            "stop_threshold": shape.stop_threshold,
        }
    )
    size = file.verified_path().stat().st_size
    prior = DraftPrior(alpha=agreement.top1_agreement, cost=costs[1], cost_by_rows=costs, extra_bytes=size)
    return RoutedChain(draft, prior, shape, {n: latency.verify_cost(n) for n in QUERY_TOKENS})


def _agreement(loaded: LoadedModel, file: WeightsFile, passed_keys: str, texts: Sequence[Sequence[int]]) -> Agreement:
    router = read_router(file.verified_path(), loaded.runtime.spec)
    routed = RoutedForward(loaded.runtime, router.graph, passed_keys)
    meter = AgreementMeter(loaded.runtime, texts, _CONTINUATION_TOKENS, eos=loaded.generation_eos)
    return meter.measure_passes(lambda cache, rows: routed.along(cache, rows, router)[0])


def write_profile(job: RouterJob, loaded: LoadedModel) -> Path:
    """The profile of the best chain of the job's router, which lies in its folder; returns the profile's path."""
    folder = job.output_folder
    chain = best_routed_chain(loaded, WeightsFile.of(folder / ROUTER_NAME, folder), job.passed_keys, job.seed)
    stamp = device_stamp(loaded.runtime.device, loaded.runtime.backend)
    profile = DraftProfile(
        conclusion="speculate",
        target=target_stamp(loaded),
        device=stamp,
        cascade=Cascade(drafts=(chain.draft,)),
        priors=Priors(drafts=(chain.prior,), verify_cost=chain.verify_cost),
        predicted=Prediction(speedup=chain.shape.speedup, tokens_per_cycle=chain.shape.tokens_per_cycle),
        provenance=Provenance(
            study="train-router", storage="none", seed=job.seed, command=" ".join(sys.argv), created=datetime.now(UTC),
            versions=stamp.versions,
        ),
    )  # fmt: skip
    profile.save(folder / PROFILE_NAME)
    return folder / PROFILE_NAME

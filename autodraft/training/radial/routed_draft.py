"""A trained router, and its blocks, in the form that decoders load: a profile whose cascade has the routed draft.

Knows nothing of how the router was trained. Costs are measured here, the speedup is predicted: `autodraft bench`
measures it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from autodraft.cascade import Cascade, RoutedDraft
from autodraft.measure.agreement import AgreementMeter
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
from autodraft.training.radial.run import BLOCKS_NAME, ROUTER_NAME

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


def trained_model(job: RouterJob) -> RoutedDraft:
    """What a job has trained, as a draft of its model in any width; its length is still anybody's guess."""
    folder = job.output_folder
    return RoutedDraft(
        router=WeightsFile.of(folder / ROUTER_NAME, folder),
        weights=WeightsFile.of(folder / BLOCKS_NAME, folder) if job.train_blocks else None,
        bits=job.bits,
        passed_keys=job.passed_keys,
    )


def best_routed_chain(loaded: LoadedModel, model: RoutedDraft, seed: int = 0) -> RoutedChain:
    """Length and stop threshold of a draft by agreement and times of this device."""
    runtime = loaded.runtime
    plan = runtime.routed_plan(model.router, model.passed_keys, bits=model.bits, weights=model.weights)
    texts = [prompt.tokens for prompt in encode_prompts(calibration_prompts(), loaded.tokenizer, _PROMPT_TOKENS)]
    meter = AgreementMeter(runtime, texts[:_NUM_PROMPTS], _CONTINUATION_TOKENS, eos=loaded.generation_eos)
    router = read_router(model.router.verified_path(), runtime.spec)
    routed = RoutedForward(runtime, router.graph, model.passed_keys, plan.blocks)
    agreement = meter.measure_passes(lambda cache, rows: routed.along(cache, rows, router)[0])
    latency = measure_latency(runtime, seed=seed)
    long = [text for text in texts if len(text) > 2 * max(QUERY_TOKENS)]
    costs = measure_routed_costs(runtime, plan, long[:_TIMED_TEXTS], seed=seed)
    shape = best_shape(agreement, costs[1], latency.verify_cost)
    draft = model.model_copy(
        update={"num_draft_tokens": shape.num_draft_tokens, "stop_threshold": shape.stop_threshold}
    )
    size = model.router.verified_path().stat().st_size + plan.blocks.extra_bytes
    prior = DraftPrior(alpha=agreement.top1_agreement, cost=costs[1], cost_by_rows=costs, extra_bytes=size)
    return RoutedChain(draft, prior, shape, latency.verify_costs)


def write_profile(job: RouterJob, loaded: LoadedModel) -> Path:
    """The profile of the best chain of the job's router, which lies in its folder; returns the profile's path."""
    folder = job.output_folder
    chain = best_routed_chain(loaded, trained_model(job), job.seed)
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

"""A refitted draft in the form that decoders load: its weights, and a profile that names them.

Knows nothing of how the weights were trained. The profile's figures are predicted: `autodraft bench` measures.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from autodraft.cascade import Cascade
from autodraft.measure.agreement import AgreementMeter
from autodraft.measure.chains import best_chain
from autodraft.measure.device import device_stamp, target_stamp
from autodraft.measure.latency import measure_latency
from autodraft.measure.prompts import calibration_prompts, encode_prompts
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.profile import DraftPrior, DraftProfile, Prediction, Priors, Provenance
from autodraft.profile_parts import WeightsFile
from autodraft.runtime import LoadedModel

WEIGHTS_NAME, PROFILE_NAME = "draft.safetensors", "profile.json"
_NUM_PROMPTS, _PROMPT_TOKENS, _CONTINUATION_TOKENS = 16, 96, 32


def uniform_policy(kept: Collection[int], num_sub_layers: int, bits: int) -> DraftPolicy:
    """What is kept at `bits`, the head too."""
    shares = (ChannelShares.all_at(bits if index in kept else 0) for index in range(num_sub_layers))
    return DraftPolicy.from_sub_layers(shares, bits)


def write_draft(
    loaded: LoadedModel, policy: DraftPolicy, weights: WeightsFile, folder: Path, seed: int
) -> DraftProfile:
    """The profile of the chain that is predicted to be fastest, written into `folder`."""
    runtime = loaded.runtime
    prompts = [prompt.tokens for prompt in encode_prompts(calibration_prompts(), loaded.tokenizer, _PROMPT_TOKENS)]
    meter = AgreementMeter(runtime, prompts[:_NUM_PROMPTS], _CONTINUATION_TOKENS, eos=loaded.generation_eos)
    latency, agreement = measure_latency(runtime, seed=seed), meter.measure(policy, weights=weights)
    chain = best_chain(policy, agreement, latency, weights)
    stamp = device_stamp(runtime.device, runtime.backend)
    extra_bytes = runtime.plan(policy, weights).extra_bytes
    prior = DraftPrior(alpha=agreement.top1_agreement, cost=latency.cost(policy), extra_bytes=extra_bytes)
    profile = DraftProfile(
        conclusion="speculate",
        target=target_stamp(loaded),
        device=stamp,
        cascade=Cascade(drafts=(chain.draft,)),
        priors=Priors(drafts=(prior,), verify_cost=latency.verify_costs),
        predicted=Prediction(speedup=chain.speedup, tokens_per_cycle=chain.tokens_per_cycle),
        provenance=Provenance(
            study="sparsify", storage="none", seed=seed, command=" ".join(sys.argv), created=datetime.now(UTC),
            versions=stamp.versions,
        ),
    )  # fmt: skip
    profile.save(folder / PROFILE_NAME)
    return profile

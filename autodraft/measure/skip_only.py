"""The self-draft of the published kind: some sub-layers skipped, the others as they are, drafting a chain.

Knows nothing of low bits or of search. What Draft & Verify (arXiv 2309.08168) and SWIFT (arXiv 2410.06916) look for
among all sets of sub-layers is looked for here along one order, that of block influence: the number that is skipped,
the length and the stop threshold are those of the best predicted speedup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autodraft.cascade import Cascade, SelfDraft
from autodraft.measure.agreement import AgreementMeter
from autodraft.measure.chains import best_chain
from autodraft.measure.importance import block_influence
from autodraft.measure.latency import measure_latency
from autodraft.measure.prompts import TokenPrompt
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.runtime import LoadedModel

_SKIP_SHARES = (0.125, 0.25, 0.375, 0.5)
_NUM_PROMPTS, _PROMPT_TOKENS, _CONTINUATION_TOKENS = 16, 96, 32
_LATENCY_S = 3.0


@dataclass(frozen=True)
class SkipOnly:
    """A skip-only chain and what the formula promises of it (predicted)."""

    draft: SelfDraft
    num_skipped: int
    predicted_speedup: float

    @property
    def cascade(self) -> Cascade:
        return Cascade(drafts=(self.draft,))

    @property
    def settings(self) -> dict[str, str]:
        """For the record."""
        return {
            "skipped": f"{self.num_skipped} of {2 * len(self.draft.policy.blocks)} sub-layers, in order of influence",
            "num_draft_tokens": str(self.draft.num_draft_tokens),
            "stop_threshold": f"{self.draft.stop_threshold:g}",
            "predicted": f"{self.predicted_speedup:.2f}",
        }


def derive_skip_only(
    loaded: LoadedModel, calibration: Sequence[TokenPrompt], *, latency_s: float = _LATENCY_S, seed: int = 0
) -> SkipOnly:
    """The skip-only chain with the best predicted speedup, from the calibration prompts and this device's times."""
    runtime = loaded.runtime
    prompts = [prompt.tokens[-_PROMPT_TOKENS:] for prompt in calibration[:_NUM_PROMPTS]]
    meter = AgreementMeter(runtime, prompts, _CONTINUATION_TOKENS, eos=loaded.generation_eos)
    latency = measure_latency(runtime, seconds=latency_s, seed=seed)
    policies = skip_policies(block_influence(meter))
    chains = [best_chain(policy, meter.measure(policy), latency) for policy in policies]
    best = max(chains, key=lambda chain: chain.speedup)
    return SkipOnly(best.draft, best.draft.policy.num_skipped, best.speedup)


def skip_policies(influence: Sequence[float]) -> list[DraftPolicy]:
    """The least influential sub-layers skipped, several numbers of them, in rising order. `influence`: [2 * blocks]"""
    num_sub_layers = len(influence)
    order = sorted(range(num_sub_layers), key=lambda index: influence[index])
    counts = {1, 2, *(round(share * num_sub_layers) for share in _SKIP_SHARES)}
    full = DraftPolicy.uniform(num_sub_layers // 2)
    return [
        full.replace(dict.fromkeys(order[:count], ChannelShares()))
        for count in sorted(counts)
        if 0 < count < num_sub_layers
    ]

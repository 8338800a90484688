"""F1 against a naive loop that drafts window by window, and the proxies against what they are defined as."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from autodraft.errors import InputError
from autodraft.measure.agreement import Agreement, AgreementMeter
from autodraft.measure.importance import block_influence, narrowing, sensitivity
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.runtime import Rows, TransformerRuntime

PROMPTS = [[3, 14, 15, 92, 65], [35, 89, 79], [32, 38, 46, 26, 43, 38, 32]]
NUM_TOKENS = 13


def skipping(*indices: int) -> DraftPolicy:
    return DraftPolicy.uniform(3).replace(dict.fromkeys(indices, ChannelShares()))


@pytest.fixture(scope="module")
def meter(runtime: TransformerRuntime) -> AgreementMeter:
    return AgreementMeter(runtime, PROMPTS, NUM_TOKENS, most_rows=20)


@torch.inference_mode()
def continuation(runtime: TransformerRuntime, prompt: list[int]) -> list[int]:
    tokens, cache = list(prompt), runtime.new_cache(64)
    runtime.prefill(cache, tokens[:-1])
    for _ in range(NUM_TOKENS):
        logits = runtime.forward(runtime.target, cache, Rows.chain(tokens[-1:], cache.length))
        cache.commit([cache.length])
        tokens.append(int(logits[-1].argmax()))
    return tokens


@torch.inference_mode()
def naive(runtime: TransformerRuntime, policy: DraftPolicy, window: int = 4) -> list[list[bool]]:
    """Draft every window one step at a time over a cache that holds just the target's keys before it."""
    matches = []
    plan = runtime.plan(policy)
    for prompt in PROMPTS:
        tokens = continuation(runtime, prompt)
        for root in range(len(prompt) - 1, len(tokens) - window, window):
            cache = runtime.new_cache(64)
            if root:
                runtime.prefill(cache, tokens[:root])
            row = []
            for i in range(window):
                slots = list(range(root, root + i + 1))
                rows = Rows(tokens[root + i : root + i + 1], [root + i], [root + i], [0], [root], [slots])
                row.append(int(runtime.forward(plan, cache, rows)[0].argmax()) == tokens[root + i + 1])
            matches.append(row)
    return matches


@pytest.mark.parametrize("policy", [skipping(), skipping(2), skipping(1, 4), DraftPolicy.uniform(3, 8)])
def test_batched_agreement_equals_a_naive_loop(
    runtime: TransformerRuntime, meter: AgreementMeter, policy: DraftPolicy
) -> None:
    assert meter.measure(policy).matches.tolist() == naive(runtime, policy)


def test_the_target_agrees_with_itself_whatever_was_measured_before(meter: AgreementMeter) -> None:
    meter.measure(skipping(0, 1, 2, 3))
    agreement = meter.measure(skipping())
    assert agreement.top1_agreement == 1.0 and agreement.cycles(6).tokens_per_cycle == 7.0


def test_continuations_are_the_targets_own(runtime: TransformerRuntime, meter: AgreementMeter) -> None:
    assert [sequence.tokens for sequence in meter.sequences] == [continuation(runtime, prompt) for prompt in PROMPTS]


def test_tokens_after_the_end_do_not_count(runtime: TransformerRuntime, meter: AgreementMeter) -> None:
    end = meter.sequences[0].tokens[len(PROMPTS[0]) + 6]
    assert AgreementMeter(runtime, PROMPTS, NUM_TOKENS, eos={end}).num_rows < meter.num_rows
    with pytest.raises(InputError):
        AgreementMeter(runtime, PROMPTS, NUM_TOKENS, eos=set(range(97)))


def test_figures_of_planted_matches() -> None:
    matches = np.array([[1, 1, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1]], dtype=bool)
    confidence = np.array([[0.9, 0.8, 0.2, 0.9], [0.1, 0.9, 0.9, 0.9], [0.9, 0.9, 0.9, 0.3]])
    agreement = Agreement(matches, confidence)
    assert agreement.top1_agreement == pytest.approx(10 / 12)
    # All twelve in a row, cycle by cycle; the last cycle goes on at the beginning.
    assert agreement.cycles(2).committed.tolist() == [3, 2, 3, 3, 3]
    cycles = agreement.cycles(4, 0.5)
    assert cycles.drafted.tolist() == [3, 2, 4, 2] and cycles.committed.tolist() == [3, 2, 5, 3]


def test_block_influence_is_the_change_of_direction(runtime: TransformerRuntime, meter: AgreementMeter) -> None:
    cache, batches = meter.target_rows()
    cosines = []
    for rows in batches:
        with torch.inference_mode():
            stream = runtime.hidden_states(cache, rows)
        for before, after in itertools.pairwise(stream):
            cosines.append([float(torch.dot(a, b) / (a.norm() * b.norm())) for a, b in zip(before, after, strict=True)])
    batched = [[cosine for batch in cosines[i::6] for cosine in batch] for i in range(6)]
    assert block_influence(meter) == pytest.approx([1 - np.mean(values) for values in batched], abs=1e-5)


def test_sensitivity_is_larger_for_dropping_than_for_low_bits(meter: AgreementMeter) -> None:
    losses = sensitivity(meter, (0, 8), most_windows=6)
    assert len(losses[0]) == len(losses[8]) == 6
    assert all(value >= 0 for values in losses.values() for value in values)
    assert np.mean(losses[0]) > 5 * np.mean(losses[8])


def test_what_a_sub_layer_loses_is_what_whole_passes_without_it_lose(meter: AgreementMeter) -> None:
    def log_probabilities(policy: DraftPolicy) -> torch.Tensor:
        return torch.cat([logits for logits, _ in meter.logits(policy, 6)]).log_softmax(-1)

    expected = log_probabilities(skipping())
    for bits, losses in sensitivity(meter, (0, 4), most_windows=6).items():
        for index, loss in enumerate(losses):
            found = log_probabilities(skipping().replace({index: ChannelShares.all_at(bits)}))
            divergence = torch.nn.functional.kl_div(found, expected, log_target=True, reduction="batchmean")
            assert loss == pytest.approx(float(divergence), rel=1e-3, abs=1e-6)


def test_an_mlp_without_its_least_important_neurons_loses_less_the_more_it_keeps(meter: AgreementMeter) -> None:
    losses = narrowing(meter, (14, 8, 2), most_windows=6)
    assert list(losses) == [14, 8, 2] and all(len(values) == 3 for values in losses.values())
    means = [np.mean(losses[units]) for units in (14, 8, 2)]
    assert 0 < means[0] < means[1] < means[2] <= 1.5 * np.mean(sensitivity(meter, (0,), most_windows=6)[0][1::2])

"""Matchness against single steps on a fresh cache, and expected chains against enumeration."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autodraft.cascade import Cascade, SelfDraft
from autodraft.decoding import CascadeDecoder, SamplingConfig, ScheduledDrafter
from autodraft.decoding.on_the_fly import Matchness, RecentNoise, Window, measure_matchness
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.runtime import ChoiceNoise, Rows

FULL = DraftPolicy.uniform(3)
POLICIES = {
    "last block skipped": FULL.replace({4: ChannelShares(), 5: ChannelShares()}),
    "eight bits": DraftPolicy.uniform(3, 8),
    "mixed": FULL.replace(
        {0: ChannelShares(full=8, four=8), 3: ChannelShares(eight=8), 5: ChannelShares()}, head_bits=8
    ),
}
TOKENS = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 19, 71]


def _cache_of(runtime, tokens):
    cache = runtime.new_cache()
    runtime.prefill(cache, tokens)
    return cache


def _one_by_one(runtime, policy, window, stretch):
    """Matches and confidence with a fresh cache per stretch and one forward per position."""
    plan, matches, confidence = runtime.plan(policy), [], []
    for position in range(window.first, window.last):
        root = window.first + (position - window.first) // stretch * stretch
        if position == root:
            cache = _cache_of(runtime, TOKENS[:root]) if root else runtime.new_cache()
        probs = torch.softmax(runtime.forward(plan, cache, Rows.chain([TOKENS[position]], position))[0], -1)
        matches.append(int(probs.argmax()) == TOKENS[position + 1])
        confidence.append(float(probs.max()))
    return matches, confidence


@pytest.mark.parametrize("stretch", [1, 5, 32])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_matchness_is_that_of_single_steps_on_a_fresh_cache(runtime, policy, stretch):
    cache = _cache_of(runtime, TOKENS[:-1])
    window = Window.recent(0, TOKENS, prompt_length=4, length=14)
    measured = measure_matchness(runtime, runtime.plan(policy), cache, TOKENS, window, stretch)
    matches, confidence = _one_by_one(runtime, policy, window, stretch)
    assert measured.matches.tolist() == matches
    np.testing.assert_allclose(measured.confidence, confidence, rtol=1e-4)
    assert measured.top1_agreement == sum(matches) / 14


def test_the_target_matches_what_it_generated(runtime):
    tokens = TOKENS[:5]
    cache = _cache_of(runtime, tokens[:-1])
    for _ in range(20):
        logits = runtime.forward(runtime.target, cache, Rows.chain([tokens[-1]], cache.length))
        cache.commit([cache.length])
        tokens = [*tokens, int(logits[0].argmax())]
    window = Window.recent(0, tokens, prompt_length=5, length=32)
    assert (window.first, window.last, len(window)) == (4, 24, 20)
    assert measure_matchness(runtime, runtime.target, cache, tokens, window, 8).top1_agreement == 1.0


def test_noise_on_a_device_is_remembered_there():
    recent, rows = RecentNoise(3), torch.arange(10.0).view(5, 2)
    for first, count in ((0, 2), (2, 2)):
        recent.expect(ChoiceNoise(0.7, rows[first : first + 3]))
        recent.commit(count)
    last = recent.last(3)
    assert isinstance(last.rows, torch.Tensor) and torch.equal(last.rows, rows[1:4]) and last.temperature == 0.7


class _Remembering(ScheduledDrafter):
    """A drafter that keeps the noise of what was committed."""

    recent = RecentNoise(20)

    def standing(self, context):
        return None  # every cycle is proposed

    def propose(self, context):
        self.context, tree = context, super().propose(context)
        self.recent.expect(context.noise(0, len(tree) if tree is not None else 1))
        return tree

    def observe(self, outcome):
        self.recent.commit(len(outcome.path))
        super().observe(outcome)


@pytest.mark.parametrize("draft", [FULL, POLICIES["last block skipped"]], ids=["target", "sparse"])
def test_the_target_matches_what_it_sampled_where_it_sees_the_noise(runtime, draft):
    """Whatever was drafted, so that cycles of every length were committed."""
    cascade = Cascade(drafts=(SelfDraft(policy=draft, num_draft_tokens=3),))
    drafter = _Remembering(runtime, cascade, guarded=False)
    CascadeDecoder(runtime, drafter=drafter).generate(
        TOKENS[:5], max_new_tokens=40, sampling=SamplingConfig(temperature=1.5), seed=4
    )
    context = drafter.context
    window = Window.recent(0, context.tokens, prompt_length=5, length=20)
    assert len(window) == 20

    def agreement(noise):
        return measure_matchness(
            runtime, runtime.target, context.cache, context.tokens, window, 8, noise
        ).top1_agreement

    assert agreement(drafter.recent.last(20)) == 1.0
    assert agreement(None) < 1.0


def test_a_window_is_the_most_recent_part_of_the_output():
    assert Window.recent(0, range(100), prompt_length=10, length=16) == Window(0, 83, 99)
    assert Window.recent(0, range(12), prompt_length=10, length=16) == Window(0, 9, 11)


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.9])), min_size=1, max_size=12),
    st.integers(1, 8),
)
def test_expected_chains_are_the_mean_over_all_starts(positions, longest):
    matchness = Matchness(np.array([m for m, _ in positions]), np.array([c for _, c in positions]))
    tokens = drafted = 0
    for start in range(len(positions)):
        accepting = True
        for depth in range(longest):
            match, confidence = positions[(start + depth) % len(positions)]
            drafted += 1
            accepting = accepting and match
            tokens += accepting
            if confidence < 0.5:
                break
    tau, mean_drafted = matchness.chain(longest, 0.5)
    assert tau == pytest.approx(1 + tokens / len(positions)) and mean_drafted == pytest.approx(drafted / len(positions))

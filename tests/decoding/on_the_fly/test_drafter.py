"""The whole drafter: output unchanged, cache untouched, share of time kept, and better drafts found."""

import itertools

import pytest
import torch

from autodraft.cascade import Cascade, SelfDraft
from autodraft.decoding import CascadeDecoder, DraftContext, Drafter, SamplingConfig
from autodraft.decoding.on_the_fly import (
    DraftOptimizer,
    OnTheFlyDrafter,
    OnTheFlySettings,
    RecentNoise,
    SwiftProposals,
    Window,
    every_second_block,
    measure_matchness,
)
from autodraft.decoding.on_the_fly.costs import OnlineCosts
from autodraft.errors import PolicyError
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.runtime import Rows

TARGET = DraftPolicy.uniform(3)
PROMPTS = [[5], [1, 2, 3, 4, 1, 2, 3, 4, 1, 2], [90, 17, 33, 17, 33, 60, 2, 71]]
EAGER = {"time_share": 1.0, "warm_time_share": 1.0, "most_lost": 1.0, "levels": 12, "window": 16, "refresh": 1}
"""So much time that a step is taken in nearly every cycle."""


class WorkClock:
    """Time as the number of rows that the runtime was given: a step of the target takes one second."""

    def __init__(self, runtime, monkeypatch):
        self.now = 0.0
        for name in ("forward", "review", "hidden_states", "run_sub_layers", "draft_chain"):
            self._count(runtime, monkeypatch, name)

    def _count(self, runtime, monkeypatch, name):
        call = getattr(runtime, name)

        def counted(*args, **kwargs):
            result = call(*args, **kwargs)
            rows = next((a for a in args if isinstance(a, Rows)), None)
            if rows is None:
                self.now += 0.5 * len(result)
            else:
                self.now += len(rows) / (2 * runtime.spec.num_blocks if name == "run_sub_layers" else 1)
            return result

        monkeypatch.setattr(runtime, name, counted)

    def __call__(self):
        return self.now


@pytest.mark.parametrize("mode", ["swift", "knapsack"])
@pytest.mark.parametrize("sampling", [SamplingConfig(), SamplingConfig(temperature=0.7)], ids=["greedy", "sampled"])
def test_output_is_the_autoregressive_one(runtime, mode, sampling):
    drafter = OnTheFlyDrafter(runtime, OnTheFlySettings(mode=mode, **EAGER, stop_threshold=0.0), start_policy=TARGET)
    assert isinstance(drafter, Drafter)
    plain, decoder = CascadeDecoder(runtime), CascadeDecoder(runtime, drafter=drafter)
    for prompt in PROMPTS:
        expected = plain.generate(prompt, max_new_tokens=100, sampling=sampling, seed=7).tokens
        assert decoder.generate(prompt, max_new_tokens=100, sampling=sampling, seed=7).tokens == expected
    assert drafter.optimizer.steps > 0


def _context(runtime, prompt, num_tokens, max_depth=10):
    """The target's own continuation, committed."""
    cache, tokens = runtime.new_cache(), list(prompt)
    runtime.prefill(cache, tokens[:-1])
    for _ in range(num_tokens):
        logits = runtime.forward(runtime.target, cache, Rows.chain(tokens[-1:], cache.length))
        cache.commit([cache.length])
        tokens.append(int(logits[0].argmax()))
    return DraftContext(tokens, cache, max_depth, max_depth)


def _committed(runtime, cache):
    """Keys and values of the committed slots; the compiled engine keeps keys in groups of slots."""
    length = cache.length
    if runtime.backend == "torch":
        return cache.keys[:, :, :length].clone(), cache.values[:, :, :length].clone()
    keys = cache.keys.transpose(-1, -2).flatten(2, 3)
    return keys[:, :, :length].clone(), cache.values[:, :, :length].clone()


@pytest.mark.parametrize("mode", ["swift", "knapsack"])
def test_a_step_leaves_what_is_committed_as_it_is(runtime, mode):
    context = _context(runtime, PROMPTS[1], 30)
    drafter = OnTheFlyDrafter(runtime, OnTheFlySettings(mode=mode, **EAGER), start_policy=TARGET)
    drafter.start(PROMPTS[1])
    before, tokens, length = _committed(runtime, context.cache), list(context.tokens), context.cache.length
    for cycle in range(12):
        drafter.optimizer.step(context, cycle)
    assert drafter.optimizer.steps > 0
    assert context.tokens == tokens and context.cache.length == length
    for old, new in zip(before, _committed(runtime, context.cache), strict=True):
        assert torch.equal(old, new)


def _optimizer(runtime, start_policy, costs=None, **settings):
    settings = OnTheFlySettings(**settings)
    proposals = SwiftProposals(runtime.spec.num_blocks, runtime.available_bits, settings.bayes_interval)
    noise = RecentNoise(settings.window)
    return DraftOptimizer(runtime, settings, proposals, costs or OnlineCosts(runtime), noise, start_policy)


def test_the_best_found_scores_at_least_as_well_as_the_first_on_the_same_window(runtime):
    context = _context(runtime, PROMPTS[2], 40)
    optimizer = _optimizer(runtime, TARGET)
    optimizer.start(len(PROMPTS[2]))
    optimizer.step(context, 0)
    best = [optimizer.score.speedup]
    for cycle in range(1, 20):
        optimizer.step(context, cycle)
        best.append(optimizer.score.speedup)
    assert best == sorted(best)
    # The target as its own draft gains nothing; what is found does, or it is still the target.
    assert best[0] <= 1.0 + 1e-6 or optimizer.incumbent != DraftPolicy.uniform(3)
    fresh = _optimizer(runtime, optimizer.incumbent)
    fresh.start(len(PROMPTS[2]))
    fresh.step(context, 0)
    assert fresh.score.speedup >= best[-1] - 1e-9


def test_another_domain_lowers_the_bar(runtime):
    """In the first text the draft is always right; in the second it never is, and a worse score has to be enough."""
    draft = every_second_block(3)
    good, bad = _agreeing_text(runtime, draft, True), _agreeing_text(runtime, draft, False)
    optimizer = _optimizer(runtime, draft, stop_threshold=0.0)
    optimizer.start(1)
    optimizer.step(good, 0)
    optimizer.incumbent, bar = draft, optimizer.score.speedup
    optimizer.start(1)
    assert optimizer.is_due(bad, 1)
    optimizer.step(bad, 1)
    window = Window.recent(0, bad.tokens, 1, 32)
    plan = runtime.plan(optimizer.incumbent)
    naive = measure_matchness(runtime, plan, bad.cache, bad.tokens, window, 8).top1_agreement
    assert optimizer.score.top1_agreement == naive
    assert optimizer.shifts == 1 and optimizer.score.speedup < bar and optimizer.is_warming_up


def _agreeing_text(runtime, policy, right):
    """Forty committed tokens of which each is what the draft would choose next, or just not that."""
    plan, cache, tokens = runtime.plan(policy), runtime.new_cache(), [5]
    for _ in range(40):
        rows = Rows.chain(tokens[-1:], cache.length)
        chosen = int(runtime.forward(plan, cache, rows)[0].argmax())
        runtime.prefill(cache, tokens[-1:])
        tokens.append(chosen if right else (chosen + 1) % 97)
    return DraftContext(tokens, cache, 10, 10)


@pytest.mark.parametrize(("draft_s", "longest"), [(0.1, 4), (30.0, 16)], ids=["pays", "nothing pays"])
def test_the_interval_grows_while_nothing_better_is_found(runtime, draft_s, longest):
    """The more so where neither the target as its own draft, which is always right, nor anything else pays."""
    context, costs = _context(runtime, PROMPTS[2], 40), OnlineCosts(runtime)
    for _ in range(40):
        for rows in range(1, 40):
            costs.note_verify(rows, 1.0 if draft_s < 1 or rows == 1 else 10.0 * rows)
        costs.note_chain(TARGET, 1, draft_s)
    optimizer = _optimizer(runtime, TARGET, costs, patience=2, max_interval=4, max_pause=16, stop_threshold=0.0)
    optimizer.start(len(PROMPTS[2]))
    taken = []
    for cycle in range(300):
        if optimizer.is_due(context, cycle):
            optimizer.step(context, cycle)
            taken.append(cycle)
    gaps = [after - before for before, after in itertools.pairwise(taken)]
    assert optimizer.pays == (draft_s < 1)
    assert gaps[0] == 1 and gaps[-1] == max(gaps) == longest


def test_nothing_is_judged_on_a_few_tokens_or_without_room(runtime):
    optimizer = _optimizer(runtime, every_second_block(3))
    optimizer.start(2)
    context = _context(runtime, [3, 4], 6)
    assert not optimizer.is_due(context, 0)
    assert optimizer.is_due(_context(runtime, [3, 4], 8), 0)
    cache = runtime.new_cache(12)
    runtime.prefill(cache, list(range(10)))
    assert not optimizer.is_due(DraftContext(list(range(11)), cache, 1, 1), 0)


@pytest.mark.parametrize(("mode", "share"), [("swift", 0.02), ("swift", 0.1), ("knapsack", 0.1), ("knapsack", 0.3)])
def test_the_share_of_time_is_kept(runtime, monkeypatch, mode, share):
    clock = WorkClock(runtime, monkeypatch)
    monkeypatch.setattr(runtime, "clock", clock)
    settings = OnTheFlySettings(
        mode=mode, levels=12, time_share=share, warm_time_share=2 * share, warm_steps=3, most_lost=1.0
    )
    drafter = OnTheFlyDrafter(runtime, settings, start_policy=TARGET, clock=clock)
    started, durations, step = clock.now, [], drafter.optimizer.step

    def timed_step(context, cycle):
        before = clock.now
        step(context, cycle)
        durations.append(clock.now - before)
        # Whenever a step ends, the share is kept but for what one step took longer than expected.
        elapsed = drafter.budget.elapsed_s + durations[-1]
        assert sum(durations) <= 2 * share * elapsed + max(durations)

    monkeypatch.setattr(drafter.optimizer, "step", timed_step)
    decoder = CascadeDecoder(runtime, drafter=drafter)
    for seed in range(8):
        decoder.generate(PROMPTS[seed % 3], max_new_tokens=150, sampling=SamplingConfig(temperature=1.0), seed=seed)
    elapsed = drafter.budget.elapsed_s
    assert 0 < elapsed <= clock.now - started
    assert durations and drafter.budget.spent_s == pytest.approx(sum(durations))
    assert drafter.found().time_share == drafter.budget.spent_s / elapsed


def test_what_was_found_outlives_the_sequence_and_can_be_resumed(runtime):
    drafter = OnTheFlyDrafter(runtime, OnTheFlySettings(**EAGER, stop_threshold=0.0))
    decoder = CascadeDecoder(runtime, drafter=drafter)
    decoder.generate(PROMPTS[2], max_new_tokens=60)
    found = drafter.found()
    (draft,) = found.cascade.drafts
    assert isinstance(draft, SelfDraft) and draft.policy == drafter.optimizer.incumbent
    assert found.steps > 0 and 0 < found.time_share < 1 and found.score is not None and found.cost > 0
    assert Cascade.model_validate_json(found.cascade.model_dump_json()) == found.cascade
    drafter.start(PROMPTS[0])
    assert drafter.found().cascade.drafts[0].policy == draft.policy
    resumed = OnTheFlyDrafter(runtime, start_policy=draft.policy)
    assert resumed.found().cascade.policies == (draft.policy,)
    with pytest.raises(PolicyError):
        OnTheFlyDrafter(runtime, start_policy=DraftPolicy.uniform(4))


def test_only_the_bits_that_were_allowed_are_used(runtime):
    for mode in ("swift", "knapsack"):
        drafter = OnTheFlyDrafter(runtime, OnTheFlySettings(mode=mode, bits=(16,), **EAGER))
        CascadeDecoder(runtime, drafter=drafter).generate(PROMPTS[2], max_new_tokens=60)
        policy = drafter.optimizer.incumbent
        allowed = {ChannelShares.all_at(0), ChannelShares.all_at(16)}
        assert policy.head_bits == 16 and set(policy.sub_layers) <= allowed

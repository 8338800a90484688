"""The shared cache under random use: each draft sees its own keys, the target sees only its own.

Cycles of random reviews and chains by several drafts are followed by the verification of a random tree and the commit
of a random path; every result is recomputed from scratch on a cache of its own.
"""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autodraft.decoding import DraftContext
from autodraft.decoding.cache_workbench import CacheWorkbench
from autodraft.decoding.step_times import CostPrior, StepTimes
from autodraft.decoding.workbench import DraftLevel
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.runtime import ChainStop, Rows

VOCAB = 97
NUM_DRAFTS = 3
MAX_DEPTH = 7
PRIOR = CostPrior(1.0, {1: 1.0})
LEVELS = [DraftLevel(is_model=True, num_draft_tokens=4)] * NUM_DRAFTS


def _random_policies(count):
    """Sub-layers kept or skipped and their bits at random, mixed within a sub-layer too."""
    chooser = random.Random(5)
    shares = [
        ChannelShares(),
        ChannelShares(full=16),
        ChannelShares(eight=16),
        ChannelShares(four=16),
        ChannelShares(full=8, four=8),
        ChannelShares(eight=8),
    ]
    return [
        DraftPolicy.uniform(3).replace(
            {sub_layer: chooser.choice(shares) for sub_layer in range(6)}, head_bits=chooser.choice([16, 8, 4])
        )
        for _ in range(count)
    ]


POLICIES = [*_random_policies(9), DraftPolicy.uniform(3), DraftPolicy.uniform(3, 0)]


class _Scratch:
    """What drafts and target say after the committed tokens, on caches that nobody else has written to."""

    def __init__(self, runtime, committed):
        self._runtime, self._prefix = runtime, committed[:-1]
        self._logits = {}

    def cache(self):
        cache = self._runtime.new_cache()
        self._runtime.prefill(cache, self._prefix)
        return cache

    def logits(self, plan, path):
        """Logits of `plan` after the tokens of `path`, the root first."""
        key = (plan.policy.digest, tuple(path))
        if key not in self._logits:
            cache = self.cache()
            rows = self._runtime.forward(plan, cache, Rows.chain(path, cache.length))
            self._logits[key] = rows[-1].clone()
        return self._logits[key]

    def check(self, plan, path, found, top):
        """The candidates are the best tokens, with their probabilities; near-ties may change places."""
        probs = torch.softmax(self.logits(plan, path), -1)
        best = torch.topk(probs, top)
        assert len(found.tokens) == len(set(found.tokens)) == top
        assert list(found.probs) == pytest.approx(best.values.tolist(), abs=1e-4)
        assert list(found.probs) == pytest.approx(probs[list(found.tokens)].tolist(), abs=1e-4)


class _Cycle:
    """One cycle on the workbench under test."""

    def __init__(self, runtime, bench, plans, context, data):
        self.runtime, self.bench, self.plans, self.data = runtime, bench, plans, data
        self.scratch = _Scratch(runtime, context.tokens)
        bench.begin(context)

    @property
    def growth(self):
        return self.bench.growth

    def path_tokens(self, node):
        return [self.growth.tokens[step] for step in self.growth.path(node)]

    def draw_node(self):
        return self.data.draw(
            st.sampled_from([node for node in range(len(self.growth)) if self.growth.depths[node] < MAX_DEPTH])
        )

    def chain(self, draft, top):
        node = self.draw_node()
        most = self.data.draw(st.integers(1, min(4, MAX_DEPTH - self.growth.depths[node])))
        threshold = self.data.draw(st.sampled_from([0.0, 0.3, 0.9]))
        found = self.bench.chain(draft, node, most, top, ChainStop(threshold))
        assert 1 <= len(found) <= most
        for number, candidates in enumerate(found):
            self.scratch.check(self.plans[draft], self.path_tokens(node), candidates, top)
            unsure = candidates.probs[0] < threshold
            assert (number == len(found) - 1) == (unsure or number == most - 1)
            node = self.growth.add(node, candidates.tokens[0], draft, candidates.probs[0])

    def review_path(self, draft, top):
        """Any run of nodes on one path, whether or not this draft has run them."""
        path = self.growth.path(self.draw_node())
        self.review(draft, path[self.data.draw(st.integers(0, len(path) - 1)) :], top)

    def review_branches(self, draft, top):
        """New nodes anywhere."""
        nodes = []
        for _ in range(self.data.draw(st.integers(1, 4))):
            parent, token = self.draw_node(), self.data.draw(st.integers(0, 3))
            if self.growth.child(parent, token) is None:
                nodes.append(self.growth.add(parent, token, draft))
        if nodes:
            self.review(draft, nodes, top)

    def review(self, draft, nodes, top):
        found = self.bench.review(draft, nodes, top)
        assert len(found) == len(nodes)
        for node, candidates in zip(nodes, found, strict=True):
            self.scratch.check(self.plans[draft], self.path_tokens(node), candidates, top)
            if self.growth.depths[node] < MAX_DEPTH and self.data.draw(st.booleans()):
                self.growth.add(node, candidates.tokens[-1], draft)


def _same(runtime, found, expected):
    if runtime.backend == "native":
        return torch.equal(found, expected)
    return torch.allclose(found, expected, atol=1e-4)


def _committed(cache):
    """Keys and values of the committed tokens, in whatever layout: [blocks, kv_heads, tokens, head_dim]."""
    keys = cache.keys if cache.keys.dim() == 4 else cache.keys.transpose(-1, -2).flatten(2, 3)
    return torch.cat([keys[:, :, : cache.length], cache.values[:, :, : cache.length]], -1)


@settings(max_examples=20)
@given(data=st.data())
def test_nobody_sees_the_keys_of_another_draft_or_of_a_forgotten_token(runtime, data):
    tokens = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=40))
    policies = data.draw(st.lists(st.sampled_from(POLICIES), min_size=NUM_DRAFTS, max_size=NUM_DRAFTS))
    plans = [runtime.plan(policy) for policy in policies]
    bench = CacheWorkbench(runtime, LEVELS, plans, [None] * NUM_DRAFTS, StepTimes(PRIOR, [PRIOR] * NUM_DRAFTS))
    cache = runtime.new_cache()
    runtime.prefill(cache, tokens[:-1])
    for _ in range(data.draw(st.integers(1, 4))):
        room = data.draw(st.sampled_from([2 * MAX_DEPTH, 60]))
        cycle = _Cycle(runtime, bench, plans, DraftContext(list(tokens), cache, MAX_DEPTH, room), data)
        for _ in range(data.draw(st.integers(0, 6))):
            use = data.draw(st.sampled_from([cycle.chain, cycle.review_path, cycle.review_branches]))
            use(data.draw(st.integers(0, NUM_DRAFTS - 1)), data.draw(st.integers(1, 3)))

        tree, _ = cycle.growth.tree(cycle.growth.kept_nodes())
        logits = runtime.forward(runtime.target, cache, tree.rows(cache.length))
        leaf = data.draw(st.integers(0, len(tree) - 1))
        path = tree.path(leaf)
        accepted = [tree.tokens[node] for node in path]
        for node, end in zip(path, range(1, len(path) + 1), strict=True):
            assert _same(runtime, logits[node], cycle.scratch.logits(runtime.target, accepted[:end]))
        cache.commit([cache.length + node for node in path])
        # Few different roots and branches: rows of an earlier cycle would be mistaken for this one's if they were kept.
        tokens += [*accepted[1:], data.draw(st.integers(0, 2))]

        fresh = _Scratch(runtime, tokens)
        assert cache.length == len(tokens) - 1
        assert _same(runtime, _committed(cache), _committed(fresh.cache()))
        following = runtime.forward(runtime.target, cache, Rows.chain(tokens[-1:], cache.length))[0]
        assert _same(runtime, following, fresh.logits(runtime.target, tokens[-1:]))


def test_a_cycle_starts_from_nothing_though_root_and_draft_are_those_of_the_last_one(runtime):
    """The text goes 4, 4: what the draft ran after the first 4 is not what it would run after the second."""
    cache = runtime.new_cache()
    runtime.prefill(cache, [1, 2, 3])
    plan = runtime.plan(POLICIES[0])
    bench = CacheWorkbench(runtime, LEVELS[:1], [plan], [None], StepTimes(PRIOR, [PRIOR]))
    for tokens in ([1, 2, 3, 4], [1, 2, 3, 4, 4]):
        bench.begin(DraftContext(tokens, cache, 20, 100))
        node = bench.growth.add(0, 5, 0)
        (found,) = bench.review(0, [node], 3)
        _Scratch(runtime, tokens).check(plan, [4, 5], found, 3)
        runtime.forward(runtime.target, cache, Rows.chain([4], cache.length))
        cache.commit([cache.length])


def test_a_draft_that_goes_on_runs_nothing_twice(runtime):
    """Rows are counted by the recorded times; a chain that is continued feeds only its last token."""
    cache = runtime.new_cache()
    runtime.prefill(cache, [1, 2, 3])
    ticks = iter(range(100))
    times = StepTimes(PRIOR, [PRIOR] * NUM_DRAFTS)
    recorded = []
    times.record = lambda draft, rows, seconds: recorded.append((draft, rows))
    plans = [runtime.plan(policy) for policy in POLICIES[:NUM_DRAFTS]]
    bench = CacheWorkbench(runtime, LEVELS, plans, [None] * NUM_DRAFTS, times, clock=lambda: float(next(ticks)))
    bench.begin(DraftContext([1, 2, 3, 4], cache, 20, 100))
    node = 0
    for draft in (0, 0, 1):
        for candidates in bench.chain(draft, node, 3, 1):
            node = bench.growth.add(node, candidates.tokens[0], draft)
        bench.review(draft, [node], 1)
    # Draft 0: chain from the root, review of its last token, a chain whose first row is that token again, a review.
    # Draft 1 has run none of the seven tokens: its chain begins with all of them and is no measure of a single step.
    assert recorded == [(0, 1), (0, 1), (0, 1), (0, 1), (1, 1)]
    assert bench.model_s == 6.0


def test_branches_that_a_draft_has_run_are_not_reviewed_again(runtime):
    cache = runtime.new_cache()
    plans = [runtime.plan(POLICIES[0])]
    bench = CacheWorkbench(runtime, LEVELS[:1], plans, [None], StepTimes(PRIOR, [PRIOR]))
    bench.begin(DraftContext([4], cache, 20, 100))
    nodes = [bench.growth.add(0, token, 0) for token in (5, 6)]
    bench.review(0, nodes, 1)
    with pytest.raises(ValueError, match="run already"):
        bench.review(0, nodes, 1)

"""Self-drafted chains and trees against what the draft's own forward says."""

import math

import pytest
import torch

from autodraft.cascade import SelfDraft
from autodraft.decoding import DraftContext, Drafter, PromptLookupDrafter, SelfDrafter, draft_tree
from autodraft.decoding.self_draft import depth_first
from autodraft.runtime import Rows
from tests.decoding.drafts import CASCADES, EIGHT_BITS, LAST_BLOCK_SKIPPED, MIXED, HostileDrafter

PROMPT = [3, 14, 15, 92, 65, 35]


@pytest.fixture
def cache(runtime):
    cache = runtime.new_cache()
    runtime.prefill(cache, PROMPT[:-1])
    return cache


def _draft_probs(runtime, plan, cache, continuation):
    """The draft's next-token probabilities after the prompt and `continuation`."""
    tokens = [PROMPT[-1], *continuation]
    for step, token in enumerate(tokens):
        logits = runtime.forward(plan, cache, Rows.chain([token], cache.length + step))
    return torch.softmax(logits[0], -1)


@pytest.mark.parametrize("policy", [LAST_BLOCK_SKIPPED, EIGHT_BITS, MIXED])
def test_a_chain_is_the_drafts_own_greedy_continuation(runtime, cache, policy):
    plan = runtime.plan(policy)
    tokens, probs = runtime.draft_chain(plan, cache, PROMPT[-1], 5, 0.0)
    assert len(tokens) == len(probs) == 5 and cache.length == len(PROMPT) - 1
    for step, (token, prob) in enumerate(zip(tokens, probs, strict=True)):
        expected = _draft_probs(runtime, plan, cache, tokens[:step])
        assert token == int(expected.argmax()) and math.isclose(prob, float(expected.max()), rel_tol=1e-4)


def test_a_chain_stops_after_the_first_unsure_token_and_keeps_it(runtime, cache):
    plan = runtime.plan(LAST_BLOCK_SKIPPED)
    tokens, probs = runtime.draft_chain(plan, cache, PROMPT[-1], 8, 0.0)
    unsure = min(range(8), key=probs.__getitem__)
    threshold = math.nextafter(probs[unsure], 1.0)
    stopped, _ = runtime.draft_chain(plan, cache, PROMPT[-1], 8, threshold)
    assert stopped == tokens[: unsure + 1]


def _brute_force_tree(runtime, plan, cache, depth, max_nodes):
    """Cumulative probability of the best paths of up to `depth` tokens, two children per expanded node."""
    paths, level = {}, {(): 1.0}
    for _ in range(depth):
        following = {}
        for path, prob in level.items():
            top = torch.topk(_draft_probs(runtime, plan, cache, path), 2)
            for token, child_prob in zip(top.indices.tolist(), top.values.tolist(), strict=True):
                following[(*path, token)] = prob * child_prob
        paths.update(following)
        # As the drafter does: two nodes of each level are expanded.
        level = dict(sorted(following.items(), key=lambda item: -item[1])[:2])
    return dict(sorted(paths.items(), key=lambda item: -item[1])[:max_nodes])


@pytest.mark.parametrize("max_nodes", [1, 4, 7, 14])
def test_a_tree_has_the_paths_of_highest_draft_probability(runtime, cache, max_nodes):
    plan = runtime.plan(MIXED)
    tree = draft_tree(runtime, plan, cache, PROMPT[-1], 4, 0.0, branching=2, max_nodes=max_nodes)
    paths = {tuple(tree.tokens[ancestor] for ancestor in tree.path(node)[1:]) for node in range(1, len(tree))}
    assert paths == set(_brute_force_tree(runtime, plan, cache, 4, max_nodes))
    assert cache.length == len(PROMPT) - 1


def test_the_best_path_of_a_tree_comes_first(runtime, cache):
    plan = runtime.plan(LAST_BLOCK_SKIPPED)
    tokens, _ = runtime.draft_chain(plan, cache, PROMPT[-1], 4, 0.0)
    tree = draft_tree(runtime, plan, cache, PROMPT[-1], 4, 0.0, branching=3, max_nodes=64)
    best = tree.descend(
        [tree.tokens[min(children)] if (children := tree.children(n)) else -1 for n in range(len(tree))]
    )
    assert best == list(range(len(best)))
    assert list(tree.tokens[1:2]) == tokens[:1]


def test_unsure_nodes_are_kept_but_not_expanded(runtime, cache):
    tree = draft_tree(runtime, runtime.plan(MIXED), cache, PROMPT[-1], 5, 1.0, branching=3, max_nodes=64)
    assert tree.num_drafted == 3 and tree.depth == 1


def test_depth_first_order():
    # root -> a (best), b; a -> c, d; b -> e
    tree = depth_first(list("rabcde"), [-1, 0, 0, 1, 1, 2], kept=[1, 3, 2, 5, 4])
    assert "".join(tree.tokens) == "racdbe" and tree.parents == (-1, 0, 1, 1, 0, 4)


SETTINGS = [draft for cascade in CASCADES.values() for draft in cascade.drafts]


@pytest.mark.parametrize("number", range(len(SETTINGS) + 1))
@pytest.mark.parametrize(("max_depth", "max_nodes"), [(1, 1), (2, 3), (30, 200)])
def test_every_drafter_keeps_the_contract(runtime, number, max_depth, max_nodes):
    settings = SETTINGS[number] if number < len(SETTINGS) else None
    if settings is None:
        drafter = HostileDrafter(97)
    else:
        drafter = SelfDrafter(runtime, settings) if isinstance(settings, SelfDraft) else PromptLookupDrafter(settings)
    assert isinstance(drafter, Drafter)
    cache = runtime.new_cache()
    prompt = PROMPT * 3
    runtime.prefill(cache, prompt[:-1])
    before = runtime.forward(runtime.target, cache, Rows.chain([prompt[-1]], cache.length))
    context = DraftContext(list(prompt), cache, max_depth, max_nodes)
    drafter.start(prompt)
    for _ in range(3):
        tree = drafter.propose(context)
        if tree is not None:
            assert tree.tokens[0] == prompt[-1]
            assert 1 <= tree.num_drafted <= max_nodes and tree.depth <= max_depth
            drafter.observe(tree, [0])
        assert context == DraftContext(prompt, cache, max_depth, max_nodes) and cache.length == len(prompt) - 1
        # Committed slots are untouched: the target sees what it saw before.
        assert torch.equal(runtime.forward(runtime.target, cache, Rows.chain([prompt[-1]], cache.length)), before)

"""Schedulers by their definition: what they draft, against each draft's own forward passes over a fresh cache."""

import pytest
import torch

from autodraft.cascade import (
    Cascade,
    Chain,
    DyTC,
    Horizontal,
    PromptLookup,
    SelfDraft,
    StaticTree,
    Vertical,
    VerticalHorizontal,
)
from autodraft.decoding import CascadeDecoder, DraftContext, Drafter, Outcome, TokenTree, verify_choices
from autodraft.runtime import Rows
from tests.decoding.drafts import (
    AUTOMATON,
    BAD,
    CASCADES,
    EIGHT_BITS,
    GOOD,
    LAST_BLOCK_SKIPPED,
    LOOKUP,
    MIXED,
    RECYCLING,
    TARGET_ITSELF,
    USELESS,
)
from tests.decoding.paced import PacedDrafter

PROMPT = [3, 14, 15, 92, 65, 35]


def _proposal(runtime, cascade, max_depth=30, max_nodes=200, prompt=PROMPT):
    """What a cascade proposes first after the prompt."""
    cache = runtime.new_cache()
    runtime.prefill(cache, prompt[:-1])
    drafter = PacedDrafter(runtime, cascade)
    drafter.start(prompt)
    return drafter.propose(DraftContext(list(prompt), cache, max_depth, max_nodes))


def _draft_probs(runtime, policy, continuation):
    """The draft's next-token probabilities after the prompt and `continuation`, all keys of the latter its own."""
    cache = runtime.new_cache()
    runtime.prefill(cache, PROMPT[:-1])
    plan = runtime.plan(policy)
    for step, token in enumerate([PROMPT[-1], *continuation]):
        logits = runtime.forward(plan, cache, Rows.chain([token], cache.length + step))
    return torch.softmax(logits[0], -1)


def _greedy(runtime, policy, num_tokens, continuation=()):
    """The draft's own greedy tokens after the prompt and `continuation`, and their probabilities."""
    tokens, probs = [], []
    for _ in range(num_tokens):
        expected = _draft_probs(runtime, policy, [*continuation, *tokens])
        tokens.append(int(expected.argmax()))
        probs.append(float(expected.max()))
    return tokens, probs


# ---------------------------------------------------------------------- chain


@pytest.mark.parametrize("policy", [LAST_BLOCK_SKIPPED, EIGHT_BITS, MIXED])
def test_a_chain_is_the_drafts_own_greedy_continuation(runtime, policy):
    tree = _proposal(runtime, Cascade(drafts=(SelfDraft(policy=policy, num_draft_tokens=5),)))
    assert tree.is_chain and list(tree.tokens) == [PROMPT[-1], *_greedy(runtime, policy, 5)[0]]


def test_a_chain_stops_after_the_first_unsure_token_and_keeps_it(runtime):
    tokens, probs = _greedy(runtime, LAST_BLOCK_SKIPPED, 8)
    sure = sorted(probs)[1]
    draft = SelfDraft(policy=LAST_BLOCK_SKIPPED, num_draft_tokens=8, stop_threshold=(min(probs) + sure) / 2)
    tree = _proposal(runtime, Cascade(drafts=(draft,)))
    assert list(tree.tokens[1:]) == tokens[: probs.index(min(probs)) + 1]


@pytest.mark.parametrize("scheduler", [Chain(), StaticTree(branching=1, max_nodes=4)])
def test_the_first_draft_with_a_proposal_drafts_alone(runtime, scheduler):
    cascade = Cascade(drafts=(LOOKUP, GOOD), scheduler=scheduler)
    assert set(_proposal(runtime, cascade).drafts[1:]) == {1}  # no token of the prompt comes twice
    repeating = _proposal(runtime, cascade, prompt=[1, 2, 3, 4, 1, 2])
    assert set(repeating.drafts[1:]) == {0} and repeating.tokens[:3] == (2, 3, 4)


# ---------------------------------------------------------------------- static tree


def _brute_force_tree(runtime, policy, depth, max_nodes):
    """Cumulative probability of the best paths of up to `depth` tokens, two children per expanded node."""
    paths, level = {}, {(): 1.0}
    for _ in range(depth):
        following = {}
        for path, prob in level.items():
            top = torch.topk(_draft_probs(runtime, policy, path), 2)
            for token, child_prob in zip(top.indices.tolist(), top.values.tolist(), strict=True):
                following[(*path, token)] = prob * child_prob
        paths.update(following)
        # As the scheduler does: two nodes of each level are expanded.
        level = dict(sorted(following.items(), key=lambda item: -item[1])[:2])
    return dict(sorted(paths.items(), key=lambda item: -item[1])[:max_nodes])


def _paths(tree):
    return {tuple(tree.tokens[ancestor] for ancestor in tree.path(node)[1:]) for node in range(1, len(tree))}


@pytest.mark.parametrize("max_nodes", [1, 4, 7, 14])
def test_a_tree_has_the_paths_of_highest_draft_probability(runtime, max_nodes):
    draft = SelfDraft(policy=MIXED, num_draft_tokens=4)
    tree = _proposal(runtime, Cascade(drafts=(draft,), scheduler=StaticTree(branching=2, max_nodes=max_nodes)))
    assert _paths(tree) == set(_brute_force_tree(runtime, MIXED, 4, max_nodes))


def test_the_best_path_of_a_tree_comes_first(runtime):
    tree = _proposal(runtime, Cascade(drafts=(BAD,), scheduler=StaticTree(branching=3, max_nodes=64)))
    probs = {}
    for node in range(1, len(tree)):
        path = [tree.tokens[ancestor] for ancestor in tree.path(node)[1:]]
        probs[node] = float(_draft_probs(runtime, LAST_BLOCK_SKIPPED, path[:-1])[path[-1]])
    node, best = 0, [0]
    while children := tree.children(node):
        node = max(children, key=probs.__getitem__)
        best.append(node)
    assert len(best) > 2 and best == list(range(len(best)))


def test_unsure_nodes_are_kept_but_not_expanded(runtime):
    draft = SelfDraft(policy=MIXED, num_draft_tokens=5, stop_threshold=1.0)
    tree = _proposal(runtime, Cascade(drafts=(draft,), scheduler=StaticTree(branching=3, max_nodes=64)))
    assert tree.num_drafted == 3 and tree.depth == 1


# ---------------------------------------------------------------------- CS-Drafting

REPEATING = [7, 8, 9, 7, 8, 9, 7, 8]


@pytest.mark.parametrize("below", [(USELESS,), (BAD,), (BAD, USELESS), (LOOKUP,), (RECYCLING,), (BAD, AUTOMATON)])
@pytest.mark.parametrize("num_tokens", [1, 2, 7])
def test_what_is_below_speeds_a_draft_up_but_does_not_change_it(runtime, below, num_tokens):
    upper = SelfDraft(policy=EIGHT_BITS, num_draft_tokens=num_tokens)
    for prompt in (PROMPT, REPEATING):
        alone = _proposal(runtime, Cascade(drafts=(upper,)), prompt=prompt)
        tree = _proposal(runtime, Cascade(drafts=(upper, *below), scheduler=Vertical()), prompt=prompt)
        assert tree == alone and tree.num_drafted == num_tokens
        assert set(tree.drafts[1:]) == {0}


def test_a_draft_needs_fewer_passes_with_a_right_one_below(runtime):
    """The draft below is the upper one itself, so that every token of it is confirmed."""
    cache = runtime.new_cache()
    runtime.prefill(cache, PROMPT[:-1])
    upper = SelfDraft(policy=EIGHT_BITS, num_draft_tokens=8)
    lower = SelfDraft(policy=EIGHT_BITS, num_draft_tokens=3)
    drafter = PacedDrafter(runtime, Cascade(drafts=(upper, lower), scheduler=Vertical()))
    drafter.start(PROMPT)
    tree = drafter.propose(DraftContext(list(PROMPT), cache, 30, 200))
    # Two cycles of three tokens and a reviewed fourth one; nothing else.
    assert tree.num_drafted == 8 and drafter.paced.passes == 2 * (3 + 1)


def test_a_stop_threshold_ends_a_reviewed_chain_where_it_ends_the_drafts_own(runtime):
    for threshold in (0.2, 0.5, 0.8, 0.99):
        upper = SelfDraft(policy=LAST_BLOCK_SKIPPED, num_draft_tokens=8, stop_threshold=threshold)
        alone = _proposal(runtime, Cascade(drafts=(upper,)))
        assert _proposal(runtime, Cascade(drafts=(upper, GOOD), scheduler=Vertical())) == alone


def test_horizontal_is_one_chain_after_the_other(runtime):
    drafts = (GOOD, BAD.model_copy(update={"num_draft_tokens": 2}), USELESS)
    expected = []
    for draft in drafts:
        expected += _greedy(runtime, draft.policy, draft.num_draft_tokens, expected)[0]
    tree = _proposal(runtime, Cascade(drafts=drafts, scheduler=Horizontal()))
    assert tree.is_chain and list(tree.tokens[1:]) == expected
    assert list(tree.drafts[1:]) == [0] * 4 + [1] * 2 + [2] * 3


def test_horizontal_free_drafts_continue_what_a_model_drafted(runtime):
    lookup = PromptLookup(num_draft_tokens=3)
    tree = _proposal(runtime, Cascade(drafts=(GOOD, lookup), scheduler=Horizontal()), prompt=REPEATING)
    model = _proposal(runtime, Cascade(drafts=(GOOD,)), prompt=REPEATING)
    assert tree.tokens[:5] == model.tokens
    assert list(tree.tokens[5:]) == _continued(REPEATING, list(model.tokens[1:]), 3)


def _continued(text, drafted, num_tokens):
    """Tokens that follow the longest match of the last three, two or one tokens of text and draft in the text."""
    found = []
    while len(found) < num_tokens:
        recent = [*text, *drafted, *found]
        for ngram in (3, 2, 1):
            followers = {text[end] for end in range(ngram, len(text)) if text[end - ngram : end] == recent[-ngram:]}
            if followers:
                break
        else:
            break
        (token,) = followers  # the text repeats itself: there is no choice
        found.append(token)
    return found


def test_vertical_horizontal_is_horizontal_sped_up(runtime):
    for drafts in ((GOOD, BAD, USELESS), (GOOD, BAD, AUTOMATON), (BAD, LOOKUP)):
        for prompt in (PROMPT, REPEATING):
            plain = _proposal(runtime, Cascade(drafts=drafts, scheduler=Horizontal()), prompt=prompt)
            both = _proposal(runtime, Cascade(drafts=drafts, scheduler=VerticalHorizontal()), prompt=prompt)
            assert both == plain and both.drafts[1:] == plain.drafts[1:]


# ---------------------------------------------------------------------- dytc


def test_dytc_accepts_all_that_the_target_itself_drafts(runtime):
    cascade = Cascade(drafts=(TARGET_ITSELF,), scheduler=DyTC(siblings=1, max_depth=6))
    stats = CascadeDecoder(runtime, drafter=PacedDrafter(runtime, cascade)).generate(PROMPT, max_new_tokens=60).stats
    assert stats.drafted_tokens == stats.accepted_tokens > 30


@pytest.mark.parametrize(("max_depth", "max_nodes"), [(1, 1), (3, 2), (2, 20), (5, 5), (24, 32)])
def test_dytc_keeps_to_its_own_limits(runtime, max_depth, max_nodes):
    scheduler = DyTC(max_depth=max_depth, max_nodes=max_nodes)
    drafter = PacedDrafter(runtime, Cascade(drafts=(GOOD, BAD, LOOKUP, RECYCLING), scheduler=scheduler), draft_s=0.01)
    CascadeDecoder(runtime, drafter=drafter).generate(REPEATING, max_new_tokens=60)
    trees = [outcome.tree for outcome in drafter.outcomes]
    assert max(tree.depth for tree in trees) <= max_depth and max(tree.num_drafted for tree in trees) <= max_nodes
    assert any(tree.num_drafted for tree in trees)


# ---------------------------------------------------------------------- the contract


@pytest.mark.parametrize("cascade", CASCADES)
@pytest.mark.parametrize(("max_depth", "max_nodes"), [(1, 1), (2, 3), (30, 200)])
def test_every_cascade_keeps_the_drafters_contract(runtime, cascade, max_depth, max_nodes):
    drafter = PacedDrafter(runtime, CASCADES[cascade])
    assert isinstance(drafter, Drafter)
    cache = runtime.new_cache()
    prompt = PROMPT + REPEATING + PROMPT
    runtime.prefill(cache, prompt[:-1])
    drafter.start(prompt)
    context = DraftContext(list(prompt), cache, max_depth, max_nodes)
    for _ in range(4):
        before = list(context.tokens)
        root = Rows.chain([before[-1]], cache.length)
        expected = runtime.forward(runtime.target, cache, root)
        tree = drafter.propose(context)
        assert context == DraftContext(before, cache, max_depth, max_nodes, context.noise)
        assert cache.length == len(before) - 1
        # Committed slots are untouched: the target sees what it saw before.
        assert torch.equal(runtime.forward(runtime.target, cache, root), expected)
        if tree is None:
            tree = TokenTree.root_only(before[-1])
        else:
            assert tree.tokens[0] == before[-1]
            assert 1 <= tree.num_drafted <= max_nodes and tree.depth <= max_depth
            assert all(0 <= draft < drafter.num_drafts for draft in tree.drafts[1:])
        logits = runtime.forward(runtime.target, cache, tree.rows(cache.length))
        path, bonus_token = verify_choices(tree, logits.argmax(-1).tolist())
        cache.commit([cache.length + node for node in path])
        outcome = Outcome(tree, path, bonus_token, logits, 1.0)
        context.tokens += outcome.committed
        drafter.observe(outcome)

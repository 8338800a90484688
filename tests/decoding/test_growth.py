"""`Growth`: a tree in the making, against its own definition on random growths."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autodraft.decoding import Growth, TokenTree


@st.composite
def growths(draw):
    """Random additions, some of them of nodes that are there already, some not to be verified."""
    growth = Growth(draw(st.integers(0, 4)))
    for _ in range(draw(st.integers(0, 14))):
        parent = draw(st.integers(0, len(growth) - 1))
        prob = draw(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]))
        draft, kept = draw(st.integers(0, 2)), draw(st.booleans()) and growth.kept[parent]
        growth.add(parent, draw(st.integers(0, 4)), draft, prob, evidence=draw(st.integers(0, 3)), kept=kept)
    return growth


def _token_path(growth, node):
    return tuple(growth.tokens[step] for step in growth.path(node))


@given(growths())
def test_the_lists_describe_a_tree(growth):
    for node in range(1, len(growth)):
        parent = growth.parents[node]
        assert 0 <= parent < node and growth.depths[node] == growth.depths[parent] + 1
        assert growth.path(node) == [*growth.path(parent), node]
        assert growth.child(parent, growth.tokens[node]) == node
    for node in range(len(growth)):
        assert growth.children(node) == [child for child in range(1, len(growth)) if growth.parents[child] == node]
    assert growth.path(0) == [0] and growth.depths[0] == 0 and growth.drafts[0] == -1


@given(growths())
def test_reach_is_the_product_of_the_probabilities_of_a_path(growth):
    growth.refresh()
    for node in range(len(growth)):
        assert growth.reach[node] == pytest.approx(math.prod(growth.probs[step] for step in growth.path(node)))


@given(growths())
def test_a_tree_has_the_kept_paths_and_says_where_they_come_from(growth):
    kept = growth.kept_nodes()
    assert kept == [node for node in range(1, len(growth)) if growth.kept[node]]
    tree, order = growth.tree(kept)
    assert sorted(order) == [0, *kept] and len(tree) == len(order)
    assert TokenTree(tree.tokens, tree.parents) == tree  # the constructor refuses what is no tree
    for node, origin in enumerate(order):
        assert tuple(tree.tokens[step] for step in tree.path(node)) == _token_path(growth, origin)
        assert node == 0 or tree.drafts[node] == growth.drafts[origin]


@given(growths())
def test_the_likeliest_path_is_a_run_of_successive_nodes(growth):
    growth.refresh()
    tree, order = growth.tree(growth.kept_nodes())
    node = 0
    while children := tree.children(node):
        assert growth.reach[order[children[0]]] == max(growth.reach[order[child]] for child in children)
        assert children[0] == node + 1
        node = children[0]


@given(growths(), st.data())
def test_outcomes_are_of_verified_nodes_whose_parent_was_accepted(growth, data):
    leaf = data.draw(st.sampled_from([0, *growth.kept_nodes()]))
    accepted = growth.path(leaf)
    outcomes = dict(growth.outcomes(accepted))
    for node in range(1, len(growth)):
        if growth.kept[node] and growth.parents[node] in accepted:
            assert outcomes.pop(node) == (node in accepted)
    assert not outcomes


@given(growths(), st.data())
def test_keep_only_keeps_the_root_and_what_is_named(growth, data):
    node = data.draw(st.integers(0, len(growth) - 1))
    growth.keep_only(growth.path(node))
    assert growth.kept_nodes() == growth.path(node)[1:] and growth.kept[0]


def test_of_two_proposals_of_one_token_the_more_confident_counts():
    growth = Growth(7)
    node = growth.add(0, 3, draft=0, prob=0.5, evidence=1, kept=False)
    assert growth.add(0, 3, draft=1, prob=0.25, evidence=2) == node
    assert (growth.drafts[node], growth.probs[node], growth.evidence[node]) == (0, 0.5, 1)
    assert growth.kept[node]  # to be verified since one of the proposals is
    assert growth.add(0, 3, draft=1, prob=0.75, evidence=2, kept=False) == node
    assert (growth.drafts[node], growth.reach[node], growth.evidence[node]) == (1, 0.75, 2)
    assert growth.kept[node] and len(growth) == 2


def test_an_estimate_reaches_the_nodes_below_when_refreshed():
    growth = Growth(7)
    upper = growth.add(0, 1, draft=0, prob=0.5)
    lower = growth.add(upper, 2, draft=0, prob=0.5)
    growth.estimate(upper, draft=1, prob=1.0, evidence=4)
    assert growth.reach[upper] == 1.0 and growth.reach[lower] == 0.25
    growth.refresh()
    assert growth.reach[lower] == 0.5

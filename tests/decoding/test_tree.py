"""Token trees: structure, and the rows by which the target verifies them."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autodraft.decoding import TokenTree
from autodraft.runtime import Rows
from tests.decoding.trees import token_trees


@given(token_trees())
def test_paths_depths_and_children_agree(tree):
    for node in range(len(tree)):
        path = tree.path(node)
        assert path[0] == 0 and path[-1] == node
        assert all(tree.parents[child] == parent for parent, child in itertools.pairwise(path))
        assert tree.depths[node] == len(path) - 1
        assert tree.children(node) == [other for other in range(len(tree)) if tree.path(other)[-2:-1] == [node]]
    assert tree.depth == max(len(tree.path(node)) for node in range(len(tree))) - 1
    assert tree.num_drafted == len(tree) - 1
    assert tree.is_chain == all(len(tree.children(node)) <= 1 for node in range(len(tree)))


@given(token_trees(), st.integers(0, 40))
def test_a_row_sees_the_committed_tokens_and_its_own_path(tree, length):
    rows = tree.rows(length)
    assert list(rows.tokens) == list(tree.tokens)
    assert list(rows.slots) == [length + node for node in range(len(tree))]
    for node in range(len(tree)):
        start, prefix = rows.prefix_starts[node], rows.prefix_lengths[node]
        seen = [*range(start, start + prefix), *rows.paths[node]]
        assert seen == [*range(length), *(length + ancestor for ancestor in tree.path(node))]
        assert rows.positions[node] == length + tree.depths[node] == len(seen) - 1


@given(token_trees(), st.data())
def test_descend_finds_the_longest_path_of_choices(tree, data):
    choices = [data.draw(st.integers(0, 5)) for _ in range(len(tree))]
    agreeing = [
        path
        for path in map(tree.path, range(len(tree)))
        if all(tree.tokens[child] == choices[parent] for parent, child in itertools.pairwise(path))
    ]
    assert tree.descend(choices) == max(agreeing, key=len)


@given(st.lists(st.integers(0, 99), max_size=140), st.integers(0, 9))
def test_a_chain_is_described_as_successive_single_steps(tokens, length):
    tree = TokenTree.chain(7, tokens)
    assert tree.is_chain and tree.depth == len(tokens)
    assert tree == TokenTree((7, *tokens), tuple(range(-1, len(tokens))))
    assert tree.rows(length) == Rows.chain((7, *tokens), length)


def test_a_lone_root_is_a_single_step():
    tree = TokenTree.root_only(5)
    assert len(tree) == 1 and tree.depth == 0 and tree.num_drafted == 0
    assert tree.descend([3]) == [0]


@pytest.mark.parametrize(
    ("tokens", "parents"),
    [
        ((), ()),
        ((1, 2), (-1,)),
        ((1,), (0,)),
        ((1, 2), (-1, 1)),
        ((1, 2, 3), (-1, 2, 0)),
        ((1, 2), (-1, -1)),
        ((1, 2, 2), (-1, 0, 0)),
    ],
)
def test_what_is_no_tree_is_refused(tokens, parents):
    with pytest.raises(ValueError):
        TokenTree(tokens, parents)


def test_trees_are_immutable_values():
    tree = TokenTree.chain(1, [2, 3])
    with pytest.raises(dataclasses.FrozenInstanceError):
        tree.tokens = ()
    assert hash(tree) == hash(TokenTree((1, 2, 3), (-1, 0, 1)))

"""The successor table, and the static tree against every tree there is."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autodraft.cascade import TokenRecycling
from autodraft.decoding.sources import TokenRecyclingSource, template


def test_nothing_is_known_before_the_first_verification():
    source = TokenRecyclingSource(TokenRecycling())
    source.start([1, 2])
    assert not source.candidates(source.root(), 8)


def test_candidates_are_what_the_target_last_found_most_probable():
    source = TokenRecyclingSource(TokenRecycling(num_successors=3))
    source.start([1, 2])
    source.learn([2, 7, 2], [[9, 8, 7], [5, 6, 4], [4, 3, 9]])
    assert list(source.candidates(source.root(), 2)) == [(4, 0), (3, 1)]
    assert list(source.candidates(source.step(source.root(), 7), 8)) == [(5, 0), (6, 1), (4, 2)]
    source.learn([2], [[1, 0, 3]])
    assert list(source.candidates(source.root(), 8)) == [(1, 0), (0, 1), (3, 2)]
    source.commit([3, 7])
    assert list(source.candidates(source.root(), 1)) == [(5, 0)]


def test_the_table_outlives_the_sequence():
    source = TokenRecyclingSource(TokenRecycling(num_successors=2))
    source.start([1])
    source.learn([4], [[5, 6]])
    source.start([3, 4])
    assert list(source.candidates(source.root(), 8)) == [(5, 0), (6, 1)]


def test_more_successors_than_wanted_are_cut_and_fewer_are_taken_as_they_are():
    source = TokenRecyclingSource(TokenRecycling(num_successors=2))
    source.start([1])
    source.learn([1, 2], [[5, 6, 7], [8]])
    assert list(source.candidates(source.root(), 8)) == [(5, 0), (6, 1)]
    assert list(source.candidates(source.step(source.root(), 2), 8)) == [(8, 0)]


def test_rows_without_successors_are_an_error():
    with pytest.raises(ValueError):
        TokenRecyclingSource(TokenRecycling()).learn([1, 2], [[3]])


def _paths(tree: list[tuple[int, int]]) -> list[tuple[int, ...]]:
    """The ranks from the root to each node."""
    paths: list[tuple[int, ...]] = [()]
    for parent, rank in tree:
        assert 0 <= parent < len(paths), "a child before its parent"
        paths.append((*paths[parent], rank))
    return paths[1:]


def _accepted(paths, rank_probs: list[float]) -> float:
    """Expected number of accepted tokens."""
    return sum(math.prod(rank_probs[rank] for rank in path) for path in paths)


def _best_accepted(rank_probs: list[float], max_nodes: int, max_depth: int) -> float:
    """By trying every set of nodes that contains the parents of its nodes."""
    every = [
        path for depth in range(1, max_depth + 1) for path in itertools.product(range(len(rank_probs)), repeat=depth)
    ]
    best = 0.0
    for size in range(min(max_nodes, len(every)) + 1):
        for nodes in itertools.combinations(every, size):
            if all(len(path) == 1 or path[:-1] in nodes for path in nodes):
                best = max(best, _accepted(nodes, rank_probs))
    return best


PROBS = st.floats(0, 1, allow_subnormal=False)


@given(st.one_of(
    st.tuples(st.lists(PROBS, max_size=2), st.integers(0, 5), st.integers(0, 3)),
    st.tuples(st.lists(PROBS, min_size=3, max_size=3), st.integers(0, 4), st.integers(1, 2)),
))  # fmt: skip
def test_the_template_is_the_best_of_all_trees(case):
    rank_probs, max_nodes, max_depth = case
    paths = _paths(template(rank_probs, max_nodes, max_depth))
    assert len(paths) == len(set(paths)) <= max_nodes
    assert all(len(path) <= max_depth and rank < len(rank_probs) for path in paths for rank in path)
    assert _accepted(paths, rank_probs) == pytest.approx(_best_accepted(rank_probs, max_nodes, max_depth))


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=8), st.integers(1, 60), st.integers(1, 6))
def test_no_node_left_out_is_better_than_one_taken(rank_probs, max_nodes, max_depth):
    paths = _paths(template(rank_probs, max_nodes, max_depth))
    reachable = {(*path, rank) for path in [(), *paths] for rank in range(len(rank_probs)) if len(path) < max_depth}
    left_out = reachable - set(paths)
    assert len(paths) == max_nodes or not left_out
    if left_out:
        worst = min(_accepted([path], rank_probs) for path in paths)
        assert max(_accepted([path], rank_probs) for path in left_out) <= worst * (1 + 1e-9)


def test_better_ranks_get_more_descendants():
    paths = _paths(template([0.5, 0.2, 0.1, 0.05], max_nodes=40, max_depth=6))
    descendants = [sum(path[0] == rank for path in paths) for rank in range(4)]
    assert descendants == sorted(descendants, reverse=True)
    assert descendants[0] > descendants[1] > descendants[3]


def test_probabilities_are_checked():
    with pytest.raises(ValueError, match="must be in"):
        template([0.5, 1.5], 4, 2)

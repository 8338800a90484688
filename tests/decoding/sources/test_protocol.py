"""What every token source keeps to, on random texts and walks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autodraft.cascade import PromptLookup, SuffixAutomaton, TokenRecycling
from autodraft.decoding.sources import PromptLookupSource, SuffixAutomatonSource, TokenRecyclingSource, TokenSource
from tests.decoding.sources.walks import TEXTS, candidates_along

SOURCES = {
    "prompt lookup": lambda: PromptLookupSource(PromptLookup(num_draft_tokens=3, min_ngram=2)),
    "suffix automaton": lambda: SuffixAutomatonSource(SuffixAutomaton(min_match=2)),
    "token recycling": lambda: TokenRecyclingSource(TokenRecycling(num_successors=2)),
}
every_source = pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)


def started(make, text: list[int]) -> TokenSource:
    """A source on `text` that knows a few successors, if it wants to."""
    source: TokenSource = make()
    source.start(text)
    if source.top_successors:
        source.learn([0, 1, 2], [[1, 2, 0], [2, 0, 1], [0, 1, 2]])
    return source


@every_source
@given(TEXTS, st.lists(st.integers(0, 3), max_size=6), st.integers(0, 5))
def test_candidates_are_few_different_and_of_known_classes(make, text, walk, most):
    source = started(make, text)
    for state_candidates in candidates_along(source, walk, most):
        tokens = [token for token, _ in state_candidates]
        assert len(tokens) == len(set(tokens)) <= most
        assert all(0 <= evidence < source.num_classes for _, evidence in state_candidates)


@every_source
@given(TEXTS, st.lists(st.integers(0, 3), max_size=6), st.integers(0, 4))
def test_asking_for_fewer_gives_the_first_ones(make, text, walk, most):
    source = started(make, text)
    every = candidates_along(source, walk, 9)
    assert candidates_along(source, walk, most) == [candidates[:most] for candidates in every]


@every_source
@given(TEXTS, st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=4))
def test_walks_leave_no_trace(make, text, walks):
    source, walked = started(make, text), started(make, text)
    for walk in walks:
        candidates_along(walked, walk, 9)
    assert walked.root() == source.root()
    for walk in walks:
        assert candidates_along(walked, walk, 9) == candidates_along(source, walk, 9)


@every_source
@given(TEXTS, st.lists(st.integers(0, 3), min_size=1, max_size=6), st.lists(st.integers(0, 3), max_size=4))
def test_committing_a_walk_is_starting_with_it(make, text, walk, further):
    source = started(make, text)
    candidates_along(source, walk, 9)
    source.commit(walk)
    assert candidates_along(source, further, 9) == candidates_along(started(make, text + walk), further, 9)


@every_source
@given(TEXTS, TEXTS, st.lists(st.integers(0, 3), max_size=4))
def test_a_new_sequence_forgets_the_text_before(make, before, text, walk):
    source = started(make, before)
    source.start(text)
    assert candidates_along(source, walk, 9) == candidates_along(started(make, text), walk, 9)


@every_source
def test_the_prompt_is_neither_kept_nor_changed(make):
    prompt = [0, 1, 2, 0, 1, 2, 0, 1]
    source = started(make, prompt)
    before = candidates_along(source, [2, 0], 9)
    source.commit([2])
    assert prompt == [0, 1, 2, 0, 1, 2, 0, 1]
    source = started(make, prompt)
    prompt.clear()
    assert candidates_along(source, [2, 0], 9) == before

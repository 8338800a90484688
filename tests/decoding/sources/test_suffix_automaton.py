"""The suffix automaton against a search of the whole text; its work and its size by counting."""

import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autodraft.cascade import SuffixAutomaton
from autodraft.decoding.sources import MATCH_BUCKETS, SuffixAutomatonSource
from tests.decoding.sources.walks import TEXTS, candidates_along

WALKS = st.lists(st.integers(0, 4), max_size=10)


def _rescan(text: list[int], unverified: list[int], min_match: int, most: int = 99) -> list[tuple[int, int]]:
    """By brute force: what followed the longest suffix that something in `text` follows, most recent first."""
    recent = text + unverified
    for match in range(len(recent), min_match - 1, -1):
        suffix = recent[len(recent) - match :]
        ends = [end for end in range(match, len(text)) if text[end - match : end] == suffix]
        if ends:
            newest_first = list(dict.fromkeys(text[end] for end in reversed(ends)))[:most]
            evidence = max(number for number, shortest in enumerate(MATCH_BUCKETS) if match >= shortest)
            return [(token, evidence + (place > 0) * len(MATCH_BUCKETS)) for place, token in enumerate(newest_first)]
    return []


def _started(text: list[int], min_match: int = 1) -> SuffixAutomatonSource:
    source = SuffixAutomatonSource(SuffixAutomaton(min_match=min_match))
    source.start(text)
    return source


@given(TEXTS, st.integers(1, 4), st.integers(1, 3))
def test_roots_equal_a_search_as_the_text_grows(text, min_match, most):
    source = _started(text[:1], min_match)
    for length in range(1, len(text) + 1):
        assert list(source.candidates(source.root(), most)) == _rescan(text[:length], [], min_match, most)
        source.commit(text[length : length + 1])


@given(TEXTS, WALKS, st.integers(1, 4))
def test_walks_equal_a_search_of_the_committed_text(text, walk, min_match):
    expected = [_rescan(text, walk[:steps], min_match) for steps in range(len(walk) + 1)]
    assert candidates_along(_started(text, min_match), walk, 99) == expected


@pytest.mark.parametrize("alphabet", [2, 4, 20])
def test_longer_texts_and_cycles_of_walks_and_commits(alphabet):
    draw = random.Random(alphabet)
    text = [draw.randrange(alphabet) for _ in range(50)]
    source = _started(text)
    for _ in range(40):
        copied = draw.randrange(len(text) - 8)
        walk = [*text[copied : copied + draw.randrange(8)], draw.randrange(alphabet)]
        expected = [_rescan(text, walk[:steps], 1) for steps in range(len(walk) + 1)]
        assert candidates_along(source, walk, 99) == expected
        source.commit(walk)
        text += walk


def test_the_text_is_not_matched_with_its_own_end():
    source = _started([1, 2, 3])
    assert not source.candidates(source.root(), 9)
    after = source.step(source.step(source.root(), 2), 3)
    assert not source.candidates(after, 9)


def test_the_most_recent_continuation_comes_first_and_again_after_a_repetition():
    source = _started([7, 1, 7, 2, 7])
    assert [token for token, _ in source.candidates(source.root(), 9)] == [2, 1]
    source.commit([1, 0, 7])
    assert [token for token, _ in source.candidates(source.root(), 9)] == [1, 2]


def test_evidence_is_the_bucket_of_the_match():
    for match in range(1, 40):
        passage = list(range(100, 100 + match))
        source = _started([*passage, 1, *passage])
        ((token, evidence),) = source.candidates(source.root(), 9)
        above = [*MATCH_BUCKETS[1:], 10**9]
        assert (token, MATCH_BUCKETS[evidence] <= match < above[evidence]) == (1, True)


GROWING = {
    "one token": lambda draw, length: [5] * length,
    "two tokens in turn": lambda draw, length: [5, 6] * (length // 2),
    "a long period": lambda draw, length: (list(range(40)) * length)[:length],
    "a break after every longer run": lambda draw, length: [t for n in range(length) for t in [5] * n + [6]][:length],
    "random, two tokens": lambda draw, length: [draw.randrange(2) for _ in range(length)],
    "random, a thousand tokens": lambda draw, length: [draw.randrange(1000) for _ in range(length)],
    "abbb...bc": lambda draw, length: [1, *[2] * (length - 2), 3],
}
every_growing = pytest.mark.parametrize("make", GROWING.values(), ids=GROWING)


def _lines_executed(call) -> int:
    """Lines of our code that `call` executes: a count of its work that does not depend on the machine."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if not frame.f_code.co_filename.endswith("suffix_automaton.py"):
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


@every_growing
def test_size_is_at_most_two_states_and_three_transitions_per_token(make):
    text = make(random.Random(0), 2000)
    source = _started(text)
    assert source.num_states <= 2 * len(text)
    assert source.num_transitions <= 3 * len(text)


@every_growing
@pytest.mark.parametrize("length", [500, 8000])
def test_work_per_committed_token_has_a_bound_whatever_the_length(make, length):
    text = make(random.Random(0), length)
    assert _lines_executed(lambda: _started(text)) < 200 * length


@every_growing
@pytest.mark.parametrize("token", [3, 5, 6, 10**6])
def test_work_of_a_step_and_of_candidates_has_a_bound(make, token):
    source = _started(make(random.Random(0), 2000))
    root = source.root()
    assert _lines_executed(lambda: source.step(root, token)) < 200
    assert _lines_executed(lambda: source.candidates(root, 8)) < 20


def test_a_long_repetition_is_left_with_what_is_known_of_the_last_token():
    source = _started([6, 4, *[5] * 500])
    assert list(source.candidates(source.step(source.root(), 6), 9)) == [(4, 0)]
    assert source.step(source.root(), 10**6) == source.step(_started([1]).root(), 10**6)

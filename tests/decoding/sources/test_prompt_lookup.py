"""Prompt lookup against a rescan of the whole text."""

from hypothesis import example, given
from hypothesis import strategies as st

from autodraft.cascade import PromptLookup
from autodraft.decoding.sources import NgramIndex, PromptLookupSource
from tests.decoding.sources.walks import TEXTS

SETTINGS = st.builds(
    lambda num_draft_tokens, min_ngram, more: PromptLookup(
        num_draft_tokens=num_draft_tokens, min_ngram=min_ngram, max_ngram=min_ngram + more
    ),
    st.integers(1, 8),
    st.integers(1, 3),
    st.integers(0, 2),
)


def _rescan(text: list[int], unverified: list[int], settings: PromptLookup) -> tuple[int, int]:
    """By brute force: where what followed the longest match of the last tokens begins, and the match's length."""
    recent = text + unverified
    for ngram in range(min(settings.max_ngram, len(recent)), 0, -1):
        suffix = recent[len(recent) - ngram :]
        ends = [end for end in range(ngram, len(text)) if text[end - ngram : end] == suffix]
        if ends:
            enough = [end for end in ends if len(text) - end >= settings.num_draft_tokens]
            return (max(enough) if enough else min(ends)), ngram
    return 0, 0


def _expected(text: list[int], position: int, match: int, settings: PromptLookup) -> list[tuple[int, int]]:
    return [(text[position], match - settings.min_ngram)] if match >= settings.min_ngram else []


@given(TEXTS, st.data(), SETTINGS)
def test_roots_equal_a_rescan_as_the_text_grows(text, data, settings):
    source = PromptLookupSource(settings)
    length = data.draw(st.integers(1, len(text)))
    source.start(text[:length])
    while True:
        expected = _expected(text[:length], *_rescan(text[:length], [], settings), settings)
        assert list(source.candidates(source.root(), 9)) == expected
        if length == len(text):
            return
        more = data.draw(st.integers(1, len(text) - length))
        source.commit(text[length : length + more])
        length += more


@given(TEXTS, st.lists(st.integers(0, 4), max_size=12), SETTINGS)
def test_walks_follow_the_copied_run_and_rescan_where_it_ends(text, walk, settings):
    source = PromptLookupSource(settings)
    source.start(text)
    state = source.root()
    position, match = _rescan(text, [], settings)
    for steps, token in enumerate(walk, start=1):
        state = source.step(state, token)
        if match and text[position] == token and position + 1 < len(text):
            position, match = position + 1, min(match + 1, settings.max_ngram)
        else:
            position, match = _rescan(text, walk[:steps], settings)
        assert list(source.candidates(state, 9)) == _expected(text, position, match, settings)


@example([1, 0, 1, 0, 1], [0, 0, 1], PromptLookup(num_draft_tokens=1, max_ngram=3, min_ngram=1))
@given(TEXTS, st.lists(st.integers(0, 4), max_size=12), SETTINGS)
def test_the_evidence_is_the_length_that_a_rescan_finds_wherever_a_walk_leads(text, walk, settings):
    source = PromptLookupSource(settings)
    source.start(text)
    state = source.root()
    for steps, token in enumerate(walk, start=1):
        state = source.step(state, token)
        _, match = _rescan(text, walk[:steps], settings)
        found = [evidence + settings.min_ngram for _, evidence in source.candidates(state, 9)]
        assert found == ([match] if match >= settings.min_ngram else [])


def test_the_whole_run_is_copied():
    source = PromptLookupSource(PromptLookup(num_draft_tokens=4, max_ngram=2))
    source.start([1, 2, 3, 4, 5, 9, 1, 2])
    state, copied = source.root(), []
    for _ in range(4):
        ((token, _evidence),) = source.candidates(state, 1)
        copied.append(token)
        state = source.step(state, token)
    assert copied == [3, 4, 5, 9]


def test_the_longest_match_wins_over_a_more_recent_one():
    source = PromptLookupSource(PromptLookup(num_draft_tokens=1, max_ngram=2))
    source.start([1, 2, 7, 5, 2, 8, 1, 2])
    assert list(source.candidates(source.root(), 1)) == [(7, 1)]


def test_an_ngram_at_the_very_end_is_not_found():
    index = NgramIndex(2)
    index.extend([1, 2, 3])
    assert index.find((1, 2), 1) == 2
    assert index.find((2, 3), 1) is None

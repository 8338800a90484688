"""Prompt lookup against a rescan of the whole text."""

from hypothesis import given
from hypothesis import strategies as st

from autodraft.cascade import PromptLookup
from autodraft.decoding import DraftContext, PromptLookupDrafter


class NoCache:
    """Prompt lookup has no business with the cache."""


def _rescan(tokens, settings, wanted):
    """The continuation by brute force, or None."""
    for ngram in range(settings.max_ngram, settings.min_ngram - 1, -1):
        suffix = tokens[len(tokens) - ngram :]
        ends = [end for end in range(ngram, len(tokens)) if tokens[end - ngram : end] == suffix]
        if len(tokens) >= ngram and ends:
            enough = [end for end in ends if len(tokens) - end >= wanted]
            end = max(enough) if enough else min(ends)
            return tokens[end : end + wanted]
    return None


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=60),
    st.data(),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(1, 8),
    st.integers(1, 9),
)
def test_proposals_equal_a_rescan_as_the_text_grows(text, data, min_ngram, more, num_draft_tokens, max_depth):
    settings = PromptLookup(num_draft_tokens=num_draft_tokens, min_ngram=min_ngram, max_ngram=min_ngram + more)
    drafter = PromptLookupDrafter(settings)
    length = data.draw(st.integers(1, len(text)))
    drafter.start(text[:length])
    context = DraftContext(text[:length], NoCache(), max_depth, max_depth)
    while True:
        expected = _rescan(context.tokens, settings, min(num_draft_tokens, max_depth))
        tree = drafter.propose(context)
        assert (None if tree is None else list(tree.tokens[1:])) == expected
        if tree is not None:
            assert tree.is_chain and tree.tokens[0] == context.tokens[-1]
            drafter.observe(tree, [0])
        if len(context.tokens) == len(text):
            return
        context.tokens += text[len(context.tokens) : len(context.tokens) + data.draw(st.integers(1, 6))]


def test_a_new_text_forgets_the_last_one():
    drafter = PromptLookupDrafter(PromptLookup())
    drafter.start([1, 2, 3, 1, 2])
    assert drafter.propose(DraftContext([1, 2, 3, 1, 2], NoCache(), 8, 8)) is not None
    drafter.start([1, 2])
    assert drafter.propose(DraftContext([1, 2], NoCache(), 8, 8)) is None


def test_the_longest_match_wins_over_a_more_recent_one():
    drafter = PromptLookupDrafter(PromptLookup(num_draft_tokens=1, max_ngram=2))
    text = [1, 2, 7, 5, 2, 8, 1, 2]
    drafter.start(text)
    assert drafter.propose(DraftContext(text, NoCache(), 8, 8)).tokens == (2, 7)

"""Counts of a generation, by hand."""

from autodraft.decoding import DecodingStats, DraftCounts, TokenTree

# root -> 1 (draft 1) -> 2 (draft 0) -> 3 (draft 0), root -> 4 (draft 2)
TREE = TokenTree((9, 1, 2, 3, 4), (-1, 0, 1, 2, 0), (-1, 1, 0, 0, 2))


def _stats(num_drafts=3):
    return DecodingStats(drafts=[DraftCounts() for _ in range(num_drafts)])


def test_each_draft_is_counted_for_its_own_nodes():
    stats = _stats()
    stats.count_cycle(3)
    stats.count_tree(TREE, [0, 1, 2], emitted_tokens=3)
    assert stats.drafts == [DraftCounts(1, 2, 1, 2), DraftCounts(1, 1, 1, 1), DraftCounts(1, 1, 0, 1)]
    assert (stats.drafted_tokens, stats.accepted_tokens, stats.draft_cycles) == (4, 2, [1, 1, 1])
    assert stats.autoregressive_cycles == 0 and stats.new_tokens == 3


def test_accepted_tokens_beyond_the_end_are_not_counted():
    """Of an accepted path of three tokens and a bonus token only two were emitted."""
    stats = _stats()
    stats.count_tree(TREE, [0, 1, 2, 3], emitted_tokens=2)
    assert [draft.accepted_tokens for draft in stats.drafts] == [1, 1, 0]
    assert [draft.reached_tokens for draft in stats.drafts] == [1, 1, 1]


def test_a_tree_that_names_no_drafts_is_draft_0s():
    stats = _stats(1)
    stats.count_tree(TokenTree.chain(5, [6, 7]), [0, 1], emitted_tokens=2)
    assert stats.drafts == [DraftCounts(cycles=1, drafted_tokens=2, accepted_tokens=1, reached_tokens=2)]


def test_tokens_behind_a_rejected_one_are_not_reached():
    stats = _stats(1)
    stats.count_tree(TokenTree.chain(5, [6, 7, 8]), [0, 1], emitted_tokens=2)
    assert (stats.drafts[0].drafted_tokens, stats.drafts[0].reached_tokens, stats.drafts[0].accepted_tokens) == (
        3,
        2,
        1,
    )


def test_a_root_alone_is_an_autoregressive_cycle():
    stats = _stats()
    stats.count_cycle(1)
    stats.count_tree(TokenTree.root_only(5), [0], emitted_tokens=1)
    assert stats.autoregressive_cycles == 1 and stats.drafted_tokens == 0 and stats.draft_cycles == [0, 0, 0]


def test_rates_come_from_the_histogram():
    stats = DecodingStats(decode_s=2.0)
    for tokens in (1, 4, 4, 3):
        stats.count_cycle(tokens)
    assert stats.tokens_per_cycle_histogram == {1: 1, 4: 2, 3: 1}
    assert (stats.cycles, stats.new_tokens, stats.tokens_per_cycle, stats.tokens_per_s) == (4, 12, 3.0, 6.0)
    assert DecodingStats().tokens_per_cycle == DecodingStats().tokens_per_s == 0.0

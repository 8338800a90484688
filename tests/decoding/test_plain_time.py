"""The time of plain decoding: a mean, not a floor, of what is decoded once it has run for a while."""

import random

import pytest

from autodraft.decoding.plain_time import PlainTime

SMALL, LARGE = 20_000_000, 2_000_000_000


def _warm(weight_bytes=LARGE):
    plain = PlainTime(weight_bytes)
    plain.record(plain.together(100), 1000.0)
    return plain


def test_it_is_the_mean_of_what_was_recorded_however_it_varies():
    plain, source = _warm(), random.Random(0)
    seen = []
    for _ in range(4000):
        tokens = source.randint(1, 16)
        assert plain.record(tokens, tokens * source.choice((0.5, 1.5)))
        seen.append(plain.token_s)
    assert sum(seen[200:]) / len(seen[200:]) == pytest.approx(1.0, rel=0.03)


def test_it_follows_a_machine_that_becomes_slower_or_faster():
    plain = _warm()
    for token_s in (1.0, 1.8, 1.0):
        for _ in range(60):
            plain.record(6, 6 * token_s)
        assert plain.token_s == pytest.approx(token_s, rel=0.02)


def test_a_hiccup_counts_for_little():
    plain = _warm()
    for _ in range(50):
        plain.record(6, 6.0)
    plain.record(2, 1000.0)
    assert plain.token_s < 1.1


@pytest.mark.parametrize(("weight_bytes", "cold"), [(SMALL, 10), (LARGE, 2)])
def test_the_first_tokens_after_anything_else_are_apart_and_do_not_count(weight_bytes, cold):
    plain = PlainTime(weight_bytes)
    for token_s in (1.0, 3.0):
        assert plain.together(100) == cold and plain.together(1) == 1
        assert not plain.record(cold - 1, 100.0) and plain.together(100) == 1
        assert not plain.record(1, 100.0) and plain.together(100) == 100
        plain.record(1000, 1000 * token_s)
        assert plain.token_s == pytest.approx(min(token_s, 2.0), rel=1e-3)  # twice the known time counts as a hiccup
        plain.record_cycle(4, 2.0)


def test_it_wants_a_few_tokens_first_and_again_after_much_drafting():
    plain = PlainTime(LARGE)
    assert plain.wanted == 8
    plain.record(2, 9.0)
    plain.record(6, 6.0)
    assert plain.wanted == 0
    for seconds, tokens_between in ((4.0, 256), (4.5, 256), (3.2, 1152), (1.0, 2048)):
        for _ in range(500):  # until nothing is left of how fast cycles were before
            plain.record_cycle(4, seconds)
        for _ in range(500):  # and it is trusted
            plain.record(1, 1.0)
        assert _tokens_until_wanted(plain, seconds) == tokens_between
        for _ in range(8):
            plain.record(1, 1.0)
    assert plain.token_s == pytest.approx(1.0)


def _tokens_until_wanted(plain, seconds):
    """Tokens of drafting, four to a cycle of so many seconds."""
    tokens = 0
    while not plain.wanted:
        plain.record_cycle(4, seconds)
        tokens += 4
    return tokens


@pytest.mark.parametrize(("weight_bytes", "counted"), [(SMALL, 20), (LARGE, 6)])
def test_what_few_tokens_say_is_asked_again_sooner(weight_bytes, counted):
    """Where the first ones took five times too long, drafting seems to gain much, and does not."""
    plain = PlainTime(weight_bytes)
    plain.record(plain.wanted - counted, 100.0)
    plain.record(counted, 5.0 * counted)
    assert plain.wanted == 0
    waited = []
    for _ in range(8):
        waited.append(_tokens_until_wanted(plain, 4.0))
        plain.record(plain.wanted - counted, 100.0)
        plain.record(counted, 1.0 * counted)
    assert waited[0] < 1400 and plain.token_s < 1.3
    assert _tokens_until_wanted(plain, 2.0) > 1500  # here it gains, and enough is known


def test_it_can_wait_until_a_short_text_is_over():
    plain = PlainTime(LARGE, at_once=False)
    assert plain.wanted == 0
    for _ in range(15):
        plain.record_cycle(4, 2.0)
    assert plain.wanted == 0
    plain.record_cycle(4, 2.0)
    assert plain.wanted == 8
    for _ in range(8):
        plain.record(1, 1.0)
    assert plain.wanted == 0 and plain.token_s == pytest.approx(1.0)


def test_nothing_recorded_is_no_time():
    assert PlainTime(LARGE).token_s == 0.0

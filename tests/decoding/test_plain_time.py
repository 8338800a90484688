"""The time of plain decoding: a mean, not a floor."""

import random

import pytest

from autodraft.decoding.plain_time import PlainTime


def test_it_is_the_mean_of_what_was_recorded_however_it_varies():
    plain, source = PlainTime(), random.Random(0)
    seen = []
    for _ in range(4000):
        tokens = source.randint(1, 16)
        plain.record(tokens, tokens * source.choice((0.5, 1.5)))
        seen.append(plain.token_s)
    assert sum(seen[200:]) / len(seen[200:]) == pytest.approx(1.0, rel=0.03)


def test_it_follows_a_machine_that_becomes_slower_or_faster():
    plain = PlainTime()
    for token_s in (1.0, 1.8, 1.0):
        for _ in range(60):
            plain.record(6, 6 * token_s)
        assert plain.token_s == pytest.approx(token_s, rel=0.02)


def test_a_hiccup_counts_for_little():
    plain = PlainTime()
    for _ in range(50):
        plain.record(6, 6.0)
    plain.record(2, 1000.0)
    assert plain.token_s < 1.1


def test_nothing_recorded_is_no_time():
    assert PlainTime().token_s == 0.0

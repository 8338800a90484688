"""The share of time, with a clock that only moves when it is told to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autodraft.decoding.on_the_fly import OnTheFlySettings, TimeBudget
from autodraft.errors import InputError

SECONDS = st.floats(0.01, 10.0)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@given(st.floats(0.01, 0.5), st.lists(st.tuples(SECONDS, SECONDS, st.booleans()), max_size=60))
def test_no_more_than_the_share_is_spent_where_steps_take_what_was_expected(share, cycles):
    clock = Clock()
    budget = TimeBudget(share, clock)
    spent = total = 0.0
    for decoding_s, step_s, idle in cycles:
        clock.now += decoding_s
        total += decoding_s
        budget.tick()
        if budget.allows(step_s):
            with budget.spending():
                clock.now += step_s
            spent, total = spent + step_s, total + step_s
        if idle:  # between two sequences
            budget.pause()
            clock.now += 100.0
            budget.tick()
        assert spent <= share * total + 1e-9
    assert budget.spent_s == pytest.approx(spent) and budget.elapsed_s == pytest.approx(total)
    assert budget.spent_share == pytest.approx(spent / total if total else 0.0)


@given(st.lists(st.tuples(SECONDS, SECONDS, SECONDS, st.sampled_from([0.0, 0.05, 0.15])), max_size=60))
def test_a_step_that_takes_longer_is_paid_off_before_the_next(cycles):
    clock = Clock()
    budget = TimeBudget(0.05, clock)
    credited = spent = worst_overrun = 0.0
    for decoding_s, expected_s, actual_s, share in cycles:
        budget.share = share
        clock.now += decoding_s
        credited += share * decoding_s
        budget.tick()
        if budget.allows(expected_s):
            with budget.spending():
                clock.now += actual_s
            credited, spent = credited + share * actual_s, spent + actual_s
            worst_overrun = max(worst_overrun, actual_s - expected_s)
        assert spent <= credited + worst_overrun + 1e-9


def test_no_share_no_step():
    clock = Clock()
    budget = TimeBudget(0.0, clock)
    clock.now = 1000.0
    budget.tick()
    assert not budget.allows(0.0)


@pytest.mark.parametrize(
    "wrong",
    [{"mode": "clasp"}, {"bits": (3,)}, {"bits": ()}, {"window": 0}, {"levels": 0}, {"time_share": 1.5}],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError):
        OnTheFlySettings(**wrong)

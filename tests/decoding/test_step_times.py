"""`StepTimes`: what a step costs, from priors, measurements and what lies between them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autodraft.decoding.step_times import TARGET, CostPrior, StepTimes

VERIFY = CostPrior(1.0, {1: 1.0, 8: 1.7, 16: 3.0})
DRAFT = CostPrior(0.25, {1: 0.25, 4: 0.4})
# Costs that are looked up often are renewed after this many records at the latest.
REFRESH = 64
SETTLED = 0.02  # what is left of the prior after `_settle`


def _times():
    return StepTimes(VERIFY, [None, DRAFT])


def _settle(times, model, rows, seconds):
    """Record a step often enough for its average to be there, the prior to fade, and costs to be renewed."""
    for _ in range(20 * REFRESH):
        times.record(model, rows, seconds)


def test_a_prior_is_interpolated_and_its_end_grows_with_the_rows():
    assert [VERIFY.at(rows) for rows in (1, 8, 16)] == [1.0, 1.7, 3.0]
    assert VERIFY.at(4) == pytest.approx(1.0 + 0.7 * 3 / 7) and VERIFY.at(12) == pytest.approx(2.35)
    assert VERIFY.at(32) == pytest.approx(3.0 + 16 * 1.3 / 8)  # as it rose last
    assert CostPrior(1.0, {1: 1.0, 8: 1.2, 16: 1.1}).at(32) == 1.1 and CostPrior(0.3, {4: 0.5}).at(8) == 1.0
    assert CostPrior(0.3, {4: 0.5}).at(1) == 0.5  # nothing below is known
    assert CostPrior(0.3, {}).at(9) == 0.3


def test_priors_stand_in_until_target_and_draft_have_been_measured():
    times = _times()
    assert times.target_s == 0.0
    assert times.cost(TARGET, 8) == 1.7 and times.cost(1, 1) == 0.25
    times.record(1, 1, 0.75)  # a draft's seconds say nothing without the target's
    assert times.cost(1, 1) == 0.25
    times.record(TARGET, 1, 3.0)
    assert times.target_s == 3.0
    # A measured draft starts from where it was measured; another one would start from its prior and the target's pace.
    assert times.cost(1, 1) == pytest.approx(0.25)
    _settle(times, 1, 1, 0.9)
    assert times.cost(1, 1) == pytest.approx(0.3, SETTLED)
    # Of other numbers of rows the prior knows the shape and the measurement the scale.
    assert times.cost(1, 4) == pytest.approx(0.3 * 0.4 / 0.25, SETTLED)
    assert times.cost(TARGET, 16) == pytest.approx(3.0)


def test_measured_numbers_of_rows_cost_what_was_measured_and_others_what_the_prior_says():
    times = _times()
    for rows, seconds in ((16, 4.0), (1, 2.0)):
        _settle(times, TARGET, rows, seconds)
    assert [times.cost(TARGET, rows) for rows in (1, 16, 8)] == pytest.approx([1.0, 2.0, VERIFY.at(8)], SETTLED)


@given(st.integers(1, 40))
def test_a_first_measurement_is_tempered_by_the_prior_and_the_pace_so_far(count):
    """It moves the cost towards what was measured, by more the more often it was."""
    costs = []
    for repeats in (0, count, count + 1):
        times = _times()
        times.record(TARGET, 1, 2.0)
        times.record(TARGET, 8, 2.0 * VERIFY.at(8))
        for _ in range(repeats):
            times.record(1, 1, 0.75)  # 0.5 was expected
        costs.append(times.cost(1, 1))
    assert costs[0] == 0.25 < costs[1] < costs[2] < 0.375


def test_a_hiccup_in_a_drafts_very_first_step_does_not_condemn_it():
    times = _times()
    times.record(TARGET, 1, 1.0)
    times.record(1, 1, 100.0)  # 0.25 was expected
    assert times.cost(1, 1) <= 0.5


@pytest.mark.parametrize("seconds", [1.5, 0.5])
def test_averages_forget(seconds):
    times = _times()
    times.record(TARGET, 1, 1.0)
    _settle(times, TARGET, 1, seconds)
    assert times.target_s == pytest.approx(seconds, SETTLED)


def test_averages_fall_faster_than_they_rise():
    """What disturbs a measurement only ever makes it longer."""
    slower, faster = _times(), _times()
    for times in (slower, faster):
        times.record(TARGET, 1, 1.0)
    slower.record(TARGET, 1, 1.2)
    faster.record(TARGET, 1, 0.8)
    assert 1 - faster.target_s > 2 * (slower.target_s - 1) > 0


@pytest.mark.parametrize("rows", [1, 8])
def test_a_hiccup_counts_as_twice_the_normal_time_at_most(rows):
    """Of a step that was measured before, and of one that was not but whose model was."""
    disturbed, doubled = _times(), _times()
    for times, seconds in ((disturbed, 1000.0), (doubled, 2 * VERIFY.at(rows))):
        times.record(TARGET, 1, 1.0)
        times.record(TARGET, rows, seconds)
    assert disturbed.cost(TARGET, rows) == doubled.cost(TARGET, rows)
    assert disturbed.target_s == doubled.target_s <= 1.2


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=50))
def test_times_stay_between_the_measured_extremes(seconds):
    times = _times()
    for value in seconds:
        times.record(TARGET, 1, value)
    assert min(seconds) * (1 - 1e-9) <= times.target_s <= max(seconds) * (1 + 1e-9)


def test_ranges_of_context_lengths_are_kept_apart_and_start_from_the_one_before():
    times = _times()
    times.set_context(100)
    _settle(times, TARGET, 1, 1.0)
    _settle(times, 1, 1, 0.5)
    times.set_context(400)
    assert times.cost(1, 1) == pytest.approx(0.5, SETTLED)  # the same range
    times.set_context(600)
    assert times.target_s == pytest.approx(1.0, SETTLED) and times.cost(1, 1) == pytest.approx(0.5, SETTLED)
    _settle(times, TARGET, 1, 2.0)
    assert times.target_s == pytest.approx(2.0, SETTLED) and times.cost(1, 1) == pytest.approx(0.25, SETTLED)
    times.set_context(200)
    assert times.target_s == pytest.approx(1.0, SETTLED) and times.cost(1, 1) == pytest.approx(0.5, SETTLED)


def test_drafts_are_kept_apart():
    times = StepTimes(VERIFY, [DRAFT, DRAFT])
    times.record(TARGET, 1, 1.0)
    _settle(times, 0, 1, 0.5)
    _settle(times, 1, 1, 0.125)
    assert (times.cost(0, 1), times.cost(1, 1)) == pytest.approx((0.5, 0.125), SETTLED)


# ---------------------------------------------------------------------- calls


def test_a_chain_costs_what_its_call_and_its_tokens_cost():
    times = _times()
    times.record(TARGET, 1, 2.0)
    assert times.chain_cost(1) == (0.0, times.cost(1, 1))  # nothing was measured
    for number in range(200):
        tokens = 1 + number % 7
        times.record_chain(1, tokens, 0.8 + 0.3 * tokens)
    assert times.chain_cost(1) == pytest.approx((0.4, 0.15), rel=0.15)


def test_a_chain_of_always_the_same_length_is_taken_to_cost_its_tokens():
    times = _times()
    times.record(TARGET, 1, 2.0)
    for _ in range(4 * REFRESH):
        times.record_chain(1, 5, 3.0)
    start, each = times.chain_cost(1)
    assert start + 5 * each == pytest.approx(1.5, rel=0.02) and start < 0.15


@given(st.lists(st.tuples(st.integers(1, 16), st.floats(1e-5, 10.0)), min_size=1, max_size=80))
def test_neither_a_call_nor_a_token_of_a_chain_costs_less_than_nothing(chains):
    times = _times()
    times.record(TARGET, 1, 1.0)
    for tokens, seconds in chains:
        times.record_chain(1, tokens, seconds)
        start, each = times.chain_cost(1)
        assert start >= -1e-9 and each > 0


def test_a_hiccup_in_a_drafts_very_first_chain_does_not_condemn_it():
    times = _times()
    times.record(TARGET, 1, 1.0)
    times.record_chain(1, 4, 100.0)  # 1.0 was expected
    start, each = times.chain_cost(1)
    assert start + 4 * each <= 2.0


def test_a_hiccup_in_a_chain_counts_as_twice_the_normal_time_at_most():
    disturbed, doubled = _times(), _times()
    for times, seconds in ((disturbed, 1000.0), (doubled, 2.0)):
        times.record(TARGET, 1, 1.0)
        for _ in range(40):
            times.record_chain(1, 4, 1.0)
        times.record_chain(1, 4, seconds)
        for _ in range(REFRESH):
            times.record_chain(1, 4, 1.0)
    assert disturbed.chain_cost(1) == pytest.approx(doubled.chain_cost(1))


def test_what_a_decision_takes_is_known_once_it_was_measured():
    times = _times()
    times.record_decisions(4, 0.8)
    assert times.decision_cost == 0.0  # in target steps, of which none was measured
    times.record(TARGET, 1, 2.0)
    assert times.decision_cost == pytest.approx(0.1)
    for _ in range(200):
        times.record_decisions(1, 0.5)
    assert times.decision_cost == pytest.approx(0.25, rel=0.01)

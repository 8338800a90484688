"""Costs before and after a draft was timed."""

import pytest

from autodraft.decoding.on_the_fly import every_second_block
from autodraft.decoding.on_the_fly.costs import OnlineCosts
from autodraft.policy import DraftPolicy

FOUR, EIGHT, TARGET = DraftPolicy.uniform(3, 4), DraftPolicy.uniform(3, 8), DraftPolicy.uniform(3)


def test_untimed_drafts_cost_what_they_read(runtime):
    costs = OnlineCosts(runtime)
    assert costs.target_s == costs.expected_s(8) == 0.0
    assert costs.cost(TARGET) == 1.0
    assert costs.cost(EIGHT) == runtime.plan(EIGHT).weight_bytes / runtime.target.weight_bytes
    without_context = costs.cost(every_second_block(3))
    costs.set_context(1000)
    # The keys of a skipped attention are not read, those of a low-bit one are.
    assert costs.cost(EIGHT) > runtime.plan(EIGHT).weight_bytes / runtime.target.weight_bytes
    assert costs.cost(every_second_block(3)) != without_context and costs.cost(TARGET) == 1.0


def test_timed_drafts_cost_what_they_take_and_correct_the_others(runtime):
    costs = OnlineCosts(runtime)
    guess = costs.cost(FOUR) / costs.cost(EIGHT)
    for _ in range(100):
        costs.note_verify(1, 0.010)
        costs.note_verify(4, 0.020)
        costs.note_chain(EIGHT, 5, 0.030)
    assert costs.target_s == pytest.approx(0.010, rel=0.02) and costs.verify_cost(4) == pytest.approx(2.0, rel=0.05)
    assert costs.cost(EIGHT) == pytest.approx(0.6, rel=0.02)
    assert costs.cost(FOUR) == pytest.approx(guess * 0.6, rel=0.02)


def test_a_disturbed_first_measurement_does_not_last(runtime):
    costs = OnlineCosts(runtime)
    costs.note_verify(1, 0.010)
    costs.note_chain(EIGHT, 1, 1.0)
    assert costs.cost(EIGHT) < 1.0
    for _ in range(150):
        costs.note_chain(EIGHT, 1, 0.005)
    assert costs.cost(EIGHT) == pytest.approx(0.5, rel=0.05)


def test_a_step_is_not_slower_than_a_forward_over_more_tokens(runtime):
    costs = OnlineCosts(runtime)
    costs.note_verify(1, 0.030)
    for _ in range(200):
        costs.note_verify(3, 0.012)
    assert costs.target_s == pytest.approx(0.012, rel=0.01) and costs.verify_cost(1) >= 1.0

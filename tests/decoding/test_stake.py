"""The account of what may be lost, on events of every size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autodraft.decoding.stake import Stake

LOSSES = st.lists(st.tuples(st.integers(0, 50), st.floats(0.1, 100.0)), max_size=80)


@given(st.floats(0.0, 0.2), LOSSES)
def test_no_more_is_lost_than_the_share_and_one_event(share, events):
    stake = Stake(share)
    first, plain, lost, largest = stake.steps, 0.0, 0.0, 0.0
    for cycles, loss in events:
        stake.account(cycles, cycles)
        plain += cycles
        if stake.affords(loss):
            stake.account(0.0, loss)
            lost, largest = lost + loss, max(largest, loss)
        assert lost <= first + share * plain + largest + 1e-9


@given(st.lists(st.floats(0.5, 10.0), min_size=1, max_size=50))
def test_what_is_afforded_never_leaves_a_debt_unless_it_is_more_than_the_account_holds(losses):
    stake = Stake(0.05)
    for loss in losses:
        stake.account(10.0, 10.0)
        if stake.affords(loss):
            stake.account(0.0, loss)
        assert stake.steps >= -1e-9


def test_gains_can_be_spent_up_to_a_ceiling():
    stake = Stake(0.0)
    first = stake.steps
    assert not stake.affords(first + 10)
    stake.account(30.0, 10.0)
    assert stake.steps == pytest.approx(first + 20) and stake.affords(first + 10)
    stake.account(1e6, 1e5)
    held = stake.steps
    stake.account(1e6, 1e5)
    assert stake.steps == held < 1000


def test_what_is_larger_than_the_account_is_afforded_once_it_is_full():
    stake = Stake(0.01)
    assert not stake.affords(1e6)
    stake.account(1e6, 1e6)
    assert stake.affords(1e6)
    stake.account(0.0, 500.0)
    assert not stake.affords(0.0)

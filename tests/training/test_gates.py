"""The budget of the gates: projection against its optimality conditions, and selection on a loss of known minimum."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autodraft.training.gates import Gates, budget_at, project


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=12), st.floats(0, 1))
def test_the_projection_is_the_nearest_point_of_the_budget(entries, share):
    values = torch.tensor(entries)
    total = share * len(entries)
    found = project(values, total)
    assert float(found.min()) >= 0 and float(found.max()) <= 1
    assert float(found.sum()) == pytest.approx(total, abs=1e-3)
    # Optimality (Karush, Kuhn, Tucker): one multiplier for all that lie inside, and bounds on the others.
    moved = values - found
    inside = moved[(found > 1e-4) & (found < 1 - 1e-4)]
    if len(inside):
        multiplier = inside.mean()
        assert torch.allclose(inside, multiplier, atol=1e-3)
        assert bool((moved[found <= 1e-4] <= multiplier + 1e-3).all())
        assert bool((moved[found >= 1 - 1e-4] >= multiplier - 1e-3).all())


def test_the_gates_that_are_missed_most_stay_open():
    """A loss that is linear in the gates: the budget's minimum keeps those with the largest coefficients."""
    losses = torch.tensor([0.1, 2.0, 0.3, 1.5, 0.2, 0.9])
    gates = Gates.opened(6, torch.device("cpu"))
    for step in range(1, 41):
        gates = gates.descend(-losses, step, 40, num_kept=3)
    assert gates.largest(3) == [1, 3, 5]
    assert gates.values.tolist() == pytest.approx([0, 1, 0, 1, 0, 1], abs=1e-4)
    assert gates.num_open == 3


def test_windows_draw_gates_by_their_probabilities_and_by_seed_and_step():
    gates = Gates(torch.tensor([0.0, 0.25, 1.0]), torch.zeros(3))
    drawn = gates.sample(4000, seed=3, step=7)
    assert drawn.mean(dim=0).tolist() == pytest.approx([0.0, 0.25, 1.0], abs=0.03)
    assert torch.equal(drawn, gates.sample(4000, seed=3, step=7))
    assert not torch.equal(drawn, gates.sample(4000, seed=3, step=8))


def test_the_budget_falls_and_then_stays():
    budgets = [budget_at(step / 20, 32, 16) for step in range(21)]
    assert budgets[0] == 32 and budgets == sorted(budgets, reverse=True)
    assert budgets[15:] == [16.0] * 6

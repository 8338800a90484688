"""Processes that train together: they share each batch and end a step with the same gradients."""

import pytest
import torch
from torch import nn

from autodraft.training.parallel import Team, run_team


def check_two(team: Team) -> None:
    """Runs in each of two processes; an exception in one of them fails the test."""
    weight, unused = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))
    weight.grad = torch.full((3,), 1.0 + 2.0 * team.rank)
    team.average_gradients([weight, unused])
    assert weight.grad.tolist() == [2.0, 2.0, 2.0] and unused.grad is None
    assert team.mean(float(team.rank)) == 0.5
    assert team.leaders(10.0 + team.rank) == 10.0


def test_two_processes_agree():
    run_team(2, check_two)


def test_shares_are_disjoint_and_complete():
    batch = torch.arange(12).view(6, 2)
    shares = [Team(rank, 3).share(batch) for rank in range(3)]
    assert sorted(torch.cat(shares).flatten().tolist()) == list(range(12))
    with pytest.raises(ValueError):
        Team(0, 4).share(batch)


def test_alone_nothing_changes():
    alone, weight = Team(), nn.Parameter(torch.zeros(2))
    weight.grad = torch.ones(2)
    alone.average_gradients([weight])
    assert weight.grad.tolist() == [1.0, 1.0]
    assert (alone.mean(2.5), alone.leaders(2.5), alone.leads) == (2.5, 2.5, True)

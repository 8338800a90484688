"""Muon: the steps are torch's own, and what they apply is nearly orthogonal."""

import pytest
import torch
from torch import nn

from autodraft.training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_singular_values_come_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = torch.linalg.svdvals(orthogonalised(matrix))
    assert float(found.min()) > 0.6 and float(found.max()) < 1.3
    assert float((orthogonalised(matrix) * (left @ right)).sum()) > 0.85 * min(shape)


def test_steps_are_those_of_torch():
    generator = torch.Generator().manual_seed(1)
    shapes = [(8, 20), (20, 8), (16, 16)]
    ours, theirs = ([nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    mine = Muon(ours, 0.02, torch.bfloat16)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.0)
    for _ in range(4):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        mine.step()
        reference.step()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-3)


def test_a_resumed_run_continues_its_momentum():
    generator = torch.Generator().manual_seed(2)
    gradients = [torch.randn((6, 9), generator=generator) for _ in range(4)]

    def run(matrix: nn.Parameter, optimiser: Muon, steps: list[torch.Tensor]) -> None:
        for gradient in steps:
            matrix.grad = gradient.clone()
            optimiser.step()

    whole = nn.Parameter(torch.zeros(6, 9))
    run(whole, Muon([whole], 0.1, torch.float32), gradients)
    first = nn.Parameter(torch.zeros(6, 9))
    stopped = Muon([first], 0.1, torch.float32)
    run(first, stopped, gradients[:2])
    second = nn.Parameter(first.detach().clone())
    resumed = Muon([second], 0.1, torch.float32)
    resumed.load_state_dict(stopped.state_dict())
    run(second, resumed, gradients[2:])
    assert torch.equal(whole, second)

"""The penalty against its formula, its proximal operator against a numerical minimiser."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize

from autodraft.training.layer_sparsity import negative_norm, shrink_negative_part
from autodraft.training.layer_sparsity.optimiser import ProximalSteps

ENTRIES = st.floats(-3, 3, allow_subnormal=False)
MATRICES = arrays(np.float64, (2, 3), elements=ENTRIES)


def _runs(*values):
    return torch.tensor(values, dtype=torch.float64)


@given(arrays(np.float64, (3, 2, 4), elements=ENTRIES))
def test_the_penalty_is_its_formula(layers):
    expected = [math.sqrt(sum(min(entry, 0.0) ** 2 for entry in layer.ravel())) for layer in layers]
    np.testing.assert_allclose(negative_norm(torch.from_numpy(layers)), expected, rtol=1e-12)


@settings(max_examples=40)
@given(MATRICES, st.floats(0, 4))
def test_shrinking_is_the_proximal_operator(matrix, threshold):
    def objective(candidate):
        negative = np.minimum(candidate, 0.0)
        return ((candidate - matrix.ravel()) ** 2).sum() / 2 + threshold * np.sqrt((negative**2).sum())

    found = shrink_negative_part(torch.from_numpy(matrix)[None], _runs(threshold))[0].numpy().ravel()
    starts = (matrix.ravel(), np.maximum(matrix.ravel(), 0.0), found)
    best = min((minimize(objective, start, method="Powell") for start in starts), key=lambda result: result.fun)
    assert objective(found) <= best.fun + 1e-9
    # The objective is strongly convex: a point as good as the best is near it.
    assert np.linalg.norm(found - best.x) <= math.sqrt(2 * max(best.fun - objective(found), 0.0)) + 1e-3


@given(MATRICES, st.floats(0, 4))
def test_a_group_no_longer_than_the_threshold_vanishes_and_a_longer_one_keeps_its_direction(matrix, threshold):
    layer = torch.from_numpy(matrix)[None]
    before, after = negative_norm(layer), negative_norm(shrink_negative_part(layer, _runs(threshold)))
    torch.testing.assert_close(after, (before - threshold).clamp(min=0.0))
    assert bool((shrink_negative_part(layer, _runs(threshold)) < 0).any()) == bool(before > threshold)


def test_each_run_has_its_own_threshold():
    layer = torch.full((3, 1, 4), -1.0, dtype=torch.float64)  # norm 2
    shrunk = shrink_negative_part(layer, _runs(0.0, 1.0, 2.0))
    torch.testing.assert_close(shrunk[:, 0, 0], _runs(-1.0, -0.5, 0.0))


def test_steps_end_where_the_proximal_operator_says():
    """Loss |W - target|^2 / 2 and the penalty have the proximal operator's value as their minimiser."""
    generator = torch.Generator().manual_seed(0)
    targets = [torch.randn(3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(3)]
    penalty = _runs(0.0, 1.0, 100.0)
    layers = [torch.zeros_like(target) for target in targets]
    steps = ProximalSteps(layers)
    for number in range(2000):
        gradients = [layer - target for layer, target in zip(layers, targets, strict=True)]
        steps.step(layers, gradients, 0.02 * (1 - number / 2000), penalty)
    expected = [targets[0], shrink_negative_part(targets[1], penalty), targets[2]]
    for layer, solution in zip(layers, expected, strict=True):
        torch.testing.assert_close(layer, solution, rtol=0, atol=2e-3)
    assert not (layers[1][2] < 0).any() and (layers[1][1] < 0).any()

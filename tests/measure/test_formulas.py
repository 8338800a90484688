"""Formulas against Monte Carlo and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autodraft.measure import formulas

alphas = st.floats(0.0, 1.0)


@given(alphas, st.integers(0, 12))
def test_tokens_per_cycle_is_the_expected_accepted_run_plus_one(alpha: float, n: int) -> None:
    # P(run = k) = alpha^k (1 - alpha) for k < n, alpha^n for k = n.
    expected = 1 + sum(k * alpha**k * (1 - alpha) for k in range(n)) + n * alpha**n
    assert formulas.tokens_per_cycle(alpha, n) == pytest.approx(expected)


@given(st.floats(0.1, 0.99), st.floats(0.02, 1.0), st.floats(0.0, 0.2))
def test_best_length_is_the_best_of_all(alpha: float, cost: float, per_row: float) -> None:
    def verify_cost(rows: int) -> float:
        return 1 + per_row * (rows - 1)

    n, speedup = formulas.best_num_draft_tokens(
        lambda n: formulas.tokens_per_cycle(alpha, n), cost, verify_cost, longest=12
    )
    every = [formulas.chain_speedup(alpha, m, cost, verify_cost(m + 1)) for m in range(1, 13)]
    assert speedup == pytest.approx(max(every)) and every[n - 1] == pytest.approx(speedup)


@settings(max_examples=40, deadline=None)
@given(alphas, alphas, st.integers(1, 3), st.integers(1, 3))
@example(0.9999999999999999, 0.5, 1, 1)
@example(1 - 1.1e-8, 0.5, 1, 1)
def test_vertical_cascade_equals_enumeration(alpha: float, inner: float, cycles: int, k: int) -> None:
    lengths = [(i, inner ** (i - 1) * (1 - inner)) for i in range(1, k + 1)] + [(k + 1, inner**k)]
    expected = 0.0
    for drawn in itertools.product(lengths, repeat=cycles):
        probability = float(np.prod([p for _, p in drawn]))
        expected += probability * formulas.tokens_per_cycle(alpha, sum(length for length, _ in drawn))
    assert formulas.vertical_tokens_per_cycle(alpha, inner, cycles, k) == pytest.approx(expected, rel=1e-6)


def test_vertical_speedup_agrees_with_simulation() -> None:
    random = np.random.default_rng(0)
    alpha, inner, cycles, k, cost, verify = 0.8, 0.5, 2, 3, 0.3, 1.1
    tokens = []
    for _ in range(40_000):
        drafted = sum(1 + int((random.random(k) < inner).cumprod().sum()) for _ in range(cycles))
        tokens.append(1 + int((random.random(drafted) < alpha).cumprod().sum()))
    simulated = np.mean(tokens) / (cycles * cost + verify)
    formula = formulas.vertical_speedup(alpha, inner, cycles, k, cost=cost, verify_cost=verify)
    assert formula == pytest.approx(simulated, rel=0.02)


@given(st.floats(0.0, 0.9), st.integers(1, 16))
def test_skipping_alone_never_passes_its_bound(ratio: float, n: int) -> None:
    assert formulas.chain_speedup(1.0, n, 1.0 - ratio) <= formulas.skip_only_bound(ratio) + 1e-9


@pytest.mark.parametrize("call", [
    lambda: formulas.tokens_per_cycle(1.2, 3),
    lambda: formulas.tokens_per_cycle(0.5, -1),
    lambda: formulas.speedup(2.0, 0, 0.0, 0.0),
    lambda: formulas.skip_only_bound(1.0),
])  # fmt: skip
def test_impossible_figures_are_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError):
        call()

"""Figures of estimates whose truth is known."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from autodraft.measure.reliability import reliability, wilson

CASES = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def test_a_case_by_hand():
    found = reliability([0.25, 0.25, 0.25, 0.25, 0.95, 1.0], [True, False, False, True, True, True])
    assert found.count == 6 and found.observed == pytest.approx(4 / 6)
    assert found.mean_estimate == pytest.approx(2.95 / 6)
    assert found.calibration_error == pytest.approx((4 * 0.25 + 2 * 0.025) / 6)
    assert found.brier == pytest.approx((2 * 0.75**2 + 2 * 0.25**2 + 0.05**2) / 6)
    assert found.base_brier == pytest.approx(4 / 6 * 2 / 6)
    low, high = found.bins
    assert (low.low, low.high, low.count, low.mean_estimate, low.observed) == (0.2, 0.3, 4, 0.25, 0.5)
    assert (high.count, high.mean_estimate, high.observed) == (2, pytest.approx(0.975), 1.0)


@given(CASES, st.integers(1, 20))
def test_bins_share_out_all_cases(cases, num_bins):
    estimates, outcomes = map(list, zip(*cases, strict=True))
    found = reliability(estimates, outcomes, num_bins=num_bins)
    assert sum(part.count for part in found.bins) == found.count == len(cases)
    for part in found.bins:
        inside = [p for p in estimates if part.low <= p < part.high or (part.high == 1.0 and p == 1.0)]
        assert len(inside) == pytest.approx(part.count, abs=2)  # 0.3 * 10 is not 3: an edge may fall on either side
        assert part.low - 1e-9 <= part.mean_estimate <= part.high + 1e-9
        assert part.ci_low - 1e-9 <= part.observed <= part.ci_high + 1e-9
    weighted = sum(part.count * abs(part.observed - part.mean_estimate) for part in found.bins)
    assert found.calibration_error == pytest.approx(weighted / found.count)
    assert 0 <= found.brier <= 1


def test_the_brier_score_is_error_plus_what_cannot_be_known():
    """With one estimate per bin: calibration, resolution and uncertainty (Murphy 1973)."""
    random = np.random.default_rng(0)
    estimates = random.choice([0.05, 0.35, 0.75], 500)
    outcomes = random.random(500) < estimates**2
    found = reliability(estimates.tolist(), outcomes.tolist())
    parts = [(part.count / 500, part.mean_estimate, part.observed) for part in found.bins]
    calibration = sum(weight * (estimate - observed) ** 2 for weight, estimate, observed in parts)
    resolution = sum(weight * (observed - found.observed) ** 2 for weight, _, observed in parts)
    assert found.brier == pytest.approx(calibration - resolution + found.base_brier)


def test_calibrated_estimates_show_no_more_error_than_chance_and_others_do():
    random = np.random.default_rng(1)
    estimates = random.random(4000)
    right = reliability(estimates.tolist(), (random.random(4000) < estimates).tolist())
    assert right.calibration_error == pytest.approx(right.chance_error, rel=0.6)
    wrong = reliability(estimates.tolist(), (random.random(4000) < estimates**2).tolist())
    assert wrong.calibration_error > 5 * wrong.chance_error
    assert wrong.calibration_error == pytest.approx(1 / 2 - 1 / 3, abs=0.03)  # E[p - p^2]
    few = reliability(estimates[:40].tolist(), [True] * 40)
    assert few.chance_error > 4 * right.chance_error


@pytest.mark.parametrize(("successes", "count"), [(0, 5), (3, 7), (200, 400), (9, 9)])
def test_wilsons_interval_holds_the_shares_that_a_score_test_does_not_reject(successes, count):
    low, high = wilson(successes, count)
    z = stats.norm.ppf(0.975)
    for edge in (low, high):
        if 1e-12 < edge < 1 - 1e-12:
            assert abs(successes / count - edge) / np.sqrt(edge * (1 - edge) / count) == pytest.approx(z)
    assert 0 <= low <= successes / count <= high <= 1


def test_what_makes_no_sense_is_refused():
    for estimates, outcomes in (([], []), ([0.5], [True, False]), ([1.5], [True])):
        with pytest.raises(ValueError):
            reliability(estimates, outcomes)


def test_the_same_seed_gives_the_same_figures():
    cases = [0.1, 0.5, 0.9] * 10, [True, False, True] * 10
    assert dataclasses.asdict(reliability(*cases)) == dataclasses.asdict(reliability(*cases))

"""Estimates of acceptance against their formulas and against frequencies that are known."""

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autodraft.decoding.acceptance import Calibration, ModelEvidence, MovingAcceptance
from autodraft.runtime.choosing import ACCEPTANCE_BINS


@given(
    st.lists(st.lists(st.booleans(), max_size=5), max_size=30),
    st.floats(0.1, 0.9),
    st.sampled_from([0.0, 0.5, 0.7, 0.95]),
    st.integers(1, 8),
)
def test_the_estimate_is_the_long_run_or_where_the_window_contradicts_it_the_papers_average(
    cycles, prior, weight, window
):
    """Recomputed from the whole history: ema <- weight * ema + (1 - weight) * mean of the last `window` outcomes."""
    acceptance, ema, seen, history = MovingAcceptance(prior, weight, window), prior, [], [prior] * window
    for cycle in cycles:
        acceptance.update(cycle)
        seen += cycle
        long_run = (window * prior + sum(seen)) / (window + len(seen))
        history += cycle or [long_run]
        mean = statistics.fmean(history[-window:])
        ema = weight * ema + (1 - weight) * mean
        standard_error = math.sqrt(long_run * (1 - long_run) / window)
        if abs(abs(mean - long_run) - 2 * standard_error) > 1e-9:
            expected = long_run if abs(mean - long_run) < 2 * standard_error else ema
            assert acceptance.alpha == pytest.approx(min(max(expected, 0.002), 0.998))


@pytest.mark.parametrize("truth", [0.15, 0.5, 0.85])
def test_the_estimate_of_a_steady_draft_is_steadier_than_its_window(truth):
    acceptance, chooser = MovingAcceptance(0.5, 0.7, 20), random.Random(3)
    errors, window = [], [0.5] * 20
    window_errors = []
    for cycle in range(3000):
        outcome = chooser.random() < truth
        acceptance.update([outcome])
        window = [*window[1:], outcome]
        if cycle > 500:
            errors.append((acceptance.alpha - truth) ** 2)
            window_errors.append((statistics.fmean(window) - truth) ** 2)
    assert statistics.fmean(errors) < 0.5 * statistics.fmean(window_errors)


def test_a_change_shows_within_a_window_and_a_draft_that_rests_gets_its_long_run_back():
    acceptance = MovingAcceptance(0.9, 0.7, 20)
    for number in range(400):
        acceptance.update([number % 10 != 0])
    assert acceptance.alpha == pytest.approx(0.9, abs=0.03)
    for _ in range(20):
        acceptance.update([False])
    assert acceptance.alpha < 0.2
    for _ in range(40):
        acceptance.update([])
    assert acceptance.alpha == pytest.approx(0.9 * 400 / 420, abs=0.03)


@pytest.mark.parametrize("outcome", [False, True])
def test_an_acceptance_is_never_quite_zero_or_one(outcome):
    acceptance, calibration = MovingAcceptance(0.5, 0.7, 20), Calibration([0.5])
    for _ in range(2000):
        acceptance.update([outcome])
        calibration.update(0, outcome)
    for estimate in (acceptance.alpha, calibration.means[0]):
        assert 0 < estimate < 1 and abs(estimate - outcome) < 0.01


def test_calibration_converges_to_the_frequency_of_each_class():
    truth = [0.05, 0.3, 0.62, 0.9]
    calibration, chooser = Calibration([0.5] * 4, memory=1000.0), random.Random(1)
    for _ in range(20_000):
        evidence = chooser.randrange(4)
        calibration.update(evidence, chooser.random() < truth[evidence])
    # With a memory of 1000 an estimate's standard deviation is at most sqrt(0.25 / 2000) = 0.011.
    assert calibration.means == pytest.approx(truth, abs=0.045)


def test_calibration_weighs_its_prior_as_so_many_outcomes_and_other_classes_not_at_all():
    calibration = Calibration([0.5, 0.25], strength=4.0)
    for _ in range(4):
        calibration.update(0, True)
    assert calibration.means == [pytest.approx((4 * 0.5 + 4) / 8), 0.25]


def test_calibration_follows_a_text_that_changes():
    calibration = Calibration([0.5], memory=50.0)
    for outcome, expected in ((True, 0.99), (False, 0.01), (True, 0.99)):
        for _ in range(300):
            calibration.update(0, outcome)
        assert calibration.means[0] == pytest.approx(expected, abs=0.02)


@given(st.floats(0, 1), st.floats(0.01, 0.99))
def test_the_evidence_of_a_model_is_one_of_its_classes(prob, alpha):
    priors = ModelEvidence.priors(alpha)
    assert len(priors) == ModelEvidence.NUM_CLASSES and all(0 < prior <= 1 for prior in priors)
    assert 0 <= ModelEvidence.first(prob) < ACCEPTANCE_BINS <= ModelEvidence.other(prob) < ModelEvidence.NOT_CHOSEN
    assert ModelEvidence.NOT_CHOSEN == ModelEvidence.NUM_CLASSES - 1
    assert priors[:ACCEPTANCE_BINS] == sorted(priors[:ACCEPTANCE_BINS])

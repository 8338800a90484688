"""Intervals on planted data: do they cover the truth as often as they say?"""

from __future__ import annotations

import numpy as np
import pytest

from autodraft.measure.statistics import is_worse, medians, paired_ratio, spread


def planted(random: np.random.Generator, prompts: int, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of very different lengths, with paired noise of 5 %."""
    base = random.lognormal(0.0, 0.6, prompts)
    return base, base / ratio * random.normal(1.0, 0.05, prompts)


def test_interval_covers_the_planted_ratio() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for trial in range(300):
        interval = paired_ratio(*planted(random, 24, 1.4), resamples=400, seed=trial)
        covered += interval.low <= 1.4 <= interval.high
    assert 0.87 <= covered / 300 <= 0.99


def test_pairing_makes_the_interval_narrow() -> None:
    random = np.random.default_rng(2)
    base, other = planted(random, 24, 1.4)
    paired = paired_ratio(base, other)
    shuffled = paired_ratio(base, other[random.permutation(24)])
    assert paired.high - paired.low < 0.3 * (shuffled.high - shuffled.low)


def test_tokens_count() -> None:
    interval = paired_ratio([1.0, 1.0], [1.0, 1.0], baseline_tokens=[10, 10], candidate_tokens=[20, 20])
    assert interval.value == interval.low == interval.high == pytest.approx(2.0)


def test_one_prompt_proves_nothing() -> None:
    interval = paired_ratio([2.0], [1.0])
    assert interval.value == 2.0 and not interval.is_above_one


@pytest.mark.parametrize("times", [([], []), ([1.0], [0.0])])
def test_impossible_timings_are_refused(times: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError):
        paired_ratio(*times)


def test_clear_losers_are_seen_and_equals_are_not() -> None:
    random = np.random.default_rng(3)
    incumbent = random.normal(1.5, 0.2, 16)
    assert is_worse(incumbent[:6] - 0.2, incumbent)
    assert not is_worse(incumbent[:3] - 0.2, incumbent)
    assert not is_worse(incumbent + 0.1, incumbent)
    assert not is_worse(incumbent, incumbent)
    false_alarms = sum(is_worse(incumbent + random.normal(0, 0.1, 16), incumbent) for _ in range(200))
    assert false_alarms < 40


def test_medians_and_spread() -> None:
    assert medians([[1.0, 9.0, 2.0], [4.0]]) == [2.0, 4.0]
    timing = spread([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (timing.median_ms, timing.iqr_ms, timing.count, timing.low_ms) == (3.0, 2.0, 5, 2.0)
    with pytest.raises(ValueError):
        spread([])

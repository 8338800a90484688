"""Reliability of estimated probabilities: does what is estimated at 0.7 come true in 70 of 100 cases?

Knows nothing of drafts or decoders: estimates and what came of them go in, figures come out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

NUM_BINS = 10
_DRAWS = 200


@dataclass(frozen=True)
class ReliabilityBin:
    """The cases whose estimates lie between `low` and `high` (the last bin includes 1).

    Attributes:
        mean_estimate: mean of their estimates.
        observed: share of them that came true.
        ci_low, ci_high: Wilson's 95 % interval of `observed`, as if cases were independent.
    """

    low: float
    high: float
    count: int
    mean_estimate: float
    observed: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True)
class Reliability:
    """How good some estimates were.

    Attributes:
        count: cases.
        mean_estimate, observed: means over all of them.
        calibration_error: expected calibration error: mean distance of `observed` and `mean_estimate` of a case's bin.
        chance_error: what that is on average where every case comes true with its estimate, for this many cases.
        brier: mean squared distance of estimate and outcome.
        base_brier: Brier score of always saying `observed`; estimates below it tell cases apart.
        bins: those that are not empty.
    """

    count: int
    mean_estimate: float
    observed: float
    calibration_error: float
    chance_error: float
    brier: float
    base_brier: float
    bins: tuple[ReliabilityBin, ...]


def reliability(
    estimates: Sequence[float], outcomes: Sequence[bool], *, num_bins: int = NUM_BINS, seed: int = 0
) -> Reliability:
    """Figures of at least one estimate and its outcome, in bins of equal width; `seed` is that of `chance_error`."""
    if not estimates or len(estimates) != len(outcomes):
        raise ValueError(f"{len(estimates)} estimates and {len(outcomes)} outcomes: as many of both, and at least one")
    probs, came_true = np.asarray(estimates, dtype=float), np.asarray(outcomes, dtype=float)
    if not np.all((probs >= 0) & (probs <= 1)):
        raise ValueError("estimates are probabilities")
    bins = np.minimum((probs * num_bins).astype(int), num_bins - 1)
    drawn = np.random.default_rng(seed).random((_DRAWS, len(probs))) < probs
    observed = float(came_true.mean())
    return Reliability(
        count=len(probs),
        mean_estimate=float(probs.mean()),
        observed=observed,
        calibration_error=_calibration_error(probs, came_true, bins),
        chance_error=float(np.mean([_calibration_error(probs, draw, bins) for draw in drawn])),
        brier=float(((probs - came_true) ** 2).mean()),
        base_brier=observed * (1 - observed),
        bins=tuple(_bin(probs, came_true, bins, number, num_bins) for number in np.unique(bins).tolist()),
    )


def wilson(successes: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share."""
    z = float(stats.norm.ppf((1 + confidence) / 2))
    share, weight = successes / count, z * z / count
    middle = share + weight / 2
    half = z * math.sqrt(share * (1 - share) / count + weight / (4 * count))
    return max((middle - half) / (1 + weight), 0.0), min((middle + half) / (1 + weight), 1.0)


def _calibration_error(probs: np.ndarray, came_true: np.ndarray, bins: np.ndarray) -> float:
    """|sum of outcomes - sum of estimates| of each bin, over all cases."""
    return float(np.abs(np.bincount(bins, came_true - probs)).sum() / len(probs))


def _bin(probs: np.ndarray, came_true: np.ndarray, bins: np.ndarray, number: int, num_bins: int) -> ReliabilityBin:
    inside = bins == number
    count, successes = int(inside.sum()), int(came_true[inside].sum())
    low, high = wilson(successes, count)
    edges = number / num_bins, (number + 1) / num_bins
    return ReliabilityBin(*edges, count, float(probs[inside].mean()), successes / count, low, high)

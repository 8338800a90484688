"""Intervals and tests for paired timings.

Knows nothing of decoders or clocks: arrays in, figures out. The unit of resampling is the prompt, because
prompts differ far more than repetitions of one prompt do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A figure with its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def is_above_one(self) -> bool:
        """Whether the whole interval lies above 1: a speedup that can be claimed."""
        return self.low > 1.0


@dataclass(frozen=True)
class Spread:
    """Median, interquartile range and lower quartile of repeated timings, in milliseconds.

    The lower quartile is what differences are taken of: other processes only ever make a step slower.
    """

    median_ms: float
    iqr_ms: float
    count: int
    low_ms: float


def spread(samples_ms: Sequence[float]) -> Spread:
    """Median and quartiles of some samples."""
    if not samples_ms:
        raise ValueError("no samples")
    low, median, high = np.percentile(np.asarray(samples_ms, dtype=float), [25, 50, 75])
    return Spread(float(median), float(high - low), len(samples_ms), float(low))


def medians(repeats: Sequence[Sequence[float]]) -> list[float]:
    """The median of each prompt's repetitions. [prompts][repeats] -> [prompts]"""
    return [float(np.median(list(samples))) for samples in repeats]


def paired_ratio(
    baseline_s: Sequence[float],
    candidate_s: Sequence[float],
    *,
    baseline_tokens: Sequence[int] | None = None,
    candidate_tokens: Sequence[int] | None = None,
    confidence: float = 0.95,
    resamples: int = 4000,
    seed: int = 0,
) -> Interval:
    """Speedup over prompts: the ratio of total times, with a bootstrap interval that resamples prompts in pairs.

    Without token counts both are taken to have produced the same tokens; with them the ratio is that of
    tokens per second. The percentile interval is used on the ratio; a single prompt gives no interval but the
    widest possible one, so that nothing can be claimed from it.
    """
    times = np.asarray([baseline_s, candidate_s], dtype=float)  # [2, prompts]
    if times.ndim != 2 or times.shape[1] == 0 or not np.all(times > 0):
        raise ValueError("paired timings need at least one prompt and positive times")
    tokens = np.ones_like(times)
    if baseline_tokens is not None and candidate_tokens is not None:
        tokens = np.asarray([baseline_tokens, candidate_tokens], dtype=float)
    value = float(_ratio(times, tokens))
    prompts = times.shape[1]
    if prompts == 1:
        return Interval(value, 0.0, float("inf"))
    draws = np.random.default_rng(seed).integers(prompts, size=(resamples, prompts))
    ratios = _ratio(times[:, draws], tokens[:, draws])
    low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))


def _ratio(times: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """(candidate tokens / candidate time) / (baseline tokens / baseline time), summed over the last axis."""
    totals, counts = times.sum(axis=-1), tokens.sum(axis=-1)
    ratio: np.ndarray = (totals[0] / totals[1]) * (counts[1] / np.maximum(counts[0], 1.0))
    return ratio


def is_worse(candidate: Sequence[float], incumbent: Sequence[float], p_threshold: float = 0.1, fewest: int = 4) -> bool:
    """Whether paired scores (higher is better) say that the candidate loses: one-sided Wilcoxon signed-rank test.

    Compares the prompts that both have, so the candidate may be unfinished. Never true before `fewest` prompts.
    """
    shared = min(len(candidate), len(incumbent))
    if shared < fewest:
        return False
    differences = np.asarray(candidate[:shared], dtype=float) - np.asarray(incumbent[:shared], dtype=float)
    if not np.any(differences):
        return False
    # p = 2^-n is the smallest value that n pairs can give.
    return float(stats.wilcoxon(differences, alternative="less").pvalue) < p_threshold

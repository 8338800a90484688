"""Pearson's test of counts against probabilities."""

import numpy as np
from scipy import stats


def chi_square_p(counts, probs):
    """p-value of observed counts; what is expected fewer than 5 times is taken together."""
    draws = sum(counts.values())
    observed, expected, rare = [], [], np.zeros(2)
    for outcome, prob in probs.items():
        cell = np.array([counts[outcome], draws * prob])
        if cell[1] >= 5:
            observed.append(cell[0])
            expected.append(cell[1])
        else:
            rare += cell
    if rare[1] > 0:
        observed.append(rare[0])
        expected.append(rare[1])
    return stats.chisquare(observed, np.array(expected) * (sum(observed) / sum(expected))).pvalue

"""How often drafted candidates are accepted, from the target's and the draft's distributions, by rule of verification.

Knows nothing of models, trees or chains. Rules, each for k candidates (siblings) of one position:

- greedy: the k most probable tokens of the draft; the target samples, and a candidate is accepted if it is that sample;
- coupled: the k best tokens by the noise that the target chooses with (what the decoder does);
- rejection: k tokens drawn from the draft without replacement, accepted in turn against the residual distribution
  (Leviathan et al., arXiv 2211.17192, for one; RRS without replacement, arXiv 2402.14160, for more).

All are exact: what is emitted has the target's distribution. Distributions are float64 rows that add up to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.int64]


def greedy_acceptance(target_probs: Floats, draft_probs: Floats, most_siblings: int) -> Floats:
    """P(accepted) with 1, 2, .. siblings. [n, vocab] -> [n, most_siblings]"""
    best = np.argsort(-draft_probs, axis=1, kind="stable")[:, :most_siblings]
    summed: Floats = np.take_along_axis(target_probs, best, axis=1).cumsum(axis=1)
    return summed


def coupled_agreement(target_probs: Floats, draft_probs: Floats) -> Floats:
    """P(the draft proposes a token | the target chooses that token) under the same Gumbel noise. [n, vocab]

    Both choose i if an exponential race is won by i under both rates; its probability is
    1 / sum_j max(target_j / target_i, draft_j / draft_i), here for all i at once by sorting the ratios target / draft.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(target_probs > 0, target_probs / draft_probs, 0.0)  # [n, vocab]
    order = np.argsort(ratios, axis=1, kind="stable")
    target_above = np.take_along_axis(target_probs, order, axis=1)[:, ::-1].cumsum(axis=1)[:, ::-1]
    draft_below = np.take_along_axis(draft_probs, order, axis=1).cumsum(axis=1)
    draft_below = np.concatenate([np.zeros((len(order), 1)), draft_below[:, :-1]], axis=1)
    sorted_ratios = np.take_along_axis(ratios, order, axis=1)
    with np.errstate(invalid="ignore"):
        rates = target_above + np.where(draft_below > 0, draft_below * sorted_ratios, 0.0)
        agreement = np.where(rates > 0, 1 / rates, 0.0)
    result = np.empty_like(agreement)
    np.put_along_axis(result, order, agreement, axis=1)
    return result


def coupled_acceptance(target_probs: Floats, draft_probs: Floats) -> Floats:
    """P(accepted) of one candidate. [n, vocab] -> [n]"""
    accepted: Floats = (target_probs * coupled_agreement(target_probs, draft_probs)).sum(axis=1)
    return accepted


def coupled_sibling_acceptance(
    target_probs: Floats, draft_probs: Floats, most_siblings: int, samples: int, random: np.random.Generator
) -> Floats:
    """P(accepted) with 1, 2, .. siblings, estimated from `samples` noise vectors. [n, vocab] -> [n, most_siblings]"""
    with np.errstate(divide="ignore"):
        target_scores, draft_scores = np.log(target_probs), np.log(draft_probs)
    accepted = np.zeros((len(target_probs), most_siblings))
    for _ in range(samples):
        noise = random.gumbel(size=target_probs.shape)
        chosen = (target_scores + noise).argmax(axis=1)[:, None]
        perturbed = draft_scores + noise
        better = (perturbed > np.take_along_axis(perturbed, chosen, axis=1)).sum(axis=1)
        accepted += better[:, None] < np.arange(1, most_siblings + 1)
    return accepted / samples


def rejection_acceptance(target_probs: Floats, draft_probs: Floats) -> Floats:
    """P(accepted) of one candidate: 1 - total variation distance. [n, vocab] -> [n]"""
    accepted: Floats = np.minimum(target_probs, draft_probs).sum(axis=1)
    return accepted


def reject_in_turn(
    target_probs: Floats, draft_probs: Floats, candidates: Sequence[int]
) -> tuple[list[float], list[Floats]]:
    """The rule itself, for candidates drawn from the draft one after the other without replacement. [vocab]

    Returns:
        The probability that each candidate is accepted once those before it were rejected, and the distribution that
        is still to be emitted before each candidate and, last, after all of them.
    """
    acceptance, residuals = [], [target_probs]
    for token in candidates:
        acceptance.append(min(1.0, float(target_probs[token] / draft_probs[token])))
        target_probs = _normalised(np.maximum(target_probs - draft_probs, 0.0), target_probs)
        draft_probs = _without(draft_probs[None], np.array([token]))[0]
        residuals.append(target_probs)
    return acceptance, residuals


def rejection_sibling_acceptance(
    target_probs: Floats, draft_probs: Floats, most_siblings: int, samples: int, random: np.random.Generator
) -> Floats:
    """P(accepted) with 1, 2, .. siblings. [n, vocab] -> [n, most_siblings]

    Exact for one; from the second on the rejected candidates before it are drawn, `samples` times.
    """
    accepted = np.zeros((len(target_probs), most_siblings))
    for _ in range(samples):
        target, draft = target_probs, draft_probs
        rejected = np.ones(len(target))
        for sibling in range(most_siblings):
            rejected = rejected * (1 - rejection_acceptance(target, draft))
            accepted[:, sibling] += 1 - rejected
            excess = np.maximum(draft - target, 0.0)  # a rejected candidate is a token that the draft overrates
            target = _normalised(np.maximum(target - draft, 0.0), target)
            draft = _without(draft, _drawn(excess, random))
    return accepted / samples


def _normalised(weights: Floats, otherwise: Floats) -> Floats:
    """Weights over their sum; where nothing is left, which has probability 0, `otherwise`."""
    total = weights.sum(axis=-1, keepdims=True)
    return np.where(total > 0, weights / np.where(total > 0, total, 1.0), otherwise)


def _without(probs: Floats, tokens: Tokens) -> Floats:
    """Distributions given that they do not give `tokens`. [n, vocab], [n]"""
    left = probs.copy()
    np.put_along_axis(left, tokens[:, None], 0.0, axis=1)
    return _normalised(left, probs)


def _drawn(weights: Floats, random: np.random.Generator) -> Tokens:
    """One token per row, drawn in proportion to its weight. [n, vocab] -> [n]"""
    cumulative = weights.cumsum(axis=1)
    points = random.random(len(weights))[:, None] * cumulative[:, -1:]
    tokens: Tokens = np.minimum((cumulative <= points).sum(axis=1), weights.shape[1] - 1)
    return tokens

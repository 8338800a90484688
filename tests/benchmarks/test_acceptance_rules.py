"""Rules of verification on vocabularies small enough to enumerate: all exact, and accepted as often as computed."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autodraft.benchmarks.acceptance_rules import (
    coupled_acceptance,
    coupled_agreement,
    coupled_sibling_acceptance,
    greedy_acceptance,
    reject_in_turn,
    rejection_acceptance,
    rejection_sibling_acceptance,
)

WEIGHTS = st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any)


def _distribution(weights):
    return np.array(weights, dtype=float) / sum(weights)


def _random(rows, vocab_size, seed=0):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, vocab_size)) * 1.5
    other = logits + random.normal(size=(rows, vocab_size))
    return tuple(np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (logits, other))


def _draws_without_replacement(draft, count):
    """(tokens, probability) of every ordered draw."""
    for tokens in itertools.permutations(np.flatnonzero(draft).tolist(), count):
        left, prob = 1.0, 1.0
        for token in tokens:
            prob *= draft[token] / left
            left -= draft[token]
        yield tokens, prob


def _emitted(target, draft, count):
    """(distribution of what is emitted, probability that it was a candidate), by enumeration."""
    emitted, accepted = np.zeros(4), 0.0
    for candidates, prob in _draws_without_replacement(draft, count):
        acceptance, residuals = reject_in_turn(target, draft, candidates)
        for token, accept in zip(candidates, acceptance, strict=True):
            emitted[token] += prob * accept
            accepted += prob * accept
            prob *= 1 - accept
        emitted += prob * residuals[-1]
    return emitted, accepted


@settings(deadline=None)
@given(WEIGHTS, WEIGHTS, st.integers(1, 4))
def test_rejection_without_replacement_emits_the_targets_distribution(target_weights, draft_weights, count):
    target, draft = _distribution(target_weights), _distribution(draft_weights)
    emitted, _ = _emitted(target, draft, min(count, int(np.count_nonzero(draft))))
    assert emitted == pytest.approx(target, abs=1e-12)


def test_acceptance_of_rejection_without_replacement_is_the_enumerated_one():
    target, draft = _random(6, 4)
    found = rejection_sibling_acceptance(target, draft, 3, 4000, np.random.default_rng(1))
    for row in range(6):
        expected = [_emitted(target[row], draft[row], count)[1] for count in (1, 2, 3)]
        assert found[row] == pytest.approx(expected, abs=0.02)
    assert found[:, 0] == pytest.approx(rejection_acceptance(target, draft))


@settings(deadline=None)
@given(WEIGHTS, WEIGHTS)
def test_agreement_of_coupled_choices_is_that_of_two_exponential_races(target_weights, draft_weights):
    target, draft = _distribution(target_weights), _distribution(draft_weights)
    agreement = coupled_agreement(target[None], draft[None])[0]
    for i in range(4):
        both = 0.0
        if target[i] > 0 and draft[i] > 0:
            both = 1 / sum(max(target[j] / target[i], draft[j] / draft[i]) for j in range(4))
        assert target[i] * agreement[i] == pytest.approx(both, abs=1e-12)
    distance = 1 - float(rejection_acceptance(target[None], draft[None])[0])
    accepted = float(coupled_acceptance(target[None], draft[None])[0])
    assert (1 - distance) / (1 + distance) - 1e-12 <= accepted <= 1 - distance + 1e-12


def test_drawn_noise_gives_the_computed_acceptance():
    target, draft = _random(5, 40, seed=3)
    found = coupled_sibling_acceptance(target, draft, 40, 4000, np.random.default_rng(2))
    assert found[:, 0] == pytest.approx(coupled_acceptance(target, draft), abs=0.03)
    assert np.all(np.diff(found, axis=1) >= 0) and found[:, -1] == pytest.approx(1)


def test_greedy_siblings_are_accepted_with_the_targets_probability_of_them():
    target, draft = np.array([[0.5, 0.1, 0.3, 0.1]]), np.array([[0.1, 0.2, 0.6, 0.1]])
    assert greedy_acceptance(target, draft, 3)[0] == pytest.approx([0.3, 0.4, 0.9])


@pytest.mark.parametrize("rule", [coupled_sibling_acceptance, rejection_sibling_acceptance])
def test_a_draft_that_is_the_target_is_always_accepted(rule):
    target, _ = _random(4, 7)
    assert rule(target, target, 2, 5, np.random.default_rng(0)) == pytest.approx(np.ones((4, 2)))
    assert coupled_acceptance(target, target) == pytest.approx(np.ones(4))

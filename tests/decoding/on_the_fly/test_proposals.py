"""Proposals stay within the space, and the surrogate finds what a known score rewards."""

import numpy as np
import pytest

from autodraft.decoding.on_the_fly import SwiftProposals, every_second_block
from autodraft.decoding.on_the_fly.proposals import choices_of, policy_of, upper_confidence


def test_the_first_set_is_swifts():
    skipped = [index for index, shares in enumerate(every_second_block(8).sub_layers) if shares.is_skipped]
    assert skipped == [2, 3, 6, 7, 10, 11]


@pytest.mark.parametrize(("num_blocks", "bits"), [(8, (16, 8, 4)), (8, (16,)), (3, (16, 4)), (2, (16, 8)), (1, (16,))])
def test_first_and_last_block_are_kept_and_bits_are_the_available_ones(num_blocks, bits):
    proposals = SwiftProposals(num_blocks, bits, bayes_interval=2)
    for turn in range(60):
        choices = choices_of(proposals.propose())
        assert len(choices) == 2 * num_blocks + 1
        assert set(choices[2:-3]) <= {0, *bits} and {*choices[:2], *choices[-3:]} <= set(bits)
        proposals.tell(policy_of(choices), float(turn % 7))


def test_the_same_seed_gives_the_same_proposals():
    def run(seed):
        proposals = SwiftProposals(6, (16, 8), 2, seed)
        proposed = []
        for _ in range(20):
            proposed.append(proposals.propose())
            proposals.tell(proposed[-1], proposed[-1].mean_bits)
        return proposed

    assert run(1) == run(1) != run(2)


def test_nothing_is_proposed_twice_in_a_large_space():
    proposals = SwiftProposals(12, (16, 8, 4), 3)
    proposed = []
    for _ in range(80):
        proposed.append(proposals.propose())
        proposals.tell(proposed[-1], -proposed[-1].mean_bits)
    assert len(set(proposed)) == 80


def _known_score(choices):
    """Best where even sub-layers run at 8 bits and odd inner ones are skipped."""
    wanted = [8 if index % 2 == 0 or index in (1, 15) else 0 for index in range(len(choices))]
    return -sum(choice != want for choice, want in zip(choices, wanted, strict=True))


def test_bayesian_proposals_beat_random_ones():
    def best_after(bayes_interval, seed):
        proposals = SwiftProposals(8, (16, 8, 4), bayes_interval, seed)
        scores = []
        for _ in range(80):
            policy = proposals.propose()
            scores.append(_known_score(choices_of(policy)))
            proposals.tell(policy, scores[-1])
        return max(scores)

    wins = [best_after(2, seed) > best_after(10**6, seed) for seed in range(8)]
    assert sum(wins) >= 7


def test_the_surrogate_agrees_with_textbook_gaussian_process_regression():
    random = np.random.default_rng(0)
    seen = [tuple(random.choice((0, 4, 8, 16), 6).tolist()) for _ in range(10)]
    pool = [tuple(random.choice((0, 4, 8, 16), 6).tolist()) for _ in range(5)]
    scores = random.normal(size=10)
    place = {0: 0.0, 4: 0.6, 8: 0.85, 16: 1.0}

    def kernel(a, b):
        return np.exp(-8.0 * np.mean([abs(place[x] - place[y]) for x, y in zip(a, b, strict=True)]))

    def gram(rows, columns):
        return np.array([[kernel(a, b) for b in columns] for a in rows])

    inverse = np.linalg.inv(gram(seen, seen) + 0.1 * np.eye(10))
    cross = gram(seen, pool)
    mean = cross.T @ inverse @ ((scores - scores.mean()) / scores.std())
    deviation = np.sqrt(1.0 - np.einsum("ij,ik,kj->j", cross, inverse, cross))
    np.testing.assert_allclose(upper_confidence(seen, scores.tolist(), pool), mean + 2.5 * deviation, rtol=1e-6)

"""Cycles along a text against decoding token by token in a world whose draft is known."""

from __future__ import annotations

import numpy as np
import pytest

from autodraft.measure.chain_cycles import chain_cycles
from autodraft.measure.formulas import tokens_per_cycle


def decode(
    matches: np.ndarray, confidence: np.ndarray, length: int, threshold: float, wanted: int
) -> tuple[list[int], list[int]]:
    """Drafted and committed tokens of each cycle until `wanted` tokens are there; the text repeats for ever."""
    size, text = len(matches), np.arange(len(matches))
    output: list[int] = []
    drafted_counts, committed_counts = [], []
    while len(output) < wanted:
        draft: list[int] = []
        while len(draft) < length:
            place = (len(output) + len(draft)) % size
            draft.append(int(text[place]) if matches[place] else -1)
            if confidence[place] < threshold:
                break
        before = len(output)
        for token in draft:
            if token != text[len(output) % size]:
                break
            output.append(token)
        output.append(int(text[len(output) % size]))
        drafted_counts.append(len(draft))
        committed_counts.append(len(output) - before)
    return drafted_counts, committed_counts


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("length", "threshold"), [(1, 0.0), (3, 0.0), (8, 0.0), (4, 0.3), (8, 0.6), (5, 1.1)])
def test_cycles_are_those_of_decoding(seed: int, length: int, threshold: float) -> None:
    random = np.random.default_rng(seed)
    size = int(random.integers(3, 80))
    matches, confidence = random.random(size) < random.choice([0.3, 0.7, 0.95]), random.random(size)
    cycles = chain_cycles(matches, confidence, length, threshold)
    drafted, committed = decode(matches, confidence, length, threshold, size)
    assert cycles.drafted.tolist() == drafted and cycles.committed.tolist() == committed


def test_independent_matches_give_the_closed_form() -> None:
    matches = np.random.default_rng(0).random(200_000) < 0.8
    cycles = chain_cycles(matches, np.ones(len(matches)), 4)
    assert cycles.tokens_per_cycle == pytest.approx(tokens_per_cycle(0.8, 4), rel=0.01)
    assert cycles.drafted_per_cycle == 4.0


def test_clustered_misses_cost_more_than_evenly_spaced_windows_show() -> None:
    """A miss follows a miss: cycles begin just behind misses, so they begin where the next one is likely."""
    random, matches = np.random.default_rng(1), [True]
    for draw in random.random(50_000):
        matches.append(bool(draw < (0.95 if matches[-1] else 0.3)))
    text = np.array(matches[1:])
    runs = np.cumprod(text.reshape(-1, 4), axis=1).sum(axis=1)
    assert chain_cycles(text, np.ones(len(text)), 4).tokens_per_cycle < 0.95 * (1 + runs.mean())

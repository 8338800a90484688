"""Where candidates come from in SWIFT's mode: seeds, random sets and Bayesian ones (arXiv 2410.06916).

Knows nothing of models or time: a candidate is a tuple of bits, one per sub-layer and one for the output head, and
comes back with a score. SWIFT searches the set of skipped sub-layers at a fixed ratio; here the ratio and the bits of
what is kept are searched as well. The surrogate is a Gaussian process over these tuples in a few lines of NumPy: a
proposal has to cost less than the forward pass that judges it, which a general optimiser's does not.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, islice, repeat
from typing import Protocol

import numpy as np

from autodraft.decoding.drafters import DraftContext
from autodraft.policy import FULL_BITS, ChannelShares, DraftPolicy

_MOST_SKIPPED = 0.8
_POOL = 64
_TRIES = 8
_REMEMBERED = 64
"""Few enough for one thread: threaded linear algebra leaves a thread spinning for many target steps, on our cores."""

_KAPPA = 2.5  # SWIFT's exploration weight
_NOISE = 0.1  # variance of a score from one window, where scores have variance 1
_SHARPNESS = 8.0
_PLACES = {0: 0.0, 4: 0.6, 8: 0.85, FULL_BITS: 1.0}
"""Bit-widths on a line, for the surrogate: 16 and 8 bits are nearly the same, 4 and 0 not."""

Choices = tuple[int, ...]
"""Bits of attention 0, MLP 0, attention 1, ..., and of the output head."""


class Proposals(Protocol):
    """A source of candidate policies, asked for one at a time."""

    def rows_ahead(self, cycle: int) -> int:
        """Rows of forward passes that `ask` would run now; to tell its time beforehand."""
        ...

    def ask(self, context: DraftContext, cycle: int) -> DraftPolicy | None:
        """The next candidate, or None for now; may write cache slots behind the committed ones.

        `cycle` counts the cycles of all sequences.
        """
        ...

    def tell(self, policy: DraftPolicy, score: float) -> None:
        """How a policy did: the logarithm of its predicted speedup."""
        ...

    def restart(self) -> None:
        """The text has changed: what was told no longer counts."""
        ...


def every_second_block(num_blocks: int, bits: int = FULL_BITS) -> DraftPolicy:
    """SWIFT's first set: blocks 1, 3, 5, ... skipped, the last one kept."""
    skipped = {sub for block in range(1, num_blocks - 1, 2) for sub in (2 * block, 2 * block + 1)}
    return DraftPolicy.uniform(num_blocks, bits).replace({sub: ChannelShares.all_at(0) for sub in skipped})


def first_draft(num_blocks: int, bits: Sequence[int]) -> DraftPolicy:
    """Where to start: nothing skipped at the lowest bit-width, for that hardly ever slows decoding down; SWIFT's first
    set where there is only full precision.
    """
    lowest = min(bits)
    return DraftPolicy.uniform(num_blocks, lowest) if lowest < FULL_BITS else every_second_block(num_blocks)


def policy_of(choices: Choices) -> DraftPolicy:
    """The policy with all channels of each sub-layer at one bit-width."""
    return DraftPolicy.from_sub_layers(map(ChannelShares.all_at, choices[:-1]), choices[-1])


def choices_of(policy: DraftPolicy) -> Choices:
    """The nearest choices: a sub-layer of mixed bits counts as its highest."""
    return (*(next((b for b in (16, 8, 4) if s.units_at(b)), 0) for s in policy.sub_layers), policy.head_bits)


class SwiftProposals:
    """Seeds first, then random and Bayesian proposals in turn; old ones again only where nothing new comes to mind.

    Args:
        num_blocks: of the target; the first and the last are never skipped.
        bits: bit-widths to choose from.
        bayes_interval: every so many proposals the surrogate makes one.
        seed: of everything random.
    """

    def __init__(self, num_blocks: int, bits: Sequence[int], bayes_interval: int, seed: int = 0) -> None:
        self._num_blocks, self._bayes_interval = num_blocks, bayes_interval
        self._bits = tuple(sorted(bits, reverse=True))
        self._random = random.Random(seed)
        self._inner = range(2, 2 * num_blocks - 2)
        self.restart()

    def rows_ahead(self, cycle: int) -> int:
        """None: proposing runs no model."""
        return 0

    def restart(self) -> None:
        self._seeds = deque(self._first_candidates())
        self._asked: set[Choices] = set()
        self._told: deque[tuple[Choices, float]] = deque(maxlen=_REMEMBERED)
        self._turn = 0

    def ask(self, context: DraftContext, cycle: int) -> DraftPolicy:
        return self.propose()

    def propose(self) -> DraftPolicy:
        """The next candidate."""
        candidates = list(islice(self._candidates(), _POOL))
        new = [candidate for candidate in candidates if candidate not in self._asked]
        if not new:
            self._asked.clear()
        candidate = (new or candidates)[0]
        self._asked.add(candidate)
        return policy_of(candidate)

    def tell(self, policy: DraftPolicy, score: float) -> None:
        self._told.append((choices_of(policy), score))

    def _first_candidates(self) -> list[Choices]:
        """Nothing skipped at each lower bit-width, and every second block at each of them."""
        low = self._bits[1:]
        whole = [DraftPolicy.uniform(self._num_blocks, bits) for bits in low]
        return [choices_of(p) for p in (*whole, *(every_second_block(self._num_blocks, bits) for bits in low))]

    def _candidates(self) -> Iterator[Choices]:
        """What to propose now, best first; more than one, since some will have been asked before."""
        if self._seeds:
            return chain([self._seeds.popleft()], self._random_ones())
        self._turn += 1
        if not self._told or self._turn % self._bayes_interval:
            return islice(self._random_ones(), _TRIES)
        pool = [*islice(self._mutants(), _POOL // 2), *islice(self._random_ones(), _POOL // 2)]
        gains = upper_confidence([c for c, _ in self._told], [score for _, score in self._told], pool)
        return (pool[index] for index in np.argsort(-gains, kind="stable"))

    def _random_ones(self) -> Iterator[Choices]:
        return (self._random_one() for _ in repeat(None))

    def _random_one(self) -> Choices:
        """A random share of the inner sub-layers skipped, the rest at one bit-width."""
        choices = [self._random.choice(self._bits)] * (2 * self._num_blocks) + [self._random.choice(self._bits)]
        num_skipped = self._random.randint(0, round(_MOST_SKIPPED * len(self._inner)))
        for index in self._random.sample(self._inner, num_skipped):
            choices[index] = 0
        return tuple(choices)

    def _mutants(self) -> Iterator[Choices]:
        """The best candidates so far with one to three inner sub-layers, or all bits, or the head changed."""
        best = sorted(self._told, key=lambda told: -told[1])[:4]
        return (self._mutant(self._random.choice(best)[0]) for _ in repeat(None))

    def _mutant(self, parent: Choices) -> Choices:
        choices, kind = list(parent), self._random.random()
        if kind < 0.15:
            choices[-1] = self._random.choice(self._bits)
        elif kind < 0.3 or not self._inner:
            bits = self._random.choice(self._bits)
            choices = [bits if old else 0 for old in parent[:-1]] + [parent[-1]]
        else:
            for index in self._random.sample(self._inner, min(len(self._inner), self._random.randint(1, 3))):
                choices[index] = self._random.choice((0, *self._bits))
        return tuple(choices)


def upper_confidence(seen: Sequence[Choices], scores: Sequence[float], pool: Sequence[Choices]) -> np.ndarray:
    """Mean + kappa * deviation of a Gaussian process at each candidate of `pool`, in standardised scores. [pool]

    The kernel is exp(-sharpness * distance), the distance being the mean distance of two candidates' bits.
    """
    known, asked = _placed(seen), _placed(pool)
    y = np.asarray(scores)
    y = (y - y.mean()) / (y.std() + 1e-9)
    factor = np.linalg.cholesky(_kernel(known, known) + _NOISE * np.eye(len(known)))
    solved = np.linalg.solve(factor, np.column_stack([_kernel(known, asked), y]))
    cross, white = solved[:, :-1], solved[:, -1]
    upper: np.ndarray = cross.T @ white + _KAPPA * np.sqrt(np.maximum(1.0 - (cross**2).sum(axis=0), 0.0))
    return upper


def _placed(candidates: Sequence[Choices]) -> np.ndarray:
    """[candidates, choices]"""
    return np.array([[_PLACES[bits] for bits in candidate] for candidate in candidates])


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    kernel: np.ndarray = np.exp(-_SHARPNESS * np.abs(a[:, None] - b[None]).mean(axis=-1))
    return kernel

"""Matchness (SWIFT, arXiv 2410.06916): teacher-forced agreement of a draft with the tokens just generated.

Knows nothing of time or of where candidates come from. A candidate runs once over the last positions of the output. Its
rows see the target's committed keys up to the root of their stretch, and the candidate's own keys from there on, in
scratch slots behind what is committed: nothing is cloned, nothing committed is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autodraft.runtime import ChoiceNoise, DraftPlan, KVCache, Rows, TransformerRuntime


@dataclass(frozen=True)
class Window:
    """The positions that candidates are judged on: roots `first .. last - 1`, each with the token that followed it.

    Equal windows of one sequence are the same test, so scores on them can be compared.
    """

    sequence: int
    first: int
    last: int

    @classmethod
    def recent(cls, sequence: int, tokens: Sequence[int], prompt_length: int, length: int) -> Window:
        """The last `length` generated tokens of a sequence, or all of them if there are fewer."""
        last = len(tokens) - 1
        return cls(sequence, max(prompt_length - 1, last - length), last)

    def __len__(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class Matchness:
    """How a draft's choices compare with the tokens of a window.

    Attributes:
        matches: whether the draft chooses the token that followed. bool [n]
        confidence: the draft's probability of its own choice. [n]
    """

    matches: np.ndarray
    confidence: np.ndarray

    @property
    def top1_agreement(self) -> float:
        """SWIFT's matchness score: share of positions at which the draft chooses the token that followed."""
        return float(self.matches.mean())

    def chain(self, num_draft_tokens: int, stop_threshold: float) -> tuple[float, float]:
        """Expected (tokens per cycle, drafted tokens) of chains over this window, started at each position in turn.

        Such a chain drafts until a token of probability below the threshold or `num_draft_tokens` of them. Beyond its
        end the window goes on with its beginning, so that long chains are not cut where the evidence ends.
        """
        taus, drafted = self.chains(num_draft_tokens, stop_threshold)
        return float(taus[-1]), float(drafted[-1])

    def chains(self, longest: int, stop_threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """`chain` for 1 .. `longest` drafted tokens at once. [longest], [longest]"""
        n = len(self.matches)
        ahead = (np.arange(n)[:, None] + np.arange(longest)) % n  # [start, depth]
        sure = np.cumprod(self.confidence[ahead] >= stop_threshold, axis=1)
        # A position is drafted if all before it were confident, accepted if it and all before it match as well.
        reached = np.hstack([np.ones((n, 1)), sure[:, :-1]])
        accepted = reached * np.cumprod(self.matches[ahead], axis=1)
        taus: np.ndarray = 1.0 + accepted.mean(axis=0).cumsum()
        drafted: np.ndarray = reached.mean(axis=0).cumsum()
        return taus, drafted


def window_rows(tokens: Sequence[int], window: Window, stretch: int, scratch: int) -> Rows:
    """The rows of a window in stretches of `stretch` positions, written to the slots from `scratch` on."""
    n = len(window)
    positions = range(window.first, window.last)
    roots = [window.first + i // stretch * stretch for i in range(n)]
    return Rows(
        tokens[window.first : window.last],
        positions,
        range(scratch, scratch + n),
        [0] * n,
        roots,
        [range(scratch + i // stretch * stretch, scratch + i + 1) for i in range(n)],
    )


def measure_matchness(
    runtime: TransformerRuntime,
    plan: DraftPlan,
    cache: KVCache,
    tokens: Sequence[int],
    window: Window,
    stretch: int,
    noise: ChoiceNoise | None = None,
) -> Matchness:
    """Run a draft over `window` once; needs room for `len(window)` tokens behind the committed ones.

    `noise`: that by which the window's tokens were chosen, row by row, where they were sampled.
    """
    rows = window_rows(tokens, window, stretch, cache.length)
    chosen = runtime.review(plan, cache, rows, noise=noise, depths=range(len(window)))
    return Matchness(
        np.array([candidates.tokens[0] for candidates in chosen])
        == np.asarray(tokens[window.first + 1 : window.last + 1]),
        np.array([candidates.probs[0] for candidates in chosen]),
    )

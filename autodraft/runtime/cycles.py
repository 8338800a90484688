"""Cycles that a backend runs by itself: values that every backend understands.

Where what to draft does not depend on what was accepted before, nobody needs to be asked between two cycles. A host
that is takes as long as a small model's step, and pushes its weights out of the processor's nearest caches.

Knows nothing of schedulers or of why something is drafted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from autodraft.runtime.choosing import NEVER, ChainStop
from autodraft.runtime.plan import DraftPlan


@dataclass(frozen=True, slots=True)
class Lookup:
    """Prompt lookup: what followed the last tokens where they stood before, as `decoding.sources` has it.

    Attributes:
        num_tokens: copied at most.
        max_ngram, min_ngram: longest and shortest match.
    """

    num_tokens: int
    max_ngram: int
    min_ngram: int


@dataclass(frozen=True, slots=True)
class StandingDraft:
    """What is drafted in each of the coming cycles: what is looked up, else a chain of a draft's own; either or both.

    Attributes:
        lookup: asked first.
        plan: the draft.
        longest: of its chains.
        stop: when they end earlier, `last_tokens` left out.
    """

    lookup: Lookup | None = None
    plan: DraftPlan | None = None
    longest: int = 0
    stop: ChainStop = NEVER

    @property
    def most_drafted(self) -> int:
        """Tokens in a cycle."""
        return max(self.longest, self.lookup.num_tokens if self.lookup else 0)


class CycleBounds(NamedTuple):
    """After which no further cycle begins.

    Attributes:
        room: tokens that may be committed at all.
        tokens, cycles, seconds: so many.
        token_s: what a token of plain decoding takes.
        lost_s: how much longer than plain decoding they may have taken together.
    """

    room: int
    tokens: int
    cycles: int
    seconds: float
    token_s: float
    lost_s: float


class Cycle(NamedTuple):
    """What a cycle did.

    Attributes:
        looked_up: whether what it drafted was looked up.
        drafted: tokens drafted.
        committed: tokens committed, the bonus token included.
        draft_s, verify_s: its two parts, which make up its time.
    """

    looked_up: bool
    drafted: int
    committed: int
    draft_s: float
    verify_s: float

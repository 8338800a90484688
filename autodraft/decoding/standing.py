"""Which cascades draft the same way whatever was accepted, and sums over the cycles that they run without being asked.

Knows nothing of how cycles are run or judged.
"""

from __future__ import annotations

from collections.abc import Sequence

from autodraft.cascade import Cascade, Chain, PromptLookup, SelfDraft
from autodraft.runtime import ChainStop, DraftPlan, Lookup, RoutedPlan, StandingDraft


def standing_draft(
    cascade: Cascade, plans: Sequence[DraftPlan | RoutedPlan | None]
) -> tuple[StandingDraft, tuple[int, int]] | None:
    """What a cascade drafts in every cycle, and which draft is looked up and which one runs; None where it depends."""
    if not isinstance(cascade.scheduler, Chain):
        return None
    lookup, numbers = None, (0, 0)
    for number, (draft, plan) in enumerate(zip(cascade.drafts, plans, strict=True)):
        match draft:
            case SelfDraft():
                assert isinstance(plan, DraftPlan)
                stop = ChainStop(draft.stop_threshold)
                return StandingDraft(lookup, plan, draft.num_draft_tokens, stop), (numbers[0], number)
            case PromptLookup() if lookup is None:
                lookup, numbers = Lookup(draft.num_draft_tokens, draft.max_ngram, draft.min_ngram), (number, number)
            case _:
                return None
    return None if lookup is None else (StandingDraft(lookup), numbers)


class AlikeSeconds:
    """Seconds of cycles that were alike in some number."""

    def __init__(self) -> None:
        self.total = 0.0
        self._sums: dict[int, tuple[int, float]] = {}

    def add(self, number: int, seconds: float) -> None:
        count, before = self._sums.get(number, (0, 0.0))
        self._sums[number] = count + 1, before + seconds
        self.total += seconds

    @property
    def means(self) -> list[tuple[int, int, float]]:
        """(the number, how many there were, their mean)"""
        return [(number, count, seconds / count) for number, (count, seconds) in self._sums.items()]

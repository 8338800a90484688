"""`Schedule`: which drafts of a world are in the cascade, with which settings, and which scheduler grows the trees.

Knows nothing of how a schedule fares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autodraft.cascade import Chain, DyTC, Horizontal, Scheduler, StaticTree, Vertical, VerticalHorizontal
from autodraft.decoding.acceptance import FreeEvidence
from autodraft.decoding.workbench import DraftLevel
from autodraft.errors import InputError
from autodraft.simulation.worlds import FreeDraft, ModelDraft, World

SCHEDULERS: Mapping[str, Scheduler] = {
    scheduler.kind: scheduler
    for scheduler in (Chain(), StaticTree(), Vertical(), Horizontal(), VerticalHorizontal(), DyTC())
}
AUTOREGRESSIVE = "autoregressive"


@dataclass(frozen=True, slots=True)
class Entry:
    """One draft of a cascade: its number in the world, and settings as a profile would have them."""

    draft: int
    num_draft_tokens: int
    stop_threshold: float = 0.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """A scheduler and the drafts that it is given; without drafts it decodes autoregressively."""

    scheduler: Scheduler
    entries: tuple[Entry, ...]

    def levels(self, world: World) -> list[DraftLevel]:
        """The drafts as schedulers see them; acceptance as a profile's priors have it: the mean, and no more."""
        return [_level(world, entry) for entry in self.entries]

    def describe(self, world: World) -> str:
        """`chain: int4 x5`."""
        if not self.entries:
            return AUTOREGRESSIVE
        drafts = world.all_drafts
        parts = [
            f"{drafts[entry.draft].name} x{entry.num_draft_tokens}"
            + (f" until {entry.stop_threshold:g}" if entry.stop_threshold else "")
            for entry in self.entries
        ]
        tree = self.scheduler
        shape = f" {tree.branching}/{tree.max_nodes}" if isinstance(tree, StaticTree) else ""
        return f"{tree.kind}{shape}: {', '.join(parts)}"


def default_schedule(world: World, scheduler: str) -> Schedule:
    """All drafts of a world, with the world's own settings, under a scheduler of this name."""
    if scheduler == AUTOREGRESSIVE:
        return Schedule(Chain(), ())
    if scheduler not in SCHEDULERS:
        names = ", ".join((*SCHEDULERS, AUTOREGRESSIVE))
        raise InputError(f"no scheduler {scheduler!r}; there are {names}")
    entries = [
        Entry(number, draft.num_draft_tokens, draft.stop_threshold if isinstance(draft, ModelDraft) else 0.0)
        for number, draft in enumerate(world.all_drafts)
    ]
    return Schedule(SCHEDULERS[scheduler], tuple(entries))


def _level(world: World, entry: Entry) -> DraftLevel:
    draft, alpha = world.all_drafts[entry.draft], world.acceptance(entry.draft)
    if isinstance(draft, ModelDraft):
        return DraftLevel(True, entry.num_draft_tokens, entry.stop_threshold, alpha)
    priors = FreeEvidence.priors(_class_priors(draft, alpha))
    return DraftLevel(False, entry.num_draft_tokens, class_priors=tuple(priors))


def _class_priors(draft: FreeDraft, alpha: float) -> tuple[float, ...]:
    """Of every match length and rank: first choices are right at the mean rate, others in their share of the rest."""
    priors: list[float] = []
    left, share = 1.0, alpha
    for _ in range(draft.num_choices):
        priors += [left * share] * (draft.longest_match + 1)
        left, share = left * (1 - share), draft.second
    return tuple(priors)

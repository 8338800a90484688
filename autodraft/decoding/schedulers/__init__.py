"""Schedulers: which draft proposes what, and how a cycle's tree grows."""

from __future__ import annotations

from collections.abc import Sequence

from autodraft.cascade import Chain, DyTC, Horizontal, Scheduler, StaticTree, Vertical, VerticalHorizontal
from autodraft.decoding.schedulers.cs_drafting import CSDraftingScheduler
from autodraft.decoding.schedulers.dytc import DyTCScheduler
from autodraft.decoding.schedulers.guard import GuardedScheduler
from autodraft.decoding.schedulers.protocol import TreeScheduler
from autodraft.decoding.schedulers.static import ChainScheduler, StaticTreeScheduler
from autodraft.decoding.workbench import DraftLevel

__all__ = ["TreeScheduler", "make_scheduler"]


def make_scheduler(
    settings: Scheduler, levels: Sequence[DraftLevel], *, guarded: bool = True, rate: float | None = None
) -> TreeScheduler:
    """The scheduler that a cascade describes, for these drafts.

    Args:
        settings: the description.
        levels: the drafts.
        guarded: whether it drafts nothing while drafting does not pay.
        rate: committed tokens per target step to expect before anything was measured.
    """
    match settings:
        case DyTC():
            scheduler: TreeScheduler = DyTCScheduler(settings, levels, rate)
        case Chain():
            scheduler = ChainScheduler()
        case StaticTree():
            scheduler = StaticTreeScheduler(settings)
        case Vertical():
            scheduler = CSDraftingScheduler(vertical=True, horizontal=False)
        case Horizontal():
            scheduler = CSDraftingScheduler(vertical=False, horizontal=True)
        case VerticalHorizontal():
            scheduler = CSDraftingScheduler(vertical=True, horizontal=True)
    return GuardedScheduler(scheduler) if guarded else scheduler

"""`Workbench`: what a scheduler may do in a cycle. Schedulers see this and nothing else.

Knows nothing of how a draft works: the decoder implements it over a runtime and its cache, the simulator over synthetic
drafts and a virtual clock, and the same scheduler runs on both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from autodraft.decoding.growth import Growth
from autodraft.decoding.step_times import StepTimes
from autodraft.runtime.choosing import NEVER, Candidates, ChainStop


@dataclass(frozen=True, slots=True)
class DraftLevel:
    """One draft of the cascade as a scheduler sees it.

    Attributes:
        is_model: whether it runs forward passes (a self-draft); else it is free.
        num_draft_tokens: its longest draft by the cascade's settings.
        stop_threshold: by the cascade's settings; models only.
        alpha: acceptance to expect of a model before anything was seen.
        class_priors: the same for each class of evidence that a free draft's tokens come with (`FreeEvidence`).
    """

    is_model: bool
    num_draft_tokens: int
    stop_threshold: float = 0.0
    alpha: float = 0.7
    class_priors: tuple[float, ...] = ()


class Workbench(Protocol):
    """One cycle's tree and the drafts that can make it grow; nothing is added to the tree but by the scheduler.

    Attributes:
        levels: the drafts, in the cascade's order.
        growth: the tree of this cycle.
        max_depth: deepest node that may be kept; at least 1.
        max_nodes: kept nodes at most (root not counted); at least `max_depth`.
        times: measured time of every step, kept up to date by the workbench.
    """

    levels: Sequence[DraftLevel]
    growth: Growth
    max_depth: int
    max_nodes: int
    times: StepTimes

    def continuations(self, draft: int, node: int, most: int) -> Sequence[tuple[int, int]]:
        """What a free draft expects after `node`: (token, class of evidence), best first, at most `most`."""
        ...

    def review(self, draft: int, nodes: Sequence[int], top: int) -> list[Candidates]:
        """Run a model over `nodes` (and those of their ancestors that it has not run); its best tokens after each."""
        ...

    def chain(self, draft: int, node: int, num_tokens: int, top: int, stop: ChainStop = NEVER) -> list[Candidates]:
        """Let a model go on after `node` by its own best tokens; its best tokens at each position, at least one."""
        ...

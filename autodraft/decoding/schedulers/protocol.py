"""The `TreeScheduler` protocol: what decides how a cycle's tree grows. Knows nothing of models or caches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from autodraft.decoding.workbench import Workbench


class TreeScheduler(Protocol):
    """Grows a tree with the drafts of a workbench.

    In each cycle `grow` is called once (unless no more than one token is left to emit) and then `observe`. A scheduler
    keeps what it has learnt from one sequence to the next and belongs to one drafter.
    One that is never idle inherits that.

    Attributes:
        idle_cycles: coming cycles in which it will add nothing, whatever the text is. They need not take place: the
            decoder may report them by `pass_idle` instead.
    """

    @property
    def idle_cycles(self) -> int:
        return 0

    def grow(self, bench: Workbench) -> None:
        """Add nodes to `bench.growth`; those that are `kept` in the end are verified.

        At most `bench.max_nodes` of them, none deeper than `bench.max_depth`, each with a kept parent. None at all
        means that the target decodes one token.
        """
        ...

    def observe(self, bench: Workbench, accepted: Sequence[int], steps: float) -> None:
        """The target accepted these nodes of the tree (root included); the cycle took `steps` target steps in all."""
        ...

    def acceptance_by_class(self, draft: int) -> Sequence[float]:
        """Of a free draft, acceptance by class of evidence as it has been learnt; nothing where that is not done."""
        return ()

    def pass_idle(self, cycles: int, steps: float) -> None:
        """So many of the idle cycles, `idle_cycles` at most, are over and took `steps` target steps."""
        return None

    @property
    def credit(self) -> float:
        """Target steps that coming cycles may lose against plain decoding before it would add nothing."""
        return math.inf

    def pass_cycles(self, cycles: int, tokens: int, steps: float, *, drafted: bool) -> None:
        """So many cycles did what it would have done without asking it; they committed `tokens` and took `steps`.

        `drafted`: whether something was drafted, in each of them or in none.
        """
        return None

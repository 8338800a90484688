"""`GuardedScheduler`: speculate only while it pays.

Knows nothing of what it guards. Drafts that are useless on this text make decoding slower than no drafts at all: a
fixed plan by all that it drafts in vain, and any scheduler by what a cycle costs beyond a token of plain decoding, even
if it drafts nothing. Tokens per time are watched, and where they fall below plain decoding's, drafting is suspended
until what it has lost is a small share of the time, and tried again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from autodraft.decoding.schedulers.protocol import TreeScheduler
from autodraft.decoding.stake import Stake
from autodraft.decoding.workbench import Workbench

_SHORTEST_PAUSE, _LONGEST_PAUSE = 16, 512
_MOST_LOST = 0.01
"""Share of the time that may be lost against plain decoding."""
_MOST_AT_ONCE = 6.0
"""Target steps that may be lost before drafting is suspended, in however few cycles: a pause must make up for them."""


class _Ledger:
    """Tokens and target steps of some cycles, the latest weighing most.

    Args:
        memory: weight of a cycle in relation to the one after it.
        least: cycles before it says anything.
        most_lost: share of the time that may be lost against plain decoding.
    """

    def __init__(self, memory: float, least: int, most_lost: float) -> None:
        self._memory, self._least, self._most_lost = memory, least, most_lost
        self.clear()

    def clear(self) -> None:
        self._tokens = self._steps = 0.0
        self._cycles = 0

    def add(self, tokens: int, steps: float, cycles: int = 1) -> None:
        kept = self._memory**cycles
        self._tokens, self._steps = kept * self._tokens + tokens, kept * self._steps + steps
        self._cycles += cycles

    @property
    def loses(self) -> bool:
        return self._cycles >= self._least and self._tokens < (1 - self._most_lost) * self._steps


class GuardedScheduler(TreeScheduler):
    """Runs a scheduler, or nothing while that is faster."""

    def __init__(self, scheduler: TreeScheduler) -> None:
        self._scheduler = scheduler
        # That free drafts had no match for a while says nothing of their worth where looking costs next to nothing.
        self._drafting, self._overall = _Ledger(0.85, 6, 0.0), _Ledger(0.97, 32, _MOST_LOST)
        self._stake = Stake(_MOST_LOST)
        self._paused = 0

    @property
    def idle_cycles(self) -> int:
        return self._paused

    def pass_idle(self, cycles: int, steps: float) -> None:
        self._paused -= cycles
        self._stake.account(cycles, steps)

    def acceptance_by_class(self, draft: int) -> Sequence[float]:
        return self._scheduler.acceptance_by_class(draft)

    def grow(self, bench: Workbench) -> None:
        if not self._paused:
            self._scheduler.grow(bench)

    def observe(self, bench: Workbench, accepted: Sequence[int], steps: float) -> None:
        if self._paused:
            self.pass_idle(1, 1.0)
            return
        self._scheduler.observe(bench, accepted, steps)
        if len(bench.growth) > 1:
            self._drafting.add(len(accepted), steps)
        self._account(1, len(accepted), steps)

    @property
    def credit(self) -> float:
        return max(_MOST_AT_ONCE + self._stake.steps, 0.0)

    def pass_cycles(self, cycles: int, tokens: int, steps: float, *, drafted: bool) -> None:
        self._scheduler.pass_cycles(cycles, tokens, steps, drafted=drafted)
        if drafted:
            self._drafting.add(tokens, steps, cycles)
        self._account(cycles, tokens, steps)

    def _account(self, cycles: int, tokens: int, steps: float) -> None:
        """Of cycles in which it was free to draft; suspends drafting where they have lost too much."""
        self._overall.add(tokens, steps, cycles)
        self._stake.account(tokens, steps)
        owed = max(-self._stake.steps, 0.0)
        if self._drafting.loses or self._overall.loses or owed > _MOST_AT_ONCE:
            self._paused = min(max(math.ceil(owed / _MOST_LOST), _SHORTEST_PAUSE), _LONGEST_PAUSE)
            self._drafting.clear()
            self._overall.clear()

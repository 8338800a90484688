"""`GuardedScheduler`: speculate only while it pays.

Knows nothing of what it guards. A fixed plan whose drafts are useless on this text makes decoding slower than no
drafts at all; here tokens per time are watched, and where they fall below plain decoding's, the plan is suspended,
longer each time, and tried again.
"""

from __future__ import annotations

from collections.abc import Sequence

from autodraft.decoding.schedulers.protocol import TreeScheduler
from autodraft.decoding.workbench import Workbench

_WEIGHT = 0.85
_TRIAL_CYCLES = 6
_SHORTEST_PAUSE, _LONGEST_PAUSE = 16, 512


class GuardedScheduler:
    """Runs a scheduler, or nothing while that is faster."""

    def __init__(self, scheduler: TreeScheduler) -> None:
        self._scheduler = scheduler
        self._tokens, self._steps = 0.0, 0.0
        self._cycles = 0
        self._paused = 0
        self._pause = _SHORTEST_PAUSE

    def grow(self, bench: Workbench) -> None:
        if not self._paused:
            self._scheduler.grow(bench)

    def observe(self, bench: Workbench, accepted: Sequence[int], steps: float) -> None:
        if self._paused:
            self._paused -= 1
            return
        self._scheduler.observe(bench, accepted, steps)
        if len(bench.growth) == 1:  # nothing was drafted: that free drafts had no match says nothing of their worth
            return
        self._tokens = _WEIGHT * self._tokens + len(accepted)
        self._steps = _WEIGHT * self._steps + steps
        self._cycles += 1
        if self._cycles < _TRIAL_CYCLES:
            return
        if self._tokens < self._steps:
            self._paused = self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._tokens = self._steps = 0.0
            self._cycles = 0
        elif self._tokens > 1.1 * self._steps:
            self._pause = _SHORTEST_PAUSE

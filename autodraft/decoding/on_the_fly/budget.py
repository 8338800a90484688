"""`TimeBudget`: how much of the decoding time may go into looking for better drafts.

Knows nothing of what the time is spent on. Credit accrues at a share of the decoding time and every step pays for
itself, so that what was spent never exceeds what was credited by more than one step took longer than expected.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class TimeBudget:
    """A credit in seconds.

    Args:
        share: credit per second of decoding; may be changed at any time.
        clock: seconds; the wall clock unless a test brings its own.

    Attributes:
        elapsed_s: decoding time so far, time spent from this budget included.
        spent_s: the part of it that was spent.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.share = share
        self.elapsed_s = 0.0
        self.spent_s = 0.0
        self._credit_s = 0.0
        self._clock = clock
        self._last: float | None = clock()

    def pause(self) -> None:
        """What passes until the next call is not decoding."""
        self._last = None

    def tick(self) -> None:
        """What passed since the last call was decoding."""
        now = self._clock()
        passed = 0.0 if self._last is None else now - self._last
        self._last = now
        self.elapsed_s += passed
        self._credit_s += self.share * passed

    def allows(self, expected_s: float) -> bool:
        """Whether a step that takes this long is paid for."""
        return self.share > 0 and self._credit_s >= expected_s

    @contextmanager
    def spending(self) -> Iterator[None]:
        """What passes inside is decoding time that this budget pays for."""
        self.tick()
        before = self.elapsed_s
        try:
            yield
        finally:
            self.tick()
            self.spent_s += self.elapsed_s - before
            self._credit_s -= self.elapsed_s - before

    @property
    def spent_share(self) -> float:
        """Share of the decoding time that was spent."""
        return self.spent_s / self.elapsed_s if self.elapsed_s else 0.0

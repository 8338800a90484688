"""`LiveFigures`: how the current draft does in real cycles, and whether it should go on drafting.

Knows nothing of policies or windows. A score is a prediction; this is what happened, with the distant past forgotten.
"""

from __future__ import annotations

_DECAY = 0.95
_LEAST_CYCLES = 8
_FIRST_PAUSE = 32
_LONGEST_PAUSE = 1024


class LiveFigures:
    """Decayed counts of one draft, and the pauses it is put to when it slows decoding down.

    After a pause it is tried again for a few cycles, since the text may have changed; each pause in a row is twice as
    long as the one before.
    """

    def __init__(self) -> None:
        self._pause = _FIRST_PAUSE
        self._paused_until = 0
        self._owed_a_try = False
        self.forget()

    def forget(self) -> None:
        """Another draft, or another try of the same one."""
        self._cycles = 0
        self._accepted = self._tested = self._tokens = self._seconds = 0.0

    def replaced(self) -> None:
        """Another draft, which is owed a try of its own."""
        self.forget()
        self._pause, self._paused_until, self._owed_a_try = _FIRST_PAUSE, 0, False

    def note(self, drafted: int, accepted: int, seconds: float) -> None:
        """One cycle: tokens drafted and accepted, time of drafting and verification."""
        self._cycles += 1
        # The first rejection ends a path: what was drafted behind it was not tested.
        figures = (accepted, min(accepted + 1, drafted), accepted + 1, seconds)
        before = (self._accepted, self._tested, self._tokens, self._seconds)
        self._accepted, self._tested, self._tokens, self._seconds = (
            _DECAY * old + new for old, new in zip(before, figures, strict=True)
        )

    @property
    def alpha(self) -> float | None:
        """Acceptance per tested position; None before the first cycle."""
        return self._accepted / self._tested if self._tested else None

    def speedup(self, target_s: float) -> float | None:
        """Tokens per target step of time; None until it has been seen long enough."""
        return self._tokens * target_s / self._seconds if self._cycles >= _LEAST_CYCLES and target_s else None

    def is_paused(self, cycle: int) -> bool:
        """Whether a pause lasts beyond this cycle."""
        return cycle < self._paused_until

    def should_draft(self, cycle: int, target_s: float, predicted: float | None) -> bool:
        """Whether to draft in this cycle.

        Args:
            cycle: counts up over all sequences.
            target_s: seconds of a target step.
            predicted: the draft's predicted speedup, where it was judged.
        """
        if self.is_paused(cycle):
            return False
        untried = not self._cycles and not self._owed_a_try
        speedup = predicted if untried else self.speedup(target_s)
        if speedup is None:
            return True
        if speedup >= 1.0:
            if self._cycles:
                self._pause = _FIRST_PAUSE
            return True
        self._paused_until = cycle + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self.forget()
        self._owed_a_try = True  # a prediction can be wrong for good; only drafting shows it
        return False

"""`PlainTime`: how long a token of plain decoding takes, which is what drafting is judged against.

Knows nothing of drafts. `StepTimes` keeps averages near the fastest that was seen, which is right for costs that are
compared with each other. What drafting has to beat is what plain decoding takes on average, disturbances included,
since the time of cycles is taken as it was.
"""

from __future__ import annotations

from autodraft.decoding.step_times import LARGEST_JUMP

_MEMORY = 0.985
"""Weight of a token's time in relation to that of the token after it."""


class PlainTime:
    """A mean over tokens, the latest weighing most.

    Attributes:
        token_s: seconds; 0 until something was recorded.
    """

    def __init__(self) -> None:
        self.token_s = 0.0
        self._tokens = self._seconds = 0.0

    def record(self, tokens: int, seconds: float) -> None:
        """So many successive tokens took so long; a hiccup counts as `LARGEST_JUMP` times normal."""
        if self._tokens:
            seconds = min(seconds, LARGEST_JUMP * tokens * self.token_s)
        kept = _MEMORY**tokens
        self._tokens, self._seconds = kept * self._tokens + tokens, kept * self._seconds + seconds
        self.token_s = self._seconds / self._tokens

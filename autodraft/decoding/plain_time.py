"""`PlainTime`: how long a token of plain decoding takes, which is what drafting is judged against.

Knows nothing of drafts. `StepTimes` keeps averages near the fastest that was seen, which is right for costs that are
compared with each other. What drafting has to beat is what plain decoding takes on average, disturbances included,
since the time of cycles is taken as it was. And it has to beat plain decoding that has run for a while: the first
tokens after a draft find less of the weights in the processor's caches.
"""

from __future__ import annotations

from autodraft.decoding.step_times import LARGEST_JUMP

_MEMORY = 0.975
"""Weight of a token's time in relation to that of the token after it."""
_CACHED_BYTES = 64 << 20
_COLD_TOKENS, _COLD_TOKENS_OF_SMALL = 2, 10
"""Tokens until plain decoding is as fast as it gets; more of them where caches hold much of the weights in the end."""
_TIMED_TOKENS, _TIMED_TOKENS_OF_SMALL = 6, 20
"""More of them where a call takes as long as a part of a token."""
_TRUSTED_TOKENS = 36
"""Until so many were timed, drafting may seem to gain only because the first few took too long."""
_TOKENS_BETWEEN, _TOKENS_BETWEEN_WHERE_FAST, _FAST = 256, 2048, 1.5
"""After so many tokens of drafting it is timed anew, for machines get busy, or idle; the more is gained the later."""
_TOKENS_BEFORE = 64
"""After so many it is timed for the first time where it need not be at once."""
_CYCLE_MEMORY = 0.97


class PlainTime:
    """A mean over tokens, the latest weighing most.

    Args:
        weight_bytes: of the target.
        at_once: whether it is timed before anything is drafted, for nothing is known of it. Else a short text is not
            slowed down by it.

    Attributes:
        token_s: seconds; 0 until something was recorded.
        wanted: coming tokens that should be decoded plainly, to be timed.
    """

    def __init__(self, weight_bytes: int, *, at_once: bool = True) -> None:
        self.token_s = 0.0
        self._tokens = self._seconds = 0.0
        small = weight_bytes < _CACHED_BYTES
        self._cold_tokens = _COLD_TOKENS_OF_SMALL if small else _COLD_TOKENS
        self._timed_tokens = _TIMED_TOKENS_OF_SMALL if small else _TIMED_TOKENS
        self._cold = self._cold_tokens  # coming tokens of plain decoding that are not counted
        self.wanted = self._cold_tokens + self._timed_tokens if at_once else 0
        self._since = 0  # tokens of drafting since the last plain ones
        self._drafting = (0.0, 0.0)  # tokens and seconds of recent cycles

    def together(self, tokens: int) -> int:
        """How many of so many tokens to decode plainly before they are recorded: either all are counted or none."""
        return min(tokens, self._cold) if self._cold else tokens

    def record(self, tokens: int, seconds: float) -> bool:
        """So many successive tokens took so long, of which a hiccup counts as `LARGEST_JUMP` times normal.

        Whether they were counted.
        """
        self.wanted = max(self.wanted - tokens, 0)
        if self._cold:
            self._cold = max(self._cold - tokens, 0)
            return False
        if self._tokens:
            seconds = min(seconds, LARGEST_JUMP * tokens * self.token_s)
        kept = _MEMORY**tokens
        self._tokens, self._seconds = kept * self._tokens + tokens, kept * self._seconds + seconds
        self.token_s = self._seconds / self._tokens
        self._since = 0
        return True

    def interrupt(self) -> None:
        """Something else ran: other weights were read."""
        self._cold = self._cold_tokens

    def record_cycle(self, tokens: int, seconds: float) -> None:
        """A cycle with a draft committed so many tokens in so long."""
        self.interrupt()
        before = self._drafting
        self._drafting = _CYCLE_MEMORY * before[0] + tokens, _CYCLE_MEMORY * before[1] + seconds
        self._since += tokens
        if self._since >= self._tokens_between:
            self.wanted, self._since = self._cold_tokens + self._timed_tokens, 0

    @property
    def _tokens_between(self) -> float:
        if not self._tokens:
            return _TOKENS_BEFORE
        tokens, seconds = self._drafting
        gained = (tokens * self.token_s / max(seconds, 1e-9) - 1) / (_FAST - 1)
        surely = min(max(gained, 0.0), 1.0) * min(self._tokens / _TRUSTED_TOKENS, 1.0)
        return _TOKENS_BETWEEN + surely * (_TOKENS_BETWEEN_WHERE_FAST - _TOKENS_BETWEEN)

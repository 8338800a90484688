"""`Stake`: how much slower than plain decoding something may make it.

Knows nothing of drafts or clocks; its unit is the target step. A small share of plain decoding's time may be lost while
nothing pays; what was gained may be spent again. Both are held in one account with a ceiling, so that the gains of one
text are no licence to be slow on the next one for long.
"""

from __future__ import annotations

_FIRST_STEPS = 4.0
_MOST_STEPS = 64.0


class Stake:
    """An account of target steps, with a little in it to begin with.

    Args:
        share: of plain decoding's time that may be lost.

    Attributes:
        steps: what may still be lost; below 0 where something took longer than it was expected to.
    """

    def __init__(self, share: float) -> None:
        self.steps = _FIRST_STEPS
        self._share = share

    def account(self, plain: float, spent: float) -> None:
        """Something for which plain decoding takes `plain` steps (none at all: a look) took `spent` steps."""
        self.steps = min(self.steps + (1 + self._share) * plain - spent, _MOST_STEPS)

    def affords(self, steps: float) -> bool:
        """Whether losing so many is paid for; what is more than the account can hold, once it is full."""
        return self.steps >= min(steps, _MOST_STEPS)

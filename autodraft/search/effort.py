"""`Effort`: prompts and tokens of a measurement, as many as fit a budget of time on a slow model too.

Knows nothing of models or clocks: times of a step and of prompts in, sizes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FEWEST_FINAL_PROMPTS = 6
"""Of the comparison that has the last word: intervals of fewer say too little."""
_FEWEST_PROMPTS = 4
"""With fewer no loser can be told from a winner (`is_worse`)."""
_FEWEST_TOKENS = 16
_SHARES = tuple(share / 20 for share in range(20, 0, -1))


@dataclass(frozen=True)
class Effort:
    """How much a measurement of a cascade takes.

    Attributes:
        num_prompts: the first so many of the prompts in their order.
        new_tokens: generated for each.
    """

    num_prompts: int
    new_tokens: int

    def seconds(self, prefill_s: Sequence[float], step_s: float) -> float:
        """Of one contestant that is as slow as autoregressive decoding; `prefill_s` of each prompt."""
        prompts = prefill_s[: self.num_prompts]
        return sum(prompts) + len(prompts) * self.new_tokens * step_s


def affordable(most: Effort, seconds: float, prefill_s: Sequence[float], step_s: float) -> Effort:
    """The most prompts and tokens, both reduced alike, with which cascade and baseline take `seconds` together.

    Never fewer than a measurement needs to say anything: 4 prompts of 16 tokens, or all that `most` has.
    """
    smaller = (_scaled(most, share) for share in _SHARES)
    fitting = (effort for effort in smaller if 2 * effort.seconds(prefill_s, step_s) <= seconds)
    return next(fitting, _scaled(most, 0.0))


def _scaled(most: Effort, share: float) -> Effort:
    return Effort(
        max(round(share * most.num_prompts), min(_FEWEST_PROMPTS, most.num_prompts)),
        max(round(share * most.new_tokens), min(_FEWEST_TOKENS, most.new_tokens)),
    )

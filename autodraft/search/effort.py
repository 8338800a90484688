"""`Effort`: prompts, tokens and repeats of a measurement, as many as fit a budget of time.

Knows nothing of models or clocks: times of a step and of prompts in, sizes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

FEWEST_FINAL_PROMPTS = 6
"""Of the comparison that has the last word: intervals of fewer say too little."""
CONTESTANTS = 3
"""Of a measurement: plain decoding, the cascade, and the best one before it."""
_FEWEST_PROMPTS = 4
"""With fewer no loser can be told from a winner (`is_worse`)."""
_FEWEST_TOKENS = 16
_MOST_REPEATS = 3
"""On a fast model a prompt takes milliseconds, in which the machine may be doing anything: its median counts."""
_REPEATS_SHARE = 0.2
"""Of the time of a measurement, in which everything with its repeats must be done: many small ones are to come."""
_SHARES = tuple(share / 20 for share in range(20, 0, -1))


@dataclass(frozen=True)
class Effort:
    """How much a measurement of a cascade takes.

    Attributes:
        num_prompts: the first so many of the prompts in their order.
        new_tokens: generated for each.
        repeats: of each prompt.
    """

    num_prompts: int
    new_tokens: int
    repeats: int = 1

    def seconds(self, prefill_s: Sequence[float], step_s: float) -> float:
        """Of a measurement whose contestants are as slow as autoregressive decoding; `prefill_s` of each prompt."""
        prompts = prefill_s[: self.num_prompts]
        return sum(prompts) + CONTESTANTS * self.repeats * len(prompts) * self.new_tokens * step_s


def affordable(most: Effort, seconds: float, prefill_s: Sequence[float], step_s: float) -> Effort:
    """The most prompts and tokens with which a measurement takes `seconds`; repeats where it is little.

    Prompts and tokens are reduced alike, and never to fewer than a measurement needs to say anything: 4 prompts of 16
    tokens, or all that `most` has.
    """

    def fitting(efforts: Iterable[Effort], limit: float) -> Iterator[Effort]:
        return (effort for effort in efforts if effort.seconds(prefill_s, step_s) <= limit)

    repeated = (replace(most, repeats=repeats) for repeats in range(_MOST_REPEATS, 1, -1))
    smaller = (_scaled(most, share) for share in _SHARES)
    found = chain(fitting(repeated, _REPEATS_SHARE * seconds), fitting(smaller, seconds))
    return next(found, _scaled(most, 0.0))


def _scaled(most: Effort, share: float) -> Effort:
    return Effort(
        max(round(share * most.num_prompts), min(_FEWEST_PROMPTS, most.num_prompts)),
        max(round(share * most.new_tokens), min(_FEWEST_TOKENS, most.new_tokens)),
    )

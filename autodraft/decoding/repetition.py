"""`Repetition`: cycles that need nobody's opinion, run by the runtime one after the other.

Knows nothing of why the proposal stands. It sees to it that whoever reads along, or judges whether drafting pays, is
asked often enough.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autodraft.decoding.choice import TargetChoice
from autodraft.decoding.drafters import Standing
from autodraft.runtime import Cycle, CycleBounds, KVCache, TransformerRuntime

UNNOTICED_S = 0.02
"""For so long nobody who reads along notices that tokens come together."""
MOST_TOKENS = 64
"""That come together at most, or about as many: going back to Python after every 16th costs 4 % of plain decoding."""
_MOST_CYCLES = 32


class Repetition:
    """Of one decoder.

    Args:
        runtime: one that `runs_cycles`, if `run` is to be called.
        cache: the decoder's.
    """

    def __init__(self, runtime: TransformerRuntime, cache: KVCache) -> None:
        self._runtime, self._cache = runtime, cache
        self._text = np.empty(cache.capacity + 1, dtype=np.int32)
        self._known = 0  # tokens of the text that are in there
        self._cycle_s = UNNOTICED_S

    def start(self) -> None:
        """Another text begins."""
        self._known = 0

    def run(
        self, tokens: Sequence[int], standing: Standing, choice: TargetChoice, most: int, last_tokens: Sequence[int]
    ) -> tuple[list[int], list[Cycle]]:
        """Run and commit some cycles, at least one; the tokens that they add, and what each of them did.

        Args:
            tokens: the text, whose last token is not in the cache yet.
            standing: what is drafted.
            choice: of the target, told nothing.
            most: tokens that may be added, two at least.
            last_tokens: tokens after which no cycle begins.
        """
        runtime, cache, text, length = self._runtime, self._cache, self._text, len(tokens)
        started = runtime.clock()
        text[self._known : length] = tokens[self._known :]
        longest = standing.draft.most_drafted
        num_cycles = min(max(int(UNNOTICED_S / self._cycle_s), 1), _MOST_CYCLES)
        room = min(most, num_cycles * (longest + 1), MOST_TOKENS + longest)
        cycles = runtime.run_cycles(
            cache,
            text,
            standing.draft,
            CycleBounds(room, MOST_TOKENS, num_cycles, UNNOTICED_S, standing.token_s, standing.lost_s),
            last_tokens=last_tokens,
            noise=choice.noise(0, room),
        )
        self._known = length + sum(cycle.committed for cycle in cycles)
        cache.commit(range(cache.length, cache.length + self._known - length))
        self._cycle_s = max((runtime.clock() - started) / len(cycles), 1e-9)
        added: list[int] = text[length : self._known].tolist()
        return added, cycles

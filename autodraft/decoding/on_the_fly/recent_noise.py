"""`RecentNoise`: the noise by which the last tokens of an output were chosen, for judging drafts on those tokens.

Knows nothing of drafts. The decoder drops noise with the tokens that it chose; a draft that would have looked at it
when those tokens were drafted must look at it when it is judged on them, or it seems to agree less than it does.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autodraft.runtime import ChoiceNoise


class RecentNoise:
    """The noise of the last `most` tokens of a sequence; nothing is kept where decoding is greedy."""

    def __init__(self, most: int) -> None:
        self._rows: deque[Any] = deque(maxlen=most)
        self._temperature = 1.0
        self._next: ChoiceNoise | None = None

    def start(self) -> None:
        """A new sequence."""
        self._rows.clear()

    def expect(self, noise: ChoiceNoise | None) -> None:
        """The noise of the tokens that may be committed next, the first one's first."""
        self._next = noise

    def commit(self, count: int) -> None:
        """So many tokens were committed, all of them covered by the last `expect`."""
        if self._next is not None:
            self._temperature = self._next.temperature
            self._rows.extend(self._next.rows[:count])
        self._next = None

    def last(self, count: int) -> ChoiceNoise | None:
        """The noise of the last `count` tokens, the oldest first; None where they were chosen greedily."""
        if not self._rows:
            return None
        rows = list(self._rows)[-count:]
        is_on_device = isinstance(rows[0], Tensor)
        return ChoiceNoise(self._temperature, torch.stack(rows) if is_on_device else np.stack(rows))

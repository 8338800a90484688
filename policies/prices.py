"""`PriceLadder`: the prices of time and memory at which a knapsack over what is still open keeps what is left.

Knows nothing of observations or budgets. At a pair of prices every decision takes the option of least loss plus priced
time and memory, whatever the others take; so what a pair adds up to from any step on is known before the first step,
and looking for the pair of least loss that fits is a look through a table.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

LOWEST_PRICE, HIGHEST_PRICE = 1e-4, 10.0
_TIME, _MEMORY = (np.concatenate([[0.0], np.geomspace(LOWEST_PRICE, HIGHEST_PRICE, count)]) for count in (100, 20))
_PAIRS = [(float(time), float(memory)) for memory in _MEMORY for time in _TIME]
"""Prices of time and of memory."""

Totals = npt.NDArray[np.float64]
"""(loss, picoseconds, bytes) of all decisions from each step on, at every pair of prices. [3, pairs, steps]"""


class PriceLadder:
    """What decisions take at every pair of prices.

    Args:
        loss, time, memory: of every option, as an agent sees them; the loss of what is not offered is infinite.
            [decisions, options]
        amounts: picoseconds and bytes of every option. [2, decisions, options]
    """

    def __init__(
        self,
        loss: npt.NDArray[np.float64],
        time: npt.NDArray[np.float64],
        memory: npt.NDArray[np.float64],
        amounts: npt.NDArray[np.int64],
    ) -> None:
        taken = np.stack([(loss + prices[0] * time + prices[1] * memory).argmin(axis=1) for prices in _PAIRS])
        decisions = np.arange(len(loss))
        self._taken = np.stack([figures[decisions, taken] for figures in (loss, *amounts)])  # [3, pairs, decisions]

    def totals(self, order: Sequence[int]) -> Totals:
        """What is ahead of each step of a plan that takes its decisions in this order."""
        totals: Totals = self._taken[:, :, list(order)[::-1]].cumsum(axis=2)[:, :, ::-1]
        return totals


def prices_ahead(totals: Totals, step: int, left: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Prices of time and memory that keep what is left (picoseconds, bytes) with the least loss from this step on.

    The highest of both where no pair does; then the mask alone decides what is possible.
    """
    loss, *amounts = totals[:, :, step]
    fits = (amounts[0] <= left[0]) & (amounts[1] <= left[1])
    if not fits.any():
        return HIGHEST_PRICE, HIGHEST_PRICE
    return _PAIRS[int(np.where(fits, loss, np.inf).argmin())]

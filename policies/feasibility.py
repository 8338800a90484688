"""Which totals of time and memory the decisions that are still open can end in.

Knows nothing of policies or features: an open decision is a set of points (picoseconds, bytes), one for each way to
take it, and a completion is one point for each of them. Only totals that no other total beats in both figures are
kept. Everything is a whole number, so "some completion fits" is exact, and a decision that is taken out of a state from
which some completion fits always leaves a way that leads to one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.int64]
"""Totals that do not beat each other, by rising time. [points, (picoseconds, bytes)]"""

NOTHING: Points = np.zeros((1, 2), dtype=np.int64)
"""The total of no decision at all."""


def non_dominated(points: Points) -> Points:
    """The points with fewer bytes than every one that takes no longer."""
    ordered = points[np.lexsort((points[:, 1], points[:, 0]))]
    fewest = np.minimum.accumulate(ordered[:, 1])
    first = np.ones(len(ordered), dtype=bool)
    first[1:] = ordered[1:, 1] < fewest[:-1]
    return ordered[first]


def sums(left: Points, right: Points) -> Points:
    """One point of each, added up in every way."""
    return non_dominated((left[:, None, :] + right[None, :, :]).reshape(-1, 2))


class Completions:
    """Totals of what is left to decide, from every position and for every number of sub-layers still to be kept.

    Args:
        dropping: points of dropping at each position, or None where that is not offered.
        keeping: points of every other choice, or None where there is none.
        counts: whether keeping at a position counts as keeping a sub-layer (the head does not).
        least_kept: sub-layers that have to be kept in all.
    """

    def __init__(
        self,
        dropping: Sequence[Points | None],
        keeping: Sequence[Points | None],
        counts: Sequence[bool],
        least_kept: int,
    ) -> None:
        self.least_kept = least_kept
        after: list[Points | None] = [NOTHING, *[None] * least_kept]
        self._totals = [after]
        for dropped, kept, counted in zip(reversed(dropping), reversed(keeping), reversed(counts), strict=True):
            here: list[Points | None] = []
            for missing in range(least_kept + 1):
                ways = ((dropped, after[missing]), (kept, after[max(missing - counted, 0)]))
                totals = [sums(points, rest) for points, rest in ways if points is not None and rest is not None]
                here.append(non_dominated(np.concatenate(totals)) if totals else None)
            self._totals.insert(0, here)
            after = here

    def totals(self, position: int, num_kept: int) -> Points | None:
        """What the decisions from `position` on can add up to after `num_kept` have been kept; None: in no way."""
        return self._totals[position][max(self.least_kept - num_kept, 0)]

    def fit(self, position: int, num_kept: int, spent: Points, limits: npt.NDArray[np.int64]) -> bool:
        """Whether some completion stays within `limits`, given what the decisions so far may have spent."""
        rest = self.totals(position, num_kept)
        return rest is not None and bool((spent[:, None, :] + rest[None, :, :] <= limits).all(axis=2).any())

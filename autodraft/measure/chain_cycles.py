"""The cycles of a chain along a text that the target wrote: where each begins, what it drafts and what it commits.

Knows nothing of models or time. In decoding a cycle begins where the last one ended, that is just behind a token that
the draft missed or where it stopped. Misses come in clusters, so windows at evenly spaced places promise more than
decoding keeps; here the cycles follow each other as they do in decoding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class ChainCycles:
    """What one chain does in every cycle.

    Attributes:
        drafted: tokens drafted. [cycles]
        committed: tokens committed, the bonus included. [cycles]
    """

    drafted: npt.NDArray[np.int64]
    committed: npt.NDArray[np.int64]

    @property
    def tokens_per_cycle(self) -> float:
        return float(self.committed.mean())

    @property
    def drafted_per_cycle(self) -> float:
        return float(self.drafted.mean())


def chain_cycles(
    matches: npt.NDArray[np.bool_],
    confidence: npt.NDArray[np.floating],
    num_draft_tokens: int,
    stop_threshold: float = 0.0,
) -> ChainCycles:
    """Walk a chain along a text, cycle by cycle: draft to the length or the first doubt, commit up to the first miss.

    Args:
        matches: whether the draft's choice for each position is the text's token. [positions]
        confidence: the draft's probability of its choice. [positions]
        num_draft_tokens: of the chain.
        stop_threshold: a token of lower probability is the last one drafted.

    The text is closed to a ring, so that the last cycle need not be cut off. A draft's choices are taken to depend on
    the position alone and not on how many tokens it has drafted before.
    """
    to_doubt = _distance_to(confidence < stop_threshold, num_draft_tokens)
    drafted = np.minimum(to_doubt + 1, num_draft_tokens)
    committed = np.minimum(_distance_to(~matches, num_draft_tokens), drafted) + 1
    starts, position, steps = [], 0, committed.tolist()
    while position < len(steps):
        starts.append(position)
        position += steps[position]
    return ChainCycles(drafted[starts], committed[starts])


def _distance_to(marked: npt.NDArray[np.bool_], most: int) -> npt.NDArray[np.int64]:
    """From every position of a ring the steps to the next marked one, itself included; at most `most`."""
    num_positions = len(marked)
    around = np.resize(marked, num_positions + most)
    places = np.where(around, np.arange(len(around)), num_positions + 2 * most)
    following = np.minimum.accumulate(places[::-1])[::-1][:num_positions]
    distance: npt.NDArray[np.int64] = np.minimum(following - np.arange(num_positions), most)
    return distance

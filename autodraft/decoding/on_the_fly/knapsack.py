"""The dynamic programme over hidden states: which sub-layers to run, and at how many bits, for every time budget.

CLaSp (arXiv 2505.24196) and KnapSpec (arXiv 2602.20217), with bits as further choices. `D[i][w]` is the best cosine of
a draft's residual stream before sub-layer `i` to the target's own, among drafts that have used time `w` so far; a
sub-layer is skipped, which leaves the stream alone, or run at one of several bit-widths on the approximate stream.
CLaSp's recurrence is the case of full precision only, unit weights and a level for each, at sub-layers instead of
blocks; KnapSpec's is the case of full precision only and weights that are small integers, a level for each.

Knows nothing of models: running a sub-layer is a function it is given. All states of a column run together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class RunSubLayer(Protocol):
    """Runs sub-layer `index` at `bits` over several states at once."""

    def __call__(self, index: int, bits: int, streams: Tensor) -> Tensor:
        """Residual streams before the sub-layer -> after it. [states, positions, hidden] -> the same"""
        ...


@dataclass(frozen=True)
class Path:
    """Choices for the first sub-layers.

    Attributes:
        bits: one per sub-layer, 0 skips it.
        weight: time used, in the unit of the weights.
        cosine: mean over the reference positions of the cosine to the target's stream there.
    """

    bits: tuple[int, ...]
    weight: float
    cosine: float


def best_paths(weights: Sequence[Mapping[int, float]], stream: Tensor, run: RunSubLayer, *, levels: int) -> list[Path]:
    """The final column: for each level of time the path of highest cosine, cheapest level first.

    Args:
        weights: for each sub-layer the time of each bit-width that it may run at; 0 in it means that it may be skipped.
        stream: the target's residual stream before each sub-layer and after the last.
            [sub-layers + 1, positions, hidden]
        run: runs a sub-layer.
        levels: time is told apart in this many parts of the dearest path's. Weights themselves are not rounded, so that
            nothing adds up over the sub-layers.
    """
    unit = sum(max(choices.values()) for choices in weights) / levels
    paths, streams = [Path((), 0.0, 1.0)], stream[:1]
    for index, choices in enumerate(weights):
        grown = [Path((*path.bits, bits), path.weight + choices[bits], 0.0) for bits in choices for path in paths]
        streams = torch.cat([run(index, bits, streams) if bits else streams for bits in choices])
        cosines = torch.cosine_similarity(streams, stream[index + 1][None], dim=-1).mean(-1).tolist()
        kept = _best_of_each_level([path.weight for path in grown], cosines, unit)
        paths = [Path(grown[state].bits, grown[state].weight, cosines[state]) for state in kept]
        streams = streams[kept]
    return paths


def _best_of_each_level(weights: Sequence[float], cosines: Sequence[float], unit: float) -> list[int]:
    """The state of highest cosine at each level of weight (rounded up), cheapest level first."""
    best: dict[int, int] = {}
    for state, weight in enumerate(weights):
        level = math.ceil(weight / unit - 1e-9)
        if level not in best or (cosines[state], -weight) > (cosines[best[level]], -weights[best[level]]):
            best[level] = state
    return [best[level] for level in sorted(best)]


def pareto_front(paths: Sequence[Path]) -> list[Path]:
    """The paths that no cheaper one equals in cosine, cheapest first."""
    front: list[Path] = []
    for path in sorted(paths, key=lambda path: (path.weight, -path.cosine)):
        if not front or path.cosine > front[-1].cosine:
            front.append(path)
    return front

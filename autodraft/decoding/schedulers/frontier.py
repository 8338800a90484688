"""`Frontier`: where models can go on in a cycle's tree.

Knows nothing of what going on costs or gains. Nodes from which no model has gone on, and the other choices that models
had where they did: those become nodes of the tree only when they are taken.
"""

from __future__ import annotations

from operator import itemgetter
from typing import NamedTuple, TypeAlias

from autodraft.decoding.growth import ROOT, Growth


class Alternative(NamedTuple):
    """A token that a model would have chosen after `node` if not for a better one, and its acceptance if `node` is."""

    node: int
    token: int
    model: int
    prob: float
    evidence: int


Place: TypeAlias = int | Alternative
"""Where a model can go on: a leaf, which is a node of the tree, or an alternative."""


class Frontier:
    """Leaves and alternatives of one tree.

    Args:
        growth: the tree.
    """

    def __init__(self, growth: Growth) -> None:
        self.leaves = [ROOT]
        self.alternatives: list[Alternative] = []
        self._growth = growth

    def places(self) -> list[tuple[float, Place]]:
        """All of them with the estimated probability that they are accepted, likeliest first."""
        reach = self._growth.reach
        places: list[tuple[float, Place]] = [(reach[node], node) for node in self.leaves]
        places += [(reach[each.node] * each.prob, each) for each in self.alternatives]
        places.sort(key=itemgetter(0), reverse=True)
        return places

    def take(self, place: Place) -> int:
        """The node of a place, which is no longer part of the frontier."""
        if isinstance(place, int):
            self.leaves.remove(place)
            return place
        self.alternatives.remove(place)
        return self._add(place)

    def add_siblings(self, price: float) -> None:
        """Make nodes of all alternatives that are likelier than `price`, likeliest first."""
        for reach, place in self.places():
            if isinstance(place, Alternative) and reach > price:
                self._add(place)

    def _add(self, chosen: Alternative) -> int:
        return self._growth.add(chosen.node, chosen.token, chosen.model, chosen.prob, chosen.evidence)

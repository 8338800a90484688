"""`FreeGrowth`: what the free drafts add to a cycle's tree.

Knows nothing of models or of time: a node is added where it is likelier to be accepted than a price says.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

from autodraft.decoding.acceptance import Calibration
from autodraft.decoding.growth import Growth
from autodraft.decoding.workbench import Workbench

_MOST_CONTINUATIONS = 8
_LEAST_OF_CHAIN = 0.05
"""A chain to be reviewed ends with a node that is this much less likely than where it began."""


class FreeGrowth:
    """The free drafts in one cycle.

    Args:
        bench: of the cycle.
        calibrations: by draft: acceptance of each class of evidence (`FreeEvidence`).
        max_depth: deepest node.
        max_nodes: nodes that will be kept at most.
    """

    def __init__(
        self, bench: Workbench, calibrations: Mapping[int, Calibration], max_depth: int, max_nodes: int
    ) -> None:
        self._bench, self._growth, self._calibrations = bench, bench.growth, calibrations
        self._drafts = [
            (draft, each.means, bench.levels[draft].num_draft_tokens, _best_of_halves(each.means))
            for draft, each in calibrations.items()
        ]
        self._max_depth = min(max_depth, bench.max_depth)
        self._max_nodes = min(max_nodes, bench.max_nodes)
        self._expanded: set[int] = set()
        self._overruled: set[int] = set()  # nodes after which a model has chosen

    def grow(self, nodes: Iterable[int], price: float) -> None:
        """Continue `nodes` and what comes of them, likeliest first, where a node is worth the price."""
        growth = self._growth
        if not self._drafts:
            return
        reach, depths = growth.reach, growth.depths
        heap = [(-reach[node], node) for node in nodes if reach[node] > price and node not in self._expanded]
        heapq.heapify(heap)
        while heap and len(growth) <= 2 * self._max_nodes:
            _, node = heapq.heappop(heap)
            if depths[node] < self._max_depth:
                self._expanded.add(node)
                for child in self._expand(node, price, _MOST_CONTINUATIONS):
                    heapq.heappush(heap, (-reach[child], child))

    def chain(self, leaf: int) -> list[int]:
        """The likeliest child after the likeliest child from `leaf` on, grown where it ends."""
        growth, node = self._growth, leaf
        chain: list[int] = []
        while len(chain) < self._max_depth - growth.depths[leaf] - 1:
            if node not in self._expanded:
                self._expand(node, 0.0, 1)
            children = [child for child in growth.children(node) if growth.drafts[child] in self._calibrations]
            if not children:
                break
            node = max(children, key=growth.probs.__getitem__)
            chain.append(node)
            if growth.reach[node] < _LEAST_OF_CHAIN * growth.reach[leaf]:
                break
        return chain

    def overrule(self, node: int) -> None:
        """A model has chosen the token after `node`: what free drafts have said there, or will say, is judged by that.

        The model's choice is not in the tree yet, unless it is one of those tokens.
        """
        self._overruled.add(node)
        growth = self._growth
        for child in growth.children(node):
            draft, evidence = growth.drafts[child], growth.evidence[child]
            if draft in self._calibrations:
                means = self._calibrations[draft].means
                if evidence < (own := len(means) // 2):
                    growth.estimate(child, draft, means[own + evidence], own + evidence)

    def _expand(self, node: int, price: float, most: int) -> range:
        """Add the continuations of `node` that are likely enough; the new nodes."""
        growth, is_overruled = self._growth, node in self._overruled
        before, reach, drafted_by = len(growth), growth.reach[node], growth.drafts[node]
        for draft, means, longest, best in self._drafts:
            own = len(means) // 2
            if reach * best[is_overruled] <= price:
                continue
            if draft == drafted_by and growth.depths[node] >= longest and _run_length(growth, node, draft) >= longest:
                continue
            for token, evidence in self._bench.continuations(draft, node, most):
                if is_overruled:
                    if growth.child(node, token) is not None:
                        continue
                    evidence += own
                if reach * (prob := means[evidence]) > price:
                    growth.add(node, token, draft, prob, evidence)
        return range(before, len(growth))


def _best_of_halves(means: Sequence[float]) -> tuple[float, float]:
    """The likeliest class of a free draft's tokens, and the likeliest where a model has chosen another token."""
    own = len(means) // 2
    return max(means[:own]), max(means[own:])


def _run_length(growth: Growth, node: int, draft: int) -> int:
    """How many nodes that end with `node` come from this draft, one after the other."""
    length = 0
    while growth.drafts[node] == draft:
        length += 1
        node = growth.parents[node]
    return length

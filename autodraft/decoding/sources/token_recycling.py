"""Token Recycling: propose the tokens that the target itself last found most probable after a token.

The successor table of Token Recycling (arXiv 2408.08696), refreshed by every verification pass, and the static tree
that goes with it. Knows nothing of models; that rows are verified and what the target made of them it is told.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from autodraft.cascade import TokenRecycling
from autodraft.decoding.sources.protocol import State


class TokenRecyclingSource:
    """Proposes the known successors of the last token, most probable first.

    A state is the last token; the second number is not used. The evidence class is the successor's rank. The table
    holds at most `num_successors` tokens for each token of the vocabulary and, as in the paper, outlives the sequence:
    what the target finds probable after a token is not a matter of one text, and a new text begins with a full table.
    """

    def __init__(self, settings: TokenRecycling) -> None:
        self.settings = settings
        self.num_classes = self.top_successors = settings.num_successors
        self._successors: dict[int, tuple[tuple[int, int], ...]] = {}
        self._root: State = (-1, 0)

    def start(self, tokens: Sequence[int]) -> None:
        """Note the last token of the prompt; the table stays."""
        self.commit(tokens)

    def commit(self, tokens: Sequence[int]) -> None:
        self._root = (tokens[-1], 0)

    def root(self) -> State:
        return self._root

    def step(self, state: State, token: int) -> State:
        return token, 0

    def candidates(self, state: State, most: int) -> Sequence[tuple[int, int]]:
        return self._successors.get(state[0], ())[:most]

    def learn(self, tokens: Sequence[int], successors: Sequence[Sequence[int]]) -> None:
        """Replace the successors of each row's token; of two rows with one token the later counts."""
        ranks = range(self.settings.num_successors)
        for token, best in zip(tokens, successors, strict=True):
            self._successors[token] = tuple(zip(best, ranks, strict=False))


def template(rank_probs: Sequence[float], max_nodes: int, max_depth: int) -> list[tuple[int, int]]:
    """The static tree of at most `max_nodes` drafted nodes with the most tokens accepted on average.

    If the successor of rank r is the target's choice with probability `rank_probs[r]` at every node, independently, a
    node is accepted with the product of the probabilities on its path, and the expected number of accepted tokens is
    the sum of these over the nodes. No child has more than its parent, so taking the best node that can be reached,
    again and again, gives the best set. Low ranks end up with few descendants and high ones with many, as in the
    hand-made tree of the paper.

    Args:
        rank_probs: probability of each rank, in 0..1. Ranks with probability 0 are left out.
        max_nodes: drafted nodes at most, the root not counted.
        max_depth: distance from the root at most.

    Returns:
        (parent, rank) of nodes 1, 2, ...; parents come before their children, and parent 0 is the root.
    """
    if not all(0.0 <= prob <= 1.0 for prob in rank_probs):
        raise ValueError(f"rank probabilities are {list(rank_probs)}; they must be in 0..1")
    ranks = sorted((rank for rank, prob in enumerate(rank_probs) if prob > 0), key=lambda rank: -rank_probs[rank])
    nodes: list[tuple[int, int]] = []
    # Per entry: minus the node's probability, its depth, its parent, its place among the ranks, the parent's
    # probability. A node enters with its best child and its next best sibling: enough to find the best one reachable.
    frontier = [(-rank_probs[ranks[0]], 1, 0, 0, 1.0)] if ranks and max_depth > 0 else []
    while frontier and len(nodes) < max_nodes:
        minus_prob, depth, parent, place, parent_prob = heapq.heappop(frontier)
        nodes.append((parent, ranks[place]))
        if place + 1 < len(ranks):
            sibling = -parent_prob * rank_probs[ranks[place + 1]]
            heapq.heappush(frontier, (sibling, depth, parent, place + 1, parent_prob))
        if depth < max_depth:
            child = minus_prob * rank_probs[ranks[0]]
            heapq.heappush(frontier, (child, depth + 1, len(nodes), 0, -minus_prob))
    return nodes

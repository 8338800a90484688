"""`chain` and `static-tree`: one draft per cycle, with a plan that does not depend on what was accepted before.

Knows nothing of models. The chain is Leviathan's (arXiv 2211.17192) with the confidence stop of Draft&Verify (arXiv
2309.08168); the tree has the nodes of highest cumulative draft probability, as in EAGLE-2 (arXiv 2406.16858).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from autodraft.cascade import StaticTree
from autodraft.decoding.growth import ROOT, Growth
from autodraft.decoding.schedulers.protocol import TreeScheduler
from autodraft.decoding.workbench import Workbench
from autodraft.runtime.choosing import ChainStop

_RANK_DECAY = 0.45
"""Assumed acceptance of a free draft's first choice, and of each next choice over the one before."""


def follow(bench: Workbench, draft: int, node: int, most: int, *, kept: bool = True) -> list[int]:
    """Add the chain of a free draft's first choices after `node`; its nodes."""
    nodes: list[int] = []
    while len(nodes) < most and bench.growth.depths[node] < bench.max_depth:
        found = bench.continuations(draft, node, 1)
        if not found:
            break
        (token, evidence) = found[0]
        node = bench.growth.add(node, token, draft, evidence=evidence, kept=kept)
        nodes.append(node)
    return nodes


def draft_on(bench: Workbench, draft: int, node: int, most: int) -> list[int]:
    """Add a model's own chain after `node`; its nodes."""
    most = min(most, bench.max_depth - bench.growth.depths[node])
    if most < 1:
        return []
    level = bench.levels[draft]
    nodes: list[int] = []
    for found in bench.chain(draft, node, most, 1, ChainStop(level.stop_threshold)):
        node = bench.growth.add(node, found.tokens[0], draft, found.probs[0])
        nodes.append(node)
    return nodes


class ChainScheduler(TreeScheduler):
    """The first draft that has a proposal drafts a chain of its `num_draft_tokens`."""

    def grow(self, bench: Workbench) -> None:
        for draft, level in enumerate(bench.levels):
            extend = draft_on if level.is_model else follow
            if extend(bench, draft, ROOT, min(level.num_draft_tokens, bench.max_nodes)):
                return

    def observe(self, bench: Workbench, accepted: Sequence[int], steps: float) -> None:
        """Nothing to learn."""


class StaticTreeScheduler(TreeScheduler):
    """The first draft that has a proposal drafts a tree of up to `max_nodes` nodes."""

    def __init__(self, settings: StaticTree) -> None:
        self._settings = settings

    def grow(self, bench: Workbench) -> None:
        num_nodes = min(self._settings.max_nodes, bench.max_nodes)
        for draft, level in enumerate(bench.levels):
            (self._grow_model if level.is_model else self._grow_free)(bench, draft, num_nodes)
            if len(bench.growth) > 1:
                return

    def _grow_model(self, bench: Workbench, draft: int, num_nodes: int) -> None:
        """Level by level, one forward each: the most probable nodes of a level are expanded, each to its best children.

        A node whose own draft probability is below the draft's stop threshold is kept but not expanded, nor is one that
        could only lead to nodes beyond the best `num_nodes`.
        """
        growth, level, branching = bench.growth, bench.levels[draft], self._settings.branching
        expanded = [ROOT]
        for _ in range(min(level.num_draft_tokens, bench.max_depth)):
            confident: list[int] = []
            for node, found in zip(expanded, bench.review(draft, expanded, branching), strict=True):
                for token, prob in zip(found.tokens, found.probs, strict=True):
                    child = growth.add(node, token, draft, prob)
                    if prob >= level.stop_threshold:
                        confident.append(child)
            useful = set(best_nodes(growth, num_nodes))
            expanded = sorted((node for node in confident if node in useful), key=lambda node: -growth.reach[node])
            expanded = expanded[: min(branching, bench.max_nodes - len(growth))]
            if not expanded:
                break
        growth.keep_only(best_nodes(growth, num_nodes))

    def _grow_free(self, bench: Workbench, draft: int, num_nodes: int) -> None:
        """Best first, as if each choice were accepted `_RANK_DECAY` times as often as the one before."""
        growth, level = bench.growth, bench.levels[draft]
        heap = [(-1.0, ROOT)]
        while heap and len(growth) <= num_nodes:
            reach, node = heapq.heappop(heap)
            if growth.depths[node] >= min(level.num_draft_tokens, bench.max_depth):
                continue
            prob = -reach
            for token, evidence in bench.continuations(draft, node, self._settings.branching):
                prob *= _RANK_DECAY
                child = growth.add(node, token, draft, prob / -reach, evidence)
                heapq.heappush(heap, (-growth.reach[child], child))
        growth.keep_only(best_nodes(growth, num_nodes))

    def observe(self, bench: Workbench, accepted: Sequence[int], steps: float) -> None:
        """Nothing to learn."""


def best_nodes(growth: Growth, num_nodes: int) -> list[int]:
    """The nodes of highest reach, parents before their children."""
    return sorted(range(1, len(growth)), key=lambda node: -growth.reach[node])[:num_nodes]

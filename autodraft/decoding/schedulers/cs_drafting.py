"""`vertical`, `horizontal` and `vertical+horizontal`: the cascades of CS-Drafting (arXiv 2312.11462).

Knows nothing of models. Vertical: a draft is itself sped up by the drafts below it, whose tokens it verifies in one
forward pass. Horizontal: the drafts continue each other's chain, the cheaper ones later, where a token counts less.
Each draft's `num_draft_tokens` is the number of tokens that it contributes to whoever reviews it.
"""

from __future__ import annotations

from collections.abc import Sequence

from autodraft.decoding.growth import ROOT
from autodraft.decoding.schedulers.protocol import TreeScheduler
from autodraft.decoding.schedulers.static import draft_on, follow
from autodraft.decoding.workbench import Workbench


class CSDraftingScheduler(TreeScheduler):
    """A chain made by all drafts together.

    Args:
        vertical: whether models are sped up by the drafts below them.
        horizontal: whether the drafts continue each other's chain; else the first one makes all of it.
    """

    def __init__(self, *, vertical: bool, horizontal: bool) -> None:
        self._vertical, self._horizontal = vertical, horizontal

    def grow(self, bench: Workbench) -> None:
        leaf, room = ROOT, min(bench.max_depth, bench.max_nodes)
        for draft, level in enumerate(bench.levels):
            leaf, drafted = self._extend(bench, draft, leaf, min(level.num_draft_tokens, room), kept=True)
            room -= drafted
            if not room or (drafted and not self._horizontal):
                break

    def _extend(self, bench: Workbench, draft: int, leaf: int, most: int, *, kept: bool) -> tuple[int, int]:
        """Let a draft, with those below it, add up to `most` tokens after `leaf`; (new leaf, how many were added)."""
        level = bench.levels[draft]
        most = min(most, bench.max_depth - bench.growth.depths[leaf])
        if most < 1:
            return leaf, 0
        if not level.is_model:
            nodes = follow(bench, draft, leaf, most, kept=kept)
        elif self._vertical and draft + 1 < len(bench.levels):
            nodes = self._review_below(bench, draft, leaf, most, kept=kept)
        else:
            nodes = draft_on(bench, draft, leaf, most)
            for node in nodes:
                bench.growth.kept[node] = kept
        return (nodes[-1] if nodes else leaf), len(nodes)

    def _review_below(self, bench: Workbench, draft: int, leaf: int, most: int, *, kept: bool) -> list[int]:
        """Cycles of the next draft's proposal and this draft's review of it, until `most` tokens are there."""
        growth, level = bench.growth, bench.levels[draft]
        nodes: list[int] = []
        while len(nodes) < most:
            wanted = min(bench.levels[draft + 1].num_draft_tokens, most - len(nodes) - 1)
            deepest, _ = self._extend(bench, draft + 1, leaf, wanted, kept=False)
            proposed = growth.path(deepest)[growth.depths[leaf] + 1 :]
            sure = True
            for node, found in zip([leaf, *proposed], bench.review(draft, [leaf, *proposed], 1), strict=True):
                if node != leaf:  # the draft's last choice was another one than the token proposed below it
                    break
                leaf = growth.add(leaf, found.tokens[0], draft, kept=kept)
                growth.estimate(leaf, draft, found.probs[0], 0)  # the token is this draft's, whoever proposed it
                nodes.append(leaf)
                sure = found.probs[0] >= level.stop_threshold
                if not sure:
                    break
            if not sure:
                break
        return nodes

    def observe(self, bench: Workbench, accepted: Sequence[int], steps: float) -> None:
        """Nothing to learn."""

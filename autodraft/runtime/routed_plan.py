"""`RoutedPlan`: a draft whose tokens take the routes that a router picks, with the calls that decoding makes of it.

Knows nothing of trees or schedulers. A plan belongs to one decoder: it remembers what the slots behind the committed
ones hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from autodraft.policy import DraftPolicy
from autodraft.runtime.backend import KVCache, RoutedPasses
from autodraft.runtime.choosing import Candidates, ChainStop, ChoiceNoise, best_tokens, greedy_chain
from autodraft.runtime.plan import DraftPlan
from autodraft.runtime.routed import RoutedForward
from autodraft.runtime.routing import Router
from autodraft.runtime.rows import Rows

if TYPE_CHECKING:
    from autodraft.runtime.transformer import TransformerRuntime


class RoutedPlan:
    """A router over the blocks of target or draft.

    Args:
        runtime: the target.
        router: as wide as the target.
        passed_keys, blocks: see `RoutedForward`.

    Attributes:
        blocks: the plan whose sub-layers are run.
        weight_bytes: weights that one step is expected to read.
    """

    def __init__(
        self,
        runtime: TransformerRuntime,
        router: Router,
        passed_keys: str = "masked",
        blocks: DraftPlan | None = None,
    ) -> None:
        self.blocks = blocks = runtime.target if blocks is None else blocks
        passes: RoutedPasses = runtime.routed_passes(router, passed_keys, blocks) or SteppedPasses(
            runtime, router, passed_keys, blocks
        )
        self.logits, self.review, self.draft_chain = passes.logits, passes.review, passes.draft_chain
        head = runtime.plan(DraftPolicy.uniform(runtime.spec.num_blocks, 0, blocks.policy.head_bits)).weight_bytes
        self.weight_bytes = head + router.expected_cost * (blocks.weight_bytes - head)


class SteppedPasses:
    """`RoutedPasses` of any backend: the host runs sub-layer by sub-layer and asks the router in between."""

    def __init__(self, runtime: TransformerRuntime, router: Router, passed_keys: str, blocks: DraftPlan) -> None:
        self._router = router
        self._routed = RoutedForward(runtime, router.graph, passed_keys, blocks)

    def logits(self, cache: KVCache, rows: Rows) -> Tensor:
        return self._routed.along(cache, _with_own_paths(rows, cache.length), self._router)[0]

    def review(
        self, cache: KVCache, rows: Rows, top: int, noise: ChoiceNoise | None, depths: Sequence[int]
    ) -> list[Candidates]:
        return best_tokens(self.logits(cache, rows), top, noise, depths)

    def draft_chain(
        self,
        cache: KVCache,
        fed: Sequence[int],
        offset: int,
        num_tokens: int,
        top: int,
        stop: ChainStop,
        noise: ChoiceNoise | None,
    ) -> list[Candidates]:
        position = cache.length + offset
        return greedy_chain(lambda rows: self.logits(cache, rows), fed, position, num_tokens, top, stop, noise)


def _with_own_paths(rows: Rows, committed: int) -> Rows:
    """The same rows, with every slot behind the committed ones named in a path: what it holds differs by block."""
    paths = [
        [*range(max(start, committed), start + length), *path]
        for start, length, path in zip(rows.prefix_starts, rows.prefix_lengths, rows.paths, strict=True)
    ]
    lengths = [
        min(length, max(committed - start, 0))
        for start, length in zip(rows.prefix_starts, rows.prefix_lengths, strict=True)
    ]
    return Rows(rows.tokens, rows.positions, rows.slots, rows.prefix_starts, lengths, paths)

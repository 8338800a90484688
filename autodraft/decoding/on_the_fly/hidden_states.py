"""Candidates of the knapsack mode: the dynamic programme over the hidden states of the last positions.

Knows nothing of scores but their order. Every so many cycles one forward of the target gives its residual stream at the
last positions; `knapsack` finds a policy for every time budget; a few of them are offered, the next always beside the
best one so far.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from autodraft.decoding.drafters import DraftContext
from autodraft.decoding.on_the_fly.costs import OnlineCosts
from autodraft.decoding.on_the_fly.knapsack import Path, best_paths, pareto_front
from autodraft.decoding.on_the_fly.settings import OnTheFlySettings
from autodraft.policy import FULL_BITS, SUB_LAYER_KINDS, ChannelShares, DraftPolicy
from autodraft.runtime import DraftPlan, KVCache, Rows, TransformerRuntime


class KnapsackProposals:
    """The policies of the final column, found anew every `settings.refresh` cycles.

    Args:
        runtime: the target.
        costs: what a sub-layer weighs.
        settings: `levels`, `reference_tokens`, `refresh` and `front` are used.
    """

    def __init__(self, runtime: TransformerRuntime, costs: OnlineCosts, settings: OnTheFlySettings) -> None:
        self._runtime, self._costs, self._settings = runtime, costs, settings
        self._bits = settings.bits or runtime.available_bits
        # The cosine is taken before the head; 8 bits there change next to nothing.
        self._head_bits = min((bits for bits in self._bits if bits >= 8), default=max(self._bits))
        self.restart()

    def restart(self) -> None:
        self._front: list[DraftPolicy] = []
        self._scores: dict[int, float] = {}
        self._due = 0

    def rows_ahead(self, cycle: int) -> int:
        """The target over the reference positions, then at most all levels of all bit-widths."""
        if self._has_more or cycle < self._due:
            return 0
        return self._settings.reference_tokens * (1 + len(self._bits) * (self._settings.levels + 1))

    def ask(self, context: DraftContext, cycle: int) -> DraftPolicy | None:
        if not self._has_more and cycle >= self._due:
            self._due = cycle + self._settings.refresh
            self._front, self._scores = self.solve(context), {}
        return self._front[self._next_index()] if self._has_more else None

    def tell(self, policy: DraftPolicy, score: float) -> None:
        if policy in self._front:
            self._scores[self._front.index(policy)] = score

    @property
    def _has_more(self) -> bool:
        return len(self._scores) < min(self._settings.front, len(self._front))

    def _next_index(self) -> int:
        """The middle of the front, then of the wider gap beside the best of it so far."""
        if not self._scores:
            return len(self._front) // 2
        for best in sorted(self._scores, key=lambda index: -self._scores[index]):
            below = max((index for index in self._scores if index < best), default=-1)
            above = min((index for index in self._scores if index > best), default=len(self._front))
            low, high = max((below, best), (best, above), key=lambda gap: gap[1] - gap[0])
            if high - low > 1:
                return (low + high) // 2
        raise AssertionError("asked for more policies than the front has")

    def solve(self, context: DraftContext) -> list[DraftPolicy]:
        """The policies that no cheaper one equals in cosine, cheapest first, the target itself left out.

        Empty where the cache has no room for the states of a column.
        """
        settings, cache = self._settings, context.cache
        count = min(settings.reference_tokens, len(context.tokens))
        if cache.capacity - cache.length < count * (settings.levels + 1):
            return []
        stream = self._runtime.hidden_states(cache, _reference_rows(context.tokens, count, 1, cache))
        paths = best_paths(self._weights(), stream, _Runner(self._runtime, context, count), levels=settings.levels)
        return [self._policy(path) for path in pareto_front(paths) if set(path.bits) != {FULL_BITS}]

    def _policy(self, path: Path) -> DraftPolicy:
        return DraftPolicy.from_sub_layers(map(ChannelShares.all_at, path.bits), self._head_bits)

    def _weights(self) -> list[Mapping[int, float]]:
        """By sub-layer: the first and the last block cannot be skipped, as in SWIFT and KnapSpec."""
        num_blocks = self._runtime.spec.num_blocks
        kept = [{bits: self._costs.sub_layer_weight(kind, bits) for bits in self._bits} for kind in SUB_LAYER_KINDS]
        return [
            {**kept[kind], **({0: 0.0} if 0 < block < num_blocks - 1 else {})}
            for block in range(num_blocks)
            for kind in range(2)
        ]


class _Runner:
    """Sub-layers of the uniform policies over all states of a column, each state in slots of its own."""

    def __init__(self, runtime: TransformerRuntime, context: DraftContext, count: int) -> None:
        self._runtime, self._context, self._count = runtime, context, count
        self._rows: dict[int, Rows] = {}
        self._plans: dict[int, DraftPlan] = {}

    def __call__(self, index: int, bits: int, streams: Tensor) -> Tensor:
        states = len(streams)
        if states not in self._rows:
            self._rows[states] = _reference_rows(self._context.tokens, self._count, states, self._context.cache)
        runtime = self._runtime
        if bits not in self._plans:
            self._plans[bits] = runtime.plan(DraftPolicy.uniform(runtime.spec.num_blocks, bits))
        flat = streams.reshape(states * self._count, -1)
        rows = self._rows[states]
        result = runtime.run_sub_layers(self._plans[bits], self._context.cache, rows, flat, index, index + 1)
        return result.view_as(streams)


def _reference_rows(tokens: list[int], count: int, states: int, cache: KVCache) -> Rows:
    """The last `count` positions, once per state; each sees the committed keys before it and its own."""
    positions = list(range(len(tokens) - count, len(tokens))) * states
    slots = range(cache.length, cache.length + len(positions))
    return Rows(
        [tokens[position] for position in positions],
        positions,
        slots,
        [0] * len(positions),
        positions,
        [[slot] for slot in slots],
    )

"""`RoutedForward`: a forward pass in which every row takes its own route through the blocks of target or draft.

Knows nothing of how routes are chosen or of drafting. Rows that stand before the same block run it in one call, the
lowest block first, so a pass over many rows needs few calls and a row's result does not depend on its neighbours.

The cache stays honest. Keys of committed tokens are the target's, of every block. A row that passes a block by writes
nothing there that others could take for its key: it is left out of what later rows see in that block ("masked"), or its
key and value are made from the stream with which it passes ("projected").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autodraft.runtime.backend import KVCache
from autodraft.runtime.plan import DraftPlan
from autodraft.runtime.routing import RouteGraph, Router
from autodraft.runtime.rows import Rows

if TYPE_CHECKING:
    from autodraft.runtime.transformer import TransformerRuntime

PASSED_KEYS = ("masked", "projected")
Chooser = Callable[[int, Tensor, Tensor], Tensor]
"""(state, streams [n, hidden], row numbers [n]) -> destinations [n]; all on the CPU, where the routes are decided."""


@dataclass
class Passage:
    """One routed pass.

    Attributes:
        stream: the residual stream at the output. float32 [n, hidden]
        runs: how often each row ran each node. [n, num_nodes]
    """

    stream: Tensor
    runs: Tensor


class RoutedForward:
    """Routed passes over one cache; remembers which of its slots hold a key of which block.

    Args:
        runtime: the target.
        graph: what routes are made of.
        passed_keys: how keys of blocks that a row passed by are handled, one of `PASSED_KEYS`.
        blocks: what is run, with every sub-layer of the graph; None: the target.
    """

    def __init__(
        self,
        runtime: TransformerRuntime,
        graph: RouteGraph,
        passed_keys: str = "masked",
        blocks: DraftPlan | None = None,
    ) -> None:
        self.runtime, self.graph, self.passed_keys = runtime, graph, passed_keys
        self.blocks = runtime.target if blocks is None else blocks
        self._written: dict[int, set[int]] = {}  # slot -> blocks of which it holds this draft's key

    @torch.no_grad()
    def run(self, cache: KVCache, rows: Rows, choose: Chooser) -> Passage:
        """Run `rows` along the routes that `choose` picks; only paths are masked, prefixes are taken as complete."""
        stream = self.runtime.embed(cache, rows).clone()
        passage = Passage(stream, torch.zeros((len(rows), self.graph.num_nodes), dtype=torch.long))
        for slot in rows.slots:
            self._written[slot] = set()
        for level in self._levels(rows):
            self._run_level(cache, rows, choose, passage, level)
        return passage

    def along(self, cache: KVCache, rows: Rows, router: Router) -> tuple[Tensor, Passage]:
        """Logits of `rows` after the routes that a router of this graph finds likeliest, and the pass. [n, vocab]"""
        passage = self.run(cache, rows, lambda state, stream, _: router.destinations(state, stream))
        return self.runtime.logits(self.blocks, cache, rows, passage.stream), passage

    def _levels(self, rows: Rows) -> Iterator[Tensor]:
        """Rows that can be run together. A row that goes back writes keys that no later row may see too early."""
        if not self.graph.reuse:
            yield torch.arange(len(rows))
            return
        depths = torch.tensor([len(path) for path in rows.paths])
        for depth in depths.unique().tolist():
            yield (depths == depth).nonzero()[:, 0]

    def _run_level(self, cache: KVCache, rows: Rows, choose: Chooser, passage: Passage, level: Tensor) -> None:
        graph = self.graph
        at = torch.full((len(rows),), graph.output)
        self._go(cache, rows, choose, passage, at, level, 0)
        while int(at.min()) < graph.output:
            node = int(at.min())
            group = (at == node).nonzero()[:, 0]
            first, last = graph.sub_layers(node)
            seen = self._rows_at(rows, group, first)
            stream = passage.stream[group]
            passage.stream[group] = self.runtime.run_sub_layers(self.blocks, cache, seen, stream, first, last)
            passage.runs[group, node] += 1
            self._go(cache, rows, choose, passage, at, group, node + 1)

    def _go(
        self, cache: KVCache, rows: Rows, choose: Chooser, passage: Passage, at: Tensor, group: Tensor, state: int
    ) -> None:
        """Send `group` on from `state`; whoever has run the most blocks that a route may have goes to the output."""
        chosen = choose(state, passage.stream[group].cpu(), group)
        spent = passage.runs[group].sum(1) >= self.graph.most_steps
        at[group] = torch.where(spent, self.graph.output, chosen)
        if self.passed_keys == "projected":
            self._project(cache, rows, passage, at, group, state)

    def _project(self, cache: KVCache, rows: Rows, passage: Passage, at: Tensor, group: Tensor, state: int) -> None:
        """Keys and values of the blocks between `state` and where the rows go, from the stream that passes them."""
        for node in range(state, int(at[group].max())):
            first, _ = self.graph.sub_layers(node)
            passing = [
                row for row in group[at[group] > node].tolist() if first // 2 not in self._written[rows.slots[row]]
            ]
            if first % 2 == 0 and passing:
                numbers = torch.tensor(passing)
                seen = self._rows_at(rows, numbers, first)
                self.runtime.write_keys(self.blocks, cache, seen, passage.stream[numbers], first // 2)

    def _rows_at(self, rows: Rows, group: Tensor, sub_layer: int) -> Rows:
        """The rows of `group`, about to run a sub-layer, seeing of their paths only what holds a key of its block."""
        numbers, block = group.tolist(), sub_layer // 2
        if sub_layer % 2 == 0:
            for number in numbers:
                self._written[rows.slots[number]].add(block)
        return Rows(
            [rows.tokens[number] for number in numbers],
            [rows.positions[number] for number in numbers],
            [rows.slots[number] for number in numbers],
            [rows.prefix_starts[number] for number in numbers],
            [rows.prefix_lengths[number] for number in numbers],
            [
                [slot for slot in rows.paths[number][:-1] if block in self._written[slot]] + [rows.slots[number]]
                for number in numbers
            ],
        )

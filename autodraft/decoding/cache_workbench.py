"""`CacheWorkbench`: the workbench over a runtime, its KV cache, and sources of free continuations.

Knows nothing of schedulers. All drafts write their keys to the slots behind the committed ones; the model that ran last
owns them, and one that comes back runs what it needs again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autodraft.decoding.drafters import DraftContext
from autodraft.decoding.growth import ROOT, Growth
from autodraft.decoding.sources import State, TokenSource
from autodraft.decoding.step_times import StepTimes
from autodraft.decoding.workbench import DraftLevel
from autodraft.runtime import NEVER, Candidates, ChainStop, ChoiceNoise, DraftPlan, RoutedPlan, Rows, TransformerRuntime


class _Placed:
    """Which tokens a model has run this cycle, row by row; row i is in slot `cache.length + i`."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self._row_after: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def row(self, parent_row: int, token: int) -> int | None:
        return self._row_after.get((parent_row, token))

    def add(self, parent_row: int, token: int) -> int:
        row = len(self.tokens)
        self.tokens.append(token)
        self.parents.append(parent_row)
        self._row_after[parent_row, token] = row
        return row

    def straight(self, path: Sequence[int]) -> int:
        """How many tokens of a path lie in rows 0, 1, 2, ... one after the other."""
        for depth, token in enumerate(path):
            if self._row_after.get((depth - 1, token)) != depth:
                return depth
        return len(path)

    def forget(self, length: int) -> None:
        """Keep the first rows only."""
        for row in range(length, len(self.tokens)):
            del self._row_after[self.parents[row], self.tokens[row]]
        del self.tokens[length:], self.parents[length:]


class CacheWorkbench:
    """See `Workbench`. `begin` starts a cycle.

    Args:
        runtime: target and drafts.
        levels: the drafts in the cascade's order.
        plans: the plan of each draft; None for free ones.
        sources: the source of each draft; None for models.
        times: where measured steps are recorded.

    Attributes:
        model_s: seconds of drafts' forward passes so far.
        cycle_steps: what those of this cycle take on average, in target steps.
        cycle_calls: how often models were called in this cycle.
    """

    growth: Growth
    max_depth: int
    max_nodes: int
    cycle_steps: float
    cycle_calls: int

    def __init__(
        self,
        runtime: TransformerRuntime,
        levels: Sequence[DraftLevel],
        plans: Sequence[DraftPlan | RoutedPlan | None],
        sources: Sequence[TokenSource | None],
        times: StepTimes,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.levels, self.times = levels, times
        self.model_s = 0.0
        self._runtime, self._plans, self._sources = runtime, plans, sources
        self._clock = clock or runtime.clock

    def begin(self, context: DraftContext) -> None:
        """A new cycle: a tree with only the root."""
        self.growth = Growth(context.tokens[-1])
        self.max_depth, self.max_nodes = context.max_depth, context.max_nodes
        self.times.set_context(len(context.tokens))
        self.cycle_steps, self.cycle_calls = 0.0, 0
        self._context = context
        self._owner = -1
        self._placed = _Placed()
        self._states: list[dict[int, State]] = [{} for _ in self._sources]  # by draft: of each node asked for

    def continuations(self, draft: int, node: int, most: int) -> Sequence[tuple[int, int]]:
        source = self._sources[draft]
        assert source is not None, "a model is reviewed, not asked for continuations"
        states = self._states[draft]
        return source.candidates(states.get(node) or self._state(source, states, node), most)

    def _state(self, source: TokenSource, states: dict[int, State], node: int) -> State:
        """Of a node that is not known yet."""
        if node == ROOT:
            state = source.root()
        else:
            parent, token = self.growth.parents[node], self.growth.tokens[node]
            state = source.step(states.get(parent) or self._state(source, states, parent), token)
        states[node] = state
        return state

    def review(self, draft: int, nodes: Sequence[int], top: int) -> list[Candidates]:
        started = self._clock()
        rows, row_of = self._rows_for(draft, nodes)
        depths = [position - self._context.cache.length for position in rows.positions]
        plan = self._plan(draft)
        found = self._runtime.review(plan, self._context.cache, rows, top, self._noise(0, max(depths) + 1), depths)
        seconds = self._clock() - started
        self._spent(seconds, self.times.cost(draft, len(rows)))
        self.times.record(draft, len(rows), seconds)
        first = rows.slots[0] - self._context.cache.length
        return [found[row_of[node] - first] for node in nodes]

    def chain(self, draft: int, node: int, num_tokens: int, top: int, stop: ChainStop = NEVER) -> list[Candidates]:
        started = self._clock()
        placed, growth = self._placed_by(draft), self.growth
        path = [growth.tokens[step] for step in growth.path(node)]
        run = min(placed.straight(path), len(path) - 1)
        placed.forget(run)
        fed = path[run:]
        noise = self._noise(growth.depths[node], num_tokens)
        found = self._runtime.draft_chain(
            self._plan(draft), self._context.cache, fed, num_tokens, offset=run, top=top, stop=stop, noise=noise
        )
        for token in (*fed, *(candidates.tokens[0] for candidates in found[:-1])):
            placed.add(len(placed) - 1, token)
        seconds = self._clock() - started
        self._spent(seconds, self.times.cost(draft, len(fed)) + (len(found) - 1) * self.times.cost(draft, 1))
        if len(fed) == 1:
            self.times.record_chain(draft, len(found), seconds)
        elif len(found) == 1:
            self.times.record(draft, len(fed), seconds)
        return found

    def _spent(self, seconds: float, steps: float) -> None:
        self.model_s += seconds
        self.cycle_steps += steps
        self.cycle_calls += 1

    def _rows_for(self, draft: int, nodes: Sequence[int]) -> tuple[Rows, dict[int, int]]:
        """Rows of `nodes` and of the ancestors that are missing, and the row number of each node asked for."""
        placed, growth = self._placed_by(draft), self.growth
        deepest = growth.path(nodes[-1])
        path = [growth.tokens[step] for step in deepest]
        known = min(placed.straight(path), growth.depths[nodes[0]])
        if set(nodes) <= set(deepest[known:]):  # one path: what is not on it is overwritten
            placed.forget(known)
        elif len(placed) + sum(growth.depths[node] + 1 for node in nodes) > self.max_nodes:
            placed.forget(0)
        first, row_of = len(placed), {}
        for node in nodes:
            row = -1
            for step in growth.path(node):
                token = growth.tokens[step]
                at = placed.row(row, token)
                row = placed.add(row, token) if at is None else at
            row_of[node] = row
        if min(row_of.values()) < first:
            raise ValueError("a node that this draft has run already is reviewed again")
        length = self._context.cache.length
        if placed.parents == list(range(-1, len(placed) - 1)):
            return Rows.chain(placed.tokens[first:], length + first), row_of
        return Rows.tree(placed.tokens, placed.parents, length, first), row_of

    def _placed_by(self, draft: int) -> _Placed:
        if self._owner != draft:
            self._owner, self._placed = draft, _Placed()
        return self._placed

    def _plan(self, draft: int) -> DraftPlan | RoutedPlan:
        plan = self._plans[draft]
        assert plan is not None, "a free draft has no model"
        return plan

    def _noise(self, depth: int, count: int) -> ChoiceNoise | None:
        return self._context.noise(depth, count)

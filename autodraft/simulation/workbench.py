"""`SimulatedWorkbench`: the workbench over synthetic drafts and a virtual clock.

Knows nothing of schedulers. It counts forwards as the decoder's workbench does: the draft that ran last owns the slots
behind the committed ones, and one that comes back runs again what it needs. The clock's unit is the target step.
"""

from __future__ import annotations

from collections.abc import Sequence

from autodraft.decoding.growth import Growth
from autodraft.decoding.step_times import TARGET, CostPrior, StepTimes
from autodraft.decoding.workbench import DraftLevel
from autodraft.runtime.choosing import NEVER, Candidates, ChainStop
from autodraft.simulation.schedules import Schedule
from autodraft.simulation.truth import TRUE_TOKEN, Prefix, Truth
from autodraft.simulation.worlds import FreeDraft, ModelDraft, World

_MOST_NODES = 128
_DEEPEST = 64


class SimulatedWorkbench:
    """See `Workbench`. `begin` starts a cycle.

    Args:
        world: costs and drafts.
        schedule: which of the drafts are in the cascade; their numbers here are those of its entries.
        truth: what target and drafts say.

    Attributes:
        clock: target steps that have passed.
        draft_steps: those spent in drafts' forwards.
    """

    levels: Sequence[DraftLevel]
    growth: Growth

    def __init__(self, world: World, schedule: Schedule, truth: Truth) -> None:
        drafts = world.all_drafts
        self.levels = schedule.levels(world)
        self.max_depth, self.max_nodes = _DEEPEST, _MOST_NODES
        self.clock = self.draft_steps = 0.0
        self._numbers = [entry.draft for entry in schedule.entries]
        self._drafts = [drafts[number] for number in self._numbers]
        self._truth = truth
        curves = [_cost_prior(draft.cost) if isinstance(draft, ModelDraft) else None for draft in self._drafts]
        self._curves = {TARGET: _cost_prior(world.verify_cost)}
        self._curves |= {number: curve for number, curve in enumerate(curves) if curve is not None}
        self._costs: dict[tuple[int, int], float] = {}
        # What is known before measuring is right here; that it stays so is what the clock is for.
        self.times = StepTimes(self._curves[TARGET], curves)

    def begin(self, position: int) -> None:
        """A new cycle after the true text's first `position` tokens: a tree with only the root."""
        self.growth = Growth(TRUE_TOKEN)
        self._prefixes = [self._truth.at(position)]
        self._owner = -1
        self._has_run: set[int] = set()

    def continuations(self, draft: int, node: int, most: int) -> Sequence[tuple[int, int]]:
        level, number, prefix = self._drafts[draft], self._numbers[draft], self._prefix(node)
        assert isinstance(level, FreeDraft), "a model is reviewed, not asked for continuations"
        match = self._truth.match(number, prefix)
        if match < level.min_match:
            return []
        tokens, _ = self._truth.choices(number, prefix, min(most, level.num_choices))
        return [(token, rank * (level.longest_match + 1) + match) for rank, token in enumerate(tokens)]

    def review(self, draft: int, nodes: Sequence[int], top: int) -> list[Candidates]:
        self._take_over(draft)
        asked = [self._prefix(node) for node in nodes]
        needed = {self._prefix(step).code for node in nodes for step in self.growth.path(node)}
        rows = len((needed - self._has_run) | {prefix.code for prefix in asked})
        self._has_run |= needed
        self._spend(steps := self._cost(draft, rows))
        self.times.record(draft, rows, steps)
        return [self._candidates(draft, prefix, top) for prefix in asked]

    def chain(self, draft: int, node: int, num_tokens: int, top: int, stop: ChainStop = NEVER) -> list[Candidates]:
        self._take_over(draft)
        path = [self._prefix(step).code for step in self.growth.path(node)]
        known = next((depth for depth, code in enumerate(path) if code not in self._has_run), len(path))
        num_fed = len(path) - min(known, len(path) - 1)
        self._has_run = set(path)
        found: list[Candidates] = []
        prefix, reach, ended = self._prefix(node), stop.reach, False
        while not ended:
            candidates = self._candidates(draft, prefix, top)
            found.append(candidates)
            self._has_run.add(prefix.code)
            ended, reach = stop.ends_after(candidates.tokens[0], candidates.probs[0], reach)
            ended = ended or len(found) == num_tokens
            prefix = self._truth.after(prefix, candidates.tokens[0])
        steps = self._cost(draft, num_fed) + (len(found) - 1) * self._cost(draft, 1)
        self._spend(steps)
        if num_fed == 1:
            self.times.record_chain(draft, len(found), steps)
        elif len(found) == 1:
            self.times.record(draft, num_fed, steps)
        return found

    def verify(self, nodes: Sequence[int]) -> list[int]:
        """Run the target over the root and `nodes`; those that it accepts, from the root on."""
        rows = 1 + len(nodes)
        steps = self._cost(TARGET, rows)
        self.clock += steps
        self.times.record(TARGET, rows, steps)
        accepted, growth = [0], self.growth
        while (node := growth.child(accepted[-1], TRUE_TOKEN)) is not None and growth.kept[node]:
            accepted.append(node)
        return accepted

    def _prefix(self, node: int) -> Prefix:
        growth, prefixes = self.growth, self._prefixes
        for new in range(len(prefixes), node + 1):
            prefixes.append(self._truth.after(prefixes[growth.parents[new]], growth.tokens[new]))
        return prefixes[node]

    def _candidates(self, draft: int, prefix: Prefix, top: int) -> Candidates:
        return Candidates(*self._truth.choices(self._numbers[draft], prefix, top))

    def _take_over(self, draft: int) -> None:
        if self._owner != draft:
            self._owner, self._has_run = draft, set()

    def _spend(self, steps: float) -> None:
        self.clock += steps
        self.draft_steps += steps

    def _cost(self, model: int, rows: int) -> float:
        steps = self._costs.get((model, rows))
        if steps is None:
            steps = self._costs[model, rows] = self._curves[model].at(rows)
        return steps


def _cost_prior(points: dict[int, float]) -> CostPrior:
    """A curve; one of a single point is flat."""
    first = points[min(points)]
    return CostPrior(first, points if len(points) > 1 else {})

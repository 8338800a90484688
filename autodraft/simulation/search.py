"""`best_static`: the best schedule that does not change while decoding, by simulating all of a grid.

Knows nothing of how the schedulers work. What it finds is the bar that a scheduler which decides anew in every cycle
has to reach, without having been told the acceptance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from autodraft.cascade import Chain, Horizontal, StaticTree, Vertical, VerticalHorizontal
from autodraft.simulation.loop import Simulation, simulate
from autodraft.simulation.schedules import Entry, Schedule
from autodraft.simulation.truth import Truth
from autodraft.simulation.worlds import ModelDraft, World

LENGTHS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24)
THRESHOLDS = (0.2, 0.35, 0.5, 0.65, 0.8)
_TREES = ((2, 4), (2, 8), (2, 16), (3, 8), (3, 16))
_UPPER_LENGTHS = (1, 2, 3, 4, 6, 8, 12)
_LOWER_LENGTHS = (1, 2, 4, 8)
_FINALISTS = 5


@dataclass(frozen=True)
class Best:
    """The best schedule of those tried, and what it does on a text that had no part in choosing it."""

    schedule: Schedule
    simulation: Simulation
    num_tried: int


def best_static(world: World, *, num_tokens: int = 20_000, trial_tokens: int = 3_000, seed: int = 0) -> Best:
    """Try all static schedules on one text of `trial_tokens`, and the best few again on another of `num_tokens`."""
    trial, final = Truth(world, seed + 1), Truth(world, seed)
    schedules = list(static_schedules(world))
    tried = [(simulate(world, each, num_tokens=trial_tokens, truth=trial).speedup, each) for each in schedules]
    tried.sort(key=lambda pair: -pair[0])
    finals = [(simulate(world, each, num_tokens=num_tokens, truth=final), each) for _, each in tried[:_FINALISTS]]
    simulation, schedule = max(finals, key=lambda pair: pair[0].speedup)
    return Best(schedule, simulation, len(schedules))


def static_schedules(world: World) -> Iterator[Schedule]:
    """No draft at all, each draft alone as a chain or a tree, and each pair as a CS-Drafting cascade."""
    yield Schedule(Chain(), ())
    drafts = world.all_drafts
    for number in range(len(drafts)):
        for length, threshold in product(LENGTHS, _thresholds(world, number)):
            yield Schedule(Chain(), (Entry(number, length, threshold),))
        if drafts[number].second:
            for (branching, nodes), length in product(_TREES, (2, 4, 8)):
                yield Schedule(StaticTree(branching=branching, max_nodes=nodes), (Entry(number, length),))
    for upper, lower in product(range(len(drafts)), repeat=2):
        if upper < lower and isinstance(drafts[upper], ModelDraft):
            yield from _pairs(world, upper, lower)


def _pairs(world: World, upper: int, lower: int) -> Iterator[Schedule]:
    """An upper model and a lower draft; the upper one's threshold is varied as well."""
    for first, second, threshold in product(_UPPER_LENGTHS, _LOWER_LENGTHS, _thresholds(world, upper)[::2]):
        entries = (Entry(upper, first, threshold), Entry(lower, second))
        yield Schedule(Horizontal(), entries)
        if second < first:  # the upper draft adds a token of its own to those that it reviews
            yield Schedule(Vertical(), entries)
            yield Schedule(VerticalHorizontal(), entries)
    if not isinstance(world.all_drafts[lower], ModelDraft):  # free where it has a proposal, else the model
        for first, second in product(_UPPER_LENGTHS, _LOWER_LENGTHS):
            yield Schedule(Chain(), (Entry(lower, second), Entry(upper, first)))


def _thresholds(world: World, number: int) -> Sequence[float]:
    """Thresholds say something only where a draft's probabilities differ."""
    draft = world.all_drafts[number]
    return (0.0, *THRESHOLDS) if isinstance(draft, ModelDraft) and draft.concentration else (0.0,)

"""The best static schedule: where theory knows it, and chosen without looking at the text that counts."""

import pytest

from autodraft.cascade import Chain, StaticTree, Vertical
from autodraft.measure import formulas
from autodraft.simulation import Entry, FreeDraft, ModelDraft, Schedule, World, best_static, simulate
from autodraft.simulation.search import static_schedules
from tests.simulation.worlds import BOTH


@pytest.mark.parametrize(("alpha", "cost"), [(0.8, 0.05), (0.7, 0.2), (0.5, 0.1)])
def test_the_best_chain_is_about_the_formulas(alpha: float, cost: float) -> None:
    world = World(drafts=(ModelDraft(name="draft", alpha=alpha, cost={1: cost}),))
    best = best_static(world, num_tokens=30_000, trial_tokens=6_000)
    _, expected = formulas.best_num_draft_tokens(
        lambda n: formulas.tokens_per_cycle(alpha, n), cost, lambda rows: 1.0, longest=24
    )
    assert isinstance(best.schedule.scheduler, Chain)
    assert best.simulation.speedup == pytest.approx(expected, rel=0.015)


def test_useless_drafts_are_not_used() -> None:
    world = World(drafts=(ModelDraft(name="draft", alpha=0.2, cost={1: 0.6}),))
    assert best_static(world, num_tokens=1_000, trial_tokens=1_000).schedule.entries == ()


def test_what_is_found_is_what_simulating_it_again_gives() -> None:
    world = World(drafts=(ModelDraft(name="draft", alpha=0.8, cost={1: 0.1}),))
    best = best_static(world, num_tokens=2_000, trial_tokens=500, seed=11)
    assert simulate(world, best.schedule, num_tokens=2_000, truth=11) == best.simulation


def test_all_kinds_of_static_schedules_are_tried() -> None:
    kinds = {schedule.scheduler.kind for schedule in static_schedules(BOTH)}
    assert kinds == {"chain", "static-tree", "vertical", "horizontal", "vertical+horizontal"}


def test_a_schedule_says_what_it_is() -> None:
    drafts = (
        ModelDraft(name="int4", alpha=0.8, cost={1: 0.3}),
        FreeDraft(name="lookup", alpha=0.4),
    )
    world = World(drafts=drafts)
    assert (
        Schedule(Vertical(), (Entry(0, 6, 0.5), Entry(1, 3))).describe(world)
        == "vertical: int4 x6 until 0.5, lookup x3"
    )
    assert Schedule(StaticTree(branching=3, max_nodes=8), (Entry(0, 4),)).describe(world) == "static-tree 3/8: int4 x4"
    assert Schedule(Chain(), ()).describe(world) == "autoregressive"

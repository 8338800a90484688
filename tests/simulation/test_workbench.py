"""The simulated workbench: forwards are counted as the decoder's are, and every scheduler keeps to the protocol."""

from collections.abc import Sequence

import pytest

from autodraft.decoding.growth import ROOT
from autodraft.decoding.schedulers import make_scheduler
from autodraft.decoding.step_times import TARGET
from autodraft.decoding.workbench import Workbench
from autodraft.runtime.choosing import ChainStop
from autodraft.simulation import ModelDraft, Truth, World, default_schedule, simulate
from autodraft.simulation.schedules import SCHEDULERS
from autodraft.simulation.truth import TRUE_TOKEN
from autodraft.simulation.workbench import SimulatedWorkbench
from tests.simulation.worlds import BOTH


def new_bench(world: World = BOTH, position: int = 0) -> SimulatedWorkbench:
    bench = SimulatedWorkbench(world, default_schedule(world, "dytc"), Truth(world, 0))
    bench.begin(position)
    return bench


def sure_world() -> World:
    """Costs that tell the number of rows of every forward from the time that it took."""
    curve = {1: 1.01, 2: 1.04, 3: 1.09, 4: 1.16, 5: 1.25, 6: 1.36}
    drafts = tuple(ModelDraft(name=name, alpha=1.0, cost=curve) for name in ("one", "two"))
    return World(verify_cost={1: 1.0, 4: 1.3}, drafts=drafts)


def test_forwards_take_the_time_of_the_rows_that_have_not_been_run() -> None:
    bench = new_bench(sure_world())
    growth = bench.growth
    found = bench.chain(0, ROOT, 3, 1)
    assert [candidates.tokens[0] for candidates in found] == [TRUE_TOKEN] * 3
    assert bench.clock == pytest.approx(3 * 1.01)  # the root and two of its own tokens, one row each
    node = ROOT
    for candidates in found:
        node = growth.add(node, candidates.tokens[0], 0)
    bench.chain(0, node, 2, 1)
    assert bench.clock == pytest.approx(5 * 1.01)  # the third token is all that it lacked
    bench.review(1, [node], 1)
    assert bench.clock == pytest.approx(5 * 1.01 + 1.16)  # another model: root and three tokens
    bench.chain(0, node, 2, 1)
    assert bench.clock == pytest.approx(5 * 1.01 + 1.16 + 1.16 + 1.01)  # and the first one again from the root
    accepted = bench.verify(growth.kept_nodes())
    assert accepted == [0, 1, 2, 3]
    assert bench.clock == pytest.approx(bench.draft_steps + 1.3)


def test_a_review_of_siblings_runs_what_they_share_once() -> None:
    bench = new_bench(sure_world())
    first = bench.growth.add(ROOT, TRUE_TOKEN, 0)
    siblings = [bench.growth.add(first, token, 0) for token in (5, 6, 7)]
    found = bench.review(0, siblings, 2)
    assert len(found) == 3 and all(len(candidates.tokens) == 2 for candidates in found)
    assert bench.clock == pytest.approx(1.25)  # root, parent and the three


def test_measured_times_are_those_of_the_clock() -> None:
    bench = new_bench()
    for position in range(200):
        bench.begin(position)
        bench.chain(0, ROOT, 4, 1)
        bench.verify([])
    assert bench.times.cost(0, 1) == pytest.approx(0.3)
    assert bench.times.cost(TARGET, 16) == pytest.approx(1.25)
    assert bench.times.target_s == pytest.approx(1.0)


def test_a_chain_ends_where_its_stop_rule_says() -> None:
    bench = new_bench()
    ends = 0
    for position in range(300):
        bench.begin(position)
        probs = [candidates.probs[0] for candidates in bench.chain(0, ROOT, 8, 1, ChainStop(0.7))]
        assert all(prob >= 0.7 for prob in probs[:-1])
        ends += len(probs) < 8
        assert len(probs) == 8 or probs[-1] < 0.7
    assert ends > 100


class Watched:
    """Another scheduler, with the protocol's promises checked after every cycle."""

    def __init__(self, bench_world: World, name: str) -> None:
        schedule = default_schedule(bench_world, name)
        self._inner = make_scheduler(schedule.scheduler, schedule.levels(bench_world), guarded=False)
        self.cycles = 0

    def grow(self, bench: Workbench) -> None:
        self._inner.grow(bench)
        growth = bench.growth
        kept = growth.kept_nodes()
        assert len(kept) <= bench.max_nodes
        assert all(growth.kept[growth.parents[node]] and growth.depths[node] <= bench.max_depth for node in kept)
        growth.tree(kept)  # raises where it is no tree
        self.cycles += 1

    def observe(self, bench: Workbench, accepted: Sequence[int], steps: float) -> None:
        growth = bench.growth
        assert list(accepted) == growth.path(accepted[-1])
        assert all(growth.tokens[node] == TRUE_TOKEN for node in accepted[1:])
        assert steps >= 1.0
        self._inner.observe(bench, accepted, steps)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_keeps_its_promises(name: str) -> None:
    watched = Watched(BOTH, name)
    simulation = simulate(BOTH, default_schedule(BOTH, name), num_tokens=2_000, scheduler=watched)
    assert simulation.num_cycles == watched.cycles
    assert 2_000 <= simulation.num_tokens < 2_100
    assert sum(simulation.shares.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_simulation_can_be_repeated(name: str) -> None:
    schedule = default_schedule(BOTH, name)
    first, again = (simulate(BOTH, schedule, num_tokens=500, truth=3) for _ in range(2))
    assert first == again
    assert first != simulate(BOTH, schedule, num_tokens=500, truth=4)


def test_a_rate_that_free_drafts_lift_does_not_stop_models_at_first() -> None:
    """Six tokens per target step are no price for the time of a model that would never come to two."""
    world = World(verify_cost={1: 1.0, 8: 1.1}, drafts=(ModelDraft(name="good", alpha=0.8, cost={1: 0.2}),))
    schedule = default_schedule(world, "dytc")
    bench = new_bench(world)
    make_scheduler(schedule.scheduler, schedule.levels(world), guarded=False, rate=6.0).grow(bench)
    assert len(bench.growth.kept_nodes()) >= 3


def test_a_poor_draft_is_used_for_its_other_choices() -> None:
    """Its first choice alone, accepted in 4 of 10 cases, gains nothing at this cost; its best three do."""
    poor = ModelDraft(name="poor", alpha=0.4, cost={1: 0.35, 8: 0.4}, concentration=3.0, second=0.4)
    world = World(verify_cost={1: 1.0, 4: 1.05, 8: 1.1}, drafts=(poor,))
    assert simulate(world, default_schedule(world, "dytc"), num_tokens=4_000).speedup > 1.15


def test_without_drafts_every_cycle_is_one_step() -> None:
    simulation = simulate(BOTH, default_schedule(BOTH, "autoregressive"), num_tokens=100)
    assert (simulation.speedup, simulation.histogram) == (1.0, {1: 100})


def test_guarded_plans_pause_while_they_do_not_pay() -> None:
    useless = World(drafts=(ModelDraft(name="bad", alpha=0.05, cost={1: 0.5}),))
    schedule = default_schedule(useless, "chain")
    bare = simulate(useless, schedule, num_tokens=3_000)
    guarded = simulate(useless, schedule, num_tokens=3_000, guarded=True)
    assert bare.speedup < 0.5
    assert guarded.speedup > 0.95

"""What models and free drafts say is evidence about each other, in worlds where the truth is known."""

from __future__ import annotations

from autodraft.cascade import DyTC
from autodraft.decoding.acceptance import Calibration, ModelEvidence
from autodraft.decoding.growth import ROOT
from autodraft.decoding.schedulers.dytc import DyTCScheduler
from autodraft.decoding.schedulers.free_growth import FreeGrowth
from autodraft.runtime.choosing import ACCEPTANCE_BINS
from autodraft.simulation import FreeDraft, ModelDraft, Runs, Truth, World, default_schedule, simulate
from autodraft.simulation.workbench import SimulatedWorkbench

LOOKUP = FreeDraft(name="lookup", alpha=0.6, runs=Runs(length=8), min_match=1, num_draft_tokens=8)


def _world(alpha: float) -> World:
    model = ModelDraft(name="model", alpha=alpha, cost={1: 0.1, 16: 0.12}, second=0.4)
    return World(verify_cost={1: 1.0, 16: 1.1}, drafts=(model, LOOKUP))


def _scheduler_after(alpha: float) -> DyTCScheduler:
    world = _world(alpha)
    schedule = default_schedule(world, "dytc")
    scheduler = DyTCScheduler(DyTC(), schedule.levels(world))
    simulate(world, schedule, num_tokens=4000, scheduler=scheduler)
    return scheduler


def test_free_drafts_tokens_are_judged_by_what_a_model_chose_there_before_and_after() -> None:
    world = _world(0.9)
    schedule = default_schedule(world, "dytc")
    bench = SimulatedWorkbench(world, schedule, Truth(world, 0))
    own = len(schedule.levels(world)[1].class_priors) // 2
    calibration = Calibration(schedule.levels(world)[1].class_priors)
    position = 0
    bench.begin(position)
    while not bench.continuations(1, ROOT, 8):
        position += 1
        bench.begin(position)

    growth, free = bench.growth, FreeGrowth(bench, {1: calibration}, max_depth=1, max_nodes=8)
    free.grow([ROOT], 0.0)
    before = [(child, growth.evidence[child]) for child in growth.children(ROOT)]
    assert before and all(evidence < own for _, evidence in before)
    free.overrule(ROOT)
    free.overrule(ROOT)  # a second model says no more about them than the first
    for child, evidence in before:
        assert growth.evidence[child] == evidence + own
        assert growth.probs[child] == calibration.means[evidence + own] < calibration.means[evidence]

    bench.begin(position)
    growth, free = bench.growth, FreeGrowth(bench, {1: calibration}, max_depth=1, max_nodes=8)
    free.overrule(ROOT)
    free.grow([ROOT], 0.0)
    assert [growth.evidence[child] for child in growth.children(ROOT)] == [evidence + own for _, evidence in before]


def test_where_a_good_model_disagrees_a_match_is_seldom_right() -> None:
    free = _scheduler_after(0.97).calibration(1)
    own = len(free.means) // 2
    tried = [(free.means[i], free.means[own + i]) for i in range(own) if free.counts[own + i] > 20]
    assert tried and all(contradicted < 0.5 * plain for plain, contradicted in tried)


def test_tokens_on_which_model_and_match_agree_are_seldom_wrong() -> None:
    means = _scheduler_after(0.7).calibration(0)
    pairs = [
        (means.means[bin], means.means[ModelEvidence.AGREED + bin])
        for bin in range(ACCEPTANCE_BINS)
        if min(means.counts[bin], means.counts[ModelEvidence.AGREED + bin]) > 60
    ]
    assert pairs and all(agreed > alone for alone, agreed in pairs)

"""Composition of cascades on planted worlds: what is tried, and that the best measured one wins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from optuna.storages import InMemoryStorage

from autodraft.cascade import Cascade, Chain, DyTC, RoutedDraft, SelfDraft, StaticTree, unbounded
from autodraft.evaluator import chain_of, draft_of
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.profile_parts import WeightsFile
from autodraft.search.codec import cascade_digest, describe
from autodraft.search.compose import (
    AUTOMATON,
    ComposeOptions,
    arrangements,
    best_measured,
    cheaper_draft,
    compose,
    measure_survivors,
    neighbours,
    with_other_models,
)
from autodraft.search.conclude import finalists
from autodraft.search.loop import Clock, SearchLoop
from autodraft.search.objectives import Objectives
from autodraft.search.records import cascade_params
from autodraft.search.study import SearchStudy
from autodraft.search.testing import PlantedEvaluator

FOUR_BITS = DraftPolicy.uniform(4, 4)
CHEAPER = FOUR_BITS.replace({index: ChannelShares() for index in range(2, 6)})
CHAIN = Cascade(drafts=(SelfDraft(policy=FOUR_BITS, num_draft_tokens=4),))
SECOND = SelfDraft(policy=CHEAPER, num_draft_tokens=2, stop_threshold=0.2)
WEIGHTS = WeightsFile(file="draft.safetensors", sha256="0" * 64)
ROUTED = RoutedDraft(router=WeightsFile(file="router.safetensors", sha256="1" * 64), num_draft_tokens=5)


class DynamicWorld(PlantedEvaluator):
    """A planted world in which one kind of scheduler is faster than every other."""

    def true_speedup(self, cascade: Cascade) -> float:
        is_best = isinstance(cascade.scheduler, DyTC) and len(cascade.drafts) == 2
        return 5.0 if is_best else super().true_speedup(cascade)


@pytest.fixture
def loop() -> Iterator[SearchLoop]:
    world = DynamicWorld(4, timing_noise=0.0)  # cascades that are equally fast are level
    loop = SearchLoop(SearchStudy(InMemoryStorage(), "test", Objectives()), world, Clock(None))
    for policy in (FOUR_BITS, CHEAPER, DraftPolicy.uniform(4, 8)):
        loop.predicted[policy.digest] = (policy, world.predict(policy))
    loop.measure("measure", chain_of(FOUR_BITS, world.predict(FOUR_BITS)), None, done=0, total=1)
    yield loop


def test_every_kind_of_scheduler_is_tried_once_with_valid_settings() -> None:
    found = list(arrangements(CHAIN, SECOND, ComposeOptions()))
    assert len({cascade_digest(cascade) for cascade in found}) == len(found)
    kinds = {cascade.scheduler.kind for cascade in found}
    assert kinds == {"chain", "static-tree", "vertical", "horizontal", "vertical+horizontal", "dytc"}
    assert any(len(cascade.policies) == 2 for cascade in found)
    for cascade in found:
        assert Cascade.model_validate_json(cascade.model_dump_json()) == cascade
        assert cascade.scheduler.kind in describe(cascade)


def test_without_free_drafts_only_models_are_arranged() -> None:
    found = list(arrangements(CHAIN, None, ComposeOptions(free_drafts=False)))
    assert {draft.kind for cascade in found for draft in cascade.drafts} == {"self-draft"}
    assert {type(cascade.scheduler) for cascade in found} == {DyTC, StaticTree}


@pytest.mark.parametrize(
    "scheduler", [Chain(), DyTC(), StaticTree(), StaticTree(max_nodes=128), StaticTree(max_nodes=2)]
)
def test_neighbours_are_valid_and_differ_from_their_cascade(scheduler: Chain | DyTC | StaticTree) -> None:
    cascade = CHAIN.model_copy(update={"scheduler": scheduler})
    found = list(neighbours(cascade, ComposeOptions()))
    assert len(found) >= 2 and cascade not in found
    assert all(Cascade.model_validate(each.model_dump()) == each for each in found)


def test_the_second_draft_costs_clearly_less(loop: SearchLoop) -> None:
    second = cheaper_draft(loop, CHAIN)
    assert second is not None and second.policy == CHEAPER
    costs = {policy.digest: evaluation.cost for policy, evaluation in loop.predicted.values()}
    assert costs[second.policy.digest] < 0.75 * costs[FOUR_BITS.digest]


def test_the_fastest_arrangement_is_found_and_meets_the_simpler_kinds(loop: SearchLoop) -> None:
    compose(loop, ComposeOptions())
    assert loop.best is not None
    best = loop.best.cascade
    assert isinstance(best.scheduler, DyTC) and len(best.drafts) == 2
    chosen = finalists(loop, ComposeOptions())
    assert chosen["joint"] == best
    assert isinstance(chosen["chain"].scheduler, Chain) and chosen["chain"].policies
    assert [draft.kind for draft in chosen["prompt-lookup"].drafts] == ["prompt-lookup"]


@pytest.mark.parametrize("seed", range(8))
def test_a_moment_in_which_the_machine_favours_speculation_makes_nobody_the_best(seed: int) -> None:
    world = PlantedEvaluator(4, seed, drift=0.2, timing_noise=0.002)
    loop = SearchLoop(SearchStudy(InMemoryStorage(), "test", Objectives()), world, Clock(None))
    for policy in (FOUR_BITS, CHEAPER, DraftPolicy.uniform(4, 8)):
        loop.predicted[policy.digest] = (policy, world.predict(policy))
    measure_survivors(loop, ComposeOptions())
    compose(loop, ComposeOptions())
    best = best_measured(loop, with_draft=True)
    measured = [cascade for cascade, _ in loop.measured.values() if cascade.models]
    assert best is not None and len(measured) > 10
    assert world.true_speedup(best.cascade) > 0.99 * max(map(world.true_speedup, measured))
    assert loop.best is not None and loop.best.cascade == best.cascade
    spread = {evaluation.speedup / world.true_speedup(cascade) for cascade, evaluation in loop.measured.values()}
    assert max(spread) > 1.2 * min(spread)  # by their speedups alone others would have won


def test_cascades_of_a_refitted_draft_keep_its_weights_in_every_arrangement() -> None:
    chain = Cascade(drafts=(SelfDraft(policy=FOUR_BITS, weights=WEIGHTS, num_draft_tokens=4),))
    for cascade in (*arrangements(chain, None, ComposeOptions()), *neighbours(chain, ComposeOptions())):
        drafts = [draft for draft in cascade.drafts if isinstance(draft, SelfDraft)]
        assert all(draft.weights == WEIGHTS for draft in drafts)
    mixed = [cascade for cascade in arrangements(chain, SECOND, ComposeOptions()) if len(cascade.policies) == 2]
    assert mixed and all([draft.weights for draft in cascade.drafts[:2]] == [WEIGHTS, None] for cascade in mixed)


def test_a_refitted_draft_is_measured_composed_and_meets_the_untrained_ones(loop: SearchLoop) -> None:
    evaluation = loop.evaluator.predict(CHEAPER, WEIGHTS)
    assert evaluation.speedup > loop.evaluator.predict(CHEAPER).speedup
    loop.refitted["refitted"] = (draft_of(CHEAPER, evaluation, weights=WEIGHTS), evaluation)
    measure_survivors(loop, ComposeOptions(num_finalists=1))
    measured = [cascade for cascade, _ in loop.measured.values() if cascade.policies]
    assert [draft.weights for cascade in measured for draft in cascade.drafts].count(WEIGHTS) == 1
    compose(loop, ComposeOptions())
    chosen = finalists(loop, ComposeOptions())
    assert WEIGHTS in [draft.weights for draft in chosen["joint"].drafts if isinstance(draft, SelfDraft)]
    others = [draft.weights for draft in chosen["untrained"].drafts if isinstance(draft, SelfDraft)]
    assert others and set(others) == {None}


def test_other_measured_models_take_the_place_of_the_first_one(loop: SearchLoop) -> None:
    def measured(name: str, draft: SelfDraft | RoutedDraft, speedup: float) -> None:
        evaluation = replace(loop.evaluator.predict(CHEAPER), fidelity="measured", speedup=speedup)
        loop.measured[name] = (Cascade(drafts=(draft,)), evaluation)

    own = SelfDraft(policy=FOUR_BITS, num_draft_tokens=5)
    slower, faster = SelfDraft(policy=CHEAPER), SelfDraft(policy=FOUR_BITS, weights=WEIGHTS, num_draft_tokens=7)
    for name, draft, speedup in (
        ("own", own, 1.6),
        ("slow", slower, 1.2),
        ("fast", faster, 1.4),
        ("routed", ROUTED, 2),
    ):
        measured(name, draft, speedup)  # type: ignore[arg-type]
    loop.measured["lookup"] = (Cascade(drafts=(AUTOMATON,)), loop.evaluator.predict(CHEAPER))
    behind = Cascade(drafts=(AUTOMATON, own))
    assert with_other_models(loop, behind) == [Cascade(drafts=(AUTOMATON, other)) for other in (faster, slower)]
    free = Cascade(drafts=(unbounded(own), AUTOMATON), scheduler=DyTC())
    assert with_other_models(loop, free)[0] == free.model_copy(update={"drafts": (unbounded(faster), AUTOMATON)})
    assert with_other_models(loop, Cascade(drafts=(AUTOMATON, ROUTED))) == []


def test_a_refitted_draft_that_loses_alone_is_still_arranged(loop: SearchLoop) -> None:
    slow = loop.evaluator.predict(CHEAPER, WEIGHTS)
    draft = SelfDraft(policy=CHEAPER, weights=WEIGHTS, num_draft_tokens=1)
    loop.measured["slow"] = (Cascade(drafts=(draft,)), replace(slow, fidelity="measured", speedup=0.5))
    compose(loop, ComposeOptions())
    arranged = [cascade for cascade, _ in loop.measured.values() if len(cascade.drafts) > 1]
    assert any(each.weights for cascade in arranged for each in cascade.drafts if isinstance(each, SelfDraft))
    assert any(not each.weights for cascade in arranged for each in cascade.drafts if isinstance(each, SelfDraft))


def test_cascades_of_a_routed_draft_keep_its_router_in_every_arrangement() -> None:
    chain = Cascade(drafts=(ROUTED,))
    found = [*arrangements(chain, SECOND, ComposeOptions()), *neighbours(chain, ComposeOptions())]
    assert len(found) > 12
    for cascade in found:
        assert Cascade.model_validate_json(cascade.model_dump_json()) == cascade
        assert all(draft.router == ROUTED.router for draft in cascade.models if isinstance(draft, RoutedDraft))
    assert any([draft.kind for draft in cascade.models] == ["routed-draft", "self-draft"] for cascade in found)


def test_a_routed_draft_is_measured_composed_and_meets_the_untrained_ones(loop: SearchLoop) -> None:
    options = ComposeOptions(num_finalists=1, routed=(ROUTED,))
    measure_survivors(loop, options)
    alone = [cascade for cascade, _ in loop.measured.values() if cascade.drafts == (ROUTED,)]
    assert len(alone) == 1 and cheaper_draft(loop, alone[0]) is None  # what costs 0.1 is no cheaper second draft
    compose(loop, options)
    arranged = [cascade for cascade, _ in loop.measured.values() if len(cascade.drafts) > 1]
    assert any(isinstance(draft, RoutedDraft) for cascade in arranged for draft in cascade.drafts)
    assert any(isinstance(draft, SelfDraft) for cascade in arranged for draft in cascade.drafts)  # it lost alone
    chosen = finalists(loop, options)
    kinds = [{type(draft) for draft in cascade.models} for cascade in chosen.values()]
    assert any(RoutedDraft in kind for kind in kinds) and {SelfDraft} in kinds
    for cascade, _ in loop.measured.values():
        params = cascade_params(cascade)
        assert ("num_draft_tokens" in params) == bool(cascade.models)

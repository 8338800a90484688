"""Agents as searchers, on planted worlds: optimum, interactions, resuming, failures, threads."""

from __future__ import annotations

import random
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from optuna.storages import InMemoryStorage

from autodraft.benchmarks.planted_worlds import greedy_skipping
from autodraft.envs import JointPolicyEnv
from autodraft.errors import InputError
from autodraft.evaluator import Evaluation, TrialFailed
from autodraft.policies.choices import Budgets
from autodraft.policy import DraftPolicy
from autodraft.profile_parts import WeightsFile
from autodraft.search.agents.algorithms import AGENTS, AgentSettings, make_agent
from autodraft.search.agents.inverted import InvertedEvaluator
from autodraft.search.agents.searcher import AgentSearcher
from autodraft.search.loop import Clock, SearchLoop
from autodraft.search.objectives import Objectives
from autodraft.search.pipeline import PipelineOptions, explore_policies
from autodraft.search.proposals import Searcher
from autodraft.search.study import SearchStudy, open_storage
from autodraft.search.testing import PlantedEvaluator


def explored(world: PlantedEvaluator, name: str, trials: int, seed: int = 0, folder: Path | None = None) -> SearchLoop:
    storage = InMemoryStorage() if folder is None else open_storage(None, folder)
    loop = SearchLoop(SearchStudy(storage, "test", Objectives()), world, Clock(None))
    explore_policies(loop, PipelineOptions(name, num_trials=trials, seed=seed))
    return loop


def best(loop: SearchLoop) -> float:
    return max(evaluation.speedup for _, evaluation in loop.predicted.values())


@pytest.mark.parametrize("name, trials", [("maskable-ppo", 120), ("ppo", 120), ("a2c", 160), ("hierarchical", 200)])
def test_controllers_find_the_planted_optimum_and_random_does_not(name: str, trials: int) -> None:
    world = PlantedEvaluator(3)
    optimum = world.optimum()
    assert best(explored(world, name, trials)) >= 0.98 * optimum
    assert best(explored(world, "random", 60)) < 0.98 * optimum


@pytest.mark.slow
@pytest.mark.parametrize("name, trials", [("maskable-ppo", 200), ("hierarchical", 200)])
@pytest.mark.parametrize("seed", [0, 1])
def test_controllers_find_what_greedy_skipping_cannot(seed: int, name: str, trials: int) -> None:
    world = PlantedEvaluator(5, seed, hub=0.5)
    optimum = world.optimum()
    assert greedy_skipping(world) < 0.98 * optimum
    assert best(explored(world, name, trials, seed)) >= 0.98 * optimum


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_leaves_no_log_folder_behind(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SB3_LOGDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert len(explored(PlantedEvaluator(2), name, 25).predicted) > 20  # more than its first policies: it has learnt
    assert not list(tmp_path.glob("SB3-*"))


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", ["maskable-ppo", "a2c", "td3", "hierarchical"])
def test_a_killed_search_goes_on_with_the_same_curve(name: str, tmp_path: Path) -> None:
    class Dying(PlantedEvaluator):
        def predict(self, policy: DraftPolicy, weights: WeightsFile | None = None) -> Evaluation:
            if self.predictions == 25:
                raise Killed
            return super().predict(policy, weights)

    whole = explored(PlantedEvaluator(2), name, 45)
    with pytest.raises(Killed):
        explored(Dying(2), name, 45, folder=tmp_path)
    rest = PlantedEvaluator(2)
    resumed = explored(rest, name, 45, folder=tmp_path)
    assert list(resumed.predicted.items()) == list(whole.predicted.items())
    assert rest.predictions == len(whole.predicted) - 25
    assert not [thread for thread in threading.enumerate() if thread.daemon and thread.name.startswith("agent")]


def test_what_the_evaluator_does_to_random_states_changes_nothing() -> None:
    class Noisy(PlantedEvaluator):
        def predict(self, policy: DraftPolicy, weights: WeightsFile | None = None) -> Evaluation:
            torch.rand(self.predictions + 1), np.random.rand(3), random.random()
            return super().predict(policy, weights)

    torch.manual_seed(1)
    before = torch.get_rng_state()
    quiet = explored(PlantedEvaluator(2), "maskable-ppo", 40)
    assert torch.equal(before, torch.get_rng_state())
    assert list(explored(Noisy(2), "maskable-ppo", 40).predicted) == list(quiet.predicted)


def test_failures_are_answers_too() -> None:
    world = PlantedEvaluator(2)
    first = next(iter(explored(world, "ppo", 30).predicted.values()))[0]
    loop = explored(PlantedEvaluator(2, failing=frozenset({first.digest})), "ppo", 30)
    (failed,) = [trial for trial in loop.study.study.get_trials() if "fail_reason" in trial.user_attrs]
    assert failed.user_attrs["digest"] == first.digest and len(loop.predicted) > 10


@pytest.mark.parametrize("limits", [Budgets(max_cost=0.35), Budgets(max_extra_bytes=1500), Budgets(0.5, 6000)])
@pytest.mark.parametrize("name", ["maskable-ppo", "hierarchical", "sac"])
def test_agents_ask_only_for_what_the_budgets_allow(name: str, limits: Budgets) -> None:
    world = PlantedEvaluator(3)
    searcher = AgentSearcher(name, world.features, 0, budgets=limits)
    for _ in range(30):
        proposal = searcher.ask()
        assert proposal is not None
        cost, size = world.features.cost(proposal.policy), world.features.extra_bytes(proposal.policy)
        assert limits.max_cost is None or cost <= limits.max_cost + 1e-6
        assert limits.max_extra_bytes is None or size <= limits.max_extra_bytes
        searcher.tell(proposal, world.predict(proposal.policy))
    searcher.close()


def test_an_error_of_the_learner_reaches_whoever_asks() -> None:
    def learn(evaluator: InvertedEvaluator) -> None:
        evaluator.predict(DraftPolicy.uniform(2))
        raise ValueError("planted")

    world = PlantedEvaluator(2)
    evaluator = InvertedEvaluator(world.features, learn)
    assert evaluator.next_question() == DraftPolicy.uniform(2)
    with pytest.raises(RuntimeError, match="answer the last"):
        evaluator.next_question()
    evaluator.answer(world.predict(DraftPolicy.uniform(2)))
    with pytest.raises(ValueError, match="planted"):
        evaluator.next_question()
    evaluator.close()


def test_a_learner_that_finishes_has_no_more_questions_and_failures_are_raised_in_it() -> None:
    failures = []

    def learn(evaluator: InvertedEvaluator) -> None:
        try:
            evaluator.predict(DraftPolicy.uniform(2))
        except TrialFailed as error:
            failures.append(str(error))

    evaluator = InvertedEvaluator(PlantedEvaluator(2).features, learn)
    assert evaluator.next_question() is not None
    evaluator.answer(None)
    assert evaluator.next_question() is None and evaluator.next_question() is None
    assert failures == ["the search could not evaluate this policy"]


def test_searchers_are_closed_by_the_loop_whatever_happens() -> None:
    class Recording(Searcher):
        name = "recording"
        closed = 0

        def ask(self) -> None:
            raise Killed

        def tell(self, proposal: object, evaluation: object) -> None: ...

        def close(self) -> None:
            self.closed += 1

    searcher = Recording()
    loop = SearchLoop(SearchStudy(InMemoryStorage(), "test", Objectives()), PlantedEvaluator(2), Clock(None))
    with pytest.raises(Killed):
        loop.explore("explore", searcher, most=3)
    assert searcher.closed == 1


def test_wrong_settings_give_one_line() -> None:
    env = JointPolicyEnv(PlantedEvaluator(2))
    with pytest.raises(InputError, match=f"no agent 'dqn'; choose one of {', '.join(AGENTS)}"):
        make_agent("dqn", env, AgentSettings(), 0)
    with pytest.raises(InputError, match="unknown agent setting 'gamma'"):
        AgentSettings.from_json({"gamma": 0.9})
    with pytest.raises(InputError, match="learning_rate is -1"):
        AgentSettings(learning_rate=-1)
    with pytest.raises(InputError, match="shaping 'predicted' is unknown"):
        AgentSettings(shaping="predicted")
    assert AgentSettings.from_json(AgentSettings(width=8).to_json()).width == 8

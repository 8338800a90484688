"""Learning from what was evaluated for other budgets."""

from __future__ import annotations

import numpy as np
import pytest
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from autodraft.envs import JointPolicyEnv
from autodraft.policies.choices import Budgets
from autodraft.policies.construction import Construction, Plan
from autodraft.policies.observation import Observer
from autodraft.policies.rollout import roll_out
from autodraft.policy import DraftPolicy
from autodraft.search.agents.algorithms import AgentSettings, chooser, make_agent
from autodraft.search.agents.hierarchical import ControllerPair
from autodraft.search.agents.hindsight import Archive, Hindsight, demonstration
from autodraft.search.testing import PlantedEvaluator

WORLD = PlantedEvaluator(3)
FEATURES = WORLD.features
SLOW, FAST = DraftPolicy.uniform(3, 8), DraftPolicy.uniform(3, 4).replace({2: DraftPolicy.uniform(3, 8).sub_layers[2]})


def archive() -> Archive:
    known = Archive(FEATURES)
    known.add(SLOW, 1.5)
    known.add(FAST, 1.2)
    return known


def test_the_best_that_fits_and_of_those_alike_the_one_that_takes_least() -> None:
    known = archive()
    assert known.best(Budgets()) == SLOW
    assert known.best(Budgets(max_cost=FEATURES.cost(FAST) + 1e-6)) == FAST
    assert known.best(Budgets(max_extra_bytes=FEATURES.extra_bytes(FAST))) == FAST
    assert known.best(Budgets(max_cost=0.1)) is None
    known.add(FAST, 1.49)
    assert known.best(Budgets()) == FAST


@pytest.mark.parametrize("plan", [Plan.joint, Plan.layers])
def test_a_demonstration_decides_the_policy_it_was_given(plan: object) -> None:
    built = plan(JointPolicyEnv(WORLD, channels=False).plan.table)  # type: ignore[operator]
    policy = FAST.replace({4: SLOW.sub_layers[0].__class__()})
    construction = Construction(built, Budgets(0.9))
    for seen, mask, option in demonstration(built, Observer(built), policy, Budgets(0.9)):
        assert mask[option] and (seen == Observer(built)(construction)).all()
        construction.take(option)
    assert construction.is_finished
    assert construction.kept == tuple(not shares.is_skipped for shares in policy.sub_layers)
    assert built.open or construction.policy() == policy


def test_lessons_teach_one_controller_a_policy_for_each_budget() -> None:
    env = JointPolicyEnv(WORLD, channels=False)
    agent = make_agent("maskable-ppo", env, AgentSettings(), seed=0)
    assert isinstance(agent, OnPolicyAlgorithm)
    hindsight, random = Hindsight(agent, env.plan, given_layers=False), np.random.default_rng(0)
    known, full = Archive(FEATURES), DraftPolicy.uniform(3, 16)
    known.add(full, 2.0)
    known.add(FAST, 1.2)
    for number in range(120):
        hindsight.lesson(known, random, 1.0 - number / 120)
    for budgets, wanted in ((Budgets(), full), (Budgets(max_cost=0.5), FAST)):
        construction = Construction(env.plan, budgets)
        assert roll_out(construction, Observer(env.plan), chooser(agent)).policy() == wanted


def test_a_channel_controller_is_taught_given_the_layer_decision() -> None:
    pair = ControllerPair(WORLD, AgentSettings(), 0, channels=False)
    plan = pair.channels.get_env().get_attr("plan")[0]  # type: ignore[union-attr]
    assert isinstance(pair.channels, OnPolicyAlgorithm)
    hindsight, random, known = (
        Hindsight(pair.channels, plan, given_layers=True),
        np.random.default_rng(0),
        Archive(FEATURES),
    )
    skipped = FAST.replace({1: SLOW.sub_layers[0].__class__()})
    known.add(skipped, 1.4)
    for _ in range(15):
        hindsight.lesson(known, random)
    kept = Plan.channels(plan.table, [index != 1 for index in range(6)])
    assert roll_out(Construction(kept, Budgets(0.9)), Observer(kept), chooser(pair.channels)).policy() == skipped

"""The environments against Gymnasium's and SB3's checkers, and against figures computed by hand."""

from __future__ import annotations

import math
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_sb3_env

import autodraft.envs as envs
from autodraft.errors import InputError
from autodraft.evaluator import chain_of
from autodraft.policy_text import decode_policy
from autodraft.search.testing import PlantedEvaluator

NAMES = list(envs.ENVIRONMENTS)
SEQUENTIAL = [name for name in NAMES if name != "OneShot"]
VARIANTS: list[dict[str, Any]] = [
    {},
    {"sample_budget": True, "shaping": "proxy"},
    {"max_cost": 0.5, "max_extra_bytes": 8000, "protect_ends": True, "min_kept_share": 0.5},
]


def make(name: str, evaluator: Any = None, **arguments: Any) -> gym.Env[Any, Any]:
    return gym.make(f"autodraft.envs:AutoDraft/{name}-v0", evaluator=evaluator or PlantedEvaluator(3), **arguments)


def rollout(env: gym.Env[Any, Any], seed: int, **options: Any) -> tuple[list[Any], list[float], dict[str, Any]]:
    """Observations, rewards and the last info of an episode of random allowed actions."""
    seen, info = env.reset(seed=seed, options=options or None)
    observations, rewards, random = [seen], [], np.random.default_rng(seed)
    finished = False
    while not finished:
        mask = env.unwrapped.action_masks()
        if isinstance(env.action_space, gym.spaces.MultiDiscrete):
            rows = mask.reshape(len(env.action_space.nvec), -1)
            action: Any = np.array([random.choice(np.flatnonzero(row)) for row in rows])
        else:
            action = int(random.choice(np.flatnonzero(mask)))
        seen, reward, finished, truncated, info = env.step(action)
        assert not truncated
        observations.append(seen)
        rewards.append(float(reward))
    return observations, rewards, info


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", NAMES)
def test_checkers_find_nothing(name: str, variant: dict[str, Any]) -> None:
    env = make(name, render_mode="rgb_array", **variant)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
        check_sb3_env(env.unwrapped)


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_checkers_find_nothing_in_the_continuous_form(name: str) -> None:
    env = envs.ContinuousChoices(make(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_sb3_env(env)
    middles = [(2 * option + 1) / env._num_options - 1 for option in range(env._num_options)]
    assert [env.action(np.array([middle])) for middle in middles] == list(range(env._num_options))
    assert (env.action(np.array([-1.0])), env.action(np.array([1.0]))) == (0, env._num_options - 1)


@pytest.mark.parametrize("name", NAMES)
def test_measured_ids_are_registered_as_nondeterministic_and_reward_what_was_measured(name: str) -> None:
    world = PlantedEvaluator(3, timing_noise=0.0)
    env = make(f"{name}Measured", world)
    assert env.spec is not None and env.spec.nondeterministic
    _, rewards, info = rollout(env, seed=1)
    policy = decode_policy(info["policy"])
    assert info["fidelity"] == "measured" and world.measurements == 1
    assert math.exp(rewards[-1]) == pytest.approx(world.true_speedup(chain_of(policy, world.predict(policy))))


def test_a_fidelity_schedule_measures_after_so_many_predictions() -> None:
    env = make("JointPolicyMeasured", PlantedEvaluator(2), predicted_episodes=2)
    fidelities = [rollout(env, seed)[2]["fidelity"] for seed in range(4)]
    assert fidelities == ["predicted", "predicted", "measured", "measured"]


@pytest.mark.parametrize("name", NAMES)
def test_the_last_reward_is_the_log_of_the_predicted_speedup_of_the_policy_in_info(name: str) -> None:
    world = PlantedEvaluator(3)
    _, rewards, info = rollout(make(name, world), seed=3)
    evaluation = world.predict(decode_policy(info["policy"]))
    assert rewards[:-1] == [0.0] * (len(rewards) - 1)
    assert rewards[-1] == pytest.approx(math.log(evaluation.speedup))
    assert info["c"] == evaluation.cost and info["tau"] == evaluation.tokens_per_cycle
    assert info["top1_agreement"] == evaluation.top1_agreement and info["alpha"] == 0.0


@pytest.mark.parametrize("shaping", ["proxy", "predicted"])
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_shaping_changes_every_return_by_the_same_constant(name: str, shaping: str) -> None:
    differences, early = [], []
    kept = [True, True, False, True, True, False]
    for seed in range(6):
        options: dict[str, Any] = {"kept": kept} if name == "ChannelController" else {}
        plain, shaped = (rollout(make(name, shaping=kind), seed, **options) for kind in ("none", shaping))
        assert plain[2]["policy"] == shaped[2]["policy"]
        early += shaped[1][:-1]
        differences.append(sum(shaped[1]) - sum(plain[1]))
    assert max(differences) - min(differences) < 1e-9 and any(early)


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_same_episode_and_info_has_the_same_keys_throughout(name: str) -> None:
    first, second = (rollout(make(name, sample_budget=True), seed=5) for _ in range(2))
    assert first[1] == second[1] and first[2] == second[2]
    assert all(np.array_equal(a, b) for a, b in zip(first[0], second[0], strict=True))
    assert make(name).reset(seed=0)[1].keys() == first[2].keys()
    third = rollout(make(name, sample_budget=True), seed=6)
    assert not np.array_equal(first[0][0], third[0][0])


@pytest.mark.parametrize("name", NAMES)
def test_any_action_is_taken_as_the_nearest_that_keeps_the_budgets(name: str) -> None:
    world = PlantedEvaluator(4)
    env = make(name, world, max_cost=0.3, max_extra_bytes=9000, min_kept_share=0.3)
    env.action_space.seed(0)
    for seed in range(10):
        env.reset(seed=seed)
        finished = False
        while not finished:
            *_, finished, _, info = env.step(env.action_space.sample())
        policy = decode_policy(info["policy"])
        assert world.features.cost(policy) <= 0.3 + 1e-6 and world.features.extra_bytes(policy) <= 9000
        assert 8 - policy.num_skipped >= 3


def test_budgets_of_an_episode_are_seen_and_kept() -> None:
    world = PlantedEvaluator(3)
    env = make("JointPolicy", world)
    names = env.unwrapped._observer.layout.names
    seen, _ = env.reset(seed=0, options={"max_cost": 0.4})
    assert seen[names.index("cost_budget")] == pytest.approx(0.4)
    assert seen[names.index("memory_budget")] == 1
    for seed in range(5):
        info = rollout(env, seed, max_cost=0.4, max_extra_bytes=2000)[2]
        policy = decode_policy(info["policy"])
        assert world.features.cost(policy) <= 0.4 + 1e-6 and world.features.extra_bytes(policy) <= 2000
    assert env.reset(seed=0)[0][names.index("cost_budget")] == 1


def test_a_policy_that_cannot_run_ends_with_the_penalty() -> None:
    world = PlantedEvaluator(2)
    policy = rollout(make("JointPolicy", world), seed=0)[2]["policy"]
    failing = PlantedEvaluator(2, failing=frozenset({decode_policy(policy).digest}))
    _, rewards, info = rollout(make("JointPolicy", failing), seed=0)
    assert rewards[-1] == envs.FAILURE_REWARD and info["fidelity"] == "failed" and info["speedup"] == 0


def test_a_layer_decision_is_given_or_drawn() -> None:
    env = make("ChannelController")
    kept = [True, False, True, True, False, True]
    info = rollout(env, 0, kept=kept)[2]
    assert [not shares.is_skipped for shares in decode_policy(info["policy"]).sub_layers] == kept
    drawn = {
        tuple(s.is_skipped for s in decode_policy(rollout(env, seed)[2]["policy"]).sub_layers) for seed in range(9)
    }
    assert len(drawn) > 3


def test_a_layer_controller_runs_what_it_keeps_at_given_bits_or_as_a_channel_controller_says() -> None:
    info = rollout(make("LayerController", kept_bits=8), 1)[2]
    policy = decode_policy(info["policy"])
    assert policy.head_bits == 8 and {shares.mean_bits for shares in policy.sub_layers} == {0, 8}
    calls = []

    def complete(kept: tuple[bool, ...], budgets: Any) -> Any:
        calls.append(kept)
        return policy

    assert rollout(make("LayerController", complete=complete), 2)[2]["policy"] == info["policy"]
    assert len(calls) == 1


def test_the_one_shot_mask_is_what_each_decision_allows_alone() -> None:
    world = PlantedEvaluator(2)
    env = make("OneShot", world, max_cost=0.16)
    env.reset(seed=0)
    rows = env.unwrapped.action_masks().reshape(5, -1)
    joint = make("JointPolicy", world, max_cost=0.16)
    joint.reset(seed=0)
    assert (rows[-1] == joint.unwrapped.action_masks()).all()
    assert rows[:4, 0].all() and not rows[:, -1].any() and not rows[4, 0]


@pytest.mark.parametrize("name", NAMES)
def test_maps_show_what_is_decided(name: str) -> None:
    env = make(name, render_mode="ansi")
    env.reset(seed=0)
    undecided = env.render()
    assert undecided.splitlines()[0].startswith("attention") and ("?" in undecided)
    rollout(env, 0)
    assert "?" not in env.render()
    image = make(name, render_mode="rgb_array")
    rollout(image, 0)
    pixels = image.render()
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


def test_gymnasium_copies_specs_but_no_evaluators() -> None:
    class NoCopy(PlantedEvaluator):
        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("an evaluator was copied")

    world = NoCopy(2)
    env = gym.wrappers.TimeLimit(make("JointPolicy", world), 100)
    assert env.spec is not None
    assert gym.make(env.spec).unwrapped.evaluator is world


def test_vector_environments_stack() -> None:
    vector = gym.make_vec(
        "AutoDraft/JointPolicy-v0", num_envs=2, vectorization_mode="sync", evaluator=PlantedEvaluator(2)
    )
    vector.reset(seed=0)
    for _ in range(5):
        _, rewards, _, _, infos = vector.step(np.array([2, 3]))
    assert rewards.shape == (2,) and infos["speedup"].shape == (2,) and (infos["speedup"] > 0).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"min_kept_share": 2.0}, "between 0 and 1"),
        ({"max_cost": -1.0}, "positive share"),
        ({"max_extra_bytes": -1}, "cannot be negative"),
        ({"shaping": "magic"}, "shaping 'magic' is unknown"),
        ({"fidelity": "dreamt"}, "fidelity 'dreamt' is unknown"),
        ({"render_mode": "human"}, "render_mode 'human' is unknown"),
    ],
)
def test_wrong_arguments_give_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        envs.JointPolicyEnv(PlantedEvaluator(2), **arguments)
    assert "\n" not in str(caught.value)


def test_wrong_reset_options_give_one_line() -> None:
    env = make("ChannelController").unwrapped
    with pytest.raises(InputError, match="unknown reset option 'budget'"):
        env.reset(options={"budget": 1})
    with pytest.raises(InputError, match="the least that a policy takes"):
        env.reset(options={"max_cost": 0.01})
    with pytest.raises(InputError, match="a flag for each of 6"):
        env.reset(options={"kept": [True]})
    with pytest.raises(InputError, match="reset the environment first"):
        make("JointPolicy").unwrapped.step(0)
    with pytest.raises(InputError, match="this device offers"):
        envs.LayerControllerEnv(PlantedEvaluator(2), kept_bits=3)
    with pytest.raises(InputError, match="sequential"):
        envs.ContinuousChoices(make("OneShot"))

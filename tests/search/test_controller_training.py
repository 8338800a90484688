"""Training of controllers: resuming, agent files, refusals, tuning."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

from autodraft.errors import AutodraftError, InputError
from autodraft.policies import PolicyFeatures
from autodraft.policies.choices import Budgets
from autodraft.policy import DraftPolicy
from autodraft.search.agents.algorithms import AGENTS, AgentSettings
from autodraft.search.agents.curve import Episode
from autodraft.search.agents.files import load_decider, read_card
from autodraft.search.agents.training import ControllerTraining
from autodraft.search.agents.training_options import TrainingOptions
from autodraft.search.agents.tuning import tune_settings
from autodraft.search.cached import CachedEvaluator, calibrated_in
from autodraft.search.plans import decided
from autodraft.search.testing import PlantedEvaluator


class Killed(Exception):
    pass


def kill_at(number: int) -> Any:
    def on_episode(episode: Episode) -> None:
        if episode.number == number:
            raise Killed

    return on_episode


@pytest.mark.parametrize("name", AGENTS)
def test_a_killed_training_goes_on_as_if_nothing_had_happened(name: str, tmp_path: Path) -> None:
    world, options = PlantedEvaluator(2), TrainingOptions(name, episodes=80, seed=1)
    whole = ControllerTraining(world, options, tmp_path / "whole")
    whole.run()
    with pytest.raises(Killed):
        ControllerTraining(world, options, tmp_path / "killed", kill_at(70)).run()
    resumed = ControllerTraining(world, options, tmp_path / "killed")
    assert 0 < len(resumed.episodes) < 70
    path = resumed.run()
    assert resumed.episodes == whole.episodes
    budgets = Budgets(0.4)
    policy = whole.decider(budgets).decide(world.features)
    assert policy == load_decider(path, world.features, budgets).decide(world.features)
    assert world.features.cost(policy) <= 0.4 + 1e-6


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    options = TrainingOptions("maskable-ppo", episodes=400)
    return ControllerTraining(PlantedEvaluator(3), options, folder).run()


def test_one_controller_decides_for_budgets_it_was_never_given(trained: Path) -> None:
    world = PlantedEvaluator(3)
    features = world.features
    speedups = []
    for cost in (0.2, 0.3, 0.45, 0.7):
        policy = load_decider(trained, features, Budgets(max_cost=cost)).decide(features)
        assert features.cost(policy) <= cost + 1e-6
        speedups.append(world.predict(policy).speedup)
    memory = load_decider(trained, features, Budgets(max_extra_bytes=0)).decide(features)
    assert features.extra_bytes(memory) == 0 and not any(shares.eight or shares.four for shares in memory.sub_layers)
    assert max(speedups) >= 0.95 * world.optimum()


def test_a_controller_decides_for_models_of_another_depth(trained: Path) -> None:
    other = PlantedEvaluator(5, seed=3)
    policy = load_decider(trained, other.features, Budgets()).decide(other.features)
    assert len(policy.blocks) == 5 and other.predict(policy).speedup > other.predict(policy.uniform(5)).speedup
    step = decided(load_decider(trained, other.features, Budgets(0.5)), other.features)
    proposals = [step.make([]).ask() for _ in range(step.trials)]
    assert all(proposal is not None and other.features.cost(proposal.policy) <= 0.5 + 1e-6 for proposal in proposals)


def test_the_card_says_what_the_agent_is(trained: Path) -> None:
    card = read_card(trained)
    assert card.algorithm == "maskable-ppo" and card.episodes == 400 and card.num_blocks == 3
    assert card.trained_on == dict(PlantedEvaluator(3).identity) and card.sample_budget
    assert "cost_budget" in card.observation


def copied(trained: Path, folder: Path) -> Path:
    for file in (trained, trained.with_suffix(".json")):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder / trained.name


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemError('this was run')",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_an_agent_that_is_used_runs_no_code_of_its_file(trained: Path, tmp_path: Path) -> None:
    """Even with a card that agrees: pickles inside are never loaded."""
    path = copied(trained, tmp_path)
    with zipfile.ZipFile(trained) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["policy.pth"] = pickle.dumps(Evil())
    members["data"] = json.dumps({"policy_class": {":serialized:": "gASV"}}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    card = json.loads(path.with_suffix(".json").read_text())
    card["files"]["joint"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(InputError, match="not the networks that its card describes"):
        load_decider(path, PlantedEvaluator(3).features, Budgets())


def refused(path: Path, features: PolicyFeatures | None = None, budgets: Budgets | None = None) -> str:
    with pytest.raises(AutodraftError) as caught:
        world = PlantedEvaluator(3)
        load_decider(path, features or world.features, budgets or Budgets()).decide(features or world.features)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_foreign_damaged_and_unfitting_files_give_one_line(trained: Path, tmp_path: Path) -> None:
    assert "no such agent file" in refused(tmp_path / "agent.zip")
    path = copied(trained, tmp_path)
    path.write_bytes(path.read_bytes() + b"x")
    assert "checksum" in refused(path)
    path.with_suffix(".json").unlink()
    assert "its card agent.json is missing" in refused(path)
    path = copied(trained, tmp_path)
    path.with_suffix(".json").write_text("{}")
    assert "not the card of an agent" in refused(path)
    features = PlantedEvaluator(3).features
    fewer = type(features)(**{**features.__dict__, "available_bits": (16, 8)})
    assert "learnt with 16, 8, 4 bits, this device offers 16, 8" in refused(trained, fewer)
    assert "no policy fits" in refused(trained, budgets=Budgets(max_cost=0.01))
    card = json.loads(trained.with_suffix(".json").read_text())
    path = copied(trained, tmp_path)
    path.with_suffix(".json").write_text(json.dumps({**card, "observation": ["colour"]}))
    assert "another version of autodraft" in refused(path)


def test_a_folder_holds_one_training(trained: Path) -> None:
    with pytest.raises(InputError, match="a training with other algorithm, seed"):
        ControllerTraining(PlantedEvaluator(3), TrainingOptions("a2c", seed=4), trained.parent)
    longer = ControllerTraining(PlantedEvaluator(3), TrainingOptions("maskable-ppo", episodes=430), trained.parent)
    assert len(longer.episodes) == 400
    with pytest.raises(InputError, match="no agent 'dqn'"):
        TrainingOptions("dqn")


def test_optuna_tunes_an_agent_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    world, options = PlantedEvaluator(2), TrainingOptions("maskable-ppo", episodes=16)
    calls: list[int] = []
    tune_settings(world, options, tmp_path, 2, lambda done, best: calls.append(done))
    settings = tune_settings(world, options, tmp_path, 3, lambda done, best: calls.append(done))
    assert calls == [1, 2, 3] and isinstance(settings, AgentSettings)
    assert tune_settings(world, options, tmp_path, 3) == settings


def test_predictions_are_remembered_across_runs_and_cut_off_lines(tmp_path: Path) -> None:
    first = PlantedEvaluator(2)
    policy = DraftPolicy.uniform(2, 4)
    cached = calibrated_in(first, tmp_path)
    evaluation = cached.predict(policy)
    assert cached.predict(policy) == evaluation and first.predictions == 1
    path = tmp_path / "predictions.jsonl"
    path.write_text(path.read_text() + '{"digest": "cut o')
    second = PlantedEvaluator(2)
    assert calibrated_in(second, tmp_path).predict(policy) == evaluation and second.predictions == 0
    with pytest.raises(InputError, match="another model, device or setting"):
        CachedEvaluator(PlantedEvaluator(3), path)

"""The whole search on planted worlds: optimum found, resume, failures, conclusions."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage

from autodraft.cascade import SelfDraft
from autodraft.evaluator import Evaluation
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.profile_parts import WeightsFile
from autodraft.search.conclude import Conclusion, finalists
from autodraft.search.loop import Best, Clock, SearchLoop, SearchProgress
from autodraft.search.objectives import Objectives
from autodraft.search.pipeline import PipelineOptions, explore_policies, search_cascade
from autodraft.search.plans import SEARCHERS, is_bits_only, is_skip_only
from autodraft.search.study import SearchStudy, open_storage
from autodraft.search.testing import PlantedEvaluator

STORAGES: dict[Path, InMemoryStorage] = {}


def make_loop(
    folder: Path, world: PlantedEvaluator, objectives: Objectives | None = None, **arguments: object
) -> SearchLoop:
    on_disk = arguments.pop("on_disk", False)
    storage = open_storage(None, folder) if on_disk else STORAGES.setdefault(folder, InMemoryStorage())
    study = SearchStudy(storage, "test", objectives or Objectives())
    study.check_identity(world.identity)
    return SearchLoop(study, world, Clock(None), **arguments)  # type: ignore[arg-type]


def best_found(loop: SearchLoop) -> float:
    return max(evaluation.speedup for _, evaluation in loop.predicted.values())


@pytest.mark.parametrize("searcher", [name for name in SEARCHERS if name != "gp"])
def test_every_searcher_runs(tmp_path: Path, searcher: str) -> None:
    loop = make_loop(tmp_path, PlantedEvaluator(3))
    explore_policies(loop, PipelineOptions(searcher, num_trials=15))
    assert 5 < len(loop.predicted) <= 15
    trials = loop.study.study.get_trials()
    assert len(trials) == len(loop.predicted)
    assert all(trial.user_attrs["fidelity"] == "predicted" for trial in trials)


def test_gaussian_processes_run(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, PlantedEvaluator(2))
    explore_policies(loop, PipelineOptions("gp", num_trials=10))
    assert len(loop.predicted) >= 8


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("searcher,trials", [("staged", 120), ("tpe", 80), ("evolution", 200)])
def test_planted_optimum_is_found(tmp_path: Path, searcher: str, trials: int, seed: int) -> None:
    world = PlantedEvaluator(3, seed)
    optimum = world.optimum()
    loop = make_loop(tmp_path, world)
    explore_policies(loop, PipelineOptions(searcher, num_trials=trials, seed=seed))
    assert best_found(loop) >= 0.98 * optimum


def test_random_search_does_not_find_it(tmp_path: Path) -> None:
    shares = []
    for seed in range(3):
        world = PlantedEvaluator(3, seed)
        loop = make_loop(tmp_path / str(seed), world)
        explore_policies(loop, PipelineOptions("random", num_trials=80, seed=seed))
        shares.append(best_found(loop) / world.optimum())
    assert sorted(shares)[1] < 0.98


def test_search_concludes_with_a_measured_cascade_that_loses_to_no_simpler_kind(tmp_path: Path) -> None:
    world = PlantedEvaluator(4)
    seen: list[SearchProgress] = []
    bests: list[Best] = []
    loop = make_loop(tmp_path, world, on_progress=seen.append, on_best=bests.append)
    conclusion = search_cascade(loop, PipelineOptions(num_trials=40))
    assert {"joint", "skip-only", "bits-only", "prompt-lookup"} <= set(conclusion.finalists)
    assert conclusion.best is not None and conclusion.best.evaluation.fidelity == "measured"
    assert all(best.evaluation.speedup <= conclusion.best.evaluation.speedup for best in conclusion.finalists.values())
    assert is_skip_only(conclusion.finalists["skip-only"].cascade.policies[0])
    assert is_bits_only(conclusion.finalists["bits-only"].cascade.policies[0])
    assert conclusion.cascade == conclusion.best.cascade
    assert next(progress.stage for progress in seen) == "seeds" and seen[-1].stage == "conclude"
    # The first bests are predicted; once something is measured only measured ones follow.
    fidelities = [best.evaluation.fidelity for best in bests]
    assert fidelities == sorted(fidelities, reverse=True) and fidelities[-1] == "measured"
    assert loop.study.study.best_trial.user_attrs["fidelity"] == "measured"


def test_nothing_faster_concludes_autoregressive(tmp_path: Path) -> None:
    world = PlantedEvaluator(3, best_possible=0.1, timing_noise=0.02)
    loop = make_loop(tmp_path, world)
    options = PipelineOptions(num_trials=25)
    object.__setattr__(options.compose, "free_drafts", False)
    conclusion = search_cascade(loop, options)
    assert conclusion.cascade.is_autoregressive
    assert conclusion.best is not None and conclusion.best.evaluation.speedup < 1


def test_running_again_repeats_nothing_and_concludes_the_same(tmp_path: Path) -> None:
    first = PlantedEvaluator(3)
    conclusion = search_cascade(make_loop(tmp_path, first, on_disk=True), PipelineOptions(num_trials=30))
    again = PlantedEvaluator(3)
    loop = make_loop(tmp_path, again, on_disk=True)
    repeated = search_cascade(loop, PipelineOptions(num_trials=30))
    assert (again.predictions, again.measurements) == (0, 0)
    assert repeated.cascade == conclusion.cascade
    assert names_of(repeated) == names_of(conclusion)


def names_of(conclusion: Conclusion) -> dict[str, float]:
    return {name: best.evaluation.speedup for name, best in conclusion.finalists.items()}


class Killed(Exception):
    pass


@pytest.mark.parametrize("searcher", ["staged", "nsga2", "evolution"])
def test_interrupted_search_continues_as_if_nothing_had_happened(tmp_path: Path, searcher: str) -> None:
    class Dying(PlantedEvaluator):
        def predict(self, policy: DraftPolicy, weights: WeightsFile | None = None) -> Evaluation:
            if self.predictions == 17:
                raise Killed
            return super().predict(policy, weights)

    options = PipelineOptions(searcher, num_trials=30)
    whole = make_loop(tmp_path / "whole", PlantedEvaluator(3))
    explore_policies(whole, options)
    with pytest.raises(Killed):
        explore_policies(make_loop(tmp_path / "killed", Dying(3)), options)
    rest = PlantedEvaluator(3)
    resumed = make_loop(tmp_path / "killed", rest)
    explore_policies(resumed, options)
    assert list(resumed.predicted) == list(whole.predicted)
    assert rest.predictions == len(whole.predicted) - 17


def test_a_candidate_that_does_not_fit_is_pruned_with_its_reason(tmp_path: Path) -> None:
    failing = DraftPolicy.uniform(3, 8)
    loop = make_loop(tmp_path, PlantedEvaluator(3, failing=frozenset({failing.digest})))
    explore_policies(loop, PipelineOptions(num_trials=20))
    (failed,) = [trial for trial in loop.study.study.get_trials() if "fail_reason" in trial.user_attrs]
    assert failed.state.name == "PRUNED" and "out of memory" in failed.user_attrs["fail_reason"]
    assert len(loop.predicted) == 19


def test_memory_limit_and_front(tmp_path: Path) -> None:
    world = PlantedEvaluator(3)
    loop = make_loop(tmp_path, world, Objectives(("speedup", "memory")), max_extra_bytes=3000)
    conclusion = search_cascade(loop, PipelineOptions("nsga2", num_trials=30, objectives=loop.study.objectives))
    assert all(evaluation.extra_bytes <= 3000 for _, evaluation in loop.predicted.values())
    assert any(not trial.user_attrs["feasible"] for trial in loop.study.study.get_trials())
    front = loop.study.objectives.front(list(loop.predicted.values()))
    assert [e.extra_bytes for _, e in front] == sorted((e.extra_bytes for _, e in front), reverse=True)
    assert conclusion.best is not None and finalists(loop, PipelineOptions().compose)


def test_refitted_drafts_are_candidates_at_every_bit_width_and_known_again(tmp_path: Path) -> None:
    weights = WeightsFile(file="draft.safetensors", sha256="0" * 64)
    half = DraftPolicy.uniform(3, 4).replace({2: ChannelShares(), 3: ChannelShares(), 4: ChannelShares()})
    options = PipelineOptions(num_trials=12, refitted=(SelfDraft(policy=half, weights=weights),))
    world = PlantedEvaluator(3)
    loop = make_loop(tmp_path, world)
    conclusion = search_cascade(loop, options)
    kept = {tuple(shares.is_skipped for shares in draft.policy.sub_layers) for draft, _ in loop.refitted.values()}
    assert len(kept) == 1 and {draft.policy.head_bits for draft, _ in loop.refitted.values()} == {16, 8, 4}
    assert all(draft.weights == weights for draft, _ in loop.refitted.values())
    assert len(loop.refitted) == 3 and half.digest not in {key.split("/")[1] for key in loop.predicted}
    assert {"joint", "prompt-lookup"} <= set(conclusion.finalists)

    again = make_loop(tmp_path, world)
    before = (world.predictions, world.measurements)
    resumed = search_cascade(again, options)
    assert (world.predictions, world.measurements) == before
    assert again.refitted == loop.refitted and resumed.cascade == conclusion.cascade


def test_without_refitted_drafts_a_finished_study_takes_them_up_later(tmp_path: Path) -> None:
    weights = WeightsFile(file="draft.safetensors", sha256="0" * 64)
    search_cascade(make_loop(tmp_path, PlantedEvaluator(3)), PipelineOptions(num_trials=12))
    loop = make_loop(tmp_path, PlantedEvaluator(3))
    draft = SelfDraft(policy=DraftPolicy.uniform(3, 4), weights=weights)
    search_cascade(loop, PipelineOptions(num_trials=12, refitted=(draft,)))
    measured = [cascade for cascade, _ in loop.measured.values()]
    assert any(isinstance(each, SelfDraft) and each.weights for cascade in measured for each in cascade.drafts)

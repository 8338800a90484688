"""A whole search over a tiny random model: profile, files, resume, interruption, comparison of searchers."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autodraft.cascade import Cascade, DyTC, PromptLookup, SelfDraft, SuffixAutomaton, TokenRecycling
from autodraft.configuration import SearchJob, load_search_job
from autodraft.decoding import CascadeDecoder
from autodraft.errors import InputError
from autodraft.evaluator import Evaluation, Rival
from autodraft.measure.prompts import TokenPrompt
from autodraft.policy import DraftPolicy
from autodraft.profile import DraftProfile
from autodraft.runtime import LoadedModel, build_runtime
from autodraft.search.compare import compare_searchers
from autodraft.search.loop import SearchProgress
from autodraft.search.run import RunningSearch
from autodraft.search.runtime_evaluator import EvaluatorOptions, RuntimeEvaluator
from autodraft.search.testing import PlantedEvaluator
from tests.runtime.tiny import tiny_model


class Letters:
    """Stands in for a tokenizer."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) % 97 for letter in text]}


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    fingerprint = {"config": "0" * 64, "weights": "1" * 64}
    runtime = build_runtime(tiny_model("llama"), max_length=256)
    return LoadedModel(runtime, Letters(), "tiny", "tiny", 1, None, fingerprint, frozenset())


def job(folder: Path, **settings: Any) -> SearchJob:
    defaults = {"num_trials": 8, "num_prompts": 2, "new_tokens_per_prompt": 8, "calibration_tokens": 64,
                "num_finalists": 1, "hf_baseline": False, "output": folder, "budget_minutes": 0.05}  # fmt: skip
    return SearchJob(**{**defaults, **settings})  # type: ignore[arg-type]


def search(
    folder: Path, loaded: LoadedModel, seen: list[SearchProgress] | None = None, **settings: Any
) -> DraftProfile:
    listener = seen.append if seen is not None else None
    folder.mkdir(exist_ok=True)
    return RunningSearch(job(folder, **settings), loaded, folder, time.monotonic(), listener).run()


def test_measurements_teach_what_to_expect_of_free_drafts(loaded: LoadedModel) -> None:
    prompts = [TokenPrompt("p", "code", (1, 2, 3, 4) * 8), TokenPrompt("q", "code", tuple(range(5, 30)))]
    options = EvaluatorOptions(new_tokens_per_prompt=24, calibration_tokens=64, latency_s=0.0)
    evaluator = RuntimeEvaluator(loaded, prompts, prompts, options)
    evaluator.calibrate()
    lookup = SuffixAutomaton(num_draft_tokens=6)
    assert evaluator.prior(lookup).acceptance_by_class == ()
    measured = evaluator.measure(Cascade(drafts=(lookup,), scheduler=DyTC()))
    assert evaluator.prior(lookup).acceptance_by_class == measured.acceptance_by_class[0] != ()
    assert evaluator.prior(SuffixAutomaton(min_match=3)).acceptance_by_class == measured.acceptance_by_class[0]
    assert evaluator.prior(TokenRecycling()).acceptance_by_class == ()
    assert evaluator.measure(Cascade(drafts=(lookup,))).acceptance_by_class == ((),)  # a chain does not learn that
    assert Evaluation.from_json(json.loads(json.dumps(measured.to_json()))) == measured


def test_a_cascade_is_ranked_by_what_was_measured_beside_its_rival(loaded: LoadedModel) -> None:
    prompts = [TokenPrompt(str(number), "code", tuple(range(number, number + 9))) for number in range(5)]
    options = EvaluatorOptions(new_tokens_per_prompt=16, calibration_tokens=64, latency_s=0.0)
    evaluator = RuntimeEvaluator(loaded, prompts, prompts, options)
    evaluator.calibrate()
    useless = SelfDraft(policy=DraftPolicy.uniform(loaded.runtime.spec.num_blocks, 16), num_draft_tokens=16)
    slow, fast = Cascade(drafts=(useless,)), Cascade(drafts=(PromptLookup(),))
    alone = evaluator.measure(slow)
    assert alone.standing is None and alone.score == alone.speedup and not alone.stopped_early
    beside = evaluator.measure(slow, Rival(fast, 7.0))
    assert beside.standing is not None and beside.score == beside.standing > 0
    assert 4 <= len(beside.per_prompt) <= 5 and beside.stopped_early == (len(beside.per_prompt) < 5)


def test_a_search_leaves_a_profile_and_resumes_without_repeating(
    tmp_path: Path, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[SearchProgress] = []
    profile = search(tmp_path, loaded, seen)
    assert DraftProfile.load(tmp_path / "profile.json") == profile
    assert profile.measurement is not None and 2 <= profile.measurement.num_prompts <= 16
    assert "autoregressive" in {baseline.name for baseline in profile.baselines}
    profile.check_target(loaded.fingerprint, 3, 2, 1)
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages[0] == "calibrate" and stages[-1] == "baselines" and "measure" in stages
    document = json.loads((tmp_path / "search.json").read_text())
    assert document["conclusion"] == profile.conclusion and document["finalists"]
    assert (tmp_path / "trials.csv").read_text().startswith("number,state,")

    def refuse(*arguments: object) -> None:
        raise AssertionError("evaluated again")

    monkeypatch.setattr(RuntimeEvaluator, "predict", refuse)
    monkeypatch.setattr(RuntimeEvaluator, "measure", refuse)
    monkeypatch.setattr(RuntimeEvaluator, "compare", refuse)
    again = search(tmp_path, loaded)
    assert again.cascade == profile.cascade and again.measurement == profile.measurement


def test_a_search_measures_at_the_temperature_that_its_profile_is_for(
    tmp_path: Path, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = CascadeDecoder.generate, set()

    def generate(self: CascadeDecoder, *arguments: Any, **options: Any) -> Any:
        seen.add(options["sampling"].temperature)
        return original(self, *arguments, **options)

    monkeypatch.setattr(CascadeDecoder, "generate", generate)
    profile = search(tmp_path, loaded, temperature=0.7)
    assert seen == {0.7}
    assert profile.measurement is not None and profile.measurement.temperature == 0.7
    with pytest.raises(InputError, match="measuring settings"):
        search(tmp_path, loaded)


def test_a_search_of_byte_planes_may_add_no_memory_and_is_a_study_of_its_own(
    tmp_path: Path, loaded: LoadedModel
) -> None:
    runtime = build_runtime(tiny_model("llama").half().float(), max_length=256, byte_planes=True)
    in_planes = replace(loaded, runtime=runtime)
    profile = search(tmp_path, in_planes, max_extra_bytes=0)
    assert profile.target.byte_planes and sum(draft.extra_bytes for draft in profile.priors.drafts) == 0
    with pytest.raises(InputError, match="model"):
        search(tmp_path, replace(loaded, runtime=build_runtime(tiny_model("llama").half().float(), max_length=256)))


def test_interruption_leaves_the_best_so_far(
    tmp_path: Path, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = RuntimeEvaluator.predict, []

    def interrupted(self: RuntimeEvaluator, *candidate: Any) -> Any:
        calls.append(candidate)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, *candidate)

    monkeypatch.setattr(RuntimeEvaluator, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, loaded)
    profile = DraftProfile.load(tmp_path / "profile.json")
    assert profile.measurement is None and profile.predicted is not None
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 4


def test_a_search_killed_at_its_last_baselines_keeps_its_measurement(
    tmp_path: Path, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: RunningSearch) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunningSearch, "_hf_baselines", killed)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, loaded, hf_baseline=True)
    monkeypatch.setattr(RunningSearch, "_hf_baselines", lambda self: [])
    profile = search(tmp_path, loaded, hf_baseline=True)
    assert profile.measurement is not None and "autoregressive" in {baseline.name for baseline in profile.baselines}


def test_out_of_memory_ends_one_trial_only(
    tmp_path: Path, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autodraft.measure.agreement import AgreementMeter

    original = AgreementMeter.measure

    def full(self: AgreementMeter, policy: DraftPolicy, **settings: Any) -> Any:
        if policy == DraftPolicy.uniform(3, 8):
            raise MemoryError("planted")
        return original(self, policy, **settings)

    monkeypatch.setattr(AgreementMeter, "measure", full)
    monkeypatch.setattr("autodraft.measure.latency.LatencyTable.useful_bits", property(lambda table: table.bits))
    search(tmp_path, loaded)
    assert "out of memory: planted" in (tmp_path / "trials.csv").read_text()


def test_resolved_config_is_a_job(tmp_path: Path) -> None:
    original = job(tmp_path)
    original.save(tmp_path)
    assert load_search_job(tmp_path / "config.yaml") == original


def test_searchers_are_compared_at_equal_budgets() -> None:
    results = compare_searchers(PlantedEvaluator(4), num_trials=40, measure_s=1.0)
    by_method = {result.method: result for result in results}
    assert set(by_method) == {"random", "uniform bits", "block influence", "knapsack", "evolution", "tpe", "staged"}
    assert all(result.num_evaluations <= 40 and result.measured is not None for result in results)
    assert by_method["staged"].predicted.speedup >= max(
        by_method[name].predicted.speedup for name in ("random", "uniform bits", "block influence")
    )
    assert all(list(result.history) == sorted(result.history) for result in results)
    json.dumps([result.to_json() for result in results])

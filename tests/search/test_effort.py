"""How much a measurement takes on slow models: sizes, finalists, and that a search keeps to them on resuming."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage

from autodraft.cascade import Cascade
from autodraft.evaluator import Evaluation, Rival
from autodraft.measure.agreement import AgreementMeter
from autodraft.measure.hf import HFBaseline
from autodraft.measure.prompts import TokenPrompt
from autodraft.runtime import LoadedModel
from autodraft.search.effort import Effort, affordable
from autodraft.search.loop import Clock, SearchLoop
from autodraft.search.objectives import Objectives
from autodraft.search.pipeline import PipelineOptions, search_cascade
from autodraft.search.run import _affordable_hf
from autodraft.search.runtime_evaluator import EvaluatorOptions, RuntimeEvaluator
from autodraft.search.study import SearchStudy
from autodraft.search.testing import PlantedEvaluator
from tests.search.test_run import loaded, search  # noqa: F401  (a fixture)

MOST = Effort(12, 64)
TIMES = st.floats(1e-4, 10.0)


@given(seconds=st.floats(0.0, 1e4), step_s=TIMES, prefill_s=st.lists(TIMES, min_size=12, max_size=12))
def test_a_measurement_takes_its_time_or_the_least_that_says_anything(
    seconds: float, step_s: float, prefill_s: list[float]
) -> None:
    effort = affordable(MOST, seconds, prefill_s, step_s)
    assert 4 <= effort.num_prompts <= 12 and 16 <= effort.new_tokens <= 64
    decoding_s = effort.num_prompts * effort.new_tokens * step_s
    took = sum(prefill_s[: effort.num_prompts]) + 3 * effort.repeats * decoding_s
    assert took <= seconds or effort == Effort(4, 16)
    assert affordable(MOST, 2 * seconds, prefill_s, step_s).num_prompts >= effort.num_prompts
    assert 1 <= effort.repeats <= 3 and (effort.repeats == 1 or effort == replace(MOST, repeats=effort.repeats))


def test_a_fast_model_is_measured_in_full_more_than_once_and_small_settings_stay_as_they_are() -> None:
    assert affordable(MOST, 15.0, [0.01] * 12, 1e-3) == MOST
    assert affordable(MOST, 30.0, [0.01] * 12, 1e-3) == replace(MOST, repeats=2)
    assert affordable(MOST, 100.0, [0.01] * 12, 1e-3) == replace(MOST, repeats=3)
    assert affordable(Effort(2, 8), 0.0, [1.0, 1.0], 1.0) == Effort(2, 8)


@pytest.mark.parametrize("seconds,windows", [(None, 16), (1e9, 16), (1e-6, 5)])
def test_calibration_takes_fewer_windows_of_text_where_there_is_no_time_for_more(
    seconds: float | None,
    windows: int,
    loaded: LoadedModel,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = []
    target_rows = AgreementMeter.target_rows

    def noting(meter: AgreementMeter, most_windows: int | None = None) -> Any:
        taken.append(most_windows)
        return target_rows(meter, most_windows)

    monkeypatch.setattr(AgreementMeter, "target_rows", noting)
    prompts = [TokenPrompt("p", "code", tuple(range(5, 25)))] * 4
    evaluator = RuntimeEvaluator(loaded, prompts, [], EvaluatorOptions(calibration_tokens=128, latency_s=0.0))
    evaluator.sensitivity_s = seconds
    evaluator.calibrate()
    assert set(taken) == {windows, None}  # block influence takes all of them


@pytest.mark.parametrize("seconds,prompts", [(None, 8), (1e9, 8), (1e-6, 4)])
def test_predictions_look_at_fewer_continuations_where_that_would_take_too_long_and_again_when_resumed(
    seconds: float | None,
    prompts: int,
    loaded: LoadedModel,  # noqa: F811
) -> None:
    texts = [TokenPrompt("p", "code", tuple(range(5 + i, 25 + i))) for i in range(9)]
    options = EvaluatorOptions(calibration_tokens=256, latency_s=0.0)
    evaluator, resumed = (RuntimeEvaluator(loaded, texts, [], options) for _ in range(2))
    evaluator.prediction_s = seconds
    state = evaluator.calibrate()
    assert len(evaluator.meter.sequences) == prompts
    assert resumed.calibrate(state) == state and len(resumed.meter.sequences) == prompts
    del state["num_prompts"]  # as earlier versions wrote it
    resumed.calibrate(state)
    assert len(resumed.meter.sequences) == 8


class Paced:
    """As slow as it is said to be."""

    def contestants(self) -> dict[str, None]:
        return {"hf-generate": None, "hf-prompt-lookup": None}

    def seconds(self, prompt_tokens: int, new_tokens: int) -> float:
        return 0.25 * prompt_tokens + 0.5 * new_tokens


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (1200.0, (["hf-generate", "hf-prompt-lookup"], 380)),  # 200 s for each of two runs of three
        (108.0, (["hf-generate", "hf-prompt-lookup"], 16)),
        (107.0, (["hf-generate"], 51)),
        (1.0, (["hf-generate"], 16)),
    ],
)
def test_where_time_is_short_transformers_is_measured_without_its_prompt_lookup(
    seconds: float, expected: tuple[list[str], int]
) -> None:
    assert _affordable_hf(cast(HFBaseline, Paced()), 40, seconds) == expected


class SlowEvaluator(PlantedEvaluator):
    """Says that every prompt took it `seconds`."""

    seconds = 10.0

    def measure(self, cascade: Cascade, rival: Rival | None = None) -> Evaluation:
        result = super().measure(cascade, rival)
        return replace(result, wall_s=self.seconds * len(result.per_prompt))

    def compare(self, cascades: Mapping[str, Cascade], seconds: float) -> dict[str, Evaluation]:
        return {name: super(SlowEvaluator, self).measure(cascade) for name, cascade in cascades.items()}


@pytest.mark.parametrize("budget_s,number", [(60.0, [3]), (3600.0, range(4, 20))])
def test_a_slow_model_has_fewer_finalists_and_the_same_ones_again(budget_s: float, number: Sequence[int]) -> None:
    storage = InMemoryStorage()

    def concluded() -> dict[str, float]:
        world = SlowEvaluator(3)
        study = SearchStudy(storage, "test", Objectives())
        loop = SearchLoop(study, world, Clock(budget_s))
        conclusion = search_cascade(loop, PipelineOptions(num_trials=12))
        assert conclusion.best is not None
        return {name: best.evaluation.speedup for name, best in conclusion.finalists.items()}

    finalists = concluded()
    assert {"joint", "prompt-lookup"} <= set(finalists)
    assert len(finalists) in number
    assert concluded() == finalists


def test_a_search_goes_on_with_the_effort_that_it_began_with(tmp_path: Path, loaded: LoadedModel) -> None:  # noqa: F811
    sizes = {"num_prompts": 12, "new_tokens_per_prompt": 64}
    profile = search(tmp_path, loaded, budget_minutes=0.001, **sizes)
    assert profile.measurement is not None and profile.measurement.new_tokens_per_prompt == 16
    again = search(tmp_path, loaded, budget_minutes=0.2, **sizes)
    assert again.measurement is not None and again.measurement.new_tokens_per_prompt == 16


def test_without_a_limit_of_time_everything_is_measured(tmp_path: Path, loaded: LoadedModel) -> None:  # noqa: F811
    sizes = {"num_prompts": 3, "new_tokens_per_prompt": 24}
    profile = search(tmp_path, loaded, budget_minutes=None, num_trials=2, free_drafts=False, **sizes)
    assert profile.measurement is not None and profile.measurement.new_tokens_per_prompt == 24
